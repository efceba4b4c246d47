/* The two building blocks of sdpa_kernel.h, for its REAL: a product with one operand read as
 * scalars, and a transpose. */
#include <stdbool.h>
#include <stdint.h>

#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64, VECTORS = 4 }; /* VECTORS x 4 sums leave room in the registers */
#elif defined(__AVX2__)
enum { VECTOR_BYTES = 32, VECTORS = 2 };
#else
enum { VECTOR_BYTES = 16, VECTORS = 2 };
#endif
enum { LANES = VECTOR_BYTES / sizeof(REAL) };

typedef REAL vector __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL vector_loose
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
/* A sanitizer's check of every index in unrolled code takes a compiler minutes. */
#define UNCHECKED                                                                                  \
    __attribute__((no_sanitize("pointer-overflow"), no_sanitize("signed-integer-overflow")))
#define INLINE static inline UNCHECKED __attribute__((always_inline))
#define APART static UNCHECKED __attribute__((noinline)) /* large when unrolled: once is enough */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
#include "backends/cpu/loops/transpose_8x8.h"

/* Element (i, p) lies at at[i * row + p * step]. */
typedef struct operand {
    const REAL *at;
    int64_t row, step;
} operand;

/* `rows` x `vectors` sums in registers; both are constants after inlining. */
INLINE void register_block(int rows, int vectors, int64_t k, operand a, const REAL *b, int64_t ldb,
                           bool add, REAL *c, int64_t ldc) {
    vector sum[8][4];
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int v = 0; v < vectors; v++) sum[i][v] = (vector){0};
    }
    for (int64_t p = 0; p < k; p++) {
        vector x[4];
        UNROLL
        for (int v = 0; v < vectors; v++) x[v] = *(const vector_loose *)(b + p * ldb + v * LANES);
        UNROLL
        for (int i = 0; i < rows; i++) {
            const REAL s = a.at[i * a.row + p * a.step];
            UNROLL
            for (int v = 0; v < vectors; v++) sum[i][v] += s * x[v];
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int v = 0; v < vectors; v++) {
            vector_loose *to = (vector_loose *)(c + i * ldc + v * LANES);
            if (add) sum[i][v] += *to;
            *to = sum[i][v];
        }
    }
}

INLINE void column_block(int rows, int vectors, int64_t m, int64_t k, operand a, const REAL *b,
                         int64_t ldb, bool add, REAL *c, int64_t ldc) {
    int64_t i = 0;
    for (; i + rows <= m; i += rows, a.at += rows * a.row)
        register_block(rows, vectors, k, a, b, ldb, add, c + i * ldc, ldc);
    for (; i < m; i++, a.at += a.row)
        register_block(1, vectors, k, a, b, ldb, add, c + i * ldc, ldc);
}

/* C (m, n) = A (m, k) B (k, n), or added to C. Rows of B and C are contiguous; sums are in the
 * order of k. */
APART void product(int64_t m, int64_t n, int64_t k, operand a, const REAL *b, int64_t ldb, bool add,
                   REAL *c, int64_t ldc) {
    int64_t j = 0;
    for (; j + VECTORS * LANES <= n; j += VECTORS * LANES)
        column_block(4, VECTORS, m, k, a, b + j, ldb, add, c + j, ldc);
    for (; j + 2 * LANES <= n; j += 2 * LANES)
        column_block(4, 2, m, k, a, b + j, ldb, add, c + j, ldc);
    for (; j + LANES <= n; j += LANES) column_block(8, 1, m, k, a, b + j, ldb, add, c + j, ldc);
    if (j == n) return;
    for (int64_t i = 0; i < m; i++) {
        REAL *to = c + i * ldc;
        for (int64_t q = j; q < n && !add; q++) to[q] = 0;
        for (int64_t p = 0; p < k; p++) {
            const REAL s = a.at[i * a.row + p * a.step];
            for (int64_t q = j; q < n; q++) to[q] += s * b[p * ldb + q];
        }
    }
}

/* to[p * ldt + j] = from[j * ldf + p] for `rows` rows of `width` elements. */
APART void transpose(int64_t rows, int64_t width, const REAL *from, int64_t ldf, REAL *to,
                     int64_t ldt) {
    const int64_t whole_rows = rows / 8 * 8, whole_width = width / 8 * 8;
    for (int64_t j = 0; j < whole_rows; j += 8) {
        for (int64_t p = 0; p < whole_width; p += 8)
            transpose_8x8(from + j * ldf + p, ldf, to + p * ldt + j, ldt);
    }
    for (int64_t j = 0; j < rows; j++)
        for (int64_t p = j < whole_rows ? whole_width : 0; p < width; p++)
            to[p * ldt + j] = from[j * ldf + p];
}
