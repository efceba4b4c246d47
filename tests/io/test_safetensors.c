/* io/safetensors*.c: round trips, the exact bytes of a file, and files that are wrong in every way
 * we know of. */
#include "tests/io/scratch.h"
#include "tests/support/alloc.h"

#include "core/impl.h"

/* Writes header length, header and `data` bytes of 1. */
static void put_file(const char *path, uint64_t length, const char *header, size_t header_bytes,
                     size_t data) {
    size_t bytes = 8 + header_bytes + data;
    char *file = malloc(bytes);
    for (int i = 0; i < 8; i++) file[i] = (char)(length >> 8 * i);
    memcpy(file + 8, header, header_bytes);
    memset(file + 8 + header_bytes, 1, data);
    put_bytes(path, file, bytes);
    free(file);
}

static bb_safetensors *open_header(bb_context *ctx, scratch *s, const char *header, size_t data) {
    put_file(scratch_path(s, "f"), strlen(header), header, strlen(header), data);
    return bb_safetensors_open(ctx, s->path);
}

static void writes_the_exact_bytes(test *t) {
    static const char expected[] =
        "\x88\0\0\0\0\0\0\0"
        "{\"__metadata__\":{\"k\":\"v\"},\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":["
        "0,8]},"
        "\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[8,9]}}      "
        "\0\0\x80\x3f\0\0\0\xc0\x07";
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    bb_named rows[] = {{"a", bb_from_f64(ctx, BB_U8, BB_SCALAR, (const double[]){7})},
                       {"w", bb_from_f64(ctx, BB_F32, BB_SHAPE(2), (const double[]){1, -2})}};
    const bb_text metadata = {"k", "v"};
    char got[400];
    CHECK(t, bb_safetensors_save(ctx, scratch_path(&s, "f"), rows, 2, &metadata, 1, NULL) == BB_OK);
    CHECK_OK(t, ctx);
    long n = get_bytes(s.path, got, sizeof got);
    CHECK_INT(t, n, sizeof expected - 1);
    CHECK(t, n == (long)sizeof expected - 1 && memcmp(got, expected, (size_t)n) == 0);
    scratch_close(&s);
    bb_close(ctx);
}

static void comes_back(test *t) {
    static const bb_shape shapes[] = {
        {0, {0}}, {1, {0}}, {1, {3}}, {3, {2, 0, 4}}, {8, {1, 2, 1, 2, 1, 1, 3, 1}}};
    enum { SHAPES = 5, COUNT = SHAPES * BB_DTYPE_COUNT };
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    bb_named rows[COUNT];
    char names[COUNT][32];
    for (int i = 0; i < COUNT; i++) {
        bb_shape shape = shapes[i / BB_DTYPE_COUNT];
        bb_dtype dtype = (bb_dtype)(i % BB_DTYPE_COUNT);
        bb_tensor *x = bb_empty(ctx, dtype, shape);
        unsigned char bytes[96];
        for (size_t k = 0; k < sizeof bytes; k++)
            bytes[k] = (unsigned char)(dtype == BB_BOOL ? k % 2 : 31 * k + (size_t)i);
        bb_write(x, bytes, (size_t)bb_count(x) * bb_dtype_bytes(dtype));
        snprintf(names[i], sizeof names[i], "t\"%d.\xC3\xA9", i);
        rows[i] = (bb_named){names[i], x};
    }
    CHECK(t, bb_safetensors_save(ctx, scratch_path(&s, "f"), rows, COUNT, NULL, 0, NULL) == BB_OK);
    bb_safetensors *file = bb_safetensors_open(ctx, s.path);
    CHECK(t, file && bb_safetensors_count(file) == COUNT);
    CHECK_OK(t, ctx);
    size_t last = 8;
    for (int i = 0; file && i < COUNT; i++) {
        size_t element = bb_dtype_bytes(bb_safetensors_at(file, i).dtype);
        CHECK(t, element <= last); /* larger elements first */
        last = element;
        bb_tensor *back = bb_safetensors_load(file, names[i], BB_CPU);
        bb_shape shape = bb_shape_of(back), expected = bb_shape_of(rows[i].tensor);
        CHECK(t, back && bb_dtype_of(back) == bb_dtype_of(rows[i].tensor) &&
                     bb_shape_equal(&shape, &expected));
        size_t bytes = (size_t)bb_count(back) * bb_dtype_bytes(bb_dtype_of(back));
        CHECK(t, bytes == 0 || memcmp(bb_data(back), bb_data(rows[i].tensor), bytes) == 0);
    }
    CHECK(t, bb_safetensors_load(file, "nobody", BB_CPU) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_FORMAT,
                "tensor 'nobody': expected to find it in the file, got no such tensor");
    bb_safetensors_close(file);
    scratch_close(&s);
    bb_close(ctx);
}

static void writes_views_as_they_read(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    const double values[] = {1, 2, 3, 4, 5, 6};
    bb_tensor *x = bb_from_f64(ctx, BB_F64, BB_SHAPE(2, 3), values);
    bb_shape turned = BB_SHAPE(3, 2);
    bb_named row = {"x", bb_tensor_view(x, &turned, (const int64_t[]){1, 3}, 0)};
    CHECK(t, bb_safetensors_save(ctx, scratch_path(&s, "f"), &row, 1, NULL, 0, NULL) == BB_OK);
    bb_safetensors *file = bb_safetensors_open(ctx, s.path);
    double got[6] = {0};
    bb_read_f64(bb_safetensors_load(file, "x", BB_CPU), got, 6);
    CHECK(t,
          got[0] == 1 && got[1] == 4 && got[2] == 2 && got[3] == 5 && got[4] == 3 && got[5] == 6);
    bb_tensor *target =
        bb_from_f64(ctx, BB_F64, BB_SHAPE(2, 3), (const double[]){0, 0, 0, 0, 0, 0});
    row.tensor = bb_tensor_view(target, &turned, (const int64_t[]){1, 3}, 0);
    CHECK(t, bb_safetensors_restore(file, &row, 1, true) == BB_OK);
    bb_read_f64(target, got, 6);
    CHECK(t, memcmp(got, values, sizeof got) == 0);
    CHECK_OK(t, ctx);
    bb_safetensors_close(file);
    scratch_close(&s);
    bb_close(ctx);
}

static void accepts_what_the_reference_does(test *t) {
    static const struct {
        const char *header;
        size_t data;
        int64_t count;
    } rows[] = {
        {"{}", 0, 0},
        {"{}   ", 0, 0},
        {"{\"__metadata__\":{}}", 0, 0},
        /* in any order, an odd header, unknown keys, empty tensors between others */
        {"{\"b\":{\"shape\":[1],\"dtype\":\"F32\",\"data_offsets\":[8,12],\"more\":[{}]},"
         "\"a\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]}}",
         12, 2},
        {"{\"e\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,4]},\"a\":{\"dtype\":\"F32\","
         "\"shape\":[],\"data_offsets\":[0,4]},"
         "\"d\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[0,0]}}",
         4, 3},
        {"{\"\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, 1},
    };
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        bb_safetensors *file = open_header(ctx, &s, rows[i].header, rows[i].data);
        CHECK_MSG(t, file && bb_safetensors_count(file) == rows[i].count, "%s: %s", rows[i].header,
                  bb_error_message(ctx));
        for (int64_t k = 0; file && k < rows[i].count; k++) /* also from odd addresses */
            CHECK(t, bb_safetensors_load(file, bb_safetensors_at(file, k).name, BB_CPU) != NULL);
        bb_safetensors_close(file);
        bb_clear_error(ctx);
    }
    scratch_close(&s);
    bb_close(ctx);
}

#define ENTRY(name, dtype, shape, offsets)                                                         \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void refuses_hostile_headers(test *t) {
    static const struct {
        const char *header;
        size_t data;
        const char *expected;
        bb_status status;
    } rows[] = {
        {"[]", 0, "expected to begin with '{'", BB_ERR_FORMAT},
        {" {}", 0, "expected to begin with '{'", BB_ERR_FORMAT},
        {"{", 0, "expected a key in quotes", BB_ERR_FORMAT},
        {"{}x", 0, "expected the end of the text", BB_ERR_FORMAT},
        {"{}", 1, "expected 0 bytes of data, got 1", BB_ERR_FORMAT},
        {"{\"\xff\":1}", 0, "expected valid UTF-8", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[1]", "[0,1]") "," ENTRY("a", "U8", "[1]", "[1,2]") "}", 2,
         "each key once", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[1]", "[0,1]") "," ENTRY("\\u0061", "U8", "[1]", "[1,2]") "}", 2,
         "each key once", BB_ERR_FORMAT},
        {"{" ENTRY("a\\u0000b", "U8", "[1]", "[0,1]") "}", 1, "no zero characters", BB_ERR_FORMAT},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
         "each key once", BB_ERR_FORMAT},
        {"{\"a\":5}", 0, "tensor 'a': entry: expected an object, got '5'", BB_ERR_FORMAT},
        {"{\"a\":{}}", 0, "tensor 'a': dtype: expected a string, got nothing", BB_ERR_FORMAT},
        {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1,
         "shape: expected an array, got nothing", BB_ERR_FORMAT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1,
         "data_offsets: expected an array, got nothing", BB_ERR_FORMAT},
        {"{" ENTRY("a", "f32", "[1]", "[0,4]") "}", 4,
         "dtype: expected a dtype such as \"F32\", got '\"f32\"'", BB_ERR_FORMAT},
        {"{\"a\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype: expected a dtype",
         BB_ERR_FORMAT},
        {"{" ENTRY("a", "I16", "[1]", "[0,2]") "}", 2, "unsupported dtype I16", BB_ERR_UNSUPPORTED},
        {"{" ENTRY("a", "F8_E4M3", "[1]", "[0,1]") "}", 1, "unsupported dtype F8_E4M3",
         BB_ERR_UNSUPPORTED},
        {"{" ENTRY("a", "U8", "1", "[0,1]") "}", 1, "shape: expected an array, got '1'",
         BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "{}", "[0,1]") "}", 1, "shape: expected an array, got '{}'",
         BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[-1]", "[0,1]") "}", 1,
         "shape: expected sizes >= 0 below 2^63, got '-1'", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[1.0]", "[0,1]") "}", 1, "shape: expected sizes", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[1e0]", "[0,1]") "}", 1, "shape: expected sizes", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[\"1\"]", "[0,1]") "}", 1, "shape: expected sizes", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[9223372036854775808]", "[0,1]") "}", 1, "shape: expected sizes",
         BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[18446744073709551617]", "[0,1]") "}", 1, "shape: expected sizes",
         BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, "at most 8 axes",
         BB_ERR_UNSUPPORTED},
        /* products that wrap to exactly zero, or to the right size */
        {"{" ENTRY("a", "U8", "[4294967296,4294967296]", "[0,0]") "}", 0,
         "a size in bytes below 2^63", BB_ERR_FORMAT},
        {"{" ENTRY("a", "F32", "[4611686018427387905]", "[0,4]") "}", 4,
         "a size in bytes below 2^63", BB_ERR_FORMAT},
        {"{" ENTRY("a", "F64", "[2305843009213693952]", "[0,0]") "}", 0,
         "a size in bytes below 2^63", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[3037000500,3037000500,0]", "[0,0]") "}", 0,
         "a size in bytes below 2^63", BB_ERR_FORMAT},
        {"{" ENTRY("a", "F32", "[2]", "[0,4]") "}", 4,
         "as many bytes as dtype and shape make, got '[0,4]'", BB_ERR_FORMAT},
        {"{" ENTRY("a", "F32", "[1]", "[0,8]") "}", 8, "as many bytes as dtype and shape make",
         BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[1]", "[0,2]") "}", 1, "two offsets within the file's data",
         BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[1]", "[9999999999,10000000000]") "}", 1,
         "two offsets within the file's data", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[1]", "[1,0]") "}", 1, "begin <= end", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[1]", "[-1,0]") "}", 1, "two offsets", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[1]", "[0]") "}", 1, "[begin, end]", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[1]", "[0,1,1]") "}", 1, "two offsets", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[1]", "[]") "}", 1, "[begin, end]", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[1]", "7") "}", 1, "[begin, end]", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[1]", "{\"a\":0,\"b\":1}") "}", 1, "two offsets", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[2]", "[0,2]") "," ENTRY("b", "U8", "[2]", "[1,3]") "}", 3,
         "tensor 'b': data_offsets: expected to begin at 2, got 1 (an overlap)", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[2]", "[0,2]") "," ENTRY("b", "U8", "[2]", "[0,2]") "}", 2,
         "(an overlap)", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[2]", "[0,2]") "," ENTRY("b", "U8", "[2]", "[3,5]") "}", 5,
         "tensor 'b': data_offsets: expected to begin at 2, got 3 (a hole)", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[2]", "[1,3]") "}", 3, "expected to begin at 0, got 1 (a hole)",
         BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[0]", "[1,1]") "," ENTRY("b", "U8", "[2]", "[0,2]") "}", 2,
         "(an overlap)", BB_ERR_FORMAT},
        {"{" ENTRY("a", "U8", "[2]", "[0,2]") "}", 3, "expected 2 bytes of data, got 3",
         BB_ERR_FORMAT},
        {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__: expected strings", BB_ERR_FORMAT},
        {"{\"__metadata__\":{\"a\":\"x\\u0000\"}}", 0, "__metadata__: expected strings",
         BB_ERR_FORMAT},
        {"{\"__metadata__\":[\"a\"]}", 0, "__metadata__: expected", BB_ERR_FORMAT},
        {"{\"__metadata__\":null}", 0, "__metadata__: expected an object, got 'null'",
         BB_ERR_FORMAT},
    };
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    size_t held = bb_memory_stats(ctx).bytes_held;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        bb_safetensors *file = open_header(ctx, &s, rows[i].header, rows[i].data);
        CHECK_MSG(t, file == NULL, "accepted: %s", rows[i].header);
        bb_safetensors_close(file);
        CHECK(t, strstr(bb_error_message(ctx), s.path) == bb_error_message(ctx));
        CHECK_ERROR(t, ctx, rows[i].status, rows[i].expected);
        CHECK_INT(t, bb_memory_stats(ctx).bytes_held, held);
    }
    scratch_close(&s);
    bb_close(ctx);
}

