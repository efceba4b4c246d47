/* Activation checkpointing: a segment leaves one node that keeps its inputs; the walk runs the
 * segment again, with the random numbers of the first time, and takes the gradients of that run. */
#include "autograd/tape.h"

typedef struct recompute_attrs {
    bb_segment_fn fn;
    void *user;
    bb_rng rng;
} recompute_attrs;

static bb_status infer(bb_call *call) {
    return bb_fail(call->ctx, BB_ERR_ARGUMENT,
                   "recompute: expected to be called through bb_recompute");
}

static bb_status run_again(void *user, bb_tensor *const *inputs, int n,
                           bb_tensor *outputs[BB_MAX_OUTPUTS]) {
    const recompute_attrs *a = user;
    outputs[0] = a->fn(a->user, inputs, n);
    return BB_OK;
}

static bb_status gradient(const bb_grad_call *grad) {
    bb_context *ctx = grad->call->ctx;
    recompute_attrs a = *(const recompute_attrs *)grad->call->attrs;
    bb_rng now = bb_get_rng(ctx);
    bb_set_rng(ctx, a.rng);
    /* grad mode is on exactly when the outer walk creates a graph */
    walk w = {.create_graph = ctx->grad_enabled, .leaves = bb_tape_of(ctx)->leaves};
    bb_status status = bb_rerun(bb_tape_of(ctx), &w, run_again, &a, grad);
    bb_set_rng(ctx, now);
    return status;
}

const bb_op bb_op_recompute = {
    .name = "recompute",
    .doc = "a segment that backward runs again",
    .inputs = {"inputs"},
    .outputs = {"output"},
    .attrs_bytes = sizeof(recompute_attrs),
    .variadic = true,
    .saves_inputs = 1,
    .infer = infer,
    .gradient = gradient,
};

bb_tensor *bb_recompute(bb_context *ctx, bb_segment_fn fn, void *user, bb_tensor *const *inputs,
                        int n) {
    if (!ctx || ctx->status) return NULL;
    if (!fn || n < 0) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "bb_recompute: fn: expected a function and n >= 0 inputs");
        return NULL;
    }
    for (int i = 0; i < n; i++)
        if (!inputs[i] || !bb_tensor_usable(inputs[i])) {
            bb_fail(ctx, BB_ERR_ARGUMENT, "bb_recompute: inputs[%d]: expected a tensor, got NULL",
                    i);
            return NULL;
        }
    recompute_attrs a = {fn, user, bb_get_rng(ctx)};
    bool before = bb_set_grad_enabled(ctx, false);
    bb_scope scope = bb_scope_begin(ctx);
    bb_tensor *result = fn(user, inputs, n);
    bb_set_grad_enabled(ctx, before);
    if (!result) {
        bb_scope_end(ctx, scope, NULL);
        bb_fail(ctx, BB_ERR_STATE, "bb_recompute: fn: returned NULL");
        return NULL;
    }
    bb_tensor *out = bb_scope_end(ctx, scope, bb_detach_header(result));
    if (!out || !before || !bb_dtype_is_float((bb_dtype)out->dtype)) return out;
    bb_tape *tape = bb_tape_of(ctx);
    bb_call call = {.ctx = ctx,
                    .op = &bb_op_recompute,
                    .attrs = &a,
                    .device = (bb_device)out->device,
                    .n_in = n,
                    .n_out = 1,
                    .in = inputs,
                    .out = {out},
                    .needs_grad = true};
    return tape->recorder.record(&tape->recorder, &call) ? NULL : out;
}
