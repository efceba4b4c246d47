/* Optimizer steps: one pass, reading and writing each element once; bound by memory. */
#include <math.h>

#include "backends/cpu/loops/loops.h"

static void adamw_f32(int64_t n, const bb_adamw_update *s, float *p, const float *g, float *m,
                      float *v) {
    const float scale = (float)s->grad_scale, keep = (float)s->keep, eps = (float)s->eps,
                rate = (float)s->rate;
    const float beta2 = (float)s->beta2, new1 = (float)(1 - s->beta1), new2 = (float)(1 - s->beta2);
    const float correction = (float)s->inverse_root_correction;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float d = g[i] * scale;
        m[i] += new1 * (d - m[i]);
        v[i] = beta2 * v[i] + new2 * (d * d);
        p[i] = keep * p[i] - rate * (m[i] / (sqrtf(v[i]) * correction + eps));
    }
}

static void adamw_f64(int64_t n, const bb_adamw_update *s, double *p, const double *g, double *m,
                      double *v) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const double d = g[i] * s->grad_scale;
        m[i] += (1 - s->beta1) * (d - m[i]);
        v[i] = s->beta2 * v[i] + (1 - s->beta2) * (d * d);
        p[i] =
            s->keep * p[i] - s->rate * (m[i] / (sqrt(v[i]) * s->inverse_root_correction + s->eps));
    }
}

static void sgd_f32(int64_t n, const bb_sgd_update *s, float *p, const float *g, float *velocity) {
    const float scale = (float)s->grad_scale, decay = (float)s->weight_decay, lr = (float)s->lr;
    const float momentum = (float)s->momentum;
    if (momentum == 0) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) p[i] -= lr * (g[i] * scale + decay * p[i]);
        return;
    }
    const float fresh = s->nesterov ? 1 : 0, old = s->nesterov ? momentum : 1;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float d = g[i] * scale + decay * p[i];
        velocity[i] = momentum * velocity[i] + d;
        p[i] -= lr * (fresh * d + old * velocity[i]);
    }
}

static void sgd_f64(int64_t n, const bb_sgd_update *s, double *p, const double *g,
                    double *velocity) {
    for (int64_t i = 0; i < n; i++) {
        const double d = g[i] * s->grad_scale + s->weight_decay * p[i];
        double step = d;
        if (s->momentum != 0) {
            velocity[i] = s->momentum * velocity[i] + d;
            step = s->nesterov ? d + s->momentum * velocity[i] : velocity[i];
        }
        p[i] -= s->lr * step;
    }
}

const bb_optimize_loops BB_ISA_NAME(bb_optimize_loops) = {
    .adamw_f32 = adamw_f32,
    .adamw_f64 = adamw_f64,
    .sgd_f32 = sgd_f32,
    .sgd_f64 = sgd_f64,
};
