/* SDPA against plain loops over queries and keys: every mask, grouped heads, sizes around a block
 * of 64. */
#include <float.h>

#include "ops/ops.h"
#include "tests/support/alloc.h"
#include "tests/support/cases.h"

static bool visible(const bb_sdpa_attrs *a, int64_t t, int64_t s, int64_t queries, int64_t keys) {
    const int64_t last = t + keys - queries;
    return !(a->is_causal && s > last) && !(a->window_size && last - s >= a->window_size);
}

/* One query: weights of all keys, then the weighted sum of the values. */
static void attend(const op_case *c, const double *const *in, int64_t head, int64_t t,
                   double *weight, double *out) {
    static const bb_sdpa_attrs defaults = {0, false, 0};
    const bb_sdpa_attrs *a = c->attrs ? c->attrs : &defaults;
    const bb_shape *q = &c->in[0].shape, *k = &c->in[1].shape, *v = &c->in[2].shape,
                   *mask = &c->in[3].shape;
    const int rank = q->rank;
    const int64_t queries = q->size[rank - 2], keys = k->size[rank - 2], width = q->size[rank - 1],
                  e = v->size[rank - 1];
    const int64_t group = rank > 2 ? q->size[rank - 3] / k->size[rank - 3] : 1, own = head / group;
    const double scale = a->scale != 0 ? a->scale : width ? 1 / sqrt((double)width) : 0;
    bb_shape scores = *q;
    scores.size[rank - 1] = keys;
    double max = -INFINITY, sum = 0;
    for (int64_t s = 0; s < keys; s++) {
        int64_t index[BB_MAX_RANK];
        ref_unravel(&scores, (head * queries + t) * keys + s, index);
        weight[s] = 0;
        for (int64_t d = 0; d < width; d++)
            weight[s] +=
                in[0][(head * queries + t) * width + d] * in[1][(own * keys + s) * width + d];
        weight[s] *= scale;
        if (in[3]) {
            const double m = in[3][ref_broadcast_offset(mask, &scores, index)];
            weight[s] = c->in[3].fill != FILL_BOOL ? weight[s] + m : m != 0 ? weight[s] : -INFINITY;
        }
        if (!visible(a, t, s, queries, keys)) weight[s] = -INFINITY;
        max = fmax(max, weight[s]);
    }
    for (int64_t s = 0; s < keys; s++)
        sum += weight[s] = weight[s] == -INFINITY ? 0 : exp(weight[s] - max);
    for (int64_t d = 0; d < e; d++) {
        out[d] = 0;
        for (int64_t s = 0; s < keys && sum > 0; s++)
            out[d] += weight[s] / sum * in[2][(own * keys + s) * e + d];
    }
}

static void reference(const op_case *c, const double *const *in, const bb_shape *out_shape,
                      double *out) {
    const int64_t queries = out_shape->size[out_shape->rank - 2],
                  e = out_shape->size[out_shape->rank - 1];
    int64_t n = 0;
    bb_shape_count(out_shape, &n);
    double *weight = calloc((size_t)c->in[1].shape.size[out_shape->rank - 2] + 1, sizeof *weight);
    for (int64_t row = 0; weight && e && row < n / e; row++)
        attend(c, in, row / queries, row % queries, weight, out + row * e);
    free(weight);
}

static const bb_sdpa_attrs causal = {0, true, 0}, scaled = {0.3, false, 0}, window = {0, false, 3},
                           both = {0, true, 5}, endless = {0, false, INT64_MAX};

#define S(...) __VA_ARGS__
#define QKV(q, k, v) .in = {{.shape = q}, {.shape = k}, {.shape = v}, {.absent = true}}, .n_in = 4
#define MASKED(q, k, v, ...)                                                                       \
    .in = {{.shape = q}, {.shape = k}, {.shape = v}, {__VA_ARGS__}}, .n_in = 4
