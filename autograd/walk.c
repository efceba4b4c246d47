/* The walk: nodes in reverse order of recording. Here, and only here, gradients are added and
 * summed down to the shape of a broadcast input.
 *
 * A slot gathers the gradient of one node output. Each slot owns its tensor handle: a gradient that
 * goes to two places gets a second handle on the same storage. So a storage with a single reference
 * belongs to that slot alone, and the next gradient is added to it in place. Handles in slots are
 * pinned, so that the scope that drops a rule's temporaries leaves them. A walk that creates a
 * graph does none of this: it drops nothing, and its slots hold whatever handles the rules give. */
#include <string.h>

#include "autograd/tape.h"
#include "ops/ops.h"

static bool exclusive(const bb_tensor *t) {
    if (t->storage->refs != 1) return false;
    for (int i = 0; i < t->rank; i++)
        if (t->stride[i] == 0 && t->size[i] > 1) return false;
    return true;
}

static bb_status backend_add(bb_context *ctx, const bb_tensor *source, bb_tensor *target) {
    bb_backend *backend = ctx->backend[target->device];
    return target->count ? backend->add(backend, source, target) : BB_OK;
}
static bb_status backend_fill(bb_context *ctx, bb_tensor *target, double value) {
    bb_backend *backend = ctx->backend[target->device];
    return target->count ? backend->fill(backend, target, value) : BB_OK;
}

static bb_tensor *new_like(bb_context *ctx, const bb_tensor *t, bool of_context) {
    bb_shape shape = bb_shape_of_tensor(t);
    return of_context ? bb_tensor_context(ctx, (bb_device)t->device, (bb_dtype)t->dtype, &shape)
                      : bb_tensor_new(ctx, (bb_device)t->device, (bb_dtype)t->dtype, &shape);
}

/* Where the gradient of t is gathered: a node's slot; for a captured tensor that this walk does not
 * go beyond, its capture; NULL for a leaf. */
static bb_tensor **slot_of(bb_tape *tape, const bb_tensor *t) {
    bool ends_here = t->node < 0 || (t->node < tape->bound && t->capture >= tape->own_captures);
    if (t->capture >= 0 && ends_here) return &tape->captures[t->capture];
    if (t->node >= 0) return &tape->nodes[t->node]->slot[t->node_output];
    return NULL;
}

static bb_status add_to_slot(bb_context *ctx, bool create_graph, bb_tensor **slot, bb_tensor *g) {
    bb_tensor *have = *slot;
    if (!have) {
        *slot = g;
    } else if (create_graph) {
        *slot = bb_add(have, g);
    } else if (exclusive(have)) {
        bb_status status = backend_add(ctx, g, have);
        bb_drop(g);
        return status;
    } else if (exclusive(g)) {
        bb_status status = backend_add(ctx, have, g);
        bb_drop(have);
        *slot = g;
        return status;
    } else {
        *slot = bb_add(have, g);
        bb_drop(have);
        bb_drop(g);
    }
    return *slot ? BB_OK : ctx->status;
}

/* New bytes for a gradient that its user gave back. That of a parameter stands in a block, whose
 * owner must say that it begins anew. */
static bb_status revive_grad(bb_context *ctx, bb_tensor *leaf) {
    if (leaf->life == BB_LIFE_CONTEXT && !leaf->kept)
        return bb_fail(ctx, BB_ERR_STATE,
                       "bb_backward: the gradient of a parameter was dropped (bb_drop): expected "
                       "bb_params_zero_grad before the next backward");
    size_t bytes = (size_t)leaf->count * bb_dtype_bytes((bb_dtype)leaf->dtype);
    bb_storage *s = bb_storage_new(ctx, (bb_device)leaf->device, bytes);
    if (s) bb_tensor_revive(leaf->grad, s, 0);
    return ctx->status;
}

/* The gradient of a leaf, made on first use with the leaf's own lifetime. */
static bb_status leaf_grad(bb_context *ctx, bb_tensor *leaf) {
    if (leaf->grad && leaf->grad->storage) return BB_OK;
    leaf->grad_empty = true;
    if (!leaf->grad)
        leaf->grad = new_like(ctx, leaf, leaf->life == BB_LIFE_CONTEXT);
    else if (revive_grad(ctx, leaf))
        return ctx->status;
    if (!leaf->grad) return ctx->status;
    leaf->grad->pinned = leaf->grad->storage->gradient = true;
    return BB_OK;
}

bb_status bb_add_to_leaf(bb_context *ctx, bb_tensor *leaf, bb_tensor *g) {
    if (!leaf->grad && leaf->life == BB_LIFE_STEP && g->contiguous && exclusive(g)) {
        leaf->grad = g;
        leaf->grad_empty = false;
        g->pinned = g->storage->gradient = true;
        return BB_OK;
    }
    if (leaf_grad(ctx, leaf)) return ctx->status;
    bb_status status =
        leaf->grad_empty ? bb_copy_into(g, leaf->grad) : backend_add(ctx, g, leaf->grad);
    leaf->grad_empty = false;
    bb_tensor_changed(leaf->grad); /* an op may have saved it */
    return status;
}

