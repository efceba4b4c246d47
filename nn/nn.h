/* Bobbin nn: parameters, layers, a Llama-style transformer, optimizers, learning-rate schedules.
 *
 * A layer is a small struct by value: the handles of its parameters and a few numbers. Its `_new`
 * adds the parameters to a bb_params set, its `_forward` calls ops (ops/ops.h) and is
 * differentiated by the tape (autograd/autograd.h).
 *
 *     bb_params *params = bb_params_new(ctx, BB_CPU, BB_F32);
 *     bb_nn_linear layer = bb_nn_linear_new(params, "layer", 3, 1, true, 0);
 *     bb_adamw *optimizer = bb_adamw_new(params, NULL);
 *     for (int i = 0; i < 100; i++) {
 *         bb_tensor *error = bb_sub(bb_nn_linear_forward(&layer, x), y);
 *         bb_backward(bb_mean_all(bb_square(error)), NULL);
 *         bb_adamw_step(optimizer, 1e-2);
 *         bb_params_zero_grad(params);
 *         bb_end_step(ctx);
 *     }
 *
 * The first optimizer of a set builds it: from there on the parameters have values.
 *
 * Parameter sets, models, caches and optimizers belong to the context: bb_close frees them, you
 * free nothing. Functions that return a pointer return NULL after an error (see core/core.h); a
 * layer made after an error holds NULL handles.
 *
 * A handle may be NULL, as a failed call gives it: then a call does nothing. Where what describes
 * (a config, a layer's struct) is NULL, that is an error. */
#ifndef BOBBIN_NN_H
#define BOBBIN_NN_H

#include "core/core.h"
#include "ops/attrs.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Parameters (nn/params.c) ---------------------------------------------------------------
 * A set of named tensors of one dtype on one device. bb_params_add hands out handles without
 * values; bb_params_build gives all of them their places in ONE block of values and ONE block of
 * gradients, each on a 64-byte boundary, and draws the initial values from the context's generator
 * in the order of adding. The handles stay valid. Parameters that weight decay applies to (rank >=
 * 2 and drawn from a normal distribution: matrices, not scales or biases) come first in the blocks.
 * Between parameters the blocks hold zeros, so flat operations (a step, a norm) may run over all of
 * it. */
typedef struct bb_params bb_params;
typedef enum bb_init { BB_INIT_ZEROS = 0, BB_INIT_ONES, BB_INIT_NORMAL } bb_init;
enum { BB_NAME_BYTES = 128 }; /* of a parameter's name, with its end */

BB_API bb_params *bb_params_new(bb_context *ctx, bb_device device,
                                bb_dtype dtype); /* an empty set */
/* Names look like "blocks.0.attn_norm.weight" and are unique in the set. std >= 0 is for
 * BB_INIT_NORMAL.
 */
BB_API bb_tensor *bb_params_add(bb_params *params, const char *name, bb_shape shape, bb_init init,
                                double std);
BB_API bb_status bb_params_build(bb_params *params); /* once; a second call does nothing */
BB_API int bb_params_count(const bb_params *params); /* tensors */
BB_API int64_t bb_params_elements(const bb_params *params);
BB_API bb_tensor *bb_params_at(const bb_params *params,
                               int index); /* in the order of adding; NULL: no such index */
BB_API const char *bb_params_name(const bb_params *params, int index);
BB_API bb_tensor *bb_params_find(const bb_params *params,
                                 const char *name); /* NULL: no such name */
/* Lists of bb_named, here and below, belong to the current step. */
BB_API const bb_named *bb_params_list(const bb_params *params, int *count);
/* The whole blocks, rank 1, the first bb_params_decayed elements with decay. NULL: not built yet.
 */
BB_API bb_tensor *bb_params_values(const bb_params *params);
BB_API bb_tensor *bb_params_grads(const bb_params *params);
BB_API int64_t bb_params_decayed(const bb_params *params);
/* The next backward writes gradients instead of adding to them. Costs nothing per element. A
 * gradient that was dropped (bb_drop) stands in its block again. */
BB_API void bb_params_zero_grad(bb_params *params);

/* ---- Layers --------------------------------------------------------------------------------
 * `name` is the prefix of the layer's parameters: "norm" gives "norm.weight"; "" gives "weight".
 * The field `name` is what a recorded graph calls the layer (io/io.h), its last part; NULL:
 * nothing.
 */

