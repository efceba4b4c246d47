/* What the files of nn share. nn/nn.h is the manual. */
#ifndef BOBBIN_NN_INTERNAL_H
#define BOBBIN_NN_INTERNAL_H

#include "core/impl.h"
#include "nn/nn.h"
#include "ops/ops.h"

typedef struct bb_param {
    char name[BB_NAME_BYTES];
    bb_tensor *tensor;
    bb_init init;
    double std;
} bb_param;

struct bb_params {
    bb_context *ctx;
    bb_device device;
    bb_dtype dtype;
    bb_param *row;
    int count, capacity;
    bool built;
    bb_tensor *values, *grads;
    bb_tensor *grad_scale; /* (1): bb_clip_grads' coefficient for the next step */
    bb_tensor *grad_norm;  /* (1): the norm it saw */
    bool clipped;          /* grad_scale holds one */
    int64_t decayed;       /* elements of the span with weight decay, padding included */
};

/* Initial standard deviation of a transformer's matrices (GPT-2's). */
#define BB_NN_STD 0.02
/* nn/config.c: that of the projections that end on the residual stream. Each of the 2 layers sums
 * of the stream adds variance; divided by sqrt(2 layers) it starts out the same at any depth (GPT-2
 * does so too). */
double bb_nn_residual_std(const bb_nn_config *config);

/* nn/block.c: a norm of the residual stream, as the configuration wants it. */
bb_nn_rms_norm bb_nn_stream_norm_new(bb_params *params, const char *name,
                                     const bb_nn_config *config);

/* nn/attention.c, nn/mlp.c: a half of a block without the projection that ends it. x (B, T, dim).
 */
bb_tensor *bb_nn_attention_mix(const bb_nn_attention *layer, bb_tensor *x, bb_nn_layer_cache *cache,
                               int64_t position);
bb_tensor *bb_nn_mlp_gate(const bb_nn_mlp *layer, bb_tensor *x);

/* ---- nn/stream.c: the residual stream as chains (nn/fusible.h) */
bb_nn_stream *bb_nn_stream_new(bb_nn_transformer *model);
/* Embeddings to what the head reads: all blocks and the last norm. */
bb_tensor *bb_nn_stream_forward(bb_nn_transformer *model, bb_tensor *x);

/* ---- transformer.c: around what a block saves, where the model wants it offloaded. What begin
 * returns goes to end. */
bool bb_nn_offload_begin(bb_nn_transformer *model, int64_t block);
void bb_nn_offload_end(bb_nn_transformer *model, int64_t block, bool begun);

/* ---- nn/params.c */

/* Zeroed host memory of the context's lifetime. */
void *bb_nn_allocate(bb_context *ctx, size_t bytes);
/* For the growth of arrays: gives such a block back. */
void bb_nn_release(bb_context *ctx, void *block);
/* A zeroed tensor of the context's lifetime. */
bb_tensor *bb_nn_zeros(bb_context *ctx, bb_device device, bb_dtype dtype, int64_t count);
/* The dtype of what an optimizer keeps of such parameters and of its numbers: f64 for f64, else
 * f32.
 */
bb_dtype bb_nn_state_dtype(const bb_params *params);
/* Sets a tensor of one element, f32 or f64. */
bb_status bb_nn_write_number(bb_tensor *t, double value);
/* The same for a learning rate, which is checked; `who` begins the error. */
bb_status bb_nn_write_lr(bb_tensor *t, double lr, const char *who);
/* prefix.leaf, or leaf alone under an empty prefix. Too long: an error, and out is "". */
const char *bb_nn_join(bb_params *params, char out[BB_NAME_BYTES], const char *prefix,
                       const char *leaf);
/* Adds the parameter prefix.leaf. */
bb_tensor *bb_nn_add(bb_params *params, const char *prefix, const char *leaf, bb_shape shape,
                     bb_init init, double std);
/* Gives a parameter of a set that is built its initial values again. */
bb_status bb_nn_reset(bb_params *params, bb_tensor *t);
bb_context *bb_nn_context(const bb_params *params); /* NULL for NULL */
/* Whether what a caller must give is there; if not, an error that names the call and the argument.
 */
bool bb_nn_given(bb_context *ctx, const void *given, const char *who, const char *argument);

/* What a layer is called inside its owner, from the path of its parameters: "attn_norm" of
 * "blocks.0.attn_norm", "blocks.0" of "blocks.0". NULL for "". It lives as long as the context. */
const char *bb_nn_layer_name(bb_params *params, const char *path);
/* bb_module_enter with that name; a layer without one is transparent. */
void bb_nn_enter(bb_context *ctx, bb_module *here, const char *type, const char *name);

/* Makes the gradient block fit for flat operations: what no backward wrote is zero. An error if no
 * backward wrote anything; `who` begins its message. */
bb_status bb_params_settle(bb_params *params, const char *who);
/* Part 0 (decayed) or 1 of a block laid out as the parameters are; NULL without error: it is empty.
 */
bb_tensor *bb_params_span(bb_params *params, bb_tensor *block, int part);

#endif
