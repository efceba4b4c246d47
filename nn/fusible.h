/* Bobbin nn: fusible ops, and chains of them.
 *
 * A fusible op is a layer whose forward and backward are two calls that the owner of a chain makes
 * himself. So neighbours can be run as one (a residual addition with the norm that reads it, a norm
 * that writes what the next op wants quantized), and a chain is one node on the tape.
 *
 *     bb_params *params = bb_params_new(ctx, BB_CPU, BB_BF16);
 *     bb_chain *chain = bb_chain_new(ctx, "mlp");
 *     bb_chain_append(chain, bb_fusible_rms_norm(params, "norm", BB_SHAPE(64), NULL));
 *     bb_chain_append(chain, bb_fusible_linear(params, "up", 64, 256, 0));
 *     bb_chain_append(chain, bb_fusible_bias(params, "up", 256));
 *     bb_chain_append(chain, bb_fusible_activation(ctx, BB_ACT_GELU));
 *     bb_tensor *y = bb_chain_forward(chain, x);
 *     bb_backward(bb_mean_all(y), NULL);
 *
 * nn/FUSIBLE.md maps each behaviour of TransformerEngine's ops to its test here and says where and
 * why this library differs. Ops, chains and their memory belong to the context. Functions that
 * return a pointer return NULL after an error (core/core.h). */
#ifndef BOBBIN_NN_FUSIBLE_H
#define BOBBIN_NN_FUSIBLE_H

#include "autograd/autograd.h"
#include "core/core.h"
#include "nn/nn.h"
#include "nn/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What goes from one op to the next: exactly one of the two. */
typedef struct bb_link {
    bb_tensor *tensor;
    bb_quantized *quantized;
} bb_link;
BB_API bb_link bb_link_of(bb_tensor *tensor);

typedef struct bb_fusible_op bb_fusible_op;
typedef struct bb_fusible_kind bb_fusible_kind;
enum { BB_FUSIBLE_PARAMS = 2, BB_FUSIBLE_SAVED = 3 };

/* ---- One op -----------------------------------------------------------------------------------
 * A forward leaves what its backward will read in a bb_op_context that the caller holds:
 *
 *     bb_op_context c = {.requires_grad = true};
 *     bb_link y = bb_fusible_forward(norm, &c, bb_link_of(x), NULL, quantizer);
 *     ...
 *     bb_tensor *dweight;
 *     bb_link dx = bb_fusible_backward(norm, &c, dy, &dweight);
 *
 * The context's tensors live until that backward, at most to the end of the step. A second backward
 * is an error, and so is a parameter (or an input) that was changed in between. */
typedef struct bb_op_context {
    /* Set by the caller, before the forward. */
    bool requires_grad; /* a backward will come: save what it reads */
    bool keep;          /* that backward leaves everything here, for another one */
    bool autocast;      /* compute in this dtype, not in the parameters' */
    bb_dtype autocast_dtype;
    /* Set by the forward. */
    const bb_fusible_op *op; /* NULL: no forward, or its backward was run */
    bb_dtype dtype;          /* in which it computed: that of its results and gradients */
    bb_shape shape;          /* of its input */
    bb_shape result;         /* of its output; bb_fusible_forward's alone */
    bb_saved saved[BB_FUSIBLE_SAVED];
    bb_quantized *quantized[2];
    uint32_t version[BB_FUSIBLE_PARAMS];         /* of the parameters */
    bool fused;                                  /* a kernel with statistics for backward */
    bb_quantizer *prev_op_grad_output_quantizer; /* what the op before wants its gradient in */
    bb_rng rng;                                  /* where random numbers came from */
    uint64_t step;                               /* of the forward */
} bb_op_context;

/* The input goes through op. next_op_input_quantizer (may be NULL): the next op would like its
 * input in this form; an op that can write it directly returns a quantized link, others a tensor,
 * which the next op quantizes. prev_op_grad_output_quantizer: likewise for the gradient of the
 * input. Parameters without values are given them (their set is built). {NULL, NULL} after an
 * error. Ops with an extra input or output: in a chain only. */
BB_API bb_link bb_fusible_forward(bb_fusible_op *op, bb_op_context *c, bb_link input,
                                  bb_quantizer *prev_op_grad_output_quantizer,
                                  bb_quantizer *next_op_input_quantizer);
