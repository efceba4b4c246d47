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
 *   float to float     overflow gives inf, NaN stays NaN, denormals are exact (backends/half.h) */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_ELEMENTWISE_H
#define BOBBIN_BACKENDS_CPU_LOOPS_ELEMENTWISE_H

#include <stdint.h>

#include "backends/half.h"

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
