/* The calls that start a walk: bb_backward, bb_gradients, and running a piece of the forward pass
 * again. */
#include <string.h>

#include "autograd/tape.h"
#include "ops/ops.h"

/* A handle of the walk's own on the cotangent of `output`: the seed, or one. */
static bb_tensor *cotangent(bb_tensor *output, bb_tensor *seed, bool create_graph) {
    bb_context *ctx = output->ctx;
    bb_shape shape = bb_shape_of_tensor(output);
    char a[BB_SHAPE_TEXT], b[BB_SHAPE_TEXT];
    if (!seed) {
        if (output->count != 1) {
            bb_fail(ctx, BB_ERR_ARGUMENT,
                    "bb_backward: loss: expected one element (or a seed gradient), got shape %s",
                    bb_shape_text(&shape, a));
            return NULL;
        }
        bb_tensor *one =
            bb_tensor_new(ctx, (bb_device)output->device, (bb_dtype)output->dtype, &shape);
        if (one && ctx->backend[one->device]->fill(ctx->backend[one->device], one, 1)) return NULL;
        return one;
    }
    bb_shape got = bb_shape_of_tensor(seed);
    if (seed->ctx != ctx || !bb_tensor_usable(seed)) {
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "bb_backward: seed: expected a live tensor of the loss's context");
        return NULL;
    }
    if (!bb_shape_equal(&shape, &got) || seed->dtype != output->dtype) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "bb_backward: seed: expected %s%s like the loss, got %s%s",
                bb_dtype_name((bb_dtype)output->dtype), bb_shape_text(&shape, a),
                bb_dtype_name((bb_dtype)seed->dtype), bb_shape_text(&got, b));
        return NULL;
    }
    if (create_graph) return seed;
    /* The gradient of a leaf would change under the walk that reads it. */
    if (seed->storage->gradient) {
        bb_tensor *copy = bb_tensor_new(ctx, (bb_device)seed->device, (bb_dtype)seed->dtype, &got);
        return copy && bb_copy_into(seed, copy) == BB_OK ? copy : NULL;
    }
    return bb_detach_header(seed);
}

static bool startable(bb_tensor *output) {
    bb_context *ctx = output->ctx;
    if (ctx->status) return false;
    /* What a node made may have been dropped: the tape knows it. A leaf is only its handle. */
    if (output->life == BB_LIFE_DEAD || (output->node < 0 && !output->storage))
        return bb_tensor_usable(output);
    if (!output->requires_grad)
        bb_fail(ctx, BB_ERR_STATE,
                "bb_backward: loss: expected a result that depends on a tensor with gradient, got "
                "one that does not");
    return output->requires_grad;
}

static bb_status backward(bb_tensor *loss, bb_tensor *seed, bool retain) {
    if (!loss) return BB_ERR_ARGUMENT;
    if (!startable(loss)) return loss->ctx->status;
    bb_context *ctx = loss->ctx;
    bb_tape *tape = bb_tape_of(ctx);
    bb_tensor *g = cotangent(loss, seed, false);
    if (!g) return ctx->status;
    walk w = {.retain = retain, .leaves = true, .own_captures = tape->capture_count};
    if (loss->node < 0) return bb_add_to_leaf(ctx, loss, g); /* a leaf is its own loss */
    tape->nodes[loss->node]->slot[loss->node_output] = g;
    return bb_walk(tape, &w, loss->node, 0);
}

bb_status bb_backward(bb_tensor *loss, bb_tensor *seed) { return backward(loss, seed, false); }
bb_status bb_backward_retain(bb_tensor *loss, bb_tensor *seed) {
    return backward(loss, seed, true);
}

/* ---- Captures: gradients of chosen tensors --------------------------------------------------- */

static bb_status push_captures(bb_tape *tape, int n) {
    if (tape->capture_count + n > tape->capture_capacity) {
        int capacity = (tape->capture_count + n) * 2;
        bb_tensor **grown = bb_host_allocate(tape->ctx, (size_t)capacity * sizeof *grown);
        if (!grown) return tape->ctx->status;
        if (tape->capture_count)
            memcpy(grown, tape->captures, (size_t)tape->capture_count * sizeof *grown);
        bb_host_release(tape->ctx, tape->captures, (size_t)tape->capture_capacity * sizeof *grown);
        tape->captures = grown;
        tape->capture_capacity = capacity;
    }
    for (int i = 0; i < n; i++) tape->captures[tape->capture_count++] = NULL;
    return BB_OK;
}

/* Walks from output to the inputs, whose gradients land in gradients[]. An input named twice gets
 * its gradient twice. */
