/* AddRMSNorm: values and gradients against an independent reference on both paths, its second
 * output, gradients through both, errors. Large shapes on the GPU: tests/cuda/test_rms_norm.c. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/alloc.h"
#include "tests/support/cases.h"

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

/* Rows within a vector's lanes, beyond them, and beyond the CPU's tile of 1024. */
static const int64_t widths[] = {8, 77, 1100};
enum { ROWS = 5, MOST = ROWS * 1100 };

/* Both results are those of the two ops, to the bit, in each pair of dtypes. */
static void test_is_its_parts(test *t) {
    static const bb_dtype types[] = {BB_F32, BB_F16, BB_BF16};
    static double a[MOST], b[MOST];
    bb_context *ctx = test_open();
    for (int i = 0; i < 9 * COUNT(widths); i++) {
        const bb_dtype x = types[i / 3 % 3], s = types[i % 3];
        const int64_t n = widths[i / 9], count = ROWS * n;
        const size_t bytes = (size_t)count * sizeof *a;
        bb_t input = bb_cast(bb_randn(ctx, BB_F32, SH(ROWS, n)), x);
        bb_t residual = bb_cast(bb_randn(ctx, BB_F32, SH(ROWS, n)), x), sum = NULL;
        bb_t scale = bb_cast(bb_randn(ctx, BB_F32, SH(n)), s);
        bb_t got = bb_add_rms_norm(input, residual, scale, 1e-5, &sum);
        bb_t expected_sum = bb_add(input, residual);
        bb_t expected = bb_rms_norm(expected_sum, scale, 1e-5);
        CHECK(t, got && bb_dtype_of(got) == bb_dtype_of(expected) && bb_dtype_of(sum) == x);
        bb_read_f64(got, a, count);
        bb_read_f64(expected, b, count);
        CHECK_MSG(t, memcmp(a, b, bytes) == 0, "output, %s x %s, width %d", bb_dtype_name(x),
                  bb_dtype_name(s), (int)n);
        bb_read_f64(sum, a, count);
        bb_read_f64(expected_sum, b, count);
        CHECK_MSG(t, memcmp(a, b, bytes) == 0, "sum, %s, width %d", bb_dtype_name(x), (int)n);
        CHECK(t, bb_add_rms_norm(input, residual, scale, 1e-5, NULL)); /* nobody wants the sum */
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

/* What loss is made of: the norm alone, its sum alone, both. */
enum { USE_OUTPUT = 1, USE_SUM = 2 };

/* Gradients of the three inputs, one after the other, of the op or of its two parts. */
static void gradients(test *t, bb_tensor *const *in, bb_t cotangent, int use, bool parts,
                      double *got) {
    bb_context *ctx = bb_context_of(cotangent);
    bb_t sum = parts ? bb_add(in[0], in[1]) : NULL;
    bb_t output =
        parts ? bb_rms_norm(sum, in[2], 1e-5) : bb_add_rms_norm(in[0], in[1], in[2], 1e-5, &sum);
    bb_t loss = use == USE_OUTPUT ? output
                : use == USE_SUM  ? sum
                                  : bb_add(output, bb_mul_scalar(sum, 0.5));
    CHECK_INT(t, bb_backward(loss, cotangent), BB_OK);
    for (int i = 0; i < 3; i++) {
        const int64_t count = bb_count(in[i]);
        bb_t grad = bb_grad(in[i]);
        for (int64_t k = 0; k < count; k++) got[k] = 0;
        if (grad) bb_read_f64(grad, got, count);
        CHECK(t, grad || (i == 2 && use == USE_SUM));
        bb_zero_grad(in[i]);
        got += count;
    }
    CHECK_OK(t, ctx);
}

/* The gradients are those of the two ops, whichever of the results is used. */
static void test_gradients_of_its_parts(test *t) {
    static const struct {
        bb_dtype dtype;
        double bound;
    } types[] = {{BB_F64, 1e-12}, {BB_F32, 2e-5}, {BB_F16, 1e-2}, {BB_BF16, 6e-2}};
    static double got[2 * MOST + 1100], expected[2 * MOST + 1100];
    bb_context *ctx = test_open();
    for (int i = 0; i < 12 * COUNT(widths); i++) {
        const bb_dtype dtype = types[i % 4].dtype;
        const int use = 1 + i / 4 % 3;
        const int64_t n = widths[i / 12], count = (2 * ROWS + 1) * n;
        bb_tensor *in[3];
        for (int k = 0; k < 3; k++)
            in[k] = bb_set_requires_grad(
                bb_cast(bb_randn(ctx, BB_F32, k == 2 ? SH(n) : SH(ROWS, n)), dtype), true);
        bb_t cotangent = bb_cast(bb_randn(ctx, BB_F32, SH(ROWS, n)), dtype);
        gradients(t, in, cotangent, use, false, got);
        gradients(t, in, cotangent, use, true, expected);
        double worst = 0;
        for (int64_t k = 0; k < count; k++)
            worst = fmax(worst, fabs(got[k] - expected[k]) / (1 + fabs(expected[k])));
        CHECK_MSG(t, worst <= types[i % 4].bound, "%s, width %d, used %d: off by %g",
                  bb_dtype_name(dtype), (int)n, use, worst);
        CHECK_MSG(t, memcmp(got, got + ROWS * n, (size_t)(ROWS * n) * sizeof *got) == 0,
                  "%s: both summands have one gradient", bb_dtype_name(dtype));
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

/* On the CPU outputs of more than 16 MB are written around the caches. */
static void test_large_outputs(test *t) {
    enum { TALL = 2049, WIDE = 2051 };
    static const bb_dtype dtypes[] = {BB_F32, BB_BF16};
    bb_context *ctx = test_open();
    for (int d = 0; d < COUNT(dtypes); d++) {
        const int64_t rows = bb_get_device(ctx) == BB_CPU ? TALL * (d + 1) : 2;
        bb_t x = bb_cast(bb_rand(ctx, BB_F32, SH(rows, WIDE)), dtypes[d]), sum = NULL;
        bb_t scale = bb_cast(bb_randn(ctx, BB_F32, SH(WIDE)), dtypes[d]), parts[2], whole[2];
        bb_set_requires_grad(x, true);
        for (int part = 0; part < 2; part++) {
            bb_t h = part ? bb_add(x, x) : NULL;
            bb_t y = part ? bb_rms_norm(h, scale, 1e-5) : bb_add_rms_norm(x, x, scale, 1e-5, &sum);
            bb_backward(bb_add(y, part ? h : sum), bb_ones_like(y));
            (part ? parts : whole)[0] = y;
            (part ? parts : whole)[1] = bb_contiguous(bb_grad(x));
            bb_zero_grad(x);
        }
        for (int k = 0; k < 2; k++) {
            bb_t off = bb_abs(bb_sub(parts[k], whole[k]));
            CHECK_NEAR(t, bb_item(bb_amax(off, (bb_ints){.n = 0}, false)), 0, k * (d ? 0.3 : 1e-4));
        }
        CHECK_OK(t, ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

/* sum(t weight); through transposes, t gets a gradient whose rows lie apart. */
static bb_t weighted(bb_t t, bb_t weight, bool apart) {
    if (!apart) return bb_sum_all(bb_mul(t, weight));
    return bb_sum_all(bb_mul(bb_transpose(t, 0, 1), bb_contiguous(bb_transpose(weight, 0, 1))));
}

/* Kernels that want packed rows make them: for the gradient of one result, the other, or both. */
static void test_gradients_that_lie_apart(test *t) {
    enum { TALL = 6, WIDE = 10 };
    bb_context *ctx = test_open();
    bb_set_path(ctx, BB_PATH_FUSED);
    for (int mask = 1; mask < 4; mask++) {
        double got[2][TALL * WIDE];
        bb_t in[5];
        for (int i = 0; i < 5; i++)
            in[i] = bb_randn(ctx, BB_F32, i == 2 ? SH(WIDE) : SH(TALL, WIDE));
        bb_set_requires_grad(in[0], true);
        for (int apart = 0; apart < 2; apart++) {
            bb_t sum = NULL, y = bb_add_rms_norm(in[0], in[1], in[2], 1e-5, &sum);
            bb_backward(bb_add(weighted(y, in[3], apart && mask & 1),
                               weighted(sum, in[4], apart && mask & 2)),
                        NULL);
            bb_read_f64(bb_grad(in[0]), got[apart], TALL * WIDE);
            bb_zero_grad(in[0]);
        }
        CHECK_MSG(t, memcmp(got[0], got[1], sizeof got[0]) == 0, "apart: %d", mask);
        CHECK_OK(t, ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

static void apart(bb_context *ctx) {
    bb_t x = bb_set_requires_grad(bb_ones(ctx, BB_F32, SH(6, 10)), true), sum = NULL;
    bb_t y = bb_add_rms_norm(x, x, bb_ones(ctx, BB_F32, SH(10)), 1e-5, &sum);
    bb_backward(bb_add(weighted(y, x, true), weighted(sum, x, true)), NULL);
}
static void test_memory_runs_out(test *t) { alloc_failure_loop(t, apart); }

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
    {"gradients of its parts", test_gradients_of_its_parts},
    {"large outputs", test_large_outputs},
    {"gradients that lie apart", test_gradients_that_lie_apart},
    {"memory runs out", test_memory_runs_out},
    {"empty", test_empty},
    {"errors", test_errors},
};
TEST_MAIN(rows)
