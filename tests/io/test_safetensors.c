/* io/safetensors*.c: round trips, the exact bytes of a file, what the reference accepts, writing
 * that fails. Files that are wrong are test_safetensors_hostile.c. */
#include "tests/io/safetensors_test.h"
#include "tests/support/alloc.h"

#include "core/impl.h"

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
    for (int i = 0; i < COUNT(rows); i++) {
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
    {"refuses_wrong_saves", refuses_wrong_saves},
    {"fails_at_each_step", fails_at_each_step},
    {"survives_no_memory", survives_no_memory},
};
TEST_MAIN(rows)