static void refuses_hostile_lengths(test *t) {
    static const char header[] = "{" ENTRY("a", "U8", "[4]", "[0,4]") "}";
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    const char *path = scratch_path(&s, "f");
    for (size_t n = 0; n < 8; n++) {
        put_bytes(path, "\x02\0\0\0\0\0\0\0", n);
        CHECK(t, bb_safetensors_open(ctx, path) == NULL);
        CHECK_ERROR(t, ctx, BB_ERR_FORMAT, "at least 8 bytes");
    }
    static const struct {
        uint64_t length;
        const char *expected;
    } rows[] = {{0, "got no header"},
                {100000001, "expected at most 100000000 bytes"},
                {UINT64_MAX, "expected at most 100000000 bytes"},
                {UINT64_MAX - 7, "expected at most 100000000 bytes"},
                {(uint64_t)1 << 63, "expected at most 100000000 bytes"},
                {100000000, "before the end of the file"},
                {sizeof header + 4, "before the end of the file"},
                {sizeof header, "expected the end of the text"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        put_file(path, rows[i].length, header, sizeof header - 1, 4);
        CHECK(t, bb_safetensors_open(ctx, path) == NULL);
        CHECK_ERROR(t, ctx, BB_ERR_FORMAT, rows[i].expected);
    }
    /* Cut off anywhere, it is never taken for whole. */
    char whole[256];
    put_file(path, sizeof header - 1, header, sizeof header - 1, 4);
    long n = get_bytes(path, whole, sizeof whole);
    for (long cut = 0; cut < n; cut++) {
        put_bytes(path, whole, (size_t)cut);
        CHECK(t, bb_safetensors_open(ctx, path) == NULL);
        CHECK_ERROR(t, ctx, BB_ERR_FORMAT, path);
    }
    /* Nor does any changed byte of the header crash us. */
    for (long at = 0; at < n - 4; at++)
        for (int bit = 0; bit < 8; bit++) {
            whole[at] = (char)(whole[at] ^ 1 << bit);
            put_bytes(path, whole, (size_t)n);
            bb_safetensors_close(bb_safetensors_open(ctx, path));
            bb_clear_error(ctx);
            whole[at] = (char)(whole[at] ^ 1 << bit);
        }
    scratch_close(&s);
    bb_close(ctx);
}

/* Repeats `part` (one %d: a number of its own) between braces; opening it must take at most twice
 * the file and 1 MiB. */
static void check_memory_of(test *t, const char *before, const char *part, const char *after) {
    enum { ROOM = 6000000 };
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    char *header = malloc(ROOM + 200);
    size_t n = (size_t)snprintf(header, ROOM, "%s", before);
    for (int i = 1000; n < ROOM; i++) n += (size_t)snprintf(header + n, 100, part, i);
    n += (size_t)snprintf(header + n - 1, 100, "%s", after) - 1;
    put_file(scratch_path(&s, "f"), n, header, n, 0);
    size_t held = bb_memory_stats(ctx).bytes_held;
    bb_safetensors_close(bb_safetensors_open(ctx, s.path));
    size_t took = bb_memory_stats(ctx).bytes_peak - held;
    CHECK_MSG(t, took <= 2 * n + (1 << 20), "%s: %zu bytes for a file of %zu", part, took, n);
    CHECK_MSG(t,
              bb_error(ctx) == BB_OK || bb_error(ctx) == BB_ERR_FORMAT ||
                  bb_error(ctx) == BB_ERR_UNSUPPORTED,
              "%s", bb_error_message(ctx));
    free(header);
    scratch_close(&s);
    bb_close(ctx);
}

/* What is small in the file must not become large in memory, whether right or wrong. */
static void takes_little_memory(test *t) {
    check_memory_of(t, "{", "\"%x\":0,", "}");
    check_memory_of(t, "{", "\"%x\":{\"shape\":[0,0,0,0,0,0,0,0]},", "}");
    check_memory_of(t, "{\"__metadata__\":{", "\"%x\":\"\",", "}}");
    check_memory_of(t, "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,0],\"shape\":[", "%.0d0,",
                    "]}}");
    check_memory_of(t, "{",
                    "\"%x\":{\"dtype\":\"U8\",\"shape\":[0,0,0,0,0,0,0,0],\"data_offsets\":[0,0]},",
                    "}");
}

static void holds_many_tensors_in_little_memory(test *t) {
    enum { COUNT = 20000, ROOM = COUNT * 80 };
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    char *header = malloc(ROOM);
    size_t n = 0;
    header[n++] = '{';
    for (int i = 0; i < COUNT; i++) {
        int name = i * 7919 % COUNT;
        n += (size_t)snprintf(header + n, ROOM - n,
                              "\"%d\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[%d,%d]},",
                              name, COUNT - 1 - i, COUNT - i); /* backwards */
    }
    header[n - 1] = '}';
    put_file(scratch_path(&s, "f"), n, header, n, COUNT);
    size_t before = bb_memory_stats(ctx).bytes_held;
    bb_safetensors *file = bb_safetensors_open(ctx, s.path);
    CHECK(t, file && bb_safetensors_count(file) == COUNT);
    CHECK_OK(t, ctx);
    CHECK(t, bb_memory_stats(ctx).bytes_peak - before <= 2 * n + (1 << 20));
    bb_stored stored;
    CHECK(t,
          bb_safetensors_find(file, "19999", &stored) && bb_safetensors_find(file, "0", &stored));
    CHECK(t, stored.bytes == 1 && !bb_safetensors_find(file, "20000", &stored));
    bb_safetensors_close(file);
    free(header);
    scratch_close(&s);
    bb_close(ctx);
}

static void refuses_bools_that_are_none(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    char bytes[8 + 64 + 2];
    size_t n = (size_t)snprintf(bytes + 8, 64, "{" ENTRY("a", "BOOL", "[2]", "[0,2]") "}");
    memset(bytes, 0, 8);
    bytes[0] = (char)n;
    bytes[8 + n] = 1;
    bytes[8 + n + 1] = 2;
    put_bytes(scratch_path(&s, "f"), bytes, 8 + n + 2);
    bb_safetensors *file = bb_safetensors_open(ctx, s.path);
    CHECK(t, file != NULL && bb_safetensors_load(file, "a", BB_CPU) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_FORMAT, "bool bytes of 0 or 1");
    bb_safetensors_close(file);
    scratch_close(&s);
    bb_close(ctx);
}

static void refuses_wrong_saves(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    const char *path = scratch_path(&s, "f");
    bb_tensor *x = bb_from_f64(ctx, BB_F32, BB_SHAPE(1), (const double[]){1});
    bb_tensor *y = bb_from_f64(ctx, BB_F64, BB_SHAPE(1), (const double[]){1});
    bb_named same[] = {{"a", x}, {"b", x}, {"a", y}}, none = {"a", NULL},
             taken = {"__metadata__", x}, bad = {"\xff", x};
    bb_text twice[] = {{"k", "1"}, {"k", "2"}}, null = {"k", NULL};
    bb_safetensors_save(ctx, path, same, 3, NULL, 0, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected each name once, got 'a' twice");
    bb_safetensors_save(ctx, path, &none, 1, NULL, 0, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "got NULL in row 0");
    bb_safetensors_save(ctx, path, NULL, 1, NULL, 0, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "NULL");
    bb_safetensors_save(ctx, path, &taken, 1, NULL, 0, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "taken by the format");
    bb_safetensors_save(ctx, path, &bad, 1, NULL, 0, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "UTF-8");
    bb_safetensors_save(ctx, path, same, 1, twice, 2, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "each key once, got 'k' twice");
    bb_safetensors_save(ctx, path, same, 1, &null, 1, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected texts");
    bb_drop(x);
    bb_safetensors_save(ctx, path, same, 1, NULL, 0, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "dropped");
    CHECK_INT(t, scratch_count(&s), 0);
    scratch_close(&s);
    bb_close(ctx);
}

static void fails_at_each_step(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    const char *path = scratch_path(&s, "f");
    bb_named row = {"x", bb_from_f64(ctx, BB_F32, BB_SHAPE(2), (const double[]){1, 2})};
    for (int at = 1;; at++) {
        put_bytes(path, "old", 3);
        fault f;
        fault_init(&f, at, ENOSPC, 0);
        bb_status status = bb_safetensors_save(ctx, path, &row, 1, NULL, 0, &f.calls);
        CHECK_INT(t, scratch_count(&s), 1);
        CHECK(t, f.renamed || holds(path, "old"));
        if (!f.failed) {
            CHECK(t, status == BB_OK && at >= 6);
            break;
        }
        CHECK_ERROR(t, ctx, BB_ERR_IO, "No space left");
    }
    scratch_close(&s);
    bb_close(ctx);
}

static void save_and_load(bb_context *ctx) {
    char path[300];
    snprintf(path, sizeof path, "%s/scratch-alloc-safetensors", BOBBIN_BINARY_DIR);
    bb_named rows[] = {{"x", bb_from_f64(ctx, BB_F32, BB_SHAPE(2), (const double[]){1, 2})},
                       {"y", bb_from_f64(ctx, BB_I64, BB_SHAPE(2), (const double[]){1, 2})}};
    const bb_text metadata = {"k", "v"};
    bb_safetensors_save(ctx, path, rows, bb_error(ctx) ? 0 : 2, &metadata, 1, NULL);
    bb_safetensors *file = bb_safetensors_open(ctx, path);
    if (file) {
        bb_safetensors_load(file, "x", BB_CPU);
        bb_safetensors_restore(file, rows, 2, true);
    }
    bb_safetensors_close(file);
    remove(path);
}
static void survives_no_memory(test *t) { alloc_failure_loop(t, save_and_load); }

static const test_row rows[] = {
    {"writes_the_exact_bytes", writes_the_exact_bytes},
    {"comes_back", comes_back},
    {"writes_views_as_they_read", writes_views_as_they_read},
    {"accepts_what_the_reference_does", accepts_what_the_reference_does},
    {"refuses_hostile_headers", refuses_hostile_headers},
    {"refuses_hostile_lengths", refuses_hostile_lengths},
    {"takes_little_memory", takes_little_memory},
    {"holds_many_tensors_in_little_memory", holds_many_tensors_in_little_memory},
    {"refuses_bools_that_are_none", refuses_bools_that_are_none},
    {"refuses_wrong_saves", refuses_wrong_saves},
    {"fails_at_each_step", fails_at_each_step},
    {"survives_no_memory", survives_no_memory},
};
TEST_MAIN(rows)
