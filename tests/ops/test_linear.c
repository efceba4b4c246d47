/* linear against plain sums (linear_cases.h). */
#include "tests/ops/linear_cases.h"

static void test_cases(test *t) { run_linear_cases(t, "linear", 3); }

static void short_of_memory(bb_context *ctx) {
    bb_t x = bb_set_requires_grad(bb_randn(ctx, BB_F16, BB_SHAPE(3, 4)), true);
    bb_t w = bb_set_requires_grad(bb_randn(ctx, BB_F16, BB_SHAPE(2, 4)), true);
    bb_t b = bb_set_requires_grad(bb_randn(ctx, BB_F16, BB_SHAPE(2)), true);
    bb_backward(bb_sum_all(bb_linear(x, w, b)), NULL);
}
static void test_allocation(test *t) { alloc_failure_loop(t, short_of_memory); }

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_zeros(ctx, BB_F32, BB_SHAPE(2, 3)), w = bb_zeros(ctx, BB_F32, BB_SHAPE(4, 3));
    CHECK(t, bb_linear(x, bb_zeros(ctx, BB_F32, BB_SHAPE(3, 4)), NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "linear: weight: expected shape (out, 3), got (3, 4)");
    CHECK(t, bb_linear(x, w, bb_zeros(ctx, BB_F32, BB_SHAPE(3))) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "linear: bias: expected shape (4,), got (3,)");
    CHECK(t, bb_linear(x, bb_zeros(ctx, BB_BF16, BB_SHAPE(4, 3)), NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "linear: weight: expected dtype f32, got bf16");
    CHECK(t, bb_linear(bb_scalar(ctx, BB_F32, 1), w, NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "linear: input: expected at least 1 axes, got 0");
    CHECK(t, bb_linear(x, NULL, NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "linear: weight: expected a tensor, got NULL");
    bb_close(ctx);
}

static const test_row rows[] = {
    {"cases", test_cases}, {"allocation", test_allocation}, {"errors", test_errors}};
TEST_MAIN(rows)
