/* Fourteen wrong gradients of norms that other libraries have shipped, a test each, named after
 * what was wrong; on the fused path, which is where such bugs live, and on the composed one. The
 * fused kernel has more of them in tests/backends/test_rms_norm_gradient.c. A step count lost on
 * resume: tests/nn/test_adamw.c and tests/tools/test_train.c. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/checker.h"

#define SH(...) BB_SHAPE(__VA_ARGS__)
#define EACH_PATH(path) for (int path = BB_PATH_FUSED; path <= BB_PATH_COMPOSED; path++)

enum { ROWS = 6, DIM = 33, MANY = 4096, VALUES = MANY * 8 };

/* One norm: what goes in, and what must come out by the definition in f64. */
typedef struct problem {
    bb_dtype dtype;
    int64_t rows, n;
    double eps, x[VALUES], scale[DIM], dy[VALUES];
    double y[VALUES], dx[VALUES], dscale[DIM], dscale_size[DIM];
} problem;

static problem p; /* too large for the stack */

static void draw(bb_dtype dtype, int64_t rows, int64_t n) {
    uint64_t state = 77;
    p.dtype = dtype, p.rows = rows, p.n = n, p.eps = 1e-5;
    for (int64_t i = 0; i < rows * n; i++) p.x[i] = round_to(dtype, draw_normal(&state));
    for (int64_t i = 0; i < n; i++) p.scale[i] = round_to(dtype, draw_normal(&state));
    for (int64_t i = 0; i < rows * n; i++) p.dy[i] = round_to(dtype, draw_normal(&state));
}

static void solve(void) {
    memset(p.dscale, 0, sizeof p.dscale);
    memset(p.dscale_size, 0, sizeof p.dscale_size);
    for (int64_t r = 0; r < p.rows; r++) {
        const double *x = p.x + r * p.n, *dy = p.dy + r * p.n;
        double squares = 0, c = 0;
        for (int64_t i = 0; i < p.n; i++) squares += x[i] * x[i];
        double rstd = 1 / sqrt(squares / (double)p.n + p.eps);
        for (int64_t i = 0; i < p.n; i++) c += dy[i] * p.scale[i] * x[i] * rstd / (double)p.n;
        for (int64_t i = 0; i < p.n; i++) {
            p.y[r * p.n + i] = x[i] * rstd * p.scale[i];
            p.dx[r * p.n + i] = rstd * (dy[i] * p.scale[i] - c * x[i] * rstd);
            p.dscale[i] += dy[i] * x[i] * rstd;
            p.dscale_size[i] += fabs(dy[i] * x[i] * rstd);
        }
    }
}

static bb_tensor *tensor(bb_context *ctx, bb_shape shape, const double *value, bool grad) {
    return bb_set_requires_grad(bb_from_f64(ctx, p.dtype, shape, value), grad);
}

static void near_all(test *t, const char *what, bb_tensor *got, const double *expected,
                     double times) {
    static double value[VALUES];
    if (!CHECK_MSG(t, got != NULL, "%s is missing", what)) return;
    int64_t n = bb_count(got), wrong = 0, first = 0;
    double bound = (8 * dtype_epsilon(bb_dtype_of(got))) * times * largest(n, expected);
    bb_read_f64(got, value, n);
    for (int64_t i = 0; i < n; i++) {
        if (fabs(value[i] - times * expected[i]) <= bound) continue;
        if (!wrong++) first = i;
    }
    CHECK_MSG(t, wrong == 0, "%s: %lld wrong, [%lld]: got %g, expected %g", what, (long long)wrong,
              (long long)first, value[first], times * expected[first]);
}

