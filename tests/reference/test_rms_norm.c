/* RMSNormImpl against its contract: the expression of ops/rms_norm.c to the bit, given the
 * statistic that was used, fused and composed, for all nine dtype pairs and both rounding orders;
 * the statistic itself; few and many rows. Odd values: test_rms_norm_odd.c; parameter lists:
 * test_rms_norm_lists.c. The kernel at each ISA level: tests/backends. */
#include "ops/ops.h"
#include "tests/backends/rms_norm_kernel.h"
#include "tests/support/checker.h"

static const bb_dtype narrow_types[3] = {BB_F32, BB_F16, BB_BF16};
static const int64_t dims[] = {1,    2,    3,    31,   32,   33,   63,   64,   65,
                               127,  128,  129,  255,  256,  257,  423,  1023, 1024,
                               1025, 4095, 4096, 4097, 4098, 4099, 65537};

static double *draw_values(bb_dtype dtype, uint64_t seed, int64_t n) {
    double *value = malloc((size_t)(n + 1) * sizeof *value);
    for (int64_t i = 0; value && i < n; i++) value[i] = round_to(dtype, draw_normal(&seed));
    return value;
}

static double *read_values(bb_tensor *t) {
    double *value = malloc((size_t)(bb_count(t) + 1) * sizeof *value);
    if (value && t) bb_read_f64(t, value, bb_count(t));
    return value;
}

/* ---- The two paths, each with the statistic that it used */

/* The decomposition's statistic: the same ops on the same values give the same bits. */
static bb_tensor *run_composed(bb_context *ctx, bb_tensor *x, bb_tensor *scale,
                               const bb_rms_norm_attrs *attrs, bb_tensor **rstd) {
    bb_tensor *wide = bb_cast(x, bb_dtype_of(x) == BB_F64 ? BB_F64 : BB_F32);
    bb_tensor *mean = bb_mean(bb_mul(wide, wide), attrs->axes, true);
    *rstd = bb_rsqrt(bb_add_scalar(mean, (double)(float)attrs->eps));
    bb_set_path(ctx, BB_PATH_COMPOSED);
    bb_tensor *y = bb_rms_norm_with(x, scale, attrs);
    bb_set_path(ctx, BB_PATH_AUTO);
    return y;
}

/* ---- The expression */

typedef struct contract {
    bb_dtype x, scale, y;
    bool round_last;
} contract;

static contract contract_of(bb_dtype x, bb_dtype scale, int rounding) {
    contract c = {.x = x, .scale = scale};
    c.round_last = rounding == BB_SCALE_THEN_ROUND ||
                   (rounding == BB_ROUND_AUTO && scale == BB_F32 && x != BB_F32);
    c.y = c.round_last ? x : x == scale ? x : BB_F32; /* promotion of different types is f32 */
    return c;
}

static double expression(const contract *c, double x, double rstd, double scale) {
    float xhat = (float)x * (float)rstd;
    if (!c->round_last) xhat = (float)round_to(c->x, xhat);
    float product = xhat * (float)scale;
    return round_to(c->y, product);
}

/* 1/sqrt(mean + eps) in f64, by a compensated sum (Neumaier). */
static double exact_rstd(const double *x, int64_t n, double eps) {
    double sum = 0, lost = 0;
    for (int64_t i = 0; i < n; i++) {
        double square = x[i] * x[i], next = sum + square;
        lost += fabs(sum) >= square ? (sum - next) + square : (square - next) + sum;
        sum = next;
    }
    return 1 / sqrt((sum + lost) / (double)n + (double)(float)eps);
}