/* Gradient of the input, of grad_output's leading shape and of c->dtype, and in grad_params[i] that
 * of parameter i, of its shape and of c->dtype. grad_params may be NULL for an op without
 * parameters. */
BB_API bb_link bb_fusible_backward(bb_fusible_op *op, bb_op_context *c, bb_link grad_output,
                                   bb_tensor **grad_params);
/* Gives back what c holds, if no backward will come. */
BB_API void bb_op_context_clear(bb_op_context *c);

BB_API const char *bb_fusible_name(const bb_fusible_op *op);        /* "RMSNorm" */
BB_API int bb_fusible_param_count(const bb_fusible_op *op);         /* 0 to BB_FUSIBLE_PARAMS */
BB_API bb_tensor *bb_fusible_param(const bb_fusible_op *op, int i); /* NULL: no such parameter */
/* Initial values again, for op's parameters alone. Where they have no values yet, their whole set
 * is built: in place, so that handles stay what they are. */
BB_API bb_status bb_fusible_reset_parameters(bb_fusible_op *op);

/* ---- The ops -----------------------------------------------------------------------------------
 * Parameters are added to a set (bb_params), which decides on device and dtype and gives values
 * when it is built: by an optimizer, by bb_params_build, or by the first forward. Until then
 * they take no memory (deferred initialization). `name` is the prefix of the parameters' names; ""
 * gives "weight". The input is cast to the dtype in which an op computes: the autocast dtype if
 * there is one, else that of the parameters, else (no parameters) the input's own. */

/* Stages of RMSNorm and LayerNorm for sm_margin. */
typedef struct bb_stage_margin {
    const char *stage; /* "forward", "backward", "inference" */
    int margin;
} bb_stage_margin;
typedef struct bb_fusible_norm_options {
    double eps; /* 0: 1e-5; for none at all: no_eps */
    bool no_eps;
    bool zero_centered_gamma; /* the scale is 1 + weight, added in f32; weight starts as zeros */
    /* Multiprocessors that the kernels leave to others (bb_set_sm_margin), nothing on a CPU: for
     * all stages, overridden stage by stage by the environment (BOBBIN_FWD_NORM_SM_MARGIN,
     * BOBBIN_BWD_NORM_SM_MARGIN, BOBBIN_INF_NORM_SM_MARGIN). With `stages`, sm_margin is not read:
     * a stage named there has that margin whatever the environment says; another has the
     * environment's, or 0. All is read when the op is made. */
    int sm_margin;
    const bb_stage_margin *stages;
    int n_stages;
} bb_fusible_norm_options;
/* y = x / sqrt(mean(x^2) + eps) * weight over all trailing axes that normalized_shape names, with
 * statistics and scale in f32 (f64 for f64) and one rounding. options NULL: defaults. The input
 * must end in normalized_shape. Saves x (rows of one normalized_shape each) and 1 / sqrt(...).
 * Writes quantized output directly for the quantizers that say so (nn/quantize.h). */
BB_API bb_fusible_op *bb_fusible_rms_norm(bb_params *params, const char *name,
                                          bb_shape normalized_shape,
                                          const bb_fusible_norm_options *options);
/* The same on a weight that is there already; `params` is the set it belongs to. */
BB_API bb_fusible_op *bb_fusible_rms_norm_of(bb_params *params, bb_tensor *weight,
                                             const bb_fusible_norm_options *options);
/* Zero mean and unit variance over normalized_shape, times weight, plus bias. */
BB_API bb_fusible_op *bb_fusible_layer_norm(bb_params *params, const char *name,
                                            bb_shape normalized_shape,
                                            const bb_fusible_norm_options *options);
/* x / sqrt(sum(x^2) + eps) over the last axis; eps 0: 1e-6. */
BB_API bb_fusible_op *bb_fusible_l2_normalization(bb_context *ctx, double eps);

/* Quantizers of a Linear's input, weight and output gradient. With input and weight it multiplies
 * quantized tensors (bb_linear_quantized) and saves those; with grad_output too, backward does. An
 * input that comes quantized is taken as it is. */
typedef struct bb_linear_quantizers {
    bb_quantizer *input, *weight, *grad_output;
} bb_linear_quantizers;
/* x weight^T; weight (out, in) from normal(0, std), std 0 meaning 1/sqrt(in). */
BB_API bb_fusible_op *bb_fusible_linear(bb_params *params, const char *name, int64_t in,
                                        int64_t out, double std);
