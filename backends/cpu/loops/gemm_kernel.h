/* The blocked product of one element type. The including file defines
 *
 *     ELEMENT          what A, B and C are made of
 *     REAL             what it adds in: float or double
 *     HALF             1: ELEMENT is 16 bits; WIDEN and NARROW convert runs of it
 *     PAIRS            1: the processor multiplies pairs of bf16
 *     KERNEL           the bb_gemm_kernel to define
 *
 * The plan, after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication"
 * (2008): a block of B, KC x NC, is copied into slivers of NR columns that fill the L2 cache; the
 * micro-kernel multiplies MR rows of A with a sliver, MR x NR sums in registers. Rows of A stay
 * where they are or are copied to the L1 cache. Each element of C adds its products in the order
 * of k, whatever the position of the element, so any cut of C into tiles gives the same bytes. */
#include <string.h>

#include "backends/cpu/loops/loops.h"

#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64, MR = 12 };
#elif defined(__AVX2__)
enum { VECTOR_BYTES = 32, MR = 6 };
#else
enum { VECTOR_BYTES = 16, MR = 6 };
#endif
/* On the stack: 256 KiB of B and about 26 KiB of A at most; of 16 bits, 128 KiB, and 96 of sums.
 * A_STEP keeps rows of A off each other's cache sets. */
enum {
    LANES = VECTOR_BYTES / sizeof(REAL),
    NR = 2 * LANES,
    KC = 256,
    NC = (HALF ? 512 : 1024) / sizeof(REAL),
    A_STEP = KC + 16,
    TILE_ROWS = 192
};

typedef REAL vector __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL vector_loose
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(ELEMENT)), may_alias));
#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#include "backends/cpu/loops/transpose_8x8.h"

/* Elements as REALs. A call of memcpy costs as much as a short row. */
INLINE void copy_row(int64_t n, const ELEMENT *x, REAL *out) {
#if HALF
    WIDEN(n, x, out);
#else
    int64_t p = 0;
    for (; p + LANES <= n; p += LANES) *(vector_loose *)(out + p) = *(const vector_loose *)(x + p);
    for (; p < n; p++) out[p] = x[p];
#endif
}

#if PAIRS
#include "backends/cpu/loops/gemm_pairs.h"
#else
#include "backends/cpu/loops/gemm_pack.h"
#endif

typedef packed packed_loose __attribute__((aligned(sizeof(ELEMENT)), may_alias));

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t steps_of(int64_t k) { return (k + STEP - 1) / STEP; }

/* Where sums go. C = from + sums; from NULL: C = sums. */
typedef struct target {
    REAL *c;
    int64_t ldc;
    const REAL *from;
    int64_t from_ld;
    int64_t columns; /* that are there: 1..NR */
} target;

INLINE void store_row(const target *t, int i, const vector sum[2]) {
    REAL *c = t->c + i * t->ldc;
    const REAL *from = t->from ? t->from + i * t->from_ld : NULL;
    if (t->columns == NR) {
        vector_loose *to = (vector_loose *)c;
        const vector_loose *f = (const vector_loose *)from;
        for (int v = 0; v < 2; v++) {
            if (f)
                to[v] = f[v] + sum[v];
            else
                to[v] = sum[v];
        }
        return;
    }
    REAL part[NR];
    memcpy(part, sum, sizeof part);
    for (int64_t j = 0; j < t->columns; j++) c[j] = from ? from[j] + part[j] : part[j];
}

/* `rows` (a constant after inlining) rows of C; packed element (i, p) of A is at a[i * i_step + p *
 * p_step]. */