/* RMSNorm over the last axis (nn/rms_norm.c). Owns `weight` of ones: (dim), or with n_heads > 0
 * (n_heads, 1, dim) for inputs (..., n_heads, T, dim): one op for the norms of all query and key
 * heads. */
typedef struct bb_nn_rms_norm {
    bb_tensor *weight;
    double eps;
    bool zero_centered;
    const char *name;
} bb_nn_rms_norm;
BB_API bb_nn_rms_norm bb_nn_rms_norm_new(bb_params *params, const char *name, int64_t dim,
                                         double eps, int64_t n_heads);
/* The same with `weight` of zeros, which stands for a scale of 1 + weight: the sum is taken in f32
 * (f64 for f64), so that a narrow weight loses nothing near 1. */
BB_API bb_nn_rms_norm bb_nn_rms_norm_zero_centered_new(bb_params *params, const char *name,
                                                       int64_t dim, double eps, int64_t n_heads);
BB_API bb_tensor *bb_nn_rms_norm_forward(const bb_nn_rms_norm *layer, bb_tensor *x);

/* x weight^T + bias (nn/linear.c): weight (out, in) drawn from normal(0, std), std 0 meaning
 * 1/sqrt(in); bias zeros. */
typedef struct bb_nn_linear {
    bb_tensor *weight, *bias; /* bias NULL: none */
    const char *name;
} bb_nn_linear;
BB_API bb_nn_linear bb_nn_linear_new(bb_params *params, const char *name, int64_t in, int64_t out,
                                     bool bias, double std);
BB_API bb_tensor *bb_nn_linear_forward(const bb_nn_linear *layer, bb_tensor *x);

/* Rows of a (count, dim) table by integer index (nn/embedding.c); std 0 means 1. */
typedef struct bb_nn_embedding {
    bb_tensor *weight;
    const char *name;
} bb_nn_embedding;
BB_API bb_nn_embedding bb_nn_embedding_new(bb_params *params, const char *name, int64_t count,
                                           int64_t dim, double std);
BB_API bb_tensor *bb_nn_embedding_forward(const bb_nn_embedding *layer, bb_tensor *ids);

typedef enum bb_nn_activation { BB_NN_SILU = 0, BB_NN_GELU, BB_NN_GELU_TANH } bb_nn_activation;

/* What a transformer is. Zero kv_heads, head_dim, rope_base, norm_eps mean heads, dim/heads, 10000,
 * 1e-5; everything after `dtype` may stay zero, which is Llama. */
typedef struct bb_nn_config {
    int64_t vocab, dim, layers, heads, kv_heads, head_dim, hidden, max_seq;
    double rope_base, norm_eps;
    bool qk_norm;        /* RMSNorm with a scale per head on queries and keys */
    bool tie_embeddings; /* the head is the embedding table */
    bb_dtype dtype;
    bool qk_norm_shared; /* instead: one scale for all query heads, one for all key heads */
    bool qkv_bias, out_bias, mlp_bias;
    bool zero_centered_norm;     /* norms of the residual stream scale by 1 + weight */
    bb_nn_activation activation; /* of the gate */
    double embed_scale;          /* times each embedding, rounded to its dtype; 0: none */
    int64_t window;              /* a position sees itself and window - 1 before it; 0: all */
    int64_t window_from;         /* ... in this layer and those after it; the others see all */
    bool fused_chain; /* training runs the residual stream as chains of fusible ops (nn/fusible.h):
                         each projection with the addition and the norm that follow it. The same
                         model: parameters, names and files do not change. Blocks are offloaded as
                         without; `recompute` runs blocks without chains. */
    bool has_padding; /* looking up the id `padding` gives its embedding no gradient */
    int64_t padding;
} bb_nn_config;
/* "tiny", "small", "baby": f32, byte vocabulary. *batch (may be NULL) gets the batch size it is
 * trained with. */
BB_API bool bb_nn_config_named(const char *name, bb_nn_config *config, int64_t *batch);
/* Fills in the defaults and checks the rest; the error names the field. */
BB_API bb_status bb_nn_config_check(bb_context *ctx, bb_nn_config *config);

/* Keys and values of one layer's past positions, for sampling: (B, kv_heads, max, head_dim), the
 * first `length` used. */
typedef struct bb_nn_layer_cache {
    bb_tensor *keys, *values;
} bb_nn_layer_cache;