#define LARGE .no_second = true, .why = "slow", .tolerance = 8
static const op_case cases[] = {
    {.name = "plain", QKV(S({4, {2, 2, 5, 4}}), S({4, {2, 2, 6, 4}}), S({4, {2, 2, 6, 4}}))},
    {.name = "causal",
     .attrs = &causal,
     QKV(S({3, {2, 5, 4}}), S({3, {2, 5, 4}}), S({3, {2, 5, 4}}))},
    {.name = "causal, more keys",
     .attrs = &causal,
     QKV(S({3, {2, 3, 4}}), S({3, {2, 7, 4}}), S({3, {2, 7, 3}}))},
    {.name = "causal, more queries",
     .attrs = &causal,
     QKV(S({3, {2, 7, 4}}), S({3, {2, 3, 4}}), S({3, {2, 3, 2}}))},
    {.name = "scale",
     .attrs = &scaled,
     QKV(S({3, {1, 4, 3}}), S({3, {1, 4, 3}}), S({3, {1, 4, 5}}))},
    {.name = "window",
     .attrs = &window,
     QKV(S({3, {1, 6, 4}}), S({3, {1, 8, 4}}), S({3, {1, 8, 4}}))},
    {.name = "causal window",
     .attrs = &both,
     QKV(S({3, {1, 9, 4}}), S({3, {1, 9, 4}}), S({3, {1, 9, 4}}))},
    {.name = "window without end",
     .attrs = &endless,
     QKV(S({3, {1, 6, 4}}), S({3, {1, 8, 4}}), S({3, {1, 8, 4}}))},
    {.name = "grouped heads",
     .attrs = &causal,
     QKV(S({4, {2, 4, 3, 4}}), S({4, {2, 2, 3, 4}}), S({4, {2, 2, 3, 4}}))},
    {.name = "one key head", QKV(S({3, {3, 4, 2}}), S({3, {1, 5, 2}}), S({3, {1, 5, 2}}))},
    {.name = "no head axis", QKV(S({2, {4, 3}}), S({2, {5, 3}}), S({2, {5, 2}}))},
    {.name = "one query",
     .attrs = &causal,
     QKV(S({3, {2, 1, 4}}), S({3, {2, 9, 4}}), S({3, {2, 9, 4}}))},
    {.name = "one of all", QKV(S({3, {1, 1, 1}}), S({3, {1, 1, 1}}), S({3, {1, 1, 1}}))},
    {.name = "no queries", QKV(S({3, {1, 0, 2}}), S({3, {1, 3, 2}}), S({3, {1, 3, 2}}))},
    {.name = "no keys", QKV(S({3, {1, 2, 2}}), S({3, {1, 0, 2}}), S({3, {1, 0, 2}}))},
    {.name = "no width", QKV(S({3, {1, 2, 0}}), S({3, {1, 3, 0}}), S({3, {1, 3, 2}}))},
    {.name = "no value width", QKV(S({3, {1, 2, 2}}), S({3, {1, 3, 2}}), S({3, {1, 3, 0}}))},
    {.name = "no heads", QKV(S({3, {0, 2, 2}}), S({3, {0, 3, 2}}), S({3, {0, 3, 2}}))},
    {.name = "bool mask",
     MASKED(S({4, {2, 2, 4, 3}}), S({4, {2, 2, 5, 3}}), S({4, {2, 2, 5, 3}}), .fill = FILL_BOOL,
            .shape = {4, {2, 2, 4, 5}})},
    {.name = "bool mask of rows",
     MASKED(S({4, {2, 2, 4, 3}}), S({4, {2, 2, 5, 3}}), S({4, {2, 2, 5, 3}}), .fill = FILL_BOOL,
            .shape = {2, {4, 1}})},
    {.name = "bool mask of keys, causal",
     .attrs = &causal,
     MASKED(S({4, {2, 2, 4, 3}}), S({4, {2, 2, 4, 3}}), S({4, {2, 2, 4, 3}}), .fill = FILL_BOOL,
            .shape = {4, {2, 1, 1, 4}})},
    {.name = "float mask",
     MASKED(S({3, {2, 4, 3}}), S({3, {2, 5, 3}}), S({3, {2, 5, 3}}), .shape = {2, {4, 5}},
            .no_grad = true)},
    {.name = "float mask, grouped",
     MASKED(S({3, {4, 4, 3}}), S({3, {2, 5, 3}}), S({3, {2, 5, 3}}), .shape = {3, {4, 1, 5}},
            .no_grad = true),
     .tolerance = 8}, /* large scores, small averages: rounding of the scores shows */
    {.name = "float mask with gradient",
     MASKED(S({3, {2, 3, 3}}), S({3, {2, 4, 3}}), S({3, {2, 4, 3}}), .shape = {2, {3, 4}})},
    {.name = "a block less one",
     .attrs = &causal,
     QKV(S({3, {1, 63, 16}}), S({3, {1, 63, 16}}), S({3, {1, 63, 16}})),
     LARGE},
    {.name = "a block",
     .attrs = &causal,
     QKV(S({3, {2, 64, 16}}), S({3, {1, 64, 16}}), S({3, {1, 64, 16}})),
     LARGE},
    {.name = "a block and one",
     .attrs = &causal,
     QKV(S({3, {1, 65, 17}}), S({3, {1, 65, 17}}), S({3, {1, 65, 24}})),
     LARGE},
    {.name = "blocks, no mask",
     QKV(S({3, {1, 65, 32}}), S({3, {1, 129, 32}}), S({3, {1, 129, 20}})),
     LARGE},
    {.name = "blocks, window",
     .attrs = &both,
     QKV(S({3, {1, 130, 8}}), S({3, {1, 150, 8}}), S({3, {1, 150, 8}})),
     LARGE},
    {.name = "blocks, bool mask",
     .attrs = &causal,
     MASKED(S({3, {1, 70, 8}}), S({3, {1, 70, 8}}), S({3, {1, 70, 8}}), .fill = FILL_BOOL,
            .shape = {2, {70, 70}}),
     LARGE},
};

