/* A Llama-style transformer (Touvron et al., 2023): embedding, pre-norm blocks (block.c), norm,
 * head. Named models are in config.c, Hugging Face's names for the parameters in names.c. */
#include <stdio.h>

#include "autograd/autograd.h"
#include "nn/internal.h"

static bool add_layers(bb_nn_transformer *model) {
    const bb_nn_config *c = &model->config;
    bb_params *params = model->params;
    char name[BB_NAME_BYTES];
    model->embed = bb_nn_embedding_new(params, "embed", c->vocab, c->dim, BB_NN_STD);
    for (int64_t i = 0; i < c->layers && !params->ctx->status; i++) {
        bb_nn_config layer = *c;
        if (i < c->window_from) layer.window = 0;
        snprintf(name, sizeof name, "blocks.%lld", (long long)i);
        model->blocks[i] = bb_nn_block_new(params, name, &layer);
    }
    model->norm = bb_nn_stream_norm_new(params, "norm", c);
    if (c->tie_embeddings)
        model->head = (bb_nn_linear){model->embed.weight, NULL, bb_nn_layer_name(params, "head")};
    else
        model->head = bb_nn_linear_new(params, "head", c->dim, c->vocab, false, BB_NN_STD);
    return bb_params_build(params) == BB_OK;
}

bb_nn_transformer *bb_nn_transformer_new(bb_context *ctx, bb_device device,
                                         const bb_nn_config *config) {
    if (!ctx || !config) return NULL;
    bb_nn_config c = *config;
    if (bb_nn_config_check(ctx, &c)) return NULL;
    bb_nn_transformer *model = bb_nn_allocate(ctx, sizeof *model);
    if (!model) return NULL;
    *model = (bb_nn_transformer){.config = c};
    model->params = bb_params_new(ctx, device, c.dtype);
    model->blocks = bb_nn_allocate(ctx, (size_t)c.layers * sizeof *model->blocks);
    if (!model->params || !model->blocks || !add_layers(model)) return NULL;
    return !c.fused_chain || bb_nn_transformer_fuse(model) == BB_OK ? model : NULL;
}

bb_status bb_nn_transformer_fuse(bb_nn_transformer *model) {
    if (!model) return BB_ERR_ARGUMENT;
    if (!model->stream) model->stream = bb_nn_stream_new(model);
    return model->params->ctx->status;
}

static bool check_ids(bb_nn_transformer *model, const bb_tensor *ids) {
    bb_context *ctx = model->params->ctx;
    if (!ids || ctx->status) return false;
    if (ids->rank == 2) return true;
    bb_fail(ctx, BB_ERR_ARGUMENT, "transformer: ids: expected (B, T), got rank %d", ids->rank);
    return false;
}

/* The rows x of `ids`, those of the padding id without history. */
static bb_tensor *stop_at_padding(const bb_nn_transformer *model, bb_tensor *ids, bb_tensor *x) {
    bb_tensor *other = bb_add_scalar(bb_cast(ids, BB_F32), -(double)model->config.padding);
    return bb_where(bb_unsqueeze(bb_cast(other, BB_BOOL), -1), x, bb_detach(x));
}

/* Times embed_scale as the dtype has it: a narrow model was trained with the rounded number. */
static bb_tensor *embed(const bb_nn_transformer *model, bb_tensor *ids) {
    bb_tensor *x = bb_nn_embedding_forward(&model->embed, ids);
    if (model->config.has_padding && bb_requires_grad(x)) x = stop_at_padding(model, ids, x);
    if (!x || model->config.embed_scale == 0) return x;
    double scale = bb_item(bb_scalar(x->ctx, (bb_dtype)x->dtype, model->config.embed_scale));
    return bb_mul_scalar(x, scale);
}

static bb_tensor *run_block(void *user, bb_tensor *const *inputs, int n) {
    (void)n;
    return bb_nn_block_forward(user, inputs[0], NULL, 0);
}

bool bb_nn_offload_begin(bb_nn_transformer *model, int64_t block) {
    bb_context *ctx = model->params->ctx;
    const bb_offload_options o = {model->offload_min_elements};
    return ctx->grad_enabled && block < model->offload_blocks && !bb_offload_begin(ctx, &o);
}

void bb_nn_offload_end(bb_nn_transformer *model, int64_t block, bool begun) {
    bb_context *ctx = model->params->ctx;
    if (begun) bb_offload_end(ctx);
    /* That block gave the copies time. */
    if (ctx->grad_enabled && block == model->offload_blocks) bb_offload_settle(ctx);
}

