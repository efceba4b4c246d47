/* gather, scatter_add, index_select, embedding: cases, repeated indices, both index dtypes, the
 * same bytes for any number of threads, indices out of range. */
#include "autograd/autograd.h"
#include "core/impl.h"
#include "ops/ops.h"
#include "tests/support/alloc.h"
#include "tests/support/cases.h"

#define S(...)                                                                                     \
    {                                                                                              \
        (int)(sizeof((const int64_t[]){__VA_ARGS__}) / 8), { __VA_ARGS__ }                         \
    }
#define X(...)                                                                                     \
    { .fill = FILL_NORMAL, .shape = S(__VA_ARGS__) }
#define INDEX(limit_, ...)                                                                         \
    { .fill = FILL_INDEX, .shape = S(__VA_ARGS__), .limit = limit_ }
#define AXIS(a) (&(const bb_axis_attrs){a})

static int axis_in(const op_case *c) {
    const int64_t axis = ((const bb_axis_attrs *)c->attrs)->axis;
    return (int)(axis < 0 ? axis + c->in[0].shape.rank : axis);
}

static void ref_gather(const op_case *c, const double *const *in, const bb_shape *s, double *out) {
    int64_t n, at[BB_MAX_RANK];
    bb_shape_count(s, &n);
    for (int64_t i = 0; i < n; i++) {
        ref_unravel(s, i, at);
        at[axis_in(c)] = (int64_t)in[1][i];
        out[i] = in[0][ref_offset(&c->in[0].shape, at)];
    }
}
static void test_gather(test *t) {
    const op_case cases[] = {
        {.name = "vector", .attrs = AXIS(0), .in = {X(5), INDEX(5, 7)}, .n_in = 2},
        {.name = "last", .attrs = AXIS(-1), .in = {X(3, 5), INDEX(5, 3, 4)}, .n_in = 2},
        {.name = "first", .attrs = AXIS(0), .in = {X(4, 3), INDEX(4, 6, 3)}, .n_in = 2},
        {.name = "smaller index",
         .attrs = AXIS(1),
         .in = {X(3, 4, 3), INDEX(4, 2, 2, 2)},
         .n_in = 2},
        {.name = "empty", .attrs = AXIS(0), .in = {X(3), INDEX(3, 0)}, .n_in = 2},
    };
    run_op_cases(t, "gather", cases, COUNT(cases), ref_gather);
}

static void ref_scatter_add(const op_case *c, const double *const *in, const bb_shape *s,
                            double *out) {
    int64_t n, m, at[BB_MAX_RANK];
    bb_shape_count(s, &n);
    bb_shape_count(&c->in[1].shape, &m);
    memcpy(out, in[0], (size_t)n * sizeof *out);
    for (int64_t i = 0; i < m; i++) {
        ref_unravel(&c->in[1].shape, i, at);
        at[axis_in(c)] = (int64_t)in[1][i];
        out[ref_offset(s, at)] += in[2][i];
    }
}
static void test_scatter_add(test *t) {
    const op_case cases[] = {
        {.name = "vector",
         .attrs = AXIS(0),
         .in = {X(3), INDEX(3, 8), X(8)},
         .n_in = 3,
         .tolerance = 16},
        {.name = "last",
         .attrs = AXIS(1),
         .in = {X(2, 3), INDEX(3, 2, 5), X(2, 5)},
         .n_in = 3,
         .tolerance = 16},
        {.name = "smaller",
         .attrs = AXIS(0),
         .in = {X(3, 3), INDEX(3, 4, 2), X(4, 2)},
         .n_in = 3,
         .tolerance = 16},
        {.name = "empty", .attrs = AXIS(0), .in = {X(3), INDEX(3, 0), X(0)}, .n_in = 3},
    };
    run_op_cases(t, "scatter_add", cases, COUNT(cases), ref_scatter_add);
}

static void ref_index_select(const op_case *c, const double *const *in, const bb_shape *s,
                             double *out) {
    int64_t n, at[BB_MAX_RANK];
    bb_shape_count(s, &n);
    for (int64_t i = 0; i < n; i++) {
        ref_unravel(s, i, at);
        at[axis_in(c)] = (int64_t)in[1][at[axis_in(c)]];
        out[i] = in[0][ref_offset(&c->in[0].shape, at)];
    }
}
static void test_index_select(test *t) {
    const op_case cases[] = {
        {.name = "rows", .attrs = AXIS(0), .in = {X(4, 3), INDEX(4, 6)}, .n_in = 2},
        {.name = "columns", .attrs = AXIS(-1), .in = {X(2, 4), INDEX(4, 3)}, .n_in = 2},
        {.name = "middle", .attrs = AXIS(1), .in = {X(2, 3, 2), INDEX(3, 5)}, .n_in = 2},
        {.name = "none", .attrs = AXIS(0), .in = {X(4, 3), INDEX(4, 0)}, .n_in = 2},
    };
    run_op_cases(t, "index_select", cases, COUNT(cases), ref_index_select);
}

