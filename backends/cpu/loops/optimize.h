/* Loops of the optimizer steps (adapter: ../optimize.c): one pass over contiguous elements, in
 * place. Coefficients are folded by the adapter in double, so that a loop has only its own
 * arithmetic. */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_OPTIMIZE_H
#define BOBBIN_BACKENDS_CPU_LOOPS_OPTIMIZE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct bb_adamw_update {
    double grad_scale, keep; /* keep: 1 - lr * weight_decay */
    double beta1, beta2, eps;
    double rate;                    /* lr / (1 - beta1^step) */
    double inverse_root_correction; /* 1 / sqrt(1 - beta2^step) */
} bb_adamw_update;

typedef struct bb_sgd_update {
    double grad_scale, weight_decay, momentum, lr;
    bool nesterov;
} bb_sgd_update;

typedef struct bb_optimize_loops {
    void (*adamw_f32)(int64_t n, const bb_adamw_update *s, float *p, const float *g, float *m,
                      float *v);
    void (*adamw_f64)(int64_t n, const bb_adamw_update *s, double *p, const double *g, double *m,
                      double *v);
    /* velocity is NULL without momentum */
    void (*sgd_f32)(int64_t n, const bb_sgd_update *s, float *p, const float *g, float *velocity);
    void (*sgd_f64)(int64_t n, const bb_sgd_update *s, double *p, const double *g,
                    double *velocity);
} bb_optimize_loops;

extern const bb_optimize_loops bb_optimize_loops_baseline, bb_optimize_loops_avx2,
    bb_optimize_loops_avx512;

#endif
