/* reshape, permute, transpose, expand, slice, select, alias and their front-ends: cases, then
 * sharing of storage, reshapes of every layout, gradients through chains of views, Python's slices,
 * errors. */
#include "autograd/autograd.h"
#include "core/impl.h"
#include "ops/ops.h"
#include "ops/table.h"
#include "tests/support/alloc.h"
#include "tests/support/cases.h"

#define S(...)                                                                                     \
    {                                                                                              \
        (int)(sizeof((const int64_t[]){__VA_ARGS__}) / 8), { __VA_ARGS__ }                         \
    }
#define X(...)                                                                                     \
    { .fill = FILL_NORMAL, .shape = S(__VA_ARGS__) }
#define SIZES(...) (&(const bb_sizes_attrs){S(__VA_ARGS__)})

static void ref_same(const op_case *c, const double *const *in, const bb_shape *s, double *out) {
    int64_t n;
    (void)c;
    bb_shape_count(s, &n);
    memcpy(out, in[0], (size_t)n * sizeof *out);
}
static void test_reshape(test *t) {
    const op_case cases[] = {
        {.name = "flatten", .attrs = SIZES(6), .in = {X(2, 3)}, .n_in = 1},
        {.name = "split", .attrs = SIZES(2, 3, 2), .in = {X(4, 3)}, .n_in = 1},
        {.name = "open", .attrs = SIZES(-1, 4), .in = {X(2, 2, 3)}, .n_in = 1},
        {.name = "ones", .attrs = SIZES(1, 6, 1), .in = {X(2, 1, 3)}, .n_in = 1},
        {.name = "to scalar",
         .attrs = &(const bb_sizes_attrs){{0, {0}}},
         .in = {X(1, 1)},
         .n_in = 1},
        {.name = "from scalar", .attrs = SIZES(1, 1), .in = {{.fill = FILL_NORMAL}}, .n_in = 1},
        {.name = "empty", .attrs = SIZES(3, 0, 5), .in = {X(0, 2)}, .n_in = 1},
    };
    run_op_cases(t, "reshape", cases, COUNT(cases), ref_same);
}

static void ref_permute(const op_case *c, const double *const *in, const bb_shape *s, double *out) {
    const bb_ints *axes = &((const bb_permute_attrs *)c->attrs)->axes;
    int64_t n, to[BB_MAX_RANK], from[BB_MAX_RANK];
    bb_shape_count(s, &n);
    for (int64_t i = 0; i < n; i++) {
        ref_unravel(s, i, to);
        for (int k = 0; k < s->rank; k++)
            from[axes->v[k] < 0 ? axes->v[k] + s->rank : axes->v[k]] = to[k];
        out[i] = in[0][ref_offset(&c->in[0].shape, from)];
    }
}
static void test_permute(test *t) {
    const op_case cases[] = {
        {.name = "turn", .attrs = &(const bb_permute_attrs){S(1, 0)}, .in = {X(2, 3)}, .n_in = 1},
        {.name = "rotate",
         .attrs = &(const bb_permute_attrs){S(2, 0, 1)},
         .in = {X(2, 3, 4)},
         .n_in = 1},
        {.name = "negative",
         .attrs = &(const bb_permute_attrs){S(-1, 1, 0, 2)},
         .in = {X(2, 3, 2, 4)},
         .n_in = 1},
        {.name = "none",
         .attrs = &(const bb_permute_attrs){{0, {0}}},
         .in = {{.fill = FILL_NORMAL}},
         .n_in = 1},
    };
    run_op_cases(t, "permute", cases, COUNT(cases), ref_permute);
}

