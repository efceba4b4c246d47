/* The host simulation of CUDA: kernels run as plain C++ on the CPU, so that machines without a GPU
 * can prove them.
 *
 * Blocks run one after another. The threads of a block are fibers that run until they wait at a
 * barrier or a warp exchange, in an order that a seeded generator shuffles anew at every wait
 * (BOBBIN_SIM_SEED; 1 by default). What it catches, each as an error of the launch that names
 * kernel, block and thread:
 *   - a barrier that some threads of the block reach and others do not, or at another line;
 *   - a warp exchange that waits for a lane which has ended or waits elsewhere;
 *   - a launch beyond the limits of the device, a pointer argument to memory that is not its own;
 *   - a write past the end of shared memory (guard bytes; under AddressSanitizer any access), a
 *     misaligned 16-byte access;
 *   - reads of memory that nobody wrote: device and shared memory start as NaN;
 *   - copies beside the work that are not waited for: they run as late as they may (runtime.cpp).
 * The device has four multiprocessors; BOBBIN_SIM_SMS sets another number when a context opens, for
 * tests that results do not depend on it. BOBBIN_SIM_MEMORY sets its bytes of memory. So that a
 * test can see what a failing device does: BOBBIN_SIM_REFUSED_AT=n, the n-th launch of a context
 * fails; BOBBIN_SIM_LOST_AT=n, the device is lost at it; BOBBIN_SIM_MISSING=why, there is no
 * device. BOBBIN_SIM_ENDS=n: of each grid only the first and the last n blocks run, and of each
 * copy beyond 1 GiB the first and the last MiB. Blocks of memory beyond 1 GiB begin as zeros, which
 * take none until they are touched. So a test can look at the two ends of tensors that no machine
 * could fill.
 *
 * What it cannot show: races between threads that the shuffled order happens to serialize
 * rightly (run several seeds), memory ordering between blocks, real occupancy, speed, and rounding
 * of the GPU's own functions (expf, rsqrtf, ...). */
#ifndef BOBBIN_BACKENDS_CUDA_SIM_H
#define BOBBIN_BACKENDS_CUDA_SIM_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/core.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

/* Where the running thread is. */
struct bb_sim_place {
    dim3 thread, block, block_size, grid_size;
};
/* __thread: known to need no constructor, so reading it is one instruction. */
extern __thread bb_sim_place bb_sim_here;
#define threadIdx (bb_sim_here.thread)
#define blockIdx (bb_sim_here.block)
#define blockDim (bb_sim_here.block_size)
#define gridDim (bb_sim_here.grid_size)

void bb_sim_barrier(int line);
#define __syncthreads() bb_sim_barrier(__LINE__)

/* Gives `value` to the warp and returns once all lanes of mask have; slot i of the result is lane
 * i's value, valid until this thread's next exchange. */
enum bb_sim_exchange_kind {
    BB_SIM_XOR,
    BB_SIM_DOWN,
    BB_SIM_UP,
    BB_SIM_INDEX,
    BB_SIM_BALLOT,
    BB_SIM_WARP,
    BB_SIM_MMA
};
enum { BB_SIM_SLOT_BYTES = 64 };
const unsigned char *bb_sim_exchange(bb_sim_exchange_kind kind, unsigned mask, const void *value,
                                     size_t bytes);
int bb_sim_lane();

template <typename T>
static inline T bb_sim_shuffle(bb_sim_exchange_kind kind, unsigned mask, T value, int source) {
    static_assert(sizeof(T) <= BB_SIM_SLOT_BYTES, "a shuffled value");
    const unsigned char *slots = bb_sim_exchange(kind, mask, &value, sizeof value);
    if (source >= 0 && source < 32)
        memcpy(&value, slots + source * BB_SIM_SLOT_BYTES, sizeof value);
    return value;
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T v, int lanes, int width = 32) {
    const int lane = bb_sim_lane(), source = lane ^ lanes;
    return bb_sim_shuffle(BB_SIM_XOR, mask, v, source / width <= lane / width ? source : lane);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    const int lane = bb_sim_lane(), source = lane + (int)delta;
    return bb_sim_shuffle(BB_SIM_DOWN, mask, v, source / width == lane / width ? source : lane);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    const int lane = bb_sim_lane(), source = lane - (int)delta;
    return bb_sim_shuffle(BB_SIM_UP, mask, v,
                          source >= 0 && source / width == lane / width ? source : lane);
}
template <typename T> static inline T __shfl_sync(unsigned mask, T v, int from, int width = 32) {
    const int lane = bb_sim_lane();
    return bb_sim_shuffle(BB_SIM_INDEX, mask, v, lane / width * width + (from & (width - 1)));
}
unsigned __ballot_sync(unsigned mask, int predicate);
static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    bb_sim_exchange(BB_SIM_WARP, mask, "", 1);
}

/* Shared memory of the running block; the same call site gives the same memory to all of its
 * threads. */
