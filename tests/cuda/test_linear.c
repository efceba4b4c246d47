/* linear's own kernels on the device: the bias under a product, and column sums of as many rows as
 * need one, two and three passes. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/test.h"

/* dbias of `rows` rows of dy, whose element (r, c) is a small integer: sums are exact in f32. */
static void check_sums(test *t, bb_context *ctx, bb_dtype dtype, int64_t rows, int64_t width,
                       bool turned) {
    double *dy = calloc((size_t)(rows * width), sizeof *dy), got[70], expected[70] = {0};
    if (!CHECK(t, dy != NULL)) return;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < width; c++) {
            const double value = (double)((r * 5 + c * 3) % 7 - 3 + (r == rows - 1));
            dy[turned ? c * rows + r : r * width + c] = value;
            expected[c] += value;
        }
    bb_t x = bb_zeros(ctx, dtype, BB_SHAPE(rows, 1)), w = bb_zeros(ctx, dtype, BB_SHAPE(width, 1)),
         bias = bb_set_requires_grad(bb_zeros(ctx, dtype, BB_SHAPE(width)), true);
    bb_t g = bb_from_f64(ctx, dtype, turned ? BB_SHAPE(width, rows) : BB_SHAPE(rows, width), dy);
    bb_backward(bb_linear(x, w, bias), turned ? bb_transpose(g, 0, 1) : g);
    bb_read_f64(bb_grad(bias), got, width);
    CHECK_OK(t, ctx);
    for (int64_t c = 0; c < width; c++)
        CHECK_NEAR(t, got[c], expected[c], dtype == BB_BF16 ? fabs(expected[c]) / 256 : 0);
    free(dy);
    bb_set_requires_grad(bias, false);
    bb_end_step(ctx);
}

static void test_bias_sums(test *t) {
    static const int64_t rows[] = {1, 8, 255, 256, 257, 513, 65537};
    bb_context *ctx = test_open();
    for (int i = 0; i < 7; i++) {
        check_sums(t, ctx, BB_F32, rows[i], i < 6 ? 33 : 1, false);
        check_sums(t, ctx, BB_F64, rows[i], i < 6 ? 31 : 1, true);
        if (i < 6) check_sums(t, ctx, BB_BF16, rows[i], 64, i % 2);
    }
    bb_close(ctx);
}

/* The product and the bias are rounded once, together: 4100 + (2 - 2^-11) is 4100 in f16, whose
 * next number is 4104; a product rounded to 2 first would give a tie and 4104. */
static void test_one_rounding(test *t) {
    bb_context *ctx = test_open();
    const double ones[] = {1, 1}, weight[] = {2, -0x1p-11}, bias = 4100;
    bb_t x = bb_from_f64(ctx, BB_F16, BB_SHAPE(1, 2), ones),
         w = bb_from_f64(ctx, BB_F16, BB_SHAPE(1, 2), weight),
         b = bb_from_f64(ctx, BB_F16, BB_SHAPE(1), &bias);
    CHECK_NEAR(t, bb_item(bb_linear(x, w, b)), 4100, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {{"bias_sums", test_bias_sums}, {"one_rounding", test_one_rounding}};
TEST_MAIN(rows)
