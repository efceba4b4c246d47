/* adamw_ and sgd_ over ten steps against the same steps in double. */
#include "ops/ops.h"
#include "tests/support/alloc.h"

enum { N = 1500, STEPS = 10 };

/* A fixed stream of numbers in [-1, 1). */
static double number(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (double)(*state >> 8) / (double)(1u << 23) - 1;
}

static const bb_dtype dtypes[] = {BB_F64, BB_F32, BB_F16, BB_BF16};

static bb_tensor *state_of(bb_context *ctx, bb_dtype dtype) {
    return bb_keep(bb_zeros(ctx, dtype == BB_F64 ? BB_F64 : BB_F32, BB_SHAPE(N)));
}

/* Numbers of the start and of each step's gradient, rounded to dtype; a few of them zero. */
static void draw(bb_context *ctx, bb_dtype dtype, uint32_t *state, double *x) {
    for (int i = 0; i < N; i++) x[i] = i % 7 == 3 ? 0 : number(state);
    bb_read_f64(bb_from_f64(ctx, dtype, BB_SHAPE(N), x), x, N);
}

static void compare(test *t, bb_dtype dtype, bb_tensor *p, const double *expected) {
    static double got[N];
    bb_read_f64(p, got, N);
    /* A parameter near 1 moves by STEPS roundings at most. */
    double bound = dtype == BB_F64   ? 1e-13
                   : dtype == BB_F32 ? 2e-6
                   : dtype == BB_F16 ? 1e-2
                                     : 8e-2,
           worst = 0;
    for (int i = 0; i < N; i++) worst = fmax(worst, fabs(got[i] - expected[i]));
    CHECK_MSG(t, worst <= bound, "%s: off by %g, expected at most %g", bb_dtype_name(dtype), worst,
              bound);
}

static void run_adamw(test *t, bb_dtype dtype, const bb_adamw_attrs *a, double scale) {
    static double p[N], g[N], m[N], v[N];
    bb_context *ctx = test_open();
    uint32_t state = 11;
    draw(ctx, dtype, &state, p);
    bb_tensor *param = bb_keep(bb_from_f64(ctx, dtype, BB_SHAPE(N), p));
    bb_tensor *first = state_of(ctx, dtype), *second = state_of(ctx, dtype);
    for (int i = 0; i < N; i++) m[i] = v[i] = 0;
    for (int step = 1; step <= STEPS; step++) {
        /* f64 parameters take their numbers in f64 or in f32. */
        const bb_dtype numbers = dtype == BB_F64 && scale == 1 ? BB_F64 : BB_F32;
        const double s = (double)(float)scale,
                     lr = numbers == BB_F64 ? 0.01 * step : (double)(float)(0.01 * step);
        draw(ctx, dtype, &state, g);
        bb_status status = bb_adamw_(param, bb_from_f64(ctx, dtype, BB_SHAPE(N), g), first, second,
                                     bb_scalar(ctx, numbers, lr), bb_scalar(ctx, BB_F32, step),
                                     scale == 1 ? NULL : bb_scalar(ctx, BB_F32, scale), a);
        CHECK(t, status == BB_OK);
        for (int i = 0; i < N; i++) {
            const double d = g[i] * s;
            if (i < N - a->undecayed) p[i] *= 1 - lr * a->weight_decay;
            m[i] = a->beta1 * m[i] + (1 - a->beta1) * d;
            v[i] = a->beta2 * v[i] + (1 - a->beta2) * d * d;
            p[i] -= lr * (m[i] / (1 - pow(a->beta1, step))) /
                    (sqrt(v[i] / (1 - pow(a->beta2, step))) + a->eps);
        }
        bb_end_step(ctx);
    }
    CHECK_OK(t, ctx);
    compare(t, dtype, param, p);
    bb_close(ctx);
}

static void test_adamw(test *t) {
    const bb_adamw_attrs usual = {0.9, 0.999, 1e-8, 0.01, 0}, other = {0.5, 0.8, 1e-2, 0, 0};
    bb_adamw_attrs part = {0.9, 0.9, 1e-2, 0.5, 0};
    for (int i = 0; i < 4; i++) {
        run_adamw(t, dtypes[i], &usual, 1);
        run_adamw(t, dtypes[i], &other, 0.25);
        for (part.undecayed = 0; part.undecayed <= N;
             part.undecayed += part.undecayed < 6 ? 3 : N - 6)
            run_adamw(t, dtypes[i], &part, 1);
    }
}

