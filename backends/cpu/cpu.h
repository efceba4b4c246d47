/* The CPU backend's own header. Three layers, each in its own files:
 *
 *   loops/<stem>.c   plain loops on pointers and sizes; no tensors, no threads. Compiled once per
 *                    ISA level with BB_ISA set; all functions static; each file ends in one
 *                    exported table of pointers
 *   <stem>.c         adapters: unpack a bb_call, share the work among threads, call the loops
 *   table.c          one row per op
 *
 * Work is cut into fixed pieces, independent of the number of threads, so the same bytes come out
 * for any. */
#ifndef BOBBIN_BACKENDS_CPU_H
#define BOBBIN_BACKENDS_CPU_H

#include "core/impl.h"
#include "ops/attrs.h"
#include "backends/cpu/loops/loops.h"

typedef struct bb_gemm bb_gemm; /* gemm.h */

typedef struct bb_cpu {
    bb_backend base;
    const bb_loops *loops;      /* of the chosen ISA level */
    const bb_gemm_kernel *bf16; /* in place of the loops' product of bf16; NULL: theirs */
    const bb_gemm *gemm;        /* OpenBLAS's or ours */
    const char *isa;
    int threads;
    void *panel; /* where our products pack what their threads share; NULL: not yet */
    size_t panel_bytes;
} bb_cpu;

static inline bb_cpu *bb_cpu_of(const bb_context *ctx) {
    return (bb_cpu *)(void *)ctx->backend[BB_CPU];
}

/* Runs body(user, begin, end) over [0, n) in pieces of `grain` items, on several threads where
 * there are several pieces. Pieces are the same for any number of threads. */
typedef void (*bb_piece_fn)(void *user, int64_t begin, int64_t end);
void bb_cpu_for(const bb_cpu *cpu, int64_t n, int64_t grain, bb_piece_fn body, void *user);
/* A grain such that a piece touches about `target` elements (of item_elements each). */
int64_t bb_cpu_grain(int64_t item_elements, int64_t target);

/* Scratch for one call, from the context's pool: bytes of 64-byte aligned memory. Release after the
 * kernel. */
bb_storage *bb_cpu_scratch(const bb_call *call,
                           size_t bytes); /* sticky error and NULL on failure */

/* cpu->panel, taken when first asked for; sticky error and NULL on failure. */
void *bb_cpu_panel(bb_cpu *cpu);

/* Makes the backend (bobbin.c attaches it). */
bb_backend *bb_cpu_backend_new(bb_context *ctx);
/* Fails if options or environment asked for what the backend does not do: more threads than
 * BB_MAX_THREADS, an unknown or unusable BOBBIN_ISA or BOBBIN_GEMM. Without it the backend runs
 * with what it has instead. */
bb_status bb_cpu_check_wishes(bb_context *ctx);

#endif