static void test_cases(test *t) { run_op_cases(t, "SDPA", cases, COUNT(cases), reference); }

/* A query that sees nothing: zeros, no gradient, nothing else disturbed; -inf in a float mask is
 * the same as false. */
static void test_blind_rows(test *t) {
    enum { T = 3, N = 4, D = 2 };
    const double allow[T * N] = {1, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 1};
    double add[T * N], out[2][T * D], dk[2][N * D], dq[T * D];
    for (int i = 0; i < T * N; i++) add[i] = allow[i] != 0 ? 0 : -INFINITY;
    for (int path = BB_PATH_FUSED; path <= BB_PATH_COMPOSED; path++) {
        for (int form = 0; form < 2; form++) {
            bb_context *ctx = test_open();
            bb_t q = bb_set_requires_grad(bb_randn(ctx, BB_F32, BB_SHAPE(1, T, D)), true);
            bb_t k = bb_set_requires_grad(bb_randn(ctx, BB_F32, BB_SHAPE(1, N, D)), true);
            bb_t v = bb_randn(ctx, BB_F32, BB_SHAPE(1, N, D));
            bb_t mask = form ? bb_from_f64(ctx, BB_F32, BB_SHAPE(T, N), add)
                             : bb_from_f64(ctx, BB_BOOL, BB_SHAPE(T, N), allow);
            bb_set_path(ctx, (bb_path)path);
            bb_t y = bb_sdpa(q, k, v, mask, NULL);
            bb_set_path(ctx, BB_PATH_AUTO);
            bb_backward(y, bb_randn(ctx, BB_F32, BB_SHAPE(1, T, D)));
            bb_read_f64(y, out[form], T * D);
            bb_read_f64(bb_grad(k), dk[form], N * D);
            bb_read_f64(bb_grad(q), dq, T * D);
            CHECK_OK(t, ctx);
            CHECK(t, out[form][2] == 0 && out[form][3] == 0 && dq[2] == 0 && dq[3] == 0);
            CHECK(t, out[form][0] != 0 && dq[0] != 0);
            bb_close(ctx);
        }
        CHECK(t, memcmp(out[0], out[1], sizeof out[0]) == 0 &&
                     memcmp(dk[0], dk[1], sizeof dk[0]) == 0);
    }
}

