/* Matrix products on one thread. gemm_kernel.h is the blocked product; each element type compiles
 * it once (gemm_f32.c, gemm_f64.c, gemm_f16.c, gemm_bf16.c; x86/gemm_bf16_pairs.c where the
 * processor multiplies bf16 itself). gemm.c has the integers and the table; threads are in
 * backends/cpu/gemm.c. */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_GEMM_H
#define BOBBIN_BACKENDS_CPU_LOOPS_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* C (m, n) = op(A) op(B) + start + bias, row-major, A, B and C of one element type. op(A) is (m, k)
 * and op(B) is (k, n); ta says that A is stored as (k, m), tb that B is stored as (n, k). lda, ldb,
 * ldc and start_ld are the distances between stored rows. k 0: C = start + bias. */
typedef struct bb_product {
    bool ta, tb;
    int64_t m, n, k;
    const void *a, *b;
    int64_t lda, ldb;
    const void *start; /* (m, n), may be c itself; NULL: zeros */
    int64_t start_ld;
    const void *bias; /* (n), added to each row; NULL: zeros */
    void *c;
    int64_t ldc;
} bb_product;

/* Columns of op(B), packed for all of k. Block after block of `depth` rows; in a block, sliver
 * after sliver of `sliver` columns. */
typedef struct bb_panel {
    void *at;
    int64_t first, columns; /* the first column; how many, rounded up to slivers */
} bb_panel;

/* The product of one element type. f16 and bf16 add in f32 and round once. */
typedef struct bb_gemm_kernel {
    int lanes;         /* sums in a vector register */
    int element;       /* bytes of an element of A, B, C */
    int sliver, depth; /* columns and rows that are packed together */
    int tile_columns;  /* that a tile may have */
    int tile_rows;     /* that a tile may have */
    int thin;          /* so many rows are not worth packing for: use `product` */
    /* Bytes of a packed sliver of k rows. */
    int64_t (*sliver_bytes)(int64_t k);
    /* Packs one sliver of one block: rows p0 and on, columns j and on. */
    void (*pack)(const bb_product *p, int64_t p0, int64_t j, const bb_panel *panel);
    /* rows [i, i + height), columns [j, j + width) of C. panel NULL: packs for itself. */
    void (*tile)(const bb_product *p, int64_t i, int64_t height, int64_t j, int64_t width,
                 const bb_panel *panel);
    /* All of C. */
    void (*product)(const bb_product *p);
} bb_gemm_kernel;

typedef struct bb_gemm_loops {
    const bb_gemm_kernel *f32, *f64, *f16, *bf16;
    /* Integers wrap around; start and bias are not read. */
    void (*i64)(const bb_product *p);
    void (*i32)(const bb_product *p);
    void (*u8)(const bb_product *p);
} bb_gemm_loops;
extern const bb_gemm_loops bb_gemm_loops_baseline, bb_gemm_loops_avx2, bb_gemm_loops_avx512;

#endif
