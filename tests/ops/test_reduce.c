/* sum, mean, amax, amin, argmax, cumsum, sum_squares: cases against plain double loops, then many
 * elements: accuracy, and the same bytes for any number of threads. Odd values, errors and memory:
 * test_reduce_odd.c. */
#include "ops/ops.h"
#include "tests/support/cases.h"

#define AXES(keep, ...)                                                                            \
    (&(const bb_reduce_attrs){                                                                     \
        {.n = (int)(sizeof((const int64_t[]){__VA_ARGS__}) / 8), .v = {__VA_ARGS__}}, keep})
#define S(...)                                                                                     \
    {                                                                                              \
        (int)(sizeof((const int64_t[]){__VA_ARGS__}) / 8), { __VA_ARGS__ }                         \
    }
#define X(...)                                                                                     \
    { .fill = FILL_NORMAL, .shape = S(__VA_ARGS__) }
#define D(...)                                                                                     \
    { .fill = FILL_DISTINCT, .shape = S(__VA_ARGS__) }
#define ALL(keep) (&(const bb_reduce_attrs){{.n = 0}, keep})

enum { SUM, MEAN, MAX, MIN };

static unsigned mask_of(const op_case *c) {
    const bb_reduce_attrs *a = c->attrs;
    const int rank = c->in[0].shape.rank;
    unsigned mask = 0;
    for (int i = 0; i < a->axes.n; i++)
        mask |= 1u << (a->axes.v[i] < 0 ? a->axes.v[i] + rank : a->axes.v[i]);
    return a->axes.n ? mask : (1u << rank) - 1u;
}

static void fold(const op_case *c, const double *x, const bb_shape *out_shape, double *out,
                 int kind) {
    const bb_shape *from = &c->in[0].shape;
    const unsigned mask = mask_of(c);
    const bool keep = ((const bb_reduce_attrs *)c->attrs)->keepdim;
    int64_t n, total = 1, folded = 1;
    bb_shape_count(out_shape, &n);
    for (int i = 0; i < from->rank; i++)
        total *= from->size[i], folded *= mask >> i & 1 ? from->size[i] : 1;
    for (int64_t i = 0; i < n; i++) out[i] = kind == MAX ? -INFINITY : kind == MIN ? INFINITY : 0;
    for (int64_t i = 0; i < total; i++) {
        int64_t index[BB_MAX_RANK], to[BB_MAX_RANK];
        int rank = 0;
        ref_unravel(from, i, index);
        for (int k = 0; k < from->rank; k++) {
            if (!(mask >> k & 1))
                to[rank++] = index[k];
            else if (keep)
                to[rank++] = 0;
        }
        double *o = &out[ref_offset(out_shape, to)];
        *o = kind == MAX ? fmax(*o, x[i]) : kind == MIN ? fmin(*o, x[i]) : *o + x[i];
    }
    for (int64_t i = 0; kind == MEAN && i < n; i++) out[i] /= (double)folded;
}
static void ref_sum(const op_case *c, const double *const *in, const bb_shape *s, double *out) {
    fold(c, in[0], s, out, SUM);
}
static void ref_mean(const op_case *c, const double *const *in, const bb_shape *s, double *out) {
    fold(c, in[0], s, out, MEAN);
}
static void ref_amax(const op_case *c, const double *const *in, const bb_shape *s, double *out) {
    fold(c, in[0], s, out, MAX);
}
static void ref_amin(const op_case *c, const double *const *in, const bb_shape *s, double *out) {
    fold(c, in[0], s, out, MIN);
}

