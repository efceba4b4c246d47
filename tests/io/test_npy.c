/* io/npy.c: the bytes that numpy.save writes, round trips, both orders of elements, and files that
 * are wrong. Hostile files are in tests/corpus/npy; what NumPy itself says of our files is in
 * tests/consumers. */
#include "core/impl.h"
#include "tests/io/scratch.h"
#include "tests/support/alloc.h"

/* Writes a file of this version with this header (padded to `padded` bytes) and data. */
static void put_npy(const char *path, int major, const char *text, size_t padded, const void *data,
                    size_t bytes) {
    char file[4096] = "\x93NUMPY";
    size_t width = major == 1 ? 2 : 4, n = strlen(text), at = 8;
    if (padded < n) padded = n;
    file[6] = (char)major;
    for (size_t i = 0; i < width; i++) file[at++] = (char)(padded >> 8 * i);
    memset(file + at, ' ', padded);
    memcpy(file + at, text, n);
    at += padded;
    if (bytes) memcpy(file + at, data, bytes);
    put_bytes(path, file, at + bytes);
}

#define DICT(type, fortran, shape)                                                                 \
    "{'descr': '" type "', 'fortran_order': " fortran ", 'shape': " shape ", }"

static void writes_the_bytes_of_numpy(test *t) {
    static const struct {
        bb_dtype dtype;
        bb_shape shape;
        const char *dict;
    } cases[] = {
        {BB_F64, {2, {2, 3}}, DICT("<f8", "False", "(2, 3)")},
        {BB_F32, {0, {0}}, DICT("<f4", "False", "()")},
        {BB_F16, {1, {3}}, DICT("<f2", "False", "(3,)")},
        {BB_BF16, {1, {12345}}, DICT("<V2", "False", "(12345,)")},
        {BB_I64, {3, {1, 0, 4}}, DICT("<i8", "False", "(1, 0, 4)")},
        {BB_I32, {1, {1}}, DICT("<i4", "False", "(1,)")},
        {BB_U8, {2, {5, 1}}, DICT("|u1", "False", "(5, 1)")},
        {BB_BOOL, {8, {1, 1, 1, 1, 1, 1, 1, 2}}, DICT("|b1", "False", "(1, 1, 1, 1, 1, 1, 1, 2)")},
    };
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    for (int i = 0; i < COUNT(cases); i++) {
        char expected[129] = "\x93NUMPY\x01\0\x76", got[129] = "";
        bb_tensor *x = bb_zeros(ctx, cases[i].dtype, cases[i].shape);
        size_t bytes = (size_t)bb_count(x) * bb_dtype_bytes(cases[i].dtype);
        CHECK_INT(t, bb_npy_save(ctx, scratch_path(&s, "x.npy"), x, NULL), BB_OK);
        memset(expected + 10, ' ', 117);
        memcpy(expected + 10, cases[i].dict, strlen(cases[i].dict));
        expected[127] = '\n';
        long n = get_bytes(s.path, got, 128);
        CHECK_MSG(t, n == 128 && memcmp(got, expected, 128) == 0, "%s: got %s", cases[i].dict,
                  got + 10);
        struct stat info;
        CHECK(t, stat(s.path, &info) == 0 && (size_t)info.st_size == 128 + bytes);
    }
    CHECK_OK(t, ctx);
    scratch_close(&s);
    bb_close(ctx);
}

static void comes_back(test *t) {
    static const bb_shape shapes[] = {
        {0, {0}}, {1, {0}}, {1, {3}}, {3, {2, 0, 4}}, {8, {1, 2, 1, 2, 1, 1, 3, 1}}};
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    for (int i = 0; i < 5 * BB_DTYPE_COUNT; i++) {
        bb_dtype dtype = (bb_dtype)(i % BB_DTYPE_COUNT);
        bb_tensor *x = bb_empty(ctx, dtype, shapes[i / BB_DTYPE_COUNT]);
        unsigned char bytes[96], got[96];
        size_t n = (size_t)bb_count(x) * bb_dtype_bytes(dtype);
        for (size_t k = 0; k < sizeof bytes; k++)
            bytes[k] = (unsigned char)(dtype == BB_BOOL ? k % 2 : 31 * k + (size_t)i);
        bb_write(x, bytes, n);
        bb_npy_save(ctx, scratch_path(&s, "x.npy"), x, NULL);
        bb_tensor *back = bb_npy_load(ctx, s.path, BB_CPU);
        bb_shape expected = bb_shape_of(x), shape = bb_shape_of(back);
        CHECK(t, back && bb_dtype_of(back) == dtype && bb_shape_equal(&shape, &expected));
        CHECK(t, bb_read(back, got, n) == BB_OK && memcmp(got, bytes, n) == 0);
    }
    CHECK_OK(t, ctx);
    scratch_close(&s);
    bb_close(ctx);
}

