/* Loops of Quantize, Dequantize and RMSNormQuantize. The rules stand in ops/quantize.c and
 * backends/fp8.h; the adapter is backends/cpu/quantize.c. `kind` is what elements become. */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_QUANTIZE_H
#define BOBBIN_BACKENDS_CPU_LOOPS_QUANTIZE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum bb_code_kind { BB_CODE_E4M3 = 0, BB_CODE_E5M2, BB_CODE_E2M1 } bb_code_kind;

/* How a row becomes what is quantized: its elements, or round(x rstd weight). */
typedef struct bb_quantize_source {
    int dtype;               /* of x: f32, f16, bf16 */
    int64_t step;            /* from element to element */
    const float *weight;     /* NULL: x as it is */
    const float *even, *odd; /* the same, every second element: pairs of bf16 need no shuffles */
    int round;               /* dtype to round the norm to; f32: none */
} bb_quantize_source;

typedef struct bb_quantize_loops {
    /* Sum of squares, added in RMSNormImpl's order. */
    float (*squares)(int dtype, int64_t n, const void *x, int64_t step);
    /* z = elements [column, column + n) of the row x. */
    void (*fetch)(const bb_quantize_source *source, int64_t column, int64_t n, const void *x,
                  float rstd, float *z);
    /* fetch and amax in one loop. */
    int32_t (*fetch_amax)(const bb_quantize_source *source, int64_t column, int64_t n,
                          const void *x, float rstd);
    /* fetch, amax and encode in one loop; gives the amax. */
    int32_t (*fetch_encode)(const bb_quantize_source *source, int kind, int64_t column, int64_t n,
                            const void *x, float rstd, float multiplier, uint8_t *codes);
    /* Maximum of |x| as bits (bb_magnitude): of all, of each run of `block` (16, 32 or 128; the
     * last may be shorter), of each element with what is there. */
    int32_t (*amax)(int64_t n, const float *x);
    void (*amax_runs)(int64_t n, int64_t block, const float *x, int32_t *most);
    void (*amax_each)(int64_t n, const float *x, int32_t *most);
    /* codes = x multiplier; a byte each, also e2m1. most: the amax of x. */
    void (*encode)(int kind, int64_t n, const float *x, float multiplier, int32_t most,
                   uint8_t *codes);
    /* The same with multipliers that bring each run's amax to the largest number, but for rounding;
     * of e4m3 a finite amax is then never clipped. */
    void (*encode_each)(int kind, bool finite, int64_t n, const float *x, const float *multiplier,
                        uint8_t *codes);
    /* Two codes a byte, the first in the low half; n is even. */
    void (*pack)(int64_t n, const uint8_t *codes, uint8_t *packed);
    /* y = value of codes, times factor; a byte each. */
    void (*decode_each)(int kind, int64_t n, const uint8_t *codes, const float *factor, float *y);
} bb_quantize_loops;

extern const bb_quantize_loops bb_quantize_loops_baseline, bb_quantize_loops_avx2,
    bb_quantize_loops_avx512;

#endif
