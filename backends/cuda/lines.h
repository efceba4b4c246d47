/* Tensors of any strides as kernels walk them: lines along one axis, whole elements, and 16 bytes
 * at a time where that is allowed. For softmax, log_softmax, cross_entropy, cumsum, argmax and the
 * indexing kernels. */
#ifndef BOBBIN_BACKENDS_CUDA_LINES_H
#define BOBBIN_BACKENDS_CUDA_LINES_H

#include "backends/cuda/cuda.h"

/* Lines along one axis, numbered in row-major order of the others. Those are merged where they lie
 * densely, so that the lines of a contiguous tensor cost no division. */
struct bb_lines {
    int64_t n, step, count; /* elements of a line and their distance; lines */
    int axes;
    int64_t size[BB_MAX_RANK], stride[BB_MAX_RANK];

    /* Offset of a line's first element. 32-bit divisions where they do: 64-bit ones cost four times
     * as much. */
    __device__ int64_t start(int64_t line) const {
        int64_t offset = 0;
        if (axes > 1 && count <= 0xffffffffLL) {
            uint32_t rest = (uint32_t)line;
            for (int a = axes - 1; a > 0; a--) {
                const uint32_t outer = rest / (uint32_t)size[a];
                offset += (int64_t)(rest - outer * (uint32_t)size[a]) * stride[a];
                rest = outer;
            }
            return offset + (int64_t)rest * stride[0];
        }
        for (int a = axes - 1; a > 0; a--) {
            offset += line % size[a] * stride[a];
            line /= size[a];
        }
        return axes ? offset + line * stride[0] : 0;
    }
};

/* axis -1: every element is a line of its own, so start(i) is the offset of element i. */
static inline bb_lines bb_lines_of(const bb_tensor *t, int axis) {
    bb_lines l = {axis < 0 ? 1 : t->size[axis], axis < 0 ? 1 : t->stride[axis], 1, 0, {0}, {0}};
    for (int a = 0; a < t->rank; a++) {
        if (a == axis) continue;
        l.count *= t->size[a];
        if (t->size[a] == 1) continue;
        const int last = l.axes - 1;
        if (l.axes && l.stride[last] == t->stride[a] * t->size[a]) {
            l.size[last] *= t->size[a];
            l.stride[last] = t->stride[a];
        } else {
            l.size[l.axes] = t->size[a];
            l.stride[l.axes++] = t->stride[a];
        }
    }
    return l;
}

/* Whether each line can be read 16 bytes at a time. */
template <typename T> static inline bool bb_lines_packed(const bb_lines &l, const void *data) {
    bool packed = l.step == 1 && l.n % bb_pack<T>::N == 0 && (uintptr_t)data % 16 == 0;
    for (int a = 0; packed && a < l.axes; a++) packed = l.stride[a] % bb_pack<T>::N == 0;
    return packed;
}

/* One element where a kernel may also take a pack. */
template <typename T> struct bb_single {
    enum { N = 1 };
    T v[1];
};

template <typename T>
static __device__ inline void bb_get(const T *line, int64_t, int64_t i, bb_pack<T> *pack) {
    *pack = bb_load16(line + i);
}
template <typename T>
static __device__ inline void bb_get(const T *line, int64_t step, int64_t i, bb_single<T> *one) {
    one->v[0] = line[i * step];
}

/* Four loads are under way at once: with 1024 threads on a multiprocessor, 64 KiB. Two of f64,
 * whose arithmetic leaves no registers for more. */
template <typename P, typename T, typename F>
static __device__ inline void bb_walk_pieces(const T *line, int64_t step, int64_t n, int me,
                                             int width, F f) {
    enum { IN_FLIGHT = sizeof(T) == 8 ? 2 : 4 };
    const int64_t turn = (int64_t)width * P::N;
    int64_t i = (int64_t)me * P::N;
    for (; i + (IN_FLIGHT - 1) * turn < n; i += IN_FLIGHT * turn) {
        P piece[IN_FLIGHT];
        for (int k = 0; k < IN_FLIGHT; k++) bb_get(line, step, i + k * turn, &piece[k]);
        for (int k = 0; k < IN_FLIGHT; k++) f(i + k * turn, piece[k]);
    }
    for (; i < n; i += turn) {
        P piece;
        bb_get(line, step, i, &piece);
        f(i, piece);
    }
}
/* f(i, piece) for the elements from i on that thread `me` of `width` takes of a line: packs of 16
 * bytes, or single elements `step` apart. */
template <typename T, typename F>
static __device__ inline void bb_walk_line(const T *line, int64_t step, int64_t n, bool packed,
                                           int me, int width, F f) {
    if (packed)
        bb_walk_pieces<bb_pack<T>>(line, step, n, me, width, f);
    else
        bb_walk_pieces<bb_single<T>>(line, step, n, me, width, f);
}
/* Writes a pack or a single element to a line without gaps. */
template <typename T> static __device__ inline void bb_put(T *at, const bb_pack<T> &pack) {
    bb_store16(at, pack);
}
template <typename T> static __device__ inline void bb_put(T *at, const bb_single<T> &single) {
    *at = single.v[0];
}

#endif
