/* Reductions of what a table of cases cannot say: NaN, ties, integers, gradients beside larger
 * ones, empty tensors, errors, memory that runs out. Values in general: test_reduce.c. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/alloc.h"

static void test_nan(test *t) {
    bb_context *ctx = test_open();
    double v[40], got[4];
    for (int d = BB_F64; d <= BB_BF16; d++) {
        for (int i = 0; i < 40; i++) v[i] = i % 7;
        v[5] = NAN, v[33] = NAN;
        bb_t x = bb_from_f64(ctx, (bb_dtype)d, BB_SHAPE(2, 20), v);
        bb_t max = bb_amax(x, BB_INTS(1), false), min = bb_amin(x, BB_INTS(1), false),
             columns = bb_amax(x, BB_INTS(0), false);
        bb_read_f64(max, got, 2);
        CHECK(t, isnan(got[0]) && isnan(got[1]));
        bb_read_f64(min, got, 2);
        CHECK(t, isnan(got[0]) && isnan(got[1]));
        CHECK(t, isnan(bb_item(bb_select(columns, 0, 5))) &&
                     isnan(bb_item(bb_select(columns, 0, 13))));
        CHECK_NEAR(t, bb_item(bb_select(columns, 0, 6)), 6, 0);
        bb_read_f64(bb_argmax(x, 1, false), got, 2);
        CHECK_NEAR(t, got[0], 5, 0);
        CHECK_NEAR(t, got[1], 13, 0);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_ties(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_set_requires_grad(
        bb_from_f64(ctx, BB_F64, BB_SHAPE(4), (const double[]){3, 1, 3, 3}), true);
    double g[4];
    bb_backward(bb_mul_scalar(bb_amax(x, BB_INTS(0), false), 6), NULL);
    bb_read_f64(bb_grad(x), g, 4);
    CHECK(t, g[0] == 2 && g[1] == 0 && g[2] == 2 && g[3] == 2);
    CHECK_NEAR(t, bb_item(bb_argmax(x, 0, false)), 0, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* More of them than f16 can count. */
