/* Loops of layer_norm; loops/norm.h says what a run is, loops/rms_norm.c is the sibling.
 *
 * Sums keep several partial sums going, because one chain of additions would wait for each addition
 * to end; that also makes them more accurate. */
#include "backends/cpu/loops/norm.h"

#include <math.h>

#include "backends/cpu/loops/tile.h"

/* ---- f32, f16, bf16 ------------------------------------------------------------------------ */

/* Rows from this length on are summed in four quarters at a time; the sums of shorter ones end
 * sooner in one. */
enum { LONG_ROW = 256 };

/* sum((x - shift)^2) */
static inline float sum_squares(int64_t n, const float *x, float shift) {
    int64_t quarter = n < LONG_ROW ? 0 : n / 4;
    const float *x1 = x + quarter, *x2 = x1 + quarter, *x3 = x2 + quarter;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    if (quarter) {
#pragma omp simd reduction(+ : s0, s1, s2, s3)
        for (int64_t i = 0; i < quarter; i++) {
            s0 += (x[i] - shift) * (x[i] - shift);
            s1 += (x1[i] - shift) * (x1[i] - shift);
            s2 += (x2[i] - shift) * (x2[i] - shift);
            s3 += (x3[i] - shift) * (x3[i] - shift);
        }
    }
#pragma omp simd reduction(+ : s0)
    for (int64_t i = 4 * quarter; i < n; i++) s0 += (x[i] - shift) * (x[i] - shift);
    return (s0 + s1) + (s2 + s3);
}

static float sum(int64_t n, const float *x) {
    int64_t quarter = n < LONG_ROW ? 0 : n / 4;
    const float *x1 = x + quarter, *x2 = x1 + quarter, *x3 = x2 + quarter;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    if (quarter) {
#pragma omp simd reduction(+ : s0, s1, s2, s3)
        for (int64_t i = 0; i < quarter; i++) {
            s0 += x[i];
            s1 += x1[i];
            s2 += x2[i];
            s3 += x3[i];
        }
    }
#pragma omp simd reduction(+ : s0)
    for (int64_t i = 4 * quarter; i < n; i++) s0 += x[i];
    return (s0 + s1) + (s2 + s3);
}

static void layer_write(int64_t n, const float *restrict x, float mean, float rstd,
                        const float *restrict weight, const float *restrict bias,
                        float *restrict y) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * rstd * weight[i] + bias[i];
}

static void layer_f32(const bb_norm_run *run) {
    float x_buffer[TILE], y_buffer[TILE];
    int64_t n = run->n, step = run->x_step;
    bool direct = tile_direct(run->x_dtype, step) && run->y_dtype == BB_F32;
    int64_t tile = direct ? n : TILE;
    for (int64_t r = 0; r < run->rows; r++) {
        const void *row = tile_at(run->x_dtype, run->x, r * run->x_row);
        const float *x = NULL;
        float mean = 0, squares = 0;
        for (int64_t at = 0; at < n; at += tile) {
            int64_t m = tile_length(at, n, tile);
            x = tile_load(run->x_dtype, m, tile_at(run->x_dtype, row, at * step), step, x_buffer);
            mean += sum(m, x);
        }
        mean /= (float)n;
        for (int64_t at = 0; at < n; at += tile) {
            int64_t m = tile_length(at, n, tile);
            if (n > tile)
                x = tile_load(run->x_dtype, m, tile_at(run->x_dtype, row, at * step), step,
                              x_buffer);
            squares += sum_squares(m, x, mean);
        }
        float rstd = 1.0f / sqrtf(squares / (float)n + (float)run->eps);
        if (run->mean) ((float *)run->mean)[r * run->statistic_row] = mean;
        if (run->rstd) ((float *)run->rstd)[r * run->statistic_row] = rstd;
        for (int64_t at = 0; at < n; at += tile) {
            int64_t m = tile_length(at, n, tile);
            if (n > tile)
                x = tile_load(run->x_dtype, m, tile_at(run->x_dtype, row, at * step), step,
                              x_buffer);
            void *target = tile_writable(run->y_dtype, run->y, r * run->y_row + at);
            float *y = tile_target(run->y_dtype, target, y_buffer);
            layer_write(m, x, mean, rstd, (const float *)run->scale + at,
                        (const float *)run->bias + at, y);
            tile_store(run->y_dtype, m, y, target);
        }
    }
}

typedef struct layer_sums {
    float dyg, dyg_xhat;
} layer_sums;

/* sum(dy g) and sum(dy g xhat); dweight += dy xhat and dbias += dy where they are wanted. */
static layer_sums layer_backward_sums(int64_t n, const float *restrict x, const float *restrict dy,
                                      const float *restrict g, float mean, float rstd,
                                      float *restrict dweight, float *restrict dbias) {
    float s0 = 0, s1 = 0;
    if (dweight) {
#pragma omp simd reduction(+ : s0, s1)
        for (int64_t i = 0; i < n; i++) {
            float dy_xhat = dy[i] * ((x[i] - mean) * rstd);
            s0 += dy[i] * g[i];
            s1 += dy_xhat * g[i];
            dweight[i] += dy_xhat;
            dbias[i] += dy[i];
        }
    } else {
#pragma omp simd reduction(+ : s0, s1)
        for (int64_t i = 0; i < n; i++) {
            s0 += dy[i] * g[i];
            s1 += dy[i] * g[i] * ((x[i] - mean) * rstd);
        }
    }
    return (layer_sums){s0, s1};
}

