/* Matrix products on the CPU, with threads: bb_product (loops/gemm.h) says what one is.
 *
 * Two implementations of one table: OpenBLAS, found at run time (blas.c), and ours (gemm.c over
 * loops/gemm_kernel.h), which gives the same bytes for any number of threads. bb_cpu->gemm is the
 * chosen one; BOBBIN_GEMM=own|openblas forces one. */
#ifndef BOBBIN_BACKENDS_CPU_GEMM_H
#define BOBBIN_BACKENDS_CPU_GEMM_H

#include "backends/cpu/cpu.h"

/* dtype is that of A, B and C. m or n 0: nothing. The first large product takes memory for the
 * backend's panel; without any, it leaves the context's sticky error. */
typedef void (*bb_gemm_fn)(bb_cpu *cpu, bb_dtype dtype, const bb_product *p);

struct bb_gemm {
    const char *name;  /* "openblas" or "own" */
    bool half;         /* takes f16 and bf16; else f32 and f64 alone */
    bb_gemm_fn run;    /* on the backend's threads */
    bb_gemm_fn serial; /* on the calling thread only: for use inside a bb_cpu_for piece */
};

extern const bb_gemm bb_gemm_own;

/* The dtype in which tensors of this one are multiplied: what is not taken is widened. */
static inline bb_dtype bb_gemm_dtype(const bb_cpu *cpu, bb_dtype dtype) {
    const bool half = dtype == BB_F16 || dtype == BB_BF16;
    return half && !cpu->gemm->half ? BB_F32 : dtype;
}

/* OpenBLAS's table, or NULL and *why if it is absent or of a flavour with its own threads (which
 * would fight with our OpenMP threads). Loads it once per process; safe from several threads. why
 * may be NULL. */
const bb_gemm *bb_gemm_openblas(const char **why);

/* The table for a new backend with these loops: BOBBIN_GEMM's choice, else the one that suits
 * (gemm.c says why). Ours where OpenBLAS is wanted and absent: bb_cpu_check_wishes tells. */
const bb_gemm *bb_gemm_choose(const bb_loops *loops);

#endif
