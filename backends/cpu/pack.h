/* Kernels that want rows without gaps take most tensors as they lie, and copies of the rest: pack.h
 * says which, and makes the copy. */
#ifndef BOBBIN_BACKENDS_CPU_PACK_H
#define BOBBIN_BACKENDS_CPU_PACK_H

#include "backends/cpu/cpu.h"

static inline bb_dtype bb_cpu_compute_dtype(const bb_tensor *t) {
    return t->dtype == BB_F64 ? BB_F64 : BB_F32;
}

/* Uninitialized, contiguous, of t's shape; NULL and a sticky error without memory. The caller drops
 * it. */
static inline bb_tensor *bb_cpu_like(const bb_tensor *t, bb_dtype dtype) {
    bb_shape shape = bb_shape_of_tensor(t);
    return bb_tensor_new(t->ctx, BB_CPU, dtype, &shape);
}

/* Is the last axis without gaps, and the dtype the one to compute in? */
static inline bool bb_cpu_rows_ready(const bb_tensor *t, bb_dtype dtype) {
    return t->dtype == dtype &&
           (t->rank == 0 || t->size[t->rank - 1] <= 1 || t->stride[t->rank - 1] == 1);
}

/* t itself if `ready`, else a contiguous copy of dtype, which is stored in *copy too, for the
 * caller to drop. */
static inline const bb_tensor *bb_cpu_pack(const bb_tensor *t, bool ready, bb_dtype dtype,
                                           bb_tensor **copy) {
    *copy = NULL;
    if (ready) return t;
    *copy = bb_cpu_like(t, dtype);
    if (*copy && bb_copy_into(t, *copy)) {
        bb_drop(*copy);
        *copy = NULL;
    }
    return *copy;
}

/* Where row `row` of t begins, in elements; rows are counted over the first `axes` axes. */
static inline int64_t bb_cpu_row_offset(const bb_tensor *t, int axes, int64_t row) {
    if (axes == 1) return row * t->stride[0]; /* a division costs as much as 50 elements */
    int64_t offset = 0;
    for (int a = axes - 1; a >= 0; a--) {
        offset += row % t->size[a] * t->stride[a];
        row /= t->size[a];
    }
    return offset;
}

#endif
