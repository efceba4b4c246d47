/* Gathering gradients. Here, and only here, they are added, summed down to the shape of a broadcast
 * input, and cast; the walk (walk.c) says when.
 *
 * A slot gathers the gradient of one node output. Each slot owns its tensor handle: a gradient that
 * goes to two places gets a second handle on the same storage. So a storage with a single reference
 * belongs to that slot alone, and the next gradient is added to it in place. Handles in slots are
 * pinned, so that the scope that drops a rule's temporaries leaves them. A walk that creates a
 * graph does none of this: it drops nothing, and its slots hold whatever handles the rules give. */
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
static bb_status backend_zero(bb_context *ctx, bb_tensor *target) {
    bb_backend *backend = ctx->backend[target->device];
    return target->count ? backend->fill(backend, target, 0) : BB_OK;
}

bb_tensor *bb_new_gradient(bb_context *ctx, const bb_tensor *t) {
    bb_shape shape = bb_shape_of_tensor(t);
    return bb_tensor_new(ctx, (bb_device)t->device, (bb_dtype)t->dtype, &shape);
}

bb_tensor **bb_slot_of(bb_tape *tape, const bb_tensor *t) {
    bool ends_here = t->node < 0 || (t->node < tape->bound && t->capture >= tape->own_captures);
    if (t->capture >= 0 && ends_here) return &tape->captures[t->capture];
    if (t->node >= 0) return &tape->nodes[t->node]->slot[t->node_output];
    return NULL;
}

/* ---- Slots that are written part by part ----------------------------------------------------- */

/* Windows that lie side by side along one axis (heads cut apart, say) are copied, not added, to a
 * slot that nothing was written to; only what no window covers becomes zeros, and only if somebody
 * asks for it. */
struct bb_part {
    bb_part *next;
    bb_tensor **slot;
    int axis;
    int64_t begin, end; /* written, along the axis */
};

/* Finds the one axis along which `window`, a view of `whole`, is a part without gaps. */
static bool side_by_side(const bb_tensor *window, const bb_tensor *whole, bb_part *part) {
    part->axis = -1;
    if (window->rank != whole->rank || window->count == 0) return false;
    for (int i = 0; i < whole->rank; i++) {
        if (window->stride[i] != whole->stride[i]) return false;
        if (window->size[i] == whole->size[i]) continue;
        if (part->axis >= 0) return false;
        part->axis = i;
    }
    if (part->axis < 0) return false;
    const size_t bytes = bb_dtype_bytes((bb_dtype)whole->dtype);
    part->begin =
        (int64_t)((size_t)(window->data - whole->data) / bytes) / whole->stride[part->axis];
    part->end = part->begin + window->size[part->axis];
    return true;
}

static bb_part **part_of(bb_tape *tape, bb_tensor *const *slot) {
    bb_part **at = &tape->parts;
    while (*at && (*at)->slot != slot) at = &(*at)->next;
    return at;
}

static bb_status zero_between(bb_tensor *whole, int axis, int64_t begin, int64_t end) {
    if (begin == end) return BB_OK;
    bb_shape shape = bb_shape_of_tensor(whole);
    shape.size[axis] = end - begin;
    bb_tensor *rest = bb_tensor_view(whole, &shape, whole->stride, begin * whole->stride[axis]);
    bb_status status = rest ? backend_zero(whole->ctx, rest) : whole->ctx->status;
    bb_drop(rest);
    return status;
}

bb_status bb_settle_slot(bb_tape *tape, bb_tensor **slot) {
    bb_part **at = part_of(tape, slot), *part = *at;
    if (!part) return BB_OK;
    *at = part->next;
    bb_status status = zero_between(*slot, part->axis, 0, part->begin);
    if (!status) status = zero_between(*slot, part->axis, part->end, (*slot)->size[part->axis]);
    return status;
}

/* Writes g to `window` of the slot where nothing was written yet. *done false: something may have
 * been, and all of the slot has values now. */
