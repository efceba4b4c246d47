/* The layer around linear (ops/linear.c): y = x weight^T + bias. */
#include <math.h>

#include "nn/internal.h"

bb_nn_linear bb_nn_linear_new(bb_params *params, const char *name, int64_t in, int64_t out,
                              bool bias, double std) {
    if (std == 0) std = in > 0 ? 1 / sqrt((double)in) : 1;
    bb_nn_linear layer = {bb_nn_add(params, name, "weight", BB_SHAPE(out, in), BB_INIT_NORMAL, std),
                          NULL, bb_nn_layer_name(params, name)};
    if (bias) layer.bias = bb_nn_add(params, name, "bias", BB_SHAPE(out), BB_INIT_ZEROS, 0);
    return layer;
}

bb_tensor *bb_nn_linear_forward(const bb_nn_linear *layer, bb_tensor *x) {
    bb_context *ctx = bb_context_of(x);
    if (!bb_nn_given(ctx, layer, "bb_nn_linear_forward", "layer")) return NULL;
    bb_module here;
    bb_nn_enter(ctx, &here, "Linear", layer->name);
    bb_tensor *y = bb_linear(x, layer->weight, layer->bias);
    bb_module_leave(ctx, &here);
    return y;
}
