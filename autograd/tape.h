/* The inside of autograd. tape.c records, walk.c walks, recompute.c and gradcheck.c build on them.
 */
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
    bool done; /* walked, its saved values are gone */
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
} bb_tape;

static inline bb_tape *bb_tape_of(const bb_context *ctx) { return (bb_tape *)ctx->tape; }

/* ---- saved.c */
/* Saves t's value for `op`, or hands it to the hooks. */
bb_status bb_save(bb_tape *tape, const bb_op *op, bb_tensor *t, saved_value *saved);
void bb_unsave(bb_tape *tape, saved_value *saved);
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

/* Whether somebody records all ops, and not only those with gradients. */
static inline bool bb_is_recorded(const bb_context *ctx) {
    for (int r = 0; r < ctx->recorder_count; r++)
        if (!ctx->recorder[r]->gradients_only) return true;
    return false;
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

/* Runs `run(user, inputs)` again with gradients on, and puts the gradient of its outputs (NULL: not
 * there) for wanted inputs into grad_in. With create_graph the inputs stay connected, so that the
 * result can be differentiated again; without it run has one output. */
typedef bb_status (*bb_rerun_fn)(void *user, bb_tensor *const *inputs, int n,
                                 bb_tensor *outputs[BB_MAX_OUTPUTS]);
bb_status bb_rerun(bb_tape *tape, const walk *w, bb_rerun_fn run, void *user,
                   const bb_grad_call *grad);

extern const bb_op bb_op_recompute;

#endif
