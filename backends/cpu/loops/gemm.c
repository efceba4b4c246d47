/* The table of serial matrix products, and those of integers. */
#include "backends/cpu/loops/loops.h"

extern const bb_gemm_kernel BB_ISA_NAME(bb_gemm_f32), BB_ISA_NAME(bb_gemm_f64),
    BB_ISA_NAME(bb_gemm_f16), BB_ISA_NAME(bb_gemm_bf16);

/* Products of integers are rare and small: plain loops. Unsigned arithmetic wraps without undefined
 * behaviour. */
static void product_i64(const bb_product *p) {
    const int64_t *a = p->a, *b = p->b;
    int64_t *c = p->c;
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++) {
            uint64_t sum = 0;
            for (int64_t q = 0; q < p->k; q++)
                sum += (uint64_t)a[p->ta ? q * p->lda + i : i * p->lda + q] *
                       (uint64_t)b[p->tb ? j * p->ldb + q : q * p->ldb + j];
            c[i * p->ldc + j] = (int64_t)sum;
        }
}

static void product_i32(const bb_product *p) {
    const int32_t *a = p->a, *b = p->b;
    int32_t *c = p->c;
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++) {
            uint32_t sum = 0;
            for (int64_t q = 0; q < p->k; q++)
                sum += (uint32_t)a[p->ta ? q * p->lda + i : i * p->lda + q] *
                       (uint32_t)b[p->tb ? j * p->ldb + q : q * p->ldb + j];
            c[i * p->ldc + j] = (int32_t)sum;
        }
}

static void product_u8(const bb_product *p) {
    const uint8_t *a = p->a, *b = p->b;
    uint8_t *c = p->c;
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++) {
            uint32_t sum = 0;
            for (int64_t q = 0; q < p->k; q++)
                sum += (uint32_t)a[p->ta ? q * p->lda + i : i * p->lda + q] *
                       (uint32_t)b[p->tb ? j * p->ldb + q : q * p->ldb + j];
            c[i * p->ldc + j] = (uint8_t)sum;
        }
}

const bb_gemm_loops BB_ISA_NAME(bb_gemm_loops) = {
    .f32 = &BB_ISA_NAME(bb_gemm_f32),
    .f64 = &BB_ISA_NAME(bb_gemm_f64),
    .f16 = &BB_ISA_NAME(bb_gemm_f16),
    .bf16 = &BB_ISA_NAME(bb_gemm_bf16),
    .i64 = product_i64,
    .i32 = product_i32,
    .u8 = product_u8,
};
