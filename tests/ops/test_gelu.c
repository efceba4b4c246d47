/* gelu in both forms against libm. */
#include "ops/ops.h"
#include "tests/support/cases.h"

static double gelu(double x, int form) {
    if (form == BB_GELU_ERF) return x * erfc(-x / sqrt(2)) / 2;
    return x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x))) / 2;
}

static void reference(const op_case *c, const double *const *in, const bb_shape *out_shape,
                      double *out) {
    const bb_gelu_attrs *a = c->attrs;
    int64_t n = 0;
    bb_shape_count(out_shape, &n);
    for (int64_t i = 0; i < n; i++) out[i] = gelu(in[0][i], a ? a->approximate : BB_GELU_ERF);
}

static const bb_gelu_attrs by_tanh = {BB_GELU_TANH};
static const op_case cases[] = {
    {.name = "erf", .in = {{.shape = {2, {5, 7}}}}, .n_in = 1},
    {.name = "tanh", .attrs = &by_tanh, .in = {{.shape = {2, {5, 7}}}}, .n_in = 1},
    {.name = "scalar", .in = {{.shape = {0, {0}}}}, .n_in = 1},
    {.name = "nothing", .attrs = &by_tanh, .in = {{.shape = {2, {3, 0}}}}, .n_in = 1},
    {.name = "a chunk and one",
     .in = {{.shape = {1, {1025}}}},
     .n_in = 1,
     .no_second = true,
     .why = "slow"},
    {.name = "two pieces",
     .attrs = &by_tanh,
     .in = {{.shape = {3, {2, 91, 91}}}},
     .n_in = 1,
     .no_second = true,
     .why = "slow"},
};

static void test_cases(test *t) { run_op_cases(t, "gelu", cases, COUNT(cases), reference); }

static void test_far_out(test *t) {
    static const float x[] = {-1e19f, -200, -14, -6, 0, 6, 14, 200, 1e19f};
    for (int form = 0; form < 2; form++) {
        float y[9], dx[9];
        bb_context *ctx = test_open();
        bb_t in = bb_set_requires_grad(bb_from(ctx, BB_F32, BB_SHAPE(9), x), true);
        bb_t out = bb_gelu(in, (bb_gelu_form)form);
        bb_read(out, y, sizeof y);
        bb_backward(bb_sum_all(out), NULL);
        bb_read(bb_grad(in), dx, sizeof dx);
        CHECK_OK(t, ctx);
        for (int i = 0; i < 9; i++) {
            CHECK_NEAR(t, y[i], x[i] > 0 ? x[i] : 0, 1e-6);
            CHECK_NEAR(t, dx[i], x[i] > 0 ? 1 : x[i] < 0 ? 0 : 0.5, 1e-6);
        }
        bb_close(ctx);
    }
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    CHECK(t, bb_gelu(bb_zeros(ctx, BB_BOOL, BB_SHAPE(2)), BB_GELU_ERF) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "gelu: input: expected a float dtype, got bool");
    bb_close(ctx);
}

static const test_row rows[] = {
    {"cases", test_cases}, {"far_out", test_far_out}, {"errors", test_errors}};
TEST_MAIN(rows)
