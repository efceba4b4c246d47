/* LinearAdd against plain sums: every rank of input, with and without bias, empty sizes, layouts.
 */
#include "ops/ops.h"
#include "tests/support/alloc.h"
#include "tests/support/cases.h"

static void reference(const op_case *c, const double *const *in, const bb_shape *out_shape,
                      double *out) {
    const int64_t width = c->in[1].shape.size[0], depth = c->in[1].shape.size[1];
    int64_t n = 0;
    bb_shape_count(out_shape, &n);
    for (int64_t i = 0; i < n; i++) {
        const double *x = in[0] + i / width * depth, *w = in[1] + i % width * depth;
        double sum = in[3][i] + (in[2] ? in[2][i % width] : 0);
        for (int64_t k = 0; k < depth; k++) sum += x[k] * w[k];
        out[i] = sum;
    }
}

#define LINEAR(x, out, in_, missing, y)                                                            \
    .in = {{.shape = x},                                                                           \
           {.shape = {2, {out, in_}}},                                                             \
           {.shape = {1, {out}}, .absent = missing},                                               \
           {.shape = y}},                                                                          \
    .n_in = 4
#define S(...) __VA_ARGS__
static const op_case cases[] = {
    {.name = "vector", LINEAR(S({1, {4}}), 3, 4, false, S({1, {3}}))},
    {.name = "matrix", LINEAR(S({2, {5, 4}}), 3, 4, false, S({2, {5, 3}}))},
    {.name = "three axes, no bias", LINEAR(S({3, {2, 3, 4}}), 5, 4, true, S({3, {2, 3, 5}}))},
    {.name = "four axes", LINEAR(S({4, {2, 1, 3, 4}}), 2, 4, false, S({4, {2, 1, 3, 2}}))},
    {.name = "one by one", LINEAR(S({2, {1, 1}}), 1, 1, false, S({2, {1, 1}}))},
    {.name = "no rows", LINEAR(S({2, {0, 4}}), 3, 4, false, S({2, {0, 3}}))},
    {.name = "no depth", LINEAR(S({2, {3, 0}}), 2, 0, false, S({2, {3, 2}}))},
    {.name = "no depth, no bias", LINEAR(S({2, {3, 0}}), 2, 0, true, S({2, {3, 2}}))},
    {.name = "no width", LINEAR(S({2, {3, 4}}), 0, 4, false, S({2, {3, 0}}))},
    {.name = "more columns than a piece",
     LINEAR(S({2, {3, 2}}), 129, 2, false, S({2, {3, 129}})),
     .no_second = true,
     .why = "slow"},
    {.name = "blocks",
     LINEAR(S({3, {2, 33, 65}}), 67, 65, false, S({3, {2, 33, 67}})),
     .tolerance = 16,
     .no_second = true,
     .why = "slow"},
};

static void test_cases(test *t) {
    run_op_cases(t, "LinearAdd", cases, (int)(sizeof cases / sizeof cases[0]), reference);
}

static void short_of_memory(bb_context *ctx) {
    bb_t x = bb_set_requires_grad(bb_randn(ctx, BB_F16, BB_SHAPE(3, 4)), true);
    bb_t w = bb_set_requires_grad(bb_randn(ctx, BB_F16, BB_SHAPE(2, 4)), true);
    bb_t b = bb_set_requires_grad(bb_randn(ctx, BB_F16, BB_SHAPE(2)), true);
    bb_t r = bb_set_requires_grad(bb_randn(ctx, BB_F16, BB_SHAPE(3, 2)), true);
    bb_backward(bb_sum_all(bb_linear_add(x, w, b, r)), NULL);
}
static void test_allocation(test *t) { alloc_failure_loop(t, short_of_memory); }

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_zeros(ctx, BB_F32, BB_SHAPE(2, 3)), w = bb_zeros(ctx, BB_F32, BB_SHAPE(4, 3));
    CHECK(t, bb_linear_add(x, w, NULL, bb_zeros(ctx, BB_F32, BB_SHAPE(2, 3))) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "LinearAdd: residual: expected shape (2, 4), got (2, 3)");
    CHECK(t, bb_linear_add(x, w, NULL, bb_zeros(ctx, BB_BF16, BB_SHAPE(2, 4))) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "LinearAdd: residual: expected dtype f32, got bf16");
    CHECK(t, bb_linear_add(x, bb_zeros(ctx, BB_F32, BB_SHAPE(3, 4)), NULL, x) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "LinearAdd: weight: expected shape (out, 3), got (3, 4)");
    bb_close(ctx);
}

static const test_row rows[] = {
    {"cases", test_cases}, {"allocation", test_allocation}, {"errors", test_errors}};
TEST_MAIN(rows)
