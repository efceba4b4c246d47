/* Segments of chains on the tape: rows T24, T30 and T31 of nn/FUSIBLE.md, extra inputs and outputs,
 * one node and the errors of using it twice. */
#include "tests/nn/fusible_test.h"

/* ---- Which ops take part in backward */

static int seen_forward, seen_backward, given;
static bool wants_grad[4];
static bb_status watch_forward(bb_fusible_run *run) {
    wants_grad[seen_forward++ & 3] = run->c[0].requires_grad;
    run->output = bb_link_of(bb_mul_scalar(run->input.tensor, 1));
    return bb_error(run->ctx);
}
static bb_status watch_backward(bb_fusible_back *back) {
    seen_backward++;
    back->grad_input = back->grad_output;
    if (bb_fusible_param_count(back->op[0]))
        back->grad_param[0][0] = bb_zeros_like(bb_fusible_param(back->op[0], 0));
    back->n_grad_params[0] = given < 0 ? bb_fusible_param_count(back->op[0]) : given;
    return bb_error(back->ctx);
}
static const bb_fusible_kind watch = {
    .name = "Watch", .forward = watch_forward, .backward = watch_backward};

static bb_chain *watched(bb_context *ctx, bb_params *params) {
    bb_chain *chain = bb_chain_new(ctx, "watched");
    for (int i = 0; i < 4; i++) {
        char name[2] = {(char)('a' + i), 0};
        bb_tensor *p = i == 2 ? bb_params_add(params, name, BB_SHAPE(2), BB_INIT_ONES, 0) : NULL;
        bb_chain_append(chain, bb_fusible_new(ctx, &watch, i == 2 ? params : NULL, &p, i == 2, 0));
    }
    seen_forward = seen_backward = 0;
    given = -1;
    return chain;
}

static void t30(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = set_of(ctx, BB_F32);
    bb_chain *chain = watched(ctx, params);
    bb_params_build(params);
    static const struct {
        bool input, param, enabled;
        int first; /* the first op that takes part */
    } rows[] = {{true, true, true, 0},
                {true, false, true, 0},
                {false, true, true, 2},
                {false, false, true, 4},
                {true, true, false, 4}};
    for (int i = 0; i < COUNT(rows); i++) {
        bb_tensor *x = bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(2)), rows[i].input);
        bb_set_requires_grad(bb_params_at(params, 0), rows[i].param);
        bb_set_grad_enabled(ctx, rows[i].enabled);
        seen_forward = seen_backward = 0;
        bb_tensor *y = bb_chain_forward(chain, x);
        bb_set_grad_enabled(ctx, true);
        for (int k = 0; k < 4; k++) CHECK_INT(t, wants_grad[k], k >= rows[i].first);
        CHECK_INT(t, bb_requires_grad(y), rows[i].first < 4);
        if (bb_requires_grad(y)) bb_backward(bb_sum_all(y), NULL);
        CHECK_INT(t, seen_backward, 4 - rows[i].first);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void t31(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = set_of(ctx, BB_F32);
    bb_chain *chain = watched(ctx, params);
    for (given = 0; given < 3; given += 2) {
        bb_tensor *y = bb_chain_forward(chain, bb_ones(ctx, BB_F32, BB_SHAPE(2)));
        bb_backward(bb_sum_all(y), NULL);
        char text[80];
        snprintf(text, sizeof text,
                 "Watch: backward: expected gradients of its 1 parameters, got %d", given);
        if (given == 2)
            snprintf(text, sizeof text, "expected gradients of its 0 parameters, got 2");
        CHECK_ERROR(t, ctx, BB_ERR_STATE, text);
    }
    bb_close(ctx);
}

/* ---- The tape */

