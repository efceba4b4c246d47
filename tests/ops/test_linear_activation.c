/* LinearActivation: linear and activation in f64, and the bits of the two ops; few rows and
 * many, empty sizes, layouts, gradients of both outputs. */
#include "tests/support/alloc.h"
#include "tests/support/cases.h"

static const bb_dtype types[] = {BB_F32, BB_F16, BB_BF16, BB_F64};
enum { KINDS = BB_LINEAR_TANH + 1 };

static bb_t activation_of(bb_t sum, int kind) {
    return kind == BB_LINEAR_RELU      ? bb_relu(sum)
           : kind == BB_LINEAR_GELU    ? bb_gelu(sum, BB_GELU_TANH)
           : kind == BB_LINEAR_SILU    ? bb_silu(sum)
           : kind == BB_LINEAR_SIGMOID ? bb_sigmoid(sum)
                                       : bb_tanh(sum);
}

static void reference(const op_case *c, const double *const *in, const bb_shape *out_shape,
                      double *out) {
    const int64_t width = c->in[1].shape.size[0], depth = c->in[1].shape.size[1];
    int64_t n = 0;
    bb_shape_count(out_shape, &n);
    for (int64_t i = 0; i < n; i++) {
        const double *x = in[0] + i / width * depth, *w = in[1] + i % width * depth;
        double s = in[2] ? in[2][i % width] : 0;
        for (int64_t k = 0; k < depth; k++) s += x[k] * w[k];
        out[i] = s / 2 * (1 + tanh(sqrt(2 / M_PI) * (s + 0.044715 * s * s * s)));
    }
}

#define LINEAR(x, out, in_, missing)                                                               \
    .in = {{.shape = x}, {.shape = {2, {out, in_}}}, {.shape = {1, {out}}, .absent = missing}},    \
    .n_in = 3
#define S(...) __VA_ARGS__
static const op_case cases[] = {
    {.name = "vector", LINEAR(S({1, {4}}), 3, 4, false)},
    {.name = "matrix", LINEAR(S({2, {5, 4}}), 3, 4, false)},
    {.name = "three axes, no bias", LINEAR(S({3, {2, 3, 4}}), 5, 4, true)},
    {.name = "no rows", LINEAR(S({2, {0, 4}}), 3, 4, false)},
    {.name = "no depth", LINEAR(S({2, {3, 0}}), 2, 0, false)},
    {.name = "no width", LINEAR(S({2, {3, 4}}), 0, 4, false)},
};
static void test_cases(test *t) {
    run_op_cases(t, "LinearActivation", cases, COUNT(cases), reference);
}

static double apart(bb_t a, bb_t b) {
    return bb_item(
        bb_amax(bb_abs(bb_sub(bb_cast(a, BB_F64), bb_cast(b, BB_F64))), (bb_ints){0}, 0));
}

/* Many rows, narrow ones, of several kinds: the sum is linear's, the output that of the sum. */
static void test_many_rows(test *t) {
    bb_context *ctx = test_open();
    for (int k = 0; k < 4 * KINDS; k++) {
        bb_dtype dtype = types[k % 4];
        bb_linear_activation_kind kind = (bb_linear_activation_kind)(k / 4);
        int64_t rows = k % 3 ? 259 : 600;
        bb_t x = bb_cast(bb_randn(ctx, BB_F32, SH(rows, 3, 8)), dtype);
        bb_t w = bb_cast(bb_randn(ctx, BB_F32, SH(600, 8)), dtype);
        bb_t b = k % 2 ? NULL : bb_cast(bb_randn(ctx, BB_F32, SH(600)), dtype), sum;
        if (k % 5 == 4) x = bb_transpose(bb_contiguous(bb_transpose(x, 0, 2)), 0, 2);
        bb_t y = bb_linear_activation(x, w, b, kind, &sum), z = bb_linear(x, w, b);
        CHECK_MSG(t, apart(sum, z) == 0, "case %d: sums %g apart", k, apart(sum, z));
        CHECK_MSG(t, apart(y, activation_of(sum, kind)) == 0, "case %d: not of its sum", k);
        CHECK_OK(t, ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

static void test_both_outputs(test *t) {
    bb_context *ctx = test_open();
    bb_t w = bb_randn(ctx, BB_F32, SH(5, 4)), b = bb_randn(ctx, BB_F32, SH(5)), sum;
    bb_t one = bb_set_requires_grad(bb_randn(ctx, BB_F32, SH(3, 4)), true);
    bb_t two = bb_set_requires_grad(bb_mul_scalar(bb_detach(one), 1), true);
    bb_t y = bb_linear_activation(one, w, b, BB_LINEAR_SILU, &sum), z = bb_linear(two, w, b);
    bb_backward(bb_sum_all(bb_add(bb_square(y), sum)), NULL);
    bb_backward(bb_sum_all(bb_add(bb_square(bb_silu(z)), z)), NULL);
    CHECK(t, apart(bb_grad(one), bb_grad(two)) < 1e-5);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void short_of_memory(bb_context *ctx) {
    bb_t x = bb_randn(ctx, BB_F16, SH(300, 4)), w = bb_randn(ctx, BB_F16, SH(600, 4));
    bb_linear_activation(x, w, bb_randn(ctx, BB_F16, SH(600)), BB_LINEAR_RELU, NULL);
}
static void test_allocation(test *t) { alloc_failure_loop(t, short_of_memory); }

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_zeros(ctx, BB_F32, SH(2, 3)), w = bb_zeros(ctx, BB_F32, SH(4, 3)), sum = x;
    CHECK(t, !bb_linear_activation(x, bb_zeros(ctx, BB_F32, SH(3, 4)), NULL, BB_LINEAR_RELU, &sum));
    CHECK(t, !sum);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "LinearActivation: weight: expected shape (out, 3), got (3, 4)");
    CHECK(t, !bb_linear_activation(x, w, NULL, (bb_linear_activation_kind)9, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "activation: expected one of relu|gelu|silu|sigmoid|tanh, got number 9");
    bb_close(ctx);
}

static const test_row rows[] = {{"cases", test_cases},
                                {"many_rows", test_many_rows},
                                {"gradients of both outputs", test_both_outputs},
                                {"allocation", test_allocation},
                                {"errors", test_errors}};
TEST_MAIN(rows)
