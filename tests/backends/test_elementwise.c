/* The elementwise loops and their adapter: ulp of the f32 functions over a dense sweep of all
 * floats at each ISA level, the three ways through the adapter (whole, rows, chunks) at their
 * thresholds, the same bytes for any number of threads, and memory that runs out where a transposed
 * input is packed. */
#include "backends/cpu/isa.h"
#include "ops/ops.h"
#include "tests/support/alloc.h"
#include "tests/support/checker.h"

/* ---- Accuracy */

static double ref_sigmoid(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }
static double ref_rsqrt(double x) { return 1 / sqrt(x); }
static double ref_pow(double x) { return pow(x, (double)2.7f); }

/* |got - reference| in units of the last place of an f32 of the reference's size. */
static double ulps(float got, double reference) {
    int exponent;
    if (isnan(reference)) return isnan(got) ? 0 : INFINITY;
    if (isinf((float)reference) || isinf(got)) return got == (float)reference ? 0 : INFINITY;
    if (isnan(got)) return INFINITY;
    frexp(reference, &exponent);
    return fabs((double)got - reference) / ldexp(1, exponent < -125 ? -149 : exponent - 24);
}

static void sweep(test *t, const bb_isa *isa, const char *name, bb_span_fn fn,
                  double (*reference)(double), double bound) {
    enum { CHUNK = 512, STEP = 8209 }; /* every 8209th of the 2^32 floats: half a million */
    float x[CHUNK], y[CHUNK], where = 0;
    double worst = 0;
    for (uint64_t u = 0; u < UINT64_C(1) << 32;) {
        bb_span span = {.x = {x}, .stride = {1}, .y = y, .a = 2.7};
        for (; span.n < CHUNK && u < UINT64_C(1) << 32; span.n++, u += STEP)
            x[span.n] = bb_f32_of_bits((uint32_t)u);
        fn(&span);
        for (int64_t i = 0; i < span.n; i++) {
            double error = ulps(y[i], reference((double)x[i]));
            if (!(error > worst)) continue;
            worst = error;
            where = x[i];
        }
    }
    CHECK_MSG(t, worst <= bound, "%s, %s: %.3g ulp at %a, expected at most %g", isa->name, name,
              worst, (double)where, bound);
}

static void test_accuracy(test *t) {
    for (int level = 0; bb_isa_at(level); level++) {
        const bb_isa *isa = bb_isa_at(level);
        if (!isa->usable()) continue;
        const bb_elementwise_loops *l = isa->loops->elementwise;
        sweep(t, isa, "exp", l->exp.f32, exp, 2);
        sweep(t, isa, "log", l->log.f32, log, 2);
        sweep(t, isa, "tanh", l->tanh.f32, tanh, 2);
        sweep(t, isa, "erf", l->erf.f32, erf, 2);
        sweep(t, isa, "sigmoid", l->sigmoid.f32, ref_sigmoid, 3);
        sweep(t, isa, "rsqrt", l->rsqrt.f32, ref_rsqrt, 2);
        sweep(t, isa, "sqrt", l->sqrt.f32, sqrt, 0.5);
        sweep(t, isa, "sin", l->sin.f32, sin, 2);
        sweep(t, isa, "cos", l->cos.f32, cos, 2);
        sweep(t, isa, "pow", l->pow.f32, ref_pow, 2);
    }
}

/* A tail shorter than a vector must give the same bytes as the middle of one. */
static void test_tails(test *t) {
    float x[64], y[64], one;
    for (int i = 0; i < 64; i++) x[i] = (float)(i - 32) * 0.37f;
    for (int level = 0; bb_isa_at(level); level++) {
        const bb_isa *isa = bb_isa_at(level);
        if (!isa->usable()) continue;
        const bb_elementwise_loops *l = isa->loops->elementwise;
        const bb_span_fn fns[] = {l->exp.f32, l->tanh.f32, l->erf.f32, l->sigmoid.f32, l->log.f32};
        for (int f = 0; f < COUNT(fns); f++) {
            fns[f](&(bb_span){.n = 64, .x = {x}, .stride = {1}, .y = y});
            int wrong = 0;
            for (int i = 0; i < 64; i++) {
                fns[f](&(bb_span){.n = 1, .x = {x + i}, .stride = {1}, .y = &one});
                wrong += memcmp(&one, y + i, sizeof one) != 0;
            }
            CHECK_MSG(t, wrong == 0, "%s, function %d: %d of 64 differ", isa->name, f, wrong);
        }
    }
}

/* ---- The adapter */

