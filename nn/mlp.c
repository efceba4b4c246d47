/* SwiGLU and GeGLU (Shazeer, "GLU variants improve transformer", 2020): down(act(gate x) * up x).
 */
#include "nn/internal.h"

bb_nn_mlp bb_nn_mlp_new(bb_params *params, const char *name, const bb_nn_config *config) {
    char prefix[BB_NAME_BYTES];
    bb_nn_mlp layer = {.name = NULL};
    if (!bb_nn_given(bb_nn_context(params), config, "bb_nn_mlp_new", "config")) return layer;
    layer.activation = config->activation;
    bool bias = config->mlp_bias;
    int64_t dim = config->dim, hidden = config->hidden;
    double std = BB_NN_STD;
    layer.gate =
        bb_nn_linear_new(params, bb_nn_join(params, prefix, name, "gate"), dim, hidden, bias, std);
    layer.up =
        bb_nn_linear_new(params, bb_nn_join(params, prefix, name, "up"), dim, hidden, bias, std);
    layer.down = bb_nn_linear_new(params, bb_nn_join(params, prefix, name, "down"), hidden, dim,
                                  bias, bb_nn_residual_std(config));
    layer.name = bb_nn_layer_name(params, name);
    return layer;
}

bb_tensor *bb_nn_mlp_gate(const bb_nn_mlp *layer, bb_tensor *x) {
    bb_tensor *gate = bb_nn_linear_forward(&layer->gate, x);
    bb_tensor *up = bb_nn_linear_forward(&layer->up, x);
    bb_gelu_form form = layer->activation == BB_NN_GELU ? BB_GELU_ERF : BB_GELU_TANH;
    return layer->activation == BB_NN_SILU ? bb_swiglu(gate, up) : bb_mul(bb_gelu(gate, form), up);
}

bb_tensor *bb_nn_mlp_forward(const bb_nn_mlp *layer, bb_tensor *x) {
    bb_context *ctx = bb_context_of(x);
    if (!bb_nn_given(ctx, layer, "bb_nn_mlp_forward", "layer")) return NULL;
    bb_scope scope = bb_scope_begin(ctx);
    bb_module here;
    bb_nn_enter(ctx, &here, "MLP", layer->name);
    bb_tensor *y = bb_nn_mlp_gate(layer, x);
    y = bb_nn_linear_forward(&layer->down, y);
    bb_module_leave(ctx, &here);
    return bb_scope_end(ctx, scope, y);
}