static void ref_embedding(const op_case *c, const double *const *in, const bb_shape *s,
                          double *out) {
    const int64_t d = c->in[0].shape.size[1];
    int64_t n;
    bb_shape_count(s, &n);
    for (int64_t i = 0; i < n; i++) out[i] = in[0][(int64_t)in[1][i / d] * d + i % d];
}
static void test_embedding(test *t) {
    const op_case cases[] = {
        {.name = "tokens", .in = {X(5, 3), INDEX(5, 2, 4)}, .n_in = 2},
        {.name = "one", .in = {X(2, 3), {.fill = FILL_INDEX, .limit = 2}}, .n_in = 2},
        {.name = "63 columns",
         .in = {X(3, 63), INDEX(3, 7)},
         .n_in = 2,
         .no_second = true,
         .why = "slow"},
        {.name = "65 columns",
         .in = {X(3, 65), INDEX(3, 7)},
         .n_in = 2,
         .no_second = true,
         .why = "slow"},
        {.name = "none", .in = {X(3, 2), INDEX(3, 0)}, .n_in = 2},
    };
    run_op_cases(t, "embedding", cases, COUNT(cases), ref_embedding);
}

static void test_threads(test *t) {
    bb_t grad[2], sum[2];
    bb_context *ctx[2];
    for (int i = 0; i < 2; i++) {
        ctx[i] = bb_open(&(bb_options){.threads = i ? 3 : 1, .seed = 11});
        bb_t w = bb_set_requires_grad(bb_randn(ctx[i], BB_F32, BB_SHAPE(17, 200)), true);
        bb_t index = bb_cast(bb_mul_scalar(bb_rand(ctx[i], BB_F32, BB_SHAPE(900)), 16.9), BB_I32);
        bb_t seed = bb_randn(ctx[i], BB_F32, BB_SHAPE(900, 200));
        bb_backward(bb_embedding(w, index), seed);
        grad[i] = bb_grad(w);
        sum[i] = bb_scatter_add(bb_zeros(ctx[i], BB_F32, BB_SHAPE(17, 200)), 0,
                                bb_expand(bb_reshape(index, BB_SHAPE(900, 1)), BB_SHAPE(900, 200)),
                                seed);
        CHECK_OK(t, ctx[i]);
        /* The fused backward and the rule's op add in the same order. */
        CHECK(t, grad[i] && memcmp(bb_data(grad[i]), bb_data(sum[i]), 17 * 200 * 4) == 0);
    }
    CHECK(t, memcmp(bb_data(grad[0]), bb_data(grad[1]), 17 * 200 * 4) == 0);
    bb_close(ctx[0]);
    bb_close(ctx[1]);
}

