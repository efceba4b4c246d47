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

static const bb_linear_quantizers *quantizers_of(const bb_fusible_op *op) {
    return &((const linear_data *)op->data)->quantizers;
}

static bb_quantized *as_quantized(bb_link link, bb_quantizer *q, bb_dtype dtype) {
    return link.quantized ? link.quantized : bb_quantize(q, bb_cast(link.tensor, dtype));
}

/* The product of quantized tensors, which are kept for backward. */
static bb_tensor *quantized_product(const bb_fusible_op *op, bb_op_context *c, bb_link input,
                                    bb_tensor *bias, bb_tensor *residual) {
    const bb_linear_quantizers *q = quantizers_of(op);
    bb_quantized *(*make)(bb_quantizer *, bb_tensor *) =
        c->requires_grad ? bb_quantize : bb_quantize_rows;
    bb_quantized *x =
        input.quantized ? input.quantized : make(q->input, bb_cast(input.tensor, c->dtype));
    bb_quantized *weight = make(q->weight, bb_cast(op->param[0], c->dtype));
    bb_tensor *y = bb_linear_quantized(x, weight, bb_cast(bias, c->dtype), c->dtype);
    if (y && c->requires_grad) {
        c->quantized[0] = bb_quantized_hold(x);
        c->quantized[1] = bb_quantized_hold(weight);
    }
    return residual ? bb_add(y, residual) : y;
}

/* x weight^T + bias + residual, where they are given, of dtype c->dtype. */
static bb_tensor *product(const bb_fusible_op *op, bb_op_context *c, bb_link input, bb_tensor *bias,
                          bb_tensor *residual) {
    const bb_linear_quantizers *q = quantizers_of(op);
    if (q->weight && (q->input || input.quantized))
        return quantized_product(op, c, input, bias, residual);
    bb_tensor *x = bb_link_tensor(input, c->dtype), *weight = bb_cast(op->param[0], c->dtype);
    bb_tensor *in[4] = {x, weight, bb_cast(bias, c->dtype), residual};
    /* Without a kernel for it, a product and an addition beat its decomposition. */
    bool adds = residual && bb_op_has_kernel(op->ctx, &bb_op_linear_add, bb_device_of(x), true);
    bb_call call = {.ctx = op->ctx,
                    .op = adds ? &bb_op_linear_add : &bb_op_linear,
                    .n_in = adds ? 4 : 3,
                    .in = in};
    if (op->ctx->status || bb_run_call(&call, c->requires_grad, &c->fused)) return NULL;
    if (c->requires_grad && bb_save(x, &c->saved[SAVED_X])) return NULL;
    return residual && !adds ? bb_add(call.out[0], residual) : call.out[0];
}

static bb_status forward(bb_fusible_run *run) {
    run->output = bb_link_of(product(run->op[0], &run->c[0], run->input, NULL, NULL));
    return run->ctx->status;
}

/* ---- Backward -------------------------------------------------------------------------------- */

/* dx = dy weight and dweight = dy^T x as products of quantized tensors, whose columns lie as rows.
 * false: they do not, or an error. */
static bool quantized_gradients(bb_fusible_back *back, const bb_quantized *dy) {
    const bb_op_context *c = &back->c[0];
    if (!dy || !dy->columns || !c->quantized[0]->columns || !c->quantized[1]->columns) return false;
    bb_quantized *weight = bb_quantized_transpose(c->quantized[1]),
                 *x = bb_quantized_transpose(c->quantized[0]), *dyt = bb_quantized_transpose(dy);
    if (!weight || !x || !dyt) return false;
    if (back->want_input)
        back->grad_input = bb_link_of(bb_linear_quantized(dy, weight, NULL, c->dtype));
    if (back->want_param[0][0])
        back->grad_param[0][0] = bb_linear_quantized(dyt, x, NULL, c->dtype);
    return true;
}

/* The values that a product over rows reads: those by columns, if there are any. */
static bb_tensor *by_columns(const bb_quantized *x, bb_dtype dtype) {
    return bb_cast(x->columns ? bb_dequantize_columns(x) : bb_dequantize(x), dtype);
}

