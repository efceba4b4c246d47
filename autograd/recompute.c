/* Activation checkpointing: a segment leaves one node that keeps its inputs; the walk runs the
 * segment again, with the random numbers of the first time, and takes the gradients of that run.
 *
 * The second run must read what the first one read. Its inputs are saved values like any op's. What
 * else it read nobody told us: so the node notes the versions of all tensors of the context (one
 * pass over their list, no device work), and the second run, which is on the tape, shows which of
 * them it used. */
#include "autograd/tape.h"

typedef struct recompute_attrs {
    bb_segment_fn fn;
    void *user;
    bb_rng rng;
    const bb_versions *outside;
} recompute_attrs;

static bb_status infer(bb_call *call) {
    return bb_fail(call->ctx, BB_ERR_ARGUMENT,
                   "recompute: expected to be called through bb_recompute");
}

/* ---- What a segment reads from outside ------------------------------------------------------ */

struct bb_versions {
    int count;
    struct version {
        uint64_t serial; /* of the storage */
        uint32_t version;
    } of[];
};

static const bb_versions *note_versions(bb_context *ctx) {
    int count = 0;
    for (const bb_tensor *t = ctx->context_tensors; t; t = t->next) count++;
    size_t bytes = sizeof(bb_versions) + (size_t)count * sizeof(struct version);
    bb_versions *v = bb_arena_allocate(ctx, &ctx->arena, bytes);
    if (!v) return NULL;
    v->count = 0;
    for (const bb_tensor *t = ctx->context_tensors; t; t = t->next) {
        if (!t->storage) continue;
        v->of[v->count].serial = t->storage->serial;
        v->of[v->count++].version = t->storage->version;
    }
    return v;
}

static bool changed(const bb_versions *v, const bb_storage *s) {
    for (int i = 0; s && i < v->count; i++)
        if (v->of[i].serial == s->serial) return v->of[i].version != s->version;
    return false;
}

/* Whether the nodes from `mark` on read what was there the first time. */
static bb_status check_outside(bb_tape *tape, const bb_versions *v, int mark) {
    for (int k = mark; k < tape->count; k++)
        for (int i = 0; i < tape->nodes[k]->n_in; i++) {
            const tape_node *node = tape->nodes[k];
            const bb_storage *s = node->saved[i].storage; /* the handle may be dropped by now */
            if (!s && node->in[i]) s = node->in[i]->storage;
            if (!changed(v, s)) continue;
            return bb_fail(tape->ctx, BB_ERR_STATE,
                           "bb_backward: recompute: a tensor that its segment reads (in %s) was "
                           "changed in place after the forward pass",
                           bb_node_name(node));
        }
    return BB_OK;
}

/* ---- The second run ------------------------------------------------------------------------- */

typedef struct second_run {
    bb_tape *tape;
    recompute_attrs attrs;
} second_run;

static bb_status run_again(void *user, bb_tensor *const *inputs, int n,
                           bb_tensor *outputs[BB_MAX_OUTPUTS]) {
    const second_run *r = user;
    const bb_versions *before = r->tape->outside;
    int mark = r->tape->count;
    r->tape->outside = r->attrs.outside; /* also for the segments within */
    outputs[0] = r->attrs.fn(r->attrs.user, inputs, n);
    r->tape->outside = before;
    return check_outside(r->tape, r->attrs.outside, mark);
}

static bb_status gradient(const bb_grad_call *grad) {
    bb_context *ctx = grad->call->ctx;
    second_run again = {bb_tape_of(ctx), *(const recompute_attrs *)grad->call->attrs};
    bb_rng now = bb_get_rng(ctx);
    bb_set_rng(ctx, again.attrs.rng);
    /* grad mode is on exactly when the outer walk creates a graph */
    walk w = {.create_graph = ctx->grad_enabled, .leaves = again.tape->leaves};
    bb_status status = bb_rerun(again.tape, &w, run_again, &again, grad);
    bb_set_rng(ctx, now);
    return status;
}

const bb_op bb_op_recompute = {
    .name = "recompute",
    .doc = "a segment that backward runs again",
    .inputs = {"inputs"},
    .outputs = {"output"},
    .attrs_bytes = sizeof(recompute_attrs),
    .variadic = true,
    .saves_inputs = 1,
    .infer = infer,
    .gradient = gradient,
};

bb_tensor *bb_recompute(bb_context *ctx, bb_segment_fn fn, void *user, bb_tensor *const *inputs,
                        int n) {
    if (!ctx || ctx->status) return NULL;
    if (!fn || n < 0) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "bb_recompute: fn: expected a function and n >= 0 inputs");
        return NULL;
    }
    for (int i = 0; i < n; i++)
        if (!inputs[i] || !bb_tensor_usable(inputs[i])) {
            bb_fail(ctx, BB_ERR_ARGUMENT, "bb_recompute: inputs[%d]: expected a tensor, got NULL",
                    i);
            return NULL;
        }
    if (bb_is_recorded(ctx)) { /* a graph shows the computation itself */
        bb_tensor *result = fn(user, inputs, n);
        if (!result) bb_fail(ctx, BB_ERR_STATE, "bb_recompute: fn: returned NULL");
        return result;
    }
    bb_rng rng = bb_get_rng(ctx);
    bool before = bb_set_grad_enabled(ctx, false);
    bb_scope scope = bb_scope_begin(ctx);
    bb_tensor *result = fn(user, inputs, n);
    bb_set_grad_enabled(ctx, before);
    if (!result) {
        bb_scope_end(ctx, scope, NULL);
        bb_fail(ctx, BB_ERR_STATE, "bb_recompute: fn: returned NULL");
        return NULL;
    }
    bb_tensor *out = bb_scope_end(ctx, scope, bb_detach_header(result));
    if (!out || !before || !bb_dtype_is_float((bb_dtype)out->dtype)) return out;
    bb_tape *tape = bb_tape_of(ctx);
    recompute_attrs a = {fn, user, rng, tape->outside ? tape->outside : note_versions(ctx)};
    if (!a.outside) return NULL;
    bb_call call = {.ctx = ctx,
                    .op = &bb_op_recompute,
                    .attrs = &a,
                    .device = (bb_device)out->device,
                    .n_in = n,
                    .n_out = 1,
                    .in = inputs,
                    .out = {out},
                    .needs_grad = true};
    return tape->recorder.record(&tape->recorder, &call) ? NULL : out;
}
