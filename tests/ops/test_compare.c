/* The comparisons and where: case tables, NaN, mixed dtypes, and what where's gradient must not let
 * through. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/cases.h"

static bool ref_eq(double x, double y) { return x == y; }
static bool ref_ne(double x, double y) { return x != y; }
static bool ref_lt(double x, double y) { return x < y; }
static bool ref_le(double x, double y) { return x <= y; }
static bool ref_gt(double x, double y) { return x > y; }
static bool ref_ge(double x, double y) { return x >= y; }

static const struct comparison {
    const char *op;
    bool (*f)(double, double);
    bb_t (*call)(bb_t, bb_t);
} table[] = {{"eq", ref_eq, bb_eq}, {"ne", ref_ne, bb_ne}, {"lt", ref_lt, bb_lt},
             {"le", ref_le, bb_le}, {"gt", ref_gt, bb_gt}, {"ge", ref_ge, bb_ge}};
enum { OPS = sizeof table / sizeof table[0] };

static const struct comparison *running;

static void reference(const op_case *c, const double *const *in, const bb_shape *shape,
                      double *out) {
    int64_t n = 0, index[BB_MAX_RANK];
    bb_shape_count(shape, &n);
    for (int64_t i = 0; i < n; i++) {
        ref_unravel(shape, i, index);
        out[i] = running->f(in[0][ref_broadcast_offset(&c->in[0].shape, shape, index)],
                            in[1][ref_broadcast_offset(&c->in[1].shape, shape, index)]);
    }
}

/* FILL_INDEX with a small limit gives many equal pairs. */
static void test_cases(test *t) {
    for (running = table; running < table + OPS; running++) {
        const op_case cases[] = {
            {.name = "floats",
             .in = {{.shape = {2, {4, 5}}}, {.shape = {2, {4, 5}}}},
             .n_in = 2,
             .no_grad = true},
            {.name = "row",
             .in = {{.shape = {2, {4, 65}}}, {.shape = {1, {65}}}},
             .n_in = 2,
             .no_grad = true},
            {.name = "rank 0",
             .in = {{.shape = {2, {4, 5}}}, {.shape = {0, {0}}}},
             .n_in = 2,
             .no_grad = true},
            {.name = "rank 0 left",
             .in = {{.shape = {0, {0}}}, {.shape = {2, {4, 65}}}},
             .n_in = 2,
             .no_grad = true},
            {.name = "nothing",
             .in = {{.shape = {1, {0}}}, {.shape = {1, {1}}}},
             .n_in = 2,
             .no_grad = true},
            {.name = "integers",
             .in = {{FILL_INDEX, .shape = {2, {9, 9}}, .limit = 3},
                    {FILL_INDEX, .shape = {1, {9}}, .limit = 3}},
             .n_in = 2,
             .no_grad = true},
        };
        run_op_cases(t, running->op, cases, COUNT(cases), reference);
    }
}

static void test_values(test *t) {
    static const float x[] = {1, NAN, NAN, INFINITY, -0.0f, 2},
                       y[] = {1, 1, NAN, INFINITY, 0.0f, 3};
    bb_context *ctx = test_open();
    for (const struct comparison *c = table; c < table + OPS; c++)
        for (bb_dtype d = BB_F64; d <= BB_BF16; d++) {
            uint8_t got[6] = {9, 9, 9, 9, 9, 9};
            bb_t a = bb_cast(bb_from(ctx, BB_F32, BB_SHAPE(6), x), d),
                 b = bb_cast(bb_from(ctx, BB_F32, BB_SHAPE(6), y), d);
            bb_t z = c->call(a, b);
            CHECK_INT(t, bb_dtype_of(z), BB_BOOL);
            bb_read(z, got, sizeof got);
            for (int i = 0; i < 6; i++)
                CHECK_MSG(t, got[i] == c->f((double)x[i], (double)y[i]), "%s(%g, %g) in %s: got %d",
                          c->op, (double)x[i], (double)y[i], bb_dtype_name(d), got[i]);
        }
    /* Promotion: 1 and 1.5 differ though one is an integer. */
    CHECK(t, bb_item(bb_lt(bb_scalar(ctx, BB_I64, 1), bb_scalar(ctx, BB_F32, 1.5))) == 1);
    /* Large integers are compared as integers. */
    int64_t big = (INT64_C(1) << 53) + 1, less = INT64_C(1) << 53;
    CHECK(t, bb_item(bb_gt(bb_from(ctx, BB_I64, BB_SCALAR, &big),
                           bb_from(ctx, BB_I64, BB_SCALAR, &less))) == 1);
    bb_t leaf = bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(2)), true);
    CHECK(t, !bb_requires_grad(bb_eq(leaf, leaf)));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void ref_where(const op_case *c, const double *const *in, const bb_shape *shape,
                      double *out) {
    int64_t n = 0, index[BB_MAX_RANK];
    bb_shape_count(shape, &n);
    for (int64_t i = 0; i < n; i++) {
        ref_unravel(shape, i, index);
        int chosen = in[0][ref_broadcast_offset(&c->in[0].shape, shape, index)] != 0 ? 1 : 2;
        out[i] = in[chosen][ref_broadcast_offset(&c->in[chosen].shape, shape, index)];
    }
}

