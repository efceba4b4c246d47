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
 * again (with the same random numbers) to get the gradients. fn may also read tensors that are not
 * among its inputs, parameters for one: what the first run read, by ops, bb_read, bb_item or
 * bb_assign, is noted, and if it was changed in place (by fn, too) or dropped when the second run
 * reads it, that is an error of the walk (an input may be dropped: it is held). Nobody sees what fn
 * reads through bb_data. Gives fn's result, which is NULL on failure. While a graph is recorded
 * (io/io.h) fn runs like any other function. */
typedef bb_tensor *(*bb_segment_fn)(void *user, bb_tensor *const *inputs, int n);
BB_API bb_tensor *bb_recompute(bb_context *ctx, bb_segment_fn fn, void *user,
                               bb_tensor *const *inputs, int n);

/* Hooks on saved values (autograd/saved.c). While a pair is pushed, each value that the tape saves
 * for backward (activations, parameters, statistics) is offered to `pack`; what pack makes of it is
 * kept in its place, and the walk asks `unpack` for the value. Only the innermost pair is asked.
 *
 *   pack     may read `value`, not change it. It sets *packed to whatever it likes, or leaves it
 *            NULL, and the tape keeps the value as if there were no hooks. Tensors that it makes
 *            are dropped when it returns, unless it holds them (bb_hold: until the step ends).
 *   unpack   gives a tensor of the value's dtype, shape and device, any strides. It may be asked
 *            more than once, or never; what it makes is dropped when the rule that reads it ran.
 *   release  is told once for each packed object: its nodes were walked, or the step ended. May be
 *            NULL.
 *
 * In all three gradients are off. A failure becomes the failure of the op, or of the walk. A value
 * that several ops save is packed once for all of them while one of them still needs it. A packed
 * value may be changed in place before backward, which reads what was packed; if that shares the
 * value's bytes the change is an error, as without hooks. Nothing is packed while a graph is
 * recorded (io/io.h): the graph shows the computation itself. */
typedef struct bb_saved_hooks {
    bb_status (*pack)(void *user, bb_tensor *value, void **packed);
    bb_tensor *(*unpack)(void *user, void *packed);
    void (*release)(void *user, void *packed);
    void *user;
} bb_saved_hooks;
/* Copies the pair. hooks NULL: nothing is packed until the matching pop. A push that fails pushes
 * nothing; pop also works after an error, and ignores one pop too many. */
BB_API bb_status bb_saved_hooks_push(bb_context *ctx, const bb_saved_hooks *hooks);
BB_API void bb_saved_hooks_pop(bb_context *ctx);

/* Activation offloading (autograd/offload.c). What ops save between bb_offload_begin and
 * bb_offload_end, a segment, goes to page-locked memory of the host in a queue beside the work, and
 * comes back while backward walks the segment after it. The bits are those of a run without.
 *
 *   goes    a tensor of an accelerator with min_elements or more, whatever its strides (its storage
 *           moves whole, and once, however many views of it are saved)
 *   stays   what lives longer than the step (parameters and views of them), leaves with gradient
 *
 * Device memory: a segment's is given back when the next segment ends, so that its copies have that
 * long; the last segment's stays, since backward begins with it. Backward holds two segments at a
 * time. The host never waits; page-locked memory is pooled until the context closes. May stand in a
 * captured step (core/core.h). A value that is changed in place before its copy is done is an error
 * of the walk. On a device that cannot do it (the CPU: its memory is the host's) both calls do
 * nothing; bb_offload_available says so. Segments do not nest. */
typedef struct bb_offload_options {
    int64_t min_elements; /* 0: 256 * 1024 */
} bb_offload_options;
/* options may be NULL. After BB_OK, and only then, the segment must be ended, also after an error.
 */
BB_API bb_status bb_offload_begin(bb_context *ctx, const bb_offload_options *options);
BB_API bb_status bb_offload_end(bb_context *ctx);
/* Gives the device memory of the last segment back too, for when the most memory is needed after
 * it. Work given from here on waits for its copies, so other work should come between. */
