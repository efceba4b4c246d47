/* The two lifetimes: step tensors come from slabs and die together, context tensors stand in a
 * list. A dead header is kept for one more step, so that a late use is caught and named. */
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

bb_tensor *bb_tensor_header(bb_context *ctx, bb_dtype dtype, const bb_shape *shape, bb_life life) {
    int64_t count;
    if (!bb_shape_count(shape, &count)) {
        char text[BB_SHAPE_TEXT];
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "tensor: shape: expected sizes >= 0 with a product below 2^63, got %s",
                bb_shape_text(shape, text));
        return NULL;
    }
    bool is_context = life == BB_LIFE_CONTEXT;
    bb_tensor *t = is_context ? bb_host_allocate(ctx, sizeof *t) : step_header(ctx);
    if (!t) return NULL;
    t->ctx = ctx;
    t->storage = NULL;
    t->data = NULL;
    t->dtype = (uint8_t)dtype;
    t->device = BB_CPU;
    t->rank = (uint8_t)shape->rank;
    t->life = (uint8_t)life;
    t->requires_grad = t->grad_empty = t->retain_grad = t->pinned = false;
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

void bb_tensor_free(bb_tensor *t) {
    if (!t) return;
    bb_context *ctx = t->ctx;
    give_storage_back(t, BB_LIFE_DEAD);
    if (t->prev)
        t->prev->next = t->next;
    else if (ctx->context_tensors == t)
        ctx->context_tensors = t->next;
    if (t->next) t->next->prev = t->prev;
    bb_host_release(ctx, t, sizeof *t);
}

void bb_drop(bb_tensor *t) {
    if (t && (t->life == BB_LIFE_STEP || t->life == BB_LIFE_CONTEXT))
        give_storage_back(t, BB_LIFE_DROPPED);
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
    ctx->step++;
}

bb_tensor *bb_keep(bb_tensor *t) {
    if (!t || t->ctx->status || !bb_tensor_usable(t)) return NULL;
    bb_context *ctx = t->ctx;
    if (bb_refuse_in_capture(ctx, "bb_keep", "use bb_assign to a tensor made before")) return NULL;
    bb_shape shape = bb_shape_of_tensor(t);
    size_t bytes = (size_t)t->count * bb_dtype_bytes((bb_dtype)t->dtype);
    bool owns_all = t->contiguous && t->data == t->storage->data && bytes >= t->storage->bytes / 2;
    if (!owns_all && !t->storage->give_back) { /* a part must not hold the whole; but what is
                                                  another's stays where it is */
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

bool bb_tensor_usable(const bb_tensor *t) {
    if (t->storage) return true;
    unsigned long long step = (unsigned long long)t->step;
    if (t->life == BB_LIFE_DEAD)
        bb_fail(t->ctx, BB_ERR_STATE,
                "tensor made in step %llu, which has ended (bb_keep carries one out)", step);
    else if (t->life == BB_LIFE_DROPPED)
        bb_fail(t->ctx, BB_ERR_STATE,
                "tensor made in step %llu has been dropped (bb_drop, or the end of its scope)",
                step);
    else
        bb_fail(t->ctx, BB_ERR_STATE, "tensor has no values yet (a parameter that was not built)");
    return false;
}
