/* Element types of the kernels and what they compute in. bb_half and bb_bfloat are 16 bits of
 * storage; loads widen to float, stores round to nearest even, NaN stays NaN, denormals stay. */
#ifndef BOBBIN_BACKENDS_CUDA_TYPES_H
#define BOBBIN_BACKENDS_CUDA_TYPES_H

#include <string.h>

#include "core/core.h"

#include "backends/cuda/lang.h"
#if defined(BOBBIN_CUDA_SIM)
#include "backends/half.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

struct bb_half {
    uint16_t bits;
};
struct bb_bfloat {
    uint16_t bits;
};

static __host__ __device__ inline float bb_bits_float(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static __host__ __device__ inline uint32_t bb_float_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* ---- One value: widen<T>(x) to what T computes in (float; double for double), narrow<T>(y) back.
 */
template <typename T> struct bb_compute { typedef float type; };
template <> struct bb_compute<double> { typedef double type; };
template <typename T> using bb_real = typename bb_compute<T>::type;

static __device__ inline double widen(double x) { return x; }
static __device__ inline float widen(float x) { return x; }
static __device__ inline float widen(bb_half x) {
#if defined(BOBBIN_CUDA_SIM)
    return bb_f16_to_f32(x.bits);
#else
    return __half2float(__ushort_as_half(x.bits));
#endif
}
static __device__ inline float widen(bb_bfloat x) { return bb_bits_float((uint32_t)x.bits << 16); }

template <typename T> static __device__ inline T narrow(bb_real<T> y);
template <> __device__ inline double narrow<double>(double y) { return y; }
template <> __device__ inline float narrow<float>(float y) { return y; }
template <> __device__ inline bb_half narrow<bb_half>(float y) {
#if defined(BOBBIN_CUDA_SIM)
    return bb_half{bb_f32_to_f16(y)};
#else
    return bb_half{__half_as_ushort(__float2half_rn(y))};
#endif
}
template <> __device__ inline bb_bfloat narrow<bb_bfloat>(float y) {
#if defined(BOBBIN_CUDA_SIM)
    return bb_bfloat{bb_f32_to_bf16(y)};
#else
    return bb_bfloat{__bfloat16_as_ushort(__float2bfloat16_rn(y))};
#endif
}

/* ---- Two 16-bit values in one register: kernels that keep raw bits keep them so, because a
 * compiler gives each uint16_t a register of its own. */
template <typename T> static __device__ inline float bb_low(uint32_t pair);
template <typename T> static __device__ inline float bb_high(uint32_t pair);
template <typename T> static __device__ inline uint32_t bb_join(float low, float high);
template <> __device__ inline float bb_low<bb_bfloat>(uint32_t pair) {
    return bb_bits_float(pair << 16);
}
template <> __device__ inline float bb_high<bb_bfloat>(uint32_t pair) {
    return bb_bits_float(pair & 0xffff0000u);
}
template <> __device__ inline float bb_low<bb_half>(uint32_t pair) {
    return widen(bb_half{(uint16_t)pair});
}
template <> __device__ inline float bb_high<bb_half>(uint32_t pair) {
    return widen(bb_half{(uint16_t)(pair >> 16)});
}
#if defined(BOBBIN_CUDA_SIM)
template <> __device__ inline uint32_t bb_join<bb_bfloat>(float low, float high) {
    return (uint32_t)bb_f32_to_bf16(high) << 16 | bb_f32_to_bf16(low);
}
template <> __device__ inline uint32_t bb_join<bb_half>(float low, float high) {
    return (uint32_t)bb_f32_to_f16(high) << 16 | bb_f32_to_f16(low);
}
#else
template <> __device__ inline uint32_t bb_join<bb_bfloat>(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}
template <> __device__ inline uint32_t bb_join<bb_half>(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}
#endif

/* ---- 16 bytes at a time. Both ends must be 16-byte aligned; the simulation checks it. */
template <typename T> struct bb_pack {
    enum { N = 16 / sizeof(T) };
    T v[N];
};
template <typename T> static __device__ inline bb_pack<T> bb_load16(const T *p) {
    bb_pack<T> pack;
#if defined(BOBBIN_CUDA_SIM)
    bb_sim_aligned(p, 16);
    memcpy(&pack, p, 16);
#else
    const uint4 raw = *reinterpret_cast<const uint4 *>(p);
    memcpy(&pack, &raw, 16);
#endif
    return pack;
}
template <typename T> static __device__ inline void bb_store16(T *p, const bb_pack<T> &pack) {
#if defined(BOBBIN_CUDA_SIM)
    bb_sim_aligned(p, 16);
    memcpy(p, &pack, 16);
#else
    uint4 raw;
    memcpy(&raw, &pack, 16);
    *reinterpret_cast<uint4 *>(p) = raw;
#endif
}
/* Whether a row-major block may be read 16 bytes at a time: its start, and the distance of its rows
 * in elements. */
template <typename T> static inline bool bb_aligned16(const T *p, int64_t row = 0) {
    return (uintptr_t)p % 16 == 0 && row * (int64_t)sizeof(T) % 16 == 0;
}

/* ---- Choosing a template by dtype: calls f(tag) with tag.value of the element type. Returns false
 * for other dtypes. */
template <typename T> struct bb_tag { typedef T type; };
template <typename F> static inline bool bb_float_dtype(int dtype, F f) {
    switch (dtype) {
    case BB_F64: f(bb_tag<double>()); return true;
    case BB_F32: f(bb_tag<float>()); return true;
    case BB_F16: f(bb_tag<bb_half>()); return true;
    case BB_BF16: f(bb_tag<bb_bfloat>()); return true;
    default: return false;
    }
}

/* ---- Sums over a warp and a block, the same order every time. */
template <typename R> static __device__ inline R bb_warp_sum(R x, int lanes = BB_WARP) {
    for (int d = lanes / 2; d > 0; d /= 2) x += __shfl_xor_sync(BB_ALL_LANES, x, d);
    return x;
}
template <typename R> static __device__ inline R bb_warp_max(R x, int lanes = BB_WARP) {
    for (int d = lanes / 2; d > 0; d /= 2) {
        R other = __shfl_xor_sync(BB_ALL_LANES, x, d);
        x = other > x || other != other ? other : x; /* NaN wins */
    }
    return x;
}
/* Sum over all threads of a block (a multiple of 32, at most 1024), known to each of them. slots:
 * shared memory for 32 values; free to be used again after the next barrier. */
template <typename R> static __device__ inline R bb_block_sum(R x, R *slots) {
    const int warps = blockDim.x / BB_WARP, warp = threadIdx.x / BB_WARP,
              lane = threadIdx.x % BB_WARP;
    x = bb_warp_sum(x);
    if (warps == 1) return x;
    if (lane == 0) slots[warp] = x;
    __syncthreads();
    R total = slots[0];
    for (int w = 1; w < warps; w++) total += slots[w];
    return total;
}

#endif
