/* The CUDA backend's own header, for its .cu files. Layers, each in its own files:
 *
 * - <stem>.cu: kernels of one family and their adapters; an adapter unpacks a bb_call and launches.
 * - table.cu: one row per op.
 * - backend.cu: the bb_backend (memory, copies, capture) and the module's entry.
 * - runtime.h: what host code needs of the device's runtime; runtime.cu is CUDA's, sim/runtime.cpp
 *   the simulation's.
 * - blas.h: matrix products; blas.cu is cuBLAS, sim/blas.cpp plain loops.
 * - lang.h: what a kernel may be written in.
 * - sim/: the host simulation, every .cu file compiled as C++.
 *
 * Rules: one stream per context, all work goes there, nobody waits for it but backend.synchronize.
 * Results do not depend on the number of multiprocessors unless a file says so: sums go through a
 * fixed number of partial sums, never atomics. Offsets are 64-bit. */
#ifndef BOBBIN_BACKENDS_CUDA_H
#define BOBBIN_BACKENDS_CUDA_H

#include "core/impl.h"
#include "ops/attrs.h"

#include "backends/cuda/lang.h"
#include "backends/cuda/runtime.h"
#include "backends/cuda/types.h"

/* An error that only a kernel can see: an index (input 1 of its op) out of range. The kernel leaves
 * it here, in memory that host and device share, and neither reads nor writes at that index; the
 * next synchronize makes it the sticky error, as late as that. The first one found is kept. */
struct bb_fault {
    int raised;
    uint64_t op; /* a const bb_op * of the host's, which tells names */
    int64_t limit, got, position;
};

struct bb_cuda {
    bb_backend base;
    const bb_host *host;
    bb_runtime *runtime;
    bb_device_info info;
    bb_fault *fault;
    const char *op;       /* whose kernels are being launched, for messages */
    struct bb_blas *blas; /* made on first use */
};

static inline bb_cuda *bb_cuda_of(const bb_context *ctx) {
    return reinterpret_cast<bb_cuda *>(ctx->backend[BB_CUDA]);
}
/* Every adapter starts with this. */
static inline bb_cuda *bb_cuda_begin(const bb_call *call) {
    bb_cuda *cuda = bb_cuda_of(call->ctx);
    cuda->op = call->op->name;
    return cuda;
}

/* What a kernel takes along to check its indices: 0 to limit - 1 are right. */
struct bb_guard {
    bb_fault *fault;
    uint64_t op;
    int64_t limit;
    template <typename F> void each_pointer(F &f) const { f(fault); }
};
static inline bb_guard bb_cuda_guard(const bb_cuda *cuda, const bb_op *op, int64_t limit) {
    return bb_guard{cuda->fault, (uint64_t)(uintptr_t)op, limit};
}
/* False, and the fault is left, where the index at this position (row-major) is out of range. */
static __device__ inline bool bb_in_range(const bb_guard &g, int64_t index, int64_t position) {
    if (index >= 0 && index < g.limit) return true;
    if (atomicCAS(&g.fault->raised, 0, 1) == 0) {
        g.fault->op = g.op;
        g.fault->limit = g.limit;
        g.fault->got = index;
        g.fault->position = position;
    }
    return false;
}

/* Sticky error "op: what: why"; returns the status. */
bb_status bb_cuda_fail(bb_cuda *cuda, const char *what, const char *why);

/* Device memory for one call, from the context's pool, 256-byte aligned. The work that uses it is
 * in the stream, so release it right after the launch. NULL: sticky error. */
static inline bb_storage *bb_cuda_scratch(bb_cuda *cuda, size_t bytes) {
    return cuda->host->storage_new(cuda->base.ctx, BB_CUDA, bytes);
}
static inline void bb_cuda_release(bb_cuda *cuda, bb_storage *s) {
    if (s) cuda->host->storage_unref(s);
}

/* Blocks for n items of work at `per_block` each, at most `waves` times what the device holds at
 * once; at least 1. For kernels that loop over the grid (grid-stride). */
static inline unsigned bb_cuda_grid(const bb_cuda *cuda, int64_t n, int64_t per_block,
                                    int blocks_per_sm = 8) {
    int64_t blocks = n / per_block + (n % per_block != 0);
    int64_t most = (int64_t)cuda->info.multiprocessors * blocks_per_sm;
    if (blocks > most) blocks = most;
    return blocks < 1 ? 1u : (unsigned)blocks;
}

/* Threads of a block for n items, one each: whole warps, at most `most`. */
static inline unsigned bb_cuda_block(int64_t n, unsigned most) {
    return n >= most ? most : n <= BB_WARP ? (unsigned)BB_WARP : ((unsigned)n + 31) / 32 * 32;
}

/* Multiprocessors left after the context's sm_margin, at least 1. */
static inline int bb_cuda_sms(const bb_cuda *cuda) {
    int left = cuda->info.multiprocessors - cuda->base.ctx->sm_margin;
    return left < 1 ? 1 : left;
}

/* Launches a kernel in the context's stream and gives a bb_status (sticky error with the op's name
 * on failure): return BB_LAUNCH(cuda, (kernel<float, 4>), grid, 256, shared_bytes, x, y, n);
 * Parentheses round the kernel keep the commas of its template arguments together. grid and block
 * are dim3 or int. A grid without blocks is not launched. */
#if defined(BOBBIN_CUDA_SIM)
#define BB_LAUNCH(cuda, kernel, grid, block, shared_bytes, ...)                                    \
    bb_sim_launch(cuda, #kernel, kernel, dim3(grid), dim3(block), shared_bytes, __VA_ARGS__)
#else
template <typename... Parameters, typename... Arguments>
static inline bb_status bb_cuda_launch(bb_cuda *cuda, const char *name,
                                       void (*kernel)(Parameters...), dim3 grid, dim3 block,
                                       size_t shared_bytes, Arguments... arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return BB_OK;
    /* More than 48 KiB of shared memory must be asked for, static arrays included: no kernel has
     * more than 16 KiB of those beside dynamic memory. */
    cudaError_t error =
        shared_bytes > 32 * 1024
            ? cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes)
            : cudaSuccess;
    if (error == cudaSuccess) {
        kernel<<<grid, block, shared_bytes, bb_runtime_stream(cuda->runtime)>>>(arguments...);
        error = cudaGetLastError();
    }
    return error == cudaSuccess ? BB_OK : bb_cuda_fail(cuda, name, cudaGetErrorString(error));
}
#define BB_LAUNCH(cuda, kernel, grid, block, shared_bytes, ...)                                    \
    bb_cuda_launch(cuda, #kernel, kernel, dim3(grid), dim3(block), shared_bytes, __VA_ARGS__)
#endif

/* The kernels' table (table.cu), ended by a row without a name. */
extern const bb_kernel bb_cuda_kernels[];

#endif
