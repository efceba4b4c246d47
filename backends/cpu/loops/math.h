/* Scalar functions that vectorize: straight-line code, so that a loop around a call becomes SIMD at
 * every ISA level.
 *
 * Largest error against double over every 37th float, baseline and avx512: exp 1.0, log 0.8,
 * tanh 1.4, erf 1.2, sigmoid 2.4 ulp; tests/backends/test_elementwise.c holds them to 2, 2, 2,
 * 2, 3. inf, NaN, overflow and denormal results are right. Polynomials are minimax fits (Remez,
 * relative error) with coefficients rounded to f32; none relies on fused multiply-add.
 */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_MATH_H
#define BOBBIN_BACKENDS_CPU_LOOPS_MATH_H

#include <math.h>
#include <stdint.h>

#include "backends/cpu/loops/elementwise.h"

/* 2^n for -126 <= n <= 127. */
static inline float bb_exp2_int(int32_t n) { return bb_f32_of_bits((uint32_t)(n + 127) << 23); }

/* exp(x) = 2^n exp(r), r = x - n ln 2, |r| <= ln(2)/2. Beyond the clamp the result is inf or 0
 * anyway. 2^n is applied in two halves so that neither overflows and a denormal result is rounded
 * once. */
static inline float bb_expf(float x) {
    const float round = 0x1.8p+23f; /* adding it leaves the nearest integer in the low bits */
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float shifted = x * 0x1.715476p+0f + round;
    float n = shifted - round;
    int32_t k = (int32_t)(bb_bits_of_f32(shifted) - 0x4B400000u);
    k = x == x ? k : 0;
    float r = (x - n * 0x1.63p-1f) - n * -0x1.bd0106p-13f;
    float p = 0x1.6a3ad4p-10f;
    p = p * r + 0x1.123c6ep-7f;
    p = p * r + 0x1.5558e6p-5f;
    p = p * r + 0x1.55548ep-3f;
    p = p * r + 0x1.fffffcp-2f;
    p = p * (r * r) + r + 1.0f;
    int32_t half = k / 2;
    return p * bb_exp2_int(half) * bb_exp2_int(k - half);
}

/* log(x) = e ln 2 + log(1 + f), x = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2). */
static inline float bb_logf(float x) {
    float small = x < 0x1p-126f ? 0x1p+23f : 1.0f;
    float shift = x < 0x1p-126f ? 23.0f : 0.0f;
    uint32_t u = bb_bits_of_f32(x * small) + (0x3F800000u - 0x3F3504F3u);
    float e = (float)((int32_t)(u >> 23) - 127) - shift;
    float f = bb_f32_of_bits((u & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f;
    float p = 0x1.1c26cap-4f;
    p = p * f - 0x1.e53e06p-4f;
    p = p * f + 0x1.e6f718p-4f;
    p = p * f - 0x1.fafb5cp-4f;
    p = p * f + 0x1.232aa4p-3f;
    p = p * f - 0x1.55641ap-3f;
    p = p * f + 0x1.99a512p-3f;
    p = p * f - 0x1.ffffeap-3f;
    p = p * f + 0x1.555548p-2f;
    float square = f * f;
    float y = p * (f * square) + e * -0x1.bd0106p-13f;
    y = y - 0.5f * square;
    y = (f + y) + e * 0x1.63p-1f;
    float special = x == 0.0f ? -INFINITY : NAN;
    y = x > 0.0f ? y : special;
    return x == INFINITY ? x : y;
}

/* 1/(1 + exp(-x)), written with exp(-|x|) so that neither side loses digits or overflows. */
static inline float bb_sigmoidf(float x) {
    float e = bb_expf(-fabsf(x));
    float top = x < 0.0f ? e : 1.0f;
    return top / (1.0f + e);
}

/* An odd polynomial near 0, 1 - 2/(exp(2|x|) + 1) elsewhere. */
static inline float bb_tanhf(float x) {
    float z = x * x, t = fabsf(x);
    float p = -0x1.75e1f0p-8f;
    p = p * z + 0x1.5226a4p-6f;
    p = p * z - 0x1.b83c5cp-5f;
    p = p * z + 0x1.110726p-3f;
    p = p * z - 0x1.555532p-2f;
    float near = p * (z * x) + x;
    float far = 1.0f - 2.0f / (bb_expf(2.0f * t) + 1.0f);
    return copysignf(t < 0.625f ? near : far, x); /* of -0 too */
}

/* An odd polynomial near 0, 1 - exp(-|x| (1 + q(|x|))) elsewhere; erf is 1 in f32 from 3.92 on. */
static inline float bb_erff(float x) {
    float z = x * x, t = fabsf(x);
    float p = -0x1.380d54p-11f;
    p = p * z + 0x1.46badep-8f;
    p = p * z - 0x1.b6752ep-6f;
    p = p * z + 0x1.ce18dcp-4f;
    p = p * z - 0x1.8126dcp-2f;
    p = p * z + 0x1.06eba6p-3f;
    float near = p * x + x;
    float c = t > 4.0f ? 4.0f : t;
    float q = 0x1.6c89a4p-17f;
    q = q * c - 0x1.4e9050p-12f;
    q = q * c + 0x1.db6564p-9f;
    q = q * c - 0x1.84c586p-6f;
    q = q * c + 0x1.b2fc1ep-4f;
    q = q * c + 0x1.4535bcp-1f;
    q = q * c + 0x1.0775acp-3f;
    float far = copysignf(1.0f - bb_expf(-(q * c + c)), x);
    return t < 0.92f ? near : far;
}

#endif