static bb_status write_part(bb_tape *tape, bb_tensor **slot, bool fresh, bb_tensor *g,
                            bb_tensor *window, bool *done) {
    bb_context *ctx = tape->ctx;
    bb_part **at = part_of(tape, slot), *part = *at, here;
    const bool beside = side_by_side(window, *slot, &here);
    *done = beside && (fresh || (part && part->axis == here.axis &&
                                 (here.begin == part->end || here.end == part->begin)));
    if (!*done) return fresh ? backend_zero(ctx, *slot) : bb_settle_slot(tape, slot);
    if (fresh) {
        part = bb_arena_allocate(ctx, &ctx->arena, sizeof *part);
        if (!part) return ctx->status;
        *part = here;
        part->slot = slot;
        part->next = tape->parts;
        tape->parts = part;
        at = &tape->parts;
    }
    if (here.begin < part->begin) part->begin = here.begin;
    if (here.end > part->end) part->end = here.end;
    if (part->begin == 0 && part->end == (*slot)->size[part->axis]) *at = part->next;
    return bb_copy_into(g, window);
}

/* ---- Adding ---------------------------------------------------------------------------------- */

static bb_status add_to_slot(bb_tape *tape, bool create_graph, bb_tensor **slot, bb_tensor *g) {
    bb_context *ctx = tape->ctx;
    bb_tensor *have = *slot;
    if (have && bb_settle_slot(tape, slot)) return ctx->status;
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
    bb_shape shape = bb_shape_of_tensor(leaf);
    if (!leaf->grad && leaf->life == BB_LIFE_CONTEXT)
        leaf->grad = bb_tensor_context(ctx, (bb_device)leaf->device, (bb_dtype)leaf->dtype, &shape);
    else if (!leaf->grad)
        leaf->grad = bb_new_gradient(ctx, leaf);
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

bb_status bb_route_gradient(bb_tape *tape, const walk *w, const tape_node *node, int i,
                            bb_tensor *g) {
    bb_context *ctx = tape->ctx;
    bb_tensor *t = node->in[i];
    bb_shape want = bb_shape_of_tensor(t), got = bb_shape_of_tensor(g);
    if (bb_check_gradient(bb_node_name(node), i, t, g)) return ctx->status;
    if (!bb_shape_equal(&want, &got)) g = bb_sum_to(g, want);
    if (g && g->dtype != t->dtype) g = bb_cast(g, (bb_dtype)t->dtype);
    if (!g) return ctx->status;
    bb_tensor **slot = bb_slot_of(tape, t);
    if (!slot) return w->leaves ? bb_add_to_leaf(ctx, t, g) : BB_OK;
    if (add_to_slot(tape, w->create_graph, slot, g)) return ctx->status;
    if (!w->create_graph) (*slot)->pinned = true;
    return BB_OK;
}

bb_status bb_route_window(bb_tape *tape, const walk *w, tape_node *node) {
    bb_context *ctx = tape->ctx;
    bb_tensor *t = node->in[0], **slot = bb_slot_of(tape, t), *whole;
    bool fresh = false, done = false;
    if (!slot) {
        if (!w->leaves) return BB_OK;
        if (leaf_grad(ctx, t)) return ctx->status;
        whole = t->grad;
        if (t->grad_empty && backend_zero(ctx, whole)) return ctx->status;
        t->grad_empty = false;
        bb_tensor_changed(whole);
    } else if (*slot && exclusive(*slot)) {
        whole = *slot;
    } else {
        whole = bb_new_gradient(ctx, t);
        if (!whole) return ctx->status;
        fresh = !*slot;
        if (*slot && bb_copy_into(*slot, whole)) return ctx->status;
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
    /* A capture is its user's, who reads it whole. */
    if (slot && t->node >= 0 && slot == &tape->nodes[t->node]->slot[t->node_output]) {
        if (write_part(tape, slot, fresh, node->slot[0], view.out[0], &done)) return ctx->status;
    } else if (fresh && backend_zero(ctx, whole)) {
        return ctx->status;
    }
    return done ? BB_OK : backend_add(ctx, node->slot[0], view.out[0]);
}

bb_tensor *bb_empty_gradient(bb_tape *tape, bool leaves, bb_tensor *t) {
    if (bb_slot_of(tape, t) || !leaves || !t->grad || !t->grad_empty) return NULL;
    if (!t->grad->storage || !t->grad->contiguous) return NULL;
    t->grad_empty = false; /* also keeps a second use of this leaf from writing over it */
    bb_tensor_changed(t->grad);
    return t->grad;
}

bb_tensor *bb_gradient_target(bb_tape *tape, bool leaves, bb_tensor *t) {
    bb_tensor *direct = bb_empty_gradient(tape, leaves, t);
    return direct ? direct : bb_new_gradient(tape->ctx, t);
}
