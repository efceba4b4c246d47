/* Clipping by the norm over all gradients: min(1, max_norm / (norm + 1e-6)) is left for the
 * optimizer step, which multiplies each gradient by it as it reads it. The 1e-6 is PyTorch's. */
#include <math.h>

#include "nn/internal.h"

double bb_clip_grad_norm(bb_params *params, double max_norm) {
    if (!params || params->ctx->status) return NAN;
    bb_context *ctx = params->ctx;
    if (!(max_norm > 0)) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "bb_clip_grad_norm: max_norm: expected more than 0, got %g",
                max_norm);
        return NAN;
    }
    if (bb_params_settle(params, "bb_clip_grad_norm")) return NAN;
    bb_scope scope = bb_scope_begin(ctx);
    double norm = sqrt(bb_item(bb_sum_squares(params->grads)));
    bb_scope_end(ctx, scope, NULL);
    if (ctx->status) return NAN;
    if (!isfinite(norm)) {
        bb_fail(ctx, BB_ERR_STATE, "bb_clip_grad_norm: gradients: expected a finite norm, got %g",
                norm);
        return norm;
    }
    double scale = max_norm / (norm + 1e-6);
    params->clipped = scale < 1 && bb_nn_write_number(params->grad_scale, scale) == BB_OK;
    return norm;
}
