/* Loops of softmax, log_softmax and cross_entropy over rows. The math stands in ops/softmax.c,
 * ops/log_softmax.c and ops/cross_entropy.c. */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_SOFTMAX_H
#define BOBBIN_BACKENDS_CPU_LOOPS_SOFTMAX_H

#include <stdint.h>

/* Equally spaced rows of n; distances in elements. All tensors have one dtype: f32, f16 or bf16 in
 * the _f32 loops, which compute in f32; f64 in the _f64 loops. */
typedef struct bb_softmax_run {
    int64_t rows, n;
    int dtype;
    const void *x; /* element i of row r: x[r * x_row + i * x_step]; backward of softmaxes: dy */
    int64_t x_row, x_step;
    void *y; /* contiguous within a row: forward writes output, backward reads it */
    int64_t y_row;
    void *dx; /* backward; contiguous within a row */
    int64_t dx_row;
} bb_softmax_run;

/* Reals are float in the _f32 loops, double in the _f64 loops; one a row, next to each other. */
typedef struct bb_cross_entropy_run {
    int64_t rows, n;
    int dtype;
    const void *x;
    int64_t x_row, x_step;
    const int64_t *target; /* negative: ignored */
    void *loss;            /* forward: reals */
    void *logsumexp;       /* reals; forward: NULL is not wanted */
    const void *weight;    /* backward: reals, the gradients of the losses */
    void *dx;
    int64_t dx_row;
} bb_cross_entropy_run;

typedef struct bb_softmax_loops {
    void (*softmax_f32)(const bb_softmax_run *run);
    void (*softmax_backward_f32)(const bb_softmax_run *run);
    void (*log_softmax_f32)(const bb_softmax_run *run);
    void (*log_softmax_backward_f32)(const bb_softmax_run *run);
    void (*cross_entropy_f32)(const bb_cross_entropy_run *run);
    void (*cross_entropy_backward_f32)(const bb_cross_entropy_run *run);
    void (*softmax_f64)(const bb_softmax_run *run);
    void (*softmax_backward_f64)(const bb_softmax_run *run);
    void (*log_softmax_f64)(const bb_softmax_run *run);
    void (*log_softmax_backward_f64)(const bb_softmax_run *run);
    void (*cross_entropy_f64)(const bb_cross_entropy_run *run);
    void (*cross_entropy_backward_f64)(const bb_cross_entropy_run *run);
} bb_softmax_loops;

extern const bb_softmax_loops bb_softmax_loops_baseline, bb_softmax_loops_avx2,
    bb_softmax_loops_avx512;

#endif