static void ref_transpose(const op_case *c, const double *const *in, const bb_shape *s,
                          double *out) {
    const bb_transpose_attrs *a = c->attrs;
    const int64_t a0 = a->axis0 < 0 ? a->axis0 + s->rank : a->axis0,
                  a1 = a->axis1 < 0 ? a->axis1 + s->rank : a->axis1;
    int64_t n, index[BB_MAX_RANK];
    bb_shape_count(s, &n);
    for (int64_t i = 0; i < n; i++) {
        ref_unravel(s, i, index);
        const int64_t swap = index[a0];
        index[a0] = index[a1];
        index[a1] = swap;
        out[i] = in[0][ref_offset(&c->in[0].shape, index)];
    }
}
static void test_transpose(test *t) {
    const op_case cases[] = {
        {.name = "matrix", .attrs = &(const bb_transpose_attrs){0, 1}, .in = {X(2, 3)}, .n_in = 1},
        {.name = "outer",
         .attrs = &(const bb_transpose_attrs){-1, 0},
         .in = {X(2, 3, 4)},
         .n_in = 1},
        {.name = "same", .attrs = &(const bb_transpose_attrs){1, -1}, .in = {X(2, 3)}, .n_in = 1},
        {.name = "defaults",
         .in = {X(2, 3)},
         .n_in = 1,
         .attrs = &(const bb_transpose_attrs){-2, -1}},
    };
    run_op_cases(t, "transpose", cases, COUNT(cases), ref_transpose);
}

static void ref_expand(const op_case *c, const double *const *in, const bb_shape *s, double *out) {
    int64_t n, index[BB_MAX_RANK];
    bb_shape_count(s, &n);
    for (int64_t i = 0; i < n; i++) {
        ref_unravel(s, i, index);
        out[i] = in[0][ref_broadcast_offset(&c->in[0].shape, s, index)];
    }
}
static void test_expand(test *t) {
    const op_case cases[] = {
        {.name = "new axis", .attrs = SIZES(4, 2, 3), .in = {X(2, 3)}, .n_in = 1},
        {.name = "ones", .attrs = SIZES(2, 5, 3), .in = {X(2, 1, 3)}, .n_in = 1},
        {.name = "keep", .attrs = SIZES(3, -1, 4), .in = {X(2, 1)}, .n_in = 1},
        {.name = "scalar", .attrs = SIZES(2, 3), .in = {{.fill = FILL_NORMAL}}, .n_in = 1},
        {.name = "to nothing", .attrs = SIZES(0, 3), .in = {X(1, 3)}, .n_in = 1},
    };
    run_op_cases(t, "expand", cases, COUNT(cases), ref_expand);
}

static void ref_slice(const op_case *c, const double *const *in, const bb_shape *s, double *out) {
    const bb_slice_attrs *a = c->attrs;
    const bb_shape *from = &c->in[0].shape;
    const int64_t axis = a->axis < 0 ? a->axis + s->rank : a->axis;
    int64_t n, index[BB_MAX_RANK], start = a->start < 0 ? a->start + from->size[axis] : a->start;
    if (start < 0) start = 0;
    bb_shape_count(s, &n);
    for (int64_t i = 0; i < n; i++) {
        ref_unravel(s, i, index);
        index[axis] = start + index[axis] * a->step;
        out[i] = in[0][ref_offset(from, index)];
    }
}
static void test_slice(test *t) {
    const op_case cases[] = {
        {.name = "part", .attrs = &(const bb_slice_attrs){0, 1, 4, 1}, .in = {X(5, 2)}, .n_in = 1},
        {.name = "step 2",
         .attrs = &(const bb_slice_attrs){1, 0, INT64_MAX, 2},
         .in = {X(2, 6)},
         .n_in = 1},
        {.name = "step 3, odd end",
         .attrs = &(const bb_slice_attrs){-1, 1, INT64_MAX, 3},
         .in = {X(2, 8)},
         .n_in = 1},
        {.name = "step past the end",
         .attrs = &(const bb_slice_attrs){0, 1, 5, 9},
         .in = {X(5)},
         .n_in = 1},
        {.name = "negative ends",
         .attrs = &(const bb_slice_attrs){0, -4, -1, 1},
         .in = {X(6, 2)},
         .n_in = 1},
        {.name = "clamped", .attrs = &(const bb_slice_attrs){0, -9, 9, 1}, .in = {X(3)}, .n_in = 1},
        {.name = "nothing",
         .attrs = &(const bb_slice_attrs){0, 3, 1, 1},
         .in = {X(4, 2)},
         .n_in = 1},
    };
    run_op_cases(t, "slice", cases, COUNT(cases), ref_slice);
}