static void layer_backward_f32(const bb_norm_run *run) {
    float x_buffer[TILE], dy_buffer[TILE], dx_buffer[TILE];
    const float *g = run->scale;
    int64_t n = run->n, x_step = run->x_step, dy_step = run->dy_step;
    bool direct = tile_direct(run->x_dtype, x_step) && tile_direct(run->dy_dtype, dy_step);
    int64_t tile = direct ? n : TILE;
    for (int64_t r = 0; r < run->rows; r++) {
        const void *x_at = tile_at(run->x_dtype, run->x, r * run->x_row);
        const void *dy_at = tile_at(run->dy_dtype, run->dy, r * run->dy_row);
        float mean = ((const float *)run->mean)[r * run->statistic_row];
        float rstd = ((const float *)run->rstd)[r * run->statistic_row];
        const float *x = NULL, *dy = NULL;
        float c0 = 0, c1 = 0;
        for (int64_t at = 0; at < n; at += tile) {
            int64_t m = tile_length(at, n, tile);
            x = tile_load(run->x_dtype, m, tile_at(run->x_dtype, x_at, at * x_step), x_step,
                          x_buffer);
            dy = tile_load(run->dy_dtype, m, tile_at(run->dy_dtype, dy_at, at * dy_step), dy_step,
                           dy_buffer);
            float *dweight = run->dscale ? (float *)run->dscale + at : NULL;
            float *dbias = run->dscale ? (float *)run->dbias + at : NULL;
            layer_sums s = layer_backward_sums(m, x, dy, g + at, mean, rstd, dweight, dbias);
            c0 += s.dyg;
            c1 += s.dyg_xhat;
        }
        if (!run->y) continue;
        c0 /= (float)n;
        c1 /= (float)n;
        for (int64_t at = 0; at < n; at += tile) {
            int64_t m = tile_length(at, n, tile);
            if (n > tile) {
                x = tile_load(run->x_dtype, m, tile_at(run->x_dtype, x_at, at * x_step), x_step,
                              x_buffer);
                dy = tile_load(run->dy_dtype, m, tile_at(run->dy_dtype, dy_at, at * dy_step),
                               dy_step, dy_buffer);
            }
            void *target = tile_writable(run->x_dtype, run->y, r * run->y_row + at);
            float *restrict dx = tile_target(run->x_dtype, target, dx_buffer);
            const float *restrict weight = g + at;
#pragma omp simd
            for (int64_t i = 0; i < m; i++)
                dx[i] = rstd * (dy[i] * weight[i] - c0 - (x[i] - mean) * rstd * c1);
            tile_store(run->x_dtype, m, dx, target);
        }
    }
}

/* ---- f64: any steps, no tiles --------------------------------------------------------------- */

static void layer_f64(const bb_norm_run *run) {
    const double *weight = run->scale, *bias = run->bias;
    int64_t n = run->n, step = run->x_step;
    for (int64_t r = 0; r < run->rows; r++) {
        const double *x = (const double *)run->x + r * run->x_row;
        double *y = (double *)run->y + r * run->y_row;
        double mean = 0, squares = 0;
#pragma omp simd reduction(+ : mean)
        for (int64_t i = 0; i < n; i++) mean += x[i * step];
        mean /= (double)n;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < n; i++) squares += (x[i * step] - mean) * (x[i * step] - mean);
        double rstd = 1.0 / sqrt(squares / (double)n + run->eps);
        if (run->mean) ((double *)run->mean)[r * run->statistic_row] = mean;
        if (run->rstd) ((double *)run->rstd)[r * run->statistic_row] = rstd;
        for (int64_t i = 0; i < n; i++) y[i] = (x[i * step] - mean) * rstd * weight[i] + bias[i];
    }
}

static void layer_backward_f64(const bb_norm_run *run) {
    const double *g = run->scale;
    double *dweight = run->dscale, *dbias = run->dbias;
    int64_t n = run->n, xs = run->x_step, ds = run->dy_step;
    for (int64_t r = 0; r < run->rows; r++) {
        const double *x = (const double *)run->x + r * run->x_row;
        const double *dy = (const double *)run->dy + r * run->dy_row;
        double mean = ((const double *)run->mean)[r * run->statistic_row];
        double rstd = ((const double *)run->rstd)[r * run->statistic_row];
        double c0 = 0, c1 = 0;
#pragma omp simd reduction(+ : c0, c1)
        for (int64_t i = 0; i < n; i++) {
            c0 += dy[i * ds] * g[i];
            c1 += dy[i * ds] * g[i] * (x[i * xs] - mean) * rstd;
        }
        for (int64_t i = 0; dweight && i < n; i++) {
            dweight[i] += dy[i * ds] * (x[i * xs] - mean) * rstd;
            dbias[i] += dy[i * ds];
        }
        if (!run->y) continue;
        double *dx = (double *)run->y + r * run->y_row;
        c0 /= (double)n;
        c1 /= (double)n;
        for (int64_t i = 0; i < n; i++)
            dx[i] = rstd * (dy[i * ds] * g[i] - c0 - (x[i * xs] - mean) * rstd * c1);
    }
}

const bb_norm_loops BB_ISA_NAME(bb_layer_norm_loops) = {
    .forward_f32 = layer_f32,
    .backward_f32 = layer_backward_f32,
    .forward_f64 = layer_f64,
    .backward_f64 = layer_backward_f64,
};
