/* Activation checkpointing: a segment leaves one node that keeps its inputs; the walk runs the
 * segment again, with the random numbers of the first time, and takes the gradients of that run.
 *
 * The second run must read what the first one read. Its inputs are saved values like any op's. What
 * else it read nobody told us: so a watch (core/impl.h) notes the version of each storage that was
 * there before the first run and that it read, and another one compares in the second run. No
 * device work, and a few entries: the parameters of a set share one storage. */
#include "autograd/tape.h"

typedef struct recompute_attrs {
    bb_segment_fn fn;
    void *user;
    bb_rng rng;
    const struct noted *outside;
} recompute_attrs;

static bb_status infer(bb_call *call) {
    return bb_fail(call->ctx, BB_ERR_ARGUMENT,
                   "recompute: expected to be called through bb_recompute");
}

/* ---- What a segment reads from outside ------------------------------------------------------ */

typedef struct noted {
    const struct noted *next;
    uint64_t serial; /* of the storage */
    uint32_t version;
} noted;

typedef struct outside_watch {
    bb_watch watch; /* first: the watch is this */
    bb_context *ctx;
    uint64_t made; /* storages with higher serials are the segment's own */
    const noted *list;
} outside_watch;

static const noted *find(const noted *list, uint64_t serial) {
    while (list && list->serial != serial) list = list->next;
    return list;
}

static bb_status note(bb_watch *self, const char *who, const bb_tensor *t) {
    outside_watch *w = (outside_watch *)self;
    const bb_storage *s = t->storage;
    (void)who;
    if (s->serial > w->made || find(w->list, s->serial)) return BB_OK;
    noted *n = bb_arena_allocate(w->ctx, &w->ctx->arena, sizeof *n);
    if (!n) return w->ctx->status;
    *n = (noted){w->list, s->serial, s->version};
    w->list = n;
    return BB_OK;
}

static bb_status compare(bb_watch *self, const char *who, const bb_tensor *t) {
    const outside_watch *w = (outside_watch *)self;
    const noted *n = find(w->list, t->storage->serial);
    if (!n || n->version == t->storage->version) return BB_OK;
    return bb_fail(w->ctx, BB_ERR_STATE,
                   "bb_backward: recompute: a tensor that its segment reads (in %s) was changed in "
                   "place after the forward pass",
                   who);
}

/* fn, while w is told what it reads. */
static bb_tensor *watched(outside_watch *w, const recompute_attrs *a, bb_tensor *const *inputs,
                          int n) {
    bb_context *ctx = w->ctx;
    w->watch.outer = ctx->watch;
    ctx->watch = &w->watch;
    bb_tensor *result = a->fn(a->user, inputs, n);
    ctx->watch = w->watch.outer;
    return result;
}

/* ---- The second run ------------------------------------------------------------------------- */

typedef struct second_run {
    bb_tape *tape;
    recompute_attrs attrs;
} second_run;

static bb_status run_again(void *user, bb_tensor *const *inputs, int n,
                           bb_tensor *outputs[BB_MAX_OUTPUTS]) {
    const second_run *r = user;
    outside_watch w = {{NULL, compare}, r->tape->ctx, 0, r->attrs.outside};
    outputs[0] = watched(&w, &r->attrs, inputs, n);
    return w.ctx->status;
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
    if (!fn || n < 0 || (n > 0 && !inputs)) {
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "bb_recompute: fn: expected a function and a list of n >= 0 inputs");
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
    recompute_attrs a = {fn, user, bb_get_rng(ctx), NULL};
    outside_watch w = {{NULL, note}, ctx, ctx->storages, NULL};
    bool before = bb_set_grad_enabled(ctx, false);
    bb_scope scope = bb_scope_begin(ctx);
    bb_tensor *result = before ? watched(&w, &a, inputs, n) : fn(user, inputs, n);
    bb_set_grad_enabled(ctx, before);
    if (!result) {
        bb_scope_end(ctx, scope, NULL);
        bb_fail(ctx, BB_ERR_STATE, "bb_recompute: fn: returned NULL");
        return NULL;
    }
    bb_tensor *out = bb_scope_end(ctx, scope, bb_detach_header(result));
    if (!out || !before || !bb_dtype_is_float((bb_dtype)out->dtype)) return out;
    bb_tape *tape = bb_tape_of(ctx);
    a.outside = w.list;
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