static void tape(test *t) {
    bb_context *ctx = test_open();
    uint64_t state = 2;
    bb_params *params = set_of(ctx, BB_F32);
    bb_chain *chain = bb_chain_new(ctx, "tape");
    bb_fusible_op *norm = bb_fusible_rms_norm(params, "norm", BB_SHAPE(8), NULL);
    bb_chain_append(chain, norm);
    bb_chain_append(chain, bb_fusible_linear(params, "linear", 8, 8, 0));
    bb_tensor *x = bb_set_requires_grad(uniform(ctx, BB_F32, BB_SHAPE(4, 8), 0, 1, &state), true);
    bb_tensor *y = bb_chain_forward(chain, x), *loss = bb_sum_all(y), *g;
    bb_gradients(loss, NULL, &x, 1, true, &g);
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, "chain: expected a walk for first gradients");
    bb_backward_retain(loss, NULL);
    bb_tensor *first = bb_keep(bb_grad(x));
    bb_zero_grad(x);
    bb_backward(loss, NULL);
    CHECK(t, same_bytes(first, bb_grad(x)));
    CHECK_INT(t, bb_backward(loss, NULL), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "its part of the tape was already walked");
    /* A weight that changed before backward. */
    loss = bb_sum_all(bb_chain_forward(chain, x));
    set_param(t, bb_fusible_param(norm, 0), 0, 1, &state);
    CHECK_INT(t, bb_backward(loss, NULL), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "a parameter was changed in place after the forward pass");
    /* Nothing is held when the step ends before backward. */
    bb_chain_forward(chain, x);
    bb_end_step(ctx);
    size_t held = bb_memory_stats(ctx).bytes_in_use;
    bb_chain_forward(chain, bb_ones(ctx, BB_F32, BB_SHAPE(4, 8)));
    bb_end_step(ctx);
    CHECK_INT(t, bb_memory_stats(ctx).bytes_in_use, held);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void extras(test *t) {
    bb_context *ctx = test_open();
    uint64_t state = 7;
    bb_chain *chain = bb_chain_new(ctx, "extras");
    bb_chain_append(chain, bb_fusible_make_extra_output(ctx));
    bb_chain_append(chain, bb_fusible_constant_scale(ctx, 2));
    bb_chain_append(chain, bb_fusible_add_extra_input(ctx));
    bb_chain_append(chain, bb_fusible_make_extra_output(ctx));
    bb_tensor *x = bb_set_requires_grad(uniform(ctx, BB_F32, BB_SHAPE(3), 0, 1, &state), true);
    bb_tensor *e = bb_set_requires_grad(uniform(ctx, BB_F32, BB_SHAPE(3), 0, 1, &state), true);
    bb_tensor *out[2];
    bb_tensor *y = bb_chain_forward_with(chain, x, &e, 1, out, 2);
    CHECK_INT(t, bb_tape_length(ctx), 1);
    bb_backward(bb_sum_all(bb_add(bb_mul_scalar(out[0], 10), bb_add(y, out[1]))), NULL);
    double *dx = values_of(t, bb_grad(x)), *de = values_of(t, bb_grad(e));
    CHECK(t, dx[0] == 14 && de[2] == 2); /* 10 + 2 (1 + 1); 1 + 1 */
    free(dx), free(de);
    /* Only an extra output is used: nothing reached the other. */
    bb_zero_grad(x), bb_zero_grad(e);
    bb_chain_forward_with(chain, x, &e, 1, out, 2);
    bb_backward(bb_sum_all(out[0]), NULL);
    dx = values_of(t, bb_grad(x)), de = values_of(t, bb_grad(e));
    CHECK(t, dx[1] == 1 && de[1] == 0);
    free(dx), free(de);
    CHECK_OK(t, ctx);
    CHECK(t, !bb_chain_forward(chain, x));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "chain extras: expected 1 extra inputs and 2 extra outputs, got 0 and 0");
    bb_tensor *wrong = bb_ones(ctx, BB_F32, BB_SHAPE(4));
    CHECK(t, !bb_chain_forward_with(chain, x, &wrong, 1, out, 2));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "AddExtraInput: extra input: expected shape (3,) like the input, got (4,)");
    bb_close(ctx);
}

/* ---- Hooks on what a chain saves */

static int packed, unpacked, statistics;
static bb_status pack(void *user, bb_tensor *value, void **object) {
    packed++;
    statistics += bb_dtype_of(value) == BB_F32 && bb_count(value) == 6;
    *object = bb_hold(bb_add_scalar(value, 0)); /* bytes of its own */
    return bb_error(user);
}
static bb_tensor *unpack(void *user, void *object) {
    (void)user;
    unpacked++;
    return object;
}

/* Activations of a chain go where those of ops go: the input and the reciprocal roots of a norm are
 * offered to hooks, of which offloading is one. */
static void t24(test *t) {
    bb_context *ctx = test_open();
    uint64_t state = 2;
    bb_params *params = set_of(ctx, BB_F16);
    bb_chain *chain = bb_chain_new(ctx, "hooks");
    bb_chain_append(chain, bb_fusible_rms_norm(params, "norm", BB_SHAPE(8), NULL));
    bb_chain_append(chain, bb_fusible_linear(params, "linear", 8, 4, 0));
    bb_chain_append(chain, bb_fusible_activation(ctx, BB_ACT_GELU));
    bb_tensor *x = bb_set_requires_grad(uniform(ctx, BB_F16, BB_SHAPE(6, 8), 0, 1, &state), true);
    bb_backward(bb_sum_all(bb_chain_forward(chain, x)), NULL);
    bb_tensor *want = bb_keep(bb_grad(x));
    bb_zero_grad(x);
    const bb_saved_hooks hooks = {.pack = pack, .unpack = unpack, .user = ctx};
    packed = unpacked = statistics = 0;
    bb_saved_hooks_push(ctx, &hooks);
    bb_tensor *y = bb_chain_forward(chain, x);
    bb_saved_hooks_pop(ctx);
    CHECK_INT(t, packed, 4); /* x, rstd, Linear's and the activation's input */
    CHECK_INT(t, statistics, 1);
    bb_backward(bb_sum_all(y), NULL);
    CHECK_INT(t, unpacked, 4);
    CHECK(t, same_bytes(bb_grad(x), want));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"T24 hooks and offloading of what is saved", t24},
    {"T30 which ops want gradients", t30},
    {"T31 the number of parameter gradients", t31},
    {"one node on the tape", tape},
    {"extra inputs and outputs", extras},
};
TEST_MAIN(rows)
