/* Fourteen wrong gradients of norms that other libraries have shipped, a test each, named after
 * what was wrong; on the fused path, which is where such bugs live, and on the composed one. A step
 * count lost on resume: tests/nn/test_adamw.c and tests/tools/test_train.c. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/checker.h"

#define EACH_PATH(path) for (int path = BB_PATH_FUSED; path <= BB_PATH_COMPOSED; path++)

/* DIM: two rounds of the widest loop, and a rest. */
enum { ROWS = 6, DIM = 133, MANY = 4096, VALUES = MANY * 8 };

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

/* The problem on one path: leaves, and the cotangent. */
typedef struct norm_run {
    bb_context *ctx;
    bb_tensor *x, *scale, *dy;
} norm_run;

static norm_run begin(int path) {
    norm_run r = {.ctx = test_open()};
    r.x = tensor(r.ctx, SH(p.rows, p.n), p.x, true);
    r.scale = tensor(r.ctx, SH(p.n), p.scale, true);
    r.dy = tensor(r.ctx, SH(p.rows, p.n), p.dy, false);
    bb_set_path(r.ctx, (bb_path)path);
    return r;
}

static void end(test *t, norm_run *r) {
    CHECK_OK(t, r->ctx);
    bb_close(r->ctx);
}

/* Forward and backward of the problem; y, dx and dscale against the definition. */
static void check_problem(test *t) {
    solve();
    EACH_PATH(path) {
        norm_run r = begin(path);
        bb_tensor *y = bb_rms_norm(r.x, r.scale, p.eps);
        bb_backward(y, r.dy);
        near_all(t, "y", y, p.y, 1);
        near_all(t, "dx", bb_grad(r.x), p.dx, 1);
        near_all(t, "dscale", bb_grad(r.scale), p.dscale, 1);
        end(t, &r);
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
        norm_run r = begin(path);
        bb_backward(bb_rms_norm(r.x, r.scale, p.eps), r.x);
        near_all(t, "dx, cotangent x", bb_grad(r.x), p.dx, 1);
        /* The gradient that is written next is the cotangent. */
        bb_tensor *last = tensor(r.ctx, SH(ROWS, DIM), p.x, true);
        bb_backward(bb_mul_scalar(last, 1), r.x);
        bb_tensor *seed = bb_grad(last);
        bb_zero_grad(last);
        bb_backward(bb_rms_norm(last, r.scale, p.eps), seed);
        near_all(t, "dx, cotangent dx", bb_grad(last), p.dx, 1);
        end(t, &r);
    }
    /* One tensor is input and scale, and gets both gradients. */
    draw(BB_F32, 1, DIM);
    memcpy(p.scale, p.x, sizeof p.scale);
    solve();
    for (int i = 0; i < DIM; i++) p.dx[i] += p.dscale[i];
    EACH_PATH(path) {
        norm_run r = begin(path);
        bb_tensor *both = tensor(r.ctx, SH(DIM), p.x, true);
        bb_backward(bb_rms_norm(both, both, p.eps), bb_reshape(r.dy, SH(DIM)));
        near_all(t, "dx + dscale", bb_grad(both), p.dx, 1);
        end(t, &r);
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

static void test_04_residual_added_too_early(test *t) {
    draw(BB_F32, ROWS, DIM);
    solve();
    for (int i = 0; i < ROWS * DIM; i++) p.dx[i] += p.dy[i];
    EACH_PATH(path) {
        norm_run r = begin(path);
        bb_backward(bb_add(r.x, bb_rms_norm(r.x, r.scale, p.eps)), r.dy);
        near_all(t, "dx", bb_grad(r.x), p.dx, 1);
        near_all(t, "dscale", bb_grad(r.scale), p.dscale, 1);
        end(t, &r);
    }
}

/* ---- 5 to 9 */

static void test_05_dscale_zero_or_never_cleared(test *t) {
    draw(BB_F32, ROWS, DIM);
    solve();
    EACH_PATH(path) {
        norm_run r = begin(path);
        for (int times = 1; times <= 3; times++) {
            bb_backward(bb_rms_norm(r.x, r.scale, p.eps), r.dy);
            near_all(t, "dx", bb_grad(r.x), p.dx, times);
            near_all(t, "dscale", bb_grad(r.scale), p.dscale, times);
        }
        bb_zero_grad(r.scale);
        bb_backward(bb_rms_norm(r.x, r.scale, p.eps), r.dy);
        near_all(t, "dscale after bb_zero_grad", bb_grad(r.scale), p.dscale, 1);
        end(t, &r);
    }
}

/* The loss looked right, so the gradients are compared, by the size of their own terms. */
static void test_06_bf16_dscale_off_by_orders_of_magnitude(test *t) {
    static const bb_dtype dtypes[] = {BB_BF16, BB_F16};
    for (int d = 0; d < 2; d++) {
        draw(dtypes[d], MANY, 8);
        solve();
        EACH_PATH(path) {
            norm_run r = begin(path);
            double got[8];
            bb_backward(bb_rms_norm(r.x, r.scale, p.eps), r.dy);
            bb_read_f64(bb_grad(r.scale), got, 8);
            for (int i = 0; i < 8; i++)
                CHECK_NEAR(t, got[i], p.dscale[i],
                           dtype_epsilon(dtypes[d]) *
                               (fabs(p.dscale[i]) + p.dscale_size[i] / sqrt(MANY) * 2));
            end(t, &r);
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

static void test_09_wrong_choice_of_gradients(test *t) {
    draw(BB_F32, ROWS, DIM);
    solve();
    EACH_PATH(path) {
        for (int mask = 0; mask < 4; mask++) {
            norm_run r = begin(path);
            bb_set_requires_grad(r.x, mask & 1);
            bb_set_requires_grad(r.scale, mask & 2);
            bb_tensor *y = bb_rms_norm(r.x, r.scale, p.eps);
            CHECK_INT(t, bb_requires_grad(y), mask != 0);
            if (mask) bb_backward(y, r.dy);
            CHECK_INT(t, bb_grad(r.x) != NULL, mask & 1);
            CHECK_INT(t, bb_grad(r.scale) != NULL, mask >> 1);
            if (mask & 1) near_all(t, "dx", bb_grad(r.x), p.dx, 1);
            if (mask & 2) near_all(t, "dscale", bb_grad(r.scale), p.dscale, 1);
            end(t, &r);
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
        for (int again = 0; again < 2; again++) {
            norm_run r = begin(path);
            bb_tensor *in[] = {r.x, r.scale};
            bb_tensor *y =
                again ? bb_recompute(r.ctx, norm_segment, NULL, in, 2) : norm_segment(NULL, in, 2);
            bb_backward(y, r.dy);
            near_all(t, "dx", bb_grad(r.x), p.dx, 1);
            near_all(t, "dscale", bb_grad(r.scale), p.dscale, 1);
            bb_read(bb_grad(r.x), kept[again], sizeof(float) * ROWS * DIM);
            bb_read(bb_grad(r.scale), kept[again] + ROWS * DIM, sizeof(float) * DIM);
            end(t, &r);
        }
        CHECK(t, memcmp(kept[0], kept[1], sizeof kept[0]) == 0);
    }
}

/* Rounded before the product, after it, and with 1 + weight in f32: three orders that must be told
 * apart forward, and whose gradients must all be right. */
static void test_11_casting_order(test *t) {
    draw(BB_BF16, ROWS, DIM);
    solve();
    EACH_PATH(path) {
        double y[3][ROWS * DIM];
        for (int mode = 0; mode < 3; mode++) {
            norm_run r = begin(path);
            double shifted[DIM], got[DIM];
            for (int i = 0; i < DIM; i++) shifted[i] = p.scale[i] - (mode == 2);
            bb_tensor *scale = bb_from_f64(r.ctx, mode ? BB_F32 : BB_BF16, SH(DIM), shifted);
            bb_set_requires_grad(scale, true);
            bb_tensor *out = bb_rms_norm(r.x, mode == 2 ? bb_add_scalar(scale, 1) : scale, p.eps);
            CHECK_INT(t, bb_dtype_of(out), BB_BF16);
            bb_read_f64(out, y[mode], ROWS * DIM);
            bb_backward(out, r.dy);
            near_all(t, "dx", bb_grad(r.x), p.dx, 1);
            CHECK_INT(t, bb_dtype_of(bb_grad(scale)), mode ? BB_F32 : BB_BF16);
            bb_read_f64(bb_grad(scale), got, DIM);
            for (int i = 0; i < DIM; i++)
                CHECK_NEAR(t, got[i], p.dscale[i], (mode ? 1e-6 : 0x1p-7) * p.dscale_size[i]);
            end(t, &r);
        }
        int before_after = 0, after_shifted = 0;
        for (int i = 0; i < ROWS * DIM; i++) {
            before_after += y[0][i] != y[1][i];
            after_shifted += y[1][i] != y[2][i];
        }
        CHECK_MSG(t, before_after > ROWS * DIM / 20, "%d differ", before_after);
        CHECK_MSG(t, after_shifted == 0, "%d differ", after_shifted);
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
        norm_run r = begin(path);
        bb_backward(bb_rms_norm(r.x, r.scale, 0), r.dy);
        bb_read_f64(bb_grad(r.x), dx, ROWS * DIM);
        for (int i = 0; i < ROWS * DIM; i++) CHECK(t, (i / DIM == 2) == (isnan(dx[i]) != 0));
        end(t, &r);
    }
}

/* There it was group norm's; ours with a mean is LayerNorm. */
static void test_13_dx_wrong_when_the_scale_is_not_ones(test *t) {
    draw(BB_F64, ROWS, DIM);
    EACH_PATH(path) {
        norm_run r = begin(path);
        bb_backward(bb_layer_norm(r.x, r.scale, NULL, p.eps), r.dy);
        double got[ROWS * DIM], expected[ROWS * DIM];
        bb_read_f64(bb_grad(r.x), got, ROWS * DIM);
        for (int row = 0; row < ROWS; row++) {
            const double *v = p.x + row * DIM, *dy = p.dy + row * DIM;
            double mean = 0, variance = 0, a = 0, b = 0;
            for (int i = 0; i < DIM; i++) mean += v[i] / DIM;
            for (int i = 0; i < DIM; i++) variance += (v[i] - mean) * (v[i] - mean) / DIM;
            double rstd = 1 / sqrt(variance + p.eps);
            for (int i = 0; i < DIM; i++) {
                a += dy[i] * p.scale[i] / DIM;
                b += dy[i] * p.scale[i] * (v[i] - mean) * rstd / DIM;
            }
            for (int i = 0; i < DIM; i++)
                expected[row * DIM + i] =
                    rstd * (dy[i] * p.scale[i] - a - (v[i] - mean) * rstd * b);
        }
        for (int i = 0; i < ROWS * DIM; i++) CHECK_NEAR(t, got[i], expected[i], 1e-13);
        end(t, &r);
    }
}

/* softmax(x) with twice its gradient: a cotangent of ones, which sum() gives, cannot see it,
 * because the rows of a softmax sum to 1. Ours is random. */
static bb_tensor *wrong_softmax(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)n;
    bb_tensor *y = bb_softmax(in[0], -1);
    return bb_sub(bb_mul_scalar(y, 2), bb_detach(y));
}
static bb_tensor *sum_of_wrong_softmax(void *user, bb_tensor *const *in, int n) {
    return bb_sum_all(wrong_softmax(user, in, n));
}

static void test_14_gradient_check_that_sees_nothing(test *t) {
    bb_context *ctx = test_open();
    bb_gradcheck_report report;
    draw(BB_F64, 2, 5);
    bb_tensor *x = tensor(ctx, SH(2, 5), p.x, true);
    CHECK_INT(t, bb_gradcheck(ctx, sum_of_wrong_softmax, NULL, &x, 1, NULL, &report), BB_OK);
    CHECK_MSG(t, report.passed, "a cotangent of ones is expected to see nothing here");
    CHECK_INT(t, bb_gradcheck(ctx, wrong_softmax, NULL, &x, 1, NULL, &report), BB_OK);
    CHECK(t, !report.passed);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"01_result_written_over_its_operand", test_01_result_written_over_its_operand},
    {"02_mean_term_of_layer_norm_left_in", test_02_mean_term_of_layer_norm_left_in},
    {"03_scale_forgotten_inside_the_sum", test_03_scale_forgotten_inside_the_sum},
    {"04_residual_added_too_early", test_04_residual_added_too_early},
    {"05_dscale_zero_or_never_cleared", test_05_dscale_zero_or_never_cleared},
    {"06_bf16_dscale_off_by_orders_of_magnitude", test_06_bf16_dscale_off_by_orders_of_magnitude},
    {"07_zero_input_gives_garbage_dscale", test_07_zero_input_gives_garbage_dscale},
    {"08_variance_saved_instead_of_rstd", test_08_variance_saved_instead_of_rstd},
    {"09_wrong_choice_of_gradients", test_09_wrong_choice_of_gradients},
    {"10_normalized_twice_under_recompute", test_10_normalized_twice_under_recompute},
    {"11_casting_order", test_11_casting_order},
    {"12_nan_from_a_zero_scale_or_eps_0", test_12_nan_from_a_zero_scale_or_eps_0},
    {"13_dx_wrong_when_the_scale_is_not_ones", test_13_dx_wrong_when_the_scale_is_not_ones},
    {"14_gradient_check_that_sees_nothing", test_14_gradient_check_that_sees_nothing},
};
TEST_MAIN(rows)
