/* The life of one call: infer, choose, run, record. The choice between a fused kernel and the
 * decomposition of a composite is made here and nowhere else:
 *
 *   gradient needed | backend has          | the composite runs
 *   no              | forward              | fused
 *   yes             | forward and backward | fused, one node
 *   yes             | forward only         | composed: a gradient is never lost silently
 *   any             | nothing              | composed
 *
 * A primitive runs its kernel; a view op re-reads its input's storage. */
#include <string.h>

#include "core/impl.h"

enum { ATTRS_MAX = 1024 };

static bb_status check_inputs(bb_call *call, const bb_entry *entry) {
    const bb_op *op = call->op;
    bb_context *ctx = call->ctx;
    int names = entry->n_inputs;
    if (op->variadic ? call->n_in < names : call->n_in != names)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: inputs: expected %s%d, got %d", op->name,
                       op->variadic ? "at least " : "", names, call->n_in);
    const bb_tensor *first = NULL;
    bool wants = false;
    for (int i = 0; i < call->n_in; i++) {
        const bb_tensor *t = call->in[i];
        if (!t) {
            if (i < 32 && op->optional >> i & 1) continue;
            return bb_fail_input(call, i, "expected a tensor, got NULL");
        }
        if (t->ctx != ctx)
            return bb_fail_input(call, i, "expected a tensor of this context, got one of another");
        if (!t->storage) return bb_fail_lost_input(call, i);
        if (ctx->watch && !op->view && bb_tell_watch(ctx, op->name, t)) return ctx->status;
        if (!first)
            first = t;
        else if (t->device != first->device)
            return bb_fail_input(call, i,
                                 "expected a tensor on %s like the first input, got one on %s",
                                 ctx->backend[first->device]->name, ctx->backend[t->device]->name);
        wants |= t->requires_grad;
    }
    call->device = first ? (bb_device)first->device : ctx->device;
    if (ctx->capturing && call->device != ctx->capture_device)
        return bb_refuse_in_capture(ctx, op->name, "work on another device is not part of it");
    call->needs_grad = wants && ctx->grad_enabled && op->gradient != bb_no_gradient;
    return BB_OK;
}

static int words(const char *choices) {
    int n = 1;
    for (const char *c = choices; *c; c++) n += *c == '|';
    return n;
}

/* Attributes that take one of a few values, and the lengths of lists (their upper bound is the
 * rule's: a rank), so that no rule and no kernel meets another. */
static bb_status check_attrs(const bb_call *call) {
    for (const bb_attr *a = call->op->attrs; a->name; a++) {
        const char *field = (const char *)call->attrs + a->offset;
        int value = 0;
        if (a->type == BB_ATTR_CHOICE)
            memcpy(&value, field, sizeof value);
        else if (a->type == BB_ATTR_BOOL)
            value = *(const unsigned char *)field;
        if (a->type == BB_ATTR_CHOICE && (value < 0 || value >= words(a->choices)))
            return bb_fail_attr(call, a->name, "expected one of %s, got number %d", a->choices,
                                value);
        if (a->type == BB_ATTR_BOOL && value > 1)
            return bb_fail_attr(call, a->name, "expected false or true, got byte %d", value);
        if (a->type == BB_ATTR_INTS && (value = ((const bb_ints *)(const void *)field)->n) < 0)
            return bb_fail_attr(call, a->name, "expected a list of 0 or more, got %d", value);
    }
    return BB_OK;
}

static bb_status infer(bb_call *call, const bb_entry *entry) {
    bb_status status = check_inputs(call, entry);
    if (!status && entry->checks_attrs) status = check_attrs(call);
    return status ? status : call->op->infer(call);
}

static bool can_fuse(const bb_call *call, const bb_kernel *kernel) {
    if (!kernel->forward || (call->needs_grad && !kernel->backward)) return false;
    return !kernel->supports || kernel->supports(call);
}

static void trace_call(const bb_call *call, const char *how) {
    FILE *f = call->ctx->trace;
    char text[BB_SHAPE_TEXT];
    fprintf(f, "%*s%s %s %s", 2 * call->ctx->composing, "", call->op->name,
            call->ctx->backend[call->device]->name, how);
    for (int i = 0; i < call->n_in; i++) {
        if (!call->in[i]) {
            fprintf(f, " -");
            continue;
        }
        bb_shape shape = bb_shape_of_tensor(call->in[i]);
        fprintf(f, " %s%s", bb_dtype_name((bb_dtype)call->in[i]->dtype),
                bb_shape_text(&shape, text));
    }
    for (int i = 0; i < call->n_out - call->op->hidden; i++)
        fprintf(f, "%s %s%s", i ? "" : " ->", bb_dtype_name(call->meta[i].dtype),
                bb_shape_text(&call->meta[i].shape, text));
    fputc('\n', f);
}

