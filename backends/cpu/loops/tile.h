/* Narrow or strided rows pass through a small f32 buffer, a tile at a time; contiguous f32 rows are
 * used where they lie. For the loops of norms and softmax. */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_TILE_H
#define BOBBIN_BACKENDS_CPU_LOOPS_TILE_H

#include "backends/cpu/loops/loops.h"
#include "core/core.h"

/* Three tiles of f32 and one of f16 fit the L1 cache. */
enum { TILE = 1024 };

static inline int64_t tile_bytes(int dtype) { return dtype == BB_F32 ? 4 : 2; }

static inline int64_t tile_length(int64_t at, int64_t n, int64_t tile) {
    return n - at < tile ? n - at : tile;
}

static inline bool tile_direct(int dtype, int64_t step) { return dtype == BB_F32 && step == 1; }

/* Address of element `offset` of an f32, f16 or bf16 array. */
static inline const void *tile_at(int dtype, const void *array, int64_t offset) {
    return (const char *)array + offset * tile_bytes(dtype);
}
static inline void *tile_writable(int dtype, void *array, int64_t offset) {
    return (char *)array + offset * tile_bytes(dtype);
}

/* `n` values of x as f32: x itself, or converted into buffer. */
static inline const float *tile_load(int dtype, int64_t n, const void *x, int64_t step,
                                     float *buffer) {
    if (tile_direct(dtype, step)) return x;
    BB_ISA_NAME(bb_elementwise_loops).load_f32(dtype, n, x, step, buffer);
    return buffer;
}

/* Where to compute results that belong at y: there, or in buffer, for tile_store. */
static inline float *tile_target(int dtype, void *y, float *buffer) {
    return dtype == BB_F32 ? y : buffer;
}

static inline void tile_store(int dtype, int64_t n, const float *values, void *y) {
    if (dtype != BB_F32) BB_ISA_NAME(bb_elementwise_loops).store_f32(dtype, n, values, y);
}

#endif
