/* SGD against a double emulation of PyTorch's. */
#include "tests/nn/nn_test.h"

enum { N = 6, STEPS = 4 };

static void against_emulation(test *t) {
    static const bb_sgd_attrs kinds[] = {
        {0, 0, false}, {0, 0.3, false}, {0.9, 0, false}, {0.8, 0.2, false}, {0.8, 0.2, true}};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        bb_context *ctx = test_open();
        uint64_t state = 20;
        bb_sgd_attrs a = kinds[k];
        bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F64);
        bb_tensor *w = bb_params_add(params, "w", BB_SHAPE(3, 2), BB_INIT_NORMAL, 1);
        bb_tensor *b = bb_params_add(params, "b", BB_SHAPE(N), BB_INIT_ZEROS, 0);
        bb_sgd *o = bb_sgd_new(params, &a); /* builds */
        scramble(t, params, &state);
        double *p[2] = {values_of(t, w), values_of(t, b)}, u[2][N] = {{0}}, g[2][N];
        for (int step = 0; step < STEPS; step++) {
            double lr = 0.25;
            for (int i = 0; i < N; i++) g[0][i] = number(&state), g[1][i] = number(&state);
            bb_tensor *x = bb_sum_all(bb_mul(w, bb_from_f64(ctx, BB_F64, BB_SHAPE(3, 2), g[0])));
            bb_tensor *y = bb_sum_all(bb_mul(b, bb_from_f64(ctx, BB_F64, BB_SHAPE(N), g[1])));
            bb_backward(bb_add(x, y), NULL);
            CHECK_INT(t, bb_sgd_step(o, lr), BB_OK);
            bb_params_zero_grad(params);
            for (int part = 0; part < 2; part++)
                for (int i = 0; i < N; i++) {
                    double d = g[part][i] + (part == 0 ? a.weight_decay : 0) * p[part][i];
                    u[part][i] = a.momentum * u[part][i] + d;
                    p[part][i] -= lr * (a.nesterov       ? d + a.momentum * u[part][i]
                                        : a.momentum > 0 ? u[part][i]
                                                         : d);
                }
            bb_end_step(ctx);
        }
        double *got_w = values_of(t, w), *got_b = values_of(t, b);
        check_near(t, "w", got_w, p[0], N, 1e-14);
        check_near(t, "b", got_b, p[1], N, 1e-14);
        int n = -1;
        const bb_named *list = bb_sgd_state(o, &n);
        CHECK_INT(t, n, a.momentum > 0);
        if (n == 1) CHECK_TEXT(t, list[0].name, "velocity");
        free(p[0]), free(p[1]), free(got_w), free(got_b);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

static void refusals(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    bb_params_add(params, "w", BB_SHAPE(3), BB_INIT_ONES, 0);
    CHECK(t, !bb_sgd_new(params, &(bb_sgd_attrs){0, 0, true}));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "momentum > 0 with nesterov");
    CHECK(t, !bb_sgd_new(params, &(bb_sgd_attrs){-1, 0, false}));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "got -1, 0");
    bb_sgd *o = bb_sgd_new(params, NULL);
    CHECK(t, o != NULL);
    CHECK_INT(t, bb_sgd_step(o, 1), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_sgd_step: gradients");
    CHECK(t, !bb_sgd_new(NULL, NULL) && bb_sgd_step(NULL, 1) == BB_ERR_ARGUMENT &&
                 !bb_sgd_state(NULL, NULL));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {{"against_emulation", against_emulation}, {"refusals", refusals}};
TEST_MAIN(rows)
