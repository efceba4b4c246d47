/* Our own matrix product with threads, the choice of implementation, and products of any dtype. The serial loops are
 * loops/gemm_kernel.h; OpenBLAS is blas.c. */
#include "backends/cpu/gemm.h"

#include <stdlib.h>
#include <string.h>

typedef struct product {
    const bb_cpu *cpu;
    bool ta, tb;
    int64_t m, n, k, lda, ldb, ldc;
    double alpha, beta;
    const char *a, *b;
    char *c;
    int64_t rows, columns, across; /* of a tile; tiles in a row of tiles */
} product;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Tiles of C depend on the shape alone. 192 rows share one packed block of B; fewer where that leaves too little to
 * share out, as long as a tile is worth a thread's while. */
static int64_t cut(product *p) {
    p->columns = least(p->n, 256);
    p->rows = 192;
    p->across = (p->n + p->columns - 1) / p->columns;
    while (p->rows > 48 && (p->m + p->rows - 1) / p->rows * p->across < 16 && p->rows * p->columns * p->k > 1 << 20)
        p->rows /= 2;
    return (p->m + p->rows - 1) / p->rows * p->across;
}

static bool small(int64_t m, int64_t n, int64_t k) { return (double)m * (double)n * (double)k < 64. * 64 * 64; }

/* The tile's corner and size, as element offsets into A, B and C. */
static void locate(const product *p, int64_t tile, int64_t *i, int64_t *j, int64_t *height, int64_t *width) {
    *i = tile / p->across * p->rows;
    *j = tile % p->across * p->columns;
    *height = least(p->rows, p->m - *i);
    *width = least(p->columns, p->n - *j);
}

static void tiles_f32(void *user, int64_t begin, int64_t end) {
    const product *p = user;
    for (int64_t tile = begin; tile < end; tile++) {
        int64_t i, j, height, width;
        locate(p, tile, &i, &j, &height, &width);
        p->cpu->loops->gemm->f32(p->ta, p->tb, height, width, p->k, (float)p->alpha,
                                 (const float *)(const void *)p->a + (p->ta ? i : i * p->lda), p->lda,
                                 (const float *)(const void *)p->b + (p->tb ? j * p->ldb : j), p->ldb, (float)p->beta,
                                 (float *)(void *)p->c + i * p->ldc + j, p->ldc);
    }
}

static void tiles_f64(void *user, int64_t begin, int64_t end) {
    const product *p = user;
    for (int64_t tile = begin; tile < end; tile++) {
        int64_t i, j, height, width;
        locate(p, tile, &i, &j, &height, &width);
        p->cpu->loops->gemm->f64(p->ta, p->tb, height, width, p->k, p->alpha,
                                 (const double *)(const void *)p->a + (p->ta ? i : i * p->lda), p->lda,
                                 (const double *)(const void *)p->b + (p->tb ? j * p->ldb : j), p->ldb, p->beta,
                                 (double *)(void *)p->c + i * p->ldc + j, p->ldc);
    }
}

