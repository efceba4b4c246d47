/* Packing for gemm_kernel.h: elements become REALs. */
typedef REAL packed;
enum { STEP = 1 }; /* rows of op(B) in one packed element */

INLINE vector multiply_add(vector sum, packed x, vector b) { return sum + x * b; }

/* Can rows of A be read where they are? Rows a multiple of 4 KiB apart would share one set of the
 * L1 cache. */
static bool in_place(const bb_product *p) {
    return !HALF && !p->ta && (p->lda * (int64_t)sizeof(ELEMENT) % 4096 != 0 || p->n <= 2 * NR);
}

/* MR (or fewer) rows of op(A): stored rows stay rows, stored columns stay columns. */
static void pack_a(bool ta, int64_t rows, int64_t k, const ELEMENT *a, int64_t lda, packed *out) {
    if (!ta) {
        for (int64_t i = 0; i < rows; i++) copy_row(k, a + i * lda, out + i * A_STEP);
        return;
    }
    for (int64_t p = 0; p < k; p++) {
        if (rows == MR) /* a known length is unrolled */
            copy_row(MR, a + p * lda, out + p * MR);
        else
            copy_row(rows, a + p * lda, out + p * MR);
    }
}

/* A sliver whose columns are stored as rows, `ld` apart. */
static void turn(int64_t columns, int64_t k, const REAL *b, int64_t ld, packed *out) {
    int64_t p = 0, whole = columns / 8 * 8;
    for (; NR % 8 == 0 && p + 8 <= k; p += 8) {
        for (int64_t j = 0; j < whole; j += 8)
            transpose_8x8(b + j * ld + p, ld, out + p * NR + j, NR);
        for (int64_t j = whole; j < columns; j++)
            for (int64_t q = p; q < p + 8; q++) out[q * NR + j] = b[j * ld + q];
    }
    for (; p < k; p++)
        for (int64_t j = 0; j < columns; j++) out[p * NR + j] = b[j * ld + p];
}

/* A sliver of op(B): k rows of NR columns, missing columns zero. */
static void pack_b(bool tb, int64_t columns, int64_t k, const ELEMENT *b, int64_t ldb,
                   packed *out) {
    if (columns < NR) memset(out, 0, (size_t)(k * NR) * sizeof *out);
    for (int64_t p = 0; !tb && p < k; p++) {
        if (columns == NR)
            copy_row(NR, b + p * ldb, out + p * NR);
        else
            copy_row(columns, b + p * ldb, out + p * NR);
    }
    if (!tb) return;
#if HALF
    REAL wide[NR * A_STEP];
    for (int64_t j = 0; j < columns; j++) copy_row(k, b + j * ldb, wide + j * A_STEP);
    turn(columns, k, wide, A_STEP, out);
#else
    turn(columns, k, b, ldb, out);
#endif
}
