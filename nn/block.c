/* One pre-norm transformer block: h = x + attention(norm(x)); h + mlp(norm(h)). Each half ends in a
 * scope, so that at any time only what backward needs and the residual stream hold storage. */
#include "nn/internal.h"

bb_nn_rms_norm bb_nn_stream_norm_new(bb_params *params, const char *name,
                                     const bb_nn_config *config) {
    return config->zero_centered_norm
               ? bb_nn_rms_norm_zero_centered_new(params, name, config->dim, config->norm_eps, 0)
               : bb_nn_rms_norm_new(params, name, config->dim, config->norm_eps, 0);
}

bb_nn_block bb_nn_block_new(bb_params *params, const char *name, const bb_nn_config *config) {
    char prefix[BB_NAME_BYTES];
    bb_nn_block layer = {.name = NULL};
    if (!bb_nn_given(bb_nn_context(params), config, "bb_nn_block_new", "config")) return layer;
    layer.attn_norm =
        bb_nn_stream_norm_new(params, bb_nn_join(params, prefix, name, "attn_norm"), config);
    layer.attn = bb_nn_attention_new(params, bb_nn_join(params, prefix, name, "attn"), config);
    layer.mlp_norm =
        bb_nn_stream_norm_new(params, bb_nn_join(params, prefix, name, "mlp_norm"), config);
    layer.mlp = bb_nn_mlp_new(params, bb_nn_join(params, prefix, name, "mlp"), config);
    layer.name = bb_nn_layer_name(params, name);
    return layer;
}

bb_tensor *bb_nn_block_forward(const bb_nn_block *layer, bb_tensor *x, bb_nn_layer_cache *cache,
                               int64_t position) {
    bb_context *ctx = bb_context_of(x);
    if (!bb_nn_given(ctx, layer, "bb_nn_block_forward", "layer")) return NULL;
    bb_scope outer = bb_scope_begin(ctx), scope = outer;
    bb_module here;
    bb_nn_enter(ctx, &here, "TransformerBlock", layer->name);
    bb_tensor *h = bb_nn_attention_forward(
        &layer->attn, bb_nn_rms_norm_forward(&layer->attn_norm, x), cache, position);
    h = bb_scope_end(ctx, scope, bb_add(x, h));
    scope = bb_scope_begin(ctx);
    bb_tensor *y = bb_nn_mlp_forward(&layer->mlp, bb_nn_rms_norm_forward(&layer->mlp_norm, h));
    y = bb_scope_end(ctx, scope, bb_add(h, y));
    bb_module_leave(ctx, &here);
    return bb_scope_end(ctx, outer, y);
}
