/* The walk: nodes in reverse order of recording. It runs their rules; what these give is gathered
 * in gather.c. */
#include <string.h>

#include "autograd/tape.h"
#include "ops/ops.h"

bb_status bb_rerun_composite(void *user, bb_tensor *const *inputs, int n,
                             bb_tensor *outputs[BB_MAX_OUTPUTS]) {
    bb_call call = *(const bb_call *)user;
    call.in = inputs;
    call.n_in = n;
    for (int i = 0; i < call.n_out; i++) call.out[i] = NULL;
    bb_path before = call.ctx->path;
    call.ctx->path = BB_PATH_COMPOSED;
    bb_status status = call.op->decompose(&call);
    call.ctx->path = before;
    for (int i = 0; i < call.n_out - call.op->hidden && !status; i++) outputs[i] = call.out[i];
    return status;
}

/* A handle on input i's own memory for its gradient, where the op's kernels write one over the
 * other and nobody but this node holds it any more: no user, no view, no other node. NULL: not so.
 */
static bb_tensor *over_input(const walk *w, const tape_node *node, int i) {
    bb_tensor *t = node->in[i];
    if (i >= 32 || !(node->op->overwrites & node->alone & 1u << i) || w->retain) return NULL;
    if (node->saved[i].storage->give_back || !t->contiguous) return NULL;
    bb_tensor *g = bb_detach_header(t);
    if (g) bb_tensor_changed(g);
    return g;
}

/* The status of the context; who failed without a word gets a message. */
static bb_status failed(const bb_call *call, bb_status status) {
    if (status && !call->ctx->status)
        bb_fail(call->ctx, status, "%s: backward failed", call->op->name);
    return call->ctx->status;
}

/* Fused backward: allocates what it writes, but for the above; a leaf whose gradient is still empty
 * is written directly. */
static bb_status compute(bb_tape *tape, const walk *w, const tape_node *node,
                         bb_backward_fn backward, const bb_grad_call *grad) {
    bb_context *ctx = tape->ctx;
    const bb_call *call = grad->call;
    for (int i = 0; i < call->n_in; i++) {
        if (!grad->want[i]) continue;
        bb_tensor *t = call->in[i], *g = bb_empty_gradient(tape, w->leaves, t);
        if (!g) g = over_input(w, node, i);
        grad->grad_in[i] = g ? g : bb_new_gradient(ctx, t);
        if (!grad->grad_in[i]) return ctx->status;
    }
    bb_status status = backward(grad);
    if (!status && ctx->synchronize) /* BOBBIN_SYNC=1: while the op is known */
        status = ctx->backend[call->device]->synchronize(ctx->backend[call->device]);
    return failed(call, status);
}

static bb_status run_backward_kernel(bb_tape *tape, const walk *w, const tape_node *node,
                                     bb_backward_fn backward, const bb_grad_call *grad) {
    tape->ctx->running = grad->call;
    tape->ctx->running_backward = true;
    bb_status status = compute(tape, w, node, backward, grad);
    tape->ctx->running = NULL;
    return status;
}

static bb_status run_rule(bb_tape *tape, const walk *w, const tape_node *node,
                          const bb_grad_call *grad) {
    bb_context *ctx = tape->ctx;
    const bb_op *op = grad->call->op;
    const bb_entry *entry = bb_find_entry(ctx, op);
    bb_backward_fn kernel = entry ? entry->kernel[grad->call->device].backward : NULL;
    if (op == &bb_op_recompute) return op->gradient(grad);
    if (op == &bb_op_function) return bb_function_backward(grad, w);
    if (kernel && !w->create_graph) return run_backward_kernel(tape, w, node, kernel, grad);
    if (op->gradient) return failed(grad->call, op->gradient(grad));
    return bb_rerun(tape, w, bb_rerun_composite, (void *)(uintptr_t)grad->call, grad);
}

/* Gradient i of those that a rule gave; with a handle of its own where it is also held elsewhere.
 */
static bb_tensor *own_handle(const tape_node *node, bb_tensor *const *grad_in, int i) {
    bb_tensor *g = grad_in[i];
    bool elsewhere = false;
    for (int k = 0; k < node->n_in + node->n_out && !elsewhere; k++)
        elsewhere = bb_node_tensor(node, k) == g;
    for (int k = 0; k < node->n_out && !elsewhere; k++) elsewhere = node->slot[k] == g;
    for (int k = 0; k < i && !elsewhere; k++) elsewhere = grad_in[k] == g;
    return elsewhere ? bb_detach_header(g) : g;
}

static bb_status fill_missing_slots(bb_context *ctx, tape_node *node) {
    if (node->op == &bb_op_function) return BB_OK; /* it can do without */
    for (int i = 0; i < node->n_out - node->op->hidden; i++) {
        if (node->slot[i]) continue;
        node->slot[i] = bb_tensor_new(ctx, node->device, node->meta[i].dtype, &node->meta[i].shape);
        bb_backend *backend = ctx->backend[node->device];
        if (!node->slot[i]) return ctx->status;
        if (node->slot[i]->count && backend->fill(backend, node->slot[i], 0)) return ctx->status;
    }
    return BB_OK;
}