static void check_expression(test *t, bb_context *ctx, bb_dtype xd, bb_dtype sd, int rounding,
                             int64_t rows, int64_t n) {
    bb_rms_norm_attrs attrs = {{1, {-1}}, 1e-5, rounding};
    contract c = contract_of(xd, sd, rounding);
    double *x = draw_values(xd, 3 + (uint64_t)n, rows * n), *scale = draw_values(sd, 4, n);
    bb_tensor *input = bb_from_f64(ctx, xd, SH(rows, n), x),
              *weight = bb_from_f64(ctx, sd, SH(n), scale);
    for (int path = 0; path < 2; path++) {
        bb_tensor *saved = NULL;
        bb_tensor *out = path ? run_composed(ctx, input, weight, &attrs, &saved)
                              : rms_norm_kernel(ctx, input, weight, &attrs, &saved);
        if (!CHECK_MSG(t, out && saved, "%s", bb_error_message(ctx))) continue;
        CHECK_INT(t, bb_dtype_of(out), c.y);
        CHECK_INT(t, bb_dtype_of(saved), BB_F32);
        double *y = read_values(out), *rstd = read_values(saved);
        int64_t different = 0, off = 0;
        for (int64_t i = 0; i < rows * n; i++)
            different += y[i] != expression(&c, x[i], rstd[i / n], scale[i % n]);
        /* All terms are positive, so the sum is off by its roundings alone: a square's, those of
         * the additions (sqrt(n) / 4 for lanes that are added pairwise), of the mean and of eps,
         * all halved by the root; then the root's and the quotient's. */
        double bound = (5 + sqrt((double)n) / 8) * 0x1p-24;
        for (int64_t r = 0; r < rows; r++) {
            double exact = exact_rstd(x + r * n, n, attrs.eps);
            off += fabs(rstd[r] - exact) > bound * exact;
        }
        CHECK_MSG(t, different == 0 && off == 0,
                  "%s x %s, rounding %d, %lld x %lld, %s: %lld elements differ from the contract, "
                  "%lld statistics are off",
                  bb_dtype_name(xd), bb_dtype_name(sd), rounding, (long long)rows, (long long)n,
                  path ? "composed" : "fused", (long long)different, (long long)off);
        free(y);
        free(rstd);
    }
    free(x);
    free(scale);
    bb_end_step(ctx);
}