/* A float mask of the lowest number over a whole row is not -inf: it hides no key from another. */
static void test_lowest_mask(test *t) {
    for (int path = BB_PATH_FUSED; path <= BB_PATH_COMPOSED; path++) {
        bb_context *ctx = test_open();
        const float value[] = {1, 2, 6};
        bb_set_path(ctx, (bb_path)path);
        bb_t q = bb_zeros(ctx, BB_F32, BB_SHAPE(1, 2, 1)),
             k = bb_zeros(ctx, BB_F32, BB_SHAPE(1, 3, 1));
        bb_t mask = bb_full(ctx, BB_F32, BB_SHAPE(2, 3), -FLT_MAX);
        bb_t v = bb_set_requires_grad(bb_from(ctx, BB_F32, BB_SHAPE(1, 3, 1), value), true);
        bb_t y = bb_sdpa(q, k, v, mask, NULL);
        bb_backward(bb_sum_all(y), NULL);
        double out[2] = {0}, dv[3] = {0};
        bb_read_f64(y, out, 2);
        bb_read_f64(bb_grad(v), dv, 3);
        CHECK_OK(t, ctx);
        for (int i = 0; i < 2; i++) CHECK_NEAR(t, out[i], 3, 1e-6);
        /* fused: ops/sdpa.c, the price of logsumexp */
        for (int i = 0; i < 3 && path == BB_PATH_COMPOSED; i++) CHECK_NEAR(t, dv[i], 2.0 / 3, 1e-6);
        bb_close(ctx);
    }
}

static void test_nan_spreads(test *t) {
    for (int path = BB_PATH_FUSED; path <= BB_PATH_COMPOSED; path++) {
        bb_context *ctx = test_open();
        const float key[] = {1, NAN};
        float y[2];
        bb_set_path(ctx, (bb_path)path);
        bb_t one = bb_ones(ctx, BB_F32, BB_SHAPE(1, 2, 1));
        bb_read(bb_sdpa(one, bb_from(ctx, BB_F32, BB_SHAPE(1, 2, 1), key), one, NULL, &causal), y,
                sizeof y);
        CHECK_OK(t, ctx);
        CHECK(t, y[0] == 1 && isnan(y[1]));
        bb_close(ctx);
    }
}

/* A training step of attention over long rows: far less memory than one matrix of scores. */
static void test_memory(test *t) {
    enum { T = 2048, D = 16 };
    bb_context *ctx = test_open();
    bb_t x = bb_set_requires_grad(bb_randn(ctx, BB_F32, BB_SHAPE(2, T, D)), true);
    size_t before = bb_memory_stats(ctx).bytes_peak;
    bb_backward(bb_sum_all(bb_sdpa(x, x, x, NULL, &causal)), NULL);
    size_t used = bb_memory_stats(ctx).bytes_peak - before;
    CHECK_OK(t, ctx);
    CHECK_MSG(t, used < (size_t)T * T * 4 / 3, "used %zu bytes, a matrix of scores has %zu", used,
              (size_t)T * T * 4);
    bb_close(ctx);
}

/* Half precision takes what its results take, and scratch for each thread: no f32 tensors. */
static void test_narrow_memory(test *t) {
    enum { HEADS = 32, T = 256, D = 32, BYTES = HEADS * T * D * 2 };
    for (int half = 0; half < 2; half++) {
        bb_context *ctx = bb_open(&(bb_options){.threads = 2});
        const bb_dtype dtype = half ? BB_F16 : BB_BF16;
        const bb_shape shape = BB_SHAPE(HEADS, T, D);
        bb_t q = bb_set_requires_grad(bb_ones(ctx, dtype, shape), true);
        bb_t k = bb_set_requires_grad(bb_ones(ctx, dtype, shape), true);
        bb_t v = bb_set_requires_grad(bb_ones(ctx, dtype, shape), true);
        bb_t dy = bb_ones(ctx, dtype, shape);
        size_t before = bb_memory_stats(ctx).bytes_held;
        bb_t y = bb_sdpa(q, k, v, NULL, &causal);
        const size_t forward = bb_memory_stats(ctx).bytes_peak - before;
        before = bb_memory_stats(ctx).bytes_held;
        bb_backward(y, dy);
        const size_t backward = bb_memory_stats(ctx).bytes_peak - before;
        CHECK_OK(t, ctx);
        CHECK_MSG(t, forward < 1.5 * BYTES, "forward used %zu bytes for %d of output", forward,
                  BYTES);
        CHECK_MSG(t, backward < 3.75 * BYTES, "backward used %zu bytes for %d of gradients",
                  backward, 3 * BYTES);
        bb_close(ctx);
    }
}

