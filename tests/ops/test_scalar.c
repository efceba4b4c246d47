/* pow, add_scalar, mul_scalar and clamp: case tables, exponents at pow's short cuts, whole numbers
 * for integers. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/cases.h"

typedef double (*scalar_fn)(const void *attrs, double x);

static double ref_pow(const void *a, double x) {
    return pow(x, ((const bb_scalar_attrs *)a)->value);
}
static double ref_add(const void *a, double x) { return x + ((const bb_scalar_attrs *)a)->value; }
static double ref_mul(const void *a, double x) { return x * ((const bb_scalar_attrs *)a)->value; }
static double ref_clamp(const void *a, double x) {
    const bb_clamp_attrs *c = a;
    return fmin(fmax(x, c->min), c->max);
}

static scalar_fn running;

static void reference(const op_case *c, const double *const *in, const bb_shape *shape,
                      double *out) {
    int64_t n = 0;
    bb_shape_count(shape, &n);
    for (int64_t i = 0; i < n; i++) out[i] = running(c->attrs, in[0][i]);
}

static void run_scalar(test *t, const char *op, scalar_fn f, const void *attrs, fill_kind fill) {
    /* The gradient of x^0 is constant: there is no second one to check. */
    const bool flat = f == ref_pow && ((const bb_scalar_attrs *)attrs)->value == 0;
    const op_case cases[] = {
        {.name = "matrix",
         .attrs = attrs,
         .in = {{.fill = fill, .shape = {2, {5, 7}}}},
         .n_in = 1,
         .no_second = flat},
        {.name = "scalar", .attrs = attrs, .in = {{.fill = fill}}, .n_in = 1, .no_second = flat},
        {.name = "nothing",
         .attrs = attrs,
         .in = {{.fill = fill, .shape = {1, {0}}}},
         .n_in = 1,
         .no_second = flat},
        {.name = "rank 3",
         .attrs = attrs,
         .in = {{.fill = fill, .shape = {3, {3, 1, 4}}}},
         .n_in = 1,
         .no_second = flat},
        {.name = "long rows",
         .attrs = attrs,
         .in = {{.fill = fill, .shape = {2, {8, 65}}}},
         .n_in = 1,
         .no_second = true,
         .why = "slow"},
    };
    running = f;
    run_op_cases(t, op, cases, COUNT(cases), reference);
}

static void test_pow(test *t) {
    static const double exponents[] = {-1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4};
    for (int i = 0; i < COUNT(exponents); i++)
        run_scalar(t, "pow", ref_pow, &(const bb_scalar_attrs){exponents[i]}, FILL_POSITIVE);
    run_scalar(t, "pow", ref_pow, &(const bb_scalar_attrs){2}, FILL_NORMAL);
    run_scalar(t, "pow", ref_pow, &(const bb_scalar_attrs){3}, FILL_NORMAL);
}
static void test_add_mul(test *t) {
    run_scalar(t, "add_scalar", ref_add, &(const bb_scalar_attrs){-1.25}, FILL_NORMAL);
    run_scalar(t, "mul_scalar", ref_mul, &(const bb_scalar_attrs){-1.25}, FILL_NORMAL);
    run_scalar(t, "mul_scalar", ref_mul, &(const bb_scalar_attrs){0}, FILL_NORMAL);
}
static void test_clamp(test *t) {
    run_scalar(t, "clamp", ref_clamp, &(const bb_clamp_attrs){-0.31, 0.73}, FILL_DISTINCT);
    run_scalar(t, "clamp", ref_clamp, &(const bb_clamp_attrs){-INFINITY, 0.3}, FILL_DISTINCT);
    run_scalar(t, "clamp", ref_clamp, &(const bb_clamp_attrs){0.3, INFINITY}, FILL_DISTINCT);
}

static double item(bb_t x) { return bb_item(x); }

static void test_special_values(test *t) {
    static const double exponents[] = {-1, 0, 0.5, 2, 3},
                        x[] = {0.0, -0.0, INFINITY, -INFINITY, -2};
    bb_context *ctx = test_open();
    for (bb_dtype d = BB_F64; d <= BB_F32; d++)
        for (int e = 0; e < COUNT(exponents); e++)
            for (int i = 0; i < COUNT(x); i++) {
                double got = item(bb_pow(bb_scalar(ctx, d, x[i]), exponents[e])),
                       expected = pow(x[i], exponents[e]);
                CHECK_MSG(t, got == expected || (isnan(got) && isnan(expected)),
                          "pow(%g, %g): got %g, expected %g", x[i], exponents[e], got, expected);
            }
    CHECK(t, isnan(item(bb_clamp(bb_scalar(ctx, BB_F32, NAN), -1, 1))));
    CHECK(t, item(bb_clamp(bb_scalar(ctx, BB_F32, INFINITY), -1, 1)) == 1);
    CHECK(t, item(bb_clamp(bb_scalar(ctx, BB_F32, 0), 3, 2)) == 2); /* min > max: max */
    /* The gradient passes on the bounds themselves, as in PyTorch. */
    static const float edge[] = {-1.5f, -1, 0, 1, 1.5f};
    float got[5] = {0};
    bb_t leaf = bb_set_requires_grad(bb_from(ctx, BB_F32, BB_SHAPE(5), edge), true);
    bb_backward(bb_sum_all(bb_clamp(leaf, -1, 1)), NULL);
    bb_read(bb_grad(leaf), got, sizeof got);
    CHECK(t, got[0] == 0 && got[1] == 1 && got[2] == 1 && got[3] == 1 && got[4] == 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_integers(test *t) {
    bb_context *ctx = test_open();
    CHECK(t, item(bb_pow(bb_scalar(ctx, BB_I64, -3), 5)) == -243);
    CHECK(t, item(bb_pow(bb_scalar(ctx, BB_I32, 7), 0)) == 1);
    CHECK(t, item(bb_add_scalar(bb_scalar(ctx, BB_I64, 40), 2)) == 42);
    CHECK(t, item(bb_mul_scalar(bb_scalar(ctx, BB_U8, 100), 3)) == 300 - 256);
    CHECK(t, item(bb_clamp(bb_scalar(ctx, BB_I64, 9), -INFINITY, 4.5)) == 4);
    CHECK(t, item(bb_clamp(bb_scalar(ctx, BB_I64, -9), -4.5, INFINITY)) == -4);
    CHECK_OK(t, ctx);
    CHECK(t, bb_add_scalar(bb_scalar(ctx, BB_I64, 1), 0.5) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "add_scalar: value: expected a whole number for i64, got 0.5");
    CHECK(t, bb_pow(bb_scalar(ctx, BB_I32, 2), -1) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "pow: value: expected an exponent >= 0 for i32, got -1");
    CHECK(t, bb_mul_scalar(bb_scalar(ctx, BB_BOOL, 1), 2) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "mul_scalar: input: expected a number dtype, got bool");
    CHECK(t, bb_clamp(bb_scalar(ctx, BB_F32, 1), NAN, 1) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "clamp: min: expected a number, got NaN");
    CHECK(t, bb_pow(NULL, 2) == NULL);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"pow", test_pow},           {"add_mul", test_add_mul},
    {"clamp", test_clamp},       {"special_values", test_special_values},
    {"integers", test_integers},
};
TEST_MAIN(rows)