static void test_where(test *t) {
    static const op_case cases[] = {
        {.name = "matrix",
         .in = {{FILL_BOOL, .shape = {2, {4, 5}}}, {.shape = {2, {4, 5}}}, {.shape = {2, {4, 5}}}},
         .n_in = 3},
        {.name = "masked fill",
         .in = {{FILL_BOOL, .shape = {2, {4, 5}}}, {.shape = {2, {4, 5}}}, {.shape = {0, {0}}}},
         .n_in = 3},
        {.name = "row of choices",
         .in = {{FILL_BOOL, .shape = {1, {5}}}, {.shape = {2, {4, 5}}}, {.shape = {2, {4, 1}}}},
         .n_in = 3},
        {.name = "column of choices",
         .in = {{FILL_BOOL, .shape = {2, {4, 1}}}, {.shape = {1, {70}}}, {.shape = {2, {4, 70}}}},
         .n_in = 3,
         .no_second = true,
         .why = "slow"},
        {.name = "scalars",
         .in = {{FILL_BOOL, .shape = {1, {3}}}, {.shape = {0, {0}}}, {.shape = {0, {0}}}},
         .n_in = 3},
        {.name = "nothing",
         .in = {{FILL_BOOL, .shape = {1, {0}}}, {.shape = {1, {1}}}, {.shape = {0, {0}}}},
         .n_in = 3},
    };
    run_op_cases(t, "where", cases, COUNT(cases), ref_where);
}

/* The value and the gradient of the side that was not chosen do not matter, whatever they are. */
static void test_where_is_clean(test *t) {
    static const uint8_t choose[] = {1, 0};
    static const float x[] = {2, NAN}, y[] = {INFINITY, 3}, seed[] = {5, INFINITY};
    float z[2] = {0}, gx[2] = {0}, gy[2] = {0};
    bb_context *ctx = test_open();
    bb_t a = bb_set_requires_grad(bb_from(ctx, BB_F32, BB_SHAPE(2), x), true);
    bb_t b = bb_set_requires_grad(bb_from(ctx, BB_F32, BB_SHAPE(2), y), true);
    bb_t out = bb_where(bb_from(ctx, BB_BOOL, BB_SHAPE(2), choose), a, b);
    bb_backward(out, bb_from(ctx, BB_F32, BB_SHAPE(2), seed));
    bb_read(out, z, sizeof z);
    bb_read(bb_grad(a), gx, sizeof gx);
    bb_read(bb_grad(b), gy, sizeof gy);
    CHECK_OK(t, ctx);
    CHECK(t, z[0] == 2 && z[1] == 3);
    CHECK(t, gx[0] == 5 && gx[1] == 0 && gy[0] == 0 && gy[1] == INFINITY);
    bb_close(ctx);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_zeros(ctx, BB_F32, BB_SHAPE(2, 3)), flag = bb_zeros(ctx, BB_BOOL, BB_SHAPE(2, 3));
    CHECK(t, bb_where(x, x, x) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "where: condition: expected dtype bool, got f32");
    CHECK(t, bb_where(flag, x, bb_zeros(ctx, BB_F32, BB_SHAPE(4))) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "where: other: expected a shape that broadcasts with (2, 3), got (4,)");
    CHECK(t, bb_lt(x, bb_zeros(ctx, BB_F32, BB_SHAPE(4))) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "lt: other: expected a shape that broadcasts with (2, 3), got (4,)");
    CHECK(t, bb_where(flag, NULL, x) == NULL);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"cases", test_cases},   {"values", test_values},
    {"where", test_where},   {"where_is_clean", test_where_is_clean},
    {"errors", test_errors},
};
TEST_MAIN(rows)
