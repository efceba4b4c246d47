/* How the matrices of a tensor lie, for the callers of blas.h: matmul.cu, linear.cu. */
#ifndef BOBBIN_BACKENDS_CUDA_MATRIX_H
#define BOBBIN_BACKENDS_CUDA_MATRIX_H

#include "backends/cuda/blas.h"
#include "backends/cuda/copy.h"

struct bb_matrix {
    const char *data;
    bool trans;       /* stored by columns */
    int64_t ld;       /* elements from one stored row to the next */
    bb_storage *held; /* of a copy; NULL: read where it lies */
};

/* Fills trans and ld if a (rows, columns) matrix with these strides is one that blas.h can read. An
 * axis of size 1 has no stride to respect; a row that is repeated by stride 0 has to be copied. */
static inline bool bb_matrix_lies(bb_matrix *m, int64_t rows, int64_t columns, int64_t row,
                                  int64_t column) {
    const bool by_rows = (column == 1 || columns == 1) && (row >= columns || rows == 1);
    const bool by_columns = (row == 1 || rows == 1) && (column >= rows || columns == 1);
    m->trans = !by_rows && by_columns;
    m->ld = m->trans ? column : row;
    if ((m->trans ? columns : rows) == 1) m->ld = m->trans ? rows : columns;
    if (m->ld < 1) m->ld = 1;
    return by_rows || by_columns;
}

static inline int bb_dtype_size(int dtype) {
    static const unsigned char bytes[BB_DTYPE_COUNT] = {8, 4, 2, 2, 8, 4, 1, 1};
    return bytes[dtype];
}

/* A product over no elements. */
static inline bb_status bb_cuda_zero(bb_cuda *cuda, bb_tensor *t) {
    const char *why = bb_runtime_set(cuda->runtime, t->data, 0,
                                     (size_t)t->count * (size_t)bb_dtype_size(t->dtype));
    return why ? bb_cuda_fail(cuda, "clearing", why) : BB_OK;
}

#endif
