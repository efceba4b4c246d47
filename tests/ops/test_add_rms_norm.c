/* AddRMSNorm: values and gradients against an independent reference on both paths, its second
 * output, gradients through both, errors. Large shapes on the GPU: tests/cuda/test_rms_norm.c. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/cases.h"

#define SH(...) BB_SHAPE(__VA_ARGS__)
#define COUNT(table) ((int)(sizeof(table) / sizeof((table)[0])))

static void reference(const op_case *c, const double *const *in, const bb_shape *shape,
                      double *out) {
    const bb_rms_norm_attrs *a = c->attrs;
    const bb_shape *scale = &c->in[2].shape;
    const int64_t n = shape->size[shape->rank - 1];
    int64_t count = 1, index[BB_MAX_RANK];
    for (int i = 0; i < shape->rank; i++) count *= shape->size[i];
    for (int64_t row = 0; row < count; row += n) {
        double squares = 0;
        for (int64_t i = row; i < row + n; i++)
            squares += (in[0][i] + in[1][i]) * (in[0][i] + in[1][i]);
        for (int64_t i = row; i < row + n; i++) {
            ref_unravel(shape, i, index);
            out[i] = (in[0][i] + in[1][i]) / sqrt(squares / (double)n + (a ? a->eps : 1e-5)) *
                     in[2][ref_broadcast_offset(scale, shape, index)];
        }
    }
}

/* input and residual are rounded values, but the low dtypes round their sum once more. */
#define CASE(label, x, s)                                                                          \
    {                                                                                              \
        .name = label, .in = {{.shape = x}, {.shape = x}, {.shape = s}}, .n_in = 3,                \
        .tolerance = 8, .no_second = true, .why = "test_both_gradients"                            \
    }
#define CANCELS(label, x, s)                                                                       \
    { .name = label, .in = {{.shape = x}, {.shape = x}, {.shape = s}}, .n_in = 3, .tolerance = 400 }

static void test_values(test *t) {
    static const bb_rms_norm_attrs eps = {{1, {-1}}, 0.3, BB_ROUND_AUTO},
                                   late = {{1, {-1}}, 1e-5, BB_SCALE_THEN_ROUND};
    const op_case cases[] = {
        CASE("vector", SH(5), SH(5)),
        CASE("matrix", SH(4, 6), SH(6)),
        CASE("16-byte rows", SH(3, 32), SH(32)),
        CASE("(B,H,T,D) x (H,1,D)", SH(2, 3, 2, 8), SH(3, 1, 8)),
        CASE("scalar scale", SH(3, 5), BB_SCALAR),
        CANCELS("rows of one element", SH(4, 1), SH(1)),
        {.name = "eps 0.3",
         .attrs = &eps,
         .in = {{.shape = SH(3, 8)}, {.shape = SH(3, 8)}, {.shape = SH(8)}},
         .n_in = 3,
         .tolerance = 8},
        {.name = "round last",
         .attrs = &late,
         .in = {{.shape = SH(3, 8)}, {.shape = SH(3, 8)}, {.shape = SH(8)}},
         .n_in = 3,
         .tolerance = 8},
    };
    run_op_cases(t, "AddRMSNorm", cases, COUNT(cases), reference);
}

