/* Loops of quantizing (loops/quantize.h). Each loop over elements is written once and compiled for
 * every kind of code: `kind` and `dtype` are constants where the tables below call it. */
#include "backends/cpu/loops/loops.h"

#include "backends/cpu/loops/rms_tile.h"
#include "backends/fp8.h"

static inline uint8_t encoded(int kind, float x) {
    return kind == BB_CODE_E4M3   ? bb_f32_to_e4m3(x)
           : kind == BB_CODE_E5M2 ? bb_f32_to_e5m2(x)
                                  : bb_f32_to_e2m1(x);
}
static inline float decoded(int kind, uint8_t code) {
    return kind == BB_CODE_E4M3   ? bb_e4m3_to_f32(code)
           : kind == BB_CODE_E5M2 ? bb_e5m2_to_f32(code)
                                  : bb_e2m1_to_f32(code);
}

/* ---- Rows */

/* tile_squares of bf16: the same lanes, those of even and of odd elements apart. */
static void pair_squares(int64_t n, const pair *restrict x, float lane[LANES]) {
    float even[LANES / 2] = {0}, odd[LANES / 2] = {0};
    int64_t runs = n / LANES;
    for (int64_t i = 0; i < runs; i++) {
#pragma omp simd
        for (int k = 0; k < LANES / 2; k++) {
            uint32_t word = x[i * (LANES / 2) + k];
            even[k] += square(lower(word));
            odd[k] += square(upper(word));
        }
    }
    for (int k = 0; k < LANES / 2; k++) {
        lane[2 * k] = even[k];
        lane[2 * k + 1] = odd[k];
    }
    tile_squares(BB_BF16, n - runs * LANES, tile_at(BB_BF16, x, runs * LANES), lane);
}

static float squares(int dtype, int64_t n, const void *x, int64_t step) {
    float lane[LANES] = {0}, buffer[TILE];
    if (dtype == BB_BF16 && step == 1) {
        pair_squares(n, x, lane);
        return lanes_sum(lane);
    }
    for (int64_t at = 0; at < n; at += TILE) {
        int64_t m = tile_length(at, n, TILE);
        tile_squares(BB_F32, m, tile_load(dtype, m, tile_at(dtype, x, at * step), step, buffer),
                     lane);
    }
    return lanes_sum(lane);
}

static inline float rounded(int dtype, float x) {
    return dtype == BB_BF16  ? bb_f32_via_bf16(x)
           : dtype == BB_F16 ? bb_f16_to_f32(bb_f32_to_f16(x))
                             : x;
}

/* z may be x. */
static inline void normalize(int dtype, int round, int64_t n, const void *x, float rstd,
                             const float *restrict weight, float *z) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) z[i] = rounded(round, get(dtype, x, i) * rstd * weight[i]);
}

static void fetch(const bb_quantize_source *source, int64_t column, int64_t n, const void *x,
                  float rstd, float *z) {
    const void *from = tile_at(source->dtype, x, column * source->step);
    const float *weight = source->weight ? source->weight + column : NULL;
    if (weight && source->dtype == BB_BF16 && source->step == 1) {
        if (source->round == BB_BF16)
            normalize(BB_BF16, BB_BF16, n, from, rstd, weight, z);
        else
            normalize(BB_BF16, BB_F32, n, from, rstd, weight, z);
        return;
    }
    BB_ISA_NAME(bb_elementwise_loops).load_f32(source->dtype, n, from, source->step, z);
    if (!weight) return;
    if (source->round == BB_BF16)
        normalize(BB_F32, BB_BF16, n, z, rstd, weight, z);
    else if (source->round == BB_F16)
        normalize(BB_F32, BB_F16, n, z, rstd, weight, z);
    else
        normalize(BB_F32, BB_F32, n, z, rstd, weight, z);
}

/* ---- Elements */

static int32_t amax(int64_t n, const float *x) {
    int32_t most = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++) {
        int32_t m = bb_magnitude(x[i]);
        most = m > most ? m : most;
    }
    return most;
}

static void amax_each(int64_t n, const float *restrict x, int32_t *restrict most) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        int32_t m = bb_magnitude(x[i]);
        most[i] = m > most[i] ? m : most[i];
    }
}

static void amax_runs(int64_t n, int64_t block, const float *x, int32_t *most) {
    for (int64_t at = 0; at < n; at += block) {
        if (at + block > n)
            *most++ = amax(n - at, x + at);
        else if (block == 16)
            *most++ = amax(16, x + at);
        else if (block == 32)
            *most++ = amax(32, x + at);
        else
            *most++ = amax(block, x + at);
    }
}