bb_status bb_check_gradient(const char *op, int i, const bb_tensor *t, const bb_tensor *g) {
    bb_shape want = bb_shape_of_tensor(t), got = bb_shape_of_tensor(g), both;
    if (bb_shape_broadcast(&want, &got, &both) && bb_shape_equal(&both, &got)) return BB_OK;
    char a[BB_SHAPE_TEXT], b[BB_SHAPE_TEXT];
    return bb_fail(t->ctx, BB_ERR_STATE,
                   "bb_backward: %s: gradient of input %d: expected shape %s or one that it "
                   "broadcasts to, got %s",
                   op, i, bb_shape_text(&want, a), bb_shape_text(&got, b));
}

/* Gives g to input i: summed down, cast to its dtype, added where its gradient is gathered. */
static bb_status route(bb_tape *tape, const walk *w, const tape_node *node, int i, bb_tensor *g) {
    bb_context *ctx = tape->ctx;
    bb_tensor *t = node->in[i];
    bb_shape want = bb_shape_of_tensor(t), got = bb_shape_of_tensor(g);
    if (bb_check_gradient(bb_node_name(node), i, t, g)) return ctx->status;
    if (!bb_shape_equal(&want, &got)) g = bb_sum_to(g, want);
    if (g && g->dtype != t->dtype) g = bb_cast(g, (bb_dtype)t->dtype);
    if (!g) return ctx->status;
    bb_tensor **slot = slot_of(tape, t);
    if (!slot) return w->leaves ? bb_add_to_leaf(ctx, t, g) : BB_OK;
    if (add_to_slot(ctx, w->create_graph, slot, g)) return ctx->status;
    if (!w->create_graph) (*slot)->pinned = true;
    return BB_OK;
}

/* ---- One node -------------------------------------------------------------------------------- */

/* A window (slice, select): adds through the same view of the input's gradient, with no tensor of
 * zeros. */
static bb_status add_window(bb_tape *tape, const walk *w, tape_node *node) {
    bb_context *ctx = tape->ctx;
    bb_tensor *t = node->in[0], **slot = slot_of(tape, t), *whole;
    if (!slot) {
        if (!w->leaves) return BB_OK;
        if (leaf_grad(ctx, t)) return ctx->status;
        whole = t->grad;
        if (t->grad_empty && backend_fill(ctx, whole, 0)) return ctx->status;
        t->grad_empty = false;
        bb_tensor_changed(whole);
    } else if (*slot && exclusive(*slot)) {
        whole = *slot;
    } else {
        whole = new_like(ctx, t, false);
        if (!whole) return ctx->status;
        if (*slot ? bb_copy_into(*slot, whole) : backend_fill(ctx, whole, 0)) return ctx->status;
        bb_drop(*slot);
        *slot = whole;
    }
    whole->pinned = true;
    bb_call view = {.ctx = ctx,
                    .op = node->op,
                    .attrs = node->attrs,
                    .device = node->device,
                    .n_in = 1,
                    .n_out = 1,
                    .in = &whole};
    view.meta[0] = node->meta[0];
    if (node->op->view(&view)) return ctx->status;
    return backend_add(ctx, node->slot[0], view.out[0]);
}

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

/* The empty gradient of a leaf that the walk adds to: where it may be written. NULL: none. */
static bb_tensor *empty_gradient(bb_tape *tape, bool leaves, bb_tensor *t) {
    if (slot_of(tape, t) || !leaves || !t->grad || !t->grad_empty) return NULL;
    if (!t->grad->storage || !t->grad->contiguous) return NULL;
    t->grad_empty = false; /* also keeps a second use of this leaf from writing over it */
    bb_tensor_changed(t->grad);
    return t->grad;
}

bb_tensor *bb_gradient_target(bb_tape *tape, bool leaves, bb_tensor *t) {
    bb_tensor *direct = empty_gradient(tape, leaves, t);
    return direct ? direct : new_like(tape->ctx, t, false);
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
        bb_tensor *t = call->in[i], *g = empty_gradient(tape, w->leaves, t);
        if (!g) g = over_input(w, node, i);
        grad->grad_in[i] = g ? g : new_like(ctx, t, false);
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
        if (!node->slot[i] || backend_fill(ctx, node->slot[i], 0)) return ctx->status;
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
        if (!slot_of(tape, t) && g == t->grad) continue; /* written in place */
        if (route(tape, w, node, i, g)) return ctx->status;
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
        status = add_window(tape, w, node);
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
    tape->leaves = leaves, tape->bound = outer_bound, tape->own_captures = outer_captures;
    bb_set_grad_enabled(ctx, before);
    return status;
}
