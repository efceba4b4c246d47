/* Matrix products on one thread: C = alpha * op(A) op(B) + beta * C, row-major, see
 * backends/cpu/gemm.h for the arguments. gemm_kernel.h is the blocked product, compiled for float
 * (gemm.c) and double (gemm_f64.c). */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_GEMM_H
#define BOBBIN_BACKENDS_CPU_LOOPS_GEMM_H

#include <stdbool.h>
#include <stdint.h>

typedef struct bb_gemm_loops {
    int lanes; /* floats in a vector register */
    void (*f32)(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
    void (*f64)(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha, const double *a,
                int64_t lda, const double *b, int64_t ldb, double beta, double *c, int64_t ldc);
    /* Integers wrap around; C is overwritten. */
    void (*i64)(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const int64_t *a, int64_t lda,
                const int64_t *b, int64_t ldb, int64_t *c, int64_t ldc);
    void (*i32)(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const int32_t *a, int64_t lda,
                const int32_t *b, int64_t ldb, int32_t *c, int64_t ldc);
    void (*u8)(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const uint8_t *a, int64_t lda,
               const uint8_t *b, int64_t ldb, uint8_t *c, int64_t ldc);
} bb_gemm_loops;
extern const bb_gemm_loops bb_gemm_loops_baseline, bb_gemm_loops_avx2, bb_gemm_loops_avx512;

#endif
