/* log_softmax against an independent reference, on both paths; large and infinite inputs; errors.
 */
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
                out[o * n * inner + i + k * inner] = x[k * inner] - x[0] - log(sum);
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
    run_op_cases(t, "log_softmax", cases, COUNT(cases), reference);
}

static void test_dimensions(test *t) {
    const op_case cases[] = {DIM(31),  DIM(32),  DIM(33),   DIM(63),   DIM(64),   DIM(65),
                             DIM(256), DIM(257), DIM(1000), DIM(1023), DIM(1024), DIM(1025)};
    run_op_cases(t, "log_softmax", cases, COUNT(cases), reference);
}

static void test_axes(test *t) {
    static const bb_axis_attrs first = {0}, middle = {1}, last = {2};
    const op_case cases[] = {
        {.name = "first", .attrs = &first, .in = {{.shape = SH(4, 3)}}, .n_in = 1},
        {.name = "middle", .attrs = &middle, .in = {{.shape = SH(2, 4, 3)}}, .n_in = 1},
        {.name = "last", .attrs = &last, .in = {{.shape = SH(2, 3, 4)}}, .n_in = 1},
    };
    run_op_cases(t, "log_softmax", cases, COUNT(cases), reference);
}

static void test_special_values(test *t) {
    bb_context *ctx = test_open();
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        bb_set_path(ctx, (bb_path)path);
        double y[3];
        bb_read_f64(bb_log_softmax(bb_from_f64(ctx, BB_F32, SH(3), (double[]){1e30, 0, 1e30}), -1),
                    y, 3);
        CHECK_NEAR(t, y[0], -log(2), 1e-6);
        CHECK_NEAR(t, y[1], -1e30, 1e24);
        bb_read_f64(
            bb_log_softmax(bb_from_f64(ctx, BB_F32, SH(3), (double[]){-INFINITY, 3, 3}), -1), y, 3);
        CHECK(t, y[0] == -INFINITY);
        CHECK_NEAR(t, y[1], -log(2), 1e-6);
        bb_read_f64(bb_log_softmax(bb_full(ctx, BB_F32, SH(3), -INFINITY), -1), y, 3);
        CHECK(t, isnan(y[0]) && isnan(y[1]) && isnan(y[2]));
        CHECK_OK(t, ctx);
    }
    bb_close(ctx);
}

/* What a sum of exponentials that all underflow would get wrong: exp(-200) is 0 in f32. */
static void test_far_below_zero(test *t) {
    bb_context *ctx = test_open();
    double y[2], expected = -200 - log(1 + exp(-200));
    bb_read_f64(bb_log_softmax(bb_from_f64(ctx, BB_F32, SH(2), (double[]){-200, 0}), -1), y, 2);
    CHECK_NEAR(t, y[0], expected, 2e-5);
    CHECK_NEAR(t, y[1], 0, 1e-7);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    CHECK(t, !bb_log_softmax(bb_ones(ctx, BB_F32, SH(2, 3)), -3));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "log_softmax: axis: expected an axis in [-2, 1], got -3");
    CHECK(t, !bb_log_softmax(bb_ones(ctx, BB_U8, SH(2, 3)), 0));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "log_softmax: input: expected a floating dtype, got u8");
    bb_close(ctx);
}

static const test_row rows[] = {
    {"shapes", test_shapes},
    {"dimensions", test_dimensions},
    {"axes", test_axes},
    {"special_values", test_special_values},
    {"far_below_zero", test_far_below_zero},
    {"errors", test_errors},
};
TEST_MAIN(rows)