static void drop_outputs(bb_call *call) {
    for (int i = 0; i < call->n_out; i++) {
        bb_drop(call->out[i]);
        call->out[i] = NULL;
    }
}

static bb_status compute(bb_call *call, const bb_kernel *kernel) {
    int visible = call->n_out - call->op->hidden;
    for (int i = 0; i < call->n_out; i++) {
        if (i >= visible && !call->needs_grad) continue;
        call->out[i] =
            bb_tensor_new(call->ctx, call->device, call->meta[i].dtype, &call->meta[i].shape);
        if (!call->out[i]) return call->ctx->status;
    }
    bb_status status = kernel->forward(call);
    for (int i = 0; call->op->mutates >> i; i++)
        if (call->op->mutates >> i & 1 && call->in[i]) bb_tensor_changed(call->in[i]);
    if (status == BB_OK && call->ctx->synchronize)
        status = call->ctx->backend[call->device]->synchronize(call->ctx->backend[call->device]);
    return status;
}

static bb_status run_kernel(bb_call *call, const bb_kernel *kernel) {
    call->ctx->running = call;
    call->ctx->running_backward = false;
    bb_status status = compute(call, kernel);
    call->ctx->running = NULL;
    return status;
}

static bb_status run_composed(bb_call *call) {
    bb_context *ctx = call->ctx;
    int visible = call->n_out - call->op->hidden;
    for (int r = 0; r < ctx->recorder_count; r++)
        if (ctx->recorder[r]->enter) ctx->recorder[r]->enter(ctx->recorder[r], call);
    bb_scope scope = bb_scope_begin(ctx);
    bool former = ctx->grad_enabled; /* of one without a gradient nothing is recorded */
    if (call->op->gradient) ctx->grad_enabled = false;
    ctx->composing++;
    bb_status status = call->op->decompose(call);
    ctx->composing--;
    ctx->grad_enabled = former;
    for (int i = 0; status == BB_OK && i < visible; i++) {
        const bb_tensor *t = call->out[i];
        if (!t) {
            status = ctx->status ? ctx->status
                                 : bb_fail(ctx, BB_ERR_STATE, "%s: decomposition left %s unset",
                                           call->op->name, call->op->outputs[i]);
            break;
        }
        bb_shape shape = bb_shape_of_tensor(t);
        char a[BB_SHAPE_TEXT], b[BB_SHAPE_TEXT];
        if (!bb_shape_equal(&shape, &call->meta[i].shape) || t->dtype != call->meta[i].dtype)
            status =
                bb_fail(ctx, BB_ERR_STATE, "%s: decomposition gave %s%s, expected %s%s",
                        call->op->name, bb_dtype_name((bb_dtype)t->dtype), bb_shape_text(&shape, a),
                        bb_dtype_name(call->meta[i].dtype), bb_shape_text(&call->meta[i].shape, b));
    }
    if (!status) status = ctx->status;
    /* What failed leaves nothing; an output may be an input, which is not ours to drop. */
    bb_scope_end_many(ctx, scope, call->out, status ? 0 : visible);
    for (int i = 0; status && i < call->n_out; i++) call->out[i] = NULL;
    for (int r = 0; r < ctx->recorder_count; r++)
        if (ctx->recorder[r]->leave) ctx->recorder[r]->leave(ctx->recorder[r], call);
    return status;
}

static bb_status record(bb_call *call) {
    bb_context *ctx = call->ctx;
    for (int r = 0; r < ctx->recorder_count; r++) {
        bb_recorder *recorder = ctx->recorder[r];
        if (recorder->gradients_only && !call->needs_grad) continue;
        bb_status status = recorder->record(recorder, call);
        if (status) return status;
    }
    return BB_OK;
}

