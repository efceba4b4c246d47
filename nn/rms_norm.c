/* The layer around RMSNormImpl (ops/rms_norm.c): it owns the scale. */
#include "nn/internal.h"

bb_nn_rms_norm bb_nn_rms_norm_new(bb_params *params, const char *name, int64_t dim, double eps,
                                  int64_t n_heads) {
    bb_shape shape = n_heads > 0 ? BB_SHAPE(n_heads, 1, dim) : BB_SHAPE(dim);
    return (bb_nn_rms_norm){bb_nn_add(params, name, "weight", shape, BB_INIT_ONES, 0), eps, false,
                            bb_nn_layer_name(params, name)};
}

bb_nn_rms_norm bb_nn_rms_norm_zero_centered_new(bb_params *params, const char *name, int64_t dim,
                                                double eps, int64_t n_heads) {
    bb_shape shape = n_heads > 0 ? BB_SHAPE(n_heads, 1, dim) : BB_SHAPE(dim);
    return (bb_nn_rms_norm){bb_nn_add(params, name, "weight", shape, BB_INIT_ZEROS, 0), eps, true,
                            bb_nn_layer_name(params, name)};
}

bb_tensor *bb_nn_rms_norm_forward(const bb_nn_rms_norm *layer, bb_tensor *x) {
    bb_context *ctx = bb_context_of(x);
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
