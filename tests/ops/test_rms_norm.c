/* RMSNormImpl as an op: values and gradients against an independent reference on both paths, shapes
 * that scale may have, output dtypes, errors. The fused kernel to the bit:
 * tests/backends/test_rms_norm.c. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "ops/table.h"
#include "tests/support/cases.h"

static void reference(const op_case *c, const double *const *in, const bb_shape *out_shape,
                      double *out) {
    static const bb_rms_norm_attrs defaults = {{1, {-1}}, 1e-5, BB_ROUND_AUTO};
    const bb_rms_norm_attrs *a = c->attrs ? c->attrs : &defaults;
    const bb_shape *x = &c->in[0].shape, *scale = &c->in[1].shape;
    bool reduced[BB_MAX_RANK] = {false};
    for (int i = 0; i < a->axes.n; i++)
        reduced[a->axes.v[i] < 0 ? a->axes.v[i] + x->rank : a->axes.v[i]] = true;
    bb_shape statistic = *x;
    int64_t x_count = 1, out_count = 1, statistics = 1, averaged = 1;
    for (int i = 0; i < out_shape->rank; i++) out_count *= out_shape->size[i];
    for (int i = 0; i < x->rank; i++) {
        x_count *= x->size[i];
        averaged *= reduced[i] ? x->size[i] : 1;
        if (reduced[i]) statistic.size[i] = 1;
        statistics *= statistic.size[i];
    }
    double *squares = calloc((size_t)statistics + 1, sizeof *squares);
    if (!squares) return;
    int64_t index[BB_MAX_RANK];
    for (int64_t i = 0; i < x_count; i++) {
        ref_unravel(x, i, index);
        squares[ref_broadcast_offset(&statistic, x, index)] += in[0][i] * in[0][i];
    }
    for (int64_t i = 0; i < out_count; i++) {
        ref_unravel(out_shape, i, index);
        double mean =
            squares[ref_broadcast_offset(&statistic, out_shape, index)] / (double)averaged;
        double value = in[0][ref_broadcast_offset(x, out_shape, index)];
        out[i] = value / sqrt(mean + a->eps) * in[1][ref_broadcast_offset(scale, out_shape, index)];
    }
    free(squares);
}

#define CASE(label, x, s)                                                                          \
    { .name = label, .in = {{.shape = x}, {.shape = s}}, .n_in = 2 }
#define BIG(label, x, s)                                                                           \
    {                                                                                              \
        .name = label, .in = {{.shape = x}, {.shape = s}}, .n_in = 2, .no_second = true,           \
        .why = "large: first order suffices"                                                       \
    }
/* Where dinput is what remains of two almost equal terms. */
#define CANCELS(label, x, s)                                                                       \
    { .name = label, .in = {{.shape = x}, {.shape = s}}, .n_in = 2, .tolerance = 400 }
#define DIM(n) BIG("dim " #n, BB_SHAPE(3, n), BB_SHAPE(n))

static void test_shapes(test *t) {
    const op_case cases[] = {
        CASE("vector", SH(5), SH(5)),
        CASE("matrix", SH(4, 6), SH(6)),
        CASE("rank 5", SH(2, 1, 3, 2, 4), SH(4)),
        CASE("scale of one element", SH(3, 5), SH(1)),
        CASE("scalar scale", SH(3, 5), BB_SCALAR),
        CASE("scale of leading ones", SH(3, 5), SH(1, 5)),
        CASE("(B,H,T,D) x (H,1,D)", SH(2, 3, 4, 5), SH(3, 1, 5)),
        CASE("(B,H,T,D) x (1,H,1,D)", SH(2, 3, 4, 5), SH(1, 3, 1, 5)),
        CASE("(B,H,T,D) x (B,1,1,D)", SH(2, 3, 4, 5), SH(2, 1, 1, 5)),
        CASE("(B,H,T,D) x (T,D)", SH(2, 3, 4, 5), SH(4, 5)),
        CASE("scale of input's shape", SH(3, 4, 5), SH(3, 4, 5)),
        CASE("one scale per row", SH(3, 4), SH(3, 1)),
        CASE("one scale per head", SH(2, 3, 2, 4), SH(3, 1, 1)),
        CANCELS("rows of one element", SH(4, 1), SH(1)),
        CANCELS("one row of one element", SH(1), SH(1)),
        CASE("(D) x (H,1,D): scale of higher rank", SH(5), SH(3, 1, 5)),
        CASE("(B,1,T,D) x (H,1,D): scale is larger", SH(2, 1, 3, 4), SH(3, 1, 4)),
        CANCELS("(T,1) x (D): scale is wider", SH(3, 1), SH(4)),
        CASE("scale of higher rank, all ones", SH(2, 3), SH(1, 1, 3)),
    };
    run_op_cases(t, "RMSNormImpl", cases, COUNT(cases), reference);
}

