/* cat, stack, pad: cases against index arithmetic, other dtypes, errors. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/alloc.h"
#include "tests/support/cases.h"

#define S(...)                                                                                     \
    {                                                                                              \
        (int)(sizeof((const int64_t[]){__VA_ARGS__}) / 8), { __VA_ARGS__ }                         \
    }
#define X(...)                                                                                     \
    { .fill = FILL_NORMAL, .shape = S(__VA_ARGS__) }
#define AXIS(a) (&(const bb_axis_attrs){a})

static void ref_cat(const op_case *c, const double *const *in, const bb_shape *s, double *out) {
    const int64_t axis_ = ((const bb_axis_attrs *)c->attrs)->axis,
                  axis = axis_ < 0 ? axis_ + s->rank : axis_;
    int64_t n, index[BB_MAX_RANK];
    bb_shape_count(s, &n);
    for (int64_t i = 0; i < n; i++) {
        int from = 0;
        ref_unravel(s, i, index);
        while (index[axis] >= c->in[from].shape.size[axis])
            index[axis] -= c->in[from++].shape.size[axis];
        out[i] = in[from][ref_offset(&c->in[from].shape, index)];
    }
}
static void test_cat(test *t) {
    const op_case cases[] = {
        {.name = "one", .attrs = AXIS(0), .in = {X(3)}, .n_in = 1},
        {.name = "two", .attrs = AXIS(0), .in = {X(3), X(2)}, .n_in = 2},
        {.name = "columns", .attrs = AXIS(-1), .in = {X(2, 3), X(2, 1), X(2, 4)}, .n_in = 3},
        {.name = "middle", .attrs = AXIS(1), .in = {X(2, 2, 3), X(2, 1, 3)}, .n_in = 2},
        {.name = "empty part", .attrs = AXIS(0), .in = {X(2, 3), X(0, 3), X(1, 3)}, .n_in = 3},
    };
    run_op_cases(t, "cat", cases, COUNT(cases), ref_cat);
}

static void ref_stack(const op_case *c, const double *const *in, const bb_shape *s, double *out) {
    const int64_t axis_ = ((const bb_axis_attrs *)c->attrs)->axis,
                  axis = axis_ < 0 ? axis_ + s->rank : axis_;
    int64_t n, index[BB_MAX_RANK], rest[BB_MAX_RANK] = {0};
    bb_shape_count(s, &n);
    for (int64_t i = 0; i < n; i++) {
        ref_unravel(s, i, index);
        for (int k = 0, q = 0; k < s->rank; k++)
            if (k != axis) rest[q++] = index[k];
        out[i] = in[index[axis]][ref_offset(&c->in[0].shape, rest)];
    }
}
static void test_stack(test *t) {
    const op_case cases[] = {
        {.name = "scalars",
         .attrs = AXIS(0),
         .in = {{.fill = FILL_NORMAL}, {.fill = FILL_NORMAL}},
         .n_in = 2},
        {.name = "first", .attrs = AXIS(0), .in = {X(2, 3), X(2, 3), X(2, 3)}, .n_in = 3},
        {.name = "last", .attrs = AXIS(-1), .in = {X(2, 3), X(2, 3)}, .n_in = 2},
        {.name = "middle", .attrs = AXIS(1), .in = {X(2, 3)}, .n_in = 1},
    };
    run_op_cases(t, "stack", cases, COUNT(cases), ref_stack);
}

static void ref_pad(const op_case *c, const double *const *in, const bb_shape *s, double *out) {
    const bb_pad_attrs *a = c->attrs;
    const bb_shape *from = &c->in[0].shape;
    int64_t n, index[BB_MAX_RANK];
    bb_shape_count(s, &n);
    for (int64_t i = 0; i < n; i++) {
        bool inside = true;
        ref_unravel(s, i, index);
        for (int k = 0; k < s->rank; k++) {
            index[k] -= a->before.v[k];
            inside &= index[k] >= 0 && index[k] < from->size[k];
        }
        out[i] = inside ? in[0][ref_offset(from, index)] : a->value;
    }
}
static void test_pad(test *t) {
    const op_case cases[] = {
        {.name = "vector", .attrs = &(const bb_pad_attrs){S(1), S(2), 0}, .in = {X(3)}, .n_in = 1},
        {.name = "value",
         .attrs = &(const bb_pad_attrs){S(0, 1), S(2, 0), -1.5},
         .in = {X(2, 3)},
         .n_in = 1},
        {.name = "nothing added",
         .attrs = &(const bb_pad_attrs){S(0, 0), S(0, 0), 7},
         .in = {X(2, 3)},
         .n_in = 1},
        {.name = "around nothing",
         .attrs = &(const bb_pad_attrs){S(1, 0), S(1, 2), 2},
         .in = {X(0, 2)},
         .n_in = 1},
        {.name = "scalar",
         .attrs = &(const bb_pad_attrs){{0, {0}}, {0, {0}}, 1},
         .in = {{.fill = FILL_NORMAL}},
         .n_in = 1},
    };
    run_op_cases(t, "pad", cases, COUNT(cases), ref_pad);
}

static void test_integers(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_arange(ctx, BB_I32, 0, 3, 1),
         flags = bb_from(ctx, BB_BOOL, BB_SHAPE(2), (const uint8_t[]){1, 0});
    double v[6] = {0};
    bb_t both = bb_cat((bb_t[]){x, x}, 2, 0);
    bb_read_f64(both, v, 6);
    CHECK(t, bb_dtype_of(both) == BB_I32 && v[2] == 2 && v[3] == 0 && v[5] == 2);
    bb_read_f64(bb_pad(flags, BB_INTS(1), BB_INTS(1), 1), v, 4);
    CHECK(t, v[0] == 1 && v[1] == 1 && v[2] == 0 && v[3] == 1);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t a = bb_zeros(ctx, BB_F32, BB_SHAPE(2, 3)), b = bb_zeros(ctx, BB_F32, BB_SHAPE(3, 3)),
         w = bb_zeros(ctx, BB_F64, BB_SHAPE(2, 3));
    CHECK(t, bb_cat((bb_t[]){a, b}, 2, 1) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "expected the shape of the first, (2, 3), but for axis 1, got (3, 3)");
    CHECK(t, bb_cat((bb_t[]){a, w}, 2, 0) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected dtype f32, got f64");
    CHECK(t, bb_cat((bb_t[]){a, NULL}, 2, 0) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected a tensor, got NULL");
    CHECK(t, bb_cat((bb_t[]){a}, 1, 2) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "cat: axis: expected -2 to 1, got 2");
    CHECK(t, bb_cat(NULL, 0, 0) == NULL);
    CHECK_OK(t, ctx);
    CHECK(t, bb_stack((bb_t[]){a, b}, 2, 0) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected shape (2, 3), got (3, 3)");
    CHECK(t, bb_stack((bb_t[]){a, a}, 2, 3) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "stack: axis: expected -3 to 2, got 3");
    CHECK(t, bb_pad(a, BB_INTS(1), BB_INTS(1), 0) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "pad: before: expected 2 sizes, got 1");
    CHECK(t, bb_pad(a, BB_INTS(1, 0), BB_INTS(0, -1), 0) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "pad: after: expected sizes >= 0, got -1 at 1");
    CHECK(t, bb_pad(a, BB_INTS(1, INT64_MAX), BB_INTS(0, 0), 0) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "pad: after: expected a size that fits, got an overflow at 1");
    bb_close(ctx);
}

static void out_of_memory(bb_context *ctx) {
    bb_t x = bb_set_requires_grad(bb_randn(ctx, BB_F32, BB_SHAPE(2, 3)), true);
    bb_t y = bb_cat((bb_t[]){x, bb_transpose(bb_reshape(x, BB_SHAPE(3, 2)), 0, 1)}, 2, 0);
    y = bb_pad(bb_stack((bb_t[]){y, y}, 2, 1), BB_INTS(1, 0, 0), BB_INTS(0, 0, 2), 1);
    bb_backward(bb_sum_all(y), NULL);
}
static void test_memory(test *t) { alloc_failure_loop(t, out_of_memory); }

static const test_row rows[] = {
    {"cat", test_cat},           {"stack", test_stack},   {"pad", test_pad},
    {"integers", test_integers}, {"memory", test_memory}, {"errors", test_errors},
};
TEST_MAIN(rows)
