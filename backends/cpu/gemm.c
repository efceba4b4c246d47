/* Our own matrix product with threads, and the choice of implementation. The serial loops are
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

/* Tiles of C depend on the shape alone. 192 rows share one packed block of B; fewer where that
 * leaves too little to share out, as long as a tile is worth a thread's while. */
static int64_t cut(product *p) {
    p->columns = least(p->n, 256);
    p->rows = 192;
    p->across = (p->n + p->columns - 1) / p->columns;
    while (p->rows > 48 && (p->m + p->rows - 1) / p->rows * p->across < 16 &&
           p->rows * p->columns * p->k > 1 << 20)
        p->rows /= 2;
    return (p->m + p->rows - 1) / p->rows * p->across;
}

static bool small(int64_t m, int64_t n, int64_t k) {
    return (double)m * (double)n * (double)k < 64. * 64 * 64;
}

/* The tile's corner and size, as element offsets into A, B and C. */
static void locate(const product *p, int64_t tile, int64_t *i, int64_t *j, int64_t *height,
                   int64_t *width) {
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
        p->cpu->loops->gemm->f32(
            p->ta, p->tb, height, width, p->k, (float)p->alpha,
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
                                 (const double *)(const void *)p->a + (p->ta ? i : i * p->lda),
                                 p->lda,
                                 (const double *)(const void *)p->b + (p->tb ? j * p->ldb : j),
                                 p->ldb, p->beta, (double *)(void *)p->c + i * p->ldc + j, p->ldc);
    }
}

static void serial_f32(const bb_cpu *cpu, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                       float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                       float beta, float *c, int64_t ldc) {
    cpu->loops->gemm->f32(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

static void serial_f64(const bb_cpu *cpu, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                       double alpha, const double *a, int64_t lda, const double *b, int64_t ldb,
                       double beta, double *c, int64_t ldc) {
    cpu->loops->gemm->f64(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

static void own_f32(const bb_cpu *cpu, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                    float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                    float beta, float *c, int64_t ldc) {
    if (m <= 0 || n <= 0) return;
    if (small(m, n, k)) {
        serial_f32(cpu, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    product p = {cpu,
                 ta,
                 tb,
                 m,
                 n,
                 k,
                 lda,
                 ldb,
                 ldc,
                 (double)alpha,
                 (double)beta,
                 (const char *)a,
                 (const char *)b,
                 (char *)c,
                 0,
                 0,
                 0};
    bb_cpu_for(cpu, cut(&p), 1, tiles_f32, &p);
}

static void own_f64(const bb_cpu *cpu, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                    double alpha, const double *a, int64_t lda, const double *b, int64_t ldb,
                    double beta, double *c, int64_t ldc) {
    if (m <= 0 || n <= 0) return;
    if (small(m, n, k)) {
        serial_f64(cpu, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    product p = {
        cpu,       ta, tb, m, n, k, lda, ldb, ldc, alpha, beta, (const char *)a, (const char *)b,
        (char *)c, 0,  0,  0};
    bb_cpu_for(cpu, cut(&p), 1, tiles_f64, &p);
}

const bb_gemm bb_gemm_own = {"own", own_f32, own_f64, serial_f32, serial_f64};

/* Ours is as fast as OpenBLAS where vectors have 8 floats or more (0.95 to 1.2 times on the shapes
 * of small transformers, one thread), starts quicker, and gives the same bytes for any number of
 * threads. On narrow vectors OpenBLAS, which picks its kernels itself, can be much faster. */
const bb_gemm *bb_gemm_choose(const bb_loops *loops) {
    const char *name = getenv("BOBBIN_GEMM");
    const bool want_own = name && strcmp(name, "own") == 0,
               want_openblas = name && strcmp(name, "openblas") == 0;
    if (want_own || (!want_openblas && loops->gemm->lanes >= 8)) return &bb_gemm_own;
    const bb_gemm *openblas = bb_gemm_openblas(NULL);
    return openblas ? openblas : &bb_gemm_own;
}
