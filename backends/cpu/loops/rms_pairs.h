/* bf16 two at a time, for loops/rms_tile.h and loops/quantize.c. Two neighbours are one 32-bit
 * word: the upper half is an f32 but for the bits below it, the lower becomes one by a shift, and
 * back. A loop over words needs no shuffles, which loops over single bf16 spend most of their time
 * with. `n` counts words, x and y are bf16; what the sums and products are is said in rms_tile.h.
 */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_RMS_PAIRS_H
#define BOBBIN_BACKENDS_CPU_LOOPS_RMS_PAIRS_H

#include <stdint.h>

#include "backends/half.h"

/* Two bf16 of an array, which begins anywhere. */
typedef uint32_t pair __attribute__((aligned(2), may_alias));

static inline float lower(uint32_t p) { return bb_f32_of_bits(p << 16); }
static inline float upper(uint32_t p) { return bb_f32_of_bits(p & 0xFFFF0000u); }

static inline uint32_t pair_of(float low, float high) {
    return bb_bf16_bits(low) >> 16 | (bb_bf16_bits(high) & 0xFFFF0000u);
}

static inline float pair_scaled(bool round_first, float x, float rstd, float scale) {
    float xhat = x * rstd;
    return (round_first ? bb_f32_via_bf16(xhat) : xhat) * scale;
}

static inline void pairs_scale(bool round_first, int64_t n, const pair *restrict x, float rstd,
                               const float *restrict scale, pair *restrict y) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = pair_of(pair_scaled(round_first, lower(x[i]), rstd, scale[2 * i]),
                       pair_scaled(round_first, upper(x[i]), rstd, scale[2 * i + 1]));
}

static inline void pairs_add(int64_t n, const pair *restrict x, const pair *restrict more,
                             pair *restrict sum) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        sum[i] = pair_of(lower(x[i]) + lower(more[i]), upper(x[i]) + upper(more[i]));
}

#endif
