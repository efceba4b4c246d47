/* softmax, log_softmax and cross_entropy on a device: row lengths at the thresholds of
 * backends/cuda/softmax.cu (lanes, blocks, what fits in shared memory) up to 262144, aligned and
 * not, forward and backward against plain loops. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/cuda/values.h"

typedef struct sizes {
    int64_t rows, n, gap;
    bb_dtype dtype;
} sizes;

static double unit_of(bb_dtype dtype) { return dtype == BB_BF16 ? 1.0 / 128 : 2e-6; }

/* y and dx of one row. */
static void reference(bool logarithm, int64_t n, const double *x, const double *dy,
                      const double *rounded, double *y, double *dx) {
    double max = -INFINITY, sum = 0, dot = 0;
    for (int64_t i = 0; i < n; i++) max = fmax(max, x[i]);
    for (int64_t i = 0; i < n; i++) sum += exp(x[i] - max);
    for (int64_t i = 0; i < n; i++) {
        y[i] = logarithm ? x[i] - max - log(sum) : exp(x[i] - max) / sum;
        dot += logarithm ? dy[i] : dy[i] * rounded[i];
    }
    for (int64_t i = 0; i < n; i++)
        dx[i] = logarithm ? dy[i] - exp(rounded[i]) * dot : rounded[i] * (dy[i] - dot);
}

static void check_softmax(test *t, bb_context *ctx, const sizes *s, bool logarithm) {
    bb_t x =
        bb_set_requires_grad(some_tensor(ctx, s->dtype, BB_SHAPE(s->rows, s->n), s->gap, 21), true);
    bb_t y = logarithm ? bb_log_softmax(x, -1) : bb_softmax(x, -1);
    bb_t dy = some_tensor(ctx, s->dtype, BB_SHAPE(s->rows, s->n), s->gap, 22);
    bb_backward(y, dy);
    double *in = values_of(x), *out = values_of(y), *seed = values_of(dy),
           *grad = values_of(bb_grad(x)), *row = malloc((size_t)s->n * 16), *slope = row + s->n;
    const double unit = unit_of(s->dtype);
    int wrong = 0;
    for (int64_t r = 0; r < s->rows; r++) {
        const int64_t at = r * s->n;
        double most = 0;
        reference(logarithm, s->n, in + at, seed + at, out + at, row, slope);
        for (int64_t i = 0; i < s->n; i++) most = fmax(most, fabs(slope[i]));
        for (int64_t i = 0; i < s->n; i++) {
            wrong += !(fabs(out[at + i] - row[i]) <= unit * fabs(row[i]));
            wrong += !(fabs(grad[at + i] - slope[i]) <= unit * most * 4);
        }
    }
    CHECK_OK(t, ctx);
    CHECK_MSG(t, wrong == 0, "%s, %s (%lld, %lld) gap %lld: %d wrong",
              logarithm ? "log_softmax" : "softmax", bb_dtype_name(s->dtype), (long long)s->rows,
              (long long)s->n, (long long)s->gap, wrong);
    free(in), free(out), free(seed), free(grad), free(row);
    bb_end_step(ctx);
}

static void test_lengths(test *t) {
    static const sizes all[] = {
        {9, 8, 0, BB_F32},      {9, 9, 0, BB_F32},     {5, 256, 0, BB_F32},   {5, 257, 0, BB_F32},
        {3, 264, 0, BB_F32},    {3, 1024, 0, BB_F32},  {3, 1025, 0, BB_F32},  {2, 1028, 0, BB_F32},
        {2, 8192, 0, BB_F32},   {1, 8196, 0, BB_F32},  {9, 16, 0, BB_BF16},   {9, 24, 8, BB_BF16},
        {3, 1024, 0, BB_BF16},  {3, 1024, 1, BB_BF16}, {2, 1032, 0, BB_BF16}, {2, 1032, 3, BB_BF16},
        {2, 1032, -1, BB_BF16}, {3, 64, -1, BB_BF16},  {3, 1023, 0, BB_F64},
    };
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(all); i++)
        for (int logarithm = 0; logarithm < 2; logarithm++)
            check_softmax(t, ctx, &all[i], logarithm);
    bb_close(ctx);
}

