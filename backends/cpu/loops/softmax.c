/* Loops of softmax, log_softmax and cross_entropy; loops/softmax.h says what a run is.
 *
 * Infinities and NaN follow from the formulas: a row with +inf or NaN, or with nothing but -inf, is
 * NaN. */
#include "backends/cpu/loops/softmax.h"

#include <math.h>

#include "backends/cpu/loops/math.h"
#include "backends/cpu/loops/tile.h"

/* ---- f32, f16, bf16 ------------------------------------------------------------------------ */

/* In lanes, because compilers may not reorder comparisons, which NaN would tell from one another. A
 * NaN is not seen here; the sum of exponentials sees it. */
static float max_of(int64_t n, const float *x, float max) {
    enum { LANES = 32 };
    float lane[LANES];
    int64_t i = 0;
    for (int k = 0; k < LANES; k++) lane[k] = max;
    for (; i + LANES <= n; i += LANES) {
#pragma omp simd
        for (int k = 0; k < LANES; k++) lane[k] = x[i + k] > lane[k] ? x[i + k] : lane[k];
    }
    for (int k = 0; k < LANES; k++) max = lane[k] > max ? lane[k] : max;
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    return max;
}

/* y = exp(x - max); returns its sum. */
static float exp_sum(int64_t n, const float *restrict x, float max, float *restrict y) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        float e = bb_expf(x[i] - max);
        y[i] = e;
        sum += e;
    }
    return sum;
}

/* Maximum of a row and the sum of its exp(x - max). A row of one tile stays in `x`, its
 * exponentials in `e`. */
typedef struct row_sums {
    const float *x;
    float max, sum;
} row_sums;
static row_sums sum_row(int dtype, int64_t n, const void *row, int64_t step, int64_t tile,
                        float *buffer, float *e) {
    row_sums s = {NULL, -INFINITY, 0};
    for (int64_t at = 0; at < n; at += tile) {
        int64_t m = tile_length(at, n, tile);
        s.x = tile_load(dtype, m, tile_at(dtype, row, at * step), step, buffer);
        s.max = max_of(m, s.x, s.max);
    }
    for (int64_t at = 0; at < n; at += tile) {
        int64_t m = tile_length(at, n, tile);
        if (n > tile) s.x = tile_load(dtype, m, tile_at(dtype, row, at * step), step, buffer);
        s.sum += exp_sum(m, s.x, s.max, e);
    }
    return s;
}

static void softmax_f32(const bb_softmax_run *run) {
    float x_buffer[TILE], y_buffer[TILE];
    int dtype = run->dtype;
    int64_t n = run->n, step = run->x_step, tile = tile_direct(dtype, step) ? n : TILE;
    for (int64_t r = 0; r < run->rows; r++) {
        const void *row = tile_at(dtype, run->x, r * run->x_row);
        void *y_row = tile_writable(dtype, run->y, r * run->y_row);
        row_sums s =
            sum_row(dtype, n, row, step, tile, x_buffer, tile_target(dtype, y_row, y_buffer));
        float inverse = 1.0f / s.sum;
        for (int64_t at = 0; at < n; at += tile) {
            int64_t m = tile_length(at, n, tile);
            void *target = tile_writable(dtype, y_row, at);
            float *y = tile_target(dtype, target, y_buffer);
            if (n > tile) {
                s.x = tile_load(dtype, m, tile_at(dtype, row, at * step), step, x_buffer);
                exp_sum(m, s.x, s.max, y);
            }
#pragma omp simd
            for (int64_t i = 0; i < m; i++) y[i] *= inverse;
            tile_store(dtype, m, y, target);
        }
    }
}

static void log_softmax_f32(const bb_softmax_run *run) {
    float x_buffer[TILE], y_buffer[TILE];
    int dtype = run->dtype;
    int64_t n = run->n, step = run->x_step, tile = tile_direct(dtype, step) ? n : TILE;
    for (int64_t r = 0; r < run->rows; r++) {
        const void *row = tile_at(dtype, run->x, r * run->x_row);
        void *y_row = tile_writable(dtype, run->y, r * run->y_row);
        row_sums s =
            sum_row(dtype, n, row, step, tile, x_buffer, tile_target(dtype, y_row, y_buffer));
        float log_sum = bb_logf(s.sum);
        for (int64_t at = 0; at < n; at += tile) {
            int64_t m = tile_length(at, n, tile);
            void *target = tile_writable(dtype, y_row, at);
            float *restrict y = tile_target(dtype, target, y_buffer);
            if (n > tile) s.x = tile_load(dtype, m, tile_at(dtype, row, at * step), step, x_buffer);
            const float *restrict x = s.x;
#pragma omp simd
            for (int64_t i = 0; i < m; i++) y[i] = x[i] - s.max - log_sum;
            tile_store(dtype, m, y, target);
        }
    }
}