BB_API bb_status bb_offload_settle(bb_context *ctx);
/* Whether values on this device can go; otherwise *why (if why is not NULL) says why not. */
BB_API bool bb_offload_available(bb_context *ctx, bb_device device, const char **why);
/* Since the context opened; replays of a captured step are not counted. */
typedef struct bb_offload_report {
    int64_t values;            /* saved values that were taken */
    int64_t storages;          /* copies to the host: views of one storage share one */
    size_t to_host, to_device; /* bytes copied */
    size_t pinned;             /* bytes of page-locked memory, now */
} bb_offload_report;
BB_API bb_offload_report bb_offload_stats(const bb_context *ctx);

/* ---- A function with a backward of its own (autograd/function.c) ------------------------------
 * A piece of the forward pass that ran without a tape becomes ONE node, whose gradients the caller
 * computes:
 *
 *     if (bb_function_wanted(ctx, in, n)) ...        (whether to keep what backward will read)
 *     bool before = bb_set_grad_enabled(ctx, false);
 *     out[0] = ...                                   (a new tensor; keep what backward reads)
 *     bb_set_grad_enabled(ctx, before);
 *     bb_function_record(ctx, &function, state, in, n, out, 1);
 *
 * The gradient of its gradient is an error, and so is a second backward, as for any node. */
typedef struct bb_function_call {
    bb_context *ctx;
    void *state;
    int n_in, n_out;
    bb_tensor *const *in; /* what the inputs are; their values, where needed, are in the state */
    bb_tensor *const *grad_out; /* of output i, its shape and dtype; NULL: none reached it */
    const bool *want;           /* which inputs want a gradient */
    bb_tensor **grad_in; /* backward's results, as those of a gradient rule (bb_grad_call): any
                            shape the input broadcasts to, any dtype; NULL means zero */
    bool again;          /* bb_backward_retain: the state will be read once more */
} bb_function_call;
typedef struct bb_function {
    const char *name; /* for messages */
    bb_status (*backward)(const bb_function_call *call);
    /* Called exactly once: when the node has been walked, when the step ends, or at once if there
     * is no node. NULL: nothing to release. */
    void (*release)(bb_context *ctx, void *state);
} bb_function;
/* Whether bb_function_record will leave a node: gradients are on and an input wants one. */
BB_API bool bb_function_wanted(const bb_context *ctx, bb_tensor *const *in, int n);
/* Inputs may be NULL; outputs (at most BB_MAX_OUTPUTS) are new tensors of this step without
 * history. `function` outlives the step. */
BB_API bb_status bb_function_record(bb_context *ctx, const bb_function *function, void *state,
                                    bb_tensor *const *in, int n_in, bb_tensor *const *out,
                                    int n_out);
/* Inside backward: where the gradient of wanted input i may be written directly, all of it, once:
 * a contiguous tensor of its shape and dtype, the leaf's own bb_grad where that is empty. Then
 * grad_in[i] must be this tensor. NULL after an error. */
BB_API bb_tensor *bb_function_target(const bb_function_call *call, int i);

/* What a backward of one's own reads: the bytes of a tensor, past its scope and bb_drop, until
 * bb_unsave or the end of the step. A change in place after bb_save is an error of bb_saved_read,
 * in which `who` names the reader. All zero: nothing is saved. */
typedef struct bb_saved {
    bb_tensor *tensor; /* its own handle; NULL: nothing is saved, or hooks hold the value */
    uint32_t version;
    void *packed; /* of the hooks that were pushed */
    bb_context *ctx;
    uint64_t step;
} bb_saved;
BB_API bb_status bb_save(bb_tensor *t, bb_saved *saved); /* t NULL, or an error: all zero */
BB_API bb_tensor *bb_saved_read(const bb_saved *saved, bb_context *ctx, const char *who);
BB_API void bb_unsave(bb_saved *saved); /* twice does no harm */

/* Finite differences against the tape, with a random cotangent. PyTorch's defaults: eps 1e-6, atol
 * 1e-5, rtol 1e-3, f64 inputs. fn must be a pure function of its inputs, at most 32. */
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
