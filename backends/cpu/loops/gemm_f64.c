/* The double-precision product of loops/gemm.c's table: gemm_kernel.h once more. */
#include "backends/cpu/loops/loops.h"

#define REAL double
#include "backends/cpu/loops/gemm_kernel.h"

void BB_ISA_NAME(bb_gemm_f64_product)(bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                                      double alpha, const double *a, int64_t lda, const double *b,
                                      int64_t ldb, double beta, double *c, int64_t ldc);

void BB_ISA_NAME(bb_gemm_f64_product)(bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                                      double alpha, const double *a, int64_t lda, const double *b,
                                      int64_t ldb, double beta, double *c, int64_t ldc) {
    product(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