INLINE void micro(int rows, int64_t steps, const packed_loose *a, int64_t i_step, int64_t p_step,
                  const packed *b, const target *t) {
    vector sum[MR][2];
    UNROLL
    for (int i = 0; i < rows; i++) sum[i][0] = sum[i][1] = (vector){0};
    for (int64_t p = 0; p < steps; p++, a += p_step, b += NR) {
        const vector b0 = *(const vector_loose *)b, b1 = *(const vector_loose *)(b + LANES);
        UNROLL
        for (int i = 0; i < rows; i++) {
            const packed x = a[i * i_step];
            sum[i][0] = multiply_add(sum[i][0], x, b0);
            sum[i][1] = multiply_add(sum[i][1], x, b1);
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++) store_row(t, i, sum[i]);
}

/* The heights that are unrolled, for A by rows (`step` apart) and packed by columns (1 apart). */
typedef void (*micro_fn)(int64_t steps, const packed_loose *a, int64_t step, const packed *b,
                         const target *t);
static void rows_all(int64_t steps, const packed_loose *a, int64_t step, const packed *b,
                     const target *t) {
    micro(MR, steps, a, step, 1, b, t);
}
static void rows_4(int64_t steps, const packed_loose *a, int64_t step, const packed *b,
                   const target *t) {
    micro(4, steps, a, step, 1, b, t);
}
static void rows_1(int64_t steps, const packed_loose *a, int64_t step, const packed *b,
                   const target *t) {
    micro(1, steps, a, step, 1, b, t);
}
static void columns_all(int64_t steps, const packed_loose *a, int64_t step, const packed *b,
                        const target *t) {
    (void)step;
    micro(MR, steps, a, 1, MR, b, t);
}
static void columns_4(int64_t steps, const packed_loose *a, int64_t step, const packed *b,
                      const target *t) {
    (void)step;
    micro(4, steps, a, 1, MR, b, t);
}
static void columns_1(int64_t steps, const packed_loose *a, int64_t step, const packed *b,
                      const target *t) {
    (void)step;
    micro(1, steps, a, 1, MR, b, t);
}
static const micro_fn micro_by_rows[] = {rows_all, rows_4, rows_1},
                      micro_by_columns[] = {columns_all, columns_4, columns_1};

/* MR (or fewer) rows of A times the packed block of B. */
static void band(bool ta, int64_t rows, int64_t columns, int64_t steps, const packed_loose *a,
                 int64_t a_step, const packed *b, target t) {
    const micro_fn *run = ta ? micro_by_columns : micro_by_rows;
    const target corner = t;
    for (int64_t j = 0; j < columns; j += NR) {
        t = corner;
        t.columns = least(columns - j, NR);
        t.c += j;
        if (t.from) t.from += j;
        int64_t i = 0, height = rows == MR ? MR : 4;
        for (int which = rows == MR ? 0 : 1; which < 3; which++, height = 1)
            for (; i + height <= rows; i += height) {
                run[which](steps, a + i * a_step, a_step, b + j * steps, &t);
                t.c += height * t.ldc;
                if (t.from) t.from += height * t.from_ld;
            }
    }
}

/* Packs one sliver of a block: rows p0 and on, columns j and on. */
static void pack_sliver(const bb_product *p, int64_t p0, int64_t j, packed *out) {
    const ELEMENT *b = (const ELEMENT *)p->b + (p->tb ? j * p->ldb + p0 : p0 * p->ldb + j);
    pack_b(p->tb, least(p->n - j, NR), least(p->k - p0, KC), b, p->ldb, out);
}

static packed *in_panel(const bb_panel *panel, int64_t p0, int64_t j, int64_t steps) {
    return (packed *)panel->at + p0 / STEP * panel->columns + (j - panel->first) * steps;
}

static void pack_panel(const bb_product *p, int64_t p0, int64_t j, const bb_panel *panel) {
    pack_sliver(p, p0, j, in_panel(panel, p0, j, steps_of(least(p->k - p0, KC))));
}

static int64_t sliver_bytes(int64_t k) { return steps_of(k) * NR * (int64_t)sizeof(packed); }

/* sums = start + bias, for rows [i0, i0 + height) and columns [j0, j0 + width). */
static void prime(const bb_product *p, int64_t i0, int64_t height, int64_t j0, int64_t width,
                  REAL *sums, int64_t ld) {
    const ELEMENT *bias = p->bias;
    REAL row[NC];
    if (bias) copy_row(width, bias + j0, row);
    for (int64_t i = 0; i < height; i++, sums += ld) {
        const ELEMENT *start = p->start;
        if (start) copy_row(width, start + (i0 + i) * p->start_ld + j0, sums);
        for (int64_t j = 0; j < width; j++)
            sums[j] = (start ? sums[j] : 0) + (bias ? row[j] : 0);
    }
}

/* Where the sums of a tile go: to C itself, or of 16 bits to `wide`; and what they begin from. */
static target begin(const bb_product *p, int64_t i0, int64_t height, int64_t j0, int64_t width,
                    REAL *wide) {
#if HALF
    target t = {wide, NC, NULL, NC, 0};
    const bool in_memory = false;
#else
    (void)wide;
    target t = {(REAL *)p->c + i0 * p->ldc + j0, p->ldc, NULL, 0, 0};
    const bool in_memory = p->k > 0 && !(p->start && p->bias);
    if (in_memory && p->start) {
        t.from = (const REAL *)p->start + i0 * p->start_ld + j0;
        t.from_ld = p->start_ld;
    } else if (in_memory && p->bias) {
        t.from = (const REAL *)p->bias + j0;
    }
#endif
    if (!in_memory && (p->start || p->bias || p->k <= 0)) {
        prime(p, i0, height, j0, width, t.c, t.ldc);
        t.from = t.c;
        t.from_ld = t.ldc;
    }
    return t;
}

/* rows [i0, i0 + height) and columns [j0, j0 + width) of C: at most NC columns, of 16 bits at most
 * TILE_ROWS rows. */
static void tile(const bb_product *p, int64_t i0, int64_t height, int64_t j0, int64_t width,
                 const bb_panel *panel) {
    packed block[KC / STEP * NC] __attribute__((aligned(64)));
    packed rows[MR * A_STEP] __attribute__((aligned(64)));
    REAL wide[HALF ? TILE_ROWS * NC : 1] __attribute__((aligned(64)));
    target t = begin(p, i0, height, j0, width, wide);
    const bool direct = in_place(p);
    for (int64_t p0 = 0; p0 < p->k; p0 += KC) {
        const int64_t depth = least(p->k - p0, KC), steps = steps_of(depth);
        for (int64_t j = 0; !panel && j < width; j += NR)
            pack_sliver(p, p0, j0 + j, block + j * steps);
        const packed *b = panel ? in_panel(panel, p0, j0, steps) : block;
        for (int64_t i = 0; i < height; i += MR) {
            const int64_t band_rows = least(height - i, MR);
            const ELEMENT *a = p->a;
            a += p->ta ? p0 * p->lda + i0 + i : (i0 + i) * p->lda + p0;
            target to = t;
            to.c += i * t.ldc;
            if (t.from) to.from += i * t.from_ld;
            if (!direct) pack_a(p->ta, band_rows, depth, a, p->lda, rows);
            band(p->ta, band_rows, width, steps, direct ? (const packed_loose *)a : rows,
                 direct  ? p->lda / STEP
                 : p->ta ? 1
                         : A_STEP,
                 b, to);
        }
        t.from = t.c;
        t.from_ld = t.ldc;
    }
#if HALF
    for (int64_t i = 0; i < height; i++)
        NARROW(width, wide + i * NC, (ELEMENT *)p->c + (i0 + i) * p->ldc + j0);
#endif
}

/* A few rows of 32 or 64 bits: B is read once where it lies, because packing it would cost as much
 * as the product. */
enum { THIN = HALF ? 0 : 3 };
#if !HALF
static void product_thin(const bb_product *p) {
    const int64_t n = p->n, k = p->k, lda = p->lda, ldb = p->ldb;
    const REAL *start = p->start, *bias = p->bias;
    for (int64_t i = 0; i < p->m; i++) {
        REAL *c = (REAL *)p->c + i * p->ldc;
        const REAL *a = (const REAL *)p->a + (p->ta ? i : i * lda);
        for (int64_t j0 = 0; j0 < n; j0 += 4 * NR) {
            const REAL *b = (const REAL *)p->b + (p->tb ? j0 * ldb : j0);
            const int64_t width = least(n - j0, 4 * NR);
            REAL sum[4 * NR] = {0};
            for (int64_t j = 0; p->tb && j < width; j++) {
                const REAL *y = b + j * ldb;
                REAL s = 0;
                if (p->ta) {
                    for (int64_t q = 0; q < k; q++) s += a[q * lda] * y[q];
                } else {
#pragma omp simd reduction(+ : s)
                    for (int64_t q = 0; q < k; q++) s += a[q] * y[q];
                }
                sum[j] = s;
            }
            for (int64_t q = 0; !p->tb && q < k; q++) {
                const REAL x = a[p->ta ? q * lda : q], *y = b + q * ldb;
                if (width == 4 * NR) {
                    for (int64_t j = 0; j < 4 * NR; j++) sum[j] += x * y[j];
                } else {
                    for (int64_t j = 0; j < width; j++) sum[j] += x * y[j];
                }
            }
            for (int64_t j = j0; j < j0 + width; j++)
                c[j] =
                    (start ? start[i * p->start_ld + j] : 0) + (bias ? bias[j] : 0) + sum[j - j0];
        }
    }
}
#endif

static void product(const bb_product *p) {
#if !HALF
    if (p->m <= THIN) {
        product_thin(p);
        return;
    }
#endif
    const int64_t rows = HALF ? TILE_ROWS : p->m;
    for (int64_t j = 0; j < p->n; j += NC)
        for (int64_t i = 0; i < p->m; i += rows)
            tile(p, i, least(p->m - i, rows), j, least(p->n - j, NC), NULL);
}

extern const bb_gemm_kernel BB_ISA_NAME(KERNEL);
const bb_gemm_kernel BB_ISA_NAME(KERNEL) = {
    .lanes = LANES,
    .element = sizeof(ELEMENT),
    .sliver = NR,
    .depth = KC,
    .tile_columns = NC,
    .tile_rows = TILE_ROWS,
    .thin = THIN,
    .sliver_bytes = sliver_bytes,
    .pack = pack_panel,
    .tile = tile,
    .product = product,
};
