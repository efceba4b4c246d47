/* The tape: a recorder that keeps one node per op whose result needs a gradient. What a node saves
 * is saved.c, the walk is walk.c. */
#include <string.h>

#include "autograd/tape.h"

void bb_tape_release(bb_tape *tape, tape_node *node) {
    for (int i = 0; i < node->n_in + node->n_out; i++) bb_unsave_value(tape, &node->saved[i]);
    if (node->op == &bb_op_function && !node->done) bb_function_release(tape->ctx, node->attrs);
    node->done = true;
}

void bb_tape_truncate(bb_tape *tape, int count) {
    while (tape->count > count) bb_tape_release(tape, tape->nodes[--tape->count]);
}

static bb_status reserve(bb_tape *tape) {
    if (tape->count < tape->capacity) return BB_OK;
    int capacity = tape->capacity ? tape->capacity * 2 : 256;
    tape_node **nodes = bb_host_allocate(tape->ctx, (size_t)capacity * sizeof *nodes);
    if (!nodes) return tape->ctx->status;
    if (tape->count) memcpy(nodes, tape->nodes, (size_t)tape->count * sizeof *nodes);
    bb_host_release(tape->ctx, tape->nodes, (size_t)tape->capacity * sizeof *nodes);
    tape->nodes = nodes;
    tape->capacity = capacity;
    return BB_OK;
}

/* Bit of input i in an op's masks: all tensors of a variadic name share the name's bit. */
static bool input_bit(const bb_op *op, int names, unsigned mask, int i) {
    return mask >> (op->variadic && i >= names ? names - 1 : i) & 1;
}

static tape_node *new_node(bb_tape *tape, const bb_call *call) {
    size_t in_bytes = (size_t)call->n_in * sizeof(bb_tensor *);
    size_t saved_bytes = (size_t)(call->n_in + call->n_out) * sizeof(saved_value);
    size_t attrs_bytes = (call->op->attrs_bytes + 7) & ~(size_t)7;
    char *block = bb_arena_allocate(tape->ctx, &tape->ctx->arena,
                                    sizeof(tape_node) + saved_bytes + in_bytes + attrs_bytes +
                                        (size_t)call->n_in);
    if (!block) return NULL;
    tape_node *node = (tape_node *)(void *)block;
    block += sizeof *node;
    node->saved = (saved_value *)(void *)block;
    block += saved_bytes;
    node->in = (bb_tensor **)(void *)block;
    block += in_bytes;
    node->attrs = call->attrs ? block : NULL;
    if (call->attrs) memcpy(block, call->attrs, call->op->attrs_bytes);
    node->want = (bool *)(block + attrs_bytes);
    return node;
}

/* What the record says backward will read. */
static bb_status save_values(bb_tape *tape, const bb_call *call, tape_node *node) {
    const bb_op *op = call->op;
    int names = op->variadic ? bb_op_input_count(op) : call->n_in;
    /* A fused composite within a decomposition: its inputs are dropped when the decomposition ends,
     * and a second-order gradient would need them to run it again. */
    unsigned mask = op->decompose && tape->ctx->composing ? ~0u : op->saves_inputs;
    int n = call->n_in + call->n_out;
    memset(node->saved, 0, (size_t)n * sizeof *node->saved);
    for (int i = 0; i < n; i++) {
        bb_tensor *t = i < call->n_in ? call->in[i] : call->out[i - call->n_in];
        bool wanted = i < call->n_in ? t && input_bit(op, names, mask, i)
                                     : op->saves_outputs >> (i - call->n_in) & 1;
        if (!wanted || bb_save_value(tape, op, t, &node->saved[i]) == BB_OK) continue;
        while (i-- > 0) bb_unsave_value(tape, &node->saved[i]);
        return tape->ctx->status;
    }
    return BB_OK;
}

static bb_status record(bb_recorder *self, const bb_call *call) {
    bb_tape *tape = (bb_tape *)self;
    const bb_op *op = call->op;
    if (reserve(tape)) return tape->ctx->status;
    tape_node *node = new_node(tape, call);
    if (!node) return tape->ctx->status;
    node->op = op, node->device = call->device, node->n_in = call->n_in, node->n_out = call->n_out,
    node->done = false;
    if (save_values(tape, call, node)) return tape->ctx->status;
    for (int i = 0; i < call->n_in; i++) {
        bb_tensor *t = call->in[i];
        node->in[i] = t;
        node->want[i] = t && t->requires_grad;
    }
    int index = tape->count++;
    tape->nodes[index] = node;
    for (int i = 0; i < call->n_out; i++) {
        bb_tensor *t = call->out[i];
        node->out[i] = t;
        node->slot[i] = NULL;
        node->meta[i] = (bb_meta){(bb_dtype)t->dtype, bb_shape_of_tensor(t)};
        if (i >= call->n_out - op->hidden) {
            bb_drop(t); /* nobody else has this handle; the tape holds the bytes */
        } else if (bb_dtype_is_float((bb_dtype)t->dtype)) {
            t->requires_grad = true;
            t->node = index;
            t->node_output = i;
        }
    }
    return BB_OK;
}

static void end_step(bb_recorder *self) {
    bb_tape_truncate((bb_tape *)self, 0);
    bb_saved_end_step((bb_tape *)self);
    bb_offload_end_step((bb_tape *)self);
}

static void close_tape(bb_recorder *self) {
    bb_tape *tape = (bb_tape *)self;
    bb_context *ctx = tape->ctx;
    bb_offload_close(tape);
    bb_saved_close(tape);
    bb_host_release(ctx, tape->nodes, (size_t)tape->capacity * sizeof *tape->nodes);
    bb_host_release(ctx, tape->captures, (size_t)tape->capture_capacity * sizeof *tape->captures);
    bb_host_release(ctx, tape, sizeof *tape);
    ctx->tape = NULL;
}

bb_status bb_attach_tape(bb_context *ctx) {
    if (!ctx) return BB_ERR_ARGUMENT;
    bb_tape *tape = bb_host_allocate(ctx, sizeof *tape);
    if (!tape) return ctx->status;
    memset(tape, 0, sizeof *tape);
    tape->recorder = (bb_recorder){
        .record = record, .end_step = end_step, .close = close_tape, .gradients_only = true};
    tape->ctx = ctx;
    ctx->tape = tape;
    if (bb_attach_recorder(ctx, &tape->recorder)) {
        close_tape(&tape->recorder);
        return ctx->status;
    }
    return BB_OK;
}

int bb_tape_length(const bb_context *ctx) { return ctx ? bb_tape_of(ctx)->count : 0; }
const bb_op *bb_tape_op(const bb_context *ctx, int node) {
    return ctx && node >= 0 && node < bb_tape_of(ctx)->count ? bb_tape_of(ctx)->nodes[node]->op
                                                             : NULL;
}
