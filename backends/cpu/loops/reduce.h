/* Folding many numbers into one. An accumulator has 8 bytes: double for float dtypes, int64_t for
 * integers and bool.
 *
 * Accuracy: f32 (and f16, bf16, loaded to f32) is summed in f32 over short blocks only, and the
 * blocks in double, so the error does not grow with the number of elements. Integer sums wrap. NaN
 * wins max and min. Adapters: backends/cpu/reduce.c, scan.c. */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_REDUCE_H
#define BOBBIN_BACKENDS_CPU_LOOPS_REDUCE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum bb_fold {
    BB_FOLD_SUM = 0,
    BB_FOLD_SQUARES,
    BB_FOLD_MAX,
    BB_FOLD_MIN
} bb_fold; /* SQUARES: floats only */

enum { BB_REDUCE_WIDTH = 256 }; /* most accumulators in one call */

typedef struct bb_reduce_loops {
    /* The accumulators before any element. */
    void (*start)(bb_fold fold, bool integer, int64_t count, void *acc);
    /* acc[i] folded with x[i * step + j * stride] for j < n. */
    void (*rows)(bb_fold fold, int dtype, int64_t count, int64_t step, int64_t n, int64_t stride,
                 const void *x, void *acc);
    /* acc[j] folded with x[i * step + j] for i < n. */
    void (*columns)(bb_fold fold, int dtype, int64_t count, int64_t n, int64_t step, const void *x,
                    void *acc);
    /* acc[i] folded with part[i]: partial results of the same fold. */
    void (*join)(bb_fold fold, bool integer, int64_t count, const void *part, void *acc);
    /* y[i * step] = acc[i] / divisor, of dtype. Integers are not divided. */
    void (*finish)(int dtype, int64_t count, const void *acc, double divisor, void *y,
                   int64_t step);
    /* y[i * y_stride] = sum of x up to i; y of x's dtype, i64 for integers. */
    void (*cumsum)(int dtype, int64_t n, const void *x, int64_t x_stride, void *y,
                   int64_t y_stride);
    /* The first index of the largest of n > 0. */
    int64_t (*argmax)(int dtype, int64_t n, const void *x, int64_t stride);
} bb_reduce_loops;
extern const bb_reduce_loops bb_reduce_loops_baseline, bb_reduce_loops_avx2, bb_reduce_loops_avx512;

#endif
