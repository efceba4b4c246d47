/* The ops of ops/unary.c: case tables against libm in double; special values; integers; refused
 * dtypes. How many ulp each f32 function may be off is checked in
 * tests/backends/test_elementwise.c. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/cases.h"

static double ref_neg(double x) { return -x; }
static double ref_sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }
static double ref_rsqrt(double x) { return 1 / sqrt(x); }
static double ref_sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double ref_relu(double x) { return fmax(x, 0); }
static double ref_square(double x) { return x * x; }
static double ref_reciprocal(double x) { return 1 / x; }

static const struct unary {
    const char *op;
    double (*f)(double);
    bb_t (*call)(bb_t);
    fill_kind fill;
    bool integers;
} table[] = {
    {"neg", ref_neg, bb_neg, FILL_NORMAL, true},
    {"abs", fabs, bb_abs, FILL_APART, true},
    {"sign", ref_sign, bb_sign, FILL_APART, true},
    {"exp", exp, bb_exp, FILL_NORMAL, false},
    {"log", log, bb_log, FILL_POSITIVE, false},
    {"sqrt", sqrt, bb_sqrt, FILL_POSITIVE, false},
    {"rsqrt", ref_rsqrt, bb_rsqrt, FILL_POSITIVE, false},
    {"sin", sin, bb_sin, FILL_NORMAL, false},
    {"cos", cos, bb_cos, FILL_NORMAL, false},
    {"tanh", tanh, bb_tanh, FILL_NORMAL, false},
    {"sigmoid", ref_sigmoid, bb_sigmoid, FILL_NORMAL, false},
    {"relu", ref_relu, bb_relu, FILL_APART, true},
    {"erf", erf, bb_erf, FILL_NORMAL, false},
    {"square", ref_square, bb_square, FILL_NORMAL, true},
    {"reciprocal", ref_reciprocal, bb_reciprocal, FILL_APART, false},
};
enum { OPS = sizeof table / sizeof table[0] };

/* The harness knows no user pointer: the running row. One thread. */
static const struct unary *running;

static void reference(const op_case *c, const double *const *in, const bb_shape *shape,
                      double *out) {
    int64_t n = 0;
    (void)c;
    bb_shape_count(shape, &n);
    for (int64_t i = 0; i < n; i++) out[i] = running->f(in[0][i]);
}

static void test_cases(test *t) {
    for (running = table; running < table + OPS; running++) {
        const fill_kind f = running->fill;
        const bool flat =
            running->f == ref_sign; /* its gradient is constant: there is no second one to check */
        const op_case cases[] = {
            {.name = "matrix",
             .in = {{.fill = f, .shape = {2, {5, 7}}}},
             .n_in = 1,
             .no_second = flat},
            {.name = "scalar", .in = {{.fill = f}}, .n_in = 1, .no_second = flat},
            {.name = "one", .in = {{.fill = f, .shape = {1, {1}}}}, .n_in = 1, .no_second = flat},
            {.name = "nothing",
             .in = {{.fill = f, .shape = {2, {3, 0}}}},
             .n_in = 1,
             .no_second = flat},
            {.name = "rank 4",
             .in = {{.fill = f, .shape = {4, {2, 1, 3, 5}}}},
             .n_in = 1,
             .no_second = flat},
            {.name = "more than a chunk",
             .in = {{.fill = f, .shape = {2, {3, 171}}}},
             .n_in = 1,
             .no_second = true,
             .why = "slow"},
        };
        run_op_cases(t, running->op, cases, COUNT(cases), reference);
    }
}

/* libm's answers at the ends, for f32 and f64. */
static void test_special_values(test *t) {
    static const double x[] = {0.0,    -0.0,   1.0,      -1.0,  INFINITY, -INFINITY, NAN,
                               1e-40,  -1e-40, 3e38,     -3e38, 88.5,     89.0,      -87.5,
                               -103.0, -104.5, 0x1p-149, 0.625, -4.0,     10.0};
    enum { N = sizeof x / sizeof x[0] };
    bb_context *ctx = test_open();
    for (const struct unary *u = table; u < table + OPS; u++)
        for (bb_dtype dtype = BB_F64; dtype <= BB_F32; dtype++) {
            double got[N] = {0}, rounded[N] = {0};
            bb_t in = bb_from_f64(ctx, dtype, BB_SHAPE(N), x);
            bb_read_f64(in, rounded, N);
            bb_read_f64(u->call(in), got, N);
            CHECK_OK(t, ctx);
            for (int i = 0; i < N; i++) {
                double expected = u->f(rounded[i]);
                if (u->f == ref_relu && isnan(rounded[i])) expected = NAN; /* fmax drops it */
                if (dtype == BB_F32) expected = (double)(float)expected;
                bool same = got[i] == expected || (isnan(got[i]) && isnan(expected));
                if (got[i] == 0 && expected == 0 && u->f != ref_relu) /* fmax knows no -0 */
                    CHECK_MSG(t, !signbit(got[i]) == !signbit(expected), "%s(%g) in %s: sign of 0",
                              u->op, rounded[i], bb_dtype_name(dtype));
                double ulp =
                    dtype == BB_F32 ? 3e-7 * fabs(expected) + 3 * 0x1p-149 : 1e-15 * fabs(expected);
                CHECK_MSG(t, same || fabs(got[i] - expected) <= ulp,
                          "%s(%g) in %s: got %.9g, expected %.9g", u->op, rounded[i],
                          bb_dtype_name(dtype), got[i], expected);
            }
        }
    bb_close(ctx);
}