static void test_expression(test *t) {
    bb_context *ctx = test_open();
    for (int pair = 0; pair < 9; pair++)
        for (int rounding = 0; rounding < 3; rounding++)
            for (int d = 0; d < COUNT(dims); d++)
                check_expression(t, ctx, narrow_types[pair / 3], narrow_types[pair % 3], rounding,
                                 dims[d] > 60000 ? 1 : 3, dims[d]);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* ---- Rows */

static void test_rows(test *t) {
    static const int64_t rows[] = {0, 1, 2, 63, 64, 65, 1000003};
    bb_context *ctx = test_open();
    for (int d = 0; d < 3; d++)
        for (int r = 0; r < COUNT(rows); r++) {
            check_expression(t, ctx, narrow_types[d], narrow_types[d], BB_ROUND_AUTO, rows[r], 3);
            check_expression(t, ctx, narrow_types[d], BB_F32, BB_ROUND_AUTO, rows[r], 3);
        }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* dscale gathers a million rows; its error must grow far more slowly than they do. */
static void test_dscale_of_many_rows(test *t) {
    enum { ROWS = 1000003, DIM = 3 };
    static const bb_dtype dtypes[] = {BB_F64, BB_F32};
    bb_context *ctx = test_open();
    double *x = draw_values(BB_F32, 8, ROWS * DIM), *dy = draw_values(BB_F32, 9, ROWS * DIM);
    double expected[DIM] = {0}, lost[DIM] = {0}, size[DIM] = {0};
    for (int64_t r = 0; r < ROWS; r++) {
        double rstd = exact_rstd(x + r * DIM, DIM, 1e-5);
        for (int i = 0; i < DIM; i++) {
            double term = dy[r * DIM + i] * x[r * DIM + i] * rstd, y = term - lost[i],
                   next = expected[i] + y;
            lost[i] = (next - expected[i]) - y; /* Kahan */
            expected[i] = next;
            size[i] += fabs(term);
        }
    }
    for (int d = 0; d < 2; d++) {
        for (int path = BB_PATH_FUSED; path <= BB_PATH_COMPOSED; path++) {
            bb_tensor *scale = bb_set_requires_grad(bb_ones(ctx, dtypes[d], SH(DIM)), true);
            bb_set_path(ctx, (bb_path)path);
            bb_tensor *y = bb_rms_norm(bb_from_f64(ctx, dtypes[d], SH(ROWS, DIM), x), scale, 1e-5);
            bb_backward(y, bb_from_f64(ctx, dtypes[d], SH(ROWS, DIM), dy));
            double got[DIM] = {0};
            bb_read_f64(bb_grad(scale), got, DIM);
            for (int i = 0; i < DIM; i++)
                CHECK_NEAR(t, got[i], expected[i],
                           (dtypes[d] == BB_F64 ? 2e-9 : 40 * 0x1p-24) * size[i] / 10);
            CHECK_OK(t, ctx);
            bb_end_step(ctx);
        }
    }
    free(x);
    free(dy);
    bb_close(ctx);
}

/* An f64 input with a narrower scale is f64 throughout, backward too. */
static void test_f64_input(test *t) {
    enum { COUNT = 5 * 67, DIM = 67 };
    bb_context *ctx = test_open();
    for (int s = BB_F64; s <= BB_BF16; s++) {
        double *x = draw_values(BB_F64, 11, COUNT), *scale = draw_values((bb_dtype)s, 12, DIM),
               *dy = draw_values(BB_F64, 13, COUNT);
        for (int path = BB_PATH_FUSED; path <= BB_PATH_COMPOSED; path++) {
            double y[COUNT], dx[COUNT], dscale[DIM], expected[DIM] = {0};
            bb_tensor *input = bb_set_requires_grad(bb_from_f64(ctx, BB_F64, SH(5, DIM), x), true),
                      *weight =
                          bb_set_requires_grad(bb_from_f64(ctx, (bb_dtype)s, SH(DIM), scale), true);
            bb_set_path(ctx, (bb_path)path);
            bb_tensor *out = bb_rms_norm(input, weight, 0.25);
            bb_backward(out, bb_from_f64(ctx, BB_F64, SH(5, DIM), dy));
            CHECK_OK(t, ctx);
            CHECK(t, bb_dtype_of(out) == BB_F64 && bb_dtype_of(bb_grad(weight)) == (bb_dtype)s);
            bb_read_f64(out, y, COUNT);
            bb_read_f64(bb_grad(input), dx, COUNT);
            bb_read_f64(bb_grad(weight), dscale, DIM);
            for (int r = 0; r < 5; r++) {
                double rstd = exact_rstd(x + r * DIM, DIM, 0.25), back = 0;
                for (int i = 0; i < DIM; i++)
                    back += dy[r * DIM + i] * scale[i] * x[r * DIM + i] * rstd / DIM;
                for (int i = 0; i < DIM; i++) {
                    double xhat = x[r * DIM + i] * rstd, cotangent = dy[r * DIM + i];
                    CHECK_NEAR(t, y[r * DIM + i], xhat * scale[i], 1e-14);
                    CHECK_NEAR(t, dx[r * DIM + i], rstd * (cotangent * scale[i] - xhat * back),
                               1e-13);
                    expected[i] += cotangent * xhat;
                }
            }
            for (int i = 0; i < DIM; i++)
                CHECK_NEAR(t, dscale[i], expected[i], 1e-13 + dtype_epsilon((bb_dtype)s) * 8);
            bb_end_step(ctx);
        }
        free(x);
        free(scale);
        free(dy);
    }
    bb_close(ctx);
}

static void test_eps(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_ones(ctx, BB_F32, SH(2, 3)), *scale = bb_ones(ctx, BB_F32, SH(3));
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path++) {
        bb_set_path(ctx, (bb_path)path);
        CHECK(t, !bb_rms_norm(x, scale, -0.5));
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "eps: expected a number >= 0, got -0.5");
        CHECK(t, !bb_rms_norm(x, scale, -1e-300));
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "eps: expected a number >= 0, got -1e-300");
        CHECK(t, !bb_rms_norm(x, scale, NAN));
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "eps: expected a number >= 0, got");
        CHECK(t, bb_rms_norm(x, scale, 0) != NULL);
        CHECK(t, bb_rms_norm(x, scale, -0.0) != NULL);
        CHECK_OK(t, ctx);
    }
    bb_close(ctx);
}

static const test_row table[] = {
    {"expression", test_expression},
    {"rows", test_rows},
    {"dscale_of_many_rows", test_dscale_of_many_rows},
    {"f64_input", test_f64_input},
    {"eps", test_eps},
};
TEST_MAIN(table)
