/* The layer around RMSNormImpl (ops/rms_norm.c): it owns the scale. */
#include <math.h>

#include "nn/internal.h"

static bb_nn_rms_norm make(bb_params *params, const char *name, int64_t dim, double eps,
                           int64_t n_heads, bool zero_centered) {
    bb_shape shape = n_heads > 0 ? BB_SHAPE(n_heads, 1, dim) : BB_SHAPE(dim);
    if (params && !(eps >= 0 && isfinite(eps)))
        bb_fail(params->ctx, BB_ERR_ARGUMENT,
                "RMSNorm %s: eps: expected a finite number >= 0, got %g", name, eps);
    if (params && n_heads < 0)
        bb_fail(params->ctx, BB_ERR_ARGUMENT, "RMSNorm %s: n_heads: expected 0 or more, got %lld",
                name, (long long)n_heads);
    bb_init init = zero_centered ? BB_INIT_ZEROS : BB_INIT_ONES;
    return (bb_nn_rms_norm){bb_nn_add(params, name, "weight", shape, init, 0), eps, zero_centered,
                            bb_nn_layer_name(params, name)};
}

bb_nn_rms_norm bb_nn_rms_norm_new(bb_params *params, const char *name, int64_t dim, double eps,
                                  int64_t n_heads) {
    return make(params, name, dim, eps, n_heads, false);
}

bb_nn_rms_norm bb_nn_rms_norm_zero_centered_new(bb_params *params, const char *name, int64_t dim,
                                                double eps, int64_t n_heads) {
    return make(params, name, dim, eps, n_heads, true);
}

bb_tensor *bb_nn_rms_norm_forward(const bb_nn_rms_norm *layer, bb_tensor *x) {
    bb_context *ctx = bb_context_of(x);
    if (!bb_nn_given(ctx, layer, "bb_nn_rms_norm_forward", "layer")) return NULL;
    bb_tensor *weight = layer->weight;
    bb_module here;
    bb_nn_enter(ctx, &here, "RMSNorm", layer->name);
    if (layer->zero_centered) {
        if (weight && bb_dtype_of(weight) != BB_F64) weight = bb_cast(weight, BB_F32);
        weight = bb_add_scalar(weight, 1);
    }
    bb_tensor *y = bb_rms_norm(x, weight, layer->eps);
    bb_module_leave(ctx, &here);
    return y;
}
