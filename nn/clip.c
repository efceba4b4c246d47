/* Clipping by the norm over all gradients: min(1, max_norm / (norm + 1e-6)) is left for the
 * optimizer step, which multiplies each gradient by it as it reads it. All of it happens on the
 * device, so it may stand in a captured step. The 1e-6 is PyTorch's. */
#include <math.h>

#include "nn/internal.h"

static bb_status clip(bb_params *params, double max_norm, const char *who) {
    if (!params) return BB_ERR_ARGUMENT;
    bb_context *ctx = params->ctx;
    if (ctx->status) return ctx->status;
    if (!(max_norm > 0))
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: max_norm: expected more than 0, got %g", who,
                       max_norm);
    if (bb_params_settle(params, who)) return ctx->status;
    bool former = bb_set_grad_enabled(ctx, false);
    bb_scope scope = bb_scope_begin(ctx);
    bb_tensor *norm = bb_reshape(bb_sqrt(bb_sum_squares(params->grads)), BB_SHAPE(1));
    bb_status status = bb_assign(params->grad_norm, norm);
    /* 0 times a number that is not finite is NaN, which tells the optimizer to leave everything as
     * it is. */
    bb_tensor *scale =
        bb_clamp(bb_mul_scalar(bb_reciprocal(bb_add_scalar(norm, 1e-6)), max_norm), -INFINITY, 1);
    scale = bb_add(scale, bb_mul_scalar(norm, 0));
    if (!status) status = bb_assign(params->grad_scale, scale);
    bb_scope_end(ctx, scope, NULL);
    bb_set_grad_enabled(ctx, former);
    params->clipped = status == BB_OK;
    return status;
}

bb_status bb_clip_grads(bb_params *params, double max_norm) {
    return clip(params, max_norm, "bb_clip_grads");
}

double bb_grad_norm(bb_params *params) {
    return params && params->grad_norm ? bb_item(params->grad_norm) : NAN;
}

double bb_clip_grad_norm(bb_params *params, double max_norm) {
    if (clip(params, max_norm, "bb_clip_grad_norm")) return NAN;
    double norm = bb_grad_norm(params);
    if (bb_error(params->ctx) == BB_OK && !isfinite(norm)) {
        params->clipped = false;
        bb_fail(params->ctx, BB_ERR_STATE,
                "bb_clip_grad_norm: gradients: expected a finite norm, got %g", norm);
    }
    return norm;
}