/* A view is written as it reads. */
static void writes_views(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    bb_tensor *x = bb_arange(ctx, BB_F32, 0, 12, 1);
    x = bb_slice(bb_transpose(bb_reshape(x, BB_SHAPE(3, 4)), 0, 1), 0, 1, 4, 2);
    bb_npy_save(ctx, scratch_path(&s, "x.npy"), x, NULL);
    double got[6];
    bb_read_f64(bb_npy_load(ctx, s.path, BB_CPU), got, 6);
    static const double expected[] = {1, 5, 9, 3, 7, 11};
    for (int i = 0; i < 6; i++) CHECK_NEAR(t, got[i], expected[i], 0);
    CHECK_OK(t, ctx);
    scratch_close(&s);
    bb_close(ctx);
}

/* Column-major elements, headers of odd length, each version, quotes and spaces as Python has them.
 */
static void reads_what_numpy_may_write(test *t) {
    static const double column[] = {1, 4, 2, 5, 3, 6}, row[] = {1, 2, 3, 4, 5, 6};
    static const char *const order[] = {"'fortran_order': True", "'fortran_order':False"};
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    for (int major = 1; major <= 3; major++)
        for (int fortran = 0; fortran < 2; fortran++) {
            char text[128];
            snprintf(text, sizeof text, "{\"shape\" : ( 2L,\t3 ,),%s , 'descr':'<f8'}\n",
                     order[!fortran]);
            put_npy(scratch_path(&s, "x.npy"), major, text, 61, fortran ? column : row,
                    sizeof column);
            double got[6] = {0};
            bb_tensor *x = bb_npy_load(ctx, s.path, BB_CPU);
            CHECK_INT(t, bb_size(x, 0), 2);
            bb_read_f64(x, got, 6);
            CHECK_OK(t, ctx);
            for (int i = 0; i < 6; i++) CHECK_NEAR(t, got[i], row[i], 0);
        }
    static const float cube[] = {0, 6, 3, 9, 1, 7, 4, 10, 2, 8, 5, 11}; /* (2, 2, 3) */
    put_npy(scratch_path(&s, "x.npy"), 1, DICT("<f4", "True", "(2, 2, 3)"), 0, cube, sizeof cube);
    double got[12] = {0};
    bb_read_f64(bb_npy_load(ctx, s.path, BB_CPU), got, 12);
    for (int i = 0; i < 12; i++) CHECK_NEAR(t, got[i], i, 0);
    put_npy(scratch_path(&s, "x.npy"), 1, DICT("<f4", "True", "(2, 0)"), 0, cube, 0);
    CHECK_INT(t, bb_count(bb_npy_load(ctx, s.path, BB_CPU)), 0);
    CHECK_OK(t, ctx);
    scratch_close(&s);
    bb_close(ctx);
}

