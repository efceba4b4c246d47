/* A block that gemm_kernel.h and sdpa_product.h transpose by. Included where REAL, INLINE and
 * UNROLL are defined. It only moves bits: a REAL may be a pair of bf16, at any even address. */

/* to[p * ldt + j] = from[j * ldf + p] for 8 x 8 elements, in registers. */
INLINE void transpose_8x8(const REAL *from, int64_t ldf, REAL *to, int64_t ldt) {
    typedef REAL row __attribute__((vector_size(8 * sizeof(REAL))));
    typedef REAL row_loose __attribute__((vector_size(8 * sizeof(REAL)), aligned(2), may_alias));
    row x[8], y[8];
    UNROLL
    for (int j = 0; j < 8; j++) x[j] = *(const row_loose *)(from + j * ldf);
    UNROLL
    for (int j = 0; j < 8; j += 2) {
        y[j] = __builtin_shufflevector(x[j], x[j + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        y[j + 1] = __builtin_shufflevector(x[j], x[j + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    UNROLL
    for (int j = 0; j < 8; j++) {
        const int low = j & ~2; /* pairs (0,2) (1,3) (4,6) (5,7) */
        x[j] = j & 2 ? __builtin_shufflevector(y[low], y[low + 2], 2, 3, 10, 11, 6, 7, 14, 15)
                     : __builtin_shufflevector(y[low], y[low + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    }
    UNROLL
    for (int j = 0; j < 4; j++) {
        *(row_loose *)(to + j * ldt) =
            __builtin_shufflevector(x[j], x[j + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        *(row_loose *)(to + (j + 4) * ldt) =
            __builtin_shufflevector(x[j], x[j + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}
