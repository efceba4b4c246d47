/* Serial matrix products, one compilation per ISA level. The floating ones are gemm_kernel.h
 * (double: gemm_f64.c); threads and the choice between these and OpenBLAS are in
 * backends/cpu/gemm.c. */
#include "backends/cpu/loops/loops.h"

#define REAL float
#include "backends/cpu/loops/gemm_kernel.h"

void BB_ISA_NAME(bb_gemm_f64_product)(bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                                      double alpha, const double *a, int64_t lda, const double *b,
                                      int64_t ldb, double beta, double *c, int64_t ldc);

/* Products of integers are rare and small: plain loops. Unsigned arithmetic wraps without undefined
 * behaviour. */
static void product_i64(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const int64_t *a,
                        int64_t lda, const int64_t *b, int64_t ldb, int64_t *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            uint64_t sum = 0;
            for (int64_t p = 0; p < k; p++)
                sum += (uint64_t)a[ta ? p * lda + i : i * lda + p] *
                       (uint64_t)b[tb ? j * ldb + p : p * ldb + j];
            c[i * ldc + j] = (int64_t)sum;
        }
}

static void product_i32(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const int32_t *a,
                        int64_t lda, const int32_t *b, int64_t ldb, int32_t *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            uint32_t sum = 0;
            for (int64_t p = 0; p < k; p++)
                sum += (uint32_t)a[ta ? p * lda + i : i * lda + p] *
                       (uint32_t)b[tb ? j * ldb + p : p * ldb + j];
            c[i * ldc + j] = (int32_t)sum;
        }
}

static void product_u8(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const uint8_t *a,
                       int64_t lda, const uint8_t *b, int64_t ldb, uint8_t *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            uint32_t sum = 0;
            for (int64_t p = 0; p < k; p++)
                sum +=
                    (uint32_t)a[ta ? p * lda + i : i * lda + p] * b[tb ? j * ldb + p : p * ldb + j];
            c[i * ldc + j] = (uint8_t)sum;
        }
}

const bb_gemm_loops BB_ISA_NAME(bb_gemm_loops) = {
    .lanes = LANES,
    .f32 = product,
    .f64 = BB_ISA_NAME(bb_gemm_f64_product),
    .i64 = product_i64,
    .i32 = product_i32,
    .u8 = product_u8,
};