static bb_status apply_rule(bb_tape *tape, const walk *w, tape_node *node) {
    bb_context *ctx = tape->ctx;
    bb_tensor *small[BB_MAX_INPUTS] = {NULL}, **grad_in = small;
    if (node->n_in > BB_MAX_INPUTS) {
        grad_in = bb_arena_allocate(ctx, &ctx->arena, (size_t)node->n_in * sizeof *grad_in);
        if (!grad_in) return ctx->status;
        memset(grad_in, 0, (size_t)node->n_in * sizeof *grad_in);
    }
    bb_call call = {.ctx = ctx,
                    .op = node->op,
                    .attrs = node->attrs,
                    .device = node->device,
                    .n_in = node->n_in,
                    .n_out = node->n_out,
                    .in = node->in,
                    .needs_grad = true};
    for (int i = 0; i < node->n_out; i++) {
        call.meta[i] = node->meta[i];
        call.out[i] = node->out[i];
    }
    bb_grad_call grad = {&call, node->slot, node->want, grad_in};
    if (run_rule(tape, w, node, &grad)) return ctx->status;
    /* All of them before the first one goes its way: it may be dropped there. */
    for (int i = 0; i < node->n_in && !w->create_graph; i++)
        if (grad_in[i] && node->want[i] && !(grad_in[i] = own_handle(node, grad_in, i)))
            return ctx->status;
    for (int i = 0; i < node->n_in; i++) {
        bb_tensor *g = grad_in[i], *t = node->in[i];
        if (!g || !node->want[i]) continue;
        if (!bb_slot_of(tape, t) && g == t->grad) continue; /* written in place */
        if (bb_route_gradient(tape, w, node, i, g)) return ctx->status;
    }
    return BB_OK;
}

/* The gradient of a node's outputs is complete when the walk reaches it: outputs in whose gradient
 * somebody is interested get a handle on it. */
static bb_status show_output_grads(bb_tape *tape, const walk *w, tape_node *node) {
    bb_context *ctx = tape->ctx;
    for (int i = 0; i < node->n_out - node->op->hidden; i++) {
        const bb_tensor *t = node->out[i];
        if (!node->slot[i]) continue;
        if (t->retain_grad && w->leaves) {
            bb_tensor *g = bb_detach_header(node->slot[i]);
            if (!g || bb_add_to_leaf(ctx, node->out[i], g)) return ctx->status;
        }
        if (t->capture >= 0) {
            bb_tensor *g = w->create_graph ? node->slot[i] : bb_detach_header(node->slot[i]);
            if (!g) return ctx->status;
            tape->captures[t->capture] = g;
        }
    }
    return BB_OK;
}

static bb_status walk_node(bb_tape *tape, const walk *w, int index) {
    bb_context *ctx = tape->ctx;
    tape_node *node = tape->nodes[index];
    if (node->done)
        return bb_fail(ctx, BB_ERR_STATE,
                       "bb_backward: %s: its part of the tape was already walked "
                       "(bb_backward_retain keeps it)",
                       bb_node_name(node));
    for (int i = 0; i < node->n_out; i++)
        if (node->slot[i] && bb_settle_slot(tape, &node->slot[i])) return ctx->status;
    if (show_output_grads(tape, w, node)) return ctx->status;
    bb_scope scope = bb_scope_begin(ctx);
    node->alone = 0; /* before the loan, which holds on to what it lends */
    for (int i = 0; i < node->n_in && i < 32; i++)
        if (node->saved[i].storage && node->saved[i].storage->refs == 1) node->alone |= 1u << i;
    loan l;
    bb_status status = bb_lend(tape, node, &l);
    if (status) return status;
    status = fill_missing_slots(ctx, node);
    if (!status && node->op->window && !w->create_graph)
        status = bb_route_window(tape, w, node);
    else if (!status)
        status = apply_rule(tape, w, node);
    bb_take_back(tape, &l);
    if (!w->create_graph) bb_scope_end(ctx, scope, NULL);
    for (int i = 0; i < node->n_out; i++) {
        if (!w->create_graph) bb_drop(node->slot[i]);
        node->slot[i] = NULL;
    }
    if (!status && !w->retain && !w->create_graph) bb_tape_release(tape, node);
    return status;
}

bb_status bb_walk(bb_tape *tape, const walk *w, int top, int bound) {
    bb_context *ctx = tape->ctx;
    /* Whoever records all ops cannot follow a walk that adds in place and runs backward kernels. */
    if (!w->create_graph && bb_is_recorded(ctx))
        return bb_fail(ctx, BB_ERR_STATE,
                       "bb_backward: a graph is being recorded: expected gradients that are ops "
                       "themselves (bb_gradients with create_graph)");
    bool before = bb_set_grad_enabled(ctx, w->create_graph), leaves = tape->leaves;
    int outer_bound = tape->bound, outer_captures = tape->own_captures;
    tape->leaves = w->leaves, tape->bound = bound, tape->own_captures = w->own_captures;
    bb_status status = BB_OK;
    for (int i = top; i >= bound && !status; i--) {
        bool reached = false;
        for (int k = 0; k < tape->nodes[i]->n_out; k++) reached |= tape->nodes[i]->slot[k] != NULL;
        if (reached) status = walk_node(tape, w, i);
    }
    if (status) /* nothing half-gathered stays for a later walk */
        for (int i = top; i >= 0; i--)
            for (int k = 0; k < tape->nodes[i]->n_out; k++) tape->nodes[i]->slot[k] = NULL;
    if (status) tape->parts = NULL;
    tape->leaves = leaves, tape->bound = outer_bound, tape->own_captures = outer_captures;
    bb_set_grad_enabled(ctx, before);
    return status;
}
