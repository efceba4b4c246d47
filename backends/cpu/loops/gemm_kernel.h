/* The blocked product for one element type. The including file defines REAL (float or double) and
 * gets the static function `product`; this is a header so that the two precisions are one text.
 *
 * The plan, after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication"
 * (2008): a block of B, KC x NC, is copied into slivers of NR columns that fill the L2 cache; the
 * micro-kernel multiplies MR rows of A with a sliver, MR x NR sums in registers. Rows of A stay
 * where they are or, stored by columns, are copied to the L1 cache. Each element of C adds its
 * products in the order of k, whatever the position of the element, so any cut of C into tiles of
 * more than THIN rows gives the same bytes. */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64, MR = 12 };
#elif defined(__AVX2__)
enum { VECTOR_BYTES = 32, MR = 6 };
#else
enum { VECTOR_BYTES = 16, MR = 6 };
#endif
/* 256 KiB of B and about 26 KiB of A at most, on the stack. A_STEP keeps rows of A off each other's
 * cache sets. */
enum {
    LANES = VECTOR_BYTES / sizeof(REAL),
    NR = 2 * LANES,
    KC = 256,
    NC = 1024 / sizeof(REAL),
    A_STEP = KC + 16
};

typedef REAL vector __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL vector_loose
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#include "backends/cpu/loops/transpose_8x8.h"

typedef struct tile {
    REAL alpha, beta;
    REAL *c;
    int64_t ldc, columns; /* columns of C that are there: 1..NR */
} tile;

/* C row = beta * C row + alpha * sums. beta 0 does not read C. */
INLINE void store_row(const tile *t, REAL *c, const vector sum[2]) {
    const vector s[2] = {t->alpha * sum[0], t->alpha * sum[1]};
    if (t->columns == NR) {
        vector_loose *v = (vector_loose *)c;
        if (t->beta == 0) {
            v[0] = s[0];
            v[1] = s[1];
        } else {
            v[0] = t->beta * v[0] + s[0];
            v[1] = t->beta * v[1] + s[1];
        }
        return;
    }
    REAL part[NR];
    memcpy(part, s, sizeof part);
    for (int64_t j = 0; j < t->columns; j++)
        c[j] = t->beta == 0 ? part[j] : t->beta * c[j] + part[j];
}

/* `rows` (a constant after inlining) rows of C; element (i, p) of A is at a[i * i_step + p *
 * p_step]. */
