/* AdamW against a double emulation; decay, clipping, state, refusals. */
#include "tests/nn/nn_test.h"

enum { W = 6, S = 5, STEPS = 5 };

typedef struct pair {
    bb_params *params;
    bb_tensor *w, *scale; /* w decays, scale does not */
} pair;

static pair make(test *t, bb_context *ctx, bb_dtype dtype, uint64_t seed) {
    pair p = {bb_params_new(ctx, bb_get_device(ctx), dtype), NULL, NULL};
    p.scale = bb_params_add(p.params, "scale", BB_SHAPE(S), BB_INIT_ONES, 0);
    p.w = bb_params_add(p.params, "w", BB_SHAPE(2, 3), BB_INIT_NORMAL, 1);
    bb_params_build(p.params);
    scramble(t, p.params, &seed);
    return p;
}

/* Gradients that are given numbers: the loss is their dot product with the parameters. */
static void backward(test *t, const pair *p, const double *gw, const double *gs) {
    bb_context *ctx = bb_context_of(p->w);
    bb_dtype dtype = bb_dtype_of(p->w);
    bb_tensor *a = bb_sum_all(bb_mul(p->w, bb_from_f64(ctx, dtype, BB_SHAPE(2, 3), gw)));
    bb_tensor *b = bb_sum_all(bb_mul(p->scale, bb_from_f64(ctx, dtype, BB_SHAPE(S), gs)));
    CHECK_INT(t, bb_backward(bb_add(a, b), NULL), BB_OK);
}

static void emulate(double *p, double *m, double *v, const double *g, int n, int step, double lr,
                    const bb_adamw_attrs *a, double decay) {
    for (int i = 0; i < n; i++) {
        p[i] *= 1 - lr * decay;
        m[i] = a->beta1 * m[i] + (1 - a->beta1) * g[i];
        v[i] = a->beta2 * v[i] + (1 - a->beta2) * g[i] * g[i];
        p[i] -= lr * (m[i] / (1 - pow(a->beta1, step))) /
                (sqrt(v[i] / (1 - pow(a->beta2, step))) + a->eps);
    }
}