static bb_status plain_gradients(bb_fusible_back *back, bb_tensor *dy, bb_tensor *dy_columns) {
    const bb_fusible_op *op = back->op[0];
    const bb_op_context *c = &back->c[0];
    bb_context *ctx = back->ctx;
    bool quantized = c->quantized[0] != NULL;
    bb_tensor *x = quantized ? by_columns(c->quantized[0], c->dtype)
                             : bb_saved_read(&c->saved[SAVED_X], ctx, "Linear: backward");
    bb_tensor *weight =
        quantized ? by_columns(c->quantized[1], c->dtype) : bb_cast(op->param[0], c->dtype);
    bb_tensor *in[3] = {x, weight, NULL}, *found[3] = {NULL};
    bb_call call = {.ctx = ctx, .op = &bb_op_linear, .n_in = 3, .n_out = 1, .in = in};
    if (ctx->status || !dy || !x) return ctx->status;
    call.device = (bb_device)x->device;
    if (call.op->infer(&call)) return ctx->status;
    bool fused = quantized ? ctx->path != BB_PATH_COMPOSED : c->fused;
    bool want[3] = {back->want_input, back->want_param[0][0], false};
    if (want[1] && op->param[0]->dtype == c->dtype) found[1] = bb_fusible_target(back, 0, 0);
    bb_grad_call grad = {&call, &dy, want, found};
    if (dy_columns == dy) {
        bb_call_backward(&grad, fused);
    } else { /* the two products read different roundings of dy */
        want[1] = false;
        if (want[0]) bb_call_backward(&grad, fused);
        grad.grad_out = &dy_columns;
        want[0] = false, want[1] = back->want_param[0][0];
        if (want[1]) bb_call_backward(&grad, fused);
    }
    back->grad_input = bb_link_of(found[0]);
    back->grad_param[0][0] = found[1];
    return ctx->status;
}

static bb_status backward(bb_fusible_back *back) {
    const bb_op_context *c = &back->c[0];
    bb_link g = back->grad_output;
    back->n_grad_params[0] = 1;
    for (int i = 0; i < 2 && c->quantized[0]; i++)
        if (!bb_quantized_held(c->quantized[i], back->ctx, "Linear: backward"))
            return back->ctx->status;
    bb_quantizer *q = quantizers_of(back->op[0])->grad_output;
    if (!c->quantized[0] || (!q && !g.quantized)) {
        bb_tensor *dy = bb_link_tensor(g, c->dtype);
        return plain_gradients(back, dy, dy);
    }
    bb_quantized *dy = as_quantized(g, q, c->dtype);
    if (!dy || quantized_gradients(back, dy)) return back->ctx->status;
    return plain_gradients(back, bb_cast(bb_dequantize(dy), c->dtype), by_columns(dy, c->dtype));
}

/* Ordinary ops, of which a recorded graph keeps the pairs of quantize and dequantize. */
static bb_link record(const bb_fusible_op *op, const bb_op_context *c, bb_link input) {
    const bb_linear_quantizers *q = quantizers_of(op);
    bb_op_context forgets = {.dtype = c->dtype};
    if (q->weight && (q->input || input.quantized))
        return bb_link_of(quantized_product(op, &forgets, input, NULL, NULL));
    return bb_link_of(
        bb_linear(bb_link_tensor(input, c->dtype), bb_cast(op->param[0], c->dtype), NULL));
}

static bb_quantizer *input_quantizer(const bb_fusible_op *op) {
    return quantizers_of(op)->weight ? quantizers_of(op)->input : NULL;
}
static bb_quantizer *grad_output_quantizer(const bb_fusible_op *op) {
    return quantizers_of(op)->grad_output;
}

const bb_fusible_kind bb_kind_linear = {.name = "Linear",
                                        .quantizes_gradient = true,
                                        .forward = forward,
                                        .backward = backward,
                                        .record = record,
                                        .input_quantizer = input_quantizer,
                                        .grad_output_quantizer = grad_output_quantizer};

