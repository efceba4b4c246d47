/* Our own matrix product with threads, and the choice of implementation. The serial loops are
 * loops/gemm_kernel.h; OpenBLAS is blas.c. */
#include "backends/cpu/gemm.h"

#include <stdlib.h>
#include <string.h>

typedef struct work {
    const bb_gemm_kernel *kernel;
    const bb_product *p;
    bb_panel panel; /* at NULL: each tile packs for itself */
    int64_t slivers;
    int64_t rows, across; /* of a tile; tiles in a row of tiles */
} work;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }

static const bb_gemm_kernel *kernel_of(const bb_cpu *cpu, bb_dtype dtype) {
    const bb_gemm_loops *loops = cpu->loops->gemm;
    if (dtype == BB_F64) return loops->f64;
    if (dtype == BB_F16) return loops->f16;
    if (dtype == BB_BF16) return cpu->bf16 ? cpu->bf16 : loops->bf16;
    return loops->f32;
}

static void pack_piece(void *user, int64_t begin, int64_t end) {
    const work *job = user;
    for (int64_t i = begin; i < end; i++) {
        const int64_t j = job->panel.first + i % job->slivers * job->kernel->sliver;
        job->kernel->pack(job->p, i / job->slivers * job->kernel->depth, j, &job->panel);
    }
}

static void tile_piece(void *user, int64_t begin, int64_t end) {
    const work *job = user;
    const bb_product *p = job->p;
    const int64_t last = least(job->panel.first + job->panel.columns, p->n);
    for (int64_t tile = begin; tile < end; tile++) {
        const int64_t i = tile / job->across * job->rows,
                      j = job->panel.first + tile % job->across * job->kernel->tile_columns;
        job->kernel->tile(p, i, least(job->rows, p->m - i), j,
                          least(job->kernel->tile_columns, last - j),
                          job->panel.at ? &job->panel : NULL);
    }
}

static void thin_piece(void *user, int64_t begin, int64_t end) {
    const work *job = user;
    bb_product part = *job->p;
    const size_t element = (size_t)job->kernel->element;
    part.n = end - begin;
    part.b = (const char *)part.b + (size_t)(part.tb ? begin * part.ldb : begin) * element;
    if (part.start) part.start = (const char *)part.start + (size_t)begin * element;
    if (part.bias) part.bias = (const char *)part.bias + (size_t)begin * element;
    part.c = (char *)part.c + (size_t)begin * element;
    job->kernel->product(&part);
}

/* Few enough tiles to be worth a thread's while, enough of them to share out evenly. Bytes do not
 * depend on the cut (loops/gemm_kernel.h). */
static int64_t rows_of_tile(const bb_cpu *cpu, const work *job, int64_t across) {
    int64_t rows = job->kernel->tile_rows;
    while (rows > 48 && pieces(job->p->m, rows) * across < 4 * (int64_t)cpu->threads) rows /= 2;
    return rows;
}

/* Where several rows of tiles read the same columns of B, these are packed once, by all threads, as
 * many as the backend's panel holds. Otherwise each tile packs what it reads. */
static void own(bb_cpu *cpu, bb_dtype dtype, const bb_product *p) {
    work job = {.kernel = kernel_of(cpu, dtype), .p = p};
    const bb_gemm_kernel *kernel = job.kernel;
    if (p->m <= 0 || p->n <= 0) return;
    if ((double)p->m * (double)p->n * (double)p->k < 64. * 64 * 64) {
        kernel->product(p);
        return;
    }
    if (p->m <= kernel->thin) {
        bb_cpu_for(cpu, p->n, kernel->tile_columns, thin_piece, &job);
        return;
    }
    const int64_t held = (int64_t)cpu->panel_bytes / kernel->sliver_bytes(p->k) * kernel->sliver,
                  across = pieces(p->n, kernel->tile_columns);
    job.rows = rows_of_tile(cpu, &job, across);
    const bool share = p->m > job.rows && held >= least(p->n, 64);
    if (share && !bb_cpu_panel(cpu)) return;
    const int64_t width = !share                        ? p->n
                          : held < kernel->tile_columns ? held
                                                        : held - held % kernel->tile_columns;
    for (int64_t first = 0; first < p->n; first += width) {
        const int64_t columns = least(width, p->n - first);
        job.slivers = pieces(columns, kernel->sliver);
        job.panel = (bb_panel){share ? cpu->panel : NULL, first, job.slivers * kernel->sliver};
        job.across = pieces(columns, kernel->tile_columns);
        if (share) bb_cpu_for(cpu, job.slivers * pieces(p->k, kernel->depth), 1, pack_piece, &job);
        bb_cpu_for(cpu, pieces(p->m, job.rows) * job.across, 1, tile_piece, &job);
    }
}

static void own_serial(bb_cpu *cpu, bb_dtype dtype, const bb_product *p) {
    kernel_of(cpu, dtype)->product(p);
}

const bb_gemm bb_gemm_own = {"own", true, own, own_serial};

/* Ours is as fast as OpenBLAS where vectors have 8 floats or more (0.95 to 1.2 times on the shapes
 * of small transformers, one thread), starts quicker, and gives the same bytes for any number of
 * threads. On narrow vectors OpenBLAS, which picks its kernels itself, can be much faster. */
const bb_gemm *bb_gemm_choose(const bb_loops *loops) {
    const char *name = getenv("BOBBIN_GEMM");
    const bool want_own = name && strcmp(name, "own") == 0,
               want_openblas = name && strcmp(name, "openblas") == 0;
    if (want_own || (!want_openblas && loops->gemm->f32->lanes >= 8)) return &bb_gemm_own;
    const bb_gemm *openblas = bb_gemm_openblas(NULL);
    return openblas ? openblas : &bb_gemm_own;
}
