/* Indexing on a device: sums at the thresholds of backends/cuda/sort.cu and scatter.cu, the same
 * bytes whatever the number of multiprocessors, and indices out of range, which are found late. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/cuda/values.h"

/* Gradients are whole numbers, so that every order of adding gives the same sum; `same` of the
 * tokens are 3. */
static void check_embedding(test *t, bb_context *ctx, bb_dtype dtype, int64_t vocabulary,
                            int64_t columns, int64_t n, bool same) {
    double *tokens = some_values(n, 41, vocabulary), *g = some_values(n * columns, 42, 5),
           *expected = calloc((size_t)(vocabulary * columns + 1), sizeof *expected);
    for (int64_t i = 0; same && i < n; i++)
        if (i % 4) tokens[i] = 3;
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < columns; c++)
            expected[(int64_t)tokens[i] * columns + c] += g[i * columns + c];
    bb_t w = bb_set_requires_grad(bb_zeros(ctx, dtype, BB_SHAPE(vocabulary, columns)), true),
         index = bb_from_f64(ctx, columns % 2 ? BB_I32 : BB_I64, BB_SHAPE(n), tokens);
    bb_backward(bb_embedding(w, index), bb_from_f64(ctx, dtype, BB_SHAPE(n, columns), g));
    double *got = values_of(bb_grad(w));
    int wrong = 0;
    for (int64_t i = 0; i < vocabulary * columns; i++) wrong += got[i] != expected[i];
    CHECK_OK(t, ctx);
    CHECK_MSG(t, wrong == 0, "%s, vocabulary %lld, %lld columns, %lld tokens: %d wrong",
              bb_dtype_name(dtype), (long long)vocabulary, (long long)columns, (long long)n, wrong);
    free(tokens), free(g), free(expected), free(got);
    bb_end_step(ctx);
}

static void test_embedding(test *t) {
    bb_context *ctx = test_open();
    /* Chunks of 32 entries, tiles of 2048. */
    static const int64_t n[] = {1, 31, 32, 33, 64, 65, 2047, 2048, 2049, 4097};
    for (int i = 0; i < COUNT(n); i++) {
        check_embedding(t, ctx, BB_F32, 17, 4, n[i], false);
        check_embedding(t, ctx, BB_F32, 17, 3, n[i], true);
    }
    /* One, two and three passes of eight bits; none. */
    static const int64_t vocabulary[] = {1, 2, 256, 257, 65536, 65537};
    for (int i = 0; i < COUNT(vocabulary); i++)
        check_embedding(t, ctx, BB_F32, vocabulary[i], 1, 500, vocabulary[i] > 3);
    check_embedding(t, ctx, BB_F64, 33, 1026, 70, true);
    check_embedding(t, ctx, BB_F32, 33, 1025, 70, true);
    bb_close(ctx);
}

/* In the order of the index, however many others stand between: f32 gives 1 + 1e8 - 1e8 = 0 in this
 * order and 1 in most others. */
