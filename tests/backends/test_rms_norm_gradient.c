/* Each way in which an RMSNorm gradient is known to have gone wrong in some library, as a test of
 * the fused CPU kernel: its gradients against their definition. Gradients in general:
 * tests/ops/test_rms_norm.c. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/checker.h"

#define SH(...) BB_SHAPE(__VA_ARGS__)

enum { MAX_VALUES = 4096 };

static void draw_values(bb_dtype dtype, uint64_t seed, int64_t n, double *values) {
    for (int64_t i = 0; i < n; i++) values[i] = round_to(dtype, draw_normal(&seed));
}

typedef struct problem {
    int64_t rows, n;
    double x[MAX_VALUES], scale[MAX_VALUES], dy[MAX_VALUES], dx[MAX_VALUES], dscale[MAX_VALUES];
} problem;

static void draw_problem(problem *p, bb_dtype dtype, int64_t rows, int64_t n) {
    p->rows = rows;
    p->n = n;
    draw_values(dtype, 21, rows * n, p->x);
    draw_values(dtype, 22, n, p->scale);
    draw_values(dtype, 23, rows * n, p->dy);
}

/* dx = rstd (dy g - c xhat), dscale = sum(dy xhat), by the definition. */
static void solve(problem *p, double eps) {
    memset(p->dscale, 0, sizeof p->dscale);
    for (int64_t r = 0; r < p->rows; r++) {
        const double *x = p->x + r * p->n, *dy = p->dy + r * p->n;
        double squares = 0, c = 0;
        for (int64_t i = 0; i < p->n; i++) squares += x[i] * x[i];
        double rstd = 1 / sqrt(squares / (double)p->n + eps);
        for (int64_t i = 0; i < p->n; i++) c += dy[i] * p->scale[i] * x[i] * rstd / (double)p->n;
        for (int64_t i = 0; i < p->n; i++) {
            p->dx[r * p->n + i] = rstd * (dy[i] * p->scale[i] - c * x[i] * rstd);
            p->dscale[i] += dy[i] * x[i] * rstd;
        }
    }
}

static void check_values(test *t, const char *what, bb_tensor *got, const double *expected,
                         double times, double relative) {
    static double value[MAX_VALUES];
    if (!CHECK_MSG(t, got != NULL, "%s is missing", what)) return;
    int64_t n = bb_count(got), wrong = 0, worst = 0;
    double bound = relative * times * largest(n, expected);
    bb_read_f64(got, value, n);
    for (int64_t i = 0; i < n; i++) {
        if (fabs(value[i] - times * expected[i]) <= bound) continue;
        if (!wrong++) worst = i;
    }
    CHECK_MSG(t, wrong == 0, "%s: %lld of %lld elements wrong, first [%lld]: got %g, expected %g",
              what, (long long)wrong, (long long)n, (long long)worst, value[worst],
              times * expected[worst]);
}

static bb_tensor *leaf(bb_context *ctx, bb_dtype dtype, bb_shape shape, const double *values,
                       bool grad) {
    return bb_set_requires_grad(bb_from_f64(ctx, dtype, shape, values), grad);
}

/* Forward and backward; gradients against `p`. */
static void check_problem(test *t, problem *p, bb_dtype dtype, double relative) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, dtype, SH(p->rows, p->n), p->x, true),
              *scale = leaf(ctx, dtype, SH(p->n), p->scale, true);
    bb_set_path(ctx, BB_PATH_FUSED);
    bb_tensor *y = bb_rms_norm(x, scale, 1e-5);
    bb_backward(y, bb_from_f64(ctx, dtype, SH(p->rows, p->n), p->dy));
    solve(p, 1e-5);
    check_values(t, "dx", bb_grad(x), p->dx, 1, relative);
    check_values(t, "dscale", bb_grad(scale), p->dscale, 1, relative);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static problem shared; /* too large for the stack */