static void against_emulation(test *t) {
    static const bb_dtype dtypes[] = {BB_F64, BB_F32};
    static const double tolerance[] = {1e-13, 3e-6};
    bb_adamw_attrs attrs = {0.8, 0.95, 1e-6, 0.5, 0};
    for (int d = 0; d < 2; d++) {
        bb_context *ctx = test_open();
        pair p = make(t, ctx, dtypes[d], 11);
        double *w = values_of(t, p.w), *s = values_of(t, p.scale), mw[W] = {0}, vw[W] = {0},
               ms[S] = {0}, vs[S] = {0};
        bb_adamw *o = bb_adamw_new(p.params, &attrs);
        uint64_t state = 12;
        for (int step = 1; step <= STEPS; step++) {
            double gw[W], gs[S], lr = 0.1 / step; /* an f32 on the device, but for f64 parameters */
            if (dtypes[d] == BB_F32) lr = (double)(float)lr;
            for (int i = 0; i < W; i++) gw[i] = (double)(float)number(&state);
            for (int i = 0; i < S; i++) gs[i] = (double)(float)number(&state);
            backward(t, &p, gw, gs);
            CHECK_INT(t, bb_adamw_step(o, lr), BB_OK);
            bb_params_zero_grad(p.params);
            emulate(w, mw, vw, gw, W, step, lr, &attrs, attrs.weight_decay);
            emulate(s, ms, vs, gs, S, step, lr, &attrs, 0);
            bb_end_step(ctx);
        }
        double *got_w = values_of(t, p.w), *got_s = values_of(t, p.scale);
        check_near(t, "w", got_w, w, W, tolerance[d]);
        check_near(t, "scale", got_s, s, S, tolerance[d]);
        CHECK_INT(t, bb_adamw_steps(o), STEPS);
        free(w), free(s), free(got_w), free(got_s);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

/* bf16 parameters are an f32 master rounded; steps too small for bf16 add up in it, and a parameter
 * that others write is taken up. */
static void master(test *t) {
    bb_context *ctx = test_open();
    pair p = make(t, ctx, BB_BF16, 13);
    bb_adamw_attrs attrs = {0.9, 0.99, 1e-8, 0.1, 0};
    bb_adamw *o = bb_adamw_new(p.params, &attrs);
    double *w = values_of(t, p.w), *s = values_of(t, p.scale), mw[W] = {0}, vw[W] = {0},
           ms[S] = {0}, vs[S] = {0}, gw[W] = {1, -1, 1, -1, 1, -1}, gs[S] = {0.5, 0.5, 0.5, -1, 1};
    for (int step = 1; step <= 200; step++) {
        backward(t, &p, gw, gs);
        CHECK_INT(t, bb_adamw_step(o, 1e-4), BB_OK);
        bb_params_zero_grad(p.params);
        if (step == 100) { /* one element from outside */
            double *now = values_of(t, p.w);
            now[0] = 7;
            overwrite(t, p.w, bb_from_f64(ctx, BB_BF16, BB_SHAPE(2, 3), now));
            free(now);
        }
        emulate(w, mw, vw, gw, W, step, 1e-4, &attrs, 0.1);
        emulate(s, ms, vs, gs, S, step, 1e-4, &attrs, 0);
        if (step == 100) w[0] = 7;
        bb_end_step(ctx);
    }
    int n = 0;
    const bb_named *state = bb_adamw_state(o, &n);
    CHECK_INT(t, n, 4);
    CHECK_TEXT(t, state[3].name, "master");
    CHECK(t, same_bytes(bb_cast(state[3].tensor, BB_BF16), bb_params_values(p.params)));
    double *all = values_of(t, state[3].tensor);
    check_near(t, "master w", all, w, W, 1e-5); /* w decays, so it comes first */
    check_near(t, "master scale", all + bb_params_decayed(p.params), s, S, 1e-5);
    free(w), free(s), free(all);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* bf16 parameters round once a step; the moments are f32. */
static void bf16(test *t) {
    bb_context *ctx = test_open();
    pair p = make(t, ctx, BB_BF16, 13);
    double *before = values_of(t, p.w), gw[W] = {1, -1, 1, -1, 1, -1}, gs[S] = {0};
    bb_adamw *o = bb_adamw_new(p.params, NULL);
    backward(t, &p, gw, gs);
    bb_adamw_step(o, 0.25);
    double *after = values_of(t, p.w);
    for (int i = 0; i < W; i++)
        CHECK_NEAR(t, after[i], before[i] * (1 - 0.25 * 0.01) - 0.25 * gw[i], 0.004);
    int n = 0;
    const bb_named *state = bb_adamw_state(o, &n);
    CHECK_INT(t, n, 4);
    CHECK_INT(t, bb_dtype_of(state[1].tensor), BB_F32);
    free(before), free(after);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void state_is_flat(test *t) {
    bb_context *ctx = test_open();
    pair p = make(t, ctx, BB_F32, 14);
    bb_adamw *o = bb_adamw_new(p.params, NULL);
    int n = 0;
    const bb_named *state = bb_adamw_state(o, &n);
    CHECK_INT(t, n, 3);
    CHECK_TEXT(t, state[0].name, "step");
    CHECK_TEXT(t, state[1].name, "m");
    CHECK_TEXT(t, state[2].name, "v");
    for (int i = 1; i < 3; i++) {
        CHECK_INT(t, bb_count(state[i].tensor), bb_count(bb_params_values(p.params)));
        CHECK(t,
              bb_is_contiguous(state[i].tensor) && bb_item(bb_sum_squares(state[i].tensor)) == 0);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Values and state carried to a new context go on with the same bytes. */
static void resume(test *t) {
    bb_context *a = test_open(), *b = test_open();
    pair p = make(t, a, BB_F32, 15), q = make(t, b, BB_F32, 16);
    bb_adamw *o = bb_adamw_new(p.params, NULL), *r = bb_adamw_new(q.params, NULL);
    double gw[W] = {1, 2, 3, -4, 5, 6}, gs[S] = {-1, 2, -3, 4, 5};
    for (int step = 0; step < 6; step++) {
        if (step == 3) {
            int n = 0;
            const bb_named *from = bb_adamw_state(o, &n), *to = bb_adamw_state(r, &n);
            for (int i = 0; i < n; i++) overwrite(t, to[i].tensor, from[i].tensor);
            overwrite(t, q.w, p.w);
            overwrite(t, q.scale, p.scale);
        }
        for (int i = 0; i < W; i++) gw[i] = -0.7 * gw[i];
        backward(t, &p, gw, gs);
        bb_adamw_step(o, 0.01);
        bb_params_zero_grad(p.params);
        if (step < 3) continue;
        backward(t, &q, gw, gs);
        bb_adamw_step(r, 0.01);
        bb_params_zero_grad(q.params);
        CHECK(t, same_bytes(bb_params_values(p.params), bb_params_values(q.params)));
    }
    CHECK_INT(t, bb_adamw_steps(r), 6);
    CHECK_OK(t, a);
    CHECK_OK(t, b);
    bb_close(a), bb_close(b);
}

/* A parameter that the loss did not reach has gradient zero, even if it had another one in the step
 * before. */
static void unreached(test *t) {
    bb_context *ctx = test_open();
    pair p = make(t, ctx, BB_F64, 17);
    bb_adamw_attrs attrs = {0, 0, 1e-8, 0, 0};
    bb_adamw *o = bb_adamw_new(p.params, &attrs);
    double gw[W] = {1, 1, 1, 1, 1, 1}, gs[S] = {1, 1, 1, 1, 1};
    backward(t, &p, gw, gs);
    bb_adamw_step(o, 0.5);
    bb_params_zero_grad(p.params);
    double *before = values_of(t, p.scale), *w_before = values_of(t, p.w);
    bb_backward(bb_sum_all(p.w), NULL);
    CHECK_INT(t, bb_adamw_step(o, 0.5), BB_OK);
    double *after = values_of(t, p.scale), *w_after = values_of(t, p.w);
    for (int i = 0; i < S; i++) CHECK_NEAR(t, after[i], before[i], 0);
    CHECK_NEAR(t, w_after[0], w_before[0] - 0.5, 1e-6);
    free(before), free(after), free(w_before), free(w_after);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void refusals(test *t) {
    bb_context *ctx = test_open();
    pair p = make(t, ctx, BB_F32, 18);
    const bb_adamw_attrs bad[] = {
        {1, 0.9, 1e-8, 0, 0}, {0.9, -0.1, 1e-8, 0, 0}, {0.9, 0.9, NAN, 0, 0}, {0.9, 0.9, 0, -1, 0}};
    const char *part[] = {"betas: expected 0 <= beta < 1, got 1 and 0.9", "got 0.9 and -0.1",
                          "eps: expected", "weight_decay: expected"};
    for (int i = 0; i < 4; i++) {
        CHECK(t, !bb_adamw_new(p.params, &bad[i]));
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, part[i]);
    }
    bb_adamw *o = bb_adamw_new(p.params, NULL);
    double *before = values_of(t, p.w), gw[W] = {1}, gs[S] = {0};
    CHECK_INT(t, bb_adamw_step(o, 0.1), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE,
                "bb_adamw_step: gradients: expected a bb_backward before, got none");
    backward(t, &p, gw, gs);
    bb_fail(ctx, BB_ERR_DEVICE, "something went wrong");
    CHECK_INT(t, bb_adamw_step(o, 0.1),
              BB_ERR_DEVICE); /* no parameter takes a step after an error */
    CHECK_ERROR(t, ctx, BB_ERR_DEVICE, "something");
    double *after = values_of(t, p.w);
    CHECK(t, memcmp(before, after, W * sizeof *before) == 0);
    CHECK_INT(t, bb_adamw_steps(o), 0);
    CHECK_INT(t, bb_adamw_step(o, 0.1), BB_OK); /* the gradient is still there */
    CHECK_INT(t, bb_adamw_steps(o), 1);
    CHECK(t, !bb_adamw_new(NULL, NULL) && bb_adamw_step(NULL, 1) == BB_ERR_ARGUMENT &&
                 !bb_adamw_state(NULL, NULL));
    free(before), free(after);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"against_emulation", against_emulation},
    {"master", master},
    {"bf16", bf16},
    {"state_is_flat", state_is_flat},
    {"resume", resume},
    {"unreached", unreached},
    {"refusals", refusals},
};
TEST_MAIN(rows)
