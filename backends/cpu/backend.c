/* The CPU as a backend: memory, copies, and the choice of ISA level. Its kernels are listed in
 * table.c. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cpu/copy.h"
#include "backends/cpu/gemm.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/kernels.h"

static void *cpu_allocate(bb_backend *self, size_t bytes) {
    /* The pool reports a refusal itself, after it has tried again. */
    bb_context *ctx = self->ctx;
    void *block = ctx->allocator.allocate(ctx->allocator.user, bytes);
    ctx->memory.system_allocations++;
    if (!block) return NULL;
    ctx->memory.bytes_held += bytes;
    if (ctx->memory.bytes_held > ctx->memory.bytes_peak)
        ctx->memory.bytes_peak = ctx->memory.bytes_held;
    return block;
}

static void cpu_release(bb_backend *self, void *block, size_t bytes) {
    bb_host_release(self->ctx, block, bytes);
}

static bb_status cpu_synchronize(bb_backend *self) {
    (void)self;
    return BB_OK;
}

/* 4096 rows of op(B) in f32 for a tile's 256 columns. */
enum { PANEL_BYTES = 4096 * 256 * 4 };

void *bb_cpu_panel(bb_cpu *cpu) {
    if (!cpu->panel) cpu->panel = bb_host_allocate(cpu->base.ctx, cpu->panel_bytes);
    return cpu->panel;
}

static void cpu_close(bb_backend *self) {
    bb_cpu *cpu = (bb_cpu *)(void *)self;
    bb_host_release(self->ctx, cpu->panel, cpu->panel_bytes);
    bb_host_release(self->ctx, self, sizeof(bb_cpu));
}

bb_backend *bb_cpu_backend_new(bb_context *ctx) {
    bb_cpu *cpu = bb_host_allocate(ctx, sizeof *cpu);
    if (!cpu) return NULL;
    const bb_isa *isa = bb_isa_choose(getenv("BOBBIN_ISA"));
    int threads = ctx->threads > 0 ? ctx->threads : omp_get_max_threads();
    *cpu = (bb_cpu){
        .base = {.abi = BB_BACKEND_ABI,
                 .name = "cpu",
                 .device = BB_CPU,
                 .allocate = cpu_allocate,
                 .release = cpu_release,
                 .copy = bb_cpu_copy,
                 .fill = bb_cpu_fill,
                 .add = bb_cpu_accumulate,
                 .synchronize = cpu_synchronize,
                 .kernels = bb_cpu_kernels,
                 .close = cpu_close,
                 .ctx = ctx},
        .loops = isa->loops,
        .isa = isa->name,
        .bf16 = isa->bf16,
        .panel_bytes = PANEL_BYTES,
        .gemm = ctx->deterministic ? &bb_gemm_own : bb_gemm_choose(isa->loops),
        .threads = threads < BB_MAX_THREADS ? threads : BB_MAX_THREADS,
    };
    return &cpu->base;
}

static void levels_text(char *text, size_t most) {
    size_t at = 0;
    text[0] = 0;
    for (int i = 0; bb_isa_at(i) && at < most; i++)
        if (bb_isa_at(i)->usable())
            at += (size_t)snprintf(text + at, most - at, "%s%s", at ? "|" : "", bb_isa_at(i)->name);
}

bb_status bb_cpu_check_wishes(bb_context *ctx) {
    const bb_cpu *cpu = bb_cpu_of(ctx);
    const char *isa = getenv("BOBBIN_ISA"), *gemm = getenv("BOBBIN_GEMM"), *why = "";
    char levels[64];
    if (ctx->threads > BB_MAX_THREADS)
        bb_fail(ctx, BB_ERR_ARGUMENT, "bb_open: threads: expected at most %d, got %d",
                BB_MAX_THREADS, ctx->threads);
    if (isa && isa[0] && strcmp(isa, cpu->isa) != 0) {
        levels_text(levels, sizeof levels);
        bb_fail(ctx, BB_ERR_ARGUMENT, "BOBBIN_ISA: expected %s on this processor, got '%s'", levels,
                isa);
    }
    if (!gemm || !gemm[0] || strcmp(gemm, cpu->gemm->name) == 0) return ctx->status;
    if (strcmp(gemm, "own") != 0 && strcmp(gemm, "openblas") != 0)
        bb_fail(ctx, BB_ERR_ARGUMENT, "BOBBIN_GEMM: expected own|openblas, got '%s'", gemm);
    else if (!ctx->deterministic && !bb_gemm_openblas(&why))
        bb_fail(ctx, BB_ERR_UNSUPPORTED, "BOBBIN_GEMM: expected OpenBLAS to be there, got: %s",
                why);
    return ctx->status;
}

bb_storage *bb_cpu_scratch(const bb_call *call, size_t bytes) {
    return bb_storage_new(call->ctx, BB_CPU, bytes);
}