/* x + 2 y with y broadcast from its shape; x transposed in memory or not. */
static void check_sum(test *t, bb_context *ctx, bb_dtype dtype, bb_shape from, int64_t rows,
                      int64_t columns, bool turned) {
    const int64_t n = rows * columns;
    bb_t x = bb_cast(bb_arange(ctx, BB_I64, 0, (double)n, 1), BB_F64), y, z;
    int64_t from_count, wrong = 0;
    bb_shape_count(&from, &from_count);
    x = bb_reshape(
        bb_sub(x, bb_mul_scalar(bb_cast(bb_cast(bb_mul_scalar(x, 1.0 / 97), BB_I64), BB_F64), 97)),
        BB_SHAPE(rows, columns));
    x = bb_cast(x, dtype);
    y = bb_reshape(bb_arange(ctx, dtype, 0, (double)from_count, 1), from);
    double *xs = malloc((size_t)(n + 1) * 8), *ys = malloc((size_t)(from_count + 1) * 8),
           *zs = malloc((size_t)(n + 1) * 8);
    if (xs && ys && zs) {
        bb_read_f64(x, xs, n);
        bb_read_f64(y, ys, from_count);
        if (turned) x = bb_transpose(bb_contiguous(bb_transpose(x, 0, 1)), 0, 1);
        z = bb_add(x, bb_mul_scalar(y, 2));
        bb_read_f64(z, zs, n);
        bb_shape to = bb_shape_of(z);
        for (int64_t i = 0; i < n; i++) {
            int64_t index[BB_MAX_RANK];
            ref_unravel(&to, i, index);
            double twice = round_to(dtype, 2 * ys[ref_broadcast_offset(&from, &to, index)]);
            wrong += zs[i] != round_to(dtype, xs[i] + twice);
        }
    }
    CHECK_OK(t, ctx);
    CHECK_MSG(t, xs && ys && zs && wrong == 0, "%s (%lld, %lld)%s: %lld wrong",
              bb_dtype_name(dtype), (long long)rows, (long long)columns,
              turned ? " transposed" : "", (long long)wrong);
    free(xs);
    free(ys);
    free(zs);
    bb_end_step(ctx);
}

/* Rows around LONG_ROW (64), elements around CHUNK (512), GRAIN (32768) and the packing threshold
 * (4096). */
static void test_thresholds(test *t) {
    static const int64_t sizes[][2] = {{1, 1},    {1, 63},    {3, 64},    {3, 65},  {7, 73},
                                       {8, 64},   {27, 19},   {64, 64},   {63, 65}, {65, 63},
                                       {512, 64}, {151, 217}, {129, 255}, {4096, 9}};
    static const bb_dtype dtypes[] = {BB_F32, BB_F64, BB_BF16, BB_I64};
    bb_context *ctx = test_open();
    for (int s = 0; s < COUNT(sizes); s++)
        for (int d = 0; d < COUNT(dtypes); d++)
            for (int turned = 0; turned < 2; turned++) {
                const int64_t rows = sizes[s][0], columns = sizes[s][1];
                check_sum(t, ctx, dtypes[d], BB_SHAPE(rows, columns), rows, columns, turned);
                check_sum(t, ctx, dtypes[d], BB_SHAPE(columns), rows, columns, turned);
                check_sum(t, ctx, dtypes[d], BB_SHAPE(rows, 1), rows, columns, turned);
                check_sum(t, ctx, dtypes[d], BB_SCALAR, rows, columns, turned);
            }
    bb_close(ctx);
}

/* Eight axes, every second of them broadcast: nothing can be joined. */
static void test_many_axes(test *t) {
    bb_context *ctx = test_open();
    const bb_shape a = BB_SHAPE(2, 1, 2, 1, 3, 1, 2, 1), b = BB_SHAPE(1, 3, 1, 2, 1, 2, 1, 3);
    static double xs[24], ys[36], zs[24 * 36];
    bb_t x = bb_randn(ctx, BB_F64, a), y = bb_randn(ctx, BB_F64, b), z = bb_mul(x, y);
    bb_shape to = bb_shape_of(z);
    bb_read_f64(x, xs, 24);
    bb_read_f64(y, ys, 36);
    bb_read_f64(z, zs, 24 * 36);
    CHECK_OK(t, ctx);
    for (int64_t i = 0; i < 24 * 36; i++) {
        int64_t index[BB_MAX_RANK];
        ref_unravel(&to, i, index);
        CHECK(t, zs[i] == xs[ref_broadcast_offset(&a, &to, index)] *
                              ys[ref_broadcast_offset(&b, &to, index)]);
    }
    bb_close(ctx);
}

static void test_threads(test *t) {
    enum { N = 70000 };
    static float one[2 * N], two[2 * N];
    for (int threads = 1; threads <= 2; threads++) {
        bb_context *ctx = bb_open(&(bb_options){.seed = 3, .threads = threads});
        float *to = threads == 1 ? one : two;
        bb_t x = bb_randn(ctx, BB_F32, BB_SHAPE(7, 10000));
        bb_read(bb_erf(bb_exp(x)), to, sizeof one / 2);
        bb_read(bb_tanh(bb_add(x, bb_randn(ctx, BB_F32, BB_SHAPE(7, 1)))), to + N, sizeof one / 2);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
    CHECK(t, memcmp(one, two, sizeof one) == 0);
}

static void add_transposed(bb_context *ctx) {
    bb_t x = bb_ones(ctx, BB_F32, BB_SHAPE(64, 65)), y = bb_ones(ctx, BB_BF16, BB_SHAPE(65, 64));
    bb_t z = bb_add(x, bb_transpose(y, 0, 1));
    if (!bb_error(ctx)) bb_item(bb_select(bb_select(z, 0, 3), 0, 64));
}
static void test_no_memory(test *t) { alloc_failure_loop(t, add_transposed); }

static const test_row rows[] = {
    {"accuracy", test_accuracy},   {"tails", test_tails},     {"thresholds", test_thresholds},
    {"many_axes", test_many_axes}, {"threads", test_threads}, {"no_memory", test_no_memory},
};
TEST_MAIN(rows)