static void test_order(test *t) {
    enum { N = 3000, V = 400 };
    bb_context *ctx = test_open();
    for (int spread = 1; spread < 1200; spread = spread * 3 + 1) {
        double *tokens = some_values(N, 81, V - 1), *g = some_values(N, 82, 7), v[V];
        for (int i = 0; i < 3; i++) tokens[i * spread] = V - 1;
        g[0] = 1, g[spread] = 1e8, g[2 * spread] = -1e8;
        bb_t w = bb_set_requires_grad(bb_zeros(ctx, BB_F32, BB_SHAPE(V, 1)), true);
        bb_backward(bb_embedding(w, bb_from_f64(ctx, BB_I64, BB_SHAPE(N), tokens)),
                    bb_from_f64(ctx, BB_F32, BB_SHAPE(N, 1), g));
        bb_read_f64(bb_grad(w), v, V);
        CHECK_MSG(t, v[V - 1] == 0, "%d apart: got %g", spread, v[V - 1]);
        free(tokens), free(g);
        bb_end_step(ctx);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Each form of scatter_add against plain loops: a list spread over rows on the first, the middle
 * and the last axis, and an index of its own for each element. */
static void test_scatter(test *t) {
    enum { A = 3, B = 70, C = 8, INTO = 5 };
    bb_context *ctx = test_open();
    for (int axis = 0; axis < 3; axis++)
        for (int spread = 0; spread < 2; spread++) {
            bb_shape shape = BB_SHAPE(A, B, C), into = shape, list = BB_SHAPE(1, 1, 1);
            into.size[axis] = INTO;
            list.size[axis] = shape.size[axis];
            int64_t count;
            bb_shape_count(spread ? &list : &shape, &count);
            double *v = some_values(count, 51, INTO), *g = some_values(A * B * C, 52, 9);
            bb_t index = bb_from_f64(ctx, BB_I64, spread ? list : shape, v);
            if (spread) index = bb_expand(index, shape);
            bb_t sum = bb_scatter_add(bb_ones(ctx, BB_F32, into), axis, index,
                                      bb_from_f64(ctx, BB_F32, shape, g));
            double *got = values_of(sum), *picked = values_of(index);
            for (int64_t i = 0; i < A * B * C; i++) {
                int64_t at[] = {i / (B * C), i / C % B, i % C};
                at[axis] = (int64_t)picked[i];
                got[(at[0] * into.size[1] + at[1]) * into.size[2] + at[2]] -= g[i];
            }
            int wrong = 0;
            for (int64_t i = 0; i < bb_count(sum); i++) wrong += got[i] != 1;
            CHECK_MSG(t, wrong == 0, "axis %d, %s: %d wrong", axis, spread ? "spread" : "own",
                      wrong);
            free(v), free(g), free(got), free(picked);
        }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Rows of every length in bytes that decides how wide they are moved. */
static void test_rows_moved(test *t) {
    bb_context *ctx = test_open();
    for (int64_t columns = 1; columns <= 4200;
         columns = columns < 20 ? columns + 1 : columns * 15) {
        bb_t w = some_tensor(ctx, BB_BF16, BB_SHAPE(6, columns), 0, 61);
        const int64_t rows[] = {5, 0, 5, 3};
        double *all = values_of(w),
               *got = values_of(bb_embedding(w, bb_from(ctx, BB_I64, BB_SHAPE(4), rows)));
        int wrong = 0;
        for (int64_t i = 0; i < 4 * columns; i++)
            wrong += got[i] != all[rows[i / columns] * columns + i % columns];
        CHECK_MSG(t, wrong == 0, "%lld columns: %d wrong", (long long)columns, wrong);
        free(all), free(got);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_same_bytes(test *t) {
    static const char *const sms[] = {"1", "4", "13"};
    float first[40 * 24], sum[40 * 24], grad[40 * 24];
    for (int k = 0; k < COUNT(sms); k++) {
        setenv("BOBBIN_SIM_SMS", sms[k], 1);
        bb_context *ctx = test_open();
        double *v = some_values(900, 71, 40);
        bb_t w = bb_set_requires_grad(bb_zeros(ctx, BB_F32, BB_SHAPE(40, 24)), true),
             index = bb_from_f64(ctx, BB_I64, BB_SHAPE(900, 1), v),
             g = some_tensor(ctx, BB_F32, BB_SHAPE(900, 24), 0, 72);
        bb_backward(bb_embedding(w, bb_reshape(index, BB_SHAPE(900))), g);
        bb_read(bb_grad(w), grad, sizeof grad);
        bb_read(bb_scatter_add(bb_zeros(ctx, BB_F32, BB_SHAPE(40, 24)), 0,
                               bb_expand(index, BB_SHAPE(900, 24)), g),
                sum, sizeof sum);
        if (k == 0) memcpy(first, grad, sizeof first);
        CHECK_MSG(t, memcmp(first, grad, sizeof first) == 0, "%s multiprocessors", sms[k]);
        CHECK(t, memcmp(first, sum, sizeof first) == 0);
        CHECK_OK(t, ctx);
        free(v);
        bb_close(ctx);
    }
    unsetenv("BOBBIN_SIM_SMS");
}

/* Late: the call succeeds, the next value read reports it, zeros stand where nothing could be read,
 * nothing is added where nothing could be added; and the context goes on. */
static void test_late_errors(test *t) {
    bb_context *ctx = test_open();
    if (bb_get_device(ctx) == BB_CPU) {
        test_skip(t, "the CPU reports an index out of range at once (ops.test_index)");
        bb_close(ctx);
        return;
    }
    bb_t w = bb_ones(ctx, BB_F32, BB_SHAPE(4, 3)),
         bad = bb_from(ctx, BB_I64, BB_SHAPE(3), (const int64_t[]){1, INT64_MAX, -7});
    bb_t y = bb_embedding(w, bad);
    double v[9];
    CHECK(t, y != NULL);
    CHECK(t, bb_read_f64(y, v, 9) == BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "embedding: index: expected 0 to 3, got ");
    CHECK(t, bb_read_f64(y, v, 9) == BB_OK && v[0] == 1 && v[3] == 0 && v[8] == 0);

    bb_t sum = bb_scatter_add(w, 0, bb_expand(bb_reshape(bad, BB_SHAPE(3, 1)), BB_SHAPE(3, 3)),
                              bb_ones(ctx, BB_F32, BB_SHAPE(3, 3)));
    CHECK(t, bb_read_f64(bb_sum_all(sum), v, 1) == BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "scatter_add: index: expected 0 to 3, got ");
    CHECK_NEAR(t, bb_item(bb_sum_all(sum)), 15, 0);

    /* An axis without elements has no right index at all. */
    bb_t none = bb_zeros(ctx, BB_F32, BB_SHAPE(0, 3));
    y = bb_index_select(none, 0, bb_from(ctx, BB_I64, BB_SHAPE(1), (const int64_t[]){0}));
    CHECK(t, y && bb_read_f64(y, v, 3) == BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "index_select: index: expected 0 to -1, got 0");
    bb_scatter_add(none, 0, bb_zeros(ctx, BB_I64, BB_SHAPE(2, 3)),
                   bb_ones(ctx, BB_F32, BB_SHAPE(2, 3)));
    CHECK(t, isnan(bb_item(bb_mean_all(none))));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "scatter_add: index: expected 0 to -1, got 0");

    bb_t loss = bb_cross_entropy(
        w, bb_from(ctx, BB_I32, BB_SHAPE(4), (const int32_t[]){0, 1, 3, 2}), -100, BB_REDUCE_MEAN);
    CHECK(t, bb_read_f64(loss, v, 1) == BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "cross_entropy: target: expected 0 to 2, got 3 at position 2");
    CHECK(t, isnan(bb_item(loss)));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"embedding", test_embedding},   {"order", test_order},
    {"scatter", test_scatter},       {"rows_moved", test_rows_moved},
    {"same_bytes", test_same_bytes}, {"late_errors", test_late_errors},
};
TEST_MAIN(rows)
