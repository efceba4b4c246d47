/* core/print.c: what a person sees. */
#include "tests/support/test.h"

static const char *printed(bb_tensor *x) {
    static char text[2000];
    FILE *file = tmpfile();
    if (!file) return "no file";
    bb_print(x, file);
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

static void test_small(test *t) {
    bb_context *ctx = test_open();
    CHECK_TEXT(t, printed(bb_scalar(ctx, BB_F32, 1.5)), "f32() 1.5000\n");
    CHECK_TEXT(t, printed(bb_arange(ctx, BB_I64, 0, 5, 1)), "i64(5,) [0, 1, 2, 3, 4]\n");
    CHECK_TEXT(t, printed(bb_from_f64(ctx, BB_BOOL, BB_SHAPE(2), (double[]){1, 0})),
               "bool(2,) [ true, false]\n");
    CHECK_TEXT(t, printed(bb_zeros(ctx, BB_F32, BB_SHAPE(0))), "f32(0,) []\n");
    CHECK_TEXT(t, printed(bb_zeros(ctx, BB_F32, BB_SHAPE(2, 0))), "f32(2, 0)\n[[],\n []]\n");
    CHECK_TEXT(t, printed(NULL), "NULL\n");
    bb_tensor *x = bb_from_f64(ctx, BB_F64, BB_SHAPE(2, 2), (double[]){1, -2.25, 10.5, 0});
    CHECK_TEXT(t, printed(bb_set_requires_grad(x, true)),
               "f64(2, 2) with gradient\n"
               "[[ 1.0000, -2.2500],\n"
               " [10.5000,  0.0000]]\n");
    CHECK_TEXT(t, printed(bb_transpose(bb_detach(x), 0, 1)),
               "f64(2, 2)\n"
               "[[ 1.0000, 10.5000],\n"
               " [-2.2500,  0.0000]]\n");
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_wide_range(test *t) {
    bb_context *ctx = test_open();
    CHECK_TEXT(t,
               printed(bb_from_f64(ctx, BB_F32, BB_SHAPE(4), (double[]){1e-9, NAN, -INFINITY, 3})),
               "f32(4,) [1.0000e-09,        nan,       -inf, 3.0000e+00]\n");
    CHECK_TEXT(t, printed(bb_from_f64(ctx, BB_F32, BB_SHAPE(1), (double[]){2e9})),
               "f32(1,) [2.0000e+09]\n");
    bb_close(ctx);
}

/* A double does not hold them all. */
static void test_integers(test *t) {
    bb_context *ctx = test_open();
    int64_t values[3] = {9007199254740993, INT64_MIN, 7};
    CHECK_TEXT(t, printed(bb_from(ctx, BB_I64, BB_SHAPE(3), values)),
               "i64(3,) [    9007199254740993, -9223372036854775808,                    7]\n");
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* An expanded tensor may have more elements than there are bytes to print them from. */
static void test_too_many(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_expand(bb_ones(ctx, BB_U8, BB_SHAPE(1)), BB_SHAPE((int64_t)1 << 62));
    CHECK(t, strstr(printed(x), "(no values: bb_print: tensor: expected") != NULL);
    CHECK_ERROR(t, ctx, BB_ERR_MEMORY, "got 4611686018427387904");
    bb_close(ctx);
}

static void test_abridged(test *t) {
    bb_context *ctx = test_open();
    CHECK_TEXT(t, printed(bb_arange(ctx, BB_F32, 0, 6, 1)),
               "f32(6,) [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]\n");
    CHECK_TEXT(t, printed(bb_arange(ctx, BB_F32, 0, 20, 1)),
               "f32(20,) [ 0.0,  1.0,  2.0, ..., 17.0, 18.0, 19.0]\n");
    CHECK_TEXT(t, printed(bb_reshape(bb_arange(ctx, BB_I32, 0, 200, 1), BB_SHAPE(10, 20))),
               "i32(10, 20)\n"
               "[[  0,   1,   2, ...,  17,  18,  19],\n"
               " [ 20,  21,  22, ...,  37,  38,  39],\n"
               " [ 40,  41,  42, ...,  57,  58,  59],\n"
               " ...,\n"
               " [140, 141, 142, ..., 157, 158, 159],\n"
               " [160, 161, 162, ..., 177, 178, 179],\n"
               " [180, 181, 182, ..., 197, 198, 199]]\n");
    CHECK_TEXT(t, printed(bb_reshape(bb_arange(ctx, BB_BF16, 0, 12, 1), BB_SHAPE(2, 3, 2))),
               "bf16(2, 3, 2)\n"
               "[[[ 0.0,  1.0],\n"
               "  [ 2.0,  3.0],\n"
               "  [ 4.0,  5.0]],\n"
               "\n"
               " [[ 6.0,  7.0],\n"
               "  [ 8.0,  9.0],\n"
               "  [10.0, 11.0]]]\n");
    bb_close(ctx);
}

static void test_no_values(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_scalar(ctx, BB_F32, 1);
    bb_drop(x);
    CHECK(t, strstr(printed(x), "(no values: tensor made in step 1 has been dropped"));
    bb_clear_error(ctx);
    bb_print(x, NULL);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"small", test_small},       {"wide range", test_wide_range}, {"integers", test_integers},
    {"too many", test_too_many}, {"abridged", test_abridged},     {"no values", test_no_values},
};
TEST_MAIN(rows)