static void refuses(test *t) {
    static const struct {
        const char *text;
        size_t data;
        bb_status status;
        const char *part;
    } cases[] = {
        {DICT(">f4", "False", "(2,)"), 8, BB_ERR_UNSUPPORTED, "expected little-endian elements"},
        {DICT("|O", "False", "(2,)"), 8, BB_ERR_UNSUPPORTED,
         "expected numbers, never Python objects"},
        {DICT("<c8", "False", "(1,)"), 8, BB_ERR_UNSUPPORTED, "descr: expected <f8, <f4"},
        {DICT("<f4\\x00", "False", "(2,)"), 8, BB_ERR_UNSUPPORTED, "descr: expected one type"},
        {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", 8,
         BB_ERR_UNSUPPORTED, "descr: expected one type for all elements"},
        {DICT("<f4", "0", "(2,)"), 8, BB_ERR_FORMAT, "fortran_order: expected True or False"},
        {DICT("<f4", "False", "2"), 8, BB_ERR_FORMAT, "shape: expected a tuple"},
        {DICT("<f4", "False", "(2)"), 8, BB_ERR_FORMAT, "shape: expected (N,)"},
        {DICT("<f4", "False", "(-2,)"), 8, BB_ERR_FORMAT, "shape: expected a size >= 0, got '-2,)"},
        {DICT("<f4", "False", "(2 2)"), 8, BB_ERR_FORMAT, "shape: expected ',' or ')'"},
        {DICT("<f4", "False", "(,)"), 4, BB_ERR_FORMAT, "shape: expected a size >= 0"},
        {DICT("<f4", "False", "(2,,)"), 8, BB_ERR_FORMAT, "shape: expected a size >= 0"},
        {DICT("<f4", "False", "(9223372036854775808,)"), 8, BB_ERR_FORMAT, "a size below 2^63"},
        {DICT("<f4", "False", "(1,1,1,1,1,1,1,1,1)"), 4, BB_ERR_UNSUPPORTED, "at most 8 axes"},
        /* The product wraps to 0, then to the size of the data. */
        {DICT("<f4", "False", "(4294967296, 4294967296)"), 0, BB_ERR_FORMAT,
         "more than there can be"},
        {DICT("<f4", "False", "(4611686018427387906,)"), 8, BB_ERR_FORMAT,
         "more than there can be"},
        {DICT("<f4", "False", "(2,)"), 7, BB_ERR_FORMAT,
         "expected (2,) of f32, got 7 bytes of data"},
        {DICT("<f4", "False", "(2,)"), 9, BB_ERR_FORMAT,
         "expected (2,) of f32, got 9 bytes of data"},
        {"{'descr': '<f4', 'fortran_order': False}", 4, BB_ERR_FORMAT,
         "descr, fortran_order and shape"},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}", 4, BB_ERR_FORMAT,
         "each once, got ''descr'"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (), 'x': 1}", 4, BB_ERR_FORMAT,
         "each once, got ''x'"},
        {"{'descr' '<f4'}", 4, BB_ERR_FORMAT, "descr: expected ':'"},
        {"{'descr': '<f4' 'fortran_order': False}", 4, BB_ERR_FORMAT, "dict: expected ',' or '}'"},
        {"{descr: '<f4'}", 4, BB_ERR_FORMAT, "dict: expected a key in quotes"},
        {"{'descr", 4, BB_ERR_FORMAT, "dict: expected a key in quotes"},
        {"", 4, BB_ERR_FORMAT, "dict: expected '{', got its end"},
        {DICT("<f4", "False", "()") "; import os", 4, BB_ERR_FORMAT,
         "dict: expected nothing after it"},
    };
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    static const char zeros[16] = "";
    size_t held = bb_memory_stats(ctx).bytes_in_use;
    for (int i = 0; i < COUNT(cases); i++) {
        put_npy(scratch_path(&s, "x.npy"), 1, cases[i].text, 0, zeros, cases[i].data);
        CHECK(t, bb_npy_load(ctx, s.path, BB_CPU) == NULL);
        CHECK_ERROR(t, ctx, cases[i].status, cases[i].part);
    }
    CHECK_INT(t, bb_memory_stats(ctx).bytes_in_use, held);
    scratch_close(&s);
    bb_close(ctx);
}

/* As NumPy reads them, in either order of elements. */
static void any_byte_but_0_is_true(test *t) {
    static const char *const orders[] = {DICT("|b1", "False", "(2, 3)"),
                                         DICT("|b1", "True", "(2, 3)")};
    static const unsigned char expected[2][6] = {{0, 1, 1, 0, 1, 0}, {0, 1, 1, 1, 0, 0}};
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    for (int i = 0; i < 2; i++) {
        unsigned char got[6] = {0};
        put_npy(scratch_path(&s, "x.npy"), 1, orders[i], 0, "\0\1\2\0\377\0", 6);
        CHECK_INT(t, bb_read(bb_npy_load(ctx, s.path, bb_get_device(ctx)), got, 6), BB_OK);
        CHECK(t, memcmp(got, expected[i], 6) == 0);
    }
    CHECK_OK(t, ctx);
    scratch_close(&s);
    bb_close(ctx);
}