static bb_status captured_walk(bb_tape *tape, const walk *w, bb_tensor *output, bb_tensor *g,
                               bb_tensor *const *inputs, int n, int bound, bb_tensor **gradients) {
    bb_context *ctx = tape->ctx;
    int base = tape->capture_count;
    int32_t *before = bb_arena_allocate(ctx, &ctx->arena, (size_t)n * sizeof *before);
    if (!before || push_captures(tape, n)) return ctx->status;
    for (int i = 0; i < n; i++) {
        before[i] = inputs[i] ? inputs[i]->capture : -1;
        if (inputs[i] && before[i] < base) inputs[i]->capture = base + i;
    }
    bb_status status = BB_OK;
    walk own = *w;
    own.own_captures = base;
    if (output->node >= bound) {
        tape->nodes[output->node]->slot[output->node_output] = g;
        status = bb_walk(tape, &own, output->node, bound);
    } else if (output->capture >= base) {
        tape->captures[output->capture] = g;
    }
    for (int i = 0; i < n; i++) {
        gradients[i] = NULL;
        if (!inputs[i]) continue;
        bb_tensor *found = tape->captures[inputs[i]->capture];
        if (found && !w->create_graph) found->pinned = false;
        if (!status) gradients[i] = found;
    }
    for (int i = n - 1; i >= 0; i--)
        if (inputs[i]) inputs[i]->capture = before[i];
    tape->capture_count = base;
    return status;
}

bb_status bb_gradients(bb_tensor *output, bb_tensor *seed, bb_tensor *const *inputs, int n,
                       bool create_graph, bb_tensor **gradients) {
    for (int i = 0; gradients && i < n; i++) gradients[i] = NULL;
    if (!output) return BB_ERR_ARGUMENT;
    if (!startable(output)) return output->ctx->status;
    bb_context *ctx = output->ctx;
    if (n < 0 || (n > 0 && (!inputs || !gradients)))
        return bb_fail(ctx, BB_ERR_ARGUMENT, "bb_gradients: %s: expected %s",
                       n < 0    ? "n"
                       : inputs ? "gradients"
                                : "inputs",
                       n < 0 ? "0 or more, got a negative number" : "a list, got NULL");
    for (int i = 0; i < n; i++)
        if (!inputs[i] || !inputs[i]->requires_grad)
            return bb_fail(ctx, BB_ERR_ARGUMENT,
                           "bb_gradients: inputs[%d]: expected a tensor with gradient, got %s", i,
                           inputs[i] ? "one without" : "NULL");
    bb_tensor *g = cotangent(output, seed, create_graph);
    if (!g) return ctx->status;
    walk w = {.create_graph = create_graph};
    return captured_walk(bb_tape_of(ctx), &w, output, g, inputs, n, 0, gradients);
}

/* ---- Running a piece again ------------------------------------------------------------------- */

bb_status bb_rerun(bb_tape *tape, const walk *w, bb_rerun_fn run, void *user,
                   const bb_grad_call *grad) {
    bb_context *ctx = tape->ctx;
    const bb_call *call = grad->call;
    int n = call->n_in, before_run = tape->count, wanted = 0;
    bb_tensor **again = bb_arena_allocate(ctx, &ctx->arena, (size_t)(3 * n + 1) * sizeof *again);
    if (!again) return ctx->status;
    bb_tensor **targets = again + n, **found = targets + n;
    bool before = bb_set_grad_enabled(ctx, true);
    for (int i = 0; i < n; i++) {
        again[i] = call->in[i];
        if (!grad->want[i]) continue;
        again[i] = w->create_graph ? bb_alias(call->in[i])
                                   : bb_set_requires_grad(bb_detach_header(call->in[i]), true);
        targets[wanted++] = again[i];
    }
    bb_status status = ctx->status;
    int mark = tape->count; /* the walk ends at the aliases */
    bb_tensor *output[BB_MAX_OUTPUTS] = {NULL};
    if (!status) status = run(user, again, n, output);
    if (!status) status = ctx->status;
    for (int o = 0; o < BB_MAX_OUTPUTS && !status; o++) {
        if (!output[o] || !output[o]->requires_grad) continue;
        bb_tensor *g = w->create_graph ? grad->grad_out[o] : bb_detach_header(grad->grad_out[o]);
        /* Nodes made before this run are the outer walk's business: it will come to them. */
        status =
            g ? captured_walk(tape, w, output[o], g, targets, wanted, mark, found) : ctx->status;
        for (int i = 0, k = 0; i < n && !status; i++) {
            if (!grad->want[i]) continue;
            bb_tensor *more = found[k++], *have = grad->grad_in[i];
            grad->grad_in[i] = have && more ? bb_add(have, more) : have ? have : more;
        }
    }
    if (!w->create_graph) bb_tape_truncate(tape, before_run);
    bb_set_grad_enabled(ctx, before);
    return status ? status : ctx->status;
}

/* ---- Small things ---------------------------------------------------------------------------- */

bb_tensor *bb_detach(bb_tensor *t) { return !t || t->ctx->status ? NULL : bb_detach_header(t); }
void bb_retain_grad(bb_tensor *t) {
    if (t) t->retain_grad = true;
}
void bb_zero_grad(bb_tensor *leaf) {
    if (leaf && leaf->grad) leaf->grad_empty = true;
}
