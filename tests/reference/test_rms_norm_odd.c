/* RMSNormImpl of odd values: zeros, denormals, squares that overflow, infinities, NaN. What is
 * defined to come out is the table in README.md beside this file; each row is tried on both paths
 * and at several widths, between rows that must not notice. Then the gradients of rows far from 1.
 */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/checker.h"

static double *read_values(bb_tensor *t) {
    double *value = malloc((size_t)(bb_count(t) + 1) * sizeof *value);
    if (value && t) bb_read_f64(t, value, bb_count(t));
    return value;
}

enum { ANY = 0, ZERO, MINUS_ZERO, NOT_A_NUMBER, INFINITE, MINUS_INFINITE, NOT_FINITE, VALUE };

typedef struct odd_case {
    const char *what;
    bb_dtype dtype;
    double eps, x[4];
    int y[4];        /* what comes out: one of the above */
    double value[4]; /* of VALUE, for a scale of 2 */
    int dx;          /* of all elements, for a cotangent of ones */
    double dx_value;
} odd_case;

/* README.md beside this file has this table. */
/* clang-format off */
static const odd_case odd_cases[] = {
    {"60000 in f16", BB_F16, 1e-5, {60000, -60000, 60000, 60000},
     {VALUE, VALUE, VALUE, VALUE}, {2, -2, 2, 2}, ANY, 0},
    {"a row of zeros", BB_F32, 1e-4, {0, 0, -0.0, 0},
     {ZERO, ZERO, MINUS_ZERO, ZERO}, {0}, VALUE, 200},
    {"a row of zeros at eps 0", BB_F32, 0, {0, 0, 0, 0},
     {NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER}, {0}, NOT_A_NUMBER, 0},
    {"-0 beside a number", BB_F32, 0, {-0.0, 2, 0, 0},
     {MINUS_ZERO, VALUE, ZERO, ZERO}, {0, 4, 0, 0}, ANY, 0},
    {"denormals", BB_F32, 1e-4, {1e-40, -1e-40, 0, 1e-40},
     {VALUE, VALUE, ZERO, VALUE}, {2e-38, -2e-38, 0, 2e-38}, VALUE, 200},
    {"denormals at eps 0: their squares are 0", BB_F32, 0, {1e-40, -1e-40, 0, 1e-40},
     {INFINITE, MINUS_INFINITE, NOT_A_NUMBER, INFINITE}, {0}, NOT_FINITE, 0},
    {"denormals in f16", BB_F16, 0, {6e-8, -6e-8, 6e-8, 6e-8},
     {VALUE, VALUE, VALUE, VALUE}, {2, -2, 2, 2}, INFINITE, 0},
    {"1e20: its square overflows f32", BB_F32, 1e-5, {1e20, -1e20, 0, 1},
     {ZERO, MINUS_ZERO, ZERO, ZERO}, {0}, VALUE, 0},
    {"1e20 in bf16", BB_BF16, 1e-5, {1e20, -1e20, 0, 1},
     {ZERO, MINUS_ZERO, ZERO, ZERO}, {0}, VALUE, 0},
    {"1e20 in f64", BB_F64, 1e-5, {1e20, -1e20, 1e20, 1e20},
     {VALUE, VALUE, VALUE, VALUE}, {2, -2, 2, 2}, ANY, 0},
    {"infinity", BB_F32, 1e-5, {(double)INFINITY, 1, -1, 0},
     {NOT_A_NUMBER, ZERO, MINUS_ZERO, ZERO}, {0}, NOT_A_NUMBER, 0},
    {"-infinity in f16", BB_F16, 1e-5, {-(double)INFINITY, 1, -1, 0},
     {NOT_A_NUMBER, ZERO, MINUS_ZERO, ZERO}, {0}, NOT_A_NUMBER, 0},
    {"NaN", BB_F32, 1e-5, {(double)NAN, 1, -1, 0},
     {NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER}, {0}, NOT_A_NUMBER, 0},
    {"NaN in bf16", BB_BF16, 0, {(double)NAN, 1, -1, 0},
     {NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER}, {0}, NOT_A_NUMBER, 0},
};
/* clang-format on */

static bool is_of(int kind, double got, double value) {
    switch (kind) {
    case ZERO: return got == 0 && !signbit(got);
    case MINUS_ZERO: return got == 0 && signbit(got);
    case NOT_A_NUMBER: return isnan(got);
    case INFINITE: return isinf(got) && got > 0;
    case MINUS_INFINITE: return isinf(got) && got < 0;
    case NOT_FINITE: return !isfinite(got);
    case VALUE: return fabs(got - value) <= 2e-3 * fabs(value);
    default: return isfinite(got);
    }
}

