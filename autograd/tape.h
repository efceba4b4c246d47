/* The inside of autograd. tape.c records, walk.c walks, recompute.c, function.c and gradcheck.c
 * build on them. */
#ifndef BOBBIN_AUTOGRAD_TAPE_H
#define BOBBIN_AUTOGRAD_TAPE_H

#include "autograd/autograd.h"
#include "core/impl.h"

/* What backward will read of a tensor: its bytes, held here whatever becomes of the handle, and the
 * version they had when the forward pass used them. Or what hooks made of it (saved.c). Both NULL:
 * not saved. */
typedef struct saved_value {
    bb_storage *storage;
    size_t offset;
    uint32_t version;
    const int64_t *stride; /* NULL: the handle's own */
    struct packed_value *packed;
} saved_value;

typedef struct tape_node {
    const bb_op *op;
    const void *attrs;
    bb_tensor **in;
    bool *want;         /* which inputs get a gradient */
    saved_value *saved; /* n_in of inputs, then n_out of outputs */
    bb_tensor *out[BB_MAX_OUTPUTS];
    bb_tensor *slot[BB_MAX_OUTPUTS]; /* gradient gathered so far; the slot owns its handle */
    bb_meta meta[BB_MAX_OUTPUTS];
    int n_in, n_out;
    bb_device device;
    bool done;      /* walked, its saved values are gone */
    unsigned alone; /* bit i: when its turn came, nobody else held what it saved of input i */
} tape_node;

typedef struct bb_tape {
    bb_recorder recorder; /* first: the recorder is the tape */
    bb_context *ctx;
    tape_node **nodes; /* the nodes themselves live in the step's arena */
    int count, capacity;
    bb_tensor **captures; /* gradients asked for by bb_gradients, innermost walk last */
    int capture_count, capture_capacity;
    bool leaves;           /* of the walk under way */
    int bound;             /* its lowest node */
    int own_captures;      /* the first capture that belongs to it and not to a walk around it */
    bb_saved_hooks *hooks; /* the innermost last; pack NULL: none are asked */
    int hook_count, hook_capacity;
    struct packed_value *packed[64]; /* by the serial of the storage, so that each is packed once */
    int relaid;                      /* handles on loan with other strides than their own */
    struct offload *offload;         /* offload.c; NULL: never asked for */
    struct bb_part *parts;           /* gather.c: slots of which only a part is written */
} bb_tape;

static inline bb_tape *bb_tape_of(const bb_context *ctx) { return (bb_tape *)ctx->tape; }

/* ---- saved.c */
/* Saves t's value for `op`, or hands it to the hooks. */
bb_status bb_save_value(bb_tape *tape, const bb_op *op, bb_tensor *t, saved_value *saved);
void bb_unsave_value(bb_tape *tape, saved_value *saved);
/* The same for those who keep values themselves (bb_save): *packed stays NULL if no hook took t. */
bb_status bb_pack_value(bb_tape *tape, const char *who, bb_tensor *t, struct packed_value **packed);
bb_tensor *bb_unpack_value(bb_tape *tape, const char *who, const struct packed_value *packed);
void bb_release_packed(bb_tape *tape, struct packed_value *packed);
void bb_saved_end_step(bb_tape *tape); /* releases what nobody did */
void bb_saved_close(bb_tape *tape);
/* Lends a node's saved values to their handles while its rule runs. */
typedef struct lent_value {
    bb_tensor *t;
    const struct packed_value *packed;
    bb_storage *storage; /* what t had before */
    char *data;
    uint8_t life;
    bool contiguous, relaid;
    int64_t stride[BB_MAX_RANK]; /* if relaid */
} lent_value;
typedef struct loan {
    lent_value small[BB_MAX_INPUTS + BB_MAX_OUTPUTS], *list;
    int count;
} loan;
bb_status bb_lend(bb_tape *tape, const tape_node *node,
                  loan *l); /* nothing is lent after a failure */
void bb_take_back(bb_tape *tape, loan *l);

/* ---- offload.c */
void bb_offload_end_step(bb_tape *tape);
void bb_offload_close(bb_tape *tape);