/* A gradient that f16 can hold, of an x whose double it cannot. */
static void test_square_range(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_set_requires_grad(bb_scalar(ctx, BB_F16, 40000), true);
    bb_backward(bb_square(x), bb_scalar(ctx, BB_F16, 0.5));
    CHECK_NEAR(t, bb_item(bb_grad(x)), 40000, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_integers(test *t) {
    static const double x[] = {-3, -1, 0, 1, 2, 100};
    static const bb_dtype dtypes[] = {BB_I64, BB_I32};
    bb_context *ctx = test_open();
    for (const struct unary *u = table; u < table + OPS; u++)
        for (int d = 0; d < 2; d++) {
            double got[6];
            bb_t y = u->call(bb_from_f64(ctx, dtypes[d], BB_SHAPE(6), x));
            if (!u->integers) {
                CHECK(t, y == NULL);
                CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "input: expected a float dtype, got i");
                continue;
            }
            bb_read_f64(y, got, 6);
            CHECK_OK(t, ctx);
            CHECK_INT(t, bb_dtype_of(y), dtypes[d]);
            for (int i = 0; i < 6; i++)
                CHECK_MSG(t, got[i] == u->f(x[i]), "%s(%g): got %g", u->op, x[i], got[i]);
        }
    /* They wrap. */
    int64_t lowest = INT64_MIN, i64 = 0;
    bb_read(bb_neg(bb_from(ctx, BB_I64, BB_SCALAR, &lowest)), &i64, sizeof i64);
    CHECK(t, i64 == INT64_MIN);
    uint8_t u8 = 20;
    bb_read(bb_square(bb_from(ctx, BB_U8, BB_SCALAR, &u8)), &u8, sizeof u8);
    CHECK_INT(t, u8, 400 % 256);
    CHECK_OK(t, ctx);
    CHECK(t, bb_neg(bb_zeros(ctx, BB_BOOL, BB_SHAPE(2))) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "neg: input: expected a number dtype, got bool");
    CHECK(t, bb_exp(NULL) == NULL);
    bb_close(ctx);
}

/* Gradients where a formula could go wrong: at kinks, and where dy is infinite. */
static void test_gradients_at_kinks(test *t) {
    static const float zeros[] = {0, -1, 1}, seed[] = {2, INFINITY, 3};
    float got[3] = {0};
    bb_context *ctx = test_open();
    bb_t x = bb_set_requires_grad(bb_from(ctx, BB_F32, BB_SHAPE(3), zeros), true);
    bb_backward(bb_relu(x), bb_from(ctx, BB_F32, BB_SHAPE(3), seed));
    bb_read(bb_grad(x), got, sizeof got);
    CHECK_OK(t, ctx);
    CHECK(t, got[0] == 0 && got[1] == 0 && got[2] == 3);
    /* NaN is not cut off, and neither is its gradient. */
    x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(3), NAN), true);
    bb_backward(bb_relu(x), bb_from(ctx, BB_F32, BB_SHAPE(3), seed));
    bb_read(bb_grad(x), got, sizeof got);
    CHECK_OK(t, ctx);
    CHECK(t, got[0] == 2 && isinf(got[1]) && got[2] == 3);
    x = bb_set_requires_grad(bb_from(ctx, BB_F32, BB_SHAPE(3), zeros), true);
    bb_backward(bb_sum_all(bb_sign(x)), NULL);
    CHECK(t, bb_grad(x) != NULL);
    bb_read(bb_grad(x), got, sizeof got);
    CHECK_OK(t, ctx);
    CHECK(t, got[0] == 0 && got[1] == 0 && got[2] == 0);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"cases", test_cases},
    {"special_values", test_special_values},
    {"square_range", test_square_range},
    {"integers", test_integers},
    {"gradients_at_kinks", test_gradients_at_kinks},
};
TEST_MAIN(rows)