static void serial_f32(const bb_cpu *cpu, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                       int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    cpu->loops->gemm->f32(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

static void serial_f64(const bb_cpu *cpu, bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha,
                       const double *a, int64_t lda, const double *b, int64_t ldb, double beta, double *c, int64_t ldc) {
    cpu->loops->gemm->f64(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

static void own_f32(const bb_cpu *cpu, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                    int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    if (m <= 0 || n <= 0) return;
    if (small(m, n, k)) {
        serial_f32(cpu, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    product p = {cpu,   ta,   tb,  m, n, k, lda, ldb, ldc, (double)alpha, (double)beta, (const char *)a, (const char *)b,
                 (char *)c, 0, 0, 0};
    bb_cpu_for(cpu, cut(&p), 1, tiles_f32, &p);
}

static void own_f64(const bb_cpu *cpu, bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha, const double *a,
                    int64_t lda, const double *b, int64_t ldb, double beta, double *c, int64_t ldc) {
    if (m <= 0 || n <= 0) return;
    if (small(m, n, k)) {
        serial_f64(cpu, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    product p = {cpu,   ta,   tb,  m, n, k, lda, ldb, ldc, alpha, beta, (const char *)a, (const char *)b, (char *)c, 0,
                 0, 0};
    bb_cpu_for(cpu, cut(&p), 1, tiles_f64, &p);
}

const bb_gemm bb_gemm_own = {"own", own_f32, own_f64, serial_f32, serial_f64};

const bb_gemm *bb_gemm_choose(void) {
    const char *name = getenv("BOBBIN_GEMM");
    if (name && strcmp(name, "own") == 0) return &bb_gemm_own;
    const bb_gemm *openblas = bb_gemm_openblas(NULL);
    return openblas ? openblas : &bb_gemm_own;
}

/* ---- Products of any dtype */

typedef struct widen {
    const bb_cpu *cpu;
    bb_dtype dtype;
    const char *narrow;
    float *wide;
    int64_t columns, ld;
} widen;

static void widen_rows(void *user, int64_t begin, int64_t end) {
    const widen *w = user;
    for (int64_t i = begin; i < end; i++)
        w->cpu->loops->elementwise->load_f32((int)w->dtype, w->columns, w->narrow + i * w->ld * 2, 1,
                                             w->wide + i * w->columns);
}

static void narrow_rows(void *user, int64_t begin, int64_t end) {
    const widen *w = user;
    for (int64_t i = begin; i < end; i++)
        w->cpu->loops->elementwise->store_f32((int)w->dtype, w->columns, w->wide + i * w->columns,
                                              (char *)(uintptr_t)(w->narrow + i * w->ld * 2));
}

/* f16 and bf16: widen A and B, multiply in f32, round C once. */
static bb_status gemm_half(const bb_call *call, bb_dtype dtype, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                           const void *a, int64_t lda, const void *b, int64_t ldb, void *c, int64_t ldc) {
    const bb_cpu *cpu = bb_cpu_of(call->ctx);
    const int64_t a_rows = ta ? k : m, a_columns = ta ? m : k, b_rows = tb ? n : k, b_columns = tb ? k : n;
    bb_storage *scratch = bb_cpu_scratch(call, (size_t)(m * k + k * n + m * n) * sizeof(float));
    if (!scratch) return bb_error(call->ctx);
    float *fa = scratch->data, *fb = fa + m * k, *fc = fb + k * n;
    widen wa = {cpu, dtype, a, fa, a_columns, lda}, wb = {cpu, dtype, b, fb, b_columns, ldb},
          wc = {cpu, dtype, c, fc, n, ldc};
    bb_cpu_for(cpu, a_rows, bb_cpu_grain(a_columns, 1 << 15), widen_rows, &wa);
    bb_cpu_for(cpu, b_rows, bb_cpu_grain(b_columns, 1 << 15), widen_rows, &wb);
    cpu->gemm->f32(cpu, ta, tb, m, n, k, 1, fa, a_columns, fb, b_columns, 0, fc, n);
    bb_cpu_for(cpu, m, bb_cpu_grain(n, 1 << 15), narrow_rows, &wc);
    bb_storage_unref(scratch);
    return BB_OK;
}

bb_status bb_cpu_gemm(const bb_call *call, bb_dtype dtype, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                      const void *a, int64_t lda, const void *b, int64_t ldb, void *c, int64_t ldc) {
    const bb_cpu *cpu = bb_cpu_of(call->ctx);
    const bb_gemm_loops *loops = cpu->loops->gemm;
    if (m <= 0 || n <= 0) return BB_OK;
    switch (dtype) {
    case BB_F64: cpu->gemm->f64(cpu, ta, tb, m, n, k, 1, a, lda, b, ldb, 0, c, ldc); return BB_OK;
    case BB_F32: cpu->gemm->f32(cpu, ta, tb, m, n, k, 1, a, lda, b, ldb, 0, c, ldc); return BB_OK;
    case BB_I64: loops->i64(ta, tb, m, n, k, a, lda, b, ldb, c, ldc); return BB_OK;
    case BB_I32: loops->i32(ta, tb, m, n, k, a, lda, b, ldb, c, ldc); return BB_OK;
    case BB_U8: loops->u8(ta, tb, m, n, k, a, lda, b, ldb, c, ldc); return BB_OK;
    default: return gemm_half(call, dtype, ta, tb, m, n, k, a, lda, b, ldb, c, ldc);
    }
}