/* Where nothing is beyond the largest number and nothing is NaN, there is less to do. */
static inline bool within(int kind, int32_t most, float multiplier) {
    const float largest = kind == BB_CODE_E4M3 ? 448.0f : kind == BB_CODE_E5M2 ? 57344.0f : 6.0f;
    return multiplier > 0 && bb_fp8_float(most) * multiplier <= largest;
}
static inline uint8_t encoded_within(int kind, float x, float multiplier) {
    float p = bb_fp8_float(bb_magnitude(x)) * multiplier;
    int32_t code = kind == BB_CODE_E4M3   ? bb_e4m3_code(p)
                   : kind == BB_CODE_E5M2 ? bb_e5m2_code(p)
                                          : bb_e2m1_code(p);
    uint32_t sign = (uint32_t)bb_fp8_bits(x) >> (kind == BB_CODE_E2M1 ? 28 : 24);
    return (uint8_t)((uint32_t)code | (sign & (kind == BB_CODE_E2M1 ? 8u : 0x80u)));
}

static inline void encode_run(int kind, bool inside, int64_t n, const float *restrict x,
                              float multiplier, uint8_t *restrict codes) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        codes[i] =
            inside ? encoded_within(kind, x[i], multiplier) : encoded(kind, x[i] * multiplier);
}
static void encode(int kind, int64_t n, const float *x, float multiplier, int32_t most,
                   uint8_t *codes) {
    bool inside = within(kind, most, multiplier);
    if (kind == BB_CODE_E4M3 && inside)
        encode_run(BB_CODE_E4M3, true, n, x, multiplier, codes);
    else if (kind == BB_CODE_E4M3)
        encode_run(BB_CODE_E4M3, false, n, x, multiplier, codes);
    else if (kind == BB_CODE_E5M2 && inside)
        encode_run(BB_CODE_E5M2, true, n, x, multiplier, codes);
    else if (kind == BB_CODE_E5M2)
        encode_run(BB_CODE_E5M2, false, n, x, multiplier, codes);
    else
        encode_run(BB_CODE_E2M1, false, n, x, multiplier, codes);
}

static inline void encode_each_run(int kind, bool inside, int64_t n, const float *restrict x,
                                   const float *restrict multiplier, uint8_t *restrict codes) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        codes[i] = inside ? encoded_within(kind, x[i], multiplier[i])
                          : encoded(kind, x[i] * multiplier[i]);
}
static void encode_each(int kind, bool inside, int64_t n, const float *x, const float *multiplier,
                        uint8_t *codes) {
    if (kind == BB_CODE_E4M3 && inside)
        encode_each_run(BB_CODE_E4M3, true, n, x, multiplier, codes);
    else if (kind == BB_CODE_E4M3)
        encode_each_run(BB_CODE_E4M3, false, n, x, multiplier, codes);
    else if (kind == BB_CODE_E5M2)
        encode_each_run(BB_CODE_E5M2, false, n, x, multiplier, codes);
    else
        encode_each_run(BB_CODE_E2M1, false, n, x, multiplier, codes);
}

static void pack(int64_t n, const uint8_t *restrict codes, uint8_t *restrict packed) {
#pragma omp simd
    for (int64_t i = 0; i < n / 2; i++) packed[i] = (uint8_t)(codes[2 * i] | codes[2 * i + 1] << 4);
}

/* ---- A norm and its bytes: elements go from their dtype to their byte in registers */

static inline float normal(int dtype, const void *x, int64_t i, float rstd, const float *weight) {
    return get(dtype, x, i) * rstd * weight[i];
}

/* Rounding keeps the order of numbers: the amax is rounded instead of all elements. */
static inline int32_t norm_amax(int dtype, int round, int64_t n, const void *restrict x, float rstd,
                                const float *restrict weight) {
    int32_t most = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++) {
        int32_t m = bb_magnitude(normal(dtype, x, i, rstd, weight));
        most = m > most ? m : most;
    }
    return bb_magnitude(rounded(round, bb_fp8_float(most)));
}

/* A bf16 that is not NaN. */
static inline float rounded_within(int round, float x) {
    uint32_t u = bb_bits_of_f32(x);
    u = (u + 0x7FFFu + (u >> 16 & 1u)) & 0xFFFF0000u;
    return round == BB_BF16 ? bb_f32_of_bits(u) : x;
}

/* Of bf16; any numbers. Rounded to bf16 or not at all. */
static inline int32_t norm_encode(int round, int64_t n, const void *restrict x, float rstd,
                                  const float *restrict weight, float multiplier,
                                  uint8_t *restrict codes) {
    int32_t most = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++) {
        float z = normal(BB_BF16, x, i, rstd, weight);
        z = round == BB_BF16 ? bb_f32_via_bf16(z) : z;
        int32_t m = bb_magnitude(z);
        most = m > most ? m : most;
        codes[i] = encoded(BB_CODE_E4M3, z * multiplier);
    }
    return most;
}

/* Code without sign, in the low seven bits; magnitude: of z. */
static inline uint32_t code_within(float z, float multiplier, int32_t *magnitude) {
    *magnitude = bb_magnitude(z);
    return (uint32_t)bb_fp8_round(bb_fp8_float(*magnitude) * multiplier, BB_E4M3_LEAST, 3);
}

