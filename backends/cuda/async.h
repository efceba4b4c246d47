/* Copies of 16 bytes from global to shared memory that run while the thread goes on (cp.async,
 * sm_80 and up; a plain copy before). The simulation copies only when they are waited for, so that
 * a missing wait shows. Both ends 16-byte aligned. */
#ifndef BOBBIN_BACKENDS_CUDA_ASYNC_H
#define BOBBIN_BACKENDS_CUDA_ASYNC_H

#include "backends/cuda/lang.h"

static __device__ inline void bb_async_copy16(void *shared, const void *global) {
#if defined(BOBBIN_CUDA_SIM)
    bb_sim_aligned(shared, 16);
    bb_sim_aligned(global, 16);
    bb_sim_async_copy(shared, global, 16);
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     (unsigned)__cvta_generic_to_shared(shared)),
                 "l"(global)
                 : "memory");
#else
    *static_cast<uint4 *>(shared) = *static_cast<const uint4 *>(global);
#endif
}
/* Ends a group of copies. */
static __device__ inline void bb_async_commit() {
#if defined(BOBBIN_CUDA_SIM)
    bb_sim_async_commit();
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/* Waits until at most LEFT of this thread's groups are under way; other threads' copies need a
 * barrier after it. */
template <int LEFT> static __device__ inline void bb_async_wait() {
#if defined(BOBBIN_CUDA_SIM)
    bb_sim_async_wait(LEFT);
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}

#endif
