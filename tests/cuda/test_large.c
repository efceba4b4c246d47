/* Tensors of more than 2^32 elements: kernels find both ends of them, forward and backward. What
 * they leave there must have the bits that the same op gives for a tensor of those two ends alone.
 *
 * A simulation could not fill such tensors, so it runs the first and the last blocks of each launch
 * and no others, on memory that exists where it is touched (sim.h: BOBBIN_SIM_ENDS); with a
 * million multiprocessors, for kernels that loop over the grid to have their last turn first. A
 * real device does all of it, if it has the memory. */
#include "core/impl.h"
#include "tests/support/test.h"

enum { MOST = 1 << 18 };

typedef bb_tensor *(*function)(bb_tensor *x);

/* A number a column, from the host: it is whole. */
static bb_tensor *of_channels(bb_tensor *x, double first) {
    const int64_t n = bb_shape_of(x).size[1];
    double *v = calloc((size_t)n, sizeof *v);
    for (int64_t i = 0; v && i < n; i++) v[i] = 1 + (first + (double)i) / 1024;
    bb_tensor *c = bb_from_f64(bb_context_of(x), bb_dtype_of(x), BB_SHAPE(n), v);
    free(v);
    return c;
}
static bb_tensor *add(bb_tensor *x) { return bb_add(x, x); }
static bb_tensor *add_bias(bb_tensor *x) { return bb_add(x, of_channels(x, 3)); }
static bb_tensor *silu(bb_tensor *x) { return bb_silu(x); }
static bb_tensor *widened(bb_tensor *x) { return bb_cast(x, BB_F32); }
static bb_tensor *rms_norm(bb_tensor *x) { return bb_rms_norm(x, of_channels(x, 1), 1e-5); }
static bb_tensor *add_rms_norm(bb_tensor *x) {
    bb_tensor *sum;
    return bb_add_rms_norm(x, bb_detach(x), of_channels(x, 1), 1e-5, &sum);
}
static bb_tensor *layer_norm(bb_tensor *x) {
    return bb_layer_norm(x, of_channels(x, 1), of_channels(x, 5), 1e-5);
}
static bb_tensor *softmax(bb_tensor *x) { return bb_softmax(x, 1); }
static bb_tensor *log_softmax(bb_tensor *x) { return bb_log_softmax(x, 1); }
static bb_tensor *row_sums(bb_tensor *x) { return bb_sum(x, BB_INTS(1), true); }
static bb_tensor *running_sums(bb_tensor *x) { return bb_cumsum(x, 1); }
static bb_tensor *arg_max(bb_tensor *x) { return bb_argmax(x, 1, true); }
static bb_tensor *turned(bb_tensor *x) {
    return bb_transpose(bb_contiguous(bb_transpose(x, 0, 1)), 0, 1);
}
static bb_tensor *halves(bb_tensor *x) {
    const int64_t n = bb_shape_of(x).size[1] / 2;
    return bb_swiglu(bb_slice(x, 1, 0, n, 1), bb_slice(x, 1, n, 2 * n, 1));
}
static bb_tensor *cross_entropy(bb_tensor *x) {
    const int64_t rows = bb_shape_of(x).size[0];
    bb_tensor *target = bb_full(bb_context_of(x), BB_I64, BB_SHAPE(rows), 3);
    return bb_unsqueeze(bb_cross_entropy(x, target, -100, BB_REDUCE_NONE), 1);
}
/* Rows as sequences. */
static bb_tensor *rope(bb_tensor *x) {
    const bb_shape s = bb_shape_of(x);
    return bb_reshape(bb_rope(bb_reshape(x, BB_SHAPE(-1, 128, s.size[1])), NULL), s);
}
static bb_tensor *sdpa(bb_tensor *x) {
    const bb_shape s = bb_shape_of(x);
    bb_tensor *q = bb_reshape(x, BB_SHAPE(-1, 2, 16, s.size[1] / 2));
    return bb_reshape(bb_sdpa(q, q, q, NULL, &(bb_sdpa_attrs){.is_causal = true}), s);
}