static void run_sgd(test *t, bb_dtype dtype, const bb_sgd_attrs *a, double scale) {
    static double p[N], g[N], u[N];
    bb_context *ctx = test_open();
    uint32_t state = 12;
    draw(ctx, dtype, &state, p);
    bb_tensor *param = bb_keep(bb_from_f64(ctx, dtype, BB_SHAPE(N), p));
    bb_tensor *velocity = a->momentum > 0 ? state_of(ctx, dtype) : NULL;
    for (int i = 0; i < N; i++) u[i] = 0;
    for (int step = 1; step <= STEPS; step++) {
        const double lr = (double)(float)0.05;
        draw(ctx, dtype, &state, g);
        CHECK(t, bb_sgd_(param, bb_from_f64(ctx, dtype, BB_SHAPE(N), g), velocity,
                         bb_scalar(ctx, BB_F32, lr),
                         scale == 1 ? NULL : bb_scalar(ctx, BB_F32, scale), a) == BB_OK);
        for (int i = 0; i < N; i++) {
            const double d = g[i] * (double)(float)scale + a->weight_decay * p[i];
            u[i] = a->momentum * u[i] + d;
            p[i] -= lr * (a->nesterov ? d + a->momentum * u[i] : u[i]);
        }
        bb_end_step(ctx);
    }
    CHECK_OK(t, ctx);
    compare(t, dtype, param, p);
    bb_close(ctx);
}

static void test_sgd(test *t) {
    const bb_sgd_attrs plain = {0, 0.1, false}, heavy = {0.9, 0, false},
                       nesterov = {0.8, 0.01, true};
    for (int i = 0; i < 4; i++) {
        run_sgd(t, dtypes[i], &plain, 1);
        run_sgd(t, dtypes[i], &heavy, 0.5);
        run_sgd(t, dtypes[i], &nesterov, 1);
    }
}

/* A gradient of any strides, and several pieces of work: the same bytes for one thread and two. */
static void test_layout_and_threads(test *t) {
    enum { SIDE = 200 };
    static float result[2][SIDE * SIDE];
    for (int k = 0; k < 2; k++) {
        bb_context *ctx = bb_open(&(bb_options){.seed = 9, .threads = k + 1});
        bb_t p = bb_randn(ctx, BB_F32, BB_SHAPE(SIDE, SIDE)),
             g = bb_transpose(bb_randn(ctx, BB_F32, BB_SHAPE(SIDE, SIDE)), 0, 1);
        bb_t m = bb_zeros_like(p), v = bb_zeros_like(p);
        bb_adamw_(p, k ? g : bb_contiguous(g), m, v, bb_scalar(ctx, BB_F32, 0.1),
                  bb_scalar(ctx, BB_F32, 1), NULL, NULL);
        bb_read(p, result[k], sizeof result[k]);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
    CHECK(t, memcmp(result[0], result[1], sizeof result[0]) == 0);
    CHECK(t, result[0][0] != 0);
}

/* What clipping writes when the norm is not finite: the step changes nothing. */
static void test_nan_scale_skips(test *t) {
    bb_context *ctx = test_open();
    bb_t p = bb_ones(ctx, BB_F32, BB_SHAPE(3)), m = bb_full(ctx, BB_F32, BB_SHAPE(3), 2),
         v = bb_full(ctx, BB_F32, BB_SHAPE(3), 3);
    bb_t g = bb_full(ctx, BB_F32, BB_SHAPE(3), INFINITY), lr = bb_scalar(ctx, BB_F32, 0.5),
         one = bb_scalar(ctx, BB_F32, 1);
    CHECK(t, bb_adamw_(p, g, m, v, lr, one, bb_scalar(ctx, BB_F32, NAN), NULL) == BB_OK);
    CHECK(t, bb_sgd_(p, g, NULL, lr, bb_scalar(ctx, BB_F32, NAN), NULL) == BB_OK);
    CHECK_NEAR(t, bb_item(bb_amax(p, (bb_ints){0}, false)), 1, 0);
    CHECK_NEAR(t, bb_item(bb_amax(m, (bb_ints){0}, false)), 2, 0);
    CHECK_NEAR(t, bb_item(bb_amax(v, (bb_ints){0}, false)), 3, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Changing a parameter between forward and backward is caught. */
static void test_counts_as_change(test *t) {
    bb_context *ctx = test_open();
    bb_t p = bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(3)), true),
         g = bb_ones(ctx, BB_F32, BB_SHAPE(3));
    bb_t y = bb_sum_all(bb_mul(p, p));
    CHECK(t, bb_sgd_(p, g, NULL, bb_scalar(ctx, BB_F32, 0.5), NULL, NULL) == BB_OK);
    CHECK_NEAR(t, bb_item(bb_select(bb_detach(p), 0, 0)), 0.5, 0);
    CHECK(t, bb_backward(y, NULL) != BB_OK);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "");
    bb_close(ctx);
}