/* Where a row no longer fits in 226 KiB of shared memory: 57856 f32 forward, half of it backward.
 */
static void test_long(test *t) {
    static const sizes all[] = {
        {1, 28928, 0, BB_F32}, {1, 28932, 0, BB_F32}, {1, 57856, 0, BB_F32},
        {1, 57860, 0, BB_F32}, {1, 57861, 0, BB_F32}, {1, 262144, 0, BB_BF16},
    };
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(all); i++) check_softmax(t, ctx, &all[i], i & 1);
    bb_close(ctx);
}

static void check_cross_entropy(test *t, bb_context *ctx, const sizes *s, bb_reduction reduction) {
    double *classes = some_values(s->rows, 31, s->n);
    for (int64_t r = 0; r < s->rows; r += 5) classes[r] = -100;
    bb_t x =
        bb_set_requires_grad(some_tensor(ctx, s->dtype, BB_SHAPE(s->rows, s->n), s->gap, 32), true);
    bb_t target = bb_from_f64(ctx, s->gap ? BB_I32 : BB_I64, BB_SHAPE(s->rows), classes);
    bb_t loss = bb_cross_entropy(x, target, -100, reduction);
    bb_backward(loss, bb_full(ctx, s->dtype, bb_shape_of(loss), 0.5));
    double *in = values_of(x), *grad = values_of(bb_grad(x)), total = 0, valid = 0;
    int wrong = 0;
    for (int64_t r = 0; r < s->rows; r++) valid += classes[r] >= 0;
    const double w = 0.5 / (reduction == BB_REDUCE_MEAN ? valid : 1);
    for (int64_t r = 0; r < s->rows; r++) {
        const double *row = in + r * s->n;
        double sum = 0;
        for (int64_t i = 0; i < s->n; i++) sum += exp(row[i]);
        const bool counts = classes[r] >= 0;
        if (counts) total += log(sum) - row[(int64_t)classes[r]];
        for (int64_t i = 0; i < s->n; i++) {
            const double d = counts ? w * (exp(row[i]) / sum - (i == (int64_t)classes[r])) : 0;
            wrong += !(fabs(grad[r * s->n + i] - d) <= unit_of(s->dtype) * (counts ? w : 0));
        }
    }
    if (reduction == BB_REDUCE_MEAN) total /= valid;
    CHECK_OK(t, ctx);
    CHECK_NEAR(t, bb_item(loss), total, unit_of(s->dtype) * fabs(total));
    CHECK_MSG(t, wrong == 0, "cross_entropy %s (%lld, %lld) gap %lld: %d wrong",
              bb_dtype_name(s->dtype), (long long)s->rows, (long long)s->n, (long long)s->gap,
              wrong);
    free(classes), free(in), free(grad);
    bb_end_step(ctx);
}

static void test_cross_entropy(test *t) {
    /* Lanes and blocks; strips of backward at 2048 packs; parts of 16384 rows. */
    static const sizes all[] = {
        {7, 1024, 0, BB_F32},   {6, 1025, 0, BB_F32},   {6, 1032, 0, BB_BF16},
        {6, 1032, 1, BB_BF16},  {6, 1032, -1, BB_BF16}, {2, 8192, 0, BB_F32},
        {2, 8196, 0, BB_F32},   {2, 2049, 0, BB_F32},   {2, 50257, 0, BB_BF16},
        {2, 50304, 0, BB_BF16}, {16384, 2, 0, BB_F32},  {16385, 4, 0, BB_F32},
    };
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(all); i++)
        check_cross_entropy(t, ctx, &all[i], i & 1 ? BB_REDUCE_SUM : BB_REDUCE_MEAN);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"lengths", test_lengths},
    {"long", test_long},
    {"cross_entropy", test_cross_entropy},
};
TEST_MAIN(rows)