static inline bb_tensor *bb_node_tensor(const tape_node *node, int i) {
    return i < node->n_in ? node->in[i] : node->out[i - node->n_in];
}

void bb_tape_release(bb_tape *tape, tape_node *node); /* lets go of what it saved */
void bb_tape_truncate(bb_tape *tape, int count);      /* forgets the nodes above */

/* One walk over the nodes from `top` down to `bound` (inclusive). Slots and captures are already
 * seeded. */
typedef struct walk {
    bool create_graph, retain;
    bool leaves; /* add into leaves' bb_grad */
    int own_captures;
} walk;
bb_status bb_walk(bb_tape *tape, const walk *w, int top, int bound);

/* ---- gather.c */
typedef struct bb_part bb_part;
/* Where the gradient of t is gathered: a node's slot; for a captured tensor that this walk does not
 * go beyond, its capture; NULL for a leaf. */
bb_tensor **bb_slot_of(bb_tape *tape, const bb_tensor *t);
/* Makes a slot whole, before it is read. */
bb_status bb_settle_slot(bb_tape *tape, bb_tensor **slot);
/* Gives g to input i: summed down, cast to its dtype, added where its gradient is gathered. */
bb_status bb_route_gradient(bb_tape *tape, const walk *w, const tape_node *node, int i,
                            bb_tensor *g);
/* The same for a window (slice, select), through the same view of the input's gradient, with no
 * tensor of zeros. */
bb_status bb_route_window(bb_tape *tape, const walk *w, tape_node *node);
/* Uninitialized, of t's shape and dtype. */
bb_tensor *bb_new_gradient(bb_context *ctx, const bb_tensor *t);
/* The empty gradient of a leaf that the walk adds to: where it may be written. NULL: none. */
bb_tensor *bb_empty_gradient(bb_tape *tape, bool leaves, bb_tensor *t);
/* Where the gradient of t may be written: its own bb_grad if the walk adds to leaves and it is one
 * whose gradient is still empty, else a new tensor. */
bb_tensor *bb_gradient_target(bb_tape *tape, bool leaves, bb_tensor *t);
/* Whether gradient g can be summed down to input i, t; otherwise an error that names both. */
bb_status bb_check_gradient(const char *op, int i, const bb_tensor *t, const bb_tensor *g);
/* Adds g, of leaf's shape and dtype, to leaf's gradient, or makes it that. */
bb_status bb_add_to_leaf(bb_context *ctx, bb_tensor *leaf, bb_tensor *g);

/* Runs `run(user, inputs)` again with gradients on, and puts the gradient of its outputs (NULL: not
 * there) for wanted inputs into grad_in. With create_graph the inputs stay connected, so that the
 * result can be differentiated again; without it run has one output. */
typedef bb_status (*bb_rerun_fn)(void *user, bb_tensor *const *inputs, int n,
                                 bb_tensor *outputs[BB_MAX_OUTPUTS]);
bb_status bb_rerun(bb_tape *tape, const walk *w, bb_rerun_fn run, void *user,
                   const bb_grad_call *grad);

bb_status bb_rerun_composite(void *call, bb_tensor *const *inputs, int n,
                             bb_tensor *outputs[BB_MAX_OUTPUTS]);

extern const bb_op bb_op_recompute;

/* ---- function.c */
extern const bb_op bb_op_function;
const char *bb_node_name(const tape_node *node); /* the op's, or the caller's for a function */
void bb_function_release(bb_context *ctx, const void *attrs);
bb_status bb_function_backward(const bb_grad_call *grad, const walk *w);

/* For those who run calls outside the tape (core's bb_run_call): gradients of a call whose inputs
 * and outputs hold what the op saves. grad_in[i] of a wanted input may name where to write, in the
 * input's shape and dtype; where it is NULL, a new tensor of these comes there. `fused` as
 * bb_run_call said. */
bb_status bb_call_backward(const bb_grad_call *grad, bool fused);
/* Gradients of run's first output, which is run again; grad->call gives ctx, in and n_in. */
bb_status bb_segment_backward(bb_context *ctx, bb_rerun_fn run, void *user,
                              const bb_grad_call *grad);

#endif
