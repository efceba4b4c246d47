/* Host memory of a context: every block goes through its allocator and is counted. Tensor storage
 * is storage.c; the step's tape nodes come from the arena here. */
#include <string.h>

#include "core/impl.h"

void *bb_host_allocate(bb_context *ctx, size_t bytes) {
    void *block = ctx->allocator.allocate(ctx->allocator.user, bytes ? bytes : 1);
    ctx->memory.system_allocations++;
    if (!block) {
        bb_fail(ctx, BB_ERR_MEMORY, "out of memory: asked for %zu bytes, %zu held", bytes,
                ctx->memory.bytes_held);
        return NULL;
    }
    ctx->memory.bytes_held += bytes;
    if (ctx->memory.bytes_held > ctx->memory.bytes_peak)
        ctx->memory.bytes_peak = ctx->memory.bytes_held;
    return block;
}

void bb_host_release(bb_context *ctx, void *block, size_t bytes) {
    if (!block) return;
    ctx->memory.bytes_held -= bytes;
    ctx->allocator.release(ctx->allocator.user, block, bytes ? bytes : 1);
}

enum { ARENA_BLOCK = 64 * 1024 };

void *bb_arena_allocate(bb_context *ctx, bb_arena *arena, size_t bytes) {
    size_t need;
    if (!bb_checked_add(bytes, 15, &need)) {
        bb_fail(ctx, BB_ERR_MEMORY, "out of memory: asked for %zu bytes", bytes);
        return NULL;
    }
    need &= ~(size_t)15;
    bb_arena_block *block = arena->current;
    while (block && block->bytes - block->used < need) block = arena->current = block->next;
    if (!block) {
        size_t header = (sizeof(bb_arena_block) + 63) & ~(size_t)63;
        size_t total = header + (need > ARENA_BLOCK ? need : (size_t)ARENA_BLOCK);
        block = bb_host_allocate(ctx, total);
        if (!block) {
            arena->current = arena->first; /* the blocks before are not lost */
            return NULL;
        }
        *block = (bb_arena_block){arena->first, total, header};
        arena->first = arena->current = block;
    }
    void *p = (char *)block + block->used;
    block->used += need;
    return p;
}

void bb_arena_reset(bb_arena *arena) {
    size_t header = (sizeof(bb_arena_block) + 63) & ~(size_t)63;
    for (bb_arena_block *b = arena->first; b; b = b->next) b->used = header;
    arena->current = arena->first;
}

void bb_arena_free(bb_context *ctx, bb_arena *arena) {
    for (bb_arena_block *b = arena->first, *next; b; b = next) {
        next = b->next;
        bb_host_release(ctx, b, b->bytes);
    }
    arena->first = arena->current = NULL;
}