/* Two codes of an array, which begins anywhere. */
typedef uint16_t code_pair __attribute__((aligned(1), may_alias));

/* Of pairs of bf16, none beyond the range. */
static inline int32_t norm_encode_pairs(int round, int64_t n, const pair *restrict x, float rstd,
                                        const float *restrict even, const float *restrict odd,
                                        float multiplier, code_pair *restrict codes) {
    int32_t most = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++) {
        uint32_t word = x[i];
        float z0 = rounded_within(round, lower(word) * rstd * even[i]);
        float z1 = rounded_within(round, upper(word) * rstd * odd[i]);
        int32_t m0, m1;
        uint32_t code0 = code_within(z0, multiplier, &m0);
        uint32_t code1 = code_within(z1, multiplier, &m1);
        m0 = m0 > m1 ? m0 : m1;
        most = m0 > most ? m0 : most;
        uint32_t code = (code0 & 0x7Fu) | (code1 << 8 & 0x7F00u);
        uint32_t sign = (bb_bits_of_f32(z0) >> 24 & 0x80u) | (bb_bits_of_f32(z1) >> 16 & 0x8000u);
        codes[i] = (uint16_t)(code | sign);
    }
    return most;
}

/* As if nothing were beyond the range; if something was, again. column is even. */
static inline int32_t norm_encode_tile(const bb_quantize_source *source, int round, int64_t column,
                                       int64_t n, const void *x, float rstd, float multiplier,
                                       uint8_t *codes) {
    const float *weight = source->weight + column;
    int32_t most =
        norm_encode_pairs(round, n / 2, x, rstd, source->even + column / 2,
                          source->odd + column / 2, multiplier, (code_pair *)(void *)codes);
    if (!within(BB_CODE_E4M3, most, multiplier))
        return norm_encode(round, n, x, rstd, weight, multiplier, codes);
    int64_t even = n & ~(int64_t)1;
    int32_t last = norm_encode(round, n - even, tile_at(BB_BF16, x, even), rstd, weight + even,
                               multiplier, codes + even);
    return last > most ? last : most;
}

static bool is_plain(const bb_quantize_source *source) {
    return source->weight && source->dtype == BB_BF16 && source->step == 1;
}

static int32_t fetch_amax(const bb_quantize_source *source, int64_t column, int64_t n,
                          const void *x, float rstd) {
    if (is_plain(source))
        return norm_amax(BB_BF16, BB_BF16, n, tile_at(BB_BF16, x, column), rstd,
                         source->weight + column);
    int32_t most = 0;
    float z[TILE];
    for (int64_t at = 0; at < n; at += TILE) {
        int64_t m = tile_length(at, n, TILE);
        fetch(source, column + at, m, x, rstd, z);
        int32_t here = amax(m, z);
        most = here > most ? here : most;
    }
    return most;
}

static int32_t fetch_encode(const bb_quantize_source *source, int kind, int64_t column, int64_t n,
                            const void *x, float rstd, float multiplier, uint8_t *codes) {
    const void *from = tile_at(source->dtype, x, column * source->step);
    const bool pairs = is_plain(source) && kind == BB_CODE_E4M3 && column % 2 == 0;
    if (pairs && source->round == BB_F32)
        return norm_encode_tile(source, BB_F32, column, n, from, rstd, multiplier, codes);
    if (pairs) return norm_encode_tile(source, BB_BF16, column, n, from, rstd, multiplier, codes);
    int32_t most = 0;
    float z[TILE];
    for (int64_t at = 0; at < n; at += TILE) {
        int64_t m = tile_length(at, n, TILE);
        fetch(source, column + at, m, x, rstd, z);
        int32_t here = amax(m, z);
        most = here > most ? here : most;
        encode(kind, m, z, multiplier, here, codes + at);
    }
    return most;
}

static inline void decode_run(int kind, int64_t n, const uint8_t *restrict codes,
                              const float *restrict factor, float *restrict y) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = decoded(kind, codes[i]) * factor[i];
}
static void decode_each(int kind, int64_t n, const uint8_t *codes, const float *factor, float *y) {
    if (kind == BB_CODE_E4M3)
        decode_run(BB_CODE_E4M3, n, codes, factor, y);
    else if (kind == BB_CODE_E5M2)
        decode_run(BB_CODE_E5M2, n, codes, factor, y);
    else
        decode_run(BB_CODE_E2M1, n, codes, factor, y);
}

const bb_quantize_loops BB_ISA_NAME(bb_quantize_loops) = {
    .squares = squares,
    .fetch = fetch,
    .fetch_amax = fetch_amax,
    .fetch_encode = fetch_encode,
    .amax = amax,
    .amax_runs = amax_runs,
    .amax_each = amax_each,
    .encode = encode,
    .encode_each = encode_each,
    .pack = pack,
    .decode_each = decode_each,
};
