/* SwiGLU (Shazeer, "GLU variants improve transformer", 2020): down(silu(gate x) * up x). */
#include "nn/internal.h"

bb_nn_mlp bb_nn_mlp_new(bb_params *params, const char *name, const bb_nn_config *config) {
    char prefix[BB_NAME_BYTES];
    bb_nn_mlp layer;
    int64_t dim = config->dim, hidden = config->hidden;
    double std = BB_NN_STD;
    layer.gate =
        bb_nn_linear_new(params, bb_nn_join(params, prefix, name, "gate"), dim, hidden, false, std);
    layer.up =
        bb_nn_linear_new(params, bb_nn_join(params, prefix, name, "up"), dim, hidden, false, std);
    layer.down = bb_nn_linear_new(params, bb_nn_join(params, prefix, name, "down"), hidden, dim,
                                  false, bb_nn_residual_std(config));
    layer.name = bb_nn_layer_name(params, name);
    return layer;
}

bb_tensor *bb_nn_mlp_forward(const bb_nn_mlp *layer, bb_tensor *x) {
    bb_context *ctx = bb_context_of(x);
    bb_scope scope = bb_scope_begin(ctx);
    bb_module here;
    bb_nn_enter(ctx, &here, "MLP", layer->name);
    bb_tensor *gate = bb_nn_linear_forward(&layer->gate, x);
    bb_tensor *up = bb_nn_linear_forward(&layer->up, x);
    bb_tensor *y = bb_nn_linear_forward(&layer->down, bb_swiglu(gate, up));
    bb_module_leave(ctx, &here);
    return bb_scope_end(ctx, scope, y);
}
