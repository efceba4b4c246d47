/* The language of the kernels: CUDA C++, or the same text as plain C++ in the host simulation
 * (sim/sim.h).
 *
 * A kernel file includes cuda.h and nothing of CUDA itself. What it may use:
 *
 *   __global__, __device__, threadIdx, blockIdx, blockDim, gridDim, __syncthreads(), __syncwarp(),
 *   __shfl_xor_sync, __shfl_down_sync, __shfl_sync, __ballot_sync, the math functions of C with an
 *   f (expf, rsqrtf, ...) or in double
 *   BB_LAUNCH                       (cuda.h) starts a kernel
 *   BB_SHARED(type, name, count)    static shared memory, one array a block
 *   BB_DYNAMIC_SHARED(type, name)   the launch's shared memory, 16-byte aligned, one a kernel
 *   what types.h, async.h and mma.h have
 *
 * What it may not use, because the simulation has no counterpart: inline PTX outside mma.h and
 * async.h, textures, grid-wide barriers, warp-synchronous code without __syncwarp, atomics on
 * floating numbers (they would also make results differ from run to run). */
#ifndef BOBBIN_BACKENDS_CUDA_LANG_H
#define BOBBIN_BACKENDS_CUDA_LANG_H

#if defined(BOBBIN_CUDA_SIM)
#include "backends/cuda/sim/sim.h"
#else
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#define BB_SHARED(type, name, count) __shared__ type name[count]
#define BB_DYNAMIC_SHARED(type, name)                                                              \
    extern __shared__ __align__(16) unsigned char bb_dynamic_shared_bytes[];                       \
    type *name = reinterpret_cast<type *>(bb_dynamic_shared_bytes)
#endif

/* A warp, and the mask of all its lanes. */
enum { BB_WARP = 32 };
#define BB_ALL_LANES 0xffffffffu

#endif
