/* layer_norm against an independent reference, on both paths; mixed dtypes; errors. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/cases.h"

static void reference(const op_case *c, const double *const *in, const bb_shape *out_shape,
                      double *out) {
    static const bb_layer_norm_attrs defaults = {{1, {-1}}, 1e-5};
    const bb_layer_norm_attrs *a = c->attrs ? c->attrs : &defaults;
    const bb_shape *x = &c->in[0].shape;
    bb_shape statistic = *x;
    int64_t count = 1, averaged = 1, index[BB_MAX_RANK];
    for (int i = 0; i < x->rank; i++) count *= x->size[i];
    for (int i = 0; i < a->axes.n; i++) {
        int axis = (int)(a->axes.v[i] < 0 ? a->axes.v[i] + x->rank : a->axes.v[i]);
        averaged *= x->size[axis];
        statistic.size[axis] = 1;
    }
    double *mean = calloc((size_t)count + 1, sizeof *mean),
           *variance = calloc((size_t)count + 1, sizeof *variance);
    for (int64_t i = 0; mean && i < count; i++) {
        ref_unravel(x, i, index);
        mean[ref_broadcast_offset(&statistic, x, index)] += in[0][i] / (double)averaged;
    }
    for (int64_t i = 0; mean && variance && i < count; i++) {
        ref_unravel(x, i, index);
        int64_t at = ref_broadcast_offset(&statistic, x, index);
        variance[at] += (in[0][i] - mean[at]) * (in[0][i] - mean[at]) / (double)averaged;
    }
    for (int64_t i = 0; mean && variance && i < count; i++) {
        ref_unravel(out_shape, i, index);
        int64_t at = ref_broadcast_offset(&statistic, x, index);
        double weight = in[1] ? in[1][ref_broadcast_offset(&c->in[1].shape, x, index)] : 1;
        double bias = in[2] ? in[2][ref_broadcast_offset(&c->in[2].shape, x, index)] : 0;
        out[i] = (in[0][i] - mean[at]) / sqrt(variance[at] + a->eps) * weight + bias;
    }
    free(mean);
    free(variance);
}

#define CASE(label, x, w, b)                                                                       \
    { .name = label, .in = {{.shape = x}, {.shape = w}, {.shape = b}}, .n_in = 3 }
#define ABSENT(label, x, w, no_w, b, no_b)                                                         \
    {                                                                                              \
        .name = label,                                                                             \
        .in = {{.shape = x}, {.shape = w, .absent = no_w}, {.shape = b, .absent = no_b}},          \
        .n_in = 3                                                                                  \
    }
#define DIM(n)                                                                                     \
    {                                                                                              \
        .name = "dim " #n, .in = {{.shape = SH(3, n)}, {.shape = SH(n)}, {.shape = SH(n)}},        \
        .n_in = 3, .no_second = true, .why = "large: first order suffices", .tolerance = 8         \
    }

static void test_shapes(test *t) {
    const op_case cases[] = {
        CASE("vector", SH(5), SH(5), SH(5)),
        CASE("matrix", SH(3, 4), SH(4), SH(4)),
        CASE("per head", SH(2, 3, 2, 4), SH(3, 1, 4), SH(3, 1, 4)),
        CASE("one weight", SH(3, 4), SH(1), SH(1)),
        CASE("weight and bias of different shapes", SH(3, 4), SH(4), SH(3, 1)),
        ABSENT("no bias", SH(3, 4), SH(4), false, SH(4), true),
        ABSENT("no weight", SH(3, 4), SH(4), true, SH(4), false),
        ABSENT("neither", SH(3, 4), SH(4), true, SH(4), true),
    };
    run_op_cases(t, "LayerNorm", cases, COUNT(cases), reference);
}

static void test_dimensions(test *t) {
    const op_case cases[] = {DIM(2),   DIM(31),  DIM(32),  DIM(33),   DIM(63),   DIM(64),  DIM(65),
                             DIM(255), DIM(256), DIM(257), DIM(1023), DIM(1024), DIM(1025)};
    run_op_cases(t, "LayerNorm", cases, COUNT(cases), reference);
}

static void test_attributes(test *t) {
    static const bb_layer_norm_attrs eps = {{1, {-1}}, 0.3}, both = {{2, {-2, -1}}, 1e-5},
                                     first = {{1, {0}}, 1e-5};
    const op_case cases[] = {
        {.name = "eps 0.3",
         .attrs = &eps,
         .in = {{.shape = SH(3, 4)}, {.shape = SH(4)}, {.shape = SH(4)}},
         .n_in = 3},
        {.name = "two axes",
         .attrs = &both,
         .in = {{.shape = SH(2, 3, 4)}, {.shape = SH(3, 4)}, {.shape = SH(4)}},
         .n_in = 3},
        {.name = "first axis",
         .attrs = &first,
         .in = {{.shape = SH(4, 3)}, {.shape = SH(3)}, {.shape = SH(3)}},
         .n_in = 3},
    };
    run_op_cases(t, "LayerNorm", cases, COUNT(cases), reference);
}

/* A large common offset must not cost the variance its digits. */
static void test_offset(test *t) {
    bb_context *ctx = test_open();
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        bb_set_path(ctx, (bb_path)path);
        const double values[] = {4096.0, 4097.0, 4098.0, 4099.0};
        double y[4];
        bb_read_f64(bb_layer_norm(bb_from_f64(ctx, BB_F32, SH(4), values), NULL, NULL, 0), y, 4);
        for (int i = 0; i < 4; i++) CHECK_NEAR(t, y[i], (i - 1.5) / sqrt(1.25), 1e-6);
        CHECK_OK(t, ctx);
    }
    bb_close(ctx);
}