static void ref_select(const op_case *c, const double *const *in, const bb_shape *s, double *out) {
    const bb_select_attrs *a = c->attrs;
    const bb_shape *from = &c->in[0].shape;
    const int axis = (int)(a->axis < 0 ? a->axis + from->rank : a->axis);
    int64_t n, index[BB_MAX_RANK], full[BB_MAX_RANK];
    bb_shape_count(s, &n);
    for (int64_t i = 0; i < n; i++) {
        ref_unravel(s, i, index);
        for (int k = 0, q = 0; k < from->rank; k++)
            full[k] = k == axis ? (a->index < 0 ? a->index + from->size[k] : a->index) : index[q++];
        out[i] = in[0][ref_offset(from, full)];
    }
}
static void test_select(test *t) {
    const op_case cases[] = {
        {.name = "row", .attrs = &(const bb_select_attrs){0, 1}, .in = {X(3, 4)}, .n_in = 1},
        {.name = "column", .attrs = &(const bb_select_attrs){-1, -1}, .in = {X(3, 4)}, .n_in = 1},
        {.name = "middle", .attrs = &(const bb_select_attrs){1, 0}, .in = {X(2, 3, 2)}, .n_in = 1},
        {.name = "of a vector", .attrs = &(const bb_select_attrs){0, 2}, .in = {X(3)}, .n_in = 1},
    };
    run_op_cases(t, "select", cases, COUNT(cases), ref_select);
}

static void test_alias(test *t) {
    const op_case cases[] = {{.name = "alias", .in = {X(2, 3)}, .n_in = 1}};
    run_op_cases(t, "alias", cases, COUNT(cases), ref_same);
}