/* Shapes around the widths of the loops (16, 64, 256 columns, 512 elements, 32 rows). */
static const op_case sums[] = {
    {.name = "all of a vector", .attrs = ALL(false), .in = {X(7)}, .n_in = 1},
    {.name = "all, kept", .attrs = ALL(true), .in = {X(2, 3)}, .n_in = 1},
    {.name = "scalar", .attrs = ALL(false), .in = {{.fill = FILL_NORMAL}}, .n_in = 1},
    {.name = "last axis 15", .attrs = AXES(false, -1), .in = {X(3, 15)}, .n_in = 1},
    {.name = "last axis 16", .attrs = AXES(false, -1), .in = {X(3, 16)}, .n_in = 1},
    {.name = "last axis 65", .attrs = AXES(true, 1), .in = {X(3, 65)}, .n_in = 1},
    {.name = "last axis 513", .attrs = AXES(false, 1), .in = {X(2, 513)}, .n_in = 1},
    {.name = "columns", .attrs = AXES(false, 0), .in = {X(5, 4)}, .n_in = 1},
    {.name = "columns 31 x 17", .attrs = AXES(false, 0), .in = {X(31, 17)}, .n_in = 1},
    {.name = "columns 32 x 16", .attrs = AXES(true, 0), .in = {X(32, 16)}, .n_in = 1},
    {.name = "columns 33 x 3", .attrs = AXES(false, 0), .in = {X(33, 3)}, .n_in = 1},
    {.name = "columns 2 x 257", .attrs = AXES(false, 0), .in = {X(2, 257)}, .n_in = 1},
    {.name = "middle", .attrs = AXES(false, 1), .in = {X(2, 5, 3)}, .n_in = 1},
    {.name = "outer and inner", .attrs = AXES(false, 0, 2), .in = {X(3, 4, 5)}, .n_in = 1},
    {.name = "outer two", .attrs = AXES(true, 0, 1), .in = {X(3, 4, 5)}, .n_in = 1},
    {.name = "alternate", .attrs = AXES(false, -3, -1), .in = {X(2, 3, 2, 3)}, .n_in = 1},
    {.name = "size 1", .attrs = AXES(false, 1), .in = {X(4, 1)}, .n_in = 1},
    {.name = "no rows", .attrs = AXES(false, 0), .in = {X(0, 3)}, .n_in = 1},
    {.name = "no columns", .attrs = AXES(false, 0), .in = {X(3, 0)}, .n_in = 1},
};
static const op_case extremes[] = {
    {.name = "all", .attrs = ALL(false), .in = {D(19)}, .n_in = 1},
    {.name = "scalar", .attrs = ALL(false), .in = {{.fill = FILL_DISTINCT}}, .n_in = 1},
    {.name = "last axis 17", .attrs = AXES(false, -1), .in = {D(3, 17)}, .n_in = 1},
    {.name = "last axis 33", .attrs = AXES(true, -1), .in = {D(2, 33)}, .n_in = 1},
    {.name = "columns", .attrs = AXES(false, 0), .in = {D(9, 5)}, .n_in = 1},
    {.name = "middle", .attrs = AXES(true, 1), .in = {D(2, 5, 3)}, .n_in = 1},
    {.name = "outer and inner", .attrs = AXES(false, 0, 2), .in = {D(3, 4, 3)}, .n_in = 1},
};

static void test_sum(test *t) { run_op_cases(t, "sum", sums, COUNT(sums), ref_sum); }
static void test_mean(test *t) { run_op_cases(t, "mean", sums, COUNT(sums) - 2, ref_mean); }
static void test_amax(test *t) { run_op_cases(t, "amax", extremes, COUNT(extremes), ref_amax); }
static void test_amin(test *t) { run_op_cases(t, "amin", extremes, COUNT(extremes), ref_amin); }

static void ref_argmax(const op_case *c, const double *const *in, const bb_shape *s, double *out) {
    const bb_shape *from = &c->in[0].shape;
    const bb_arg_attrs *a = c->attrs;
    const int axis = (int)(a->axis < 0 ? a->axis + from->rank : a->axis);
    int64_t inner = 1, outer = 1, n;
    bb_shape_count(s, &n);
    for (int i = 0; i < from->rank; i++)
        *(i < axis ? &outer : &inner) *= i == axis ? 1 : from->size[i];
    for (int64_t o = 0; o < n; o++) {
        const double *x = in[0] + o / inner * inner * from->size[axis] + o % inner;
        out[o] = 0;
        for (int64_t i = 0; i < from->size[axis]; i++)
            if (x[i * inner] > x[(int64_t)out[o] * inner]) out[o] = (double)i;
    }
}
static void test_argmax(test *t) {
    const op_case cases[] = {
        {.name = "vector",
         .attrs = &(const bb_arg_attrs){0, false},
         .in = {D(19)},
         .n_in = 1,
         .no_grad = true},
        {.name = "last",
         .attrs = &(const bb_arg_attrs){-1, true},
         .in = {D(4, 33)},
         .n_in = 1,
         .no_grad = true},
        {.name = "first",
         .attrs = &(const bb_arg_attrs){0, false},
         .in = {D(5, 3)},
         .n_in = 1,
         .no_grad = true},
        {.name = "middle",
         .attrs = &(const bb_arg_attrs){1, false},
         .in = {D(2, 6, 3)},
         .n_in = 1,
         .no_grad = true},
    };
    run_op_cases(t, "argmax", cases, COUNT(cases), ref_argmax);
}

static void ref_cumsum(const op_case *c, const double *const *in, const bb_shape *s, double *out) {
    const bb_axis_attrs *a = c->attrs;
    const int axis = (int)(a->axis < 0 ? a->axis + s->rank : a->axis);
    int64_t inner = 1, n;
    bb_shape_count(s, &n);
    for (int i = axis + 1; i < s->rank; i++) inner *= s->size[i];
    for (int64_t i = 0; i < n; i++)
        out[i] = in[0][i] + (i / inner % s->size[axis] ? out[i - inner] : 0);
}
static void test_cumsum(test *t) {
    const op_case cases[] = {
        {.name = "vector",
         .attrs = &(const bb_axis_attrs){0},
         .in = {X(9)},
         .n_in = 1,
         .tolerance = 16},
        {.name = "last",
         .attrs = &(const bb_axis_attrs){-1},
         .in = {X(3, 7)},
         .n_in = 1,
         .tolerance = 16},
        {.name = "first",
         .attrs = &(const bb_axis_attrs){0},
         .in = {X(5, 4)},
         .n_in = 1,
         .tolerance = 16},
        {.name = "middle",
         .attrs = &(const bb_axis_attrs){1},
         .in = {X(2, 5, 3)},
         .n_in = 1,
         .tolerance = 16},
        {.name = "empty", .attrs = &(const bb_axis_attrs){1}, .in = {X(2, 0)}, .n_in = 1},
    };
    run_op_cases(t, "cumsum", cases, COUNT(cases), ref_cumsum);
}