/* f16 and bf16 inputs may have f32 parameters; gradients then are f32 too. */
static void test_mixed_dtypes(test *t) {
    bb_context *ctx = test_open();
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        bb_set_path(ctx, (bb_path)path);
        bb_t x = bb_set_requires_grad(bb_randn(ctx, BB_BF16, SH(4, 8)), true);
        bb_t weight = bb_set_requires_grad(bb_randn(ctx, BB_F32, SH(8)), true);
        bb_t bias = bb_set_requires_grad(bb_randn(ctx, BB_F32, SH(8)), true);
        bb_t y = bb_layer_norm(x, weight, bias, 1e-5);
        CHECK(t, bb_dtype_of(y) == BB_BF16);
        bb_backward(y, bb_ones_like(y));
        CHECK(t, bb_dtype_of(bb_grad(x)) == BB_BF16);
        CHECK(t, bb_dtype_of(bb_grad(weight)) == BB_F32);
        double value[8];
        bb_read_f64(bb_grad(bias), value, 8);
        for (int i = 0; i < 8; i++) CHECK_NEAR(t, value[i], 4, 0);
        CHECK_OK(t, ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

static void test_empty(test *t) {
    bb_context *ctx = test_open();
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        bb_set_path(ctx, (bb_path)path);
        bb_t x = bb_set_requires_grad(bb_zeros(ctx, BB_F32, SH(0, 3)), true);
        bb_t weight = bb_set_requires_grad(bb_ones(ctx, BB_F32, SH(3)), true);
        bb_t bias = bb_set_requires_grad(bb_ones(ctx, BB_F32, SH(3)), true);
        bb_t y = bb_layer_norm(x, weight, bias, 1e-5);
        CHECK_INT(t, bb_count(y), 0);
        bb_backward(y, bb_zeros_like(y));
        double value[3] = {1, 1, 1};
        bb_read_f64(bb_grad(weight), value, 3);
        for (int i = 0; i < 3; i++) CHECK_NEAR(t, value[i], 0, 0);
        bb_read_f64(bb_grad(bias), value, 3);
        for (int i = 0; i < 3; i++) CHECK_NEAR(t, value[i], 0, 0);
        CHECK_OK(t, ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

/* No elements, and one of weight and bias absent or of one element: their tables are empty too, and
 * a null pointer was read in their place. */
static void test_empty_with_absent_affine(test *t) {
    const struct {
        bb_shape x, affine;
    } cases[] = {{SH(0, 32), SH(0, 32)}, {SH(0, 32), SH(32)}, {SH(0), SH(1)}, {SH(3, 0), SH(1)}};
    bb_context *ctx = test_open();
    for (int c = 0; c < 4; c++) {
        for (int which = 0; which < 2; which++) {
            bb_t x = bb_set_requires_grad(bb_zeros(ctx, BB_F32, cases[c].x), true);
            bb_t affine = bb_set_requires_grad(bb_ones(ctx, BB_F32, cases[c].affine), true);
            bb_t y = bb_layer_norm(x, which ? NULL : affine, which ? affine : NULL, 1e-5);
            CHECK_INT(t, bb_count(y), 0);
            bb_backward(y, bb_zeros_like(y));
            CHECK_OK(t, ctx);
            double value[32] = {0};
            bb_read_f64(bb_grad(affine), value, bb_count(affine));
            for (int i = 0; i < 32; i++) CHECK_NEAR(t, value[i], 0, 0);
            bb_end_step(ctx);
        }
    }
    bb_close(ctx);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_ones(ctx, BB_F16, SH(2, 3)), weight = bb_ones(ctx, BB_F16, SH(3));
    CHECK(t, !bb_layer_norm(x, weight, NULL, -1));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "LayerNorm: eps: expected a number >= 0, got -1");
    CHECK(t, !bb_layer_norm(x, bb_ones(ctx, BB_F16, SH(2)), NULL, 1e-5));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "weight: expected a shape that broadcasts to input (2, 3), got (2,)");
    CHECK(t, !bb_layer_norm(x, weight, bb_ones(ctx, BB_F16, SH(4, 1, 3)), 1e-5));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "bias: expected a shape that broadcasts to input (2, 3), got (4, 1, 3)");
    CHECK(t, !bb_layer_norm(x, bb_ones(ctx, BB_BF16, SH(3)), NULL, 1e-5));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "LayerNorm: weight: expected dtype f16 or f32, got bf16");
    CHECK(t, !bb_layer_norm(bb_ones(ctx, BB_I32, SH(2, 3)), NULL, NULL, 1e-5));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "LayerNorm: input: expected a floating dtype, got i32");
    bb_close(ctx);
}

static const test_row rows[] = {
    {"shapes", test_shapes},
    {"dimensions", test_dimensions},
    {"attributes", test_attributes},
    {"offset", test_offset},
    {"mixed_dtypes", test_mixed_dtypes},
    {"empty", test_empty},
    {"empty_with_absent_affine", test_empty_with_absent_affine},
    {"errors", test_errors},
};
TEST_MAIN(rows)