/* sum(dy y) with y, sum(dy) without. */
static float dot(int64_t n, const float *dy, const float *y) {
    float sum = 0;
    if (y) {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += dy[i] * y[i];
    } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += dy[i];
    }
    return sum;
}

static void backward_f32(const bb_softmax_run *run, bool logarithm) {
    float y_buffer[TILE], dy_buffer[TILE], dx_buffer[TILE];
    int dtype = run->dtype;
    int64_t n = run->n, step = run->x_step, tile = tile_direct(dtype, step) ? n : TILE;
    for (int64_t r = 0; r < run->rows; r++) {
        const void *dy_row = tile_at(dtype, run->x, r * run->x_row),
                   *y_row = tile_at(dtype, run->y, r * run->y_row);
        const float *restrict dy = NULL, *restrict y = NULL;
        float sum = 0;
        for (int64_t at = 0; at < n; at += tile) {
            int64_t m = tile_length(at, n, tile);
            dy = tile_load(dtype, m, tile_at(dtype, dy_row, at * step), step, dy_buffer);
            y = tile_load(dtype, m, tile_at(dtype, y_row, at), 1, y_buffer);
            sum += dot(m, dy, logarithm ? NULL : y);
        }
        for (int64_t at = 0; at < n; at += tile) {
            int64_t m = tile_length(at, n, tile);
            if (n > tile) {
                dy = tile_load(dtype, m, tile_at(dtype, dy_row, at * step), step, dy_buffer);
                y = tile_load(dtype, m, tile_at(dtype, y_row, at), 1, y_buffer);
            }
            void *target = tile_writable(dtype, run->dx, r * run->dx_row + at);
            float *restrict dx = tile_target(dtype, target, dx_buffer);
            if (logarithm) {
#pragma omp simd
                for (int64_t i = 0; i < m; i++) dx[i] = dy[i] - bb_expf(y[i]) * sum;
            } else {
#pragma omp simd
                for (int64_t i = 0; i < m; i++) dx[i] = y[i] * (dy[i] - sum);
            }
            tile_store(dtype, m, dx, target);
        }
    }
}

static void softmax_backward_f32(const bb_softmax_run *run) { backward_f32(run, false); }
static void log_softmax_backward_f32(const bb_softmax_run *run) { backward_f32(run, true); }

static void cross_entropy_f32(const bb_cross_entropy_run *run) {
    float x_buffer[TILE], e[TILE];
    int dtype = run->dtype;
    int64_t n = run->n, step = run->x_step;
    for (int64_t r = 0; r < run->rows; r++) {
        const void *row = tile_at(dtype, run->x, r * run->x_row);
        row_sums s = sum_row(dtype, n, row, step, TILE, x_buffer, e);
        float log_sum = bb_logf(s.sum), picked = 0;
        int64_t target = run->target[r];
        if (target >= 0) {
            /* x_buffer is no longer needed. */
            picked = *tile_load(dtype, 1, tile_at(dtype, row, target * step), step, x_buffer);
        }
        ((float *)run->loss)[r] = target < 0 ? 0 : log_sum + (s.max - picked);
        if (run->logsumexp) ((float *)run->logsumexp)[r] = s.max + log_sum;
    }
}

/* dx may be the memory of x (overwrites in ops/cross_entropy.c). */
static void cross_entropy_backward_f32(const bb_cross_entropy_run *run) {
    float x_buffer[TILE], dx_buffer[TILE];
    int dtype = run->dtype;
    int64_t n = run->n, step = run->x_step;
    for (int64_t r = 0; r < run->rows; r++) {
        const void *row = tile_at(dtype, run->x, r * run->x_row);
        int64_t class = run->target[r];
        float logsumexp = ((const float *)run->logsumexp)[r],
              weight = ((const float *)run->weight)[r];
        for (int64_t at = 0; at < n; at += TILE) {
            int64_t m = tile_length(at, n, TILE);
            void *target = tile_writable(dtype, run->dx, r * run->dx_row + at);
            float *dx = tile_target(dtype, target, dx_buffer);
            if (class < 0) {
                for (int64_t i = 0; i < m; i++) dx[i] = 0;
            } else {
                const float *x =
                    tile_load(dtype, m, tile_at(dtype, row, at * step), step, x_buffer);
#pragma omp simd
                for (int64_t i = 0; i < m; i++) dx[i] = weight * bb_expf(x[i] - logsumexp);
                if (class >= at && class < at + m) dx[class - at] -= weight;
            }
            tile_store(dtype, m, dx, target);
        }
    }
}