/* Forward and backward of the problem; dx and dscale against the definition. */
static void check_problem(test *t) {
    solve();
    EACH_PATH(path) {
        bb_context *ctx = test_open();
        bb_tensor *x = tensor(ctx, SH(p.rows, p.n), p.x, true),
                  *scale = tensor(ctx, SH(p.n), p.scale, true);
        bb_set_path(ctx, (bb_path)path);
        bb_tensor *y = bb_rms_norm(x, scale, p.eps);
        bb_backward(y, tensor(ctx, SH(p.rows, p.n), p.dy, false));
        near_all(t, "y", y, p.y, 1);
        near_all(t, "dx", bb_grad(x), p.dx, 1);
        near_all(t, "dscale", bb_grad(scale), p.dscale, 1);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

/* ---- 1 to 4 */

/* The sign was flipped where the gradient of x was written over dy. Every op:
 * tests/autograd/test_aliasing.c. */
static void test_01_result_written_over_its_operand(test *t) {
    draw(BB_F32, ROWS, DIM);
    memcpy(p.dy, p.x, sizeof p.dy);
    solve();
    EACH_PATH(path) {
        bb_context *ctx = test_open();
        bb_tensor *x = tensor(ctx, SH(ROWS, DIM), p.x, true),
                  *scale = tensor(ctx, SH(DIM), p.scale, true);
        bb_set_path(ctx, (bb_path)path);
        bb_backward(bb_rms_norm(x, scale, p.eps), x);
        near_all(t, "dx, cotangent x", bb_grad(x), p.dx, 1);
        /* The gradient that is written next is the cotangent. */
        bb_tensor *last = tensor(ctx, SH(ROWS, DIM), p.x, true);
        bb_backward(bb_mul_scalar(last, 1), x);
        bb_tensor *seed = bb_grad(last);
        bb_zero_grad(last);
        bb_backward(bb_rms_norm(last, scale, p.eps), seed);
        near_all(t, "dx, cotangent dx", bb_grad(last), p.dx, 1);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

static void test_02_mean_term_of_layer_norm_left_in(test *t) {
    draw(BB_F32, ROWS, DIM);
    for (int i = 0; i < ROWS * DIM; i++) p.dy[i] = round_to(BB_F32, p.dy[i] + 3);
    check_problem(t);
}

static void test_03_scale_forgotten_inside_the_sum(test *t) {
    draw(BB_F32, ROWS, DIM);
    for (int i = 0; i < DIM; i++) p.scale[i] = round_to(BB_F32, p.scale[i] * pow(8, i % 3 - 1));
    check_problem(t);
}

static void test_04_residual_added_before_the_norms_backward(test *t) {
    draw(BB_F32, ROWS, DIM);
    solve();
    for (int i = 0; i < ROWS * DIM; i++) p.dx[i] += p.dy[i];
    EACH_PATH(path) {
        bb_context *ctx = test_open();
        bb_tensor *x = tensor(ctx, SH(ROWS, DIM), p.x, true),
                  *scale = tensor(ctx, SH(DIM), p.scale, true);
        bb_set_path(ctx, (bb_path)path);
        bb_backward(bb_add(x, bb_rms_norm(x, scale, p.eps)),
                    tensor(ctx, SH(ROWS, DIM), p.dy, false));
        near_all(t, "dx", bb_grad(x), p.dx, 1);
        near_all(t, "dscale", bb_grad(scale), p.dscale, 1);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

/* ---- 5 to 9 */

static void test_05_dscale_zero_or_never_cleared(test *t) {
    draw(BB_F32, ROWS, DIM);
    solve();
    EACH_PATH(path) {
        bb_context *ctx = test_open();
        bb_tensor *x = tensor(ctx, SH(ROWS, DIM), p.x, true),
                  *scale = bb_keep(tensor(ctx, SH(DIM), p.scale, false));
        bb_set_requires_grad(scale, true);
        bb_set_path(ctx, (bb_path)path);
        for (int times = 1; times <= 3; times++) {
            bb_backward(bb_rms_norm(x, scale, p.eps), tensor(ctx, SH(ROWS, DIM), p.dy, false));
            near_all(t, "dscale", bb_grad(scale), p.dscale, times);
        }
        bb_zero_grad(scale);
        bb_backward(bb_rms_norm(x, scale, p.eps), tensor(ctx, SH(ROWS, DIM), p.dy, false));
        near_all(t, "dscale after bb_zero_grad", bb_grad(scale), p.dscale, 1);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

/* The loss looked right, so the gradients are compared, by the size of their own terms. */
static void test_06_bf16_dscale_off_by_orders_of_magnitude(test *t) {
    static const bb_dtype dtypes[] = {BB_BF16, BB_F16};
    for (int d = 0; d < 2; d++) {
        draw(dtypes[d], MANY, 8);
        solve();
        EACH_PATH(path) {
            bb_context *ctx = test_open();
            double got[8];
            bb_tensor *scale = tensor(ctx, SH(8), p.scale, true);
            bb_set_path(ctx, (bb_path)path);
            bb_backward(bb_rms_norm(tensor(ctx, SH(MANY, 8), p.x, true), scale, p.eps),
                        tensor(ctx, SH(MANY, 8), p.dy, false));
            bb_read_f64(bb_grad(scale), got, 8);
            for (int i = 0; i < 8; i++)
                CHECK_NEAR(t, got[i], p.dscale[i],
                           dtype_epsilon(dtypes[d]) *
                               (fabs(p.dscale[i]) + p.dscale_size[i] / sqrt(MANY) * 2));
            CHECK_OK(t, ctx);
            bb_close(ctx);
        }
    }
}

/* Partial sums that no row had written: more chunks than rows, buffers of NaN (test_open). */
static void test_07_zero_input_gives_garbage_dscale(test *t) {
    static const int64_t rows[] = {1, 2, 65};
    EACH_PATH(path) {
        bb_context *ctx = test_open();
        bb_set_path(ctx, (bb_path)path);
        for (int k = 0; k < 3; k++) {
            static float got[16384];
            bb_tensor *scale = bb_set_requires_grad(bb_ones(ctx, BB_F32, SH(16384)), true);
            bb_tensor *x = bb_zeros(ctx, BB_F32, SH(rows[k], 16384));
            bb_backward(bb_rms_norm(x, scale, 1e-5), bb_randn(ctx, BB_F32, SH(rows[k], 16384)));
            bb_read(bb_grad(scale), got, sizeof got);
            int64_t wrong = 0;
            for (int i = 0; i < 16384; i++) wrong += got[i] != 0;
            CHECK_INT(t, wrong, 0);
            CHECK_OK(t, ctx);
            bb_end_step(ctx);
        }
        bb_close(ctx);
    }
}

/* The variance in place of 1/sqrt: right forward, wrong backward. A row whose variance is far from
 * 1 tells them apart. The statistic itself: test_rms_norm.c. */
static void test_08_variance_saved_instead_of_rstd(test *t) {
    draw(BB_F32, ROWS, DIM);
    for (int i = 0; i < ROWS * DIM; i++) p.x[i] = round_to(BB_F32, p.x[i] * (i / DIM + 1) * 7);
    check_problem(t);
}

static void test_09_wrong_condition_for_the_wanted_gradients(test *t) {
    draw(BB_F32, ROWS, DIM);
    solve();
    EACH_PATH(path) {
        for (int mask = 0; mask < 4; mask++) {
            bb_context *ctx = test_open();
            bb_tensor *x = tensor(ctx, SH(ROWS, DIM), p.x, mask & 1),
                      *scale = tensor(ctx, SH(DIM), p.scale, mask & 2);
            bb_set_path(ctx, (bb_path)path);
            bb_tensor *y = bb_rms_norm(x, scale, p.eps);
            CHECK_INT(t, bb_requires_grad(y), mask != 0);
            if (mask) bb_backward(y, tensor(ctx, SH(ROWS, DIM), p.dy, false));
            CHECK_INT(t, bb_grad(x) != NULL, mask & 1);
            CHECK_INT(t, bb_grad(scale) != NULL, mask >> 1);
            if (mask & 1) near_all(t, "dx", bb_grad(x), p.dx, 1);
            if (mask & 2) near_all(t, "dscale", bb_grad(scale), p.dscale, 1);
            CHECK_OK(t, ctx);
            bb_close(ctx);
        }
    }
}

/* ---- 10 to 14 */

static bb_tensor *norm_segment(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)n;
    return bb_rms_norm(in[0], in[1], 1e-5);
}

static void test_10_normalized_twice_under_recompute(test *t) {
    draw(BB_F32, ROWS, DIM);
    solve();
    EACH_PATH(path) {
        float kept[2][ROWS * DIM + DIM];
        bb_context *ctx = test_open();
        for (int again = 0; again < 2; again++) {
            bb_tensor *in[] = {tensor(ctx, SH(ROWS, DIM), p.x, true),
                               tensor(ctx, SH(DIM), p.scale, true)};
            bb_set_path(ctx, (bb_path)path);
            bb_tensor *y =
                again ? bb_recompute(ctx, norm_segment, NULL, in, 2) : norm_segment(NULL, in, 2);
            bb_backward(y, tensor(ctx, SH(ROWS, DIM), p.dy, false));
            near_all(t, "dx", bb_grad(in[0]), p.dx, 1);
            bb_read(bb_grad(in[0]), kept[again], sizeof(float) * ROWS * DIM);
            bb_read(bb_grad(in[1]), kept[again] + ROWS * DIM, sizeof(float) * DIM);
        }
        CHECK(t, memcmp(kept[0], kept[1], sizeof kept[0]) == 0);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

/* Rounded before the product, after it, and with 1 + weight in f32: three orders that must be told
 * apart forward, and whose gradients must all be right. */
static void test_11_casting_order(test *t) {
    draw(BB_BF16, ROWS, DIM);
    solve();
    EACH_PATH(path) {
        bb_context *ctx = test_open();
        double y[3][ROWS * DIM];
        for (int mode = 0; mode < 3; mode++) {
            bb_tensor *x = tensor(ctx, SH(ROWS, DIM), p.x, true), *scale, *used;
            double shifted[DIM];
            for (int i = 0; i < DIM; i++) shifted[i] = p.scale[i] - 1;
            scale = bb_set_requires_grad(
                bb_from_f64(ctx, mode ? BB_F32 : BB_BF16, SH(DIM), mode == 2 ? shifted : p.scale),
                true);
            used = mode == 2 ? bb_add_scalar(scale, 1) : scale;
            bb_set_path(ctx, (bb_path)path);
            bb_tensor *out = bb_rms_norm(x, used, p.eps);
            CHECK_INT(t, bb_dtype_of(out), BB_BF16);
            bb_read_f64(out, y[mode], ROWS * DIM);
            bb_backward(out, tensor(ctx, SH(ROWS, DIM), p.dy, false));
            near_all(t, "dx", bb_grad(x), p.dx, 1);
            CHECK_INT(t, bb_dtype_of(bb_grad(scale)), mode ? BB_F32 : BB_BF16);
            double got[DIM];
            bb_read_f64(bb_grad(scale), got, DIM);
            for (int i = 0; i < DIM; i++)
                CHECK_NEAR(t, got[i], p.dscale[i], (mode ? 1e-6 : 0x1p-7) * p.dscale_size[i]);
        }
        int before_after = 0, after_shifted = 0;
        for (int i = 0; i < ROWS * DIM; i++) {
            before_after += y[0][i] != y[1][i];
            after_shifted += y[1][i] != y[2][i];
        }
        CHECK_MSG(t, before_after > ROWS * DIM / 20, "%d differ", before_after);
        CHECK_MSG(t, after_shifted == 0, "%d differ", after_shifted);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

static void test_12_nan_from_a_zero_scale_or_eps_0(test *t) {
    draw(BB_F32, ROWS, DIM);
    memset(p.scale, 0, sizeof p.scale);
    p.eps = 0;
    check_problem(t);
    /* A row of zeros at eps 0 is NaN, and stays in its row. */
    draw(BB_F32, ROWS, DIM);
    memset(p.x + 2 * DIM, 0, DIM * sizeof p.x[0]);
    EACH_PATH(path) {
        double dx[ROWS * DIM];
        bb_context *ctx = test_open();
        bb_tensor *x = tensor(ctx, SH(ROWS, DIM), p.x, true);
        bb_set_path(ctx, (bb_path)path);
        bb_backward(bb_rms_norm(x, tensor(ctx, SH(DIM), p.scale, false), 0),
                    tensor(ctx, SH(ROWS, DIM), p.dy, false));
        bb_read_f64(bb_grad(x), dx, ROWS * DIM);
        for (int i = 0; i < ROWS * DIM; i++) CHECK(t, (i / DIM == 2) == (isnan(dx[i]) != 0));
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

/* There it was group norm's; ours with a mean is LayerNorm. */
static void test_13_dx_wrong_when_the_scale_is_not_ones(test *t) {
    draw(BB_F64, ROWS, DIM);
    EACH_PATH(path) {
        bb_context *ctx = test_open();
        bb_tensor *x = tensor(ctx, SH(ROWS, DIM), p.x, true);
        bb_set_path(ctx, (bb_path)path);
        bb_tensor *y = bb_layer_norm(x, tensor(ctx, SH(DIM), p.scale, false), NULL, p.eps);
        bb_backward(y, tensor(ctx, SH(ROWS, DIM), p.dy, false));
        double got[ROWS * DIM], expected[ROWS * DIM];
        bb_read_f64(bb_grad(x), got, ROWS * DIM);
        for (int r = 0; r < ROWS; r++) {
            const double *v = p.x + r * DIM, *dy = p.dy + r * DIM;
            double mean = 0, variance = 0, a = 0, b = 0;
            for (int i = 0; i < DIM; i++) mean += v[i] / DIM;
            for (int i = 0; i < DIM; i++) variance += (v[i] - mean) * (v[i] - mean) / DIM;
            double rstd = 1 / sqrt(variance + p.eps);
            for (int i = 0; i < DIM; i++) {
                a += dy[i] * p.scale[i] / DIM;
                b += dy[i] * p.scale[i] * (v[i] - mean) * rstd / DIM;
            }
            for (int i = 0; i < DIM; i++)
                expected[r * DIM + i] = rstd * (dy[i] * p.scale[i] - a - (v[i] - mean) * rstd * b);
        }
        for (int i = 0; i < ROWS * DIM; i++) CHECK_NEAR(t, got[i], expected[i], 1e-13);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

/* softmax(x) with a gradient that is wrong by a factor: a cotangent of ones, which sum() gives,
 * cannot see it, because the rows of a softmax sum to 1. Ours is random. */
static bb_status wrong_softmax_infer(bb_call *call) {
    call->meta[0] = (bb_meta){bb_dtype_of(call->in[0]), bb_shape_of(call->in[0])};
    return BB_OK;
}
static bb_status wrong_softmax_decompose(bb_call *call) {
    bb_tensor *y = bb_softmax(call->in[0], -1);
    /* The value of y, twice its gradient. */
    call->out[0] = bb_sub(bb_mul_scalar(y, 2), bb_detach(y));
    return bb_error(call->ctx);
}
static const bb_op wrong_softmax = {
    .name = "wrong_softmax",
    .inputs = {"x"},
    .outputs = {"y"},
    .saves_inputs = 1u,
    .infer = wrong_softmax_infer,
    .decompose = wrong_softmax_decompose,
};
static bb_tensor *apply_wrong(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)n;
    return bb_apply1(bb_context_of(in[0]), &wrong_softmax, in, 1, NULL);
}
static bb_tensor *sum_wrong(void *user, bb_tensor *const *in, int n) {
    return bb_sum_all(apply_wrong(user, in, n));
}

static void test_14_gradient_check_that_sees_nothing(test *t) {
    bb_context *ctx = test_open();
    bb_gradcheck_report report;
    CHECK_INT(t, bb_register_op(ctx, &wrong_softmax), BB_OK);
    draw(BB_F64, 2, 5);
    bb_tensor *x = tensor(ctx, SH(2, 5), p.x, true);
    CHECK_INT(t, bb_gradcheck(ctx, sum_wrong, NULL, &x, 1, NULL, &report), BB_OK);
    CHECK_MSG(t, report.passed, "a cotangent of ones is expected to see nothing here");
    CHECK_INT(t, bb_gradcheck(ctx, apply_wrong, NULL, &x, 1, NULL, &report), BB_OK);
    CHECK(t, !report.passed);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"01_result_written_over_its_operand", test_01_result_written_over_its_operand},
    {"02_mean_term_of_layer_norm_left_in", test_02_mean_term_of_layer_norm_left_in},
    {"03_scale_forgotten_inside_the_sum", test_03_scale_forgotten_inside_the_sum},
    {"04_residual_added_before_the_norms_backward",
     test_04_residual_added_before_the_norms_backward},
    {"05_dscale_zero_or_never_cleared", test_05_dscale_zero_or_never_cleared},
    {"06_bf16_dscale_off_by_orders_of_magnitude", test_06_bf16_dscale_off_by_orders_of_magnitude},
    {"07_zero_input_gives_garbage_dscale", test_07_zero_input_gives_garbage_dscale},
    {"08_variance_saved_instead_of_rstd", test_08_variance_saved_instead_of_rstd},
    {"09_wrong_condition_for_the_wanted_gradients",
     test_09_wrong_condition_for_the_wanted_gradients},
    {"10_normalized_twice_under_recompute", test_10_normalized_twice_under_recompute},
    {"11_casting_order", test_11_casting_order},
    {"12_nan_from_a_zero_scale_or_eps_0", test_12_nan_from_a_zero_scale_or_eps_0},
    {"13_dx_wrong_when_the_scale_is_not_ones", test_13_dx_wrong_when_the_scale_is_not_ones},
    {"14_gradient_check_that_sees_nothing", test_14_gradient_check_that_sees_nothing},
};
TEST_MAIN(rows)
