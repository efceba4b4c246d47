/* RMSNormImpl's fused CPU kernel: the roundings to the bit at each ISA level, the saved
 * statistic, the same bytes for any number of threads, memory that runs out. Gradients:
 * tests/reference/test_known_bugs.c; values and gradients in general: tests/ops/test_rms_norm.c. */
#include "autograd/autograd.h"
#include "backends/cpu/isa.h"
#include "ops/ops.h"
#include "tests/backends/rms_norm_kernel.h"
#include "tests/support/alloc.h"
#include "tests/support/checker.h"

enum { MAX_VALUES = 4096 };

static const bb_dtype float_dtypes[3] = {BB_F32, BB_F16, BB_BF16};

static void draw_values(bb_dtype dtype, uint64_t seed, int64_t n, double *values) {
    for (int64_t i = 0; i < n; i++) values[i] = round_to(dtype, draw_normal(&seed));
}

/* ---- Roundings */

/* The expression of ops/rms_norm.c, given the statistic. */
static double expected_value(bb_dtype x_dtype, bb_dtype y_dtype, bool round_last, float x,
                             float rstd, float scale) {
    float xhat = x * rstd;
    if (!round_last) xhat = (float)round_to(x_dtype, xhat);
    float product = xhat * scale;
    return round_to(y_dtype, product);
}

static void check_roundings(test *t, bb_context *ctx, bb_dtype xd, bb_dtype sd, int rounding,
                            int64_t n) {
    static double x[MAX_VALUES], scale[MAX_VALUES], y[MAX_VALUES];
    double saved[3];
    bb_rms_norm_attrs attrs = {{1, {-1}}, 1e-5, rounding};
    draw_values(xd, 3, 3 * n, x);
    draw_values(sd, 4, n, scale);
    bb_tensor *rstd = NULL;
    bb_tensor *out = rms_norm_kernel(ctx, bb_from_f64(ctx, xd, SH(3, n), x),
                                     bb_from_f64(ctx, sd, SH(n), scale), &attrs, &rstd);
    if (!CHECK(t, out != NULL)) return;
    bb_read_f64(out, y, 3 * n);
    bb_read_f64(rstd, saved, 3);
    bool round_last = rounding == BB_SCALE_THEN_ROUND ||
                      (rounding == BB_ROUND_AUTO && sd == BB_F32 && xd != BB_F32);
    int64_t different = 0;
    for (int64_t i = 0; i < 3 * n; i++) {
        float r = (float)saved[i / n];
        different += y[i] != expected_value(xd, bb_dtype_of(out), round_last, (float)x[i], r,
                                            (float)scale[i % n]);
    }
    CHECK_MSG(t, different == 0,
              "%s x %s, rounding %d, dim %lld: %lld elements differ from the formula",
              bb_dtype_name(xd), bb_dtype_name(sd), rounding, (long long)n, (long long)different);
}

