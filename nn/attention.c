/* Causal grouped-query attention (Ainslie et al., "GQA", EMNLP 2023). Queries and keys stay side by
 * side as long as they can: one projection makes all heads, one RMSNormImpl with a scale per head
 * takes the place of a query norm and a key norm, one RoPE turns both. Fused parts: ops/rms_norm.c,
 * ops/rope.c, ops/sdpa.c. */
#include "nn/internal.h"

bb_nn_attention bb_nn_attention_new(bb_params *params, const char *name,
                                    const bb_nn_config *config) {
    char prefix[BB_NAME_BYTES];
    if (!bb_nn_given(bb_nn_context(params), config, "bb_nn_attention_new", "config"))
        return (bb_nn_attention){.name = NULL};
    int64_t heads = config->heads, kv_heads = config->kv_heads, head_dim = config->head_dim;
    bb_nn_attention layer = {.heads = heads,
                             .kv_heads = kv_heads,
                             .head_dim = head_dim,
                             .window = config->window,
                             .rope_base = config->rope_base};
    layer.qkv = bb_nn_linear_new(params, bb_nn_join(params, prefix, name, "qkv"), config->dim,
                                 (heads + 2 * kv_heads) * head_dim, config->qkv_bias, BB_NN_STD);
    if (config->qk_norm)
        layer.qk_norm = bb_nn_rms_norm_new(params, bb_nn_join(params, prefix, name, "qk_norm"),
                                           head_dim, config->norm_eps, heads + kv_heads);
    if (config->qk_norm_shared) {
        layer.q_norm = bb_nn_rms_norm_new(params, bb_nn_join(params, prefix, name, "q_norm"),
                                          head_dim, config->norm_eps, 0);
        layer.k_norm = bb_nn_rms_norm_new(params, bb_nn_join(params, prefix, name, "k_norm"),
                                          head_dim, config->norm_eps, 0);
    }
    layer.out = bb_nn_linear_new(params, bb_nn_join(params, prefix, name, "out"), heads * head_dim,
                                 config->dim, config->out_bias, bb_nn_residual_std(config));
    layer.name = bb_nn_layer_name(params, name);
    return layer;
}

/* The two shared scales as one for all heads, (heads + kv_heads, 1, D). */
static bb_tensor *shared_scale(const bb_nn_attention *layer) {
    bb_tensor *one[] = {layer->q_norm.weight, layer->k_norm.weight}, *all[2];
    for (int i = 0; i < 2; i++)
        all[i] = bb_expand(one[i],
                           BB_SHAPE(i == 0 ? layer->heads : layer->kv_heads, 1, layer->head_dim));
    return bb_cat(all, 2, 0);
}

static bb_tensor *normalize(const bb_nn_attention *layer, bb_tensor *qk) {
    if (layer->qk_norm.weight) qk = bb_nn_rms_norm_forward(&layer->qk_norm, qk);
    if (layer->q_norm.weight) qk = bb_rms_norm(qk, shared_scale(layer), layer->q_norm.eps);
    return qk;
}

/* Puts rows (B, kv_heads, T, D) at `position` of the cache and returns what the queries of these
 * rows see of it: all of the used part, or as much as `window` lets the first of them see. */
static bb_tensor *remember(bb_tensor *cache, bb_tensor *rows, int64_t position, int64_t window) {
    if (!rows) return NULL;
    int64_t length = rows->size[2];
    bb_tensor *slot = bb_narrow(cache, 2, position, length);
    if (!slot || bb_copy_into(rows, slot) != BB_OK) return NULL;
    bb_tensor_changed(slot);
    int64_t first = window > 0 && position >= window ? position - window + 1 : 0;
    return bb_narrow(cache, 2, first, position + length - first);
}

bb_tensor *bb_nn_attention_mix(const bb_nn_attention *layer, bb_tensor *x, bb_nn_layer_cache *cache,
                               int64_t position) {
    int64_t batch = x->size[0], length = x->size[1];
    int64_t heads = layer->heads, kv_heads = layer->kv_heads, head_dim = layer->head_dim;
    bb_tensor *qkv = bb_nn_linear_forward(&layer->qkv, x);
    qkv = bb_reshape(qkv, BB_SHAPE(batch, length, heads + 2 * kv_heads, head_dim));
    qkv = bb_transpose(qkv, 1, 2); /* (B, all heads, T, D) */
    bb_tensor *qk = bb_narrow(qkv, 1, 0, heads + kv_heads);
    /* A copy, so that backward does not hold all of qkv's storage for the sake of the values. */
    bb_tensor *v = bb_contiguous(bb_narrow(qkv, 1, heads + kv_heads, kv_heads));
    qk = bb_rope(normalize(layer, qk),
                 &(bb_rope_attrs){.base = layer->rope_base, .scale = 1, .offset = position});
    bb_tensor *q = bb_narrow(qk, 1, 0, heads);
    bb_tensor *k = bb_narrow(qk, 1, heads, kv_heads);
    if (cache) {
        k = remember(cache->keys, k, position, layer->window);
        v = remember(cache->values, v, position, layer->window);
    }
    bb_tensor *y =
        bb_sdpa(q, k, v, NULL, &(bb_sdpa_attrs){.is_causal = true, .window_size = layer->window});
    return bb_reshape(bb_transpose(y, 1, 2), BB_SHAPE(batch, length, heads * head_dim));
}

bb_tensor *bb_nn_attention_forward(const bb_nn_attention *layer, bb_tensor *x,
                                   bb_nn_layer_cache *cache, int64_t position) {
    bb_context *ctx = bb_context_of(x);
    if (!x || ctx->status) return NULL;
    if (!bb_nn_given(ctx, layer, "bb_nn_attention_forward", "layer")) return NULL;
    if (x->rank != 3) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "attention: x: expected (B, T, dim), got rank %d", x->rank);
        return NULL;
    }
    bb_scope scope = bb_scope_begin(ctx);
    bb_module here;
    bb_nn_enter(ctx, &here, "Attention", layer->name);
    bb_tensor *y = bb_nn_attention_mix(layer, x, cache, position);
    y = bb_nn_linear_forward(&layer->out, y);
    bb_module_leave(ctx, &here);
    return bb_scope_end(ctx, scope, y);
}
