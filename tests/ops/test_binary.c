/* add, sub, mul, div, maximum, minimum: case tables with broadcasts, promotion against PyTorch's
 * table, ties, NaN. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/cases.h"

static double ref_add(double x, double y) { return x + y; }
static double ref_sub(double x, double y) { return x - y; }
static double ref_mul(double x, double y) { return x * y; }
static double ref_div(double x, double y) { return x / y; }

static double (*running)(double, double);

static void reference(const op_case *c, const double *const *in, const bb_shape *shape,
                      double *out) {
    int64_t n = 0, index[BB_MAX_RANK];
    bb_shape_count(shape, &n);
    for (int64_t i = 0; i < n; i++) {
        ref_unravel(shape, i, index);
        out[i] = running(in[0][ref_broadcast_offset(&c->in[0].shape, shape, index)],
                         in[1][ref_broadcast_offset(&c->in[1].shape, shape, index)]);
    }
}

static void run_binary(test *t, const char *op, double (*f)(double, double), fill_kind a,
                       fill_kind b) {
    const op_case cases[] = {
        {.name = "matrix",
         .in = {{.fill = a, .shape = {2, {4, 5}}}, {.fill = b, .shape = {2, {4, 5}}}},
         .n_in = 2},
        {.name = "scalars", .in = {{.fill = a}, {.fill = b}}, .n_in = 2},
        {.name = "row",
         .in = {{.fill = a, .shape = {2, {4, 5}}}, {.fill = b, .shape = {1, {5}}}},
         .n_in = 2},
        {.name = "column",
         .in = {{.fill = a, .shape = {2, {4, 1}}}, {.fill = b, .shape = {2, {4, 5}}}},
         .n_in = 2},
        {.name = "outer",
         .in = {{.fill = a, .shape = {2, {4, 1}}}, {.fill = b, .shape = {2, {1, 3}}}},
         .n_in = 2},
        {.name = "rank 0 left", .in = {{.fill = a}, {.fill = b, .shape = {2, {3, 2}}}}, .n_in = 2},
        {.name = "rank 0 right", .in = {{.fill = a, .shape = {2, {3, 2}}}, {.fill = b}}, .n_in = 2},
        {.name = "middle",
         .in = {{.fill = a, .shape = {3, {2, 1, 3}}}, {.fill = b, .shape = {2, {4, 1}}}},
         .n_in = 2},
        {.name = "nothing",
         .in = {{.fill = a, .shape = {2, {0, 3}}}, {.fill = b, .shape = {1, {3}}}},
         .n_in = 2},
        {.name = "long rows",
         .in = {{.fill = a, .shape = {2, {3, 64}}}, {.fill = b, .shape = {1, {64}}}},
         .n_in = 2,
         .no_second = true,
         .why = "slow"},
        {.name = "rows one short",
         .in = {{.fill = a, .shape = {2, {9, 63}}}, {.fill = b, .shape = {2, {9, 1}}}},
         .n_in = 2,
         .no_second = true,
         .why = "slow"},
    };
    running = f;
    run_op_cases(t, op, cases, COUNT(cases), reference);
}

static void test_add(test *t) { run_binary(t, "add", ref_add, FILL_NORMAL, FILL_NORMAL); }
static void test_sub(test *t) { run_binary(t, "sub", ref_sub, FILL_NORMAL, FILL_NORMAL); }
static void test_mul(test *t) { run_binary(t, "mul", ref_mul, FILL_NORMAL, FILL_NORMAL); }
static void test_div(test *t) { run_binary(t, "div", ref_div, FILL_NORMAL, FILL_POSITIVE); }
static void test_maximum(test *t) { run_binary(t, "maximum", fmax, FILL_DISTINCT, FILL_DISTINCT); }
static void test_minimum(test *t) { run_binary(t, "minimum", fmin, FILL_DISTINCT, FILL_DISTINCT); }

/* torch.promote_types, rows and columns in the order of bb_dtype. */
static void test_promotion(test *t) {
    enum {
        D = BB_F64,
        F = BB_F32,
        H = BB_F16,
        B = BB_BF16,
        L = BB_I64,
        I = BB_I32,
        U = BB_U8,
        O = BB_BOOL
    };
    static const int expected[BB_DTYPE_COUNT][BB_DTYPE_COUNT] = {
        {D, D, D, D, D, D, D, D}, {D, F, F, F, F, F, F, F}, {D, F, H, F, H, H, H, H},
        {D, F, F, B, B, B, B, B}, {D, F, H, B, L, L, L, L}, {D, F, H, B, L, I, I, I},
        {D, F, H, B, L, I, U, U}, {D, F, H, B, L, I, U, O},
    };
    bb_context *ctx = test_open();
    for (int a = 0; a < BB_DTYPE_COUNT; a++)
        for (int b = 0; b < BB_DTYPE_COUNT; b++) {
            bb_t x = bb_ones(ctx, (bb_dtype)a, BB_SHAPE(2)),
                 y = bb_ones(ctx, (bb_dtype)b, BB_SHAPE(2));
            bb_t x0 = bb_ones(ctx, (bb_dtype)a, BB_SCALAR),
                 y0 = bb_ones(ctx, (bb_dtype)b, BB_SCALAR);
            int kind_a = bb_dtype_is_float((bb_dtype)a) ? 2 : a != BB_BOOL,
                kind_b = bb_dtype_is_float((bb_dtype)b) ? 2 : b != BB_BOOL;
            CHECK_INT(t, bb_promote(x, y), expected[a][b]);
            CHECK_INT(t, bb_promote(x0, y0), expected[a][b]);
            /* Rank 0 against axes: torch.result_type. */
            CHECK_INT(t, bb_promote(x, y0), kind_a >= kind_b ? a : expected[a][b]);
            CHECK_INT(t, bb_promote(x0, y), kind_b >= kind_a ? b : expected[a][b]);
            bb_t z = bb_add(x, y);
            CHECK_INT(t, bb_dtype_of(z), expected[a][b]);
            CHECK(t, bb_item(bb_select(z, 0, 1)) == (expected[a][b] == BB_BOOL ? 1 : 2));
            CHECK_OK(t, ctx);
        }
    /* div of integers is a float; the casts are on the tape. */
    bb_t third = bb_div(bb_scalar(ctx, BB_I64, 1), bb_scalar(ctx, BB_I64, 3));
    CHECK_INT(t, bb_dtype_of(third), BB_F32);
    CHECK_NEAR(t, bb_item(third), 1.0 / 3, 1e-7);
    bb_t half = bb_set_requires_grad(bb_ones(ctx, BB_BF16, BB_SHAPE(3)), true);
    bb_backward(bb_sum_all(bb_mul(half, bb_full(ctx, BB_F32, BB_SHAPE(3), 1.25))), NULL);
    CHECK_INT(t, bb_dtype_of(bb_grad(half)), BB_BF16);
    CHECK(t, bb_item(bb_select(bb_grad(half), 0, 2)) == 1.25);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_ties_and_nan(test *t) {
    static const float x[] = {1, 2, 3, NAN, 1}, y[] = {1, 3, 2, 1, NAN};
    float gx[5] = {0}, gy[5] = {0}, z[5] = {0};
    bb_context *ctx = test_open();
    bb_t a = bb_set_requires_grad(bb_from(ctx, BB_F32, BB_SHAPE(5), x), true);
    bb_t b = bb_set_requires_grad(bb_from(ctx, BB_F32, BB_SHAPE(5), y), true),
         out = bb_maximum(a, b);
    bb_backward(bb_sum_all(out), NULL);
    bb_read(out, z, sizeof z);
    bb_read(bb_grad(a), gx, sizeof gx);
    bb_read(bb_grad(b), gy, sizeof gy);
    CHECK(t, z[0] == 1 && z[1] == 3 && z[2] == 3 && isnan(z[3]) && isnan(z[4]));
    CHECK(t,
          gx[0] == 0.5f && gx[1] == 0 && gx[2] == 1 && gy[0] == 0.5f && gy[1] == 1 && gy[2] == 0);
    bb_read(bb_minimum(a, b), z, sizeof z);
    CHECK(t, z[0] == 1 && z[1] == 2 && z[2] == 2 && isnan(z[3]) && isnan(z[4]));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* The same tensor twice: each use adds its part. */
static void test_same_input_twice(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_set_requires_grad(bb_full(ctx, BB_F64, BB_SHAPE(2), 3), true);
    bb_backward(bb_sum_all(bb_mul(x, x)), NULL);
    CHECK(t, bb_item(bb_select(bb_grad(x), 0, 1)) == 6);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_zeros(ctx, BB_F32, BB_SHAPE(2, 3)), flag = bb_zeros(ctx, BB_BOOL, BB_SHAPE(2));
    CHECK(t, bb_add(x, bb_zeros(ctx, BB_F32, BB_SHAPE(2))) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "add: other: expected a shape that broadcasts with (2, 3), got (2,)");
    CHECK(t, bb_sub(flag, flag) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "sub: input: expected a number dtype, got bool");
    bb_tensor *in[] = {x, bb_zeros(ctx, BB_F64, BB_SHAPE(2, 3))};
    CHECK(t, bb_apply1(ctx, bb_find_op(ctx, "add"), in, 2, NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "add: other: expected dtype f32, got f64");
    CHECK(t, bb_add(x, NULL) == NULL);
    bb_clear_error(ctx);
    CHECK(t, bb_add(NULL, NULL) == NULL);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"add", test_add},
    {"sub", test_sub},
    {"mul", test_mul},
    {"div", test_div},
    {"maximum", test_maximum},
    {"minimum", test_minimum},
    {"promotion", test_promotion},
    {"ties_and_nan", test_ties_and_nan},
    {"same_input_twice", test_same_input_twice},
    {"errors", test_errors},
};
TEST_MAIN(rows)