INLINE void micro(int rows, int64_t k, const REAL *a, int64_t i_step, int64_t p_step, const REAL *b,
                  const tile *t) {
    vector sum[MR][2];
    UNROLL
    for (int i = 0; i < rows; i++) sum[i][0] = sum[i][1] = (vector){0};
    for (int64_t p = 0; p < k; p++, a += p_step, b += NR) {
        const vector b0 = *(const vector_loose *)b, b1 = *(const vector_loose *)(b + LANES);
        UNROLL
        for (int i = 0; i < rows; i++) {
            const REAL x = a[i * i_step];
            sum[i][0] += x * b0;
            sum[i][1] += x * b1;
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++) store_row(t, t->c + i * t->ldc, sum[i]);
}

/* The heights that are unrolled, for A by rows (`step` apart) and packed by columns (1 apart). */
typedef void (*micro_fn)(int64_t k, const REAL *a, int64_t step, const REAL *b, const tile *t);
static void rows_all(int64_t k, const REAL *a, int64_t step, const REAL *b, const tile *t) {
    micro(MR, k, a, step, 1, b, t);
}
static void rows_4(int64_t k, const REAL *a, int64_t step, const REAL *b, const tile *t) {
    micro(4, k, a, step, 1, b, t);
}
static void rows_1(int64_t k, const REAL *a, int64_t step, const REAL *b, const tile *t) {
    micro(1, k, a, step, 1, b, t);
}
static void columns_all(int64_t k, const REAL *a, int64_t step, const REAL *b, const tile *t) {
    (void)step;
    micro(MR, k, a, 1, MR, b, t);
}
static void columns_4(int64_t k, const REAL *a, int64_t step, const REAL *b, const tile *t) {
    (void)step;
    micro(4, k, a, 1, MR, b, t);
}
static void columns_1(int64_t k, const REAL *a, int64_t step, const REAL *b, const tile *t) {
    (void)step;
    micro(1, k, a, 1, MR, b, t);
}
static const micro_fn micro_by_rows[] = {rows_all, rows_4, rows_1},
                      micro_by_columns[] = {columns_all, columns_4, columns_1};

/* A call of memcpy costs as much as a short row. */
INLINE void copy_row(int64_t n, const REAL *x, REAL *out) {
    int64_t p = 0;
    for (; p + LANES <= n; p += LANES) *(vector_loose *)(out + p) = *(const vector_loose *)(x + p);
    for (; p < n; p++) out[p] = x[p];
}

/* MR (or fewer) rows of op(A): stored rows stay rows, stored columns stay columns. */
static void pack_a(bool ta, int64_t rows, int64_t k, const REAL *a, int64_t lda, REAL *out) {
    if (!ta) {
        for (int64_t i = 0; i < rows; i++) copy_row(k, a + i * lda, out + i * A_STEP);
    } else if (rows == MR) {
        for (int64_t p = 0; p < k; p++) memcpy(out + p * MR, a + p * lda, MR * sizeof *out);
    } else {
        for (int64_t p = 0; p < k; p++)
            for (int64_t i = 0; i < rows; i++) out[p * MR + i] = a[p * lda + i];
    }
}

/* A sliver of op(B): k rows of NR columns, missing columns zero. */
static void pack_b(bool tb, int64_t columns, int64_t k, const REAL *b, int64_t ldb, REAL *out) {
    if (columns < NR) memset(out, 0, (size_t)(k * NR) * sizeof *out);
    if (!tb) {
        if (columns == NR) {
            for (int64_t p = 0; p < k; p++) memcpy(out + p * NR, b + p * ldb, NR * sizeof *out);
        } else {
            for (int64_t p = 0; p < k; p++)
                for (int64_t j = 0; j < columns; j++) out[p * NR + j] = b[p * ldb + j];
        }
        return;
    }
    int64_t p = 0, whole = columns / 8 * 8;
    for (; NR % 8 == 0 && p + 8 <= k; p += 8) {
        for (int64_t j = 0; j < whole; j += 8)
            transpose_8x8(b + j * ldb + p, ldb, out + p * NR + j, NR);
        for (int64_t j = whole; j < columns; j++)
            for (int64_t q = p; q < p + 8; q++) out[q * NR + j] = b[j * ldb + q];
    }
    for (; p < k; p++)
        for (int64_t j = 0; j < columns; j++) out[p * NR + j] = b[j * ldb + p];
}

/* MR (or fewer) rows of A times the packed block of B. */
static void sliver(bool ta, int64_t rows, int64_t columns, int64_t k, const REAL *a, int64_t step,
                   const REAL *b, tile t) {
    const micro_fn *run = ta ? micro_by_columns : micro_by_rows;
    REAL *const c = t.c;
    for (int64_t j = 0; j < columns; j += NR) {
        t.columns = columns - j < NR ? columns - j : NR;
        t.c = c + j;
        if (rows == MR) {
            run[0](k, a, step, b + j * k, &t);
            continue;
        }
        int64_t i = 0;
        for (; i + 4 <= rows; i += 4, t.c += 4 * t.ldc)
            run[1](k, a + i * step, step, b + j * k, &t);
        for (; i < rows; i++, t.c += t.ldc) run[2](k, a + i * step, step, b + j * k, &t);
    }
}

/* A few rows: B is read once where it lies, because packing it would cost as much as the product.
 */
enum { THIN = 3 };
static void product_thin(bool ta, bool tb, int64_t m, int64_t n, int64_t k, REAL alpha,
                         const REAL *a, int64_t lda, const REAL *b, int64_t ldb, REAL beta, REAL *c,
                         int64_t ldc) {
    for (int64_t i = 0; i < m; i++) {
        REAL *ci = c + i * ldc;
        for (int64_t j0 = 0; j0 < n; j0 += 4 * NR) {
            const int64_t width = n - j0 < 4 * NR ? n - j0 : 4 * NR;
            REAL sum[4 * NR] = {0};
            for (int64_t j = 0; tb && j < width; j++) {
                const REAL *x = a + (ta ? i : i * lda), *y = b + (j0 + j) * ldb;
                REAL s = 0;
                if (ta) {
                    for (int64_t p = 0; p < k; p++) s += x[p * lda] * y[p];
                } else {
#pragma omp simd reduction(+ : s)
                    for (int64_t p = 0; p < k; p++) s += x[p] * y[p];
                }
                sum[j] = s;
            }
            for (int64_t p = 0; !tb && p < k; p++) {
                const REAL x = a[ta ? p * lda + i : i * lda + p], *y = b + p * ldb + j0;
                if (width == 4 * NR) {
                    for (int64_t j = 0; j < 4 * NR; j++) sum[j] += x * y[j];
                } else {
                    for (int64_t j = 0; j < width; j++) sum[j] += x * y[j];
                }
            }
            for (int64_t j = 0; j < width; j++)
                ci[j0 + j] = alpha * sum[j] + (beta == 0 ? 0 : beta * ci[j0 + j]);
        }
    }
}

static void scale(int64_t m, int64_t n, REAL beta, REAL *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];
}

static void product(bool ta, bool tb, int64_t m, int64_t n, int64_t k, REAL alpha, const REAL *a,
                    int64_t lda, const REAL *b, int64_t ldb, REAL beta, REAL *c, int64_t ldc) {
    if (k <= 0) {
        scale(m, n, beta, c, ldc);
        return;
    }
    if (m <= THIN) {
        product_thin(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    /* Rows a multiple of 4 KiB apart would share one set of the L1 cache. */
    const bool direct = !ta && (lda * (int64_t)sizeof(REAL) % 4096 != 0 || n <= 2 * NR);
    REAL block[KC * NC] __attribute__((aligned(64)));
    REAL rows[MR * A_STEP] __attribute__((aligned(64)));
    for (int64_t j0 = 0; j0 < n; j0 += NC) {
        const int64_t columns = n - j0 < NC ? n - j0 : NC;
        for (int64_t p0 = 0; p0 < k; p0 += KC) {
            const int64_t depth = k - p0 < KC ? k - p0 : KC;
            for (int64_t j = 0; j < columns; j += NR)
                pack_b(tb, columns - j < NR ? columns - j : NR, depth,
                       b + (tb ? (j0 + j) * ldb + p0 : p0 * ldb + j0 + j), ldb, block + j * depth);
            for (int64_t i = 0; i < m; i += MR) {
                const int64_t height = m - i < MR ? m - i : MR;
                const REAL *corner = a + (ta ? p0 * lda + i : i * lda + p0);
                const tile t = {alpha, p0 ? 1 : beta, c + i * ldc + j0, ldc, 0};
                if (!direct) pack_a(ta, height, depth, corner, lda, rows);
                sliver(ta, height, columns, depth, direct ? corner : rows,
                       direct ? lda
                       : ta   ? 1
                              : A_STEP,
                       block, t);
            }
        }
    }
}
