/* Functions with a backward of their own: one node on the tape that holds a pointer to the caller's
 * state (autograd.h is the manual), and what such a backward is made of: saved tensors, and the
 * backward of one op outside the tape. The walk is walk.c. */
#include <string.h>

#include "autograd/tape.h"
#include "ops/ops.h"

typedef struct function_attrs {
    const bb_function *function;
    void *state;
} function_attrs;

static bb_status infer(bb_call *call) {
    return bb_fail(call->ctx, BB_ERR_ARGUMENT,
                   "function: expected to be recorded by bb_function_record");
}

/* The walk calls bb_function_backward, which knows more than a rule is told. */
const bb_op bb_op_function = {
    .name = "function",
    .doc = "a piece with a backward of its own",
    .inputs = {"inputs"},
    .outputs = {"output"},
    .attrs_bytes = sizeof(function_attrs),
    .variadic = true,
    .infer = infer,
    .gradient = bb_no_gradient,
};

const char *bb_node_name(const tape_node *node) {
    return node->op == &bb_op_function ? ((const function_attrs *)node->attrs)->function->name
                                       : node->op->name;
}

void bb_function_release(bb_context *ctx, const void *attrs) {
    const function_attrs *a = attrs;
    if (a->function->release) a->function->release(ctx, a->state);
}

bool bb_function_wanted(const bb_context *ctx, bb_tensor *const *in, int n) {
    bool wanted = false;
    for (int i = 0; in && i < n; i++) wanted |= in[i] && in[i]->requires_grad;
    return ctx && wanted && ctx->grad_enabled && !ctx->status;
}

static bb_status check(bb_context *ctx, const bb_function *function, bb_tensor *const *out,
                       int n_out) {
    if (ctx->status) return ctx->status;
    if (bb_is_recorded(ctx))
        return bb_fail(ctx, BB_ERR_STATE,
                       "%s: a graph is being recorded: expected ops, got a function with a "
                       "backward of its own",
                       function->name);
    if (!out)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: outputs: expected a list, got NULL",
                       function->name);
    if (n_out < 1 || n_out > BB_MAX_OUTPUTS)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: outputs: expected 1 to %d, got %d",
                       function->name, BB_MAX_OUTPUTS, n_out);
    for (int i = 0; i < n_out; i++) {
        if (!out[i] || !bb_tensor_usable(out[i]))
            return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: output %d: expected a tensor, got NULL",
                           function->name, i);
        if (out[i]->life != BB_LIFE_STEP || out[i]->node >= 0 || out[i]->requires_grad)
            return bb_fail(ctx, BB_ERR_ARGUMENT,
                           "%s: output %d: expected a new tensor of this step without history",
                           function->name, i);
    }
    return BB_OK;
}

bb_status bb_function_record(bb_context *ctx, const bb_function *function, void *state,
                             bb_tensor *const *in, int n_in, bb_tensor *const *out, int n_out) {
    if (!ctx || !function) return BB_ERR_ARGUMENT;
    function_attrs a = {function, state};
    bb_status status = check(ctx, function, out, n_out);
    bool wanted = !status && bb_function_wanted(ctx, in, n_in);
    if (wanted) {
        bb_call call = {.ctx = ctx,
                        .op = &bb_op_function,
                        .attrs = &a,
                        .device = (bb_device)out[0]->device,
                        .n_in = n_in,
                        .n_out = n_out,
                        .in = in,
                        .needs_grad = true};
        for (int i = 0; i < n_out; i++) call.out[i] = out[i];
        bb_tape *tape = bb_tape_of(ctx);
        status = tape->recorder.record(&tape->recorder, &call);
    }
    if (!wanted || status) bb_function_release(ctx, &a);
    return status;
}

bb_status bb_function_backward(const bb_grad_call *grad, const walk *w) {
    const bb_call *c = grad->call;
    const function_attrs *a = c->attrs;
    if (w->create_graph)
        return bb_fail(c->ctx, BB_ERR_UNSUPPORTED,
                       "%s: expected a walk for first gradients: a function with a backward of its "
                       "own has no gradient of its gradient",
                       a->function->name);
    bb_function_call call = {.ctx = c->ctx,
                             .state = a->state,
                             .n_in = c->n_in,
                             .n_out = c->n_out,
                             .in = c->in,
                             .grad_out = grad->grad_out,
                             .want = grad->want,
                             .grad_in = grad->grad_in,
                             .again = w->retain};
    bb_status status = a->function->backward(&call);
    if (status && !c->ctx->status)
        bb_fail(c->ctx, status, "%s: backward failed", a->function->name);
    return c->ctx->status;
}

bb_tensor *bb_function_target(const bb_function_call *call, int i) {
    bb_tape *tape = bb_tape_of(call->ctx);
    return bb_gradient_target(tape, tape->leaves, call->in[i]);
}

/* ---- Saved tensors -------------------------------------------------------------------------- */

bb_status bb_save(bb_tensor *t, bb_saved *saved) {
    if (!saved)
        return t ? bb_fail(t->ctx, BB_ERR_ARGUMENT, "bb_save: saved: expected one, got NULL")
                 : BB_ERR_ARGUMENT;
    memset(saved, 0, sizeof *saved);
    if (!t || t->ctx->status) return t ? t->ctx->status : BB_OK;
    if (!bb_tensor_usable(t)) return t->ctx->status;
    struct packed_value *packed;
    if (bb_pack_value(bb_tape_of(t->ctx), "bb_save", t, &packed)) return t->ctx->status;
    bb_tensor *own = packed ? NULL : bb_detach_header(t);
    if (!packed && !own) return t->ctx->status;
    if (own) own->pinned = true; /* scopes leave it alone */
    *saved = (bb_saved){own, t->storage->version, packed, t->ctx, t->ctx->step};
    return BB_OK;
}

