/* The two lifetimes: step tensors come from slabs and die together, context tensors stand in a
 * list. A dead header is kept for one more step, so that a late use is caught and named. */
#include <stdio.h>
#include <string.h>

#include "core/impl.h"

enum { SLAB = sizeof(((bb_slab *)0)->tensor) / sizeof(bb_tensor) };

static bb_tensor *step_header(bb_context *ctx) {
    bb_generation *g = &ctx->generation[ctx->current_generation];
    size_t at = g->count % SLAB;
    if (at == 0) {
        bb_slab *next = g->count == 0 ? g->first : g->current->next;
        if (!next) {
            next = bb_host_allocate(ctx, sizeof *next);
            if (!next) return NULL;
            next->next = NULL;
            next->prev = g->count == 0 ? NULL : g->current;
            if (next->prev)
                next->prev->next = next;
            else
                g->first = next;
        }
        g->current = next;
    }
    g->count++;
    return &g->current->tensor[at];
}

static bb_tensor *context_header(bb_context *ctx) {
    bb_tensor *t = ctx->spare_tensors;
    if (!t) return bb_host_allocate(ctx, sizeof *t);
    ctx->spare_tensors = t->next;
    return t;
}

bb_tensor *bb_tensor_header(bb_context *ctx, bb_dtype dtype, const bb_shape *shape, bb_life life) {
    size_t bytes; /* below 2^63 even where it has fewer: nobody need check products of them again */
    if (!bb_shape_bytes(shape, dtype, &bytes)) return bb_refuse_shape(ctx, shape);
    bool is_context = life == BB_LIFE_CONTEXT;
    bb_tensor *t = is_context ? context_header(ctx) : step_header(ctx);
    if (!t) return NULL;
    t->ctx = ctx;
    t->storage = NULL;
    t->data = NULL;
    t->dtype = (uint8_t)dtype;
    t->device = BB_CPU;
    t->rank = (uint8_t)shape->rank;
    t->life = (uint8_t)life;
    t->requires_grad = t->grad_empty = t->retain_grad = t->pinned = t->kept = false;
    t->step = is_context ? 0 : ctx->step;
    t->node = t->capture = -1;
    t->node_output = 0;
    t->grad = NULL;
    t->prev = t->next = NULL;
    for (int i = 0; i < shape->rank; i++) t->size[i] = shape->size[i];
    bb_set_strides(t);
    if (is_context) {
        t->next = ctx->context_tensors;
        if (t->next) t->next->prev = t;
        ctx->context_tensors = t;
    }
    ctx->memory.live_tensors++;
    return t;
}

static void give_storage_back(bb_tensor *t, bb_life life) {
    if (t->life == BB_LIFE_STEP || t->life == BB_LIFE_CONTEXT) t->ctx->memory.live_tensors--;
    bb_storage_unref(t->storage);
    t->storage = NULL;
    t->data = NULL;
    t->life = (uint8_t)life;
}

static void unlink_header(bb_tensor *t) {
    if (t->prev)
        t->prev->next = t->next;
    else
        t->ctx->context_tensors = t->next;
    if (t->next) t->next->prev = t->prev;
    t->prev = t->next = NULL;
}

void bb_tensor_free(bb_tensor *t) {
    if (!t || (t->kept && t->life == BB_LIFE_DROPPED)) return; /* its user gave it back already */
    give_storage_back(t, BB_LIFE_DEAD);
    unlink_header(t);
    bb_host_release(t->ctx, t, sizeof *t);
}

/* A kept tensor has no owner but its user: its header, and its gradient with it, wait out the next
 * step and then serve again. Headers of other context tensors belong to who made them (the
 * parameters of a layer, say). */
static void retire(bb_tensor *t) {
    bb_tensor **list = &t->ctx->retired[t->ctx->current_generation];
    give_storage_back(t, BB_LIFE_DROPPED);
    unlink_header(t);
    t->next = *list;
    *list = t;
}

void bb_drop(bb_tensor *t) {
    if (!t || (t->life != BB_LIFE_STEP && t->life != BB_LIFE_CONTEXT)) return;
    if (!t->kept) {
        give_storage_back(t, BB_LIFE_DROPPED);
        return;
    }
    if (t->grad) { /* dropped before or not */
        t->grad->kept = true;
        retire(t->grad);
    }
    t->grad = NULL;
    retire(t);
}

void bb_tensor_revive(bb_tensor *t, bb_storage *s, size_t byte_offset) {
    t->life = t->step ? BB_LIFE_STEP : BB_LIFE_CONTEXT;
    t->ctx->memory.live_tensors++;
    bb_tensor_attach(t, s, byte_offset);
}

static void reuse_retired(bb_context *ctx, bb_tensor **list) {
    while (*list) {
        bb_tensor *t = *list;
        *list = t->next;
        t->next = ctx->spare_tensors;
        ctx->spare_tensors = t;
    }
}