static void test_roundings(test *t) {
    static const int64_t dims[] = {1, 3, 64, 423, 1025};
    for (int isa = 0; bb_isa_at(isa); isa++) {
        if (!bb_isa_at(isa)->usable()) continue;
        setenv("BOBBIN_ISA", bb_isa_at(isa)->name, 1);
        bb_context *ctx = test_open();
        for (int pair = 0; pair < 9; pair++)
            for (int rounding = 0; rounding < 3; rounding++)
                for (int d = 0; d < 5; d++)
                    check_roundings(t, ctx, float_dtypes[pair / 3], float_dtypes[pair % 3],
                                    rounding, dims[d]);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
    unsetenv("BOBBIN_ISA");
}

/* The orders must be told apart by these tests: in bf16 they differ in many elements. */
static void test_rounding_orders_differ(test *t) {
    bb_context *ctx = test_open();
    double values[512], a[512], b[512];
    draw_values(BB_BF16, 5, 512, values);
    bb_tensor *x = bb_from_f64(ctx, BB_BF16, SH(2, 256), values),
              *scale = bb_from_f64(ctx, BB_BF16, SH(256), values);
    bb_rms_norm_attrs attrs = {{1, {-1}}, 1e-5, BB_ROUND_THEN_SCALE};
    bb_read_f64(bb_rms_norm_with(x, scale, &attrs), a, 512);
    attrs.rounding = BB_SCALE_THEN_ROUND;
    bb_read_f64(bb_rms_norm_with(x, scale, &attrs), b, 512);
    int different = 0;
    for (int i = 0; i < 512; i++) different += a[i] != b[i];
    CHECK_MSG(t, different > 50, "%d of 512 elements differ", different);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* ---- Threads */

typedef struct result_bytes {
    char *data[3];
    size_t bytes[3];
} result_bytes;

static result_bytes run_with_threads(test *t, int threads, bb_dtype dtype, bb_shape x_shape,
                                     bb_shape scale_shape) {
    result_bytes r = {{NULL}, {0}};
    bb_context *ctx = bb_open(&(bb_options){.seed = 11, .threads = threads});
    bb_tensor *x = bb_set_requires_grad(bb_randn(ctx, dtype, x_shape), true);
    bb_tensor *scale = bb_set_requires_grad(bb_randn(ctx, dtype, scale_shape), true);
    bb_tensor *dy = bb_randn(ctx, dtype, x_shape);
    bb_tensor *y = bb_rms_norm(x, scale, 1e-5);
    bb_backward(y, dy);
    bb_tensor *results[] = {y, bb_grad(x), bb_grad(scale)};
    for (int i = 0; i < 3; i++) {
        r.bytes[i] = (size_t)bb_count(results[i]) * bb_dtype_bytes(dtype);
        r.data[i] = malloc(r.bytes[i]);
        bb_read(results[i], r.data[i], r.bytes[i]);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
    return r;
}

static void test_same_bytes_for_any_threads(test *t) {
    const struct {
        bb_shape x, scale;
    } cases[] = {{SH(129, 768), SH(768)},
                 {SH(2, 4, 300, 64), SH(4, 1, 64)},
                 {SH(70, 4096), SH(1)},
                 {SH(40, 50, 64), SH(50, 64)}};
    static const bb_dtype dtypes[] = {BB_F64, BB_F32, BB_BF16};
    for (int c = 0; c < 4; c++) {
        for (int d = 0; d < 3; d++) {
            result_bytes one = run_with_threads(t, 1, dtypes[d], cases[c].x, cases[c].scale);
            for (int threads = 2; threads <= 3; threads++) {
                result_bytes more =
                    run_with_threads(t, threads, dtypes[d], cases[c].x, cases[c].scale);
                for (int i = 0; i < 3; i++) {
                    CHECK_MSG(t, memcmp(one.data[i], more.data[i], one.bytes[i]) == 0,
                              "case %d %s, result %d: %d threads give other bytes than one", c,
                              bb_dtype_name(dtypes[d]), i, threads);
                    free(more.data[i]);
                }
            }
            for (int i = 0; i < 3; i++) free(one.data[i]);
        }
    }
}

/* The variance was saved where 1/sqrt was meant: right forward, wrong backward. */
static void test_saved_statistic(test *t) {
    static const bb_dtype dtypes[] = {BB_F64, BB_F32, BB_F16, BB_BF16};
    static const int64_t dims[] = {1, 63, 64, 256, 257, 1024};
    bb_context *ctx = test_open();
    for (int d = 0; d < 4; d++) {
        for (int k = 0; k < 6; k++) {
            static double x[MAX_VALUES];
            bb_rms_norm_attrs attrs = {{1, {-1}}, 0.01, BB_ROUND_AUTO};
            bb_tensor *rstd = NULL;
            double got[3];
            draw_values(dtypes[d], 6, 3 * dims[k], x);
            rms_norm_kernel(ctx, bb_from_f64(ctx, dtypes[d], SH(3, dims[k]), x),
                            bb_ones(ctx, dtypes[d], SH(dims[k])), &attrs, &rstd);
            if (!CHECK(t, rstd != NULL)) continue;
            CHECK(t, bb_dtype_of(rstd) == (dtypes[d] == BB_F64 ? BB_F64 : BB_F32));
            CHECK(t, bb_rank(rstd) == 2 && bb_size(rstd, 0) == 3 && bb_size(rstd, 1) == 1);
            bb_read_f64(rstd, got, 3);
            for (int r = 0; r < 3; r++) {
                double squares = 0;
                for (int64_t i = 0; i < dims[k]; i++) squares += pow(x[r * dims[k] + i], 2);
                double expected = 1 / sqrt(squares / (double)dims[k] + 0.01);
                CHECK_NEAR(t, got[r], expected, (dtypes[d] == BB_F64 ? 1e-15 : 4e-7) * expected);
            }
        }
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* The gradient of scale where it is gathered from several chunks of rows, for one group of rows and
 * for several; against the decomposition. */
static void test_chunks(test *t) {
    const struct {
        bb_shape x, scale;
    } cases[] = {{SH(65, 1024), SH(1024)},
                 {SH(31, 1024), SH(1024)},
                 {SH(65, 1024), SH(1)},
                 {SH(3, 40, 1024), SH(3, 1, 1024)},
                 {SH(40, 3, 1024), SH(3, 1024)}};
    static const bb_dtype dtypes[] = {BB_F64, BB_F32};
    static double got[2][3 * 1024];
    bb_context *ctx = test_open();
    for (int i = 0; i < 10; i++) {
        bb_dtype dtype = dtypes[i % 2];
        bb_shape shape = cases[i / 2].x;
        bb_tensor *x = bb_randn(ctx, dtype, shape), *dy = bb_randn(ctx, dtype, shape),
                  *scale = bb_set_requires_grad(bb_randn(ctx, dtype, cases[i / 2].scale), true);
        int64_t n = bb_count(scale);
        for (int path = BB_PATH_FUSED; path <= BB_PATH_COMPOSED; path++) {
            bb_set_path(ctx, (bb_path)path);
            bb_backward(bb_rms_norm(x, scale, 1e-5), dy);
            bb_read_f64(bb_grad(scale), got[path == BB_PATH_COMPOSED], n);
            bb_zero_grad(scale);
        }
        bb_set_path(ctx, BB_PATH_AUTO);
        for (int64_t k = 0; k < n; k++)
            CHECK_NEAR(t, got[0][k], got[1][k],
                       (dtype == BB_F64 ? 1e-13 : 1e-5) * largest(n, got[1]));
        CHECK_OK(t, ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

/* Elements of input and gradient that lie apart, in rows of several tiles. */
static void test_steps(test *t) {
    enum { ROWS = 2, DIM = 1100, COUNT = ROWS * DIM }; /* so the step is 2 */
    static const bb_dtype dtypes[] = {BB_F64, BB_F32, BB_F16, BB_BF16};
    static double got[2][2 * COUNT + DIM];
    bb_context *ctx = test_open();
    bb_set_path(ctx, BB_PATH_FUSED);
    for (int i = 0; i < 16; i++) {
        const bb_dtype dtype = dtypes[i / 4];
        const bool x_apart = i & 1, dy_apart = i & 2;
        bb_tensor *in = bb_cast(bb_randn(ctx, BB_F32, SH(ROWS, DIM)), dtype),
                  *dy = bb_cast(bb_randn(ctx, BB_F32, SH(ROWS, DIM)), dtype),
                  *scale = bb_cast(bb_randn(ctx, BB_F32, SH(DIM)), dtype);
        bb_set_requires_grad(scale, true);
        for (int apart = 0; apart < 2; apart++) {
            bb_tensor *x = apart && x_apart ? bb_contiguous(bb_transpose(in, 0, 1)) : in;
            x = bb_set_requires_grad(bb_detach(x), true);
            bb_tensor *y = bb_rms_norm(apart && x_apart ? bb_transpose(x, 0, 1) : x, scale, 1e-5);
            bb_read_f64(y, got[apart], COUNT);
            if (apart && dy_apart) /* the gradient of a transpose lies transposed */
                bb_backward(bb_transpose(y, 0, 1), bb_contiguous(bb_transpose(dy, 0, 1)));
            else
                bb_backward(y, dy);
            bb_tensor *dx = bb_grad(x);
            bb_read_f64(apart && x_apart ? bb_transpose(dx, 0, 1) : dx, got[apart] + COUNT, COUNT);
            bb_read_f64(bb_grad(scale), got[apart] + 2 * COUNT, DIM);
            bb_zero_grad(scale);
        }
        /* Of f64 the sums go in another order. */
        double bound = dtype == BB_F64 ? 1e-13 : 0, worst = 0;
        for (int k = 0; k < 2 * COUNT + DIM; k++)
            worst = fmax(worst, fabs(got[0][k] - got[1][k]) / (1 + fabs(got[0][k])));
        CHECK_MSG(t, worst <= bound, "%s, x apart %d, dy apart %d: off by %g", bb_dtype_name(dtype),
                  x_apart, dy_apart, worst);
        CHECK_OK(t, ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

/* What the kernel leaves to the decomposition, and what not. */
static void test_supports(test *t) {
    bb_context *ctx = test_open();
    const struct {
        bb_shape x, scale;
        bb_dtype x_dtype, scale_dtype;
        bool fused;
        int64_t axis;
    } cases[] = {
        {SH(2, 3), SH(3), BB_F32, BB_F32, true, -1},
        {SH(2, 3), SH(1), BB_F32, BB_F16, true, -1},
        {SH(2, 4, 5, 3), SH(4, 1, 3), BB_F16, BB_F32, true, -1},
        {SH(2, 3), SH(2, 3), BB_BF16, BB_BF16, true, -1},
        {SH(2, 3), SH(3), BB_F64, BB_BF16, true, -1},
        {SH(2, 3), SH(3), BB_F32, BB_F64, false, -1},
        {SH(3), SH(2, 3), BB_F32, BB_F32, false, -1},
        {SH(2, 3), SH(1, 1, 3), BB_F32, BB_F32, false, -1},
        {SH(2, 1), SH(3), BB_F32, BB_F32, false, -1},
        {SH(2, 3), SH(2, 1), BB_F32, BB_F32, false, -1},
        {SH(3, 2), SH(3, 1), BB_F32, BB_F32, false, -1},
        {SH(2, 1), SH(2, 1), BB_F32, BB_F32, true, -1},
        {SH(2, 3), SH(3), BB_F32, BB_F32, true, 1},
        {SH(2, 3, 4), SH(4), BB_F32, BB_F32, false, 1},
    };
    bb_set_path(ctx, BB_PATH_FUSED);
    for (int i = 0; i < COUNT(cases); i++) {
        bb_tensor *x = bb_set_requires_grad(bb_ones(ctx, cases[i].x_dtype, cases[i].x), true);
        bb_rms_norm_attrs attrs = {{1, {cases[i].axis}}, 1e-5, BB_ROUND_AUTO};
        bb_tensor *y =
            bb_rms_norm_with(x, bb_ones(ctx, cases[i].scale_dtype, cases[i].scale), &attrs);
        CHECK_MSG(t, (y != NULL) == cases[i].fused, "case %d: %s", i, bb_error_message(ctx));
        if (!y) CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, "RMSNormImpl");
    }
    bb_close(ctx);
}

static void train_step(bb_context *ctx) {
    bb_tensor *x = bb_set_requires_grad(bb_randn(ctx, BB_BF16, SH(40, 1024)), true);
    bb_tensor *scale = bb_set_requires_grad(bb_ones(ctx, BB_BF16, SH(1024)), true);
    bb_tensor *y = bb_rms_norm(x, scale, 1e-5);
    bb_backward(y, y);
}

static void test_allocation_failures(test *t) { alloc_failure_loop(t, train_step); }

static const test_row rows[] = {
    {"roundings", test_roundings},
    {"rounding_orders_differ", test_rounding_orders_differ},
    {"same_bytes_for_any_threads", test_same_bytes_for_any_threads},
    {"saved_statistic", test_saved_statistic},
    {"chunks", test_chunks},
    {"steps", test_steps},
    {"supports", test_supports},
    {"allocation_failures", test_allocation_failures},
};
TEST_MAIN(rows)
