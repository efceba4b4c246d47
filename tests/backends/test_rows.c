/* The walk over rows (backends/cpu/rows.h): how it cuts and merges; under norms, softmaxes and
 * cross entropy the same bytes for any number of threads, and for any layout of the input; memory
 * that runs out. */
#include "autograd/autograd.h"
#include "backends/cpu/rows.h"
#include "ops/ops.h"
#include "tests/support/alloc.h"

/* ---- The walk itself */

/* Groups and chunks by shape: chunks of about 16384 elements, 64 of a group at most, one at least;
 * axes that lie one after the other are one. */
static void test_cuts(test *t) {
    static const struct {
        bb_shape x, scale;
        bool turned; /* the two axes before the last lie the other way round */
        int64_t groups, rows, chunks, chunk;
        int group_axes, axes;
    } cases[] = {
        {{2, {65, 1024}}, {1, {1024}}, false, 1, 65, 5, 13, 0, 1},
        {{2, {32, 1024}}, {1, {1024}}, false, 1, 32, 2, 16, 0, 1},
        {{2, {33, 1024}}, {1, {1024}}, false, 1, 33, 3, 11, 0, 1},
        {{2, {2000, 1024}}, {1, {1024}}, false, 1, 2000, 64, 32, 0, 1},
        {{2, {3, 40000}}, {1, {40000}}, false, 1, 3, 3, 1, 0, 1},
        {{3, {3, 40, 1024}}, {3, {3, 1, 1024}}, false, 3, 40, 3, 14, 1, 2},
        {{3, {3, 40, 1024}}, {3, {3, 40, 1024}}, false, 120, 1, 1, 1, 1, 1},
        {{3, {2, 3, 4}}, {1, {4}}, false, 1, 6, 1, 6, 0, 1},
        {{3, {2, 3, 4}}, {1, {4}}, true, 1, 6, 1, 6, 0, 2},
        {{3, {2, 1, 4}}, {0, {0}}, false, 1, 2, 1, 2, 0, 1},
        {{2, {0, 8}}, {1, {8}}, false, 1, 0, 1, 0, 0, 1},
    };
    bb_context *ctx = test_open_host();
    for (int i = 0; i < COUNT(cases); i++) {
        bb_t x = bb_zeros(ctx, BB_F32, cases[i].x);
        if (cases[i].turned) {
            bb_ints other = BB_INTS(1, 0, 2);
            x = bb_permute(bb_contiguous(bb_permute(x, other)), other);
        }
        bb_rows r = bb_rows_of(x, bb_zeros(ctx, BB_F32, cases[i].scale), NULL);
        CHECK_MSG(t,
                  r.groups == cases[i].groups && r.rows == cases[i].rows &&
                      r.chunks == cases[i].chunks && r.chunk == cases[i].chunk &&
                      r.group_axes == cases[i].group_axes && r.axes == cases[i].axes,
                  "case %d: %lld groups of %lld rows, %lld chunks of %lld, axes %d and %d", i,
                  (long long)r.groups, (long long)r.rows, (long long)r.chunks, (long long)r.chunk,
                  r.group_axes, r.axes);
        CHECK_INT(t, bb_rows_step(&r, ROWS_X) != 0, r.axes > r.group_axes);
        CHECK_INT(t, bb_rows_step(&r, ROWS_DY), 0);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

/* Rows are handed out in runs as long as an axis and the chunk allow. */
static void test_runs(test *t) {
    bb_context *ctx = test_open_host();
    bb_ints other = BB_INTS(1, 0, 2);
    bb_t plain = bb_zeros(ctx, BB_F32, SH(2, 5, 4)),
         turned = bb_permute(bb_contiguous(bb_permute(plain, other)), other);
    bb_rows one = bb_rows_of(plain, NULL, NULL), two = bb_rows_of(turned, NULL, NULL);
    int64_t at[ROWS_OPERANDS];
    CHECK_INT(t, bb_rows_run(&one, 0, 0, 10, at), 10);
    CHECK_INT(t, bb_rows_run(&one, 0, 3, 7, at), 4);
    CHECK(t, at[ROWS_ORDER] == 3 && at[ROWS_X] == 12 && at[ROWS_DY] == 0);
    CHECK_INT(t, bb_rows_run(&two, 0, 0, 10, at), 5);
    CHECK_INT(t, bb_rows_run(&two, 0, 6, 10, at), 4);
    CHECK(t, at[ROWS_ORDER] == 6 && at[ROWS_X] == 12); /* (1, 1): 4 and 8 */
    CHECK_INT(t, bb_rows_run(&two, 0, 6, 8, at), 2);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* ---- Under the ops */

typedef bb_t (*op_fn)(bb_t x, bb_t weight);

static bb_t rms(bb_t x, bb_t weight) { return bb_rms_norm(x, weight, 1e-5); }
/* A scale that differs over the second axis and not over the axes around it. */
static bb_t heads(bb_t x, bb_t weight) {
    bb_shape shape = bb_shape_of(x);
    if (shape.rank < 4) return rms(x, weight);
    shape.size[0] = shape.size[2] = 1;
    bb_t ramp = bb_arange(bb_context_of(x), bb_dtype_of(x), 0, (double)shape.size[1], 1);
    ramp = bb_add_scalar(bb_reshape(ramp, BB_SHAPE(shape.size[1], 1, 1)), 1);
    return bb_rms_norm(x, bb_mul(bb_expand(weight, shape), ramp), 1e-5);
}
static bb_t layer(bb_t x, bb_t weight) { return bb_layer_norm(x, weight, weight, 1e-5); }
static bb_t soft(bb_t x, bb_t weight) {
    return bb_add(bb_softmax(x, -1), bb_mul_scalar(weight, 0));
}
static bb_t log_soft(bb_t x, bb_t weight) {
    return bb_add(bb_log_softmax(x, -1), bb_mul_scalar(weight, 0));
}
static bb_t entropy(bb_t x, bb_t weight) {
    bb_shape shape = bb_shape_of(x);
    shape.rank--;
    bb_t target = bb_full(bb_context_of(x), BB_I64, shape, 3);
    bb_t loss = bb_cross_entropy(x, target, -100, BB_REDUCE_MEAN);
    return bb_add(loss, bb_mul_scalar(bb_sum_all(weight), 0));
}

static const struct {
    const char *name;
    op_fn fn;
} ops[] = {{"rms_norm", rms}, {"rms_norm of heads", heads}, {"LayerNorm", layer},
           {"softmax", soft}, {"log_softmax", log_soft},    {"cross_entropy", entropy}};

/* Output and both gradients as bytes, one after the other; malloc'd. */
static char *run(test *t, op_fn fn, int threads, bb_dtype dtype, bb_shape shape,
                 const bb_ints *permutation, size_t *bytes) {
    bb_context *ctx = bb_open(&(bb_options){.seed = 7, .threads = threads, .path = BB_PATH_AUTO});
    bb_t x = bb_randn(ctx, dtype, shape),
         weight = bb_randn(ctx, dtype, SH(shape.size[shape.rank - 1]));
    if (permutation) {
        /* The same elements at other places: permuted to and fro with a copy between. */
        bb_ints inverse = *permutation;
        for (int i = 0; i < permutation->n; i++) inverse.v[permutation->v[i]] = i;
        x = bb_permute(bb_contiguous(bb_permute(x, *permutation)), inverse);
    }
    bb_set_requires_grad(x, true);
    bb_set_requires_grad(weight, true);
    bb_t y = fn(x, weight);
    bb_backward(y, bb_ones_like(y));
    bb_t results[] = {y, bb_grad(x), bb_grad(weight)};
    char *data = NULL;
    *bytes = 0;
    for (int i = 0; i < 3; i++) {
        size_t n = (size_t)bb_count(results[i]) * bb_dtype_bytes(dtype);
        data = realloc(data, *bytes + n + 1);
        bb_read(results[i], data + *bytes, n);
        *bytes += n;
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
    return data;
}

static void test_same_bytes_for_any_threads(test *t) {
    static const bb_dtype dtypes[] = {BB_F64, BB_F32, BB_F16};
    const bb_shape shapes[] = {SH(129, 768), SH(3, 1100, 32)};
    for (int op = 0; op < COUNT(ops); op++) {
        for (int d = 0; d < COUNT(dtypes); d++) {
            for (int s = 0; s < COUNT(shapes); s++) {
                size_t n[2];
                char *one = run(t, ops[op].fn, 1, dtypes[d], shapes[s], NULL, &n[0]);
                char *two = run(t, ops[op].fn, 2, dtypes[d], shapes[s], NULL, &n[1]);
                CHECK_MSG(t, n[0] == n[1] && memcmp(one, two, n[0]) == 0,
                          "%s %s, shape %d: two threads give other bytes", ops[op].name,
                          bb_dtype_name(dtypes[d]), s);
                free(one);
                free(two);
            }
        }
    }
}

/* Rows whose leading axes merge, or do not, and whose elements lie apart; one chunk of rows, and
 * several that begin and end within an axis. */
static void test_same_bytes_for_any_layout(test *t) {
    static const bb_dtype dtypes[] = {BB_F64, BB_F32, BB_BF16};
    const bb_shape shapes[] = {SH(5, 4, 3, 40), SH(7, 1, 13, 1024)};
    const bb_ints permutations[] = {BB_INTS(1, 0, 2, 3), BB_INTS(2, 1, 0, 3), BB_INTS(0, 2, 1, 3),
                                    BB_INTS(3, 1, 2, 0)};
    for (int i = 0; i < COUNT(ops) * COUNT(dtypes) * COUNT(shapes); i++) {
        const bb_dtype dtype = dtypes[i % COUNT(dtypes)];
        const bb_shape shape = shapes[i / COUNT(dtypes) % COUNT(shapes)];
        const int op = i / COUNT(dtypes) / COUNT(shapes);
        size_t n[2];
        char *plain = run(t, ops[op].fn, 1, dtype, shape, NULL, &n[0]);
        /* f64 sums of elements that lie apart go in another order. */
        for (int p = 0; p < (dtype == BB_F64 ? 3 : 4); p++) {
            char *moved = run(t, ops[op].fn, 1, dtype, shape, &permutations[p], &n[1]);
            CHECK_MSG(t, n[0] == n[1] && memcmp(plain, moved, n[0]) == 0,
                      "%s %s %d, permutation %d gives other bytes", ops[op].name,
                      bb_dtype_name(dtype), (int)shape.size[0], p);
            free(moved);
        }
        free(plain);
    }
}

static void all_ops(bb_context *ctx) {
    bb_t x = bb_set_requires_grad(bb_randn(ctx, BB_BF16, SH(20, 1100)), true);
    bb_t weight = bb_set_requires_grad(bb_ones(ctx, BB_BF16, SH(1100)), true);
    for (int op = 0; op < COUNT(ops); op++) {
        bb_t y = ops[op].fn(x, weight);
        if (y) bb_backward(y, bb_ones_like(y));
    }
}

static void test_allocation_failures(test *t) { alloc_failure_loop(t, all_ops); }

static const test_row rows[] = {
    {"cuts", test_cuts},
    {"runs", test_runs},
    {"same_bytes_for_any_threads", test_same_bytes_for_any_threads},
    {"same_bytes_for_any_layout", test_same_bytes_for_any_layout},
    {"allocation_failures", test_allocation_failures},
};
TEST_MAIN(rows)
