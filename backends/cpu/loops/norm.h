/* Loops of RMSNormImpl and layer_norm over rows. The math stands in ops/rms_norm.c and
 * ops/layer_norm.c, the adapters in backends/cpu/norm.h. */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_NORM_H
#define BOBBIN_BACKENDS_CPU_LOOPS_NORM_H

#include <stdbool.h>
#include <stdint.h>

/* Equally spaced rows that share one scale row. Distances are in elements. The _f32 loops read and
 * write f32, f16 and bf16 and compute in f32; the _f64 loops know f64 only. Compute type ("real")
 * of scale, bias, statistics and sums: float or double. */
typedef struct bb_norm_run {
    int64_t rows, n;
    const void *x; /* element i of row r: x[r * x_row + i * x_step] */
    int64_t x_row, x_step;
    const void *dy; /* backward only */
    int64_t dy_row, dy_step;
    void
        *y; /* output, or dx in backward (NULL: not wanted); element i of row r: y[r * y_row + i] */
    int64_t y_row;
    /* AddRMSNorm, laid out as y is. Forward: x + more, rounded to x_dtype, is stored in sum and
     * then normalized. Backward: more is added to dx; a second copy of dx goes to sum (NULL: not
     * wanted). */
    const void *more;
    void *sum;
    int x_dtype, dy_dtype, y_dtype;
    const void *scale, *bias; /* n reals; bias for layer_norm only */
    void *mean,
        *rstd; /* statistic of row r: rstd[r * statistic_row]; forward: NULL is not wanted */
    int64_t statistic_row;
    void *dscale, *dbias; /* n reals each, ADDED to; both NULL: not wanted. rms_norm has no dbias */
    double eps;
    bool round_first; /* rms_norm: round xhat to x_dtype before scaling */
    bool stream;      /* y is too large to stay in a cache: write around them (loops/stream.h) */
} bb_norm_run;

typedef struct bb_norm_loops {
    void (*forward_f32)(const bb_norm_run *run);
    void (*backward_f32)(const bb_norm_run *run);
    void (*forward_f64)(const bb_norm_run *run);
    void (*backward_f64)(const bb_norm_run *run);
} bb_norm_loops;

extern const bb_norm_loops bb_rms_norm_loops_baseline, bb_rms_norm_loops_avx2,
    bb_rms_norm_loops_avx512;
extern const bb_norm_loops bb_layer_norm_loops_baseline, bb_layer_norm_loops_avx2,
    bb_layer_norm_loops_avx512;

#endif