/* Three rows, the odd one in the middle: its neighbours must not notice. */
static void check_odd(test *t, bb_context *ctx, const odd_case *c, bb_path path, int64_t repeat) {
    int64_t n = 4 * repeat;
    double *x = malloc((size_t)(3 * n) * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = x[2 * n + i] = i % 2 ? -3 : 3;
        x[n + i] = c->x[i % 4];
    }
    bb_set_path(ctx, path);
    bb_tensor *input = bb_set_requires_grad(bb_from_f64(ctx, c->dtype, SH(3, n), x), true),
              *scale = bb_set_requires_grad(bb_full(ctx, c->dtype, SH(n), 2), true);
    bb_tensor *out = bb_rms_norm(input, scale, c->eps);
    bb_backward(out, bb_ones_like(out));
    CHECK_OK(t, ctx);
    double *y = read_values(out), *dx = read_values(bb_grad(input));
    for (int64_t i = 0; i < n; i++) {
        CHECK_MSG(t, is_of(c->y[i % 4], y[n + i], c->value[i % 4]),
                  "%s, path %d, dim %lld: y[%lld] is %g", c->what, path, (long long)n, (long long)i,
                  y[n + i]);
        CHECK_MSG(t, is_of(c->dx, dx[n + i], c->dx_value), "%s, path %d, dim %lld: dx[%lld] is %g",
                  c->what, path, (long long)n, (long long)i, dx[n + i]);
        for (int64_t r = 0; r < 3; r += 2)
            CHECK_MSG(t, fabs(fabs(y[r * n + i]) - 2) < 4e-3 && fabs(dx[r * n + i]) < 2,
                      "%s: row %lld was touched", c->what, (long long)r);
    }
    free(x);
    free(y);
    free(dx);
    bb_end_step(ctx);
}

static void test_odd_values(test *t) {
    bb_context *ctx = test_open();
    for (int c = 0; c < COUNT(odd_cases); c++)
        for (int path = BB_PATH_FUSED; path <= BB_PATH_COMPOSED; path++)
            for (int64_t repeat = 1; repeat <= 256; repeat *= 16)
                check_odd(t, ctx, &odd_cases[c], (bb_path)path, repeat);
    bb_close(ctx);
}

/* Very small and very large rows at eps 0: neither c nor a power of rstd may overflow, or vanish,
 * on the way. */
static void test_extreme_rows(test *t) {
    enum { ROWS = 2, DIM = 64, VALUES = ROWS * DIM };
    static const double sizes[] = {1e-18, 1e-12, 1e12, 1e17};
    bb_context *ctx = test_open();
    for (int k = 0; k < COUNT(sizes); k++) {
        uint64_t state = 21;
        double x[VALUES], dy[VALUES], scale[DIM], dx[VALUES], dscale[DIM] = {0}, got[VALUES];
        for (int i = 0; i < VALUES; i++) x[i] = round_to(BB_F32, draw_normal(&state) * sizes[k]);
        for (int i = 0; i < VALUES; i++) dy[i] = round_to(BB_F32, draw_normal(&state));
        for (int i = 0; i < DIM; i++) scale[i] = round_to(BB_F32, draw_normal(&state));
        for (int r = 0; r < VALUES; r += DIM) {
            double squares = 0, c = 0;
            for (int i = 0; i < DIM; i++) squares += x[r + i] * x[r + i] / DIM;
            double rstd = 1 / sqrt(squares);
            for (int i = 0; i < DIM; i++) c += dy[r + i] * scale[i] * x[r + i] * rstd / DIM;
            for (int i = 0; i < DIM; i++) {
                dx[r + i] = rstd * (dy[r + i] * scale[i] - c * x[r + i] * rstd);
                dscale[i] += dy[r + i] * x[r + i] * rstd;
            }
        }
        for (int path = BB_PATH_FUSED; path <= BB_PATH_COMPOSED; path++) {
            bb_tensor *in = bb_set_requires_grad(bb_from_f64(ctx, BB_F32, SH(ROWS, DIM), x), true),
                      *g = bb_set_requires_grad(bb_from_f64(ctx, BB_F32, SH(DIM), scale), true);
            bb_set_path(ctx, (bb_path)path);
            bb_backward(bb_rms_norm(in, g, 0), bb_from_f64(ctx, BB_F32, SH(ROWS, DIM), dy));
            bb_read_f64(bb_grad(in), got, VALUES);
            for (int i = 0; i < VALUES; i++)
                CHECK_NEAR(t, got[i], dx[i], 1e-5 * largest(VALUES, dx));
            bb_read_f64(bb_grad(g), got, DIM);
            for (int i = 0; i < DIM; i++)
                CHECK_NEAR(t, got[i], dscale[i], 1e-5 * largest(DIM, dscale));
            CHECK_OK(t, ctx);
            bb_end_step(ctx);
        }
    }
    bb_close(ctx);
}

static const test_row table[] = {
    {"odd_values", test_odd_values},
    {"extreme_rows", test_extreme_rows},
};
TEST_MAIN(table)
