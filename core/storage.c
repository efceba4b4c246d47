/* Storage: counted bytes shared by views, and the pool that a steady step lives from.
 *
 * Blocks are rounded up to one of eight sizes per power of two (at most 12.5 % unused) and go back
 * to a free list per size, last in first out, so that the next tensor of that size gets the warmest
 * block. A miss looks at the next larger classes before it asks the backend; a refusal empties the
 * pool and tries once more. */
#include <string.h>

#include "core/impl.h"

static uint16_t size_class(size_t bytes, size_t *rounded) {
    if (bytes <= 64) {
        *rounded = 64;
        return 0;
    }
    int e = 63 - __builtin_clzll((unsigned long long)bytes);
    size_t base = (size_t)1 << e, step = base >> 3;
    size_t k = (bytes - base + step - 1) / step;
    if (k == 8) {
        e++, k = 0;
        base <<= 1;
    }
    *rounded = base + k * (base >> 3);
    return (uint16_t)((e - 6) * 8 + (int)k);
}

static bb_storage *pool_take(bb_context *ctx, bb_device device, int first_class) {
    for (int c = first_class; c < first_class + 3 && c < BB_SIZE_CLASSES; c++) {
        bb_storage *s = ctx->pool[device][c];
        if (s) {
            ctx->pool[device][c] = s->next;
            return s;
        }
    }
    return NULL;
}

/* A header for a new block: a spare one if there is one. */
static bb_storage *header_take(bb_context *ctx) {
    bb_storage *s = ctx->free_storages;
    if (!s) {
        s = bb_host_allocate(ctx, sizeof *s);
        if (!s) return NULL;
        s->next = NULL;
    }
    ctx->free_storages = s->next;
    return s;
}

static void header_give(bb_context *ctx, bb_storage *s) {
    s->next = ctx->free_storages;
    ctx->free_storages = s;
}

static void *backend_allocate(bb_context *ctx, bb_device device, size_t bytes) {
    bb_backend *backend = ctx->backend[device];
    void *data = backend->allocate(backend, bytes);
    if (!data) {
        bb_pool_free(ctx);
        data = backend->allocate(backend, bytes);
    }
    if (!data)
        bb_fail(ctx, BB_ERR_MEMORY, "out of %s memory: asked for %zu bytes, %zu in use by tensors",
                backend->name, bytes, ctx->memory.bytes_in_use);
    return data;
}

bb_storage *bb_storage_new(bb_context *ctx, bb_device device, size_t bytes) {
    size_t rounded;
    if (bytes > ((size_t)1 << 48)) {
        bb_fail(ctx, BB_ERR_MEMORY, "out of memory: asked for %zu bytes", bytes);
        return NULL;
    }
    uint16_t c = size_class(bytes, &rounded);
    bb_storage *s = pool_take(ctx, device, c);
    if (!s) {
        s = header_take(ctx);
        if (!s) return NULL;
        void *data = backend_allocate(ctx, device, rounded);
        if (!data) {
            header_give(ctx, s);
            return NULL;
        }
        *s = (bb_storage){
            .ctx = ctx, .data = data, .bytes = rounded, .size_class = c, .device = (uint8_t)device};
    }
    s->refs = 1;
    s->version = 0;
    s->gradient = s->lasting = false;
    s->used = bytes;
    s->serial = ++ctx->storages;
    s->next = NULL;
    ctx->memory.bytes_in_use += s->bytes;
    if (device == BB_CPU) bb_unpoison(s->data, s->bytes);
    if (ctx->poison && ctx->backend[device]->poison)
        ctx->backend[device]->poison(ctx->backend[device], s->data, s->bytes);
    else if (ctx->poison)
        memset(s->data, 0xff, s->bytes); /* NaN in every float type */
    return s;
}

bb_storage *bb_storage_foreign(bb_context *ctx, void *data, size_t bytes,
                               void (*give_back)(void *owner), void *owner) {
    bb_storage *s = header_take(ctx);
    if (!s) return NULL;
    *s = (bb_storage){.ctx = ctx,
                      .data = data,
                      .bytes = bytes,
                      .used = bytes,
                      .serial = ++ctx->storages,
                      .refs = 1,
                      .device = BB_CPU,
                      .give_back = give_back,
                      .owner = owner};
    return s;
}

bb_storage *bb_storage_ref(bb_storage *s) {
    if (s) s->refs++;
    return s;
}

void bb_storage_unref(bb_storage *s) {
    if (!s || --s->refs) return;
    bb_context *ctx = s->ctx;
    if (s->give_back) {
        s->give_back(s->owner);
        header_give(ctx, s);
        return;
    }
    ctx->memory.bytes_in_use -= s->bytes;
    if (s->device == BB_CPU) bb_poison(s->data, s->bytes);
    s->next = ctx->pool[s->device][s->size_class];
    ctx->pool[s->device][s->size_class] = s;
}

void bb_pool_free(bb_context *ctx) {
    for (int d = 0; d < BB_DEVICE_COUNT; d++)
        for (int c = 0; c < BB_SIZE_CLASSES; c++) {
            bb_storage *s = ctx->pool[d][c], *next;
            ctx->pool[d][c] = NULL;
            for (; s; s = next) {
                next = s->next;
                if (d == BB_CPU) bb_unpoison(s->data, s->bytes);
                ctx->backend[d]->release(ctx->backend[d], s->data, s->bytes);
                header_give(ctx, s);
            }
        }
}
