/* Numbers that would spoil weights, kinds and lists that are not there, tensors of another context:
 * each is one error that names its argument, and nothing has changed. */
#include "nn/fusible.h"
#include "tests/support/test.h"

/* A layer of ones with a gradient. */
static bb_params *trained(bb_context *ctx, bb_tensor **weight) {
    bb_params *params = bb_params_new(ctx, BB_CPU, BB_F32);
    *weight = bb_params_add(params, "w", BB_SHAPE(2), BB_INIT_ONES, 0);
    bb_params_build(params);
    bb_backward(bb_sum_all(*weight), NULL);
    return params;
}

static void rates(test *t) {
    static const double bad[] = {NAN, INFINITY, -1, 1e300};
    bb_context *ctx = test_open();
    bb_tensor *w;
    bb_params *params = trained(ctx, &w);
    bb_adamw *adamw = bb_adamw_new(params, NULL);
    bb_sgd *sgd = bb_sgd_new(params, NULL);
    for (int i = 0; i < COUNT(bad); i++) {
        CHECK_INT(t, bb_adamw_step(adamw, bad[i]), BB_ERR_ARGUMENT);
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                    "bb_adamw_step: lr: expected a finite number >= 0, got");
        CHECK_INT(t, bb_sgd_step(sgd, bad[i]), BB_ERR_ARGUMENT);
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_sgd_step: lr: expected a finite number >= 0");
        bb_adamw_set_lr(adamw, bad[i]);
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_adamw_set_lr: lr:");
        bb_sgd_set_lr(sgd, bad[i]);
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_sgd_set_lr: lr:");
    }
    double values[2] = {0};
    bb_read_f64(w, values, 2);
    CHECK(t, values[0] == 1 && values[1] == 1);
    CHECK_INT(t, bb_adamw_steps(adamw), 0);
    CHECK_INT(t, bb_sgd_step(sgd, 0), BB_OK);
    CHECK_INT(t, bb_adamw_step(adamw, 0.5), BB_OK);
    bb_close(ctx);
}

/* Errors begin with the call that was made. */
static void names(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *w;
    bb_params *params = trained(ctx, &w);
    bb_adamw *adamw = bb_adamw_new(params, NULL);
    bb_sgd *sgd = bb_sgd_new(params, NULL);
    bb_params_zero_grad(params);
    bb_adamw_apply(adamw);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_adamw_apply: gradients");
    bb_sgd_apply(sgd);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_sgd_apply: gradients");
    bb_clip_grads(params, 1);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_clip_grads: gradients");
    bb_clip_grads(params, -1);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_clip_grads: max_norm");
    CHECK(t, !bb_quantizer_new(ctx, (bb_device)99, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_quantizer_new: device: no such device");
    bb_close(ctx);
}

static void schedule(test *t) {
    const bb_schedule s = {1, 0.1, 0, 10}, warm = {1, 0.1, 4, 10};
    CHECK(t, bb_schedule_lr(&s, -3) == bb_schedule_lr(&s, 0));
    CHECK(t, bb_schedule_lr(&warm, -3) == 0.25);
}

static void parameters(test *t) {
    bb_context *ctx = test_open();
    CHECK(t, !bb_params_new(ctx, (bb_device)99, BB_F32));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_params_new: device: no such device");
    bb_params *params = bb_params_new(ctx, BB_CPU, BB_F32);
    CHECK(t, !bb_params_add(params, "w", BB_SHAPE(2), (bb_init)9, 0));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_params_add: w: init: expected");
    CHECK(t, !bb_params_add(params, "w", BB_SHAPE(2), BB_INIT_NORMAL, NAN));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_params_add: w: std: expected a finite number >= 0");
    CHECK(t, !bb_nn_linear_new(params, "l", 2, 2, false, -1).weight);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "l.weight: std: expected a finite number >= 0, got -1");
    CHECK(t, !bb_nn_embedding_new(params, "e", 2, 2, -1).weight);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "e.weight: std:");
    CHECK(t, !bb_fusible_linear(params, "f", 2, 2, NAN));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "f.weight: std:");
    CHECK(t, !bb_nn_rms_norm_new(params, "n", 4, -1, 0).weight);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNorm n: eps: expected a finite number >= 0, got -1");
    CHECK(t, !bb_nn_rms_norm_zero_centered_new(params, "n", 4, NAN, 0).weight);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNorm n: eps:");
    CHECK(t, !bb_nn_rms_norm_new(params, "n", 4, 1e-5, -3).weight);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNorm n: n_heads: expected 0 or more, got -3");
    CHECK_INT(t, bb_params_count(params), 0);
    CHECK(t, !bb_params_find(params, NULL));
    bb_close(ctx);
}

static bb_status forward_only(bb_fusible_run *run) {
    run->output = run->input;
    return BB_OK;
}

static void kinds(test *t) {
    static const bb_fusible_kind nothing = {.name = "mine"}, nameless = {.forward = forward_only},
                                 half = {.name = "half", .forward = forward_only};
    static const bb_fusible_kind *const bad[] = {&nothing, &nameless, &half};
    bb_context *ctx = test_open();
    for (int i = 0; i < 3; i++) {
        CHECK(t, !bb_fusible_new(ctx, bad[i], NULL, NULL, 0, 0));
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_fusible_new: kind: expected a name, and compute");
    }
    bb_op_context_clear(NULL);
    bb_close(ctx);
}