static void ref_sum_squares(const op_case *c, const double *const *in, const bb_shape *s,
                            double *out) {
    int64_t n;
    (void)s;
    bb_shape_count(&c->in[0].shape, &n);
    *out = 0;
    for (int64_t i = 0; i < n; i++) *out += in[0][i] * in[0][i];
}
static void test_sum_squares(test *t) {
    const op_case cases[] = {
        {.name = "vector", .in = {X(67)}, .n_in = 1},
        {.name = "matrix", .in = {X(5, 13)}, .n_in = 1},
        {.name = "empty", .in = {X(0)}, .n_in = 1},
    };
    run_op_cases(t, "sum_squares", cases, COUNT(cases), ref_sum_squares);
}

/* A million values of 0.1: adding one after another in f32 gives 100958. */
static void test_accuracy(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_full(ctx, BB_F32, BB_SHAPE(1000, 1000), 0.1);
    CHECK_NEAR(t, bb_item(bb_sum_all(x)), 100000.0015, 0.02);
    CHECK_NEAR(t, bb_item(bb_mean_all(x)), 0.1, 2e-8);
    double v[1000];
    bb_t columns = bb_sum(x, BB_INTS(0), false), rows = bb_sum(x, BB_INTS(1), false);
    bb_read_f64(columns, v, 1000);
    CHECK_NEAR(t, v[999], 100.0000015, 1e-5);
    bb_read_f64(rows, v, 1000);
    CHECK_NEAR(t, v[0], 100.0000015, 1e-5);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static bool same_bytes(bb_t a, bb_t b) {
    return a && b &&
           memcmp(bb_data(a), bb_data(b), (size_t)bb_count(a) * bb_dtype_bytes(bb_dtype_of(a))) ==
               0;
}

static void test_threads(test *t) {
    bb_context *one = bb_open(&(bb_options){.threads = 1, .seed = 5}),
               *three = bb_open(&(bb_options){.threads = 3, .seed = 5});
    static const bb_shape shapes[] = {
        {2, {3000, 70}}, {2, {70, 3000}}, {3, {40, 50, 60}}, {2, {200000, 2}}};
    for (size_t s = 0; s < 4; s++) {
        bb_t a = bb_randn(one, BB_F32, shapes[s]), b = bb_randn(three, BB_F32, shapes[s]);
        CHECK(t, same_bytes(a, b));
        for (int axis = 0; axis < shapes[s].rank; axis++) {
            CHECK(t, same_bytes(bb_sum(a, BB_INTS(axis), false), bb_sum(b, BB_INTS(axis), false)));
            CHECK(t, same_bytes(bb_cumsum(a, axis), bb_cumsum(b, axis)));
        }
        CHECK(t, same_bytes(bb_sum_all(a), bb_sum_all(b)));
        CHECK(t, same_bytes(bb_sum_squares(a), bb_sum_squares(b)));
        CHECK(t, same_bytes(bb_amax(a, BB_INTS(0), false), bb_amax(b, BB_INTS(0), false)));
    }
    CHECK_OK(t, one);
    CHECK_OK(t, three);
    bb_close(one);
    bb_close(three);
}

static void test_large(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_randn(ctx, BB_F64, BB_SHAPE(7, 300, 500));
    enum { ALL = 7 * 300 * 500 };
    bb_t sum = bb_sum(x, BB_INTS(0, 2), false), best = bb_amax(x, BB_INTS(1), false);
    double *got = malloc((3500 + ALL) * sizeof *got), *v = got + 3500;
    bb_read_f64(x, v, ALL);
    bb_read_f64(sum, got, 300);
    for (int j = 0; j < 300; j += 37) {
        double expected = 0;
        for (int i = 0; i < 7; i++)
            for (int k = 0; k < 500; k++) expected += v[(i * 300 + j) * 500 + k];
        CHECK_NEAR(t, got[j], expected, 1e-10);
    }
    bb_read_f64(best, got, 3500);
    for (int o = 0; o < 3500; o += 411) {
        double expected = -INFINITY;
        for (int j = 0; j < 300; j++)
            expected = fmax(expected, v[(o / 500 * 300 + j) * 500 + o % 500]);
        CHECK_NEAR(t, got[o], expected, 0);
    }
    free(got);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"sum", test_sum},
    {"mean", test_mean},
    {"amax", test_amax},
    {"amin", test_amin},
    {"argmax", test_argmax},
    {"cumsum", test_cumsum},
    {"sum_squares", test_sum_squares},
    {"accuracy", test_accuracy},
    {"threads", test_threads},
    {"large", test_large},
};
TEST_MAIN(rows)
