/* The conversions of loops/elementwise.c: load_* and store_*. Rules: loops/elementwise.h. Included
 * there only. */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_CONVERT_H
#define BOBBIN_BACKENDS_CPU_LOOPS_CONVERT_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "backends/cpu/loops/elementwise.h"
#include "backends/cpu/loops/half_runs.h"
#include "core/core.h"

/* ---- One value */

/* Rounding twice (f64 to f32 to f16) is right if the first rounding goes "to odd": it never lands
 * on a tie. */
static inline float f64_to_f32_odd(double x) {
    float y = (float)x;
    uint32_t u = bb_bits_of_f32(y);
    bool exact = (double)y == x || x != x;
    u -= (uint32_t)(!exact && fabs((double)y) > fabs(x));
    u |= (uint32_t)!exact;
    return bb_f32_of_bits(u);
}
static inline uint16_t f64_to_f16(double x) { return bb_f32_to_f16(f64_to_f32_odd(x)); }
static inline uint16_t f64_to_bf16(double x) { return bb_f32_to_bf16(f64_to_f32_odd(x)); }

/* Above 2^53 the low 11 bits become one sticky bit: the double is then exact, and "odd" as above.
 */
static inline double i64_to_f64_odd(int64_t x) {
    const int64_t low = 0x7FF;
    bool wide = x > (INT64_C(1) << 53) || x < -(INT64_C(1) << 53);
    int64_t sticky = (x & ~low) | (x & low ? low + 1 : 0);
    return (double)(wide ? sticky : x);
}

static inline int64_t f64_to_i64(double x) {
    if (!(x > -0x1p+63)) return x != x ? 0 : INT64_MIN;
    return x >= 0x1p+63 ? INT64_MAX : (int64_t)x;
}
static inline int32_t f64_to_i32(double x) {
    x = x > INT32_MIN ? x : x != x ? 0 : INT32_MIN;
    return (int32_t)(x < INT32_MAX ? x : INT32_MAX);
}
static inline uint8_t f64_to_u8(double x) {
    x = x > 0 ? x : 0;
    return (uint8_t)(x < UINT8_MAX ? x : UINT8_MAX);
}

/* ---- Runs */

/* Strided elements of `bytes` each, packed: a load converts only contiguous runs. */
static inline void pack_run(size_t bytes, int64_t n, const void *x, int64_t stride, void *y) {
    switch (bytes) {
    case 8:
        for (int64_t i = 0; i < n; i++) ((uint64_t *)y)[i] = ((const uint64_t *)x)[i * stride];
        break;
    case 4:
        for (int64_t i = 0; i < n; i++) ((uint32_t *)y)[i] = ((const uint32_t *)x)[i * stride];
        break;
    case 2:
        for (int64_t i = 0; i < n; i++) ((uint16_t *)y)[i] = ((const uint16_t *)x)[i * stride];
        break;
    default:
        for (int64_t i = 0; i < n; i++) ((uint8_t *)y)[i] = ((const uint8_t *)x)[i * stride];
    }
}

static void load_f32_run(int dtype, int64_t n, const void *x, float *y) {
    switch (dtype) {
    case BB_F64:
        for (int64_t i = 0; i < n; i++) y[i] = (float)((const double *)x)[i];
        break;
    case BB_F32: memcpy(y, x, (size_t)n * sizeof *y); break;
    case BB_F16: f16_to_f32_run(n, x, y); break;
    case BB_BF16: bf16_to_f32_run(n, x, y); break;
    case BB_I64:
        for (int64_t i = 0; i < n; i++) y[i] = (float)((const int64_t *)x)[i];
        break;
    case BB_I32:
        for (int64_t i = 0; i < n; i++) y[i] = (float)((const int32_t *)x)[i];
        break;
    default:
        for (int64_t i = 0; i < n; i++) y[i] = (float)((const uint8_t *)x)[i];
    }
}

static void load_f64_run(int dtype, int64_t n, const void *x, double *y) {
    switch (dtype) {
    case BB_F64: memcpy(y, x, (size_t)n * sizeof *y); break;
    case BB_F32:
        for (int64_t i = 0; i < n; i++) y[i] = (double)((const float *)x)[i];
        break;
    case BB_F16:
        for (int64_t i = 0; i < n; i++) y[i] = (double)bb_f16_to_f32(((const uint16_t *)x)[i]);
        break;
    case BB_BF16:
        for (int64_t i = 0; i < n; i++) y[i] = (double)bb_bf16_to_f32(((const uint16_t *)x)[i]);
        break;
    case BB_I64:
        for (int64_t i = 0; i < n; i++) y[i] = (double)((const int64_t *)x)[i];
        break;
    case BB_I32:
        for (int64_t i = 0; i < n; i++) y[i] = (double)((const int32_t *)x)[i];
        break;
    default:
        for (int64_t i = 0; i < n; i++) y[i] = (double)((const uint8_t *)x)[i];
    }
}

