/* swiglu against its formula; halves of one projection as inputs. */
#include "ops/ops.h"
#include "tests/support/cases.h"

static void reference(const op_case *c, const double *const *in, const bb_shape *out_shape,
                      double *out) {
    (void)c;
    int64_t n = 0;
    bb_shape_count(out_shape, &n);
    for (int64_t i = 0; i < n; i++) out[i] = in[0][i] / (1 + exp(-in[0][i])) * in[1][i];
}

#define PAIR(...)                                                                                  \
    {                                                                                              \
        {.shape = __VA_ARGS__}, { .shape = __VA_ARGS__ }                                           \
    }
static const op_case cases[] = {
    {.name = "matrix", .in = PAIR({2, {5, 7}}), .n_in = 2},
    {.name = "three axes", .in = PAIR({3, {2, 3, 8}}), .n_in = 2},
    {.name = "scalar", .in = PAIR({0, {0}}), .n_in = 2},
    {.name = "nothing", .in = PAIR({2, {0, 4}}), .n_in = 2},
    {.name = "two pieces", .in = PAIR({2, {91, 181}}), .n_in = 2, .no_second = true, .why = "slow"},
};

static void test_cases(test *t) { run_op_cases(t, "swiglu", cases, COUNT(cases), reference); }

/* gate and up as the two halves of each row, as a fused projection makes them. */
static void test_halves(test *t) {
    enum { ROWS = 70, WIDTH = 300 };
    bb_context *ctx = test_open();
    bb_t both = bb_randn(ctx, BB_F32, BB_SHAPE(ROWS, 2 * WIDTH));
    bb_t gate = bb_narrow(both, 1, 0, WIDTH), up = bb_narrow(both, 1, WIDTH, WIDTH);
    bb_t apart = bb_swiglu(gate, up), packed = bb_swiglu(bb_contiguous(gate), bb_contiguous(up));
    static float a[ROWS * WIDTH], b[ROWS * WIDTH];
    CHECK(t, bb_read(apart, a, sizeof a) == BB_OK && bb_read(packed, b, sizeof b) == BB_OK);
    CHECK_OK(t, ctx);
    CHECK(t, memcmp(a, b, sizeof a) == 0);
    bb_close(ctx);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_zeros(ctx, BB_F32, BB_SHAPE(2, 3));
    CHECK(t, bb_swiglu(x, bb_zeros(ctx, BB_F32, BB_SHAPE(3))) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "swiglu: up: expected shape (2, 3), got (3,)");
    CHECK(t, bb_swiglu(x, bb_zeros(ctx, BB_F64, BB_SHAPE(2, 3))) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "swiglu: up: expected dtype f32, got f64");
    CHECK(t, bb_swiglu(x, NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "swiglu: up: expected a tensor, got NULL");
    bb_close(ctx);
}

static const test_row rows[] = {
    {"cases", test_cases}, {"halves", test_halves}, {"errors", test_errors}};
TEST_MAIN(rows)
