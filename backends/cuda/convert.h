/* Conversions between all dtypes, one element at a time, with the rules of
 * backends/cpu/loops/elementwise.h: a single rounding to nearest even; float to integer truncates
 * and saturates, NaN gives 0; integers wrap; to bool: x != 0.
 *
 * Every dtype has one wide type it computes in: double (f64), float (f32, f16, bf16), int64_t
 * (integers and bool). bb_wide widens, bb_narrow<T> converts any wide value to T. */
#ifndef BOBBIN_BACKENDS_CUDA_CONVERT_H
#define BOBBIN_BACKENDS_CUDA_CONVERT_H

#include "backends/cuda/types.h"

struct bb_bool {
    uint8_t bits;
};

static __device__ inline double bb_wide(double x) { return x; }
static __device__ inline float bb_wide(float x) { return x; }
static __device__ inline float bb_wide(bb_half x) { return widen(x); }
static __device__ inline float bb_wide(bb_bfloat x) { return widen(x); }
static __device__ inline int64_t bb_wide(int64_t x) { return x; }
static __device__ inline int64_t bb_wide(int32_t x) { return x; }
static __device__ inline int64_t bb_wide(uint8_t x) { return x; }
static __device__ inline int64_t bb_wide(bb_bool x) { return x.bits; }

/* Rounding twice (f64 to f32 to f16) is right if the first rounding goes "to odd": it never lands
 * on a tie. */
static __device__ inline float bb_round_to_odd(double x) {
    const float y = (float)x;
    const bool exact = (double)y == x || x != x;
    uint32_t u = bb_float_bits(y);
    u -= (uint32_t)(!exact && fabs((double)y) > fabs(x));
    u |= (uint32_t)!exact;
    return bb_bits_float(u);
}
/* Above 2^53 the low 11 bits become one sticky bit: the double is then exact, and "odd" as above.
 */
static __device__ inline float bb_round_to_odd(int64_t x) {
    const int64_t low = 0x7FF, wide = INT64_C(1) << 53;
    const int64_t sticky = (x & ~low) | (x & low ? low + 1 : 0);
    return bb_round_to_odd((double)(x > wide || x < -wide ? sticky : x));
}
static __device__ inline float bb_round_to_odd(float x) { return x; }

/* R is float or double: the ends of the integers' ranges are exact in both. */
template <typename R> static __device__ inline int64_t bb_truncate64(R x) {
    if (!(x > (R)-0x1p63)) return x != x ? 0 : INT64_MIN;
    return x >= (R)0x1p63 ? INT64_MAX : (int64_t)x;
}
template <typename R> static __device__ inline int32_t bb_truncate32(R x) {
    if (!(x > (R)-0x1p31)) return x != x ? 0 : INT32_MIN;
    return x >= (R)0x1p31 ? INT32_MAX : (int32_t)x;
}
template <typename R> static __device__ inline uint8_t bb_truncate8(R x) {
    if (!(x > 0)) return 0;
    return x >= 255 ? 255 : (uint8_t)x;
}

template <typename T> struct bb_narrower;
template <> struct bb_narrower<double> {
    template <typename R> static __device__ inline double from(R x) { return (double)x; }
};
template <> struct bb_narrower<float> {
    template <typename R> static __device__ inline float from(R x) { return (float)x; }
};
template <> struct bb_narrower<bb_half> {
    template <typename R> static __device__ inline bb_half from(R x) {
        return narrow<bb_half>(bb_round_to_odd(x));
    }
};
template <> struct bb_narrower<bb_bfloat> {
    template <typename R> static __device__ inline bb_bfloat from(R x) {
        return narrow<bb_bfloat>(bb_round_to_odd(x));
    }
};
template <> struct bb_narrower<int64_t> {
    template <typename R> static __device__ inline int64_t from(R x) { return bb_truncate64(x); }
    static __device__ inline int64_t from(int64_t x) { return x; }
};
template <> struct bb_narrower<int32_t> {
    template <typename R> static __device__ inline int32_t from(R x) { return bb_truncate32(x); }
    static __device__ inline int32_t from(int64_t x) { return (int32_t)(uint32_t)x; }
};
template <> struct bb_narrower<uint8_t> {
    template <typename R> static __device__ inline uint8_t from(R x) { return bb_truncate8(x); }
    static __device__ inline uint8_t from(int64_t x) { return (uint8_t)x; }
};
template <> struct bb_narrower<bb_bool> {
    template <typename R> static __device__ inline bb_bool from(R x) {
        return bb_bool{(uint8_t)(x != 0)};
    }
};
template <typename T, typename R> static __device__ inline T bb_narrow(R x) {
    return bb_narrower<T>::from(x);
}

/* bb_float_dtype (types.h) for the others, and for all: call f(bb_tag<element type>()). */
template <typename F> static inline void bb_integer_dtype(int dtype, F f) {
    switch (dtype) {
    case BB_I64: f(bb_tag<int64_t>()); break;
    case BB_I32: f(bb_tag<int32_t>()); break;
    case BB_U8: f(bb_tag<uint8_t>()); break;
    default: f(bb_tag<bb_bool>());
    }
}
template <typename F> static inline void bb_any_dtype(int dtype, F f) {
    if (!bb_float_dtype(dtype, f)) bb_integer_dtype(dtype, f);
}

#endif