/* One block with a tape, in the way that the model asks for. */
static bb_tensor *train_block(bb_nn_transformer *model, int64_t i, bb_tensor *x) {
    bb_context *ctx = model->params->ctx;
    bool offload = bb_nn_offload_begin(model, i);
    bb_tensor *y = model->recompute ? bb_recompute(ctx, run_block, &model->blocks[i], &x, 1)
                                    : bb_nn_block_forward(&model->blocks[i], x, NULL, 0);
    bb_nn_offload_end(model, i, offload);
    return y;
}

/* The shared walk; cache NULL: training. What goes into a block is dropped once its output is
 * there. */
static bb_tensor *forward(bb_nn_transformer *model, bb_tensor *ids, bb_nn_cache *cache) {
    bb_context *ctx = model->params->ctx;
    int64_t position = cache ? cache->length : 0;
    bb_scope scope = bb_scope_begin(ctx);
    bb_tensor *x = embed(model, ids);
    /* A recorded graph has layers where a reader looks for them. */
    if (model->stream && !cache && !model->recompute && !bb_is_recorded(ctx)) {
        x = bb_nn_stream_forward(model, x);
        return bb_scope_end(ctx, scope, bb_nn_linear_forward(&model->head, x));
    }
    for (int64_t i = 0; i < model->config.layers; i++) {
        bb_tensor *y = !cache && ctx->grad_enabled
                           ? train_block(model, i, x)
                           : bb_nn_block_forward(&model->blocks[i], x,
                                                 cache ? &cache->layer[i] : NULL, position);
        bb_drop(x);
        x = y;
    }
    x = bb_nn_linear_forward(&model->head, bb_nn_rms_norm_forward(&model->norm, x));
    return bb_scope_end(ctx, scope, x);
}

bb_tensor *bb_nn_transformer_forward(bb_nn_transformer *model, bb_tensor *ids) {
    return model && check_ids(model, ids) ? forward(model, ids, NULL) : NULL;
}

bb_tensor *bb_nn_transformer_loss(bb_nn_transformer *model, bb_tensor *ids, bb_tensor *targets) {
    if (!model || !check_ids(model, ids) || !targets) return NULL;
    bb_context *ctx = model->params->ctx;
    bb_scope scope = bb_scope_begin(ctx);
    bb_tensor *logits = forward(model, ids, NULL);
    return bb_scope_end(ctx, scope, bb_cross_entropy(logits, targets, -100, BB_REDUCE_MEAN));
}

/* ---- Sampling ------------------------------------------------------------------------------- */

bb_nn_cache *bb_nn_cache_new(bb_nn_transformer *model, int64_t batch, int64_t max) {
    if (!model) return NULL;
    bb_context *ctx = model->params->ctx;
    const bb_nn_config *c = &model->config;
    if (ctx->status) return NULL;
    if (batch < 1 || max < 1) {
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "bb_nn_cache_new: batch and max: expected 1 or more, got %lld and %lld",
                (long long)batch, (long long)max);
        return NULL;
    }
    bb_nn_cache *cache = bb_nn_allocate(ctx, sizeof *cache);
    bb_nn_layer_cache *layer = bb_nn_allocate(ctx, (size_t)c->layers * sizeof *layer);
    if (!cache || !layer) return NULL;
    *cache = (bb_nn_cache){layer, batch, max, 0};
    bb_shape shape = BB_SHAPE(batch, c->kv_heads, max, c->head_dim);
    for (int64_t i = 0; i < c->layers; i++) {
        layer[i].keys = bb_tensor_context(ctx, model->params->device, c->dtype, &shape);
        layer[i].values = bb_tensor_context(ctx, model->params->device, c->dtype, &shape);
        if (!layer[i].keys || !layer[i].values) return NULL;
    }
    return cache;
}

void bb_nn_cache_reset(bb_nn_cache *cache) {
    if (cache) cache->length = 0;
}

bb_tensor *bb_nn_transformer_next(bb_nn_transformer *model, bb_nn_cache *cache, bb_tensor *ids) {
    if (!model || !cache || !check_ids(model, ids)) return NULL;
    bb_context *ctx = model->params->ctx;
    int64_t length = ids->size[1];
    if (ids->size[0] != cache->batch || length < 1 || length > cache->max - cache->length) {
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "transformer: ids: expected (%lld, 1 to %lld) for this cache (%lld of %lld "
                "positions used), "
                "got (%lld, %lld)",
                (long long)cache->batch, (long long)(cache->max - cache->length),
                (long long)cache->length, (long long)cache->max, (long long)ids->size[0],
                (long long)length);
        return NULL;
    }
    bool before = bb_set_grad_enabled(ctx, false);
    bb_tensor *logits = forward(model, ids, cache);
    bb_set_grad_enabled(ctx, before);
    if (logits) cache->length += length;
    return logits;
}
