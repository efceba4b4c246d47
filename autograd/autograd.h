/* Bobbin autograd: the tape, its walk, and gradient checks.
 *
 * While gradients are enabled, each op with an input that requires one puts a node on the context's
 * tape. bb_backward walks it in reverse. Only this walk adds gradients and sums them down to a
 * broadcast input's shape; ops and kernels write. bb_end_step empties the tape. */
#ifndef BOBBIN_AUTOGRAD_H
#define BOBBIN_AUTOGRAD_H

#include "core/core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Adds d(loss)/d(leaf) into bb_grad(leaf) of every leaf that requires a gradient. `seed` is the
 * cotangent, of loss's shape; NULL means one, and then loss must have one element. The nodes are
 * used up: a second backward through them is an error, unless retain. Does nothing after an error.
 */
BB_API bb_status bb_backward(bb_tensor *loss, bb_tensor *seed);
BB_API bb_status bb_backward_retain(bb_tensor *loss, bb_tensor *seed);

/* d(output)/d(input[i]) for n inputs into gradients[i] (NULL where output does not depend on it),
 * touching no bb_grad. create_graph: the gradients can be differentiated again (composites then run
 * composed). */
BB_API bb_status bb_gradients(bb_tensor *output, bb_tensor *seed, bb_tensor *const *inputs, int n,
                              bool create_graph, bb_tensor **gradients);

BB_API bb_tensor *bb_detach(bb_tensor *t);        /* the same elements, no history */
BB_API void bb_retain_grad(bb_tensor *t);         /* a non-leaf also gets a bb_grad */
BB_API void bb_zero_grad(bb_tensor *leaf);        /* the next backward writes instead of adding */
BB_API int bb_tape_length(const bb_context *ctx); /* nodes recorded in this step */
BB_API const bb_op *bb_tape_op(const bb_context *ctx, int node); /* what node i is, oldest first */

/* Activation checkpointing: runs fn without a tape and keeps only its inputs; backward runs it
 * again (with the same random numbers) to get the gradients. fn may use parameters of the context.
 * Outputs are fn's; returns the first. fn returns NULL on failure. */
typedef bb_tensor *(*bb_segment_fn)(void *user, bb_tensor *const *inputs, int n);
BB_API bb_tensor *bb_recompute(bb_context *ctx, bb_segment_fn fn, void *user,
                               bb_tensor *const *inputs, int n);

/* Finite differences against the tape, with a random cotangent. PyTorch's defaults: eps 1e-6, atol
 * 1e-5, rtol 1e-3, f64 inputs. fn must be a pure function of its inputs. */
typedef struct bb_gradcheck_options {
    double eps, atol, rtol; /* 0: the default */
    uint64_t seed;          /* of the cotangent */
} bb_gradcheck_options;
typedef struct bb_gradcheck_report {
    bool passed;
    int input; /* where the worst element is */
    int64_t element;
    double analytic, numeric,
        error;       /* error: |analytic - numeric| / (atol + rtol |numeric|); passed: <= 1 */
    int64_t checked; /* elements compared */
} bb_gradcheck_report;
/* Inputs that require a gradient are checked; they must be f64. BB_ERR_* for wrong use, BB_OK
 * otherwise, also when the check fails: look at report->passed. */
BB_API bb_status bb_gradcheck(bb_context *ctx, bb_segment_fn fn, void *user,
                              bb_tensor *const *inputs, int n, const bb_gradcheck_options *options,
                              bb_gradcheck_report *report);
/* The same for the gradient of the gradient. */
BB_API bb_status bb_gradgradcheck(bb_context *ctx, bb_segment_fn fn, void *user,
                                  bb_tensor *const *inputs, int n,
                                  const bb_gradcheck_options *options, bb_gradcheck_report *report);

/* For bobbin.c: makes the tape of a context and attaches it as a recorder. */
BB_API bb_status bb_attach_tape(bb_context *ctx);

#ifdef __cplusplus
}
#endif
#endif