/* *whole: the call ran as one thing, of which recorders are to be told. */
static bb_status choose_and_run(bb_call *call, const bb_entry *entry, bool *whole) {
    bb_context *ctx = call->ctx;
    const bb_op *op = call->op;
    const bb_kernel *kernel = &entry->kernel[call->device];
    *whole = true;
    if (op->view) {
        if (ctx->trace) trace_call(call, "view");
        return op->view(call);
    }
    if (op->decompose) {
        bool fused = ctx->path != BB_PATH_COMPOSED && can_fuse(call, kernel);
        if (!fused && ctx->path == BB_PATH_FUSED)
            return bb_fail(
                ctx, BB_ERR_UNSUPPORTED,
                "%s: path: fused was asked for, but %s has no fused kernel for this call%s",
                op->name, ctx->backend[call->device]->name,
                call->needs_grad ? " with gradient" : "");
        if (ctx->trace) trace_call(call, fused ? "fused" : "composed");
        if (!fused) {
            *whole = false;
            return run_composed(call);
        }
    } else if (!kernel->forward) {
        return bb_fail(ctx, BB_ERR_UNSUPPORTED, "%s: device: no kernel on %s", op->name,
                       ctx->backend[call->device]->name);
    } else if (ctx->trace) {
        trace_call(call, "primitive");
    }
    return run_kernel(call, kernel);
}

static bb_status finish(bb_call *call, bb_status status) {
    bb_context *ctx = call->ctx;
    if (!status) status = ctx->status;
    if (!status) return BB_OK;
    if (!ctx->status) bb_fail(ctx, status, "%s: failed without a message", call->op->name);
    drop_outputs(call);
    return ctx->status;
}

bb_status bb_run_call(bb_call *call, bool statistics, bool *fused) {
    bb_context *ctx = call->ctx;
    const bb_entry *entry = bb_find_entry(ctx, call->op);
    if (ctx->status) return ctx->status;
    if (!entry)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: op: not registered in this context",
                       call->op->name);
    call->n_out = entry->n_outputs;
    for (int i = 0; i < call->n_out; i++) call->out[i] = NULL;
    bb_status status = infer(call, entry);
    call->needs_grad = statistics;
    bool before = ctx->grad_enabled; /* a decomposition leaves nothing on the tape either */
    ctx->grad_enabled = false;
    if (!status) status = choose_and_run(call, entry, fused);
    ctx->grad_enabled = before;
    return finish(call, status);
}

bb_status bb_apply(bb_context *ctx, const bb_op *op, bb_tensor *const *in, int n_in,
                   const void *attrs, bb_tensor **out) {
    double defaults[ATTRS_MAX / sizeof(double)];
    if (!op)
        return ctx ? bb_fail(ctx, BB_ERR_ARGUMENT, "bb_apply: op: expected a record, got NULL")
                   : BB_ERR_ARGUMENT;
    const bb_entry *entry = ctx ? bb_find_entry(ctx, op) : NULL;
    int visible = (entry ? entry->n_outputs : bb_op_output_count(op)) - op->hidden;
    for (int i = 0; out && i < visible; i++) out[i] = NULL;
    if ((visible > 0 && !out) || (n_in > 0 && !in))
        return ctx ? bb_fail(ctx, BB_ERR_ARGUMENT, "%s: %s: expected a list, got NULL", op->name,
                             n_in > 0 && !in ? "in" : "out")
                   : BB_ERR_ARGUMENT;
    if (!ctx) return BB_ERR_ARGUMENT;
    if (ctx->status) return ctx->status;
    if (!entry)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: op: not registered in this context", op->name);
    if (!attrs && op->attrs_bytes) {
        if (op->attrs_bytes > sizeof defaults)
            return bb_fail(ctx, BB_ERR_ARGUMENT,
                           "%s: attributes: expected at most %zu bytes, got %zu", op->name,
                           sizeof defaults, op->attrs_bytes);
        bb_op_default_attrs(op, defaults);
        attrs = defaults;
    }
    bb_call call;
    call.ctx = ctx, call.op = op, call.attrs = attrs, call.in = in, call.n_in = n_in;
    call.n_out = entry->n_outputs;
    for (int i = 0; i < call.n_out; i++) call.out[i] = NULL;
    bb_status status = infer(&call, entry);
    bool whole = false;
    if (!status) status = choose_and_run(&call, entry, &whole);
    if (!status && whole) status = record(&call);
    if (finish(&call, status)) return ctx->status;
    for (int i = 0; i < visible; i++) out[i] = call.out[i];
    return BB_OK;
}

bb_tensor *bb_apply1(bb_context *ctx, const bb_op *op, bb_tensor *const *in, int n_in,
                     const void *attrs) {
    bb_tensor *out[BB_MAX_OUTPUTS] = {NULL};
    for (int i = 0; !ctx && in && i < n_in; i++) ctx = bb_context_of(in[i]);
    bb_apply(ctx, op, in, n_in, attrs, out);
    return out[0];
}
