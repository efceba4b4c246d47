/* silu against x / (1 + exp(-x)), and what it does far out. */
#include "ops/ops.h"
#include "tests/support/cases.h"

static void reference(const op_case *c, const double *const *in, const bb_shape *out_shape,
                      double *out) {
    (void)c;
    int64_t n = 0;
    bb_shape_count(out_shape, &n);
    for (int64_t i = 0; i < n; i++) out[i] = in[0][i] / (1 + exp(-in[0][i]));
}

static const op_case cases[] = {
    {.name = "matrix", .in = {{.shape = {2, {5, 7}}}}, .n_in = 1},
    {.name = "scalar", .in = {{.shape = {0, {0}}}}, .n_in = 1},
    {.name = "nothing", .in = {{.shape = {2, {3, 0}}}}, .n_in = 1},
    {.name = "one", .in = {{.shape = {1, {1}}}}, .n_in = 1},
    {.name = "a chunk and one",
     .in = {{.shape = {1, {1025}}}},
     .n_in = 1,
     .no_second = true,
     .why = "slow"},
    {.name = "two pieces",
     .in = {{.shape = {3, {2, 91, 91}}}},
     .n_in = 1,
     .no_second = true,
     .why = "slow"},
};

static void test_cases(test *t) { run_op_cases(t, "silu", cases, COUNT(cases), reference); }

static void test_far_out(test *t) {
    static const float x[] = {-INFINITY, -200, -100, -88, -20, 0, 20, 200, INFINITY, NAN};
    float y[10], dx[10];
    bb_context *ctx = test_open();
    bb_t in = bb_set_requires_grad(bb_from(ctx, BB_F32, BB_SHAPE(10), x), true);
    bb_t out = bb_silu(in);
    bb_read(out, y, sizeof y);
    bb_backward(bb_sum_all(bb_narrow(out, 0, 1, 7)), NULL);
    bb_read(bb_grad(in), dx, sizeof dx);
    CHECK_OK(t, ctx);
    for (int i = 1; i < 8; i++) {
        double e = exp(-(double)x[i]), s = 1 / (1 + e);
        CHECK_NEAR(t, y[i], x[i] * s, 1e-6 * fabs(x[i] * s) + 1e-36);
        CHECK_NEAR(t, dx[i], s * (1 + x[i] * (1 - s)), 1e-6);
    }
    CHECK(t, y[8] == INFINITY);
    CHECK(t, isnan(y[9]));
    bb_close(ctx);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    CHECK(t, bb_silu(bb_zeros(ctx, BB_I64, BB_SHAPE(2))) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "silu: input: expected a float dtype, got i64");
    CHECK(t, bb_silu(NULL) == NULL);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"cases", test_cases}, {"far_out", test_far_out}, {"errors", test_errors}};
TEST_MAIN(rows)