void *bb_sim_shared(const void *site, size_t bytes);
void *bb_sim_dynamic_shared();
#define BB_SHARED(type, name, count)                                                               \
    static const char name##_site = 0;                                                             \
    type *const name = static_cast<type *>(bb_sim_shared(&name##_site, sizeof(type) * (count)))
#define BB_DYNAMIC_SHARED(type, name)                                                              \
    type *const name = static_cast<type *>(bb_sim_dynamic_shared())

/* The running thread did something a GPU would punish: the launch fails with this text. Does not
 * return. */
[[noreturn]] void bb_sim_fault(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline void bb_sim_aligned(const void *p, uintptr_t bytes) {
    if ((uintptr_t)p % bytes) bb_sim_fault("misaligned access of %d bytes at %p", (int)bytes, p);
}

/* Asynchronous copies to shared memory happen only when they are waited for (async.h). */
void bb_sim_async_copy(void *target, const void *source, size_t bytes);
void bb_sim_async_commit();
void bb_sim_async_wait(int groups_left);

/* ---- Functions that CUDA has and C++ does not. */
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __dadd_rn(double x, double y) { return x + y; }
template <typename T> static inline T __ldg(const T *p) { return *p; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline uint32_t __umulhi(uint32_t a, uint32_t b) {
    return (uint32_t)((uint64_t)a * b >> 32);
}
static inline int atomicAdd(int *p, int v) {
    int old = *p;
    *p += v;
    return old;
}
static inline int atomicCAS(int *p, int expected, int v) {
    int old = *p;
    if (old == expected) *p = v;
    return old;
}
static inline int atomicMax(int *p, int v) {
    int old = *p;
    if (v > old) *p = v;
    return old;
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }

/* ---- Launching */

/* A kernel with its arguments, copied as bytes as CUDA does. There are a thousand kinds of
 * launches, and so one of them must cost the compiler no more than one small function. */
struct bb_sim_kernel {
    void (*run)(const void *arguments);
    const void *arguments;
    size_t bytes;
};
template <typename K> static inline bb_sim_kernel bb_sim_kernel_of(const K &kernel) {
    static_assert(std::is_trivially_copyable<K>::value, "arguments are copied as bytes");
    return {[](const void *k) { (*static_cast<const K *>(k))(); }, &kernel, sizeof kernel};
}
/* BOBBIN_SIM_ENDS, or 0. */
uint64_t bb_sim_ends();
/* NULL, or what went wrong. */
const char *bb_sim_run(dim3 grid, dim3 block, size_t shared_bytes, const bb_sim_kernel &kernel);

/* The pointers among a launch's arguments, and of which argument each is. */
struct bb_sim_pointers {
    int argument = 0;
    std::vector<std::pair<int, const void *>> at;
    void operator()(const void *p);
};
template <typename T>
static inline auto bb_sim_each_pointer(const T &x, bb_sim_pointers &f, int)
    -> decltype(x.each_pointer(f), (void)0) {
    x.each_pointer(f);
}
template <typename T> static inline void bb_sim_each_pointer(const T &x, bb_sim_pointers &f, long) {
    if constexpr (std::is_pointer<T>::value) f((const void *)x);
    (void)x, (void)f;
}

/* NULL, or what is wrong with a pointer that work is given: it must be the device's. */
const char *bb_sim_pointer_fault(const void *p);
/* Under AddressSanitizer device memory is poisoned. While one of these lives, the blocks that it
 * was called with a pointer into are open, and no others: work touches only what it was given. */
struct bb_sim_access {
    std::vector<std::pair<uintptr_t, size_t>> blocks;
    void operator()(const void *p);
    ~bb_sim_access();
};

struct bb_cuda;
/* Runs, or records while a capture is under way. */
bb_status bb_sim_enqueue(bb_cuda *cuda, const char *name, std::function<const char *()> work);
bb_status bb_sim_enqueue_kernel(bb_cuda *cuda, const char *name, dim3 grid, dim3 block,
                                size_t shared_bytes, const bb_sim_pointers &pointers,
                                const bb_sim_kernel &kernel);
bb_status bb_sim_refuse(bb_cuda *cuda, const char *name, int argument, const char *why);

/* Pointers must be the device's, those too that a struct shows through each_pointer(f). */
template <typename... P, typename... A>
static inline bb_status bb_sim_launch(bb_cuda *cuda, const char *name, void (*kernel)(P...),
                                      dim3 grid, dim3 block, size_t shared_bytes, const A &...a) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return BB_OK;
    bb_sim_pointers pointers;
    ((bb_sim_each_pointer(a, pointers, 0), pointers.argument++), ...);
    const auto call = [=] { kernel((P)a...); };
    return bb_sim_enqueue_kernel(cuda, name, grid, block, shared_bytes, pointers,
                                 bb_sim_kernel_of(call));
}

/* What has run in this process so far, for tests. */
struct bb_sim_counts {
    int64_t launches, blocks, threads, barriers, exchanges;
};
bb_sim_counts bb_sim_count();

#endif