/* Both results are those of the two ops, to the bit, in each pair of dtypes. */
static void test_is_its_parts(test *t) {
    static const bb_dtype types[] = {BB_F32, BB_F16, BB_BF16};
    bb_context *ctx = test_open();
    for (int i = 0; i < 9; i++) {
        const bb_dtype x = types[i / 3], s = types[i % 3];
        bb_t input = bb_cast(bb_randn(ctx, BB_F32, SH(5, 40)), x);
        bb_t residual = bb_cast(bb_randn(ctx, BB_F32, SH(5, 40)), x), sum = NULL;
        bb_t scale = bb_cast(bb_randn(ctx, BB_F32, SH(40)), s);
        bb_t got = bb_add_rms_norm(input, residual, scale, 1e-5, &sum);
        bb_t expected_sum = bb_add(input, residual);
        bb_t expected = bb_rms_norm(expected_sum, scale, 1e-5);
        double a[200], b[200];
        CHECK(t, got && bb_dtype_of(got) == bb_dtype_of(expected) && bb_dtype_of(sum) == x);
        bb_read_f64(got, a, 200);
        bb_read_f64(expected, b, 200);
        CHECK_MSG(t, memcmp(a, b, sizeof a) == 0, "output, %s x %s", bb_dtype_name(x),
                  bb_dtype_name(s));
        bb_read_f64(sum, a, 200);
        bb_read_f64(expected_sum, b, 200);
        CHECK_MSG(t, memcmp(a, b, sizeof a) == 0, "sum, %s", bb_dtype_name(x));
        CHECK_OK(t, ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

static bb_tensor *both(void *user, bb_tensor *const *in, int n) {
    bb_t sum = NULL;
    (void)user, (void)n;
    bb_t output = bb_add_rms_norm(in[0], in[1], in[2], 1e-5, &sum);
    return bb_add(output, bb_mul(bb_square(sum), in[3]));
}

/* Gradients of first and second order through both results at once. */
static void test_both_gradients(test *t) {
    bb_context *ctx = test_open();
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        bb_set_path(ctx, (bb_path)path);
        bb_tensor *in[4];
        for (int i = 0; i < 4; i++)
            in[i] = bb_set_requires_grad(bb_randn(ctx, BB_F64, i == 2 ? SH(6) : SH(3, 6)), true);
        bb_gradcheck_report report;
        CHECK_INT(t, bb_gradcheck(ctx, both, NULL, in, 4, NULL, &report), BB_OK);
        CHECK_MSG(t, report.passed, "path %d: first order", path);
        CHECK_INT(t, bb_gradgradcheck(ctx, both, NULL, in, 4, NULL, &report), BB_OK);
        CHECK_MSG(t, report.passed, "path %d: second order", path);
        CHECK_OK(t, ctx);
        bb_clear_error(ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

/* Of a sum that nobody uses but the norm, and of one that is used alone. */
static void test_one_result_used(test *t) {
    bb_context *ctx = test_open();
    double got[24], expected[24];
    for (int which = 0; which < 2; which++) {
        bb_tensor *in[3], *grad[2];
        for (int i = 0; i < 3; i++)
            in[i] = bb_set_requires_grad(bb_randn(ctx, BB_F64, i == 2 ? SH(8) : SH(3, 8)), true);
        bb_t cotangent = bb_randn(ctx, BB_F64, SH(3, 8));
        for (int fused = 0; fused < 2; fused++) {
            bb_t sum = NULL, output = NULL;
            if (fused) {
                output = bb_add_rms_norm(in[0], in[1], in[2], 1e-5, &sum);
            } else {
                sum = bb_add(in[0], in[1]);
                output = bb_rms_norm(sum, in[2], 1e-5);
            }
            bb_backward(which ? sum : output, cotangent);
            for (int i = 0; i < 2; i++) grad[i] = bb_grad(in[i]);
            bb_read_f64(grad[0], fused ? got : expected, 24);
            if (!CHECK_OK(t, ctx)) break;
            double other[24];
            bb_read_f64(grad[1], other, 24);
            CHECK(t, memcmp(other, fused ? got : expected, sizeof other) == 0);
            for (int i = 0; i < 3; i++) bb_zero_grad(in[i]);
        }
        for (int i = 0; i < 24; i++) CHECK_NEAR(t, got[i], expected[i], 1e-12);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

static void test_empty(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_set_requires_grad(bb_zeros(ctx, BB_BF16, SH(0, 8)), true), sum = NULL;
    bb_t scale = bb_set_requires_grad(bb_ones(ctx, BB_F32, SH(8)), true);
    bb_t y = bb_add_rms_norm(x, x, scale, 1e-5, &sum);
    CHECK_INT(t, bb_count(y) + bb_count(sum), 0);
    bb_backward(y, bb_zeros_like(y));
    double value[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    bb_read_f64(bb_grad(scale), value, 8);
    for (int k = 0; k < 8; k++) CHECK_NEAR(t, value[k], 0, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_ones(ctx, BB_F32, SH(2, 3)), scale = bb_ones(ctx, BB_F32, SH(3)), sum = NULL;
    CHECK(t, !bb_add_rms_norm(x, bb_ones(ctx, BB_F32, SH(3)), scale, 1e-5, &sum) && !sum);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "AddRMSNorm: residual: expected shape (2, 3), got (3,)");
    CHECK(t, !bb_add_rms_norm(x, bb_ones(ctx, BB_BF16, SH(2, 3)), scale, 1e-5, &sum));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "AddRMSNorm: residual: expected dtype f32, got bf16");
    CHECK(t, !bb_add_rms_norm(x, x, bb_ones(ctx, BB_F32, SH(4)), 1e-5, &sum));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "AddRMSNorm: scale: expected a shape that broadcasts with input (2, 3), got (4,)");
    CHECK(t, !bb_add_rms_norm(x, x, scale, -1, &sum));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "AddRMSNorm: eps: expected a number >= 0, got -1");
    CHECK(t, !bb_add_rms_norm(x, NULL, scale, 1e-5, &sum) && !sum);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "AddRMSNorm: residual");
    CHECK(t, bb_add_rms_norm(x, x, scale, 1e-5, &sum) && sum);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"values", test_values},
    {"is its parts", test_is_its_parts},
    {"both gradients", test_both_gradients},
    {"one result used", test_one_result_used},
    {"empty", test_empty},
    {"errors", test_errors},
};
TEST_MAIN(rows)