/* Causal grouped-query attention (nn/attention.c): one projection to all heads, [qk_norm], RoPE on
 * queries and keys at once, SDPA, one projection back. */
typedef struct bb_nn_attention {
    bb_nn_linear qkv, out;         /* qkv rows: queries, then keys, then values */
    bb_nn_rms_norm qk_norm;        /* weight NULL: none */
    bb_nn_rms_norm q_norm, k_norm; /* qk_norm_shared's; weight NULL: none */
    int64_t heads, kv_heads, head_dim, window;
    double rope_base;
    const char *name;
} bb_nn_attention;
BB_API bb_nn_attention bb_nn_attention_new(bb_params *params, const char *name,
                                           const bb_nn_config *config);
/* x (B, T, dim). cache NULL: positions 0..T-1. Otherwise the rows stand at `position` and after,
 * their keys and values are put into the cache, and attention sees all of [0, position + T); no
 * gradient. */
BB_API bb_tensor *bb_nn_attention_forward(const bb_nn_attention *layer, bb_tensor *x,
                                          bb_nn_layer_cache *cache, int64_t position);

/* SwiGLU (nn/mlp.c): down(activation(gate x) * up x). */
typedef struct bb_nn_mlp {
    bb_nn_linear gate, up, down;
    bb_nn_activation activation;
    const char *name;
} bb_nn_mlp;
BB_API bb_nn_mlp bb_nn_mlp_new(bb_params *params, const char *name, const bb_nn_config *config);
BB_API bb_tensor *bb_nn_mlp_forward(const bb_nn_mlp *layer, bb_tensor *x);

/* h = x + attention(norm(x)); h + mlp(norm(h)) (nn/block.c). */
typedef struct bb_nn_block {
    bb_nn_rms_norm attn_norm, mlp_norm;
    bb_nn_attention attn;
    bb_nn_mlp mlp;
    const char *name;
} bb_nn_block;
BB_API bb_nn_block bb_nn_block_new(bb_params *params, const char *name, const bb_nn_config *config);
BB_API bb_tensor *bb_nn_block_forward(const bb_nn_block *layer, bb_tensor *x,
                                      bb_nn_layer_cache *cache, int64_t position);

/* ---- The transformer (nn/transformer.c; names for files in nn/names.c) ----------------------- */

typedef struct bb_nn_stream bb_nn_stream;
typedef struct bb_nn_transformer {
    bb_nn_config config;
    bb_params *params;
    bb_nn_embedding embed;
    bb_nn_block *blocks; /* config.layers of them */
    bb_nn_rms_norm norm;
    bb_nn_linear head;    /* with tie_embeddings its weight is embed's */
    bb_nn_stream *stream; /* of config.fused_chain; NULL: none */
    bool recompute; /* keep only each block's input for backward and compute the rest again: less
                       memory, more time */
    int64_t offload_blocks; /* what the first so many blocks save for backward goes to the host's
                               memory (bb_offload_begin). Backward needs the last block's first:
                               leave that out. With recompute: each block's input */
    int64_t offload_min_elements; /* as in bb_offload_options */
} bb_nn_transformer;
/* A model of this configuration, which is checked. Its parameters have values once the set is built
 * (bb_params_build, or the first optimizer). */
BB_API bb_nn_transformer *bb_nn_transformer_new(bb_context *ctx, bb_device device,
                                                const bb_nn_config *config);
/* config.fused_chain for a model that is there. */
BB_API bb_status bb_nn_transformer_fuse(bb_nn_transformer *model);
BB_API bb_tensor *bb_nn_transformer_forward(bb_nn_transformer *model,
                                            bb_tensor *ids); /* (B, T) to logits (B, T, vocab) */
BB_API bb_tensor *bb_nn_transformer_loss(bb_nn_transformer *model, bb_tensor *ids,
                                         bb_tensor *targets); /* mean, nats */

/* Sampling with a cache: feed the prompt, then one token at a time; each call costs only its own T
 * positions. Logits (B, T, vocab) of those. When `length` would pass `max`, an error: reset and
 * feed the last positions again. */
typedef struct bb_nn_cache {
    bb_nn_layer_cache *layer;
    int64_t batch, max, length;
} bb_nn_cache;
BB_API bb_nn_cache *bb_nn_cache_new(bb_nn_transformer *model, int64_t batch, int64_t max);
BB_API void bb_nn_cache_reset(bb_nn_cache *cache);
BB_API bb_tensor *bb_nn_transformer_next(bb_nn_transformer *model, bb_nn_cache *cache,
                                         bb_tensor *ids);