BB_API bb_fusible_op *bb_fusible_linear_of(bb_params *params, bb_tensor *weight);
BB_API bb_status bb_fusible_set_quantizers(bb_fusible_op *linear,
                                           const bb_linear_quantizers *quantizers); /* NULL: none */
BB_API bb_linear_quantizers bb_fusible_get_quantizers(const bb_fusible_op *linear);
/* x + bias, of zeros at first. */
BB_API bb_fusible_op *bb_fusible_bias(bb_params *params, const char *name, int64_t size);
BB_API bb_fusible_op *bb_fusible_bias_of(bb_params *params, bb_tensor *bias);

/* Activations. The gated ones take x of 2n columns as two halves a, b: f(a) b. */
typedef enum bb_activation {
    BB_ACT_RELU = 0,
    BB_ACT_GELU, /* tanh form */
    BB_ACT_SILU,
    BB_ACT_QGELU, /* x sigmoid(1.702 x) */
    BB_ACT_SRELU, /* relu(x)^2 */
    BB_ACT_SIGMOID,
    BB_ACT_TANH,
    BB_ACT_REGLU,
    BB_ACT_GEGLU,
    BB_ACT_SWIGLU,
    BB_ACT_QGEGLU,
    BB_ACT_SREGLU,
    BB_ACT_GLU, /* sigmoid(a) b */
    BB_ACT_COUNT
} bb_activation;
BB_API bb_fusible_op *bb_fusible_activation(bb_context *ctx, bb_activation activation);
BB_API bb_fusible_op *bb_fusible_dropout(bb_context *ctx, double p); /* as bb_dropout */
BB_API bb_fusible_op *bb_fusible_constant_scale(bb_context *ctx, double factor);
/* One size may be -1. */
BB_API bb_fusible_op *bb_fusible_reshape(bb_context *ctx, bb_shape shape);
BB_API bb_fusible_op *bb_fusible_identity(bb_context *ctx);
/* x + the chain's next extra input, which has x's shape and dtype. */
BB_API bb_fusible_op *bb_fusible_add_extra_input(bb_context *ctx);
/* x, which is also the chain's next extra output. */
BB_API bb_fusible_op *bb_fusible_make_extra_output(bb_context *ctx);
/* The value goes on quantized (forward), its gradient too (backward); NULL: as it is. A value that
 * comes quantized passes. */
BB_API bb_fusible_op *bb_fusible_quantize(bb_context *ctx, bb_quantizer *forward,
                                          bb_quantizer *backward);

/* ---- Chains -------------------------------------------------------------------------------------
 * A list of ops. Members that are next to each other run as one segment, one node on the tape; a
 * function of the user's own (any ops) stands between segments. An op may be in several chains. */
typedef struct bb_chain bb_chain;
BB_API bb_chain *bb_chain_new(bb_context *ctx,
                              const char *name); /* name: for messages; may be "" */
BB_API bb_status bb_chain_append(bb_chain *chain, bb_fusible_op *op); /* behind the last member */
/* A function of one input. */
BB_API bb_status bb_chain_append_function(bb_chain *chain, bb_segment_fn fn, void *user);
/* Indices from 0; negative ones count from the end. */
BB_API bb_status bb_chain_insert(bb_chain *chain, int index, bb_fusible_op *op);
BB_API bb_fusible_op *bb_chain_pop(bb_chain *chain, int index); /* NULL: it was a function */
BB_API bb_fusible_op *bb_chain_get(const bb_chain *chain, int index);
BB_API int bb_chain_length(const bb_chain *chain);
/* New chains of the same ops: members [start, stop); those of a, then those of b. */
BB_API bb_chain *bb_chain_slice(const bb_chain *chain, int start, int stop);
BB_API bb_chain *bb_chain_concat(const bb_chain *a, const bb_chain *b);

/* Whether neighbours run as one where a fusion is known (nn/fusible/fuser.c lists them), initially
 * true. Off: op by op, in high precision between them. */
BB_API void bb_chain_set_fusion(bb_chain *chain, bool on);
/* All ops compute in this dtype, whatever their parameters have. */
BB_API void bb_chain_set_autocast(bb_chain *chain, bool on, bb_dtype dtype);

/* Quantizers for every Linear of the chain that has none: e4m3 for input and weight, e5m2 (hybrid)
 * or e4m3 for gradients; block scaling takes 128x128 for weights. NULL takes them away. */