static void test_dimensions(test *t) {
    const op_case cases[] = {CANCELS("dim 1", SH(3, 1), SH(1)),
                             DIM(2),
                             DIM(3),
                             DIM(31),
                             DIM(32),
                             DIM(33),
                             DIM(63),
                             DIM(64),
                             DIM(65),
                             DIM(127),
                             DIM(128),
                             DIM(129),
                             DIM(255),
                             DIM(256),
                             DIM(257),
                             DIM(423)};
    run_op_cases(t, "RMSNormImpl", cases, COUNT(cases), reference);
}

static void test_long_rows(test *t) {
    const op_case cases[] = {DIM(1023), DIM(1024), DIM(1025)};
    run_op_cases(t, "RMSNormImpl", cases, COUNT(cases), reference);
}

static void test_attributes(test *t) {
    static const bb_rms_norm_attrs eps = {{1, {-1}}, 0.3, BB_ROUND_AUTO},
                                   both = {{2, {-2, -1}}, 1e-6, BB_ROUND_AUTO},
                                   first = {{1, {0}}, 1e-5, BB_ROUND_AUTO},
                                   last = {{1, {2}}, 1e-5, BB_ROUND_AUTO},
                                   round = {{1, {-1}}, 1e-5, BB_ROUND_THEN_SCALE},
                                   scale = {{1, {-1}}, 1e-5, BB_SCALE_THEN_ROUND},
                                   none = {{1, {-1}}, 0, BB_ROUND_AUTO};
    const op_case cases[] = {
        {.name = "eps 0.3",
         .attrs = &eps,
         .in = {{.shape = SH(3, 5)}, {.shape = SH(5)}},
         .n_in = 2},
        {.name = "eps 0",
         .attrs = &none,
         .in = {{.fill = FILL_APART, .shape = SH(3, 5)}, {.shape = SH(5)}},
         .n_in = 2},
        {.name = "two axes",
         .attrs = &both,
         .in = {{.shape = SH(2, 3, 4)}, {.shape = SH(3, 4)}},
         .n_in = 2},
        {.name = "first axis",
         .attrs = &first,
         .in = {{.shape = SH(2, 3, 4)}, {.shape = SH(4)}},
         .n_in = 2},
        {.name = "last axis",
         .attrs = &last,
         .in = {{.shape = SH(2, 3, 4)}, {.shape = SH(4)}},
         .n_in = 2},
        {.name = "round first",
         .attrs = &round,
         .in = {{.shape = SH(2, 3, 4)}, {.shape = SH(4)}},
         .n_in = 2},
        {.name = "round last",
         .attrs = &scale,
         .in = {{.shape = SH(2, 3, 4)}, {.shape = SH(3, 4)}},
         .n_in = 2},
    };
    run_op_cases(t, "RMSNormImpl", cases, COUNT(cases), reference);
}

/* The dtypes that ops/rms_norm.c promises. */
static void test_output_dtype(test *t) {
    static const bb_dtype auto_dtype[4][4] = {
        /* scale:      f64     f32     f16     bf16 */
        [BB_F64] = {BB_F64, BB_F64, BB_F64, BB_F64},
        [BB_F32] = {BB_F64, BB_F32, BB_F32, BB_F32},
        [BB_F16] = {BB_F64, BB_F16, BB_F16, BB_F32},
        [BB_BF16] = {BB_F64, BB_BF16, BB_F32, BB_BF16},
    };
    bb_context *ctx = test_open();
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        bb_set_path(ctx, (bb_path)path);
        for (int x = BB_F64; x <= BB_BF16; x++) {
            for (int s = BB_F64; s <= BB_BF16; s++) {
                const double values[] = {1, -2, 3, 4, 5, 6}, scale[] = {1, 2, -1};
                bb_t input =
                    bb_set_requires_grad(bb_from_f64(ctx, (bb_dtype)x, SH(2, 3), values), true);
                bb_t weight =
                    bb_set_requires_grad(bb_from_f64(ctx, (bb_dtype)s, SH(3), scale), true);
                for (int rounding = 0; rounding < 3; rounding++) {
                    bb_rms_norm_attrs attrs = {{1, {-1}}, 1e-5, rounding};
                    bb_t y = bb_rms_norm_with(input, weight, &attrs);
                    bb_dtype expected = auto_dtype[x][s];
                    if (rounding == BB_SCALE_THEN_ROUND) expected = (bb_dtype)x;
                    if (rounding == BB_ROUND_THEN_SCALE && s == BB_F32 && x > BB_F32)
                        expected = BB_F32;
                    CHECK_MSG(t, y && bb_dtype_of(y) == expected,
                              "%s x %s, rounding %d: got %s, expected %s",
                              bb_dtype_name((bb_dtype)x), bb_dtype_name((bb_dtype)s), rounding,
                              y ? bb_dtype_name(bb_dtype_of(y)) : "NULL", bb_dtype_name(expected));
                    bb_backward(y, bb_ones_like(y));
                }
                CHECK_OK(t, ctx);
                CHECK(t, bb_grad(input) && bb_dtype_of(bb_grad(input)) == (bb_dtype)x);
                CHECK(t, bb_grad(weight) && bb_dtype_of(bb_grad(weight)) == (bb_dtype)s);
                bb_clear_error(ctx);
                bb_end_step(ctx);
            }
        }
    }
    bb_close(ctx);
}

