/* What the loops of RMSNormImpl do with one tile of a row, f32 or bf16, contiguous. Each is called
 * with a constant dtype, so that each caller is one plain loop. For loops/rms_norm.c. */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_RMS_TILE_H
#define BOBBIN_BACKENDS_CPU_LOOPS_RMS_TILE_H

#include "backends/cpu/loops/rms_pairs.h"
#include "backends/cpu/loops/tile.h"

/* Element i of an array. */
static inline float get(int dtype, const void *x, int64_t i) {
    return dtype == BB_F32 ? ((const float *)x)[i] : bb_bf16_to_f32(((const uint16_t *)x)[i]);
}
static inline void put(int dtype, void *y, int64_t i, float value) {
    if (dtype == BB_F32)
        ((float *)y)[i] = value;
    else
        ((uint16_t *)y)[i] = bb_f32_to_bf16(value);
}

static inline float square(float x) { return x * x; }

/* A row's sum of squares, in lanes: element i of the row belongs to lane i % LANES, so the order of
 * the additions is a matter of the row alone, whichever loop adds. TILE is a multiple of LANES. */
enum { LANES = 64 };

static inline float lanes_sum(const float lane[LANES]) {
    float quarter[LANES / 4], sum = 0;
#pragma omp simd
    for (int i = 0; i < LANES / 4; i++)
        quarter[i] =
            (lane[i] + lane[i + LANES / 4]) + (lane[i + LANES / 2] + lane[i + 3 * LANES / 4]);
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < LANES / 4; i++) sum += quarter[i];
    return sum;
}

/* lanes += x^2 of a tile */
static inline void tile_squares(int dtype, int64_t n, const void *restrict x, float lane[LANES]) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
#pragma omp simd
        for (int k = 0; k < LANES; k++) lane[k] += square(get(dtype, x, i + k));
    }
    for (int k = 0; i + k < n; k++) lane[k] += square(get(dtype, x, i + k));
}

/* The two rounding orders of ops/rms_norm.c, to the bit: each product is rounded by itself. */
static inline float scaled(int dtype, bool round_first, float x, float rstd, float scale) {
    float xhat = x * rstd;
    if (dtype == BB_BF16 && round_first) xhat = bb_f32_via_bf16(xhat);
    return xhat * scale;
}

/* y = scale x rstd of a tile */
static inline void tile_scale(int dtype, bool round_first, int64_t n, const void *restrict x,
                              float rstd, const float *restrict scale, void *restrict y) {
    int64_t pairs = dtype == BB_BF16 ? n / 2 : 0;
    if (dtype == BB_BF16 && round_first)
        pairs_scale(true, pairs, x, rstd, scale, y);
    else if (dtype == BB_BF16)
        pairs_scale(false, pairs, x, rstd, scale, y);
#pragma omp simd
    for (int64_t i = 2 * pairs; i < n; i++)
        put(dtype, y, i, scaled(dtype, round_first, get(dtype, x, i), rstd, scale[i]));
}

/* y = scale x rstd of a tile; lanes += the squares of the tile at `next`. */
static inline void tile_write(int dtype, bool round_first, int64_t n, const void *restrict x,
                              float rstd, const float *restrict scale, void *restrict y,
                              const void *restrict next, float lane[LANES]) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
#pragma omp simd
        for (int k = 0; k < LANES; k++) {
            put(dtype, y, i + k,
                scaled(dtype, round_first, get(dtype, x, i + k), rstd, scale[i + k]));
            lane[k] += square(get(dtype, next, i + k));
        }
    }
    for (int k = 0; i + k < n; k++) {
        put(dtype, y, i + k, scaled(dtype, round_first, get(dtype, x, i + k), rstd, scale[i + k]));
        lane[k] += square(get(dtype, next, i + k));
    }
}

/* sum = x + more of a tile; lanes += its squares. */
static inline void tile_add(int dtype, int64_t n, const void *restrict x, const void *restrict more,
                            void *restrict sum, float lane[LANES]) {
    int64_t i = 0;
    if (dtype == BB_BF16) {
        pairs_add(n / 2, x, more, sum);
        if (n % 2) put(dtype, sum, n - 1, get(dtype, x, n - 1) + get(dtype, more, n - 1));
        tile_squares(dtype, n, sum, lane);
        return;
    }
    for (; i + LANES <= n; i += LANES) {
#pragma omp simd
        for (int k = 0; k < LANES; k++) {
            float s = get(dtype, x, i + k) + get(dtype, more, i + k);
            put(dtype, sum, i + k, s);
            lane[k] += square(s);
        }
    }
    for (int k = 0; i + k < n; k++) {
        float s = get(dtype, x, i + k) + get(dtype, more, i + k);
        put(dtype, sum, i + k, s);
        lane[k] += square(s);
    }
}

/* lanes += dy g x of a tile; dscale += dy xhat where it is wanted. */
static inline void tile_backward_sums(int dtype, int64_t n, const void *restrict x,
                                      const void *restrict dy, const float *restrict g, float rstd,
                                      float *restrict dscale, float lane[LANES]) {
    int64_t i = 0;
    for (; dscale && i + LANES <= n; i += LANES) {
#pragma omp simd
        for (int k = 0; k < LANES; k++) {
            float product = get(dtype, dy, i + k) * get(dtype, x, i + k);
            lane[k] += product * g[i + k];
            dscale[i + k] += product * rstd;
        }
    }
    for (; i + LANES <= n; i += LANES) {
#pragma omp simd
        for (int k = 0; k < LANES; k++)
            lane[k] += get(dtype, dy, i + k) * get(dtype, x, i + k) * g[i + k];
    }
    for (int k = 0; i + k < n; k++) {
        float product = get(dtype, dy, i + k) * get(dtype, x, i + k);
        lane[k] += product * g[i + k];
        if (dscale) dscale[i + k] += product * rstd;
    }
}

/* dx = rstd (dy g - back x), and more where there is some, of a tile */
static inline void tile_backward_write(int dtype, int64_t n, const void *restrict x,
                                       const void *restrict dy, const float *restrict g, float rstd,
                                       float back, const void *restrict more, void *restrict dx) {
    if (more) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            put(dtype, dx, i,
                get(dtype, more, i) + rstd * (get(dtype, dy, i) * g[i] - back * get(dtype, x, i)));
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        put(dtype, dx, i, rstd * (get(dtype, dy, i) * g[i] - back * get(dtype, x, i)));
}

#endif
