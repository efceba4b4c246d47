/* Where the elements of several strided tensors lie: from the number of an element in one common
 * order to its offset in each of them.
 *
 * Axes that all tensors run through without a gap are merged, so that contiguous tensors have one
 * axis and a bias added to rows has two. Numbers below 2^31 are divided by multiplication
 * (Granlund, Montgomery, "Division by invariant integers using multiplication", PLDI 1994), others
 * by 64-bit division; offsets are always 64-bit. map.h has the kernels that walk this way. The
 * common order is the first tensor's in memory; where rows have numbers of their own, row-major,
 * lines.h and rows.h walk. backends/cpu/walk.h is the CPU's. */
#ifndef BOBBIN_BACKENDS_CUDA_INDEX_H
#define BOBBIN_BACKENDS_CUDA_INDEX_H

#include "core/impl.h"

#include "backends/cuda/lang.h"

/* n / divisor for n < 2^31, 1 <= divisor < 2^31: two operations instead of twenty. */
struct bb_divider {
    uint32_t multiplier, shift;
};
static inline bb_divider bb_divider_make(uint32_t divisor) {
    bb_divider d = {0, 0};
    while ((UINT64_C(1) << d.shift) < divisor) d.shift++;
    d.multiplier =
        (uint32_t)((UINT64_C(1) << 32) * ((UINT64_C(1) << d.shift) - divisor) / divisor + 1);
    return d;
}
static __device__ inline uint32_t bb_divide(uint32_t n, bb_divider d) {
    return (__umulhi(n, d.multiplier) + n) >> d.shift;
}

/* K tensors. Axis 0 is the innermost. An item is a run of `width` elements along axis 0. */
template <int K> struct bb_index {
    int rank, width;
    bool small;    /* every item number is below 2^31 */
    int64_t count; /* items */
    int64_t size[BB_MAX_RANK];
    bb_divider divider[BB_MAX_RANK];
    int64_t stride[K][BB_MAX_RANK]; /* elements from item to item; 0 where broadcast */

    /* Where item i starts in each tensor, in elements. */
    __device__ inline void offsets(int64_t i, int64_t at[K]) const {
        for (int k = 0; k < K; k++) at[k] = 0;
        int axis = 0;
        if (small) {
            uint32_t n = (uint32_t)i;
            for (; axis < rank - 1; axis++) {
                const uint32_t q = bb_divide(n, divider[axis]);
                const uint32_t r = n - q * (uint32_t)size[axis];
                for (int k = 0; k < K; k++) at[k] += r * stride[k][axis];
                n = q;
            }
            i = n;
        } else {
            for (; axis < rank - 1; axis++) {
                const int64_t q = i / size[axis], r = i - q * size[axis];
                for (int k = 0; k < K; k++) at[k] += r * stride[k][axis];
                i = q;
            }
        }
        for (int k = 0; k < K; k++) at[k] += i * stride[k][axis];
    }
};
template <int K> static inline void bb_index_set_dividers(bb_index<K> *w) {
    w->small = w->count < INT64_C(1) << 31;
    for (int a = 0; a < w->rank && w->small; a++)
        w->divider[a] = bb_divider_make((uint32_t)w->size[a]);
}

/* The tensors broadcast to the shape of the first, which decides the order: its largest stride is
 * outermost. Items are single elements. The first has at least one element. */
template <int K> static inline bb_index<K> bb_index_make(const bb_tensor *const *tensors) {
    bb_index<K> w = {};
    const bb_tensor *like = tensors[0];
    int axes[BB_MAX_RANK], n = 0; /* of `like`, innermost first; axes of size 1 do not count */
    for (int axis = like->rank - 1; axis >= 0; axis--) {
        if (like->size[axis] == 1) continue;
        int place = n++;
        for (; place > 0 && like->stride[axes[place - 1]] > like->stride[axis]; place--)
            axes[place] = axes[place - 1];
        axes[place] = axis;
    }
    for (int i = 0; i < n; i++) {
        const int axis = axes[i];
        int64_t stride[K];
        bool joins = w.rank > 0;
        for (int k = 0; k < K; k++) {
            const int own = axis - (like->rank - tensors[k]->rank);
            stride[k] = own < 0 || tensors[k]->size[own] == 1 ? 0 : tensors[k]->stride[own];
            joins = joins && stride[k] == w.stride[k][w.rank - 1] * w.size[w.rank - 1];
        }
        if (joins) {
            w.size[w.rank - 1] *= like->size[axis];
            continue;
        }
        for (int k = 0; k < K; k++) w.stride[k][w.rank] = stride[k];
        w.size[w.rank++] = like->size[axis];
    }
    if (w.rank == 0) {
        w.rank = 1;
        w.size[0] = 1;
    }
    w.width = 1;
    w.count = like->count;
    bb_index_set_dividers(&w);
    return w;
}

/* Whether runs of `width` elements along axis 0 are aligned pieces of every tensor: its stride
 * there is 1, and its address and other strides are multiples of the width; or its stride is 0, but
 * not the first's. The length of axis 0 is the caller's to check. */
template <int K>
static inline bool bb_index_aligned(const bb_index<K> &w, int width, const void *const *data,
                                    const int *element_bytes) {
    for (int k = 0; k < K; k++) {
        if (w.stride[k][0] == 0 && k > 0) continue;
        if (w.stride[k][0] != 1) return false;
        if ((uintptr_t)data[k] % ((uintptr_t)width * (uintptr_t)element_bytes[k])) return false;
        for (int a = 1; a < w.rank; a++)
            if (w.stride[k][a] % width != 0) return false;
    }
    return true;
}
/* Makes such runs the items. Axis 0 is a multiple of the width. */
template <int K> static inline void bb_index_widen(bb_index<K> *w, int width) {
    w->width = width;
    w->count /= width;
    w->size[0] /= width;
    for (int k = 0; k < K; k++) w->stride[k][0] *= width;
    bb_index_set_dividers(w);
}

#endif