void bb_context_tensors_free(bb_context *ctx) {
    while (ctx->context_tensors) bb_tensor_free(ctx->context_tensors);
    reuse_retired(ctx, &ctx->retired[0]);
    reuse_retired(ctx, &ctx->retired[1]);
    while (ctx->spare_tensors) {
        bb_tensor *t = ctx->spare_tensors;
        ctx->spare_tensors = t->next;
        bb_host_release(ctx, t, sizeof *t);
    }
}

bb_tensor *bb_hold(bb_tensor *t) {
    if (t) t->pinned = true;
    return t;
}

bb_scope bb_scope_begin(bb_context *ctx) {
    return ctx ? ctx->generation[ctx->current_generation].count : 0;
}

void bb_scope_end_many(bb_context *ctx, bb_scope scope, bb_tensor *const *results, int n) {
    bb_generation *g = &ctx->generation[ctx->current_generation];
    bb_slab *slab = g->current;
    for (size_t i = g->count; i > scope;) {
        i--;
        bb_tensor *t = &slab->tensor[i % SLAB];
        bool keep = t->pinned;
        for (int k = 0; k < n; k++) keep |= t == results[k];
        if (!keep) bb_drop(t);
        if (i % SLAB == 0) slab = slab->prev;
    }
}

bb_tensor *bb_scope_end(bb_context *ctx, bb_scope scope, bb_tensor *result) {
    if (ctx) bb_scope_end_many(ctx, scope, &result, 1);
    return result;
}

void bb_end_step(bb_context *ctx) {
    if (!ctx) return;
    for (int i = 0; i < ctx->recorder_count; i++)
        if (ctx->recorder[i]->end_step) ctx->recorder[i]->end_step(ctx->recorder[i]);
    bb_generation *g = &ctx->generation[ctx->current_generation];
    size_t left = g->count;
    for (bb_slab *slab = g->first; slab && left; slab = slab->next)
        for (size_t i = 0; i < SLAB && left; i++, left--)
            if (slab->tensor[i].life != BB_LIFE_DEAD)
                give_storage_back(&slab->tensor[i], BB_LIFE_DEAD);
    bb_arena_reset(&ctx->arena);
    ctx->current_generation ^= 1;
    ctx->generation[ctx->current_generation].count = 0;
    reuse_retired(ctx, &ctx->retired[ctx->current_generation]);
    ctx->step++;
}

bb_tensor *bb_keep(bb_tensor *t) {
    if (t && bb_is_recorded(t->ctx)) {
        bb_fail(t->ctx, BB_ERR_STATE,
                "bb_keep: a graph is being recorded: expected ops, which it can run again");
        return NULL;
    }
    bb_tensor *kept = bb_keep_value(t);
    if (kept) kept->kept = true;
    return kept;
}

bb_tensor *bb_keep_value(bb_tensor *t) {
    if (!t || t->ctx->status || !bb_tensor_usable(t)) return NULL;
    bb_context *ctx = t->ctx;
    if (bb_refuse_in_capture(ctx, "bb_keep", "use bb_assign to a tensor made before")) return NULL;
    bb_shape shape = bb_shape_of_tensor(t);
    const bb_storage *s = t->storage;
    const size_t bytes = (size_t)t->count * bb_dtype_bytes((bb_dtype)t->dtype);
    const bool all = t->contiguous && t->data == s->data && bytes == s->used;
    /* A part must not hold the whole; a parameter and a gradient change in the next step. */
    if (!s->give_back && (!all || s->lasting || s->gradient)) {
        bb_tensor *copy = bb_tensor_context(ctx, (bb_device)t->device, (bb_dtype)t->dtype, &shape);
        if (copy && bb_copy_into(t, copy) != BB_OK) {
            bb_tensor_free(copy);
            return NULL;
        }
        return copy;
    }
    bb_tensor *kept = bb_tensor_header(ctx, (bb_dtype)t->dtype, &shape, BB_LIFE_CONTEXT);
    if (!kept) return NULL;
    bb_tensor_attach(kept, bb_storage_ref(t->storage),
                     (size_t)(t->data - (char *)t->storage->data));
    memcpy(kept->stride, t->stride, sizeof kept->stride);
    bb_tensor_restride(kept);
    return kept;
}

const char *bb_tensor_lost(const bb_tensor *t, char text[BB_LOST_TEXT]) {
    const unsigned long long step = (unsigned long long)t->step;
    if (t->life == BB_LIFE_DEAD)
        snprintf(text, BB_LOST_TEXT,
                 "tensor made in step %llu, which has ended (bb_keep carries one out)", step);
    else if (t->life != BB_LIFE_DROPPED)
        snprintf(text, BB_LOST_TEXT, "tensor has no values yet (a parameter that was not built)");
    else if (step)
        snprintf(text, BB_LOST_TEXT,
                 "tensor made in step %llu has been dropped (bb_drop, or the end of its scope)",
                 step);
    else
        snprintf(text, BB_LOST_TEXT, "kept tensor has been dropped (bb_drop)");
    return text;
}

bool bb_tensor_usable(const bb_tensor *t) {
    char text[BB_LOST_TEXT];
    if (!t->storage) bb_fail(t->ctx, BB_ERR_STATE, "%s", bb_tensor_lost(t, text));
    return t->storage != NULL;
}
