/* softmax against an independent reference, on both paths; infinities; errors. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/cases.h"

static void reference(const op_case *c, const double *const *in, const bb_shape *shape,
                      double *out) {
    const bb_axis_attrs *a = c->attrs;
    int axis = a ? (int)a->axis : -1;
    if (axis < 0) axis += shape->rank;
    int64_t inner = 1, outer = 1, n = shape->size[axis];
    for (int i = 0; i < axis; i++) outer *= shape->size[i];
    for (int i = axis + 1; i < shape->rank; i++) inner *= shape->size[i];
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t i = 0; i < inner; i++) {
            const double *x = in[0] + o * n * inner + i;
            double sum = 0;
            for (int64_t k = 0; k < n; k++) sum += exp(x[k * inner] - x[0]);
            for (int64_t k = 0; k < n; k++)
                out[o * n * inner + i + k * inner] = exp(x[k * inner] - x[0]) / sum;
        }
    }
}

#define CASE(label, x)                                                                             \
    { .name = label, .in = {{.shape = x}}, .n_in = 1 }
#define DIM(n)                                                                                     \
    {                                                                                              \
        .name = "dim " #n, .in = {{.shape = SH(3, n)}}, .n_in = 1, .no_second = true,              \
        .why = "large: first order suffices", .tolerance = 8                                       \
    }

static void test_shapes(test *t) {
    const op_case cases[] = {CASE("vector", SH(5)), CASE("matrix", SH(3, 4)),
                             CASE("rank 4", SH(2, 3, 2, 4)), CASE("one element", SH(1)),
                             CASE("one column", SH(3, 1))};
    run_op_cases(t, "softmax", cases, COUNT(cases), reference);
}

static void test_dimensions(test *t) {
    const op_case cases[] = {DIM(31),   DIM(32),   DIM(33),  DIM(63),  DIM(64),
                             DIM(65),   DIM(127),  DIM(256), DIM(257), DIM(1000),
                             DIM(1023), DIM(1024), DIM(1025)};
    run_op_cases(t, "softmax", cases, COUNT(cases), reference);
}

static void test_axes(test *t) {
    static const bb_axis_attrs first = {0}, middle = {1}, second_last = {-2}, last = {2};
    const op_case cases[] = {
        {.name = "first", .attrs = &first, .in = {{.shape = SH(4, 3)}}, .n_in = 1},
        {.name = "middle", .attrs = &middle, .in = {{.shape = SH(2, 4, 3)}}, .n_in = 1},
        {.name = "second last", .attrs = &second_last, .in = {{.shape = SH(4, 3)}}, .n_in = 1},
        {.name = "last", .attrs = &last, .in = {{.shape = SH(2, 3, 4)}}, .n_in = 1},
    };
    run_op_cases(t, "softmax", cases, COUNT(cases), reference);
}

static void check_row(test *t, bb_context *ctx, const double *x, const double *expected) {
    static const bb_dtype dtypes[] = {BB_F64, BB_F32, BB_F16, BB_BF16};
    for (int d = 0; d < COUNT(dtypes); d++) {
        double y[4];
        bb_read_f64(bb_softmax(bb_from_f64(ctx, dtypes[d], SH(4), x), -1), y, 4);
        for (int i = 0; i < 4; i++)
            CHECK_MSG(t, isnan(expected[i]) ? isnan(y[i]) : fabs(y[i] - expected[i]) < 1e-6,
                      "%s [%d]: got %g, expected %g", bb_dtype_name(dtypes[d]), i, y[i],
                      expected[i]);
    }
}

static void test_special_values(test *t) {
    const double inf = INFINITY, nan = NAN;
    bb_context *ctx = test_open();
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        bb_set_path(ctx, (bb_path)path);
        check_row(t, ctx, (double[]){-inf, 0, 0, -inf}, (double[]){0, 0.5, 0.5, 0});
        check_row(t, ctx, (double[]){-inf, -inf, -inf, -inf}, (double[]){nan, nan, nan, nan});
        check_row(t, ctx, (double[]){0, inf, 0, 0}, (double[]){nan, nan, nan, nan});
        check_row(t, ctx, (double[]){0, nan, 1, 2}, (double[]){nan, nan, nan, nan});
        check_row(t, ctx, (double[]){60000, 60000, -60000, -60000}, (double[]){0.5, 0.5, 0, 0});
        CHECK_OK(t, ctx);
    }
    bb_close(ctx);
}

/* The maximum is found wherever it stands: without it exp would overflow. */
static void test_maximum_anywhere(test *t) {
    enum { DIM = 131 };
    bb_context *ctx = test_open();
    double x[DIM], y[DIM];
    for (int d = 0; d < 2; d++) {
        for (int at = 0; at < DIM; at++) {
            for (int i = 0; i < DIM; i++) x[i] = i == at ? 1000 : 0;
            bb_t input = bb_from_f64(ctx, d ? BB_F64 : BB_F32, SH(DIM), x);
            bb_read_f64(bb_softmax(input, -1), y, DIM);
            int wrong = 0;
            for (int i = 0; i < DIM; i++) wrong += y[i] != (i == at);
            CHECK_MSG(t, wrong == 0, "maximum at %d: %d elements wrong", at, wrong);
            bb_end_step(ctx);
        }
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_empty(test *t) {
    const bb_shape shapes[] = {SH(0), SH(0, 3), SH(3, 0)};
    bb_context *ctx = test_open();
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        bb_set_path(ctx, (bb_path)path);
        for (int i = 0; i < COUNT(shapes); i++) {
            bb_t x = bb_set_requires_grad(bb_zeros(ctx, BB_F32, shapes[i]), true),
                 y = bb_softmax(x, -1);
            CHECK_INT(t, bb_count(y), 0);
            bb_backward(y, bb_zeros_like(y));
            CHECK_OK(t, ctx);
            bb_clear_error(ctx);
            bb_end_step(ctx);
        }
    }
    bb_close(ctx);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    CHECK(t, !bb_softmax(bb_ones(ctx, BB_F32, SH(2, 3)), 2));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "softmax: axis: expected an axis in [-2, 1], got 2");
    CHECK(t, !bb_softmax(bb_ones(ctx, BB_I64, SH(2, 3)), 0));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "softmax: input: expected a floating dtype, got i64");
    CHECK(t, !bb_softmax(bb_scalar(ctx, BB_F32, 1), -1));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "softmax: input: expected rank 1 or more, got a scalar");
    CHECK(t, !bb_softmax(NULL, -1));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"shapes", test_shapes},
    {"dimensions", test_dimensions},
    {"axes", test_axes},
    {"special_values", test_special_values},
    {"maximum_anywhere", test_maximum_anywhere},
    {"empty", test_empty},
    {"errors", test_errors},
};
TEST_MAIN(rows)