static void refuses_the_beginning(test *t) {
    static const struct {
        const char *bytes;
        size_t n;
        bb_status status;
        const char *part;
    } cases[] = {
        {"", 0, BB_ERR_FORMAT, "expected a .npy file"},
        {"\x93NUMPY\1", 7, BB_ERR_FORMAT, "expected a .npy file"},
        {"\x93NUMPX\1\0\0\0", 10, BB_ERR_FORMAT, "expected a .npy file"},
        {"\x93NUMPY\1\0\1", 9, BB_ERR_FORMAT, "header: expected its length"},
        {"\x93NUMPY\2\0\1\0\0", 11, BB_ERR_FORMAT, "header: expected its length"},
        {"\x93NUMPY\0\0\0\0", 10, BB_ERR_UNSUPPORTED, "expected 1.0, 2.0 or 3.0, got 0.0"},
        {"\x93NUMPY\4\0\0\0", 10, BB_ERR_UNSUPPORTED, "got 4.0"},
        {"\x93NUMPY\1\1\0\0", 10, BB_ERR_UNSUPPORTED, "got 1.1"},
        {"\x93NUMPY\1\0\3\0{}", 12, BB_ERR_FORMAT, "expected 3 bytes, got 2 before the end"},
        {"\x93NUMPY\2\0\xff\xff\xff\xff{}", 14, BB_ERR_FORMAT, "expected 4294967295 bytes, got 2"},
    };
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    for (int i = 0; i < COUNT(cases); i++) {
        put_bytes(scratch_path(&s, "x.npy"), cases[i].bytes, cases[i].n);
        CHECK(t, bb_npy_load(ctx, s.path, BB_CPU) == NULL);
        CHECK_ERROR(t, ctx, cases[i].status, cases[i].part);
    }
    CHECK(t, bb_npy_load(ctx, scratch_path(&s, "none.npy"), BB_CPU) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_IO, "cannot open");
    CHECK_INT(t, bb_npy_save(ctx, s.path, NULL, NULL), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected a tensor, got NULL");
    scratch_close(&s);
    bb_close(ctx);
}

/* Column-major files need no second copy. */
static void memory_is_bounded(test *t) {
    enum { ROWS = 500, COLUMNS = 3000 };
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    char *bytes = calloc(1, 90 + ROWS * COLUMNS);
    memcpy(bytes, "\x93NUMPY\1\0\x50\0", 10);
    memset(bytes + 10, ' ', 80);
    memcpy(bytes + 10, DICT("|u1", "True", "(500, 3000)"),
           strlen(DICT("|u1", "True", "(500, 3000)")));
    size_t n = 90 + ROWS * COLUMNS;
    put_bytes(scratch_path(&s, "x.npy"), bytes, n);
    size_t before = bb_memory_stats(ctx).bytes_held;
    CHECK(t, bb_npy_load(ctx, s.path, BB_CPU) != NULL);
    CHECK_OK(t, ctx);
    CHECK(t, bb_memory_stats(ctx).bytes_peak - before <= 2 * n);
    free(bytes);
    scratch_close(&s);
    bb_close(ctx);
}

static void keeps_the_old_file(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    put_bytes(scratch_path(&s, "x.npy"), "old", 3);
    bb_tensor *x = bb_zeros(ctx, BB_F32, BB_SHAPE(100));
    for (int n = 1; n <= 4; n++) {
        fault f;
        fault_init(&f, n, ENOSPC, 0);
        CHECK(t, bb_npy_save(ctx, s.path, x, &f.calls) == BB_ERR_IO);
        CHECK_ERROR(t, ctx, BB_ERR_IO, "");
        CHECK(t, holds(s.path, "old"));
        CHECK_INT(t, scratch_count(&s), 1);
    }
    scratch_close(&s);
    bb_close(ctx);
}

static void save_and_load(bb_context *ctx) {
    scratch s = scratch_open();
    bb_tensor *x = bb_transpose(bb_full(ctx, BB_F32, BB_SHAPE(3, 5), 1), 0, 1);
    bb_npy_save(ctx, scratch_path(&s, "x.npy"), x, NULL);
    if (bb_error(ctx) == BB_OK) bb_npy_load(ctx, s.path, BB_CPU);
    scratch_close(&s);
}
static void survives_no_memory(test *t) { alloc_failure_loop(t, save_and_load); }

static const test_row rows[] = {
    {"writes_the_bytes_of_numpy", writes_the_bytes_of_numpy},
    {"comes_back", comes_back},
    {"writes_views", writes_views},
    {"reads_what_numpy_may_write", reads_what_numpy_may_write},
    {"refuses", refuses},
    {"any_byte_but_0_is_true", any_byte_but_0_is_true},
    {"refuses_the_beginning", refuses_the_beginning},
    {"memory_is_bounded", memory_is_bounded},
    {"keeps_the_old_file", keeps_the_old_file},
    {"survives_no_memory", survives_no_memory},
};
TEST_MAIN(rows)