static void test_half_sums(test *t) {
    bb_context *ctx = test_open();
    bb_t w = bb_set_requires_grad(bb_zeros(ctx, BB_BF16, BB_SHAPE(2, 1)), true);
    bb_backward(bb_embedding(w, bb_zeros(ctx, BB_I64, BB_SHAPE(1000))),
                bb_ones(ctx, BB_BF16, BB_SHAPE(1000, 1)));
    CHECK_NEAR(t, bb_item(bb_select(bb_reshape(bb_grad(w), BB_SHAPE(2)), 0, 0)), 1000,
               0); /* 256 if rounded at each step */
    CHECK_NEAR(t, bb_item(bb_select(bb_reshape(bb_grad(w), BB_SHAPE(2)), 0, 1)), 0, 0);
    bb_t sum = bb_scatter_add(bb_zeros(ctx, BB_BF16, BB_SHAPE(1)), 0,
                              bb_zeros(ctx, BB_I32, BB_SHAPE(1000)),
                              bb_ones(ctx, BB_BF16, BB_SHAPE(1000)));
    CHECK_NEAR(t, bb_item(sum), 1000, 0);
    bb_t bytes =
        bb_scatter_add(bb_zeros(ctx, BB_U8, BB_SHAPE(1)), 0, bb_zeros(ctx, BB_I32, BB_SHAPE(300)),
                       bb_ones(ctx, BB_U8, BB_SHAPE(300)));
    CHECK_NEAR(t, bb_item(bytes), 44, 0); /* wraps */
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_layouts(test *t) {
    bb_context *ctx = test_open();
    bb_t w = bb_transpose(bb_reshape(bb_arange(ctx, BB_F32, 0, 12, 1), BB_SHAPE(3, 4)), 0,
                          1); /* w[i][j] = 4 j + i */
    bb_t index = bb_slice(bb_from(ctx, BB_I64, BB_SHAPE(6), (const int64_t[]){3, 9, 0, 9, 2, 9}), 0,
                          0, 6, 2);
    double v[9] = {0};
    bb_read_f64(bb_embedding(w, index), v, 9);
    CHECK(t, v[0] == 3 && v[1] == 7 && v[2] == 11 && v[3] == 0 && v[8] == 10);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* A device finds an index out of range later than the call, and says where in row-major order;
 * waiting after each kernel (BOBBIN_SYNC) makes it an error of the call. */
static void check_range(test *t, bb_context *ctx, bb_t y, const char *error, const char *at,
                        const char *position) {
    char text[200];
    snprintf(text, sizeof text, "%s at %s", error, bb_get_device(ctx) == BB_CPU ? at : position);
    CHECK(t, y == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, text);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    ctx->synchronize = true;
    bb_t w = bb_zeros(ctx, BB_F32, BB_SHAPE(4, 3)), pair = bb_zeros(ctx, BB_F32, BB_SHAPE(2, 2));
    bb_t bad = bb_from(ctx, BB_I64, BB_SHAPE(2, 2), (const int64_t[]){0, 3, 4, 1}),
         three = bb_from(ctx, BB_I64, BB_SHAPE(2, 2), (const int64_t[]){0, 3, 2, 1}),
         low = bb_from(ctx, BB_I32, BB_SHAPE(2), (const int32_t[]){0, -1});
    check_range(t, ctx, bb_embedding(w, bad), "embedding: index: expected 0 to 3, got 4", "(1, 0)",
                "position 2");
    check_range(t, ctx, bb_index_select(w, 0, low), "index_select: index: expected 0 to 3, got -1",
                "(1", "position 1");
    check_range(t, ctx, bb_gather(w, 1, three), "gather: index: expected 0 to 2, got 3", "(0, 1)",
                "position 1");
    check_range(t, ctx, bb_scatter_add(w, 0, bad, pair),
                "scatter_add: index: expected 0 to 3, got 4", "(1, 0)", "position 2");
    CHECK(t, bb_embedding(w, bb_zeros(ctx, BB_F32, BB_SHAPE(2))) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "embedding: index: expected dtype i64 or i32, got f32");
    CHECK(t, bb_embedding(bb_zeros(ctx, BB_F32, BB_SHAPE(4)), low) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "embedding: weight: expected two axes, got 1");
    CHECK(t, bb_index_select(w, 0, bad) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "index_select: index: expected one axis, got 2");
    CHECK(t, bb_gather(w, 0, bb_zeros(ctx, BB_I64, BB_SHAPE(2, 4))) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "gather: index: expected a shape within (4, 3) but for axis 0, got (2, 4)");
    CHECK(t, bb_scatter_add(w, 0, bb_zeros(ctx, BB_I64, BB_SHAPE(2, 2)), w) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "scatter_add: source: expected shape (2, 2), got (4, 3)");
    CHECK(t, bb_embedding(NULL, low) == NULL);
    bb_clear_error(ctx);
    bb_close(ctx);
}

/* Wide sums of bf16, indices that are widened, a weight that is not contiguous. */
static void out_of_memory(bb_context *ctx) {
    bb_t w = bb_set_requires_grad(bb_randn(ctx, BB_BF16, BB_SHAPE(3, 4)), true);
    bb_t index = bb_from(ctx, BB_I32, BB_SHAPE(3), (const int32_t[]){1, 0, 1});
    bb_t turned = bb_index_select(bb_transpose(w, 0, 1), 1, index);
    bb_t rows = bb_add(bb_embedding(w, index), bb_transpose(turned, 0, 1));
    bb_t picked = bb_gather(rows, 0, bb_expand(bb_reshape(index, BB_SHAPE(3, 1)), BB_SHAPE(3, 4)));
    bb_backward(bb_sum_all(picked), NULL);
}
static void test_memory(test *t) { alloc_failure_loop(t, out_of_memory); }

static const test_row rows[] = {
    {"gather", test_gather},
    {"scatter_add", test_scatter_add},
    {"index_select", test_index_select},
    {"embedding", test_embedding},
    {"threads", test_threads},
    {"half_sums", test_half_sums},
    {"layouts", test_layouts},
    {"memory", test_memory},
    {"errors", test_errors},
};
TEST_MAIN(rows)