bb_tensor *bb_saved_read(const bb_saved *saved, bb_context *ctx, const char *who) {
    if (!ctx) return NULL;
    if (!saved || !saved->ctx)
        bb_fail(ctx, BB_ERR_STATE, "%s: expected what its forward saved, got nothing: %s", who,
                "it was already read, or never saved");
    else if (saved->ctx != ctx || saved->step != ctx->step)
        bb_fail(ctx, BB_ERR_STATE, "%s: expected the step of its forward, which has ended", who);
    else if (saved->tensor && saved->tensor->storage->version != saved->version)
        bb_fail(ctx, BB_ERR_STATE,
                "%s: a tensor it saved was changed in place after the forward pass", who);
    if (ctx->status) return NULL;
    return saved->packed ? bb_unpack_value(bb_tape_of(ctx), who, saved->packed) : saved->tensor;
}

void bb_unsave(bb_saved *saved) {
    if (!saved) return;
    bool alive = saved->ctx && saved->step == saved->ctx->step;
    if (alive && saved->packed) bb_release_packed(bb_tape_of(saved->ctx), saved->packed);
    if (alive && saved->tensor) {
        saved->tensor->pinned = false;
        bb_drop(saved->tensor);
    }
    memset(saved, 0, sizeof *saved);
}

/* ---- The backward of one op ----------------------------------------------------------------- */

static bb_status compute(const bb_grad_call *grad, bb_backward_fn kernel) {
    const bb_call *call = grad->call;
    bb_context *ctx = call->ctx;
    for (int i = 0; i < call->n_in; i++) {
        const bb_tensor *t = call->in[i];
        if (!grad->want[i] || grad->grad_in[i]) continue;
        bb_shape shape = bb_shape_of_tensor(t);
        grad->grad_in[i] = bb_tensor_new(ctx, (bb_device)t->device, (bb_dtype)t->dtype, &shape);
        if (!grad->grad_in[i]) return ctx->status;
    }
    bb_status status = kernel(grad);
    if (!status && ctx->synchronize)
        status = ctx->backend[call->device]->synchronize(ctx->backend[call->device]);
    if (status) bb_fail(ctx, status, "%s: backward failed", call->op->name);
    return ctx->status;
}

static bb_status by_kernel(const bb_grad_call *grad, bb_backward_fn kernel) {
    bb_context *ctx = grad->call->ctx;
    ctx->running = grad->call;
    ctx->running_backward = true;
    bb_status status = compute(grad, kernel);
    ctx->running = NULL;
    return status;
}

/* By the gradient rule or the decomposition, whose results are brought to the inputs' shapes. */
static bb_status by_rule(const bb_grad_call *grad) {
    const bb_call *call = grad->call;
    bb_context *ctx = call->ctx;
    size_t bytes = (size_t)call->n_in * sizeof(bb_tensor *);
    bb_tensor **found = bb_arena_allocate(ctx, &ctx->arena, bytes);
    if (!found) return ctx->status;
    memset(found, 0, bytes);
    bb_grad_call inner = *grad;
    walk w = {.create_graph = false};
    inner.grad_in = found;
    bb_status status = call->op->gradient ? call->op->gradient(&inner)
                                          : bb_rerun(bb_tape_of(ctx), &w, bb_rerun_composite,
                                                     (void *)(uintptr_t)call, &inner);
    if (status) return ctx->status;
    for (int i = 0; i < call->n_in; i++) {
        if (!grad->want[i]) continue;
        bb_tensor *g = found[i];
        bb_shape shape = bb_shape_of_tensor(call->in[i]);
        if (!g) {
            g = bb_tensor_new(ctx, call->device, (bb_dtype)call->in[i]->dtype, &shape);
            if (g && g->count && ctx->backend[g->device]->fill(ctx->backend[g->device], g, 0))
                return ctx->status;
        }
        if (g && bb_check_gradient(call->op->name, i, call->in[i], g)) return ctx->status;
        g = bb_cast(bb_sum_to(g, shape), (bb_dtype)call->in[i]->dtype);
        if (!g) return ctx->status;
        if (!grad->grad_in[i])
            grad->grad_in[i] = g;
        else if (bb_copy_into(g, grad->grad_in[i]))
            return ctx->status;
    }
    return ctx->status;
}

bb_status bb_call_backward(const bb_grad_call *grad, bool fused) {
    const bb_call *call = grad->call;
    bb_context *ctx = call->ctx;
    if (ctx->status) return ctx->status;
    const bb_entry *entry = bb_find_entry(ctx, call->op);
    bb_backward_fn kernel = entry ? entry->kernel[call->device].backward : NULL;
    bool before = bb_set_grad_enabled(ctx, false);
    bb_status status = kernel && fused ? by_kernel(grad, kernel) : by_rule(grad);
    bb_set_grad_enabled(ctx, before);
    return status;
}

bb_status bb_segment_backward(bb_context *ctx, bb_rerun_fn run, void *user,
                              const bb_grad_call *grad) {
    walk w = {.create_graph = false};
    return ctx->status ? ctx->status : bb_rerun(bb_tape_of(ctx), &w, run, user, grad);
}
