/* Matrix products on the device: blas.cu is cuBLAS, sim/blas.cpp plain loops. Row-major throughout.
 *
 * C = alpha op(A) op(B) + beta C for each of `batch` products, A (m, k), B (k, n), C (m, n), after
 * op; ta and tb say whether they are stored transposed. lda, ldb, ldc are the distances of stored
 * rows, stride_* those of products (0 repeats one operand), in elements. All three of one dtype.
 * k is at least 1. f16 and bf16 accumulate in f32; f32 computes as the context's setting says
 * (bb_set_f32_compute, f32 unless TF32 is asked for); f64 in f64. beta 0 does not read C. */
#ifndef BOBBIN_BACKENDS_CUDA_BLAS_H
#define BOBBIN_BACKENDS_CUDA_BLAS_H

#include "backends/cuda/cuda.h"

struct bb_gemm_shape {
    bool ta, tb;
    int64_t m, n, k, lda, ldb, ldc;
    int64_t batch, stride_a, stride_b, stride_c;
};

bb_status bb_blas_gemm(bb_cuda *cuda, int dtype, const bb_gemm_shape *shape, double alpha,
                       const void *a, const void *b, double beta, void *c);
void bb_blas_close(bb_cuda *cuda);

#endif
