/* io/safetensors.c: files that are wrong in every way we know of, and large ones in little memory.
 * Those that are right are test_safetensors.c. */
#include "tests/io/safetensors_test.h"

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
    for (int i = 0; i < COUNT(rows); i++) {
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
    for (int i = 0; i < COUNT(rows); i++) {
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

/* As PyTorch and NumPy read such a file, and bb_from and bb_write such values. */
static void any_byte_but_0_is_true(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    char bytes[8 + 64 + 2];
    size_t n = (size_t)snprintf(bytes + 8, 64, "{" ENTRY("a", "BOOL", "[2]", "[0,2]") "}");
    memset(bytes, 0, 8);
    bytes[0] = (char)n;
    bytes[8 + n] = 1;
    bytes[8 + n + 1] = (char)0xFE;
    put_bytes(scratch_path(&s, "f"), bytes, 8 + n + 2);
    bb_safetensors *file = bb_safetensors_open(ctx, s.path);
    unsigned char got[2] = {0};
    CHECK_INT(t, bb_read(bb_safetensors_load(file, "a", bb_get_device(ctx)), got, 2), BB_OK);
    CHECK(t, got[0] == 1 && got[1] == 1);
    bb_named named = {"a", bb_full(ctx, BB_BOOL, BB_SHAPE(2), 0)};
    CHECK_INT(t, bb_safetensors_restore(file, &named, 1, true), BB_OK);
    CHECK_INT(t, bb_read(named.tensor, got, 2), BB_OK);
    CHECK(t, got[0] == 1 && got[1] == 1);
    CHECK_OK(t, ctx);
    bb_safetensors_close(file);
    scratch_close(&s);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"refuses_hostile_headers", refuses_hostile_headers},
    {"refuses_hostile_lengths", refuses_hostile_lengths},
    {"takes_little_memory", takes_little_memory},
    {"holds_many_tensors_in_little_memory", holds_many_tensors_in_little_memory},
    {"any_byte_but_0_is_true", any_byte_but_0_is_true},
};
TEST_MAIN(rows)