bb_status bb_fusible_set_quantizers(bb_fusible_op *op, const bb_linear_quantizers *quantizers) {
    if (!op) return BB_ERR_ARGUMENT;
    if (op->kind != &bb_kind_linear)
        return bb_fail(op->ctx, BB_ERR_ARGUMENT,
                       "bb_fusible_set_quantizers: op: expected a Linear, got a %s",
                       op->kind->name);
    ((linear_data *)op->data)->quantizers =
        quantizers ? *quantizers : (bb_linear_quantizers){NULL, NULL, NULL};
    return op->ctx->status;
}

bb_linear_quantizers bb_fusible_get_quantizers(const bb_fusible_op *op) {
    bool linear = op && op->kind == &bb_kind_linear;
    return linear ? *quantizers_of(op) : (bb_linear_quantizers){NULL, NULL, NULL};
}

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
    if (std == 0) std = in > 0 ? 1 / sqrt((double)in) : 1;
    bb_tensor *weight = bb_nn_add(params, name, "weight", BB_SHAPE(out, in), BB_INIT_NORMAL, std);
    bb_fusible_op *op = bb_fusible_linear_of(params, weight);
    if (op) op->name = bb_nn_layer_name(params, name);
    return op;
}

/* ---- Bias ------------------------------------------------------------------------------------ */

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

/* ---- Linear with its neighbours -------------------------------------------------------------- */

/* Product, bias and activation in one kernel, which writes what the activation is of, too: its
 * backward reads that. false: not with this activation, not here. */
static bool activated(bb_fusible_run *run, bb_tensor *bias, int last) {
    const bb_fusible_op *op = run->op[0];
    bb_op_context *c = &run->c[0], *after = &run->c[last];
    bb_linear_activation_attrs attrs;
    if (!bb_activation_of_linear(run->op[last], &attrs) || quantizers_of(op)->weight ||
        run->input.quantized || after->dtype != c->dtype)
        return false;
    bb_tensor *in[3] = {bb_cast(run->input.tensor, c->dtype), bb_cast(op->param[0], c->dtype),
                        bb_cast(bias, c->dtype)};
    bb_call call = {
        .ctx = run->ctx, .op = &bb_op_linear_activation, .attrs = &attrs, .n_in = 3, .in = in};
    if (!bb_op_has_kernel(run->ctx, call.op, bb_device_of(in[0]), false)) return false;
    if (run->ctx->status || bb_run_call(&call, false, &c->fused)) return true;
    c->fused = run->ctx->path != BB_PATH_COMPOSED;
    if (c->requires_grad) bb_save(in[0], &c->saved[SAVED_X]);
    if (after->requires_grad) bb_save(call.out[1], &after->saved[0]);
    run->output = bb_link_of(call.out[0]);
    return true;
}

/* linear [bias] [activation | add_extra_input]: one rounding for product, bias and addition. */
bb_status bb_fused_linear(bb_fusible_run *run) {
    int last = run->n - 1;
    const bb_fusible_kind *tail = run->op[last]->kind;
    bb_tensor *bias = run->op[1]->kind == &bb_kind_bias ? run->op[1]->param[0] : NULL;
    bb_tensor *residual = tail == &bb_kind_add_extra_input ? run->extra_input[last] : NULL;
    if (tail == &bb_kind_activation && activated(run, bias, last)) return run->ctx->status;
    bb_tensor *y = product(run->op[0], &run->c[0], run->input, bias, residual);
    run->output = bb_link_of(y);
    if (!y || tail != &bb_kind_activation) return run->ctx->status;
    bb_fusible_run activation = bb_fusible_member(run, last);
    activation.input = run->output;
    bb_fusible_run_forward(&activation, NULL);
    run->output = activation.output;
    return run->ctx->status;
}

bb_status bb_fused_linear_add_rms_norm(bb_fusible_run *run) {
    bool has_bias = run->op[1]->kind == &bb_kind_bias;
    bb_tensor *bias = has_bias ? run->op[1]->param[0] : NULL;
    bb_fusible_run tail = bb_fusible_member(run, 1 + has_bias);
    tail.n = run->n - 1 - has_bias;
    tail.input = bb_link_of(product(run->op[0], &run->c[0], run->input, bias, NULL));
    if (!tail.input.tensor) return run->ctx->status;
    bb_status status = bb_fused_add_rms_norm(&tail);
    run->output = tail.output;
    return status;
}