/* The first rows / 2 rows and the last as many. */
static double *ends_of(bb_tensor *x, int64_t rows) {
    const bb_shape s = bb_shape_of(x);
    double *v = calloc((size_t)(rows * s.size[1]), sizeof *v);
    const int64_t half = rows / 2, count = half * s.size[1];
    if (v) bb_read_f64(bb_slice(x, 0, 0, half, 1), v, count);
    if (v) bb_read_f64(bb_slice(x, 0, s.size[0] - half, s.size[0], 1), v + count, count);
    return v;
}

typedef struct large {
    const char *name;
    function run;
    int64_t n, rows; /* at each end */
    bb_dtype dtype;
    bool no_gradient;
    int blocks; /* at each end, to cover those rows; 0: 2 */
} large;

/* Result and gradient of a tensor's ends. */
typedef struct result {
    double *y, *dx;
    int64_t width;
} result;

static result run(const large *l, bb_tensor *x, bb_tensor **dy, const double *cotangent) {
    bb_context *ctx = bb_context_of(x);
    result r = {0};
    if (!l->no_gradient) bb_set_requires_grad(x, true);
    bb_tensor *y = l->run(x);
    if (!y) return r;
    r.width = bb_shape_of(y).size[1];
    r.y = ends_of(y, 2 * l->rows);
    if (l->no_gradient || !r.y) return r;
    *dy = cotangent ? bb_from_f64(ctx, bb_dtype_of(y), bb_shape_of(y), cotangent)
                    : bb_randn(ctx, bb_dtype_of(y), bb_shape_of(y));
    bb_backward(y, *dy);
    if (bb_error(ctx) == BB_OK) r.dx = ends_of(bb_grad(x), 2 * l->rows);
    return r;
}

static int differ(const double *a, const double *b, int64_t n) {
    int different = 0;
    for (int64_t i = 0; i < n; i++) different += !(a[i] == b[i]);
    return different;
}

/* Whether there was memory for it. */
static bool check(test *t, bb_context *ctx, const large *l) {
    const int64_t all = 2 * l->rows * l->n, times = 128,
                  rows = (((INT64_C(1) << 32) + MOST) / l->n / times + 1) * times;
    bb_tensor *x = bb_randn(ctx, l->dtype, BB_SHAPE(rows, l->n)), *dy = NULL, *same = NULL;
    double *in = x ? ends_of(x, 2 * l->rows) : NULL;
    result big = in ? run(l, x, &dy, NULL) : (result){0};
    double *cotangent = dy ? ends_of(dy, 2 * l->rows) : NULL;
    const bool fits = bb_error(ctx) != BB_ERR_MEMORY;
    if (fits && CHECK_OK(t, ctx) && in && big.y) {
        CHECK_MSG(t, bb_count(x) > INT64_C(1) << 32, "%s: too few", l->name);
        CHECK_MSG(t, in[all - 1] != 0 && in[all - 1] != in[all - 2], "%s: no numbers", l->name);
        bb_tensor *ends = bb_from_f64(ctx, l->dtype, BB_SHAPE(2 * l->rows, l->n), in);
        result small = run(l, ends, &same, cotangent);
        CHECK_OK(t, ctx);
        const int y = differ(big.y, small.y, 2 * l->rows * big.width),
                  dx = big.dx && small.dx ? differ(big.dx, small.dx, all) : 0;
        CHECK_MSG(t, y == 0, "%s: %d of the results at the ends differ", l->name, y);
        CHECK_MSG(t, dx == 0, "%s: %d of the gradients at the ends differ", l->name, dx);
        CHECK_MSG(t, l->no_gradient || (big.dx && small.dx), "%s: no gradient", l->name);
        free(small.y), free(small.dx);
    }
    free(in), free(big.y), free(big.dx), free(cotangent);
    bb_clear_error(ctx);
    if (x) bb_set_requires_grad(x, false);
    bb_end_step(ctx);
    return fits;
}

static bb_context *open_large(int blocks) {
    char ends[16];
    snprintf(ends, sizeof ends, "%d", blocks ? blocks : 2);
    setenv("BOBBIN_SIM_ENDS", ends, 1);
    setenv("BOBBIN_SIM_MEMORY", "1000000000000", 1);
    setenv("BOBBIN_SIM_SMS", "1000000000", 1);
    bb_context *ctx = test_open();
    ctx->poison = false; /* it would touch all of it */
    return ctx;
}