/* Output and the gradients of q and k, which have half of q's heads: 2.5 `bytes`. */
static void step(int threads, bb_dtype dtype, char *result, size_t bytes) {
    bb_context *ctx = bb_open(&(bb_options){.seed = 3, .threads = threads});
    bb_t q = bb_set_requires_grad(bb_randn(ctx, dtype, BB_SHAPE(2, 4, 130, 16)), true);
    bb_t k = bb_set_requires_grad(bb_randn(ctx, dtype, BB_SHAPE(2, 2, 130, 16)), true);
    bb_t y = bb_sdpa(q, k, k, NULL, &causal);
    bb_backward(y, bb_randn(ctx, dtype, bb_shape_of(y)));
    bb_read(y, result, bytes);
    bb_read(bb_grad(q), result + bytes, bytes);
    bb_read(bb_grad(k), result + 2 * bytes, bytes / 2);
    bb_close(ctx);
}

static void test_threads(test *t) {
    enum { N = 2 * 4 * 130 * 16 };
    for (int narrow = 0; narrow < 2; narrow++) {
        const bb_dtype dtype = narrow ? BB_BF16 : BB_F32;
        const size_t bytes = N * bb_dtype_bytes(dtype);
        char *one = calloc(3, bytes), *more = calloc(3, bytes);
        if (CHECK(t, one && more)) {
            step(1, dtype, one, bytes);
            for (size_t part = 0; part < 3; part++) CHECK(t, one[part * bytes + 65] != 0);
            for (int threads = 2; threads < 4; threads++) {
                step(threads, dtype, more, bytes);
                CHECK(t, memcmp(one, more, 3 * bytes) == 0);
            }
        }
        free(one);
        free(more);
    }
}

static void short_of_memory(bb_context *ctx) {
    bb_t x = bb_set_requires_grad(bb_randn(ctx, BB_BF16, BB_SHAPE(2, 5, 4)), true);
    bb_backward(bb_sum_all(bb_sdpa(x, x, x, bb_ones(ctx, BB_BF16, BB_SHAPE(5, 5)), &causal)), NULL);
}
static void test_allocation(test *t) { alloc_failure_loop(t, short_of_memory); }

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t q = bb_zeros(ctx, BB_F32, BB_SHAPE(2, 4, 3, 8)),
         k = bb_zeros(ctx, BB_F32, BB_SHAPE(2, 2, 5, 8));
    CHECK(t, bb_sdpa(q, bb_zeros(ctx, BB_F32, BB_SHAPE(2, 3, 5, 8)), k, NULL, NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "SDPA: key: expected size 4 or a divisor on axis 1, got 3");
    CHECK(t, bb_sdpa(q, bb_zeros(ctx, BB_F32, BB_SHAPE(1, 2, 5, 8)), k, NULL, NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "SDPA: key: expected size 2 on axis 0, got 1");
    CHECK(t, bb_sdpa(q, bb_zeros(ctx, BB_F32, BB_SHAPE(2, 2, 5, 7)), k, NULL, NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "SDPA: key: expected 8 elements a row like query, got 7");
    CHECK(t, bb_sdpa(q, k, bb_zeros(ctx, BB_F32, BB_SHAPE(2, 2, 4, 8)), NULL, NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "SDPA: value: expected shape (2, 2, 5, 8), got (2, 2, 4, 8)");
    CHECK(t, bb_sdpa(q, k, k, bb_zeros(ctx, BB_F32, BB_SHAPE(3, 4)), NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "SDPA: attn_mask: expected a shape that broadcasts to (2, 4, 3, 5), got (3, 4)");
    CHECK(t, bb_sdpa(q, k, k, bb_zeros(ctx, BB_I64, BB_SHAPE(3, 5)), NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "SDPA: attn_mask: expected dtype bool or f32, got i64");
    CHECK(t, bb_sdpa(q, k, k, NULL, &(bb_sdpa_attrs){0, false, -1}) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "SDPA: window_size: expected a number >= 0, got -1");
    CHECK(t, bb_sdpa(q, k, NULL, NULL, NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "SDPA: value: expected a tensor, got NULL");
    bb_close(ctx);
}

static const test_row rows[] = {
    {"cases", test_cases},           {"lowest_mask", test_lowest_mask},
    {"blind_rows", test_blind_rows}, {"nan_spreads", test_nan_spreads},
    {"memory", test_memory},         {"narrow_memory", test_narrow_memory},
    {"threads", test_threads},       {"allocation", test_allocation},
    {"errors", test_errors},
};
TEST_MAIN(rows)
