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
/* y (m, n) of `dtype` = (x (m, k)) (w (n, k))^T scale_x scale_w + bias, x and w rows of fp8 without
 * gaps (formats as bb_fp8_format), scales and bias on the device, bias of dtype or NULL. Summed in
 * f32, rounded once. */
struct bb_fp8_product {
    int dtype, x_format, w_format;
    int64_t m, n, k;
    const void *x, *w, *bias;
    const float *scale_x, *scale_w;
    void *y;
};
bb_status bb_blas_fp8(bb_cuda *cuda, const bb_fp8_product *product);
/* Whether this device multiplies these formats, sizes and addresses as they are. */
bool bb_blas_has_fp8(const bb_cuda *cuda, const bb_fp8_product *product);

void bb_blas_close(bb_cuda *cuda);

#endif