/* A buffer that is both input and cotangent was overwritten while it was still read. */
static void test_cotangent_is_the_input(test *t) {
    bb_context *ctx = test_open();
    problem *p = &shared;
    draw_problem(p, BB_F32, 7, 65);
    memcpy(p->dy, p->x, sizeof p->dy);
    solve(p, 1e-5);
    bb_tensor *x = leaf(ctx, BB_F32, SH(7, 65), p->x, true),
              *scale = leaf(ctx, BB_F32, SH(65), p->scale, true);
    bb_backward(bb_rms_norm(x, scale, 1e-5), x);
    check_values(t, "dx", bb_grad(x), p->dx, 1, 1e-5);
    check_values(t, "dscale", bb_grad(scale), p->dscale, 1, 1e-5);
    /* The same tensor as input and as scale gets both gradients. */
    draw_problem(p, BB_F32, 1, 65);
    memcpy(p->scale, p->x, 65 * sizeof p->x[0]);
    solve(p, 1e-5);
    for (int i = 0; i < 65; i++) p->dx[i] += p->dscale[i];
    x = leaf(ctx, BB_F32, SH(65), p->x, true);
    bb_backward(bb_rms_norm(x, x, 1e-5), bb_from_f64(ctx, BB_F32, SH(65), p->dy));
    check_values(t, "dx + dscale", bb_grad(x), p->dx, 1, 1e-5);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* layer_norm's mean term was left in: a cotangent whose rows have a mean. */
static void test_no_mean_term(test *t) {
    draw_problem(&shared, BB_F32, 9, 128);
    for (int i = 0; i < 9 * 128; i++) shared.dy[i] = round_to(BB_F32, shared.dy[i] + 3);
    check_problem(t, &shared, BB_F32, 1e-5);
}

/* scale was forgotten inside c: a scale far from constant. */
static void test_scale_inside_the_sum(test *t) {
    draw_problem(&shared, BB_F32, 9, 128);
    for (int i = 0; i < 128; i++)
        shared.scale[i] = round_to(BB_F32, shared.scale[i] * pow(10, i % 5 - 2));
    check_problem(t, &shared, BB_F32, 1e-5);
}

/* The gradient of a residual was added before the norm's backward instead of after. */
static void test_residual_around_the_norm(test *t) {
    bb_context *ctx = test_open();
    problem *p = &shared;
    draw_problem(p, BB_F32, 5, 64);
    solve(p, 1e-5);
    for (int i = 0; i < 5 * 64; i++) p->dx[i] += p->dy[i];
    bb_tensor *x = leaf(ctx, BB_F32, SH(5, 64), p->x, true),
              *scale = leaf(ctx, BB_F32, SH(64), p->scale, true);
    bb_backward(bb_add(x, bb_rms_norm(x, scale, 1e-5)), bb_from_f64(ctx, BB_F32, SH(5, 64), p->dy));
    check_values(t, "dx", bb_grad(x), p->dx, 1, 1e-5);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* dscale stayed zero, or kept what the call before had left. */
static void test_gradients_accumulate_once(test *t) {
    bb_context *ctx = test_open();
    problem *p = &shared;
    draw_problem(p, BB_F32, 5, 64);
    solve(p, 1e-5);
    bb_tensor *x = leaf(ctx, BB_F32, SH(5, 64), p->x, true),
              *scale = leaf(ctx, BB_F32, SH(64), p->scale, true);
    bb_tensor *dy = bb_from_f64(ctx, BB_F32, SH(5, 64), p->dy);
    for (int times = 1; times <= 3; times++) {
        bb_backward(bb_rms_norm(x, scale, 1e-5), dy);
        check_values(t, "dx", bb_grad(x), p->dx, times, 1e-5);
        check_values(t, "dscale", bb_grad(scale), p->dscale, times, 1e-5);
    }
    bb_zero_grad(scale);
    bb_backward(bb_rms_norm(x, scale, 1e-5), dy);
    check_values(t, "dscale after bb_zero_grad", bb_grad(scale), p->dscale, 1, 1e-5);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* dscale in bf16 was off by orders of magnitude where rows are many: it is summed in f32. */
static void test_narrow_dscale(test *t) {
    draw_problem(&shared, BB_BF16, 512, 8);
    check_problem(t, &shared, BB_BF16, 8e-3);
    draw_problem(&shared, BB_F16, 512, 8);
    check_problem(t, &shared, BB_F16, 1e-3);
}

/* x = 0 gave changing garbage: a partial sum that no row had written, here in the chunks past the
 * last row. */
static void test_zero_input_gives_zero_dscale(test *t) {
    bb_context *ctx = test_open();
    enum { ROWS = 65, DIM = 16384 };
    bb_tensor *x = bb_zeros(ctx, BB_F32, SH(ROWS, DIM)), *dy = bb_randn(ctx, BB_F32, SH(ROWS, DIM));
    bb_tensor *scale = bb_set_requires_grad(bb_ones(ctx, BB_F32, SH(DIM)), true);
    static float got[DIM];
    for (int round = 0; round < 2; round++) {
        bb_backward(bb_rms_norm(x, scale, 1e-5), dy);
        bb_read(bb_grad(scale), got, sizeof got);
        int64_t wrong = 0;
        for (int i = 0; i < DIM; i++) wrong += got[i] != 0;
        CHECK_INT(t, wrong, 0);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Which gradients are computed was decided wrongly: each combination. */
static void test_each_requires_grad(test *t) {
    bb_context *ctx = test_open();
    problem *p = &shared;
    draw_problem(p, BB_F32, 33, 100);
    solve(p, 1e-5);
    for (int mask = 0; mask < 4; mask++) {
        bb_tensor *x = leaf(ctx, BB_F32, SH(33, 100), p->x, mask & 1),
                  *scale = leaf(ctx, BB_F32, SH(100), p->scale, mask & 2);
        bb_tensor *y = bb_rms_norm(x, scale, 1e-5);
        CHECK_INT(t, bb_requires_grad(y), mask != 0);
        if (mask) bb_backward(y, bb_from_f64(ctx, BB_F32, SH(33, 100), p->dy));
        if (mask & 1)
            check_values(t, "dx", bb_grad(x), p->dx, 1, 1e-5);
        else
            CHECK(t, bb_grad(x) == NULL);
        if (mask & 2)
            check_values(t, "dscale", bb_grad(scale), p->dscale, 1, 1e-5);
        else
            CHECK(t, bb_grad(scale) == NULL);
        bb_end_step(ctx);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static bb_tensor *norm_segment(void *user, bb_tensor *const *in, int n) {
    (void)user;
    (void)n;
    return bb_rms_norm(in[0], in[1], 1e-5);
}

/* Recomputed in backward, the input was normalized twice. */
static void test_recompute(test *t) {
    bb_context *ctx = test_open();
    problem *p = &shared;
    draw_problem(p, BB_F32, 5, 64);
    solve(p, 1e-5);
    bb_tensor *in[] = {leaf(ctx, BB_F32, SH(5, 64), p->x, true),
                       leaf(ctx, BB_F32, SH(64), p->scale, true)};
    bb_backward(bb_recompute(ctx, norm_segment, NULL, in, 2),
                bb_from_f64(ctx, BB_F32, SH(5, 64), p->dy));
    check_values(t, "dx", bb_grad(in[0]), p->dx, 1, 1e-5);
    check_values(t, "dscale", bb_grad(in[1]), p->dscale, 1, 1e-5);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Zeros: a zero row at eps 0 is NaN and stays in its row; a zero scale is harmless. */
static void test_zero_row_at_eps_0(test *t) {
    bb_context *ctx = test_open();
    const double values[] = {0, 0, 0, 3, 4, 0}, zeros[] = {0, 0, 0};
    double got[6];
    bb_tensor *x = leaf(ctx, BB_F32, SH(2, 3), values, true),
              *scale = leaf(ctx, BB_F32, SH(3), zeros, true);
    bb_tensor *y = bb_rms_norm(x, scale, 0);
    bb_read_f64(y, got, 6);
    for (int i = 0; i < 3; i++) CHECK(t, isnan(got[i]) && got[i + 3] == 0);
    bb_backward(y, bb_ones_like(y));
    bb_read_f64(bb_grad(x), got, 6);
    for (int i = 0; i < 3; i++) CHECK(t, isnan(got[i]) && got[i + 3] == 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Very small and very large rows: neither c nor rstd^2 may overflow on the way. */
static void test_extreme_rows(test *t) {
    bb_context *ctx = test_open();
    static const double sizes[] = {1e-18, 1e-12, 1e12, 1e17};
    for (int k = 0; k < 4; k++) {
        problem *p = &shared;
        draw_problem(p, BB_F32, 2, 64);
        for (int i = 0; i < 128; i++) p->x[i] = round_to(BB_F32, p->x[i] * sizes[k]);
        solve(p, 0);
        bb_tensor *x = leaf(ctx, BB_F32, SH(2, 64), p->x, true),
                  *scale = leaf(ctx, BB_F32, SH(64), p->scale, true);
        bb_backward(bb_rms_norm(x, scale, 0), bb_from_f64(ctx, BB_F32, SH(2, 64), p->dy));
        check_values(t, "dx", bb_grad(x), p->dx, 1, 1e-5);
        check_values(t, "dscale", bb_grad(scale), p->dscale, 1, 1e-5);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"cotangent_is_the_input", test_cotangent_is_the_input},
    {"no_mean_term", test_no_mean_term},
    {"scale_inside_the_sum", test_scale_inside_the_sum},
    {"residual_around_the_norm", test_residual_around_the_norm},
    {"gradients_accumulate_once", test_gradients_accumulate_once},
    {"narrow_dscale", test_narrow_dscale},
    {"zero_input_gives_zero_dscale", test_zero_input_gives_zero_dscale},
    {"each_requires_grad", test_each_requires_grad},
    {"recompute", test_recompute},
    {"zero_row_at_eps_0", test_zero_row_at_eps_0},
    {"extreme_rows", test_extreme_rows},
};
TEST_MAIN(rows)
