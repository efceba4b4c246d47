/* Elementwise loops: conversions between dtypes, and one loop per op and compute type.
 *
 * Ops compute in one of three types: f64 in double, f32, f16 and bf16 in float, integers and bool
 * in int64_t (wrapping, so a narrower integer gets the right low bits). load_* and store_* convert
 * chunks between any dtype and one of these. Adapters: backends/cpu/elementwise.c, copy.c,
 * create.c; formulas: math.h.
 *
 * Conversions, each with a single rounding (to nearest even):
 *   float to integer   truncates; NaN gives 0; beyond the range gives the nearest end of the range
 *   float to bool      x != 0, so NaN is true
 *   integer to integer wraps modulo 2^bits; to bool: x != 0
 *   float to float     overflow gives inf, NaN stays NaN, denormals are exact */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_ELEMENTWISE_H
#define BOBBIN_BACKENDS_CPU_LOOPS_ELEMENTWISE_H

#include <stdint.h>
#include <string.h>

/* ---- One value. Branch-free, so that loops over them vectorize. */

static inline uint32_t bb_bits_of_f32(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float bb_f32_of_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* The exponents of the two formats are aligned by one multiplication by a power of two; a denormal
 * is a number whose last bit stands at 2^-24, which is what subtracting 0.5 leaves. */
static inline float bb_f16_to_f32(uint16_t h) {
    uint32_t w = (uint32_t)h << 16, magnitude = w + w;
    float normal = bb_f32_of_bits((magnitude >> 4) + (0xE0u << 23)) * 0x1p-112f;
    float denormal = bb_f32_of_bits((magnitude >> 17) | (126u << 23)) - 0.5f;
    uint32_t u = magnitude < (1u << 27) ? bb_bits_of_f32(denormal) : bb_bits_of_f32(normal);
    return bb_f32_of_bits((w & 0x80000000u) | u);
}

/* Adding a power of two that is 2^13 times the value's own makes the adder round at the last bit of
 * the half. */
static inline uint16_t bb_f32_to_f16(float x) {
    uint32_t w = bb_bits_of_f32(x), magnitude = w + w;
    float scaled =
        (bb_f32_of_bits(w & 0x7FFFFFFFu) * 0x1p+112f) * 0x1p-110f; /* above the range: inf */
    uint32_t bias = magnitude & 0xFF000000u;
    bias = bias < 0x71000000u ? 0x71000000u : bias;
    uint32_t u = bb_bits_of_f32(bb_f32_of_bits((bias >> 1) + 0x07800000u) + scaled);
    uint32_t half = ((u >> 13) & 0x7C00u) + (u & 0x0FFFu);
    return (uint16_t)((w >> 16 & 0x8000u) | (magnitude > 0xFF000000u ? 0x7E00u : half));
}

static inline float bb_bf16_to_f32(uint16_t h) { return bb_f32_of_bits((uint32_t)h << 16); }

/* x rounded to bf16 and kept as f32: its upper half. */
static inline uint32_t bb_bf16_bits(float x) {
    uint32_t u = bb_bits_of_f32(x), rounded = u + 0x7FFFu + (u >> 16 & 1u);
    return x == x ? rounded : u | 0x400000u;
}
static inline uint16_t bb_f32_to_bf16(float x) { return (uint16_t)(bb_bf16_bits(x) >> 16); }
static inline float bb_f32_via_bf16(float x) {
    return bb_f32_of_bits(bb_bf16_bits(x) & 0xFFFF0000u);
}

/* ---- Loops over ops. */

/* A run of n elements. stride[k] is 1, or 0 where x[k] is one value for the whole run; y is
 * contiguous. x[k] and y are of the compute type, except that where's condition and a comparison's
 * result are bool (uint8_t). a and b are the op's numbers (pow's exponent, clamp's bounds). y may
 * be one of the x with stride 1. */
typedef struct bb_span {
    int64_t n;
    const void *x[3];
    int64_t stride[3];
    void *y;
    double a, b;
} bb_span;
typedef void (*bb_span_fn)(const bb_span *span);

/* NULL where the op does not exist for the type. */
typedef struct bb_map_loop {
    bb_span_fn f32, f64, i64;
} bb_map_loop;

typedef struct bb_elementwise_loops {
    /* y[i] = x[i * stride] converted; dtype is x's. */
    void (*load_f32)(int dtype, int64_t n, const void *x, int64_t stride, float *y);
    void (*load_f64)(int dtype, int64_t n, const void *x, int64_t stride, double *y);
    void (*load_i64)(int dtype, int64_t n, const void *x, int64_t stride, int64_t *y);
    /* y[i] = x[i] converted; dtype is y's. */
    void (*store_f32)(int dtype, int64_t n, const float *x, void *y);
    void (*store_f64)(int dtype, int64_t n, const double *x, void *y);
    void (*store_i64)(int dtype, int64_t n, const int64_t *x, void *y);

    bb_map_loop neg, abs, sign, exp, log, sqrt, rsqrt, sin, cos, tanh, sigmoid, relu, erf, square,
        reciprocal;
    bb_map_loop pow, add_scalar, mul_scalar, clamp;
    bb_map_loop add, sub, mul, div, maximum, minimum;
    bb_map_loop eq, ne, lt, le, gt, ge;
    bb_map_loop where;
} bb_elementwise_loops;

extern const bb_elementwise_loops bb_elementwise_loops_baseline, bb_elementwise_loops_avx2,
    bb_elementwise_loops_avx512;

#endif
