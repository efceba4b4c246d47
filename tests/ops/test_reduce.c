/* sum, mean, amax, amin, argmax, cumsum, sum_squares: cases against plain double loops, then what
 * tables cannot say: accuracy over many elements, NaN, ties, integers, empty tensors, the same
 * bytes for any number of threads, errors. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/alloc.h"
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
#define COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))

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

static void test_nan(test *t) {
    bb_context *ctx = test_open();
    double v[40], got[4];
    for (int d = BB_F64; d <= BB_BF16; d++) {
        for (int i = 0; i < 40; i++) v[i] = i % 7;
        v[5] = NAN, v[33] = NAN;
        bb_t x = bb_from_f64(ctx, (bb_dtype)d, BB_SHAPE(2, 20), v);
        bb_t max = bb_amax(x, BB_INTS(1), false), min = bb_amin(x, BB_INTS(1), false),
             columns = bb_amax(x, BB_INTS(0), false);
        bb_read_f64(max, got, 2);
        CHECK(t, isnan(got[0]) && isnan(got[1]));
        bb_read_f64(min, got, 2);
        CHECK(t, isnan(got[0]) && isnan(got[1]));
        CHECK(t, isnan(bb_item(bb_select(columns, 0, 5))) &&
                     isnan(bb_item(bb_select(columns, 0, 13))));
        CHECK_NEAR(t, bb_item(bb_select(columns, 0, 6)), 6, 0);
        bb_read_f64(bb_argmax(x, 1, false), got, 2);
        CHECK_NEAR(t, got[0], 5, 0);
        CHECK_NEAR(t, got[1], 13, 0);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_ties(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_set_requires_grad(
        bb_from_f64(ctx, BB_F64, BB_SHAPE(4), (const double[]){3, 1, 3, 3}), true);
    double g[4];
    bb_backward(bb_mul_scalar(bb_amax(x, BB_INTS(0), false), 6), NULL);
    bb_read_f64(bb_grad(x), g, 4);
    CHECK(t, g[0] == 2 && g[1] == 0 && g[2] == 2 && g[3] == 2);
    CHECK_NEAR(t, bb_item(bb_argmax(x, 0, false)), 0, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_integers(test *t) {
    bb_context *ctx = test_open();
    const int32_t v[6] = {1, -2, 3, 2000000000, 2000000000, 6};
    bb_t x = bb_from(ctx, BB_I32, BB_SHAPE(2, 3), v);
    CHECK_INT(t, bb_dtype_of(bb_sum_all(x)), BB_I64);
    CHECK_NEAR(t, bb_item(bb_sum_all(x)), 4000000008.0, 0);
    CHECK_NEAR(t, bb_item(bb_amin(x, (bb_ints){.n = 0}, false)), -2, 0);
    CHECK_INT(t, bb_dtype_of(bb_amax(x, BB_INTS(0), false)), BB_I32);
    CHECK_NEAR(t, bb_item(bb_select(bb_cumsum(bb_reshape(x, BB_SHAPE(6)), 0), 0, 5)), 4000000008.0,
               0);
    bb_t big = bb_from(ctx, BB_I64, BB_SHAPE(2), (const int64_t[]){INT64_MAX, 1});
    int64_t wrapped = 0;
    bb_read(bb_sum_all(big), &wrapped, 8);
    CHECK(t, wrapped == INT64_MIN);
    bb_t flags = bb_from(ctx, BB_BOOL, BB_SHAPE(3), (const uint8_t[]){1, 0, 1});
    CHECK_NEAR(t, bb_item(bb_sum_all(flags)), 2, 0);
    CHECK_INT(t, bb_dtype_of(bb_amax(flags, BB_INTS(0), false)), BB_BOOL);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_empty_and_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t none = bb_zeros(ctx, BB_F32, BB_SHAPE(0, 3)), x = bb_zeros(ctx, BB_F32, BB_SHAPE(2, 3));
    CHECK_NEAR(t, bb_item(bb_sum_all(none)), 0, 0);
    CHECK(t, isnan(bb_item(bb_mean_all(none))));
    CHECK_INT(t, bb_count(bb_amax(none, BB_INTS(1), false)), 0);
    CHECK_OK(t, ctx);
    CHECK(t, bb_amax(none, BB_INTS(0), false) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "amax: input: expected at least one element to choose from, got shape (0, 3)");
    CHECK(t, bb_argmax(none, 0, false) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "argmax: input: expected at least one element");
    CHECK(t, bb_sum(x, BB_INTS(2), false) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "sum: axes: expected -2 to 1, got 2");
    CHECK(t, bb_sum(x, BB_INTS(0, -2), false) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "sum: axes: expected different axes, got axis 0 twice");
    CHECK(t, bb_mean_all(bb_cast(x, BB_I32)) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "mean: input: expected a float dtype, got i32");
    CHECK(t, bb_cumsum(x, -3) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "cumsum: axis: expected -2 to 1, got -3");
    CHECK(t, bb_sum_to(x, BB_SHAPE(3, 3)) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "sum_to: shape: expected one that broadcasts to (2, 3), got (3, 3)");
    CHECK(t, bb_sum_all(NULL) == NULL);
    CHECK_OK(t, ctx);
    bb_t to = bb_sum_to(bb_ones(ctx, BB_F32, BB_SHAPE(4, 2, 3)), BB_SHAPE(2, 1));
    double v[2] = {0};
    bb_read_f64(to, v, 2);
    CHECK(t, bb_rank(to) == 2 && v[0] == 12 && v[1] == 12);
    CHECK(t, bb_sum_to(x, bb_shape_of(x)) == x);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Long enough for partial sums in scratch. */
static void out_of_memory(bb_context *ctx) {
    bb_t x = bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(300, 400)), true);
    bb_t y = bb_add(bb_sum_all(bb_cumsum(bb_amax(x, BB_INTS(1), false), 0)),
                    bb_mean_all(bb_sum(x, BB_INTS(0), false)));
    bb_backward(bb_add(y, bb_sum_squares(x)), NULL);
}
static void test_memory(test *t) { alloc_failure_loop(t, out_of_memory); }

/* The gradient of a late element is the sum of the few cotangents after it, to their own last
 * digit, however large those before it are. */
static void test_cumsum_gradient_keeps_small_rests(test *t) {
    static const double seed[] = {4096, 300, -70, 1, 0.0078125},
                        rests[] = {4327, 231, -69, 1.0078125, 0.0078125};
    bb_context *ctx = test_open();
    double got[10];
    bb_t x = bb_set_requires_grad(bb_zeros(ctx, BB_BF16, BB_SHAPE(2, 5)), true);
    bb_t row = bb_from_f64(ctx, BB_BF16, BB_SHAPE(5), seed);
    bb_backward(bb_cumsum(x, -1), bb_expand(row, BB_SHAPE(2, 5)));
    CHECK_OK(t, ctx);
    bb_read_f64(bb_grad(x), got, 10);
    for (int i = 0; i < 10; i++) CHECK_NEAR(t, got[i], rests[i % 5], 0x1p-8 * fabs(rests[i % 5]));
    bb_close(ctx);
}

static const test_row rows[] = {
    {"cumsum_gradient_keeps_small_rests", test_cumsum_gradient_keeps_small_rests},
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
    {"nan", test_nan},
    {"ties", test_ties},
    {"integers", test_integers},
    {"memory", test_memory},
    {"empty_and_errors", test_empty_and_errors},
};
TEST_MAIN(rows)
