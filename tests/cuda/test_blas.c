/* Products on the device: what f32 computes in, the batches that matmul has to walk, a margin of
 * multiprocessors. The case tables of tests/ops/test_matmul.c cover shapes and dtypes. */
#include "ops/ops.h"
#include "tests/support/test.h"

static bool simulated(void) {
    const char *path = getenv("BOBBIN_BACKEND_PATH");
    return path && strstr(path, "cuda-sim");
}

/* x y, where only x is too fine for the narrow types. */
static double product_of(test *t, bb_compute_type type, double x, double y) {
    bb_context *ctx = test_open();
    bb_t a = bb_from_f64(ctx, BB_F32, BB_SHAPE(1, 1), &x),
         b = bb_from_f64(ctx, BB_F32, BB_SHAPE(1, 1), &y);
    CHECK(t, bb_set_f32_compute(ctx, type) == BB_OK);
    const double result = bb_item(bb_matmul(a, b));
    CHECK_OK(t, ctx);
    bb_close(ctx);
    return result;
}

/* cuBLAS may round otherwise, or take inputs as they are; f32 must be f32 everywhere. */
static void test_compute_types(test *t) {
    const double fine = 1 + 0x1p-11 + 0x1p-20, coarse = 1 + 0x1p-8;
    CHECK_NEAR(t, product_of(t, BB_COMPUTE_F32, fine, 3), 3 * fine, 0x1p-22);
    const bool exact = simulated();
    CHECK_NEAR(t, product_of(t, BB_COMPUTE_TF32, fine, 3), 3 * (1 + 0x1p-10), exact ? 0 : 0x1p-8);
    CHECK_NEAR(t, product_of(t, BB_COMPUTE_F16, fine, 3), 3 * (1 + 0x1p-10), exact ? 0 : 0x1p-8);
    CHECK_NEAR(t, product_of(t, BB_COMPUTE_BF16, coarse, 3), 3, exact ? 0 : 0x1p-5);
    CHECK(t, isnan(product_of(t, BB_COMPUTE_TF32, NAN, 1)));
    CHECK(t, isinf(product_of(t, BB_COMPUTE_TF32, INFINITY, 1)));
}

/* Numbers that no two places share. */
static bb_t ramp(bb_context *ctx, bb_dtype dtype, bb_shape shape) {
    double values[2048];
    int64_t n = 1;
    for (int i = 0; i < shape.rank; i++) n *= shape.size[i];
    for (int64_t i = 0; i < n; i++) values[i] = (double)(i * 7 % 31 - 15);
    return bb_from_f64(ctx, dtype, shape, values);
}

/* Batch (i, j, k) of the product against the product of the two matrices alone. */
static void check_batches(test *t, bb_context *ctx, bb_t a, bb_t b, bb_t c) {
    const bb_t in[2] = {a, b};
    double got[64], expected[64];
    bb_shape shape = bb_shape_of(c);
    for (int64_t p = 0; p < shape.size[0] * shape.size[1] * shape.size[2]; p++) {
        const int64_t at[3] = {p / shape.size[2] / shape.size[1], p / shape.size[2] % shape.size[1],
                               p % shape.size[2]};
        bb_t one[2], part = c;
        for (int i = 0; i < 2; i++) {
            one[i] = in[i];
            for (int x = 0; x < 3; x++)
                if (bb_rank(in[i]) > 4 - x)
                    one[i] = bb_select(one[i], 0, bb_size(one[i], 0) == 1 ? 0 : at[x]);
        }
        for (int x = 0; x < 3; x++) part = bb_select(part, 0, at[x]);
        const int64_t n = bb_count(part);
        bb_read_f64(part, got, n);
        bb_read_f64(bb_matmul(one[0], one[1]), expected, n);
        CHECK(t, memcmp(got, expected, (size_t)n * sizeof *got) == 0);
    }
    CHECK_OK(t, ctx);
}

static void test_batches(test *t) {
    bb_context *ctx = test_open();
    const bb_dtype dtypes[] = {BB_F32, BB_I32};
    for (int d = 0; d < 2; d++) {
        const bb_dtype dtype = dtypes[d];
        bb_t a = ramp(ctx, dtype, BB_SHAPE(2, 3, 4, 5, 6)), b = ramp(ctx, dtype, BB_SHAPE(4, 6, 7)),
             whole = ramp(ctx, dtype, BB_SHAPE(2, 3, 4, 6, 7)),
             flat = ramp(ctx, dtype, BB_SHAPE(6, 7)),
             middle = ramp(ctx, dtype, BB_SHAPE(3, 1, 6, 7)),
             ends = ramp(ctx, dtype, BB_SHAPE(2, 1, 4, 6, 7)),
             turned = bb_transpose(ramp(ctx, dtype, BB_SHAPE(2, 3, 4, 6, 5)), 3, 4),
             swapped = bb_transpose(ramp(ctx, dtype, BB_SHAPE(4, 3, 2, 5, 6)), 0, 2),
             inner = bb_transpose(ramp(ctx, dtype, BB_SHAPE(2, 3, 5, 4, 6)), 2, 3);
        const bb_t left[] = {a, turned, swapped, inner}, right[] = {b, whole, flat, middle, ends};
        for (int i = 0; i < 4; i++)
            for (int x = 0; x < 5; x++)
                check_batches(t, ctx, left[i], right[x], bb_matmul(left[i], right[x]));
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

static void test_margin(test *t) {
    bb_context *ctx = test_open();
    bb_t a = ramp(ctx, BB_F32, BB_SHAPE(8, 8));
    double plain[64], margin[64];
    bb_read_f64(bb_matmul(a, a), plain, 64);
    CHECK(t, bb_set_sm_margin(ctx, 1000) == BB_OK);
    bb_read_f64(bb_matmul(a, a), margin, 64);
    CHECK_OK(t, ctx);
    CHECK(t, memcmp(plain, margin, sizeof plain) == 0 && plain[0] != 0);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"compute_types", test_compute_types}, {"batches", test_batches}, {"margin", test_margin}};
TEST_MAIN(rows)