typedef struct bb_chain_recipe {
    bb_recipe recipe;
    bool e4m3_gradients;
    int margin, history;  /* delayed scaling; 0: the defaults (nn/quantize.h) */
    bool plain_gradients; /* not quantized */
} bb_chain_recipe;
BB_API bb_status bb_chain_set_recipe(bb_chain *chain, bb_device device,
                                     const bb_chain_recipe *recipe);
/* After the optimizer's step: bb_quantizer_update for all of them. */
BB_API bb_status bb_chain_update_quantizers(bb_chain *chain);

/* Runs the members in order; for chains without extras. */
BB_API bb_tensor *bb_chain_forward(bb_chain *chain, bb_tensor *x);
/* With the extra inputs and outputs of all members in order, exactly as many as there are. Extra
 * outputs: at most BB_MAX_OUTPUTS - 1 a segment. A result that is quantized comes dequantized. */
BB_API bb_tensor *bb_chain_forward_with(bb_chain *chain, bb_tensor *x, bb_tensor *const *extra_in,
                                        int n_extra_in, bb_tensor **extra_out, int n_extra_out);
/* The last op's own result, quantized or not; nothing is recorded. For chains without extras. */
BB_API bb_link bb_chain_forward_link(bb_chain *chain, bb_link x);

/* ---- Ops of your own ---------------------------------------------------------------------------
 * What one op, or several neighbours that run as one, take and give. Arrays have one entry a
 * member. */
typedef struct bb_fusible_run {
    bb_context *ctx;
    int n;
    bb_fusible_op *const *op;
    bb_op_context *c;
    bb_link input, output;
    bb_tensor *const *extra_input;
    bb_tensor **extra_output;
    bb_quantizer *next_op_input_quantizer;
} bb_fusible_run;
typedef struct bb_fusible_back {
    bb_context *ctx;
    int n;
    bb_fusible_op *const *op;
    bb_op_context *c;
    bb_link grad_output, grad_input;
    bool want_input;
    bb_tensor *const *grad_extra_output; /* NULL: none reached it */
    bb_tensor **grad_extra_input;
    bb_tensor *(*grad_param)[BB_FUSIBLE_PARAMS];
    const bool (*want_param)[BB_FUSIBLE_PARAMS];
    int *n_grad_params; /* how many gradients backward gave; NULL ones count */
    /* Where the walk would have them written; see bb_fusible_target. */
    const bb_function_call *call;
    const int (*param_input)[BB_FUSIBLE_PARAMS];
} bb_fusible_back;

/* Either forward and backward, or neither: then `compute` says it all, and backward runs it again.
 * compute also stands for the op where a graph is recorded: in[0] is the input, then come the
 * extra input, if the kind has one, and the parameters. There a kind that takes or gives quantized
 * tensors says `record` instead. */
struct bb_fusible_kind {
    const char *name;
    bool extra_input, extra_output;
    bool quantizes_gradient; /* gives the op before its gradient in the form it wants */
    bb_status (*forward)(bb_fusible_run *run);
    bb_status (*backward)(bb_fusible_back *back);
    bb_tensor *(*compute)(const bb_fusible_op *op, const bb_op_context *c, bb_tensor *const *in,
                          int n);
    bb_link (*record)(const bb_fusible_op *op, const bb_op_context *c, bb_link input);
    bb_quantizer *(*input_quantizer)(const bb_fusible_op *op);
    bb_quantizer *(*grad_output_quantizer)(const bb_fusible_op *op);
};
/* An op of this kind with these parameters (of one set; NULL with none), and `bytes` of data of its
 * own, zeroed. kind outlives the context. It needs `compute`, or forward and backward. */
BB_API bb_fusible_op *bb_fusible_new(bb_context *ctx, const bb_fusible_kind *kind,
                                     bb_params *params, bb_tensor *const *param, int n_params,
                                     size_t bytes);
BB_API void *bb_fusible_data(const bb_fusible_op *op);
/* For a backward: where the gradient of member i's parameter k may be written directly, of the
 * parameter's shape and dtype; grad_param[i][k] must then be this tensor. NULL: nowhere special. */
BB_API bb_tensor *bb_fusible_target(const bb_fusible_back *back, int i, int k);

#ifdef __cplusplus
}
#endif
#endif
