/* The CPU as a backend: memory, copies, and the choice of ISA level. Its kernels are listed in
 * table.c. */
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cpu/copy.h"
#include "backends/cpu/gemm.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/kernels.h"

extern const bb_kernel bb_cpu_kernels[];

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

static void cpu_close(bb_backend *self) { bb_host_release(self->ctx, self, sizeof(bb_cpu)); }

bb_backend *bb_cpu_backend_new(bb_context *ctx) {
    bb_cpu *cpu = bb_host_allocate(ctx, sizeof *cpu);
    if (!cpu) return NULL;
    const bb_isa *isa = bb_isa_choose(getenv("BOBBIN_ISA"));
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
        .gemm = ctx->deterministic ? &bb_gemm_own : bb_gemm_choose(isa->loops),
        .threads = ctx->threads > 0 ? ctx->threads : omp_get_max_threads(),
    };
    return &cpu->base;
}

bb_storage *bb_cpu_scratch(const bb_call *call, size_t bytes) {
    return bb_storage_new(call->ctx, BB_CPU, bytes);
}
