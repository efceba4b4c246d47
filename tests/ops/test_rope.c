/* RoPE against complex multiplication, with each attribute. */
#include <complex.h>

#include "ops/ops.h"
#include "tests/support/alloc.h"
#include "tests/support/cases.h"

static const bb_rope_attrs usual = {.base = 1e4, .scale = 1};

static void reference(const op_case *c, const double *const *in, const bb_shape *out_shape,
                      double *out) {
    const bb_rope_attrs *a = c->attrs ? c->attrs : &usual;
    const int64_t rows = out_shape->size[out_shape->rank - 2],
                  width = out_shape->size[out_shape->rank - 1];
    const int64_t dims = a->dims ? a->dims : width;
    int64_t n = 0;
    bb_shape_count(out_shape, &n);
    for (int64_t r = 0; width && r < n / width; r++) {
        const double *x = in[0] + r * width;
        double *y = out + r * width;
        for (int64_t i = dims; i < width; i++) y[i] = x[i];
        for (int64_t i = 0; i < dims / 2; i++) {
            const int64_t first = a->interleaved ? 2 * i : i,
                          second = a->interleaved ? 2 * i + 1 : i + dims / 2;
            const double angle = a->scale * (double)(a->offset + r % rows) *
                                 pow(a->base, -2.0 * (double)i / (double)dims);
            const double complex z = (x[first] + x[second] * I) * cexp(angle * I);
            y[first] = creal(z);
            y[second] = cimag(z);
        }
    }
}

static const bb_rope_attrs interleaved = {.base = 1e4, .scale = 1, .interleaved = true};
static const bb_rope_attrs partial = {.base = 500, .scale = 1, .dims = 6, .offset = 3};
static const bb_rope_attrs partial_interleaved = {
    .base = 100, .scale = 0.5, .dims = 4, .offset = 1000, .interleaved = true};
static const bb_rope_attrs backwards = {.base = 1e4, .scale = -2, .offset = 7};
static const bb_rope_attrs long_rows = {.base = 1e4, .scale = 1, .dims = 1100};

static const op_case cases[] = {
    {.name = "defaults", .in = {{.shape = {4, {2, 3, 5, 8}}}}, .n_in = 1},
    {.name = "one matrix", .in = {{.shape = {2, {17, 4}}}}, .n_in = 1},
    {.name = "interleaved", .attrs = &interleaved, .in = {{.shape = {3, {2, 5, 8}}}}, .n_in = 1},
    {.name = "partial", .attrs = &partial, .in = {{.shape = {3, {2, 5, 9}}}}, .n_in = 1},
    {.name = "partial interleaved",
     .attrs = &partial_interleaved,
     .in = {{.shape = {3, {2, 4, 7}}}},
     .n_in = 1},
    {.name = "negative scale", .attrs = &backwards, .in = {{.shape = {3, {2, 4, 6}}}}, .n_in = 1},
    {.name = "one position", .attrs = &backwards, .in = {{.shape = {3, {3, 1, 2}}}}, .n_in = 1},
    {.name = "no positions", .in = {{.shape = {3, {2, 0, 4}}}}, .n_in = 1},
    {.name = "no width", .in = {{.shape = {3, {2, 3, 0}}}}, .n_in = 1},
    {.name = "long rows, odd",
     .attrs = &long_rows,
     .in = {{.shape = {3, {1, 2, 1101}}}},
     .n_in = 1,
     .no_second = true,
     .why = "slow"},
    {.name = "long rows, interleaved",
     .attrs = &interleaved,
     .in = {{.shape = {3, {1, 2, 1026}}}},
     .n_in = 1,
     .no_second = true,
     .why = "slow"},
    {.name = "eight axes",
     .attrs = &interleaved,
     .in = {{.shape = {8, {1, 2, 1, 1, 2, 1, 3, 4}}}},
     .n_in = 1,
     .no_second = true,
     .why = "differentiated twice, the slices with a step of a layout need one axis more"},
    {.name = "several pieces",
     .in = {{.shape = {4, {2, 4, 80, 64}}}},
     .n_in = 1,
     .no_second = true,
     .why = "slow"},
};

