/* The residual stream of a transformer as chains: each half of a block ends in
 *
 *     [h + projection] -> the stream    [norm of that] -> what the next half reads
 *
 * which is one node: the product, then addition and norm in one pass over the stream, and backward
 * the norm's gradient and the stream's in one. The last norm is the model's. */
#include "nn/fusible/internal.h"

typedef struct bb_nn_block_tails {
    bb_chain *attn, *mlp;
} bb_nn_block_tails;

struct bb_nn_stream {
    bb_nn_block_tails *block;
};

/* projection, addition, the stream, norm. */
static bb_chain *tail(bb_params *params, const char *name, const bb_nn_linear *projection,
                      const bb_nn_rms_norm *norm) {
    bb_context *ctx = params->ctx;
    bb_chain *chain = bb_chain_new(ctx, name);
    bb_fusible_norm_options o = {
        .eps = norm->eps, .no_eps = norm->eps == 0, .zero_centered_gamma = norm->zero_centered};
    bb_chain_append(chain, bb_fusible_linear_of(params, projection->weight));
    if (projection->bias) bb_chain_append(chain, bb_fusible_bias_of(params, projection->bias));
    bb_chain_append(chain, bb_fusible_add_extra_input(ctx));
    bb_chain_append(chain, bb_fusible_make_extra_output(ctx));
    bb_chain_append(chain, bb_fusible_rms_norm_of(params, norm->weight, &o));
    return ctx->status ? NULL : chain;
}

bb_nn_stream *bb_nn_stream_new(bb_nn_transformer *model) {
    bb_params *params = model->params;
    bb_context *ctx = params->ctx;
    int64_t layers = model->config.layers;
    bb_nn_stream *stream = bb_nn_allocate(ctx, sizeof *stream);
    if (!stream) return NULL;
    stream->block = bb_nn_allocate(ctx, (size_t)layers * sizeof *stream->block);
    for (int64_t i = 0; i < layers && !ctx->status; i++) {
        const bb_nn_block *b = &model->blocks[i];
        const bb_nn_rms_norm *next =
            i + 1 < layers ? &model->blocks[i + 1].attn_norm : &model->norm;
        stream->block[i].attn = tail(params, "attn", &b->attn.out, &b->mlp_norm);
        stream->block[i].mlp = tail(params, "mlp", &b->mlp.down, next);
    }
    return ctx->status ? NULL : stream;
}

bb_tensor *bb_nn_stream_forward(bb_nn_transformer *model, bb_tensor *x) {
    bb_context *ctx = model->params->ctx;
    const bb_nn_stream *stream = model->stream;
    bool offload = bb_nn_offload_begin(model, 0);
    bb_tensor *norm = bb_nn_rms_norm_forward(&model->blocks[0].attn_norm, x);
    /* A model whose layers are copies in another dtype: the chains cast to it themselves. */
    bb_dtype dtype = bb_dtype_of(x);
    bool cast = dtype != model->params->dtype;
    for (int64_t i = 0; i < model->config.layers && norm; i++) {
        const bb_nn_block *b = &model->blocks[i];
        bb_scope scope = bb_scope_begin(ctx);
        if (i > 0) offload = bb_nn_offload_begin(model, i);
        bb_chain_set_autocast(stream->block[i].attn, cast, dtype);
        bb_chain_set_autocast(stream->block[i].mlp, cast, dtype);
        bb_tensor *mixed = bb_nn_attention_mix(&b->attn, norm, NULL, 0), *middle, *end;
        mixed = bb_chain_forward_with(stream->block[i].attn, mixed, &x, 1, &middle, 1);
        mixed = mixed ? bb_nn_mlp_gate(&b->mlp, mixed) : NULL;
        bb_tensor *next = bb_chain_forward_with(stream->block[i].mlp, mixed, &middle, 1, &end, 1);
        bb_scope_end_many(ctx, scope, (bb_tensor *[]){next, end}, 2);
        bb_nn_offload_end(model, i, offload);
        bb_drop(x), bb_drop(norm);
        x = end, norm = next;
    }
    return norm;
}
