/* Linear and Bias as fusible ops: x weight^T, and x + bias. Linear saves x. With its neighbours it
 * is one matrix product that starts from the bias, or from what is added to it (ops/linear.c,
 * ops/linear_add.c). */
#include <math.h>

#include "nn/fusible/internal.h"
#include "ops/table.h"

typedef struct linear_data {
    bb_linear_quantizers quantizers;
} linear_data;

enum { SAVED_X = 0 };

/* x weight^T + bias + residual, where they are given, of dtype c->dtype. */
static bb_tensor *product(const bb_fusible_op *op, bb_op_context *c, bb_link input, bb_tensor *bias,
                          bb_tensor *residual) {
    bb_context *ctx = op->ctx;
    bb_tensor *x = bb_link_tensor(input, c->dtype), *weight = bb_cast(op->param[0], c->dtype);
    bb_tensor *in[4] = {x, weight, bb_cast(bias, c->dtype), residual};
    bb_call call = {.ctx = ctx,
                    .op = residual ? &bb_op_linear_add : &bb_op_linear,
                    .n_in = residual ? 4 : 3,
                    .in = in};
    if (ctx->status || bb_run_call(&call, c->requires_grad, &c->fused)) return NULL;
    if (c->requires_grad && bb_save(x, &c->saved[SAVED_X])) return NULL;
    return call.out[0];
}

static bb_status forward(bb_fusible_run *run) {
    run->output = bb_link_of(product(run->op[0], &run->c[0], run->input, NULL, NULL));
    return run->ctx->status;
}

static bb_status backward(bb_fusible_back *back) {
    const bb_fusible_op *op = back->op[0];
    const bb_op_context *c = &back->c[0];
    bb_context *ctx = back->ctx;
    bb_tensor *dy = bb_link_tensor(back->grad_output, c->dtype);
    bb_tensor *x = bb_saved_read(&c->saved[SAVED_X], ctx, "Linear: backward");
    bb_tensor *in[3] = {x, bb_cast(op->param[0], c->dtype), NULL}, *found[3] = {NULL};
    const bool want[3] = {back->want_input, back->want_param[0][0], false};
    bb_call call = {.ctx = ctx, .op = &bb_op_linear, .n_in = 3, .n_out = 1, .in = in};
    if (ctx->status || !dy || !x) return ctx->status;
    call.device = (bb_device)x->device;
    if (want[1] && op->param[0]->dtype == c->dtype) found[1] = bb_fusible_target(back, 0, 0);
    bb_grad_call grad = {&call, &dy, want, found};
    if (ctx->status || call.op->infer(&call) || bb_call_backward(&grad, c->fused))
        return ctx->status;
    back->grad_input = bb_link_of(found[0]);
    back->grad_param[0][0] = found[1];
    back->n_grad_params[0] = 1;
    return ctx->status;
}

static bb_tensor *compute(const bb_fusible_op *op, const bb_op_context *c, bb_tensor *const *in,
                          int n) {
    (void)op, (void)n;
    return bb_linear(bb_cast(in[0], c->dtype), bb_cast(in[1], c->dtype), NULL);
}

const bb_fusible_kind bb_kind_linear = {.name = "Linear",
                                        .quantizes_gradient = true,
                                        .forward = forward,
                                        .backward = backward,
                                        .compute = compute};

bb_fusible_op *bb_fusible_linear_of(bb_params *params, bb_tensor *weight) {
    bb_context *ctx = bb_nn_context(params);
    if (!params || !weight || ctx->status) return NULL;
    if (weight->rank != 2) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "Linear: weight: expected (out, in), got rank %d",
                weight->rank);
        return NULL;
    }
    return bb_fusible_new(ctx, &bb_kind_linear, params, &weight, 1, sizeof(linear_data));
}

bb_fusible_op *bb_fusible_linear(bb_params *params, const char *name, int64_t in, int64_t out,
                                 double std) {
    if (std <= 0) std = in > 0 ? 1 / sqrt((double)in) : 1;
    bb_tensor *weight = bb_nn_add(params, name, "weight", BB_SHAPE(out, in), BB_INIT_NORMAL, std);
    bb_fusible_op *op = bb_fusible_linear_of(params, weight);
    if (op) op->name = bb_nn_layer_name(params, name);
    return op;
}

/* ---- Bias -------------------------------------------------------------------------------------
 */

static bb_status bias_forward(bb_fusible_run *run) {
    const bb_op_context *c = &run->c[0];
    run->output = bb_link_of(
        bb_add(bb_link_tensor(run->input, c->dtype), bb_cast(run->op[0]->param[0], c->dtype)));
    return run->ctx->status;
}

static bb_status bias_backward(bb_fusible_back *back) {
    const bb_fusible_op *op = back->op[0];
    bb_tensor *dy = bb_link_tensor(back->grad_output, back->c[0].dtype);
    back->grad_input = bb_link_of(dy);
    if (back->want_param[0][0])
        back->grad_param[0][0] = bb_sum_to(dy, bb_shape_of_tensor(op->param[0]));
    back->n_grad_params[0] = 1;
    return back->ctx->status;
}

static bb_tensor *bias_compute(const bb_fusible_op *op, const bb_op_context *c,
                               bb_tensor *const *in, int n) {
    (void)op, (void)n;
    return bb_add(bb_cast(in[0], c->dtype), bb_cast(in[1], c->dtype));
}

const bb_fusible_kind bb_kind_bias = {.name = "Bias",
                                      .quantizes_gradient = true,
                                      .forward = bias_forward,
                                      .backward = bias_backward,
                                      .compute = bias_compute};

bb_fusible_op *bb_fusible_bias_of(bb_params *params, bb_tensor *bias) {
    bb_context *ctx = bb_nn_context(params);
    if (!params || !bias || ctx->status) return NULL;
    return bb_fusible_new(ctx, &bb_kind_bias, params, &bias, 1, 0);
}

bb_fusible_op *bb_fusible_bias(bb_params *params, const char *name, int64_t size) {
    bb_tensor *bias = bb_nn_add(params, name, "bias", BB_SHAPE(size), BB_INIT_ZEROS, 0);
    bb_fusible_op *op = bb_fusible_bias_of(params, bias);
    if (op) op->name = bb_nn_layer_name(params, name);
    return op;
}

/* ---- Linear with its neighbours -----------------------------------------------------------------
 */

/* linear [bias] [activation | add_extra_input]: one rounding for product, bias and addition. */
bb_status bb_fused_linear(bb_fusible_run *run) {
    int last = run->n - 1;
    const bb_fusible_kind *tail = run->op[last]->kind;
    bb_tensor *bias = run->op[1]->kind == &bb_kind_bias ? run->op[1]->param[0] : NULL;
    bb_tensor *residual = tail == &bb_kind_add_extra_input ? run->extra_input[last] : NULL;
    bb_tensor *y = product(run->op[0], &run->c[0], run->input, bias, residual);
    run->output = bb_link_of(y);
    if (!y || tail != &bb_kind_activation) return run->ctx->status;
    bb_fusible_run activation = bb_fusible_member(run, last);
    activation.input = run->output;
    bb_fusible_run_forward(&activation, NULL);
    run->output = activation.output;
    return run->ctx->status;
}