static void check_all(test *t, const large *all, int count) {
    for (int i = 0; i < count && !t->skipped; i++) {
        bb_context *ctx = open_large(all[i].blocks);
        if (!check(t, ctx, &all[i])) test_skip(t, "the device has too little memory");
        bb_close(ctx);
    }
    unsetenv("BOBBIN_SIM_ENDS");
}
#define CHECK_ALL(t, table) check_all(t, table, COUNT(table))

static void test_elementwise(test *t) {
    static const large all[] = {
        {"add", add, 256, 1, BB_BF16, false, 0},
        {"add, single elements", add_bias, 255, 1, BB_BF16, false, 0},
        {"add, rows", add_bias, 256, 1, BB_BF16, false, 0},
        {"silu", silu, 256, 1, BB_BF16, false, 0},
        {"cast", widened, 256, 1, BB_BF16, false, 0},
        {"swiglu", halves, 256, 1, BB_BF16, false, 0},
        {"rope", rope, 1024, 128, BB_BF16, false, 256},
        {"transpose", turned, 32, 1, BB_BF16, false, 0},
    };
    CHECK_ALL(t, all);
}

static void test_rows(test *t) {
    static const large all[] = {
        {"rms_norm, short rows", rms_norm, 128, 1, BB_BF16, false, 1},
        {"rms_norm", rms_norm, 2048, 1, BB_BF16, false, 1},
        {"rms_norm, single elements", rms_norm, 255, 1, BB_BF16, false, 0},
        {"rms_norm, long rows", rms_norm, 32768, 1, BB_BF16, false, 64},
        {"rms_norm, f32", rms_norm, 512, 1, BB_F32, false, 1},
        {"add_rms_norm", add_rms_norm, 1024, 1, BB_BF16, false, 1},
        {"layer_norm", layer_norm, 1024, 1, BB_BF16, false, 1},
        {"softmax", softmax, 256, 1, BB_BF16, false, 0},
        {"softmax, long rows", softmax, 8192, 1, BB_BF16, false, 0},
        {"log_softmax", log_softmax, 255, 1, BB_BF16, false, 0},
        {"cross_entropy", cross_entropy, 256, 1, BB_BF16, false, 0},
        {"cross_entropy, long rows", cross_entropy, 8192, 1, BB_BF16, false, 0},
        {"sdpa", sdpa, 128, 16, BB_BF16, false, 8},
        {"sum", row_sums, 256, 1, BB_BF16, false, 0},
        {"cumsum", running_sums, 256, 1, BB_BF16, true, 0},
        {"argmax", arg_max, 256, 1, BB_BF16, true, 0},
    };
    CHECK_ALL(t, all);
}

/* Rows of a table by number. */
static void test_lookup(test *t) {
    enum { N = 256, IDS = 4 };
    const int64_t rows = ((INT64_C(1) << 32) + MOST) / N;
    double ids[IDS] = {0, (double)(rows - 1), (double)(rows / 2), (double)(rows - 1)}, got[IDS * N],
           *expected;
    bb_context *ctx = open_large(0);
    bb_tensor *table = bb_randn(ctx, BB_BF16, BB_SHAPE(rows, N));
    if (bb_error(ctx) == BB_ERR_MEMORY) {
        test_skip(t, "the device has too little memory");
    } else {
        bb_tensor *at = bb_from_f64(ctx, BB_I64, BB_SHAPE(IDS), ids);
        bb_set_requires_grad(table, true);
        bb_tensor *found = bb_embedding(table, at);
        bb_read_f64(found, got, IDS * N);
        expected = ends_of(bb_detach(table), 2);
        CHECK_INT(t, differ(got, expected, 2 * N), 0);
        CHECK_INT(t, differ(got + 3 * N, expected + N, N), 0);
        CHECK(t, expected[2 * N - 1] != 0);
        free(expected);
        bb_backward(found, bb_ones_like(found));
        expected = ends_of(bb_grad(table), 2);
        for (int i = 0; i < 2 * N; i++) CHECK_NEAR(t, expected[i], i < N ? 1 : 2, 0);
        CHECK_OK(t, ctx);
        free(expected);
    }
    bb_close(ctx);
    unsetenv("BOBBIN_SIM_ENDS");
}

static const test_row rows[] = {
    {"elementwise", test_elementwise}, {"rows", test_rows}, {"lookup", test_lookup}};
TEST_MAIN(rows)