static void test_many_ties(test *t) {
    enum { N = 70000 };
    bb_context *ctx = test_open();
    bb_t x = bb_set_requires_grad(bb_ones(ctx, BB_F16, BB_SHAPE(N)), true);
    bb_backward(bb_amax(x, BB_INTS(0), false), bb_scalar(ctx, BB_F16, 1000));
    CHECK_NEAR(t, bb_item(bb_select(bb_grad(x), 0, N - 1)), 1000.0 / N, 1e-5);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_integers(test *t) {
    bb_context *ctx = test_open();
    const int32_t v[6] = {1, -2, 3, 2000000000, 2000000000, 6};
    bb_t x = bb_from(ctx, BB_I32, BB_SHAPE(2, 3), v);
    CHECK_INT(t, bb_dtype_of(bb_sum_all(x)), BB_I64);
    CHECK_NEAR(t, bb_item(bb_sum_all(x)), 4000000008.0, 0);
    CHECK_NEAR(t, bb_item(bb_amin(x, (bb_ints){.n = 0}, false)), -2, 0);
    CHECK_INT(t, bb_dtype_of(bb_amax(x, BB_INTS(0), false)), BB_I32);
    CHECK_NEAR(t, bb_item(bb_select(bb_cumsum(bb_reshape(x, BB_SHAPE(6)), 0), 0, 5)), 4000000008.0,
               0);
    bb_t big = bb_from(ctx, BB_I64, BB_SHAPE(2), (const int64_t[]){INT64_MAX, 1});
    int64_t wrapped = 0;
    bb_read(bb_sum_all(big), &wrapped, 8);
    CHECK(t, wrapped == INT64_MIN);
    bb_t flags = bb_from(ctx, BB_BOOL, BB_SHAPE(3), (const uint8_t[]){1, 0, 1});
    CHECK_NEAR(t, bb_item(bb_sum_all(flags)), 2, 0);
    CHECK_INT(t, bb_dtype_of(bb_amax(flags, BB_INTS(0), false)), BB_BOOL);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_empty_and_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t none = bb_zeros(ctx, BB_F32, BB_SHAPE(0, 3)), x = bb_zeros(ctx, BB_F32, BB_SHAPE(2, 3));
    CHECK_NEAR(t, bb_item(bb_sum_all(none)), 0, 0);
    CHECK(t, isnan(bb_item(bb_mean_all(none))));
    CHECK_INT(t, bb_count(bb_amax(none, BB_INTS(1), false)), 0);
    CHECK_OK(t, ctx);
    CHECK(t, bb_amax(none, BB_INTS(0), false) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "amax: input: expected at least one element to choose from, got shape (0, 3)");
    CHECK(t, bb_argmax(none, 0, false) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "argmax: input: expected at least one element");
    CHECK(t, bb_sum(x, BB_INTS(2), false) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "sum: axes: expected -2 to 1, got 2");
    CHECK(t, bb_sum(x, BB_INTS(0, -2), false) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "sum: axes: expected different axes, got axis 0 twice");
    CHECK(t, bb_sum(x, BB_INTS(0, 1, 0), false) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "sum: axes: expected at most 2, got 3");
    CHECK(t, bb_sum(x, (bb_ints){.n = 1 << 20}, false) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "sum: axes: expected at most 2, got 1048576");
    CHECK(t, bb_sum(x, (bb_ints){.n = -1}, false) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "sum: axes: expected a list of 0 or more, got -1");
    CHECK(t, bb_mean_all(bb_cast(x, BB_I32)) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "mean: input: expected a float dtype, got i32");
    CHECK(t, bb_cumsum(x, -3) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "cumsum: axis: expected -2 to 1, got -3");
    CHECK(t, bb_sum_to(x, BB_SHAPE(3, 3)) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "sum_to: shape: expected one that broadcasts to (2, 3), got (3, 3)");
    CHECK(t, bb_sum_all(NULL) == NULL);
    CHECK_OK(t, ctx);
    bb_t to = bb_sum_to(bb_ones(ctx, BB_F32, BB_SHAPE(4, 2, 3)), BB_SHAPE(2, 1));
    double v[2] = {0};
    bb_read_f64(to, v, 2);
    CHECK(t, bb_rank(to) == 2 && v[0] == 12 && v[1] == 12);
    CHECK(t, bb_sum_to(x, bb_shape_of(x)) == x);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Long enough for partial sums in scratch. */
static void out_of_memory(bb_context *ctx) {
    bb_t x = bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(300, 400)), true);
    bb_t y = bb_add(bb_sum_all(bb_cumsum(bb_amax(x, BB_INTS(1), false), 0)),
                    bb_mean_all(bb_sum(x, BB_INTS(0), false)));
    bb_backward(bb_add(y, bb_sum_squares(x)), NULL);
}
static void test_memory(test *t) { alloc_failure_loop(t, out_of_memory); }

/* The gradient of a late element is the sum of the few cotangents after it, to their own last
 * digit, however large those before it are. */
static void test_cumsum_gradient_keeps_small_rests(test *t) {
    static const double seed[] = {4096, 300, -70, 1, 0.0078125},
                        rests[] = {4327, 231, -69, 1.0078125, 0.0078125};
    bb_context *ctx = test_open();
    double got[10];
    bb_t x = bb_set_requires_grad(bb_zeros(ctx, BB_BF16, BB_SHAPE(2, 5)), true);
    bb_t row = bb_from_f64(ctx, BB_BF16, BB_SHAPE(5), seed);
    bb_backward(bb_cumsum(x, -1), bb_expand(row, BB_SHAPE(2, 5)));
    CHECK_OK(t, ctx);
    bb_read_f64(bb_grad(x), got, 10);
    for (int i = 0; i < 10; i++) CHECK_NEAR(t, got[i], rests[i % 5], 0x1p-8 * fabs(rests[i % 5]));
    bb_close(ctx);
}

static const test_row rows[] = {
    {"nan", test_nan},
    {"ties", test_ties},
    {"many_ties", test_many_ties},
    {"integers", test_integers},
    {"cumsum_gradient_keeps_small_rests", test_cumsum_gradient_keeps_small_rests},
    {"empty_and_errors", test_empty_and_errors},
    {"memory", test_memory},
};
TEST_MAIN(rows)
