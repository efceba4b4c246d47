/* What the files of nn/fusible share. nn/fusible.h is the manual. */
#ifndef BOBBIN_NN_FUSIBLE_INTERNAL_H
#define BOBBIN_NN_FUSIBLE_INTERNAL_H

#include "autograd/tape.h"
#include "nn/fusible.h"
#include "nn/internal.h"

struct bb_fusible_op {
    bb_context *ctx;
    const bb_fusible_kind *kind;
    const char *name; /* in recorded graphs; NULL: its place in the chain */
    bb_params *params;
    bb_tensor *param[BB_FUSIBLE_PARAMS];
    int n_params;
    void *data;
};

/* ---- op.c */

/* Runs members as one, by `forward` (NULL: the one member's own): contexts are cleared and begun,
 * parameters get values, nothing is recorded. */
bb_status bb_fusible_run_forward(bb_fusible_run *run, bb_status (*forward)(bb_fusible_run *run));
/* Checks the contexts, runs `backward` (NULL: the one member's own), ends the contexts. */
bb_status bb_fusible_run_backward(bb_fusible_back *back,
                                  bb_status (*backward)(bb_fusible_back *back));
/* The tensor of a link in this dtype, dequantized where it is quantized. */
bb_tensor *bb_link_tensor(bb_link link, bb_dtype dtype);
bb_dtype bb_link_dtype(bb_link link);
bb_shape bb_link_shape(bb_link link);
/* One member of a run, as a run of its own. */
bb_fusible_run bb_fusible_member(const bb_fusible_run *run, int i);

/* ---- The kinds that fusions name */
extern const bb_fusible_kind bb_kind_rms_norm, bb_kind_linear, bb_kind_bias, bb_kind_quantize,
    bb_kind_add_extra_input, bb_kind_make_extra_output, bb_kind_activation;

/* ---- rms_norm.c: [add_extra_input] [make_extra_output] rms_norm [quantize] */
bb_status bb_fused_add_rms_norm(bb_fusible_run *run);
bb_status bb_fused_rms_norm_quantize(bb_fusible_run *run);
bb_status bb_fused_add_rms_norm_backward(bb_fusible_back *back);

/* ---- elementwise.c: which of LinearActivation's an activation is; false: none. It saves its input
 * as saved[0]. */
bool bb_activation_of_linear(const bb_fusible_op *op, bb_linear_activation_attrs *attrs);

/* ---- linear.c: linear [bias] [activation | add_extra_input] */
bb_status bb_fused_linear(bb_fusible_run *run);
/* linear [bias] add_extra_input [make_extra_output] rms_norm */
bb_status bb_fused_linear_add_rms_norm(bb_fusible_run *run);

/* ---- quantize.c */

/* For a backward: what x is made of, past scopes and bb_drop until bb_quantized_let_go or the end
 * of the step. It is read through bb_quantized_held. NULL in gives NULL. */
bb_quantized *bb_quantized_hold(const bb_quantized *x);
bb_quantized *bb_quantized_held(bb_quantized *held, bb_context *ctx, const char *who);
void bb_quantized_let_go(bb_quantized *held);

/* ---- fuser.c */
enum { BB_FUSION_MEMBERS = 5 };
typedef struct bb_fusion {
    const char *name;
    int n;
    const bb_fusible_kind *member[BB_FUSION_MEMBERS];
    bool (*fits)(const bb_fusible_run *run); /* forward only; NULL: always */
    bb_status (*forward)(bb_fusible_run *run);
    bb_status (*backward)(bb_fusible_back *back);
} bb_fusion;
/* The fusion that begins with run's first op, with `left` ops from there to the end, and run->n set
 * to its members; NULL: none. */
const bb_fusion *bb_fusion_forward(bb_fusible_run *run, int left);
/* The one that ends with op[at]. */
const bb_fusion *bb_fusion_backward(bb_fusible_op *const *op, int at);
const bb_fusion *bb_fusion_at(int index); /* NULL: beyond the table */

/* ---- segment.c: members that run as one node */
typedef struct bb_segment {
    bb_context *ctx;
    const char *name;
    bb_fusible_op *const *op;
    int n;
    bool fusion, autocast;
    bb_dtype autocast_dtype;
} bb_segment;
bb_link bb_segment_forward(const bb_segment *s, bb_link x, bb_tensor *const *extra_in,
                           bb_tensor **extra_out, bool tensor_wanted);

#endif