static void test_cases(test *t) { run_op_cases(t, "RoPE", cases, COUNT(cases), reference); }

/* Far positions keep the accuracy of f64 angles. */
static void test_far(test *t) {
    bb_context *ctx = test_open();
    const bb_rope_attrs a = {.base = 1e4, .scale = 1, .offset = 1000000};
    const double ones[] = {1, 1, 0, 0};
    double y[4];
    bb_read_f64(bb_rope(bb_from_f64(ctx, BB_F32, BB_SHAPE(1, 4), ones), &a), y, 4);
    CHECK_OK(t, ctx);
    CHECK_NEAR(t, y[0], cos(1e6), 1e-7);
    CHECK_NEAR(t, y[2], sin(1e6), 1e-7);
    CHECK_NEAR(t, y[1], cos(1e4), 1e-7);
    bb_close(ctx);
}

/* Half precision takes what its result takes and the table of one matrix: no tensor becomes f32. */
static void test_narrow_memory(test *t) {
    enum { HEADS = 16, T = 128, D = 64, BYTES = HEADS * T * D * 2 };
    for (int half = 0; half < 2; half++) {
        bb_context *ctx = bb_open(NULL);
        const bb_dtype dtype = half ? BB_F16 : BB_BF16;
        bb_t x = bb_transpose(bb_ones(ctx, dtype, BB_SHAPE(T, HEADS, D)), 0, 1);
        bb_set_requires_grad(x, true);
        bb_t dy = bb_ones(ctx, dtype, BB_SHAPE(HEADS, T, D));
        size_t before = bb_memory_stats(ctx).bytes_held;
        bb_t y = bb_rope(x, NULL);
        const size_t forward = bb_memory_stats(ctx).bytes_peak - before;
        before = bb_memory_stats(ctx).bytes_held;
        bb_backward(y, dy);
        const size_t backward = bb_memory_stats(ctx).bytes_peak - before;
        CHECK_OK(t, ctx);
        CHECK_MSG(t, forward < 1.5 * BYTES, "forward used %zu bytes for %d of output", forward,
                  BYTES);
        CHECK_MSG(t, backward < 1.5 * BYTES, "backward used %zu bytes for %d of gradient", backward,
                  BYTES);
        bb_close(ctx);
    }
}

static void short_of_memory(bb_context *ctx) {
    bb_t x = bb_set_requires_grad(bb_randn(ctx, BB_BF16, BB_SHAPE(3, 4)), true);
    bb_backward(bb_sum_all(bb_rope(x, NULL)), NULL);
}
static void test_allocation(test *t) { alloc_failure_loop(t, short_of_memory); }

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_zeros(ctx, BB_F32, BB_SHAPE(3, 5));
    CHECK(t, bb_rope(x, NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RoPE: dims: expected an even number from 0 to 5, got 5");
    CHECK(t, bb_rope(x, &(bb_rope_attrs){.base = 1e4, .scale = 1, .dims = 6}) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RoPE: dims: expected an even number from 0 to 5, got 6");
    CHECK(t, bb_rope(x, &(bb_rope_attrs){.base = 0, .scale = 1, .dims = 4}) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RoPE: base: expected a finite number > 0, got 0");
    CHECK(t, bb_rope(x, &(bb_rope_attrs){.base = INFINITY, .scale = 1, .dims = 4}) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RoPE: base: expected a finite number > 0, got inf");
    CHECK(t, bb_rope(x, &(bb_rope_attrs){
                            .base = 1e4, .scale = 1, .dims = 4, .offset = INT64_MAX}) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "RoPE: offset: expected a number within 2^53, got 9223372036854775807");
    CHECK(t, bb_rope(bb_zeros(ctx, BB_F32, BB_SHAPE(4)), NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RoPE: input: expected at least 2 axes, got 1");
    bb_close(ctx);
}

static const test_row rows[] = {{"cases", test_cases},
                                {"far", test_far},
                                {"narrow_memory", test_narrow_memory},
                                {"allocation", test_allocation},
                                {"errors", test_errors}};
TEST_MAIN(rows)