/* The model's parameters under the names of Hugging Face's Llama family
 * ("model.layers.0.self_attn.q_proj.weight", ...), as contiguous views of the fused blocks: read
 * them to save, bb_write them to load. Not of that family, and so under our own name:
 * "model.layers.N.self_attn.qk_norm.weight" (heads + kv_heads, 1, head_dim). */
BB_API const bb_named *bb_nn_transformer_named(bb_nn_transformer *model, int *count);
/* Their gradients, in the same order under the same names. An error before a backward. */
BB_API const bb_named *bb_nn_transformer_grads(bb_nn_transformer *model, int *count);

/* ---- Optimizers ------------------------------------------------------------------------------
 * They build the set if it is not, keep their state in contiguous blocks, run one in-place op per
 * span, and refuse to run after an error in the context or when no gradient was computed since
 * bb_params_zero_grad. A parameter that the loss did not reach counts as having gradient zero.
 * Weight decay (decoupled for AdamW) touches only rank >= 2. */

/* The norm over all gradients; the next optimizer step scales every gradient by max_norm / (norm +
 * 1e-6) if that is below 1 (max_norm > 0), without another pass over them. A norm that is not
 * finite is an error, so that the step does not run: bb_clear_error, bb_params_zero_grad and go on
 * to skip it. (nn/clip.c) */
BB_API double bb_clip_grad_norm(bb_params *params, double max_norm);
/* The same without waiting for the norm, for captured steps (bb_capture_step): the optimizer step
 * that follows changes nothing if the norm is not finite. bb_grad_norm reads the norm that the last
 * clipping saw. */
BB_API bb_status bb_clip_grads(bb_params *params, double max_norm);
BB_API double bb_grad_norm(bb_params *params);

/* Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019 (nn/adamw.c). options
 * NULL: betas 0.9 and 0.999, eps 1e-8, weight_decay 0.01, from which it takes out what no decay is
 * meant for (`undecayed` is its own to set). One launch a step. Of f16 and bf16 parameters it keeps
 * an f32 master copy, which takes the steps; the parameters are the master rounded. A parameter
 * written from elsewhere since the last step is taken up into the master. */
typedef struct bb_adamw bb_adamw;
BB_API bb_adamw *bb_adamw_new(bb_params *params, const bb_adamw_attrs *options);
BB_API bb_status bb_adamw_step(bb_adamw *optimizer, double lr);
/* The two halves of a step: the rate, from the host; the rest, on the device, which may stand in a
 * captured step. */
BB_API bb_status bb_adamw_set_lr(bb_adamw *optimizer, double lr);
BB_API bb_status bb_adamw_apply(bb_adamw *optimizer);
BB_API int64_t bb_adamw_steps(bb_adamw *optimizer); /* taken so far */
/* State for checkpoints: "step", "m", "v", and "master" where there is one. bb_write them to go on
 * where another run stopped. */
BB_API const bb_named *bb_adamw_state(bb_adamw *optimizer, int *count);

/* PyTorch's SGD (nn/sgd.c). options NULL: no momentum, no decay. State: "velocity", if there is
 * momentum. */
typedef struct bb_sgd bb_sgd;
BB_API bb_sgd *bb_sgd_new(bb_params *params, const bb_sgd_attrs *options);
BB_API bb_status bb_sgd_step(bb_sgd *optimizer, double lr);
BB_API bb_status bb_sgd_set_lr(bb_sgd *optimizer, double lr);
BB_API bb_status bb_sgd_apply(bb_sgd *optimizer);
BB_API const bb_named *bb_sgd_state(bb_sgd *optimizer, int *count);

/* A learning rate for each step (nn/schedule.c): linear from lr_max/warmup up to lr_max over the
 * first `warmup` steps, then half a cosine down to lr_min at step total - 1, lr_min after it. total
 * 0: lr_max for ever. Steps count from 0; one before it counts as 0. */
typedef struct bb_schedule {
    double lr_max, lr_min;
    int64_t warmup, total;
} bb_schedule;
BB_API double bb_schedule_lr(const bb_schedule *schedule, int64_t step);

#ifdef __cplusplus
}
#endif
#endif
