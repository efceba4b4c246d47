/* Indices as kernels read them: for index.cu, scatter.cu and cross_entropy.cu. */
#ifndef BOBBIN_BACKENDS_CUDA_INDEX_LIST_H
#define BOBBIN_BACKENDS_CUDA_INDEX_LIST_H

#include "backends/cuda/lines.h"

/* A list of indices, i32 or i64, any strides. */
struct bb_index_list {
    bb_lines at;
    const void *data;
    bool wide;

    __device__ int64_t operator[](int64_t i) const {
        const int64_t offset = at.start(i);
        return wide ? static_cast<const int64_t *>(data)[offset]
                    : static_cast<const int32_t *>(data)[offset];
    }
    template <typename F> void each_pointer(F &f) const { f(data); }
};
static inline bb_index_list bb_index_list_of(const bb_tensor *t) {
    return bb_index_list{bb_lines_of(t, -1), t->data, t->dtype == BB_I64};
}

/* For each element of the index, in row-major order, its offset in x but for the indexed axis. */
static inline bb_lines bb_lines_beside(const bb_tensor *index, const bb_tensor *x, int axis) {
    bb_tensor seen = *index;
    for (int a = 0; a < index->rank; a++) seen.stride[a] = a == axis ? 0 : x->stride[a];
    return bb_lines_of(&seen, -1);
}

#endif