/* Nothing changes unless the step succeeds. */
static void short_of_memory(bb_context *ctx) {
    bb_t p = bb_zeros(ctx, BB_F32, BB_SHAPE(2, 3)),
         g = bb_transpose(bb_ones(ctx, BB_F32, BB_SHAPE(3, 2)), 0, 1);
    if (bb_sgd_(p, g, NULL, bb_scalar(ctx, BB_F32, 1), NULL, NULL)) return;
    if (bb_item(bb_select(bb_select(p, 0, 0), 0, 0)) != -1)
        bb_fail(ctx, BB_ERR_STATE, "no step was taken");
}
static void test_allocation(test *t) { alloc_failure_loop(t, short_of_memory); }

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t p = bb_zeros(ctx, BB_BF16, BB_SHAPE(4)), s = bb_zeros(ctx, BB_F32, BB_SHAPE(4)),
         one = bb_scalar(ctx, BB_F32, 1);
    CHECK(t, bb_adamw_(p, p, p, s, one, one, NULL, NULL) != BB_OK);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "adamw_: m: expected dtype f32, got bf16");
    CHECK(t, bb_adamw_(p, p, s, bb_zeros(ctx, BB_F32, BB_SHAPE(5)), one, one, NULL, NULL) != BB_OK);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "adamw_: v: expected shape (4,), got (5,)");
    CHECK(t, bb_adamw_(p, p, s, s, s, one, NULL, NULL) != BB_OK);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "adamw_: lr: expected one element, got 4");
    CHECK(t, bb_adamw_(p, p, s, s, bb_scalar(ctx, BB_F64, 1), one, NULL, NULL) != BB_OK);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "adamw_: lr: expected dtype f32, got f64");
    CHECK(t, bb_adamw_(p, NULL, s, s, one, one, NULL, NULL) != BB_OK);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "adamw_: grad: expected a tensor, got NULL");
    CHECK(t, bb_adamw_(p, p, s, s, one, one, NULL, &(bb_adamw_attrs){1, 0.9, 0, 0, 0}) != BB_OK);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "adamw_: beta1: expected a number in [0, 1), got 1");
    bb_t gaps = bb_slice(bb_zeros(ctx, BB_F32, BB_SHAPE(8)), 0, 0, 8, 2);
    CHECK(t, bb_sgd_(gaps, s, NULL, one, NULL, NULL) != BB_OK);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "sgd_: param: expected a contiguous tensor");
    CHECK(t, bb_sgd_(s, s, NULL, one, NULL, &(bb_sgd_attrs){0.9, 0, false}) != BB_OK);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "sgd_: velocity: expected a tensor when momentum is not 0, got NULL");
    bb_close(ctx);
}

static const test_row rows[] = {
    {"adamw", test_adamw},
    {"sgd", test_sgd},
    {"layout_and_threads", test_layout_and_threads},
    {"counts_as_change", test_counts_as_change},
    {"allocation", test_allocation},
    {"errors", test_errors},
    {"nan_scale_skips", test_nan_scale_skips},
};
TEST_MAIN(rows)