/* ---- f64: any steps, no tiles --------------------------------------------------------------- */

static double max_f64(int64_t n, const double *x, int64_t step) {
    double max = -INFINITY;
    for (int64_t i = 0; i < n; i++) max = x[i * step] > max ? x[i * step] : max;
    return max;
}

static double exp_sum_f64(int64_t n, const double *x, int64_t step, double max) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += exp(x[i * step] - max);
    return sum;
}

static void softmax_f64(const bb_softmax_run *run) {
    for (int64_t r = 0; r < run->rows; r++) {
        const double *x = (const double *)run->x + r * run->x_row;
        double *y = (double *)run->y + r * run->y_row, max = max_f64(run->n, x, run->x_step),
               sum = 0;
        for (int64_t i = 0; i < run->n; i++) sum += y[i] = exp(x[i * run->x_step] - max);
        for (int64_t i = 0; i < run->n; i++) y[i] /= sum;
    }
}

static void log_softmax_f64(const bb_softmax_run *run) {
    for (int64_t r = 0; r < run->rows; r++) {
        const double *x = (const double *)run->x + r * run->x_row;
        double *y = (double *)run->y + r * run->y_row, max = max_f64(run->n, x, run->x_step);
        double log_sum = log(exp_sum_f64(run->n, x, run->x_step, max));
        for (int64_t i = 0; i < run->n; i++) y[i] = x[i * run->x_step] - max - log_sum;
    }
}

static void softmax_backward_f64(const bb_softmax_run *run) {
    for (int64_t r = 0; r < run->rows; r++) {
        const double *dy = (const double *)run->x + r * run->x_row,
                     *y = (const double *)run->y + r * run->y_row;
        double *dx = (double *)run->dx + r * run->dx_row, sum = 0;
        for (int64_t i = 0; i < run->n; i++) sum += dy[i * run->x_step] * y[i];
        for (int64_t i = 0; i < run->n; i++) dx[i] = y[i] * (dy[i * run->x_step] - sum);
    }
}

static void log_softmax_backward_f64(const bb_softmax_run *run) {
    for (int64_t r = 0; r < run->rows; r++) {
        const double *dy = (const double *)run->x + r * run->x_row,
                     *y = (const double *)run->y + r * run->y_row;
        double *dx = (double *)run->dx + r * run->dx_row, sum = 0;
        for (int64_t i = 0; i < run->n; i++) sum += dy[i * run->x_step];
        for (int64_t i = 0; i < run->n; i++) dx[i] = dy[i * run->x_step] - exp(y[i]) * sum;
    }
}

static void cross_entropy_f64(const bb_cross_entropy_run *run) {
    for (int64_t r = 0; r < run->rows; r++) {
        const double *x = (const double *)run->x + r * run->x_row;
        double max = max_f64(run->n, x, run->x_step),
               log_sum = log(exp_sum_f64(run->n, x, run->x_step, max));
        int64_t class = run->target[r];
        ((double *)run->loss)[r] = class < 0 ? 0 : log_sum + (max - x[class * run->x_step]);
        if (run->logsumexp) ((double *)run->logsumexp)[r] = max + log_sum;
    }
}

static void cross_entropy_backward_f64(const bb_cross_entropy_run *run) {
    for (int64_t r = 0; r < run->rows; r++) {
        const double *x = (const double *)run->x + r * run->x_row;
        double *dx = (double *)run->dx + r * run->dx_row;
        double logsumexp = ((const double *)run->logsumexp)[r],
               weight = ((const double *)run->weight)[r];
        int64_t class = run->target[r];
        for (int64_t i = 0; i < run->n; i++)
            dx[i] = class < 0 ? 0 : weight * exp(x[i * run->x_step] - logsumexp);
        if (class >= 0) dx[class] -= weight;
    }
}

const bb_softmax_loops BB_ISA_NAME(bb_softmax_loops) = {
    .softmax_f32 = softmax_f32,
    .softmax_backward_f32 = softmax_backward_f32,
    .log_softmax_f32 = log_softmax_f32,
    .log_softmax_backward_f32 = log_softmax_backward_f32,
    .cross_entropy_f32 = cross_entropy_f32,
    .cross_entropy_backward_f32 = cross_entropy_backward_f32,
    .softmax_f64 = softmax_f64,
    .softmax_backward_f64 = softmax_backward_f64,
    .log_softmax_f64 = log_softmax_f64,
    .log_softmax_backward_f64 = log_softmax_backward_f64,
    .cross_entropy_f64 = cross_entropy_f64,
    .cross_entropy_backward_f64 = cross_entropy_backward_f64,
};
