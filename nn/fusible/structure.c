/* Fusible ops that move values and compute nothing: reshape, identity, and where a chain meets
 * other tensors: add_extra_input, make_extra_output. */
#include "nn/fusible/internal.h"

/* ---- Identity and reshape -------------------------------------------------------------------- */

static bb_status pass(bb_fusible_run *run) {
    run->output = run->input;
    return BB_OK;
}

static bb_status pass_back(bb_fusible_back *back) {
    back->grad_input = back->grad_output;
    back->n_grad_params[0] = 0;
    return BB_OK;
}

static bb_tensor *same(const bb_fusible_op *op, const bb_op_context *c, bb_tensor *const *in,
                       int n) {
    (void)op, (void)c, (void)n;
    return in[0];
}

static const bb_fusible_kind identity_kind = {
    .name = "Identity", .forward = pass, .backward = pass_back, .compute = same};

bb_fusible_op *bb_fusible_identity(bb_context *ctx) {
    return bb_fusible_new(ctx, &identity_kind, NULL, NULL, 0, 0);
}

static bb_tensor *reshaped(const bb_fusible_op *op, const bb_op_context *c, bb_tensor *const *in,
                           int n) {
    (void)n;
    return bb_reshape(bb_cast(in[0], c->dtype), *(const bb_shape *)op->data);
}

static bb_status reshape_forward(bb_fusible_run *run) {
    bb_op_context *c = &run->c[0];
    bb_tensor *x = bb_link_tensor(run->input, c->dtype);
    c->shape = bb_shape_of(x);
    run->output = bb_link_of(reshaped(run->op[0], c, &x, 1));
    return run->ctx->status;
}

static bb_status reshape_backward(bb_fusible_back *back) {
    bb_tensor *dy = bb_link_tensor(back->grad_output, back->c[0].dtype);
    back->grad_input = bb_link_of(bb_reshape(dy, back->c[0].shape));
    back->n_grad_params[0] = 0;
    return back->ctx->status;
}

static const bb_fusible_kind reshape_kind = {.name = "Reshape",
                                             .forward = reshape_forward,
                                             .backward = reshape_backward,
                                             .compute = reshaped};

bb_fusible_op *bb_fusible_reshape(bb_context *ctx, bb_shape shape) {
    bb_fusible_op *op = bb_fusible_new(ctx, &reshape_kind, NULL, NULL, 0, sizeof shape);
    if (op) *(bb_shape *)op->data = shape;
    return op;
}

/* ---- Extra inputs and outputs ---------------------------------------------------------------- */

static bb_status check_extra(bb_context *ctx, bb_tensor *x, bb_tensor *extra) {
    if (ctx->status || !x || !extra) return ctx->status;
    bb_shape want = bb_shape_of_tensor(x), got = bb_shape_of_tensor(extra);
    if (bb_shape_equal(&want, &got)) return BB_OK;
    char a[BB_SHAPE_TEXT], b[BB_SHAPE_TEXT];
    return bb_fail(ctx, BB_ERR_ARGUMENT,
                   "AddExtraInput: extra input: expected shape %s like the input, got %s",
                   bb_shape_text(&want, a), bb_shape_text(&got, b));
}

static bb_status add_forward(bb_fusible_run *run) {
    bb_dtype dtype = run->c[0].dtype;
    bb_tensor *x = bb_link_tensor(run->input, dtype), *extra = bb_cast(run->extra_input[0], dtype);
    if (check_extra(run->ctx, x, extra)) return run->ctx->status;
    run->output = bb_link_of(bb_add(x, extra));
    return run->ctx->status;
}

static bb_status add_backward(bb_fusible_back *back) {
    bb_tensor *dy = bb_link_tensor(back->grad_output, back->c[0].dtype);
    back->grad_input = bb_link_of(dy);
    back->grad_extra_input[0] = dy; /* the same: whoever adds to it takes care */
    back->n_grad_params[0] = 0;
    return back->ctx->status;
}

static bb_tensor *add_compute(const bb_fusible_op *op, const bb_op_context *c, bb_tensor *const *in,
                              int n) {
    (void)n;
    bb_tensor *x = bb_cast(in[0], c->dtype), *extra = bb_cast(in[1], c->dtype);
    return check_extra(op->ctx, x, extra) ? NULL : bb_add(x, extra);
}

const bb_fusible_kind bb_kind_add_extra_input = {.name = "AddExtraInput",
                                                 .extra_input = true,
                                                 .forward = add_forward,
                                                 .backward = add_backward,
                                                 .compute = add_compute};

bb_fusible_op *bb_fusible_add_extra_input(bb_context *ctx) {
    return bb_fusible_new(ctx, &bb_kind_add_extra_input, NULL, NULL, 0, 0);
}

static bb_status extra_forward(bb_fusible_run *run) {
    bb_tensor *x = bb_link_tensor(run->input, run->c[0].dtype);
    run->output = bb_link_of(x);
    run->extra_output[0] = x;
    return run->ctx->status;
}

static bb_status extra_backward(bb_fusible_back *back) {
    bb_dtype dtype = back->c[0].dtype;
    bb_tensor *dy = bb_link_tensor(back->grad_output, dtype);
    bb_tensor *extra = bb_cast(back->grad_extra_output[0], dtype);
    back->grad_input = bb_link_of(extra ? bb_add(dy, extra) : dy);
    back->n_grad_params[0] = 0;
    return back->ctx->status;
}

const bb_fusible_kind bb_kind_make_extra_output = {.name = "MakeExtraOutput",
                                                   .extra_output = true,
                                                   .forward = extra_forward,
                                                   .backward = extra_backward,
                                                   .compute = same};

bb_fusible_op *bb_fusible_make_extra_output(bb_context *ctx) {
    return bb_fusible_new(ctx, &bb_kind_make_extra_output, NULL, NULL, 0, 0);
}