static void test_sharing(test *t) {
    bb_context *ctx = test_open_host();
    bb_t x = bb_arange(ctx, BB_F32, 0, 24, 1);
    bb_t m = bb_reshape(x, BB_SHAPE(2, 3, 4));
    CHECK(t, bb_data(m) == bb_data(x));
    bb_t p = bb_permute(m, BB_INTS(2, 0, 1));
    CHECK(t, bb_data(p) == bb_data(x) && !bb_is_contiguous(p) && bb_stride(p, 0) == 1 &&
                 bb_stride(p, 1) == 12);
    CHECK(t, bb_data(bb_select(m, 0, 1)) == (char *)bb_data(x) + 48);
    /* Axes that stay together are cut and joined without a copy; others are not. */
    bb_t part = bb_slice(m, 2, 0, 2, 1);
    CHECK(t, bb_data(bb_reshape(part, BB_SHAPE(6, 2))) == bb_data(x));
    CHECK(t, bb_data(bb_reshape(part, BB_SHAPE(2, 3, 1, 2, 1))) == bb_data(x));
    CHECK(t, bb_data(bb_reshape(part, BB_SHAPE(12))) != bb_data(x));
    CHECK(t, bb_data(bb_unsqueeze(p, 1)) == bb_data(x) &&
                 bb_data(bb_squeeze(bb_unsqueeze(p, -1), -1)) == bb_data(x));
    bb_t twice =
        bb_reshape(bb_expand(bb_reshape(x, BB_SHAPE(24, 1)), BB_SHAPE(24, 2)), BB_SHAPE(48));
    CHECK_NEAR(t, bb_item(bb_select(twice, 0, 47)), 23, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* The record itself copies what no view can show. */
static void test_reshape_record_copies(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_transpose(bb_reshape(bb_arange(ctx, BB_F64, 0, 6, 1), BB_SHAPE(2, 3)), 0, 1);
    bb_t y = bb_apply1(ctx, &bb_op_reshape, &x, 1, SIZES(6));
    double v[6] = {0};
    bb_read_f64(y, v, 6);
    CHECK(t, v[0] == 0 && v[1] == 3 && v[2] == 1 && v[3] == 4 && v[4] == 2 && v[5] == 5);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_gradient_chain(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_set_requires_grad(
        bb_from_f64(ctx, BB_F64, BB_SHAPE(2, 3), (const double[]){1, 2, 3, 4, 5, 6}), true);
    bb_t y = bb_reshape(bb_transpose(x, 0, 1), BB_SHAPE(6));         /* 1 4 2 5 3 6 */
    bb_t z = bb_add(bb_slice(y, 0, 0, 6, 2), bb_narrow(y, 0, 3, 3)); /* 1+5 2+3 3+6 */
    bb_t weight = bb_from_f64(ctx, BB_F64, BB_SHAPE(3), (const double[]){1, 10, 100});
    double g[6] = {0};
    bb_backward(bb_sum_all(bb_mul(z, weight)), NULL);
    bb_read_f64(bb_grad(x), g, 6);
    const double expected[6] = {1, 10, 110, 0, 1, 100};
    for (int i = 0; i < 6; i++) CHECK_NEAR(t, g[i], expected[i], 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_zeros(ctx, BB_F32, BB_SHAPE(2, 3));
    CHECK(t, bb_reshape(x, BB_SHAPE(4)) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "reshape: shape: expected a shape of the 6 elements of (2, 3), got (4,)");
    CHECK(t, bb_reshape(x, BB_SHAPE(-1, 4)) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "reshape: shape: expected a shape of the 6 elements of (2, 3), got (-1, 4)");
    CHECK(t, bb_reshape(x, BB_SHAPE(-1, -1)) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "reshape: shape: expected sizes >= 0 and at most one -1, got -1 at 1");
    CHECK(t, bb_reshape(x, BB_SHAPE(INT64_MAX, INT64_MAX)) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "reshape: shape: expected a shape of the 6 elements");
    CHECK(t, bb_reshape(x, (bb_shape){9, {1, 1, 1, 1, 1, 1, 2, 3}}) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "reshape: shape: expected rank 0 to 8, got 9");
    CHECK(t, bb_permute(x, BB_INTS(0)) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "permute: axes: expected 2 axes, got 1");
    CHECK(t, bb_permute(x, BB_INTS(0, -2)) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "permute: axes: expected different axes, got axis 0 twice");
    CHECK(t, bb_transpose(x, 0, 2) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "transpose: axis1: expected -2 to 1, got 2");
    CHECK(t, bb_expand(x, BB_SHAPE(3)) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expand: shape: expected 2 to 8 sizes, got 1");
    CHECK(t, bb_expand(x, BB_SHAPE(4, 3)) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "expand: shape: expected 2 at 0 (only size 1 expands), got 4");
    CHECK(t, bb_expand(x, BB_SHAPE(-1, 2, 3)) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expand: shape: expected a size >= 0 at 0, got -1");
    CHECK(t, bb_slice(x, 0, 0, 2, 0) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "slice: step: expected at least 1, got 0");
    CHECK(t, bb_slice(x, 0, 2, 0, -1) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "slice: step: expected at least 1, got -1");
    CHECK(t, bb_narrow(x, 1, 2, 2) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "narrow: expected start and length within size 3, got start 2 length 2");
    CHECK(t, bb_select(x, 1, 3) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "select: index: expected -3 to 2, got 3");
    CHECK(t, bb_select(bb_scalar(ctx, BB_F32, 1), 0, 0) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "select: axis: expected an input with axes");
    CHECK(t, bb_squeeze(x, 0) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "squeeze: axis 0: expected size 1, got 2");
    CHECK(t, bb_unsqueeze(x, 3) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "unsqueeze: axis: expected -3 to 2, got 3");
    CHECK(t, !bb_reshape(NULL, BB_SHAPE(1)) && !bb_unsqueeze(NULL, 0) && !bb_select(NULL, 0, 0) &&
                 !bb_narrow(NULL, 0, 0, 1));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void out_of_memory(bb_context *ctx) {
    bb_t x = bb_set_requires_grad(bb_randn(ctx, BB_F32, BB_SHAPE(3, 4)), true);
    bb_t y = bb_reshape(bb_transpose(x, 0, 1), BB_SHAPE(6, 2));
    y = bb_mul(bb_select(y, 0, 1),
               bb_slice(bb_reshape(bb_permute(y, BB_INTS(1, 0)), BB_SHAPE(12)), 0, 0, 4, 2));
    bb_backward(bb_sum_all(bb_expand(bb_unsqueeze(y, 0), BB_SHAPE(3, 2))), NULL);
}
static void test_memory(test *t) { alloc_failure_loop(t, out_of_memory); }

static const test_row rows[] = {
    {"reshape", test_reshape},
    {"permute", test_permute},
    {"transpose", test_transpose},
    {"expand", test_expand},
    {"slice", test_slice},
    {"select", test_select},
    {"alias", test_alias},
    {"sharing", test_sharing},
    {"reshape_record_copies", test_reshape_record_copies},
    {"gradient_chain", test_gradient_chain},
    {"memory", test_memory},
    {"errors", test_errors},
};
TEST_MAIN(rows)
