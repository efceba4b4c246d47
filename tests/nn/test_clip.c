/* Clipping: the norm it returns, the step it leads to, and gradients that are not finite. */
#include "tests/nn/nn_test.h"

typedef struct pair {
    bb_params *params;
    bb_tensor *a, *b;
} pair;

static pair make(bb_context *ctx, bb_dtype dtype) {
    pair p = {bb_params_new(ctx, bb_get_device(ctx), dtype), NULL, NULL};
    p.a = bb_params_add(p.params, "a", BB_SHAPE(2, 2), BB_INIT_NORMAL, 1);
    p.b = bb_params_add(p.params, "b", BB_SHAPE(3), BB_INIT_ONES, 0);
    bb_params_build(p.params);
    return p;
}

/* d/da = x, d/db = y: the norm over all is sqrt(4 x^2 + 3 y^2). */
static void backward(const pair *p, double x, double y) {
    bb_backward(bb_add(bb_mul_scalar(bb_sum_all(p->a), x), bb_mul_scalar(bb_sum_all(p->b), y)),
                NULL);
}

static void norm(test *t) {
    bb_context *ctx = test_open();
    pair p = make(ctx, BB_F64);
    backward(&p, 3, -4);
    double expected = sqrt(4 * 9 + 3 * 16);
    CHECK_NEAR(t, bb_clip_grad_norm(p.params, 1), expected, 1e-13);
    double *g = values_of(t, bb_grad(p.a));
    CHECK_NEAR(t, g[0], 3, 0); /* the gradients stay as they are; the step scales them */
    free(g);
    bb_params_zero_grad(p.params);
    bb_backward(bb_mul_scalar(bb_sum_all(p.b), 2),
                NULL); /* a is not reached: its old gradient does not count */
    CHECK_NEAR(t, bb_clip_grad_norm(p.params, 1), sqrt(12), 1e-13);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* The step after clipping moves by lr * gradient * max_norm / (norm + 1e-6), once; a norm below
 * max_norm changes nothing. */
static void steps(test *t) {
    bb_context *ctx = test_open();
    pair p = make(ctx, BB_F64);
    bb_sgd *o = bb_sgd_new(p.params, NULL);
    double expected_norm = sqrt(4 * 9 + 3 * 16.0), limit[3] = {0.5, 100, 0};
    for (int i = 0; i < 3; i++) {
        double *before = values_of(t, p.b);
        backward(&p, 3, -4);
        if (limit[i] > 0)
            CHECK_NEAR(t, bb_clip_grad_norm(p.params, limit[i]), expected_norm, 1e-13);
        bb_sgd_step(o, 1);
        double *after = values_of(t, p.b), scale = i == 0 ? 0.5 / (expected_norm + 1e-6) : 1;
        CHECK_NEAR(t, after[1], before[1] + 4 * scale, 1e-14);
        bb_params_zero_grad(p.params);
        free(before), free(after);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void refusals(test *t) {
    bb_context *ctx = test_open();
    pair p = make(ctx, BB_F32);
    bb_sgd *o = bb_sgd_new(p.params, NULL);
    CHECK(t, isnan(bb_clip_grad_norm(p.params, 1)));
    CHECK_ERROR(t, ctx, BB_ERR_STATE,
                "bb_clip_grad_norm: gradients: expected a bb_backward before");
    const double bad[] = {NAN, INFINITY};
    double *before = values_of(t, p.b);
    for (int i = 0; i < 2; i++) {
        backward(&p, 1, bad[i]);
        double got = bb_clip_grad_norm(p.params, 1);
        CHECK(t, !isfinite(got));
        CHECK_INT(t, bb_sgd_step(o, 1), BB_ERR_STATE); /* does not run */
        CHECK_ERROR(t, ctx, BB_ERR_STATE, "expected a finite norm, got");
        bb_params_zero_grad(p.params);
        bb_end_step(ctx);
    }
    double *after = values_of(t, p.b);
    CHECK(t, memcmp(before, after, 3 * sizeof *before) == 0);
    free(before), free(after);
    backward(&p, 1, 1);
    CHECK(t, isnan(bb_clip_grad_norm(p.params, 0)));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "max_norm: expected more than 0, got 0");
    CHECK_NEAR(t, bb_clip_grad_norm(p.params, 1), sqrt(7), 1e-6);
    CHECK_INT(t, bb_sgd_step(o, 1), BB_OK);
    CHECK(t, isnan(bb_clip_grad_norm(NULL, 1)));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {{"norm", norm}, {"steps", steps}, {"refusals", refusals}};
TEST_MAIN(rows)
