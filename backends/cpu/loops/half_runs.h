/* Runs of f16 and bf16 to f32 and back; the rules are half.h's. Fewer than eight elements at the
 * end of a run go one by one. */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_HALF_RUNS_H
#define BOBBIN_BACKENDS_CPU_LOOPS_HALF_RUNS_H

#include <stdint.h>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "backends/half.h"

static inline void f16_to_f32_run(int64_t n, const uint16_t *x, float *y) {
    int64_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i,
                         _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(x + i))));
#endif
    for (; i < n; i++) y[i] = bb_f16_to_f32(x[i]);
}

static inline void f32_to_f16_run(int64_t n, const float *x, uint16_t *y) {
    int64_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(y + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < n; i++) y[i] = bb_f32_to_f16(x[i]);
}

static inline void bf16_to_f32_run(int64_t n, const uint16_t *x, float *y) {
    for (int64_t i = 0; i < n; i++) y[i] = bb_bf16_to_f32(x[i]);
}

static inline void f32_to_bf16_run(int64_t n, const float *x, uint16_t *y) {
    for (int64_t i = 0; i < n; i++) y[i] = bb_f32_to_bf16(x[i]);
}

#endif