static void load_i64_run(int dtype, int64_t n, const void *x, int64_t *y) {
    switch (dtype) {
    case BB_F64:
        for (int64_t i = 0; i < n; i++) y[i] = f64_to_i64(((const double *)x)[i]);
        break;
    case BB_F32:
        for (int64_t i = 0; i < n; i++) y[i] = f64_to_i64((double)((const float *)x)[i]);
        break;
    case BB_F16:
        for (int64_t i = 0; i < n; i++)
            y[i] = f64_to_i64((double)bb_f16_to_f32(((const uint16_t *)x)[i]));
        break;
    case BB_BF16:
        for (int64_t i = 0; i < n; i++)
            y[i] = f64_to_i64((double)bb_bf16_to_f32(((const uint16_t *)x)[i]));
        break;
    case BB_I64: memcpy(y, x, (size_t)n * sizeof *y); break;
    case BB_I32:
        for (int64_t i = 0; i < n; i++) y[i] = ((const int32_t *)x)[i];
        break;
    default:
        for (int64_t i = 0; i < n; i++) y[i] = ((const uint8_t *)x)[i];
    }
}

static void store_f32(int dtype, int64_t n, const float *x, void *y) {
    switch (dtype) {
    case BB_F64:
        for (int64_t i = 0; i < n; i++) ((double *)y)[i] = (double)x[i];
        break;
    case BB_F32: memcpy(y, x, (size_t)n * sizeof *x); break;
    case BB_F16: f32_to_f16_run(n, x, y); break;
    case BB_BF16: f32_to_bf16_run(n, x, y); break;
    case BB_I64:
        for (int64_t i = 0; i < n; i++) ((int64_t *)y)[i] = f64_to_i64((double)x[i]);
        break;
    case BB_I32:
        for (int64_t i = 0; i < n; i++) ((int32_t *)y)[i] = f64_to_i32((double)x[i]);
        break;
    case BB_U8:
        for (int64_t i = 0; i < n; i++) ((uint8_t *)y)[i] = f64_to_u8((double)x[i]);
        break;
    default:
        for (int64_t i = 0; i < n; i++) ((uint8_t *)y)[i] = x[i] != 0;
    }
}

static void store_f64(int dtype, int64_t n, const double *x, void *y) {
    switch (dtype) {
    case BB_F64: memcpy(y, x, (size_t)n * sizeof *x); break;
    case BB_F32:
        for (int64_t i = 0; i < n; i++) ((float *)y)[i] = (float)x[i];
        break;
    case BB_F16:
        for (int64_t i = 0; i < n; i++) ((uint16_t *)y)[i] = f64_to_f16(x[i]);
        break;
    case BB_BF16:
        for (int64_t i = 0; i < n; i++) ((uint16_t *)y)[i] = f64_to_bf16(x[i]);
        break;
    case BB_I64:
        for (int64_t i = 0; i < n; i++) ((int64_t *)y)[i] = f64_to_i64(x[i]);
        break;
    case BB_I32:
        for (int64_t i = 0; i < n; i++) ((int32_t *)y)[i] = f64_to_i32(x[i]);
        break;
    case BB_U8:
        for (int64_t i = 0; i < n; i++) ((uint8_t *)y)[i] = f64_to_u8(x[i]);
        break;
    default:
        for (int64_t i = 0; i < n; i++) ((uint8_t *)y)[i] = x[i] != 0;
    }
}

static void store_i64(int dtype, int64_t n, const int64_t *x, void *y) {
    switch (dtype) {
    case BB_F64:
        for (int64_t i = 0; i < n; i++) ((double *)y)[i] = (double)x[i];
        break;
    case BB_F32:
        for (int64_t i = 0; i < n; i++) ((float *)y)[i] = (float)x[i];
        break;
    case BB_F16:
        for (int64_t i = 0; i < n; i++) ((uint16_t *)y)[i] = f64_to_f16(i64_to_f64_odd(x[i]));
        break;
    case BB_BF16:
        for (int64_t i = 0; i < n; i++) ((uint16_t *)y)[i] = f64_to_bf16(i64_to_f64_odd(x[i]));
        break;
    case BB_I64: memcpy(y, x, (size_t)n * sizeof *x); break;
    case BB_I32:
        for (int64_t i = 0; i < n; i++) ((uint32_t *)y)[i] = (uint32_t)x[i];
        break;
    case BB_U8:
        for (int64_t i = 0; i < n; i++) ((uint8_t *)y)[i] = (uint8_t)x[i];
        break;
    default:
        for (int64_t i = 0; i < n; i++) ((uint8_t *)y)[i] = x[i] != 0;
    }
}

#endif
