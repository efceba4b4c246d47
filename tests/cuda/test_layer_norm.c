/* The kernels of LayerNorm on the device, at the borders of each map, in every layout. The case
 * tables of tests/ops/test_layer_norm.c cover the rest. */
#include "tests/cuda/norm_problem.h"
#include "tests/support/test.h"

static void test_dimensions(test *t) {
    static const int64_t dims[] = {1,    3,    8,    64,    128,   504,   512,
                                   520,  768,  1016, 1024,  1032,  2001,  4096,
                                   8184, 8192, 8200, 16376, 16384, 16392, 30000};
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(dims); i++) {
        const norm_problem p = {
            LAYER_NORM, PACKED, BB_BF16, i % 2 ? BB_BF16 : BB_F32, dims[i] > 4000 ? 3 : 40,
            dims[i],    0};
        if (dims[i] > 1) norm_check(t, ctx, &p); /* of one element, all is rounding */
        const norm_problem q = {LAYER_NORM, PACKED, BB_F32, BB_F32, dims[i] > 4000 ? 2 : 37,
                                dims[i],    0};
        if (dims[i] > 1) norm_check(t, ctx, &q);
    }
    const norm_problem wide = {LAYER_NORM, PACKED, BB_F64, BB_F64, 9, 100, 0};
    norm_check(t, ctx, &wide);
    bb_close(ctx);
}

static void test_layouts(test *t) {
    static const int64_t dims[] = {40, 512, 1032, 8200};
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(dims); i++) {
        for (int way = SPACED; way <= HEADS; way++) {
            const norm_problem p = {
                LAYER_NORM, (norm_layout)way, BB_F16, BB_F16, dims[i] > 1000 ? 6 : 84, dims[i], 0};
            norm_check(t, ctx, &p);
        }
    }
    bb_close(ctx);
}

/* Rows far from zero: the mean is summed as differences, so nothing is lost that x still has. */
static void test_far_from_zero(test *t) {
    bb_context *ctx = test_open();
    for (int64_t n = 60; n <= 40000; n *= 25) {
        bb_t x = bb_add_scalar(bb_mul_scalar(bb_randn(ctx, BB_F32, BB_SHAPE(2, n)), 8), 1e6);
        double *value = norm_doubles(2 * n), *got = norm_doubles(2 * n);
        bb_read_f64(x, value, 2 * n);
        bb_read_f64(bb_layer_norm(x, NULL, NULL, 1e-5), got, 2 * n);
        for (int64_t row = 0; row < 2; row++) {
            double mean = 0, squares = 0;
            const double *v = value + row * n;
            for (int64_t i = 0; i < n; i++) mean += v[i] / (double)n;
            for (int64_t i = 0; i < n; i++) squares += (v[i] - mean) * (v[i] - mean);
            int64_t wrong = 0;
            for (int64_t i = 0; i < n; i++)
                wrong += fabs(got[row * n + i] - (v[i] - mean) / sqrt(squares / (double)n + 1e-5)) >
                         0.01;
            CHECK_INT(t, wrong, 0);
        }
        CHECK_OK(t, ctx);
        free(value);
        free(got);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

static const test_row rows[] = {
    {"dimensions", test_dimensions},
    {"layouts", test_layouts},
    {"far from zero", test_far_from_zero},
};
TEST_MAIN(rows)