static void chains(test *t) {
    bb_context *ctx = test_open(), *other = test_open();
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(2, 3)), *out;
    bb_tensor *foreign = bb_ones(other, BB_F32, BB_SHAPE(2, 3));
    bb_chain *chain = bb_chain_new(ctx, "h");
    bb_chain_append(chain, bb_fusible_make_extra_output(ctx));
    CHECK(t, !bb_chain_forward_with(chain, x, NULL, 0, NULL, 1));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "chain h: extra outputs: expected an array, got NULL");
    CHECK(t, !bb_chain_forward_with(chain, foreign, NULL, 0, &out, 1));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "chain h: x: expected a tensor of this context");
    chain = bb_chain_new(ctx, "i");
    bb_chain_append(chain, bb_fusible_add_extra_input(ctx));
    CHECK(t, !bb_chain_forward_with(chain, x, NULL, 1, NULL, 0));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "chain i: extra inputs: expected an array, got NULL");
    CHECK(t, !bb_chain_forward_with(chain, x, &foreign, 1, NULL, 0));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "extra input 0: expected a tensor of this context, got");
    CHECK(t, bb_chain_forward_with(chain, x, &x, 1, NULL, 0));
    bb_close(other);
    bb_close(ctx);
}

static void gradients(test *t) {
    bb_context *ctx = test_open(), *other = test_open();
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    bb_fusible_op *norm = bb_fusible_rms_norm(params, "n", BB_SHAPE(32), NULL);
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(4, 32)), *grad;
    bb_tensor *foreign = bb_ones(other, BB_F32, BB_SHAPE(4, 32));
    bb_op_context c = {.requires_grad = true};
    bb_fusible_forward(norm, &c, bb_link_of(foreign), NULL, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNorm: input: expected a tensor of this context");
    bb_link y = bb_fusible_forward(norm, &c, bb_link_of(x), NULL, NULL);
    bb_fusible_backward(norm, &c, bb_link_of(bb_ones(ctx, BB_F32, BB_SHAPE(3, 32))), &grad);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNorm: grad_output: expected (4, 32), got (3, 32)");
    bb_fusible_backward(norm, &c, bb_link_of(foreign), &grad);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNorm: grad_output: expected a tensor of this context");
    y = bb_fusible_forward(norm, &c, bb_link_of(x), NULL, NULL);
    CHECK(t, bb_fusible_backward(norm, &c, y, &grad).tensor && grad);
    bb_quantizer *q = bb_quantizer_new(ctx, bb_get_device(ctx), NULL);
    CHECK(t, !bb_quantize(q, foreign));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_quantize: x: expected a tensor of this context");
    bb_tensor *row = bb_ones(ctx, BB_F32, BB_SHAPE(32));
    CHECK(t, !bb_rms_norm_quantize(q, foreign, row, 1e-5, 1, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_rms_norm_quantize: x: expected a tensor of this");
    CHECK(t, !bb_fusible_rms_norm_of(params, bb_ones(other, BB_F32, BB_SHAPE(32)), NULL));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "parameter 0: expected a tensor of this context, got one");
    bb_chain_append(bb_chain_new(ctx, "h"), bb_fusible_identity(other));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "chain h: Identity: expected an op of this context");
    CHECK_OK(t, other);
    bb_close(other);
    bb_close(ctx);
}

/* What describes, and is not there. */
static void not_given(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(1, 2, 2)),
              *ids = bb_zeros(ctx, BB_I64, BB_SHAPE(2));
    CHECK_INT(t, bb_nn_config_check(ctx, NULL), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_nn_config_check: config: expected one, got NULL");
    CHECK(t, !bb_nn_attention_new(params, "a", NULL).qkv.weight);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_nn_attention_new: config: expected one, got NULL");
    CHECK(t, !bb_nn_mlp_new(params, "a", NULL).gate.weight);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_nn_mlp_new: config: expected one, got NULL");
    CHECK(t, !bb_nn_block_new(params, "a", NULL).mlp.gate.weight);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_nn_block_new: config: expected one, got NULL");
    CHECK(t, !bb_nn_linear_forward(NULL, x));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_nn_linear_forward: layer: expected one, got NULL");
    CHECK(t, !bb_nn_rms_norm_forward(NULL, x));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_nn_rms_norm_forward: layer: expected one, got NULL");
    CHECK(t, !bb_nn_embedding_forward(NULL, ids));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_nn_embedding_forward: layer: expected one");
    CHECK(t, !bb_nn_attention_forward(NULL, x, NULL, 0));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_nn_attention_forward: layer: expected one");
    CHECK(t, !bb_nn_mlp_forward(NULL, x));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_nn_mlp_forward: layer: expected one, got NULL");
    CHECK(t, !bb_nn_block_forward(NULL, x, NULL, 0));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_nn_block_forward: layer: expected one, got NULL");
    CHECK(t, !bb_nn_block_new(NULL, "a", NULL).name && !bb_nn_linear_forward(NULL, NULL));
    CHECK(t, isnan(bb_schedule_lr(NULL, 0)));
    CHECK_INT(t, bb_params_count(params), 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {{"learning rates", rates}, {"names of calls", names},
                                {"schedule", schedule},    {"parameters", parameters},
                                {"kinds", kinds},          {"chains", chains},
                                {"gradients", gradients},  {"not given", not_given}};
TEST_MAIN(rows)
