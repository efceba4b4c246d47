/* Matrix products on the CPU. Row-major: C (m, n) = alpha * op(A) op(B) + beta * C, where op(A) is
 * (m, k) and op(B) is (k, n); ta says that A is stored as (k, m), tb that B is stored as (n, k).
 * lda, ldb, ldc are the distances between stored rows. With beta 0, C is only written (it may hold
 * NaN). m or n 0: nothing; k 0: C = beta * C.
 *
 * Two implementations of one table: OpenBLAS, found at run time (blas.c), and ours (gemm.c over
 * loops/gemm.c), which gives the same bytes for any number of threads. bb_cpu->gemm is the chosen
 * one; BOBBIN_GEMM=own|openblas forces one. */
#ifndef BOBBIN_BACKENDS_CPU_GEMM_H
#define BOBBIN_BACKENDS_CPU_GEMM_H

#include "backends/cpu/cpu.h"

typedef void (*bb_gemm_f32_fn)(const bb_cpu *cpu, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                               float alpha, const float *a, int64_t lda, const float *b,
                               int64_t ldb, float beta, float *c, int64_t ldc);
typedef void (*bb_gemm_f64_fn)(const bb_cpu *cpu, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                               double alpha, const double *a, int64_t lda, const double *b,
                               int64_t ldb, double beta, double *c, int64_t ldc);

/* They allocate nothing and cannot fail. */
struct bb_gemm {
    const char *name; /* "openblas" or "own" */
    bb_gemm_f32_fn f32;
    bb_gemm_f64_fn f64;
    bb_gemm_f32_fn f32_serial; /* on the calling thread only: for use inside a bb_cpu_for piece */
    bb_gemm_f64_fn f64_serial;
};

extern const bb_gemm bb_gemm_own;

/* OpenBLAS's table, or NULL and *why if it is absent or of a flavour with its own threads (which
 * would fight with our OpenMP threads). Loads it once per process; safe from several threads. why
 * may be NULL. */
const bb_gemm *bb_gemm_openblas(const char **why);

/* The table for a new backend with these loops: BOBBIN_GEMM's choice, else the one that suits
 * (gemm.c says why). Ours where OpenBLAS is wanted and absent: bb_cpu_check_wishes tells. */
const bb_gemm *bb_gemm_choose(const bb_loops *loops);

#endif