/* x is widened before it is squared. */
static void test_f16_does_not_overflow(test *t) {
    bb_context *ctx = test_open();
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        bb_set_path(ctx, (bb_path)path);
        bb_t x = bb_set_requires_grad(bb_full(ctx, BB_F16, SH(2, 64), 60000), true);
        bb_t scale = bb_set_requires_grad(bb_full(ctx, BB_F16, SH(64), 1.5), true);
        bb_t y = bb_rms_norm(x, scale, 1e-5);
        double value[128];
        bb_read_f64(y, value, 128);
        for (int i = 0; i < 128; i++) CHECK_NEAR(t, value[i], 1.5, 1e-3);
        bb_backward(y, bb_ones_like(y));
        bb_read_f64(bb_grad(x), value, 128);
        for (int i = 0; i < 128; i++) CHECK_NEAR(t, value[i], 0, 1e-7);
        bb_read_f64(bb_grad(scale), value, 64);
        for (int i = 0; i < 64; i++) CHECK_NEAR(t, value[i], 2, 2e-3);
        CHECK_OK(t, ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

static void test_zero_rows(test *t) {
    bb_context *ctx = test_open();
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        bb_set_path(ctx, (bb_path)path);
        bb_t x = bb_set_requires_grad(bb_zeros(ctx, BB_F32, SH(1, 3)), true);
        bb_t scale = bb_set_requires_grad(bb_full(ctx, BB_F32, SH(3), 2), true);
        bb_t y = bb_rms_norm(x, scale, 1e-5);
        bb_backward(y, bb_ones_like(y));
        double value[3];
        bb_read_f64(y, value, 3);
        for (int i = 0; i < 3; i++) CHECK_NEAR(t, value[i], 0, 0);
        bb_read_f64(bb_grad(scale), value, 3);
        for (int i = 0; i < 3; i++) CHECK_NEAR(t, value[i], 0, 0);
        bb_read_f64(bb_grad(x), value, 3);
        for (int i = 0; i < 3; i++) CHECK_NEAR(t, value[i], 2 / sqrt(1e-5), 1e-3);
        bb_read_f64(bb_rms_norm(x, scale, 0), value, 3);
        for (int i = 0; i < 3; i++) CHECK(t, isnan(value[i]));
        CHECK_OK(t, ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

/* No rows: an empty output, and a scale gradient of zeros rather than of whatever the buffer held.
 */
static void test_empty(test *t) {
    const bb_shape shapes[] = {SH(0, 3), SH(2, 0, 3), SH(0, 2, 3)};
    bb_context *ctx = test_open();
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        for (int i = 0; i < COUNT(shapes); i++) {
            bb_set_path(ctx, (bb_path)path);
            bb_t x = bb_set_requires_grad(bb_zeros(ctx, BB_BF16, shapes[i]), true);
            bb_t scale = bb_set_requires_grad(bb_ones(ctx, BB_F32, SH(3)), true);
            bb_t y = bb_rms_norm(x, scale, 1e-5);
            CHECK_INT(t, bb_count(y), 0);
            bb_backward(y, bb_zeros_like(y));
            double value[3] = {1, 1, 1};
            bb_read_f64(bb_grad(scale), value, 3);
            for (int k = 0; k < 3; k++) CHECK_NEAR(t, value[k], 0, 0);
            CHECK_OK(t, ctx);
            bb_clear_error(ctx);
            bb_end_step(ctx);
        }
        bb_t x = bb_set_requires_grad(bb_zeros(ctx, BB_F32, SH(3, 0)), true);
        bb_t scale = bb_set_requires_grad(bb_ones(ctx, BB_F32, SH(1)), true);
        bb_t y = bb_rms_norm(x, scale, 1e-5);
        CHECK_INT(t, bb_count(y), 0);
        bb_backward(y, bb_zeros_like(y));
        CHECK_NEAR(t, bb_item(bb_grad(scale)), 0, 0);
        CHECK_OK(t, ctx);
        bb_clear_error(ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

/* (heads, 1, dim) on q and k together is two norms. */
static void test_heads_are_separate_norms(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_randn(ctx, BB_F32, SH(2, 8, 3, 16)), scale = bb_randn(ctx, BB_F32, SH(8, 1, 16));
    bb_t both = bb_rms_norm(x, scale, 1e-5);
    bb_t q = bb_rms_norm(bb_narrow(x, 1, 0, 6), bb_narrow(scale, 0, 0, 6), 1e-5);
    bb_t k = bb_rms_norm(bb_narrow(x, 1, 6, 2), bb_narrow(scale, 0, 6, 2), 1e-5);
    bb_t parts[] = {q, k};
    static float got[768], expected[768];
    bb_read(both, got, sizeof got);
    bb_read(bb_cat(parts, 2, 1), expected, sizeof expected);
    CHECK_OK(t, ctx);
    CHECK(t, memcmp(got, expected, sizeof got) == 0);
    bb_close(ctx);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_ones(ctx, BB_F32, SH(2, 3)), scale = bb_ones(ctx, BB_F32, SH(3));
    CHECK(t, !bb_rms_norm(x, scale, -1e-5));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNormImpl: eps: expected a number >= 0, got -1e-05");
    CHECK(t, !bb_rms_norm(x, scale, NAN));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNormImpl: eps: expected a number >= 0, got");
    CHECK(t, !bb_rms_norm(bb_ones(ctx, BB_I64, SH(2, 3)), scale, 1e-5));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNormImpl: input: expected a floating dtype, got i64");
    CHECK(t, !bb_rms_norm(x, bb_ones(ctx, BB_BOOL, SH(3)), 1e-5));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNormImpl: scale: expected a floating dtype, got bool");
    CHECK(t, !bb_rms_norm(x, bb_ones(ctx, BB_F32, SH(4)), 1e-5));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "scale: expected a shape that broadcasts with input (2, 3), got (4,)");
    CHECK(t, !bb_rms_norm(bb_scalar(ctx, BB_F32, 1), scale, 1e-5));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "input: expected rank 1 or more, got a scalar");
    CHECK(t, !bb_rms_norm(x, NULL, 1e-5));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "scale");

    bb_rms_norm_attrs none = {{0, {0}}, 1e-5, 0}, far = {{1, {2}}, 1e-5, 0},
                      twice = {{2, {1, -1}}, 1e-5, 0};
    CHECK(t, !bb_rms_norm_with(x, scale, &none));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNormImpl: axes: expected at least one axis, got none");
    CHECK(t, !bb_rms_norm_with(x, scale, &far));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNormImpl: axes: expected -2 to 1, got 2");
    CHECK(t, !bb_rms_norm_with(x, scale, &twice));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "RMSNormImpl: axes: expected different axes, got axis 1 twice");
    none.axes.n = -3, twice.axes.n = 3;
    CHECK(t, !bb_rms_norm_with(x, scale, &none));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNormImpl: axes: expected a list of 0 or more, got -3");
    CHECK(t, !bb_rms_norm_with(x, scale, &twice));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNormImpl: axes: expected at most 2, got 3");
    CHECK(t, bb_rms_norm(x, scale, 0) != NULL);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* The hidden output has one number for all that is normalized together. */
static void test_statistic(test *t) {
    static const int64_t axes[][2] = {{0, 0}, {1, 1}, {2, 2}, {0, 1}, {0, 2}};
    bb_context *ctx = test_open();
    bb_tensor *in[] = {bb_ones(ctx, BB_F32, BB_SHAPE(2, 3, 4)), bb_ones(ctx, BB_F32, BB_SCALAR)};
    for (size_t i = 0; i < COUNT(axes); i++) {
        const int n = axes[i][0] == axes[i][1] ? 1 : 2;
        const bb_rms_norm_attrs attrs = {{n, {axes[i][0], axes[i][1]}}, 1e-5, BB_ROUND_AUTO};
        bb_call call = {.ctx = ctx, .op = &bb_op_rms_norm, .attrs = &attrs, .n_in = 2, .in = in};
        CHECK_INT(t, call.op->infer(&call), BB_OK);
        for (int a = 0; a < 3; a++) {
            const bool normalized = a == axes[i][0] || a == axes[i][1];
            CHECK_INT(t, call.meta[1].shape.size[a], normalized ? 1 : a + 2);
        }
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"shapes", test_shapes},
    {"dimensions", test_dimensions},
    {"long_rows", test_long_rows},
    {"attributes", test_attributes},
    {"output_dtype", test_output_dtype},
    {"f16_does_not_overflow", test_f16_does_not_overflow},
    {"zero_rows", test_zero_rows},
    {"empty", test_empty},
    {"statistic", test_statistic},
    {"heads_are_separate_norms", test_heads_are_separate_norms},
    {"errors", test_errors},
};
TEST_MAIN(rows)
