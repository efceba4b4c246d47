/* Packing for gemm_kernel.h: two bf16 that follow each other along k become one packed element, the
 * operand of a multiplication that adds both products. An odd k ends in a pair with a zero. */
#include <immintrin.h>

typedef uint32_t packed;
enum { STEP = 2 }; /* rows of op(B) in one packed element */

INLINE vector multiply_add(vector sum, packed x, vector b) {
    return (vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)x), (__m512bh)b);
}

/* Can rows of A be read where they are? They must be pairs; and rows a multiple of 4 KiB apart
 * would share one set of the L1 cache. */
static bool in_place(const bb_product *p) {
    return !p->ta && p->k % STEP == 0 && p->lda % STEP == 0 &&
           (p->lda * (int64_t)sizeof(ELEMENT) % 4096 != 0 || p->n <= 2 * NR);
}

/* Two rows of n elements as n pairs; below NULL: zeros. */
INLINE void pair_rows(int64_t n, const ELEMENT *x, const ELEMENT *below, packed *out) {
    if (below) {
        for (int64_t i = 0; i < n; i++) out[i] = x[i] | (packed)below[i] << 16;
    } else {
        for (int64_t i = 0; i < n; i++) out[i] = x[i];
    }
}

/* A column of n pairs. */
INLINE void pair_column(int64_t n, const ELEMENT *x, packed *out) {
    for (int64_t p = 0; p < n; p++) memcpy(out + p * NR, x + p * 2, sizeof *out);
}

/* MR (or fewer) rows of op(A): stored rows stay rows, stored columns stay columns. */
static void pack_a(bool ta, int64_t rows, int64_t k, const ELEMENT *a, int64_t lda, packed *out) {
    if (!ta) {
        for (int64_t i = 0; i < rows; i++) {
            memcpy(out + i * A_STEP, a + i * lda, (size_t)k * sizeof *a);
            if (k % 2) out[i * A_STEP + k / 2] = a[i * lda + k - 1];
        }
        return;
    }
    for (int64_t p = 0; p < k; p += 2, out += MR) {
        const ELEMENT *x = a + p * lda, *below = p + 1 < k ? x + lda : NULL;
        if (rows == MR)
            pair_rows(MR, x, below, out);
        else
            pair_rows(rows, x, below, out);
    }
}

/* A sliver of op(B): k rows of NR columns, missing columns zero. */
static void pack_b(bool tb, int64_t columns, int64_t k, const ELEMENT *b, int64_t ldb,
                   packed *out) {
    const int64_t pairs = k / 2, whole = columns / 8 * 8;
    if (columns < NR) memset(out, 0, (size_t)((k + 1) / 2 * NR) * sizeof *out);
    if (!tb) {
        for (int64_t p = 0; p < k; p += 2, out += NR) {
            const ELEMENT *x = b + p * ldb, *below = p + 1 < k ? x + ldb : NULL;
            if (columns == NR)
                pair_rows(NR, x, below, out);
            else
                pair_rows(columns, x, below, out);
        }
        return;
    }
    int64_t p = 0;
    for (; ldb % 2 == 0 && p + 8 <= pairs; p += 8) {
        for (int64_t j = 0; j < whole; j += 8)
            transpose_8x8((const REAL *)(const void *)(b + j * ldb + 2 * p), ldb / 2,
                          (REAL *)(void *)(out + p * NR + j), NR);
        for (int64_t j = whole; j < columns; j++)
            pair_column(8, b + j * ldb + 2 * p, out + p * NR + j);
    }
    for (int64_t j = 0; j < columns; j++) {
        pair_column(pairs - p, b + j * ldb + 2 * p, out + p * NR + j);
        if (k % 2) out[pairs * NR + j] = b[j * ldb + k - 1];
    }
}
