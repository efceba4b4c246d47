/* Loops of RMSNormImpl and AddRMSNorm; loops/norm.h says what a run is, loops/layer_norm.c is the
 * sibling.
 *
 * Rows of f32 or bf16 that lie contiguous are read where they lie. While a row is written, the next
 * one is summed: the loop that writes waits for memory, the one that sums for its own additions, so
 * together they take little more than the longer of the two. All other rows pass through a small
 * f32 buffer. Both sum in the same order, so a row has the same statistic wherever it
 * stands and whatever its layout is. Backward adds dscale in the loop that sums, not in the loop
 * that writes dx: with one store stream a loop it is up to twice as fast on long rows. */
#include "backends/cpu/loops/norm.h"

#include <math.h>

#include "backends/cpu/loops/rms_tile.h"
#include "backends/cpu/loops/stream.h"

/* ---- f32, f16, bf16 ------------------------------------------------------------------------ */

static inline float statistic(const bb_norm_run *run, int64_t row, float squares) {
    float rstd = 1.0f / sqrtf(squares / (float)run->n + (float)run->eps);
    if (run->rstd) ((float *)run->rstd)[row * run->statistic_row] = rstd;
    return rstd;
}

/* x and y contiguous, of one dtype, f32 or bf16. */
static inline void rms_rows(const bb_norm_run *run, int dtype, bool round_first) {
    uint32_t buffer[TILE];
    const float *scale = run->scale;
    int64_t n = run->n;
    float lane[LANES] = {0};
    for (int64_t at = 0; at < n; at += TILE)
        tile_squares(dtype, tile_length(at, n, TILE), tile_at(dtype, run->x, at), lane);
    for (int64_t r = 0; r < run->rows; r++) {
        float rstd = statistic(run, r, lanes_sum(lane));
        int64_t next = r + 1 < run->rows ? r + 1 : r;
        memset(lane, 0, sizeof lane);
        for (int64_t at = 0; at < n; at += TILE) {
            int64_t m = tile_length(at, n, TILE);
            void *y = tile_writable(dtype, run->y, r * run->y_row + at);
            tile_write(dtype, round_first, m, tile_at(dtype, run->x, r * run->x_row + at), rstd,
                       scale + at, run->stream ? buffer : y,
                       tile_at(dtype, run->x, next * run->x_row + at), lane);
            if (run->stream) stream_bytes(y, buffer, (size_t)(m * tile_bytes(dtype)));
        }
    }
    if (run->stream) stream_end();
}

/* All rows contiguous, of one dtype, f32 or bf16. The sum stays in a cache until it is scaled. */
static inline void rms_add_rows(const bb_norm_run *run, int dtype, bool round_first) {
    uint32_t buffer[TILE];
    const float *scale = run->scale;
    int64_t n = run->n;
    for (int64_t r = 0; r < run->rows; r++) {
        float lane[LANES] = {0};
        void *sum = tile_writable(dtype, run->sum, r * run->y_row);
        for (int64_t at = 0; at < n; at += TILE)
            tile_add(dtype, tile_length(at, n, TILE), tile_at(dtype, run->x, r * run->x_row + at),
                     tile_at(dtype, run->more, r * run->y_row + at), tile_writable(dtype, sum, at),
                     lane);
        float rstd = statistic(run, r, lanes_sum(lane));
        for (int64_t at = 0; at < n; at += TILE) {
            int64_t m = tile_length(at, n, TILE);
            void *y = tile_writable(dtype, run->y, r * run->y_row + at);
            tile_scale(dtype, round_first, m, tile_at(dtype, sum, at), rstd, scale + at,
                       run->stream ? buffer : y);
            if (run->stream) stream_bytes(y, buffer, (size_t)(m * tile_bytes(dtype)));
        }
    }
    if (run->stream) stream_end();
}

static void rms_scale(const bb_norm_run *run, int64_t n, const float *restrict x, float rstd,
                      const float *restrict scale, float *restrict y) {
    uint16_t rounded[TILE];
    if (!run->round_first) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) y[i] = x[i] * rstd * scale[i];
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * rstd;
    BB_ISA_NAME(bb_elementwise_loops).store_f32(run->x_dtype, n, y, rounded);
    BB_ISA_NAME(bb_elementwise_loops).load_f32(run->x_dtype, n, rounded, 1, y);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] *= scale[i];
}

/* x + more, rounded into sum, as f32 in `buffer`. */
static const float *add_load(const bb_norm_run *run, int64_t r, int64_t at, int64_t n,
                             float *restrict buffer, float *restrict more) {
    int dtype = run->x_dtype;
    void *sum = tile_writable(dtype, run->sum, r * run->y_row + at);
    BB_ISA_NAME(bb_elementwise_loops)
        .load_f32(dtype, n, tile_at(dtype, run->x, r * run->x_row + at), 1, buffer);
    BB_ISA_NAME(bb_elementwise_loops)
        .load_f32(dtype, n, tile_at(dtype, run->more, r * run->y_row + at), 1, more);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) buffer[i] += more[i];
    BB_ISA_NAME(bb_elementwise_loops).store_f32(dtype, n, buffer, sum);
    BB_ISA_NAME(bb_elementwise_loops).load_f32(dtype, n, sum, 1, buffer);
    return buffer;
}

static void rms_buffered(const bb_norm_run *run) {
    float x_buffer[TILE], y_buffer[TILE];
    const float *scale = run->scale;
    int64_t n = run->n, step = run->x_step;
    for (int64_t r = 0; r < run->rows; r++) {
        const void *row = tile_at(run->x_dtype, run->x, r * run->x_row);
        const float *x = NULL;
        float lane[LANES] = {0};
        for (int64_t at = 0; at < n; at += TILE) {
            int64_t m = tile_length(at, n, TILE);
            x = run->sum ? add_load(run, r, at, m, x_buffer, y_buffer)
                         : tile_load(run->x_dtype, m, tile_at(run->x_dtype, row, at * step), step,
                                     x_buffer);
            tile_squares(BB_F32, m, x, lane);
        }
        float rstd = statistic(run, r, lanes_sum(lane));
        if (run->sum) row = tile_at(run->x_dtype, run->sum, r * run->y_row);
        for (int64_t at = 0; at < n; at += TILE) {
            int64_t m = tile_length(at, n, TILE);
            /* A row of one tile is still in the buffer. */
            if (n > TILE)
                x = tile_load(run->x_dtype, m, tile_at(run->x_dtype, row, at * step), step,
                              x_buffer);
            void *target = tile_writable(run->y_dtype, run->y, r * run->y_row + at);
            float *y = tile_target(run->y_dtype, target, y_buffer);
            rms_scale(run, m, x, rstd, scale + at, y);
            tile_store(run->y_dtype, m, y, target);
        }
    }
}

static void rms_f32(const bb_norm_run *run) {
    bool plain = run->x_step == 1 && run->x_dtype == run->y_dtype;
    if (run->rows == 0) return;
    if (plain && run->x_dtype == BB_F32)
        run->sum ? rms_add_rows(run, BB_F32, false) : rms_rows(run, BB_F32, false);
    else if (plain && run->x_dtype == BB_BF16 && run->round_first)
        run->sum ? rms_add_rows(run, BB_BF16, true) : rms_rows(run, BB_BF16, true);
    else if (plain && run->x_dtype == BB_BF16)
        run->sum ? rms_add_rows(run, BB_BF16, false) : rms_rows(run, BB_BF16, false);
    else
        rms_buffered(run);
}

/* x, dy and dx contiguous, of one dtype, f32 or bf16. */
static inline void rms_backward_rows(const bb_norm_run *run, int dtype) {
    uint32_t buffer[TILE];
    const float *g = run->scale;
    float *dscale = run->dscale;
    int64_t n = run->n;
    for (int64_t r = 0; r < run->rows; r++) {
        float rstd = ((const float *)run->rstd)[r * run->statistic_row], lane[LANES] = {0};
        const void *x = tile_at(dtype, run->x, r * run->x_row),
                   *dy = tile_at(dtype, run->dy, r * run->dy_row);
        for (int64_t at = 0; at < n; at += TILE)
            tile_backward_sums(dtype, tile_length(at, n, TILE), tile_at(dtype, x, at),
                               tile_at(dtype, dy, at), g + at, rstd, dscale ? dscale + at : NULL,
                               lane);
        float back =
            rstd * (rstd * (lanes_sum(lane) / (float)n)); /* c rstd, so that c xhat = back x */
        for (int64_t at = 0; run->y && at < n; at += TILE) {
            int64_t m = tile_length(at, n, TILE);
            void *dx = tile_writable(dtype, run->y, r * run->y_row + at);
            const void *more = run->more ? tile_at(dtype, run->more, r * run->y_row + at) : NULL;
            tile_backward_write(dtype, m, tile_at(dtype, x, at), tile_at(dtype, dy, at), g + at,
                                rstd, back, more, run->stream ? buffer : dx);
            if (run->sum)
                memcpy(tile_writable(dtype, run->sum, r * run->y_row + at),
                       run->stream ? buffer : dx, (size_t)(m * tile_bytes(dtype)));
            if (run->stream) stream_bytes(dx, buffer, (size_t)(m * tile_bytes(dtype)));
        }
    }
    if (run->stream) stream_end();
}

static void rms_backward_buffered(const bb_norm_run *run) {
    float x_buffer[TILE], dy_buffer[TILE], dx_buffer[TILE], more_buffer[TILE];
    const float *g = run->scale;
    int64_t n = run->n, x_step = run->x_step, dy_step = run->dy_step;
    for (int64_t r = 0; r < run->rows; r++) {
        const void *x_at = tile_at(run->x_dtype, run->x, r * run->x_row);
        const void *dy_at = tile_at(run->dy_dtype, run->dy, r * run->dy_row);
        float rstd = ((const float *)run->rstd)[r * run->statistic_row];
        const float *x = NULL, *dy = NULL;
        float lane[LANES] = {0};
        for (int64_t at = 0; at < n; at += TILE) {
            int64_t m = tile_length(at, n, TILE);
            x = tile_load(run->x_dtype, m, tile_at(run->x_dtype, x_at, at * x_step), x_step,
                          x_buffer);
            dy = tile_load(run->dy_dtype, m, tile_at(run->dy_dtype, dy_at, at * dy_step), dy_step,
                           dy_buffer);
            float *dscale = run->dscale ? (float *)run->dscale + at : NULL;
            tile_backward_sums(BB_F32, m, x, dy, g + at, rstd, dscale, lane);
        }
        float back = rstd * (rstd * (lanes_sum(lane) / (float)n));
        for (int64_t at = 0; run->y && at < n; at += TILE) {
            int64_t m = tile_length(at, n, TILE);
            if (n > TILE) {
                x = tile_load(run->x_dtype, m, tile_at(run->x_dtype, x_at, at * x_step), x_step,
                              x_buffer);
                dy = tile_load(run->dy_dtype, m, tile_at(run->dy_dtype, dy_at, at * dy_step),
                               dy_step, dy_buffer);
            }
            void *target = tile_writable(run->x_dtype, run->y, r * run->y_row + at);
            float *dx = tile_target(run->x_dtype, target, dx_buffer);
            const float *more = NULL;
            if (run->more)
                more = tile_load(run->x_dtype, m,
                                 tile_at(run->x_dtype, run->more, r * run->y_row + at), 1,
                                 more_buffer);
            tile_backward_write(BB_F32, m, x, dy, g + at, rstd, back, more, dx);
            tile_store(run->x_dtype, m, dx, target);
            if (run->sum)
                memcpy(tile_writable(run->x_dtype, run->sum, r * run->y_row + at), target,
                       (size_t)(m * tile_bytes(run->x_dtype)));
        }
    }
}

static void rms_backward_f32(const bb_norm_run *run) {
    bool plain = run->x_step == 1 && run->dy_step == 1 && run->x_dtype == run->dy_dtype;
    if (plain && run->x_dtype == BB_F32)
        rms_backward_rows(run, BB_F32);
    else if (plain && run->x_dtype == BB_BF16)
        rms_backward_rows(run, BB_BF16);
    else
        rms_backward_buffered(run);
}

/* ---- f64: any steps, no tiles --------------------------------------------------------------- */

static void rms_f64(const bb_norm_run *run) {
    const double *scale = run->scale;
    int64_t n = run->n, step = run->x_step;
    for (int64_t r = 0; r < run->rows; r++) {
        const double *x = (const double *)run->x + r * run->x_row;
        double *y = (double *)run->y + r * run->y_row;
        double squares = 0;
        if (run->sum) {
            const double *more = (const double *)run->more + r * run->y_row;
            double *sum = (double *)run->sum + r * run->y_row;
            for (int64_t i = 0; i < n; i++) sum[i] = x[i * step] + more[i];
            x = sum;
        }
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < n; i++) squares += x[i * step] * x[i * step];
        double rstd = 1.0 / sqrt(squares / (double)n + run->eps);
        if (run->rstd) ((double *)run->rstd)[r * run->statistic_row] = rstd;
        for (int64_t i = 0; i < n; i++) y[i] = x[i * step] * rstd * scale[i];
    }
}

static void rms_backward_f64(const bb_norm_run *run) {
    const double *g = run->scale;
    double *dscale = run->dscale;
    int64_t n = run->n, xs = run->x_step, ds = run->dy_step;
    for (int64_t r = 0; r < run->rows; r++) {
        const double *x = (const double *)run->x + r * run->x_row;
        const double *dy = (const double *)run->dy + r * run->dy_row;
        double rstd = ((const double *)run->rstd)[r * run->statistic_row], dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < n; i++) dot += dy[i * ds] * g[i] * x[i * xs];
        for (int64_t i = 0; dscale && i < n; i++) dscale[i] += dy[i * ds] * x[i * xs] * rstd;
        if (!run->y) continue;
        double *dx = (double *)run->y + r * run->y_row, back = rstd * (rstd * (dot / (double)n));
        for (int64_t i = 0; i < n; i++) dx[i] = rstd * (dy[i * ds] * g[i] - back * x[i * xs]);
        const double *more = (const double *)run->more + (run->more ? r * run->y_row : 0);
        for (int64_t i = 0; run->more && i < n; i++) dx[i] += more[i];
        if (run->sum) memcpy((double *)run->sum + r * run->y_row, dx, (size_t)n * sizeof *dx);
    }
}

const bb_norm_loops BB_ISA_NAME(bb_rms_norm_loops) = {
    .forward_f32 = rms_f32,
    .backward_f32 = rms_backward_f32,
    .forward_f64 = rms_f64,
    .backward_f64 = rms_backward_f64,
};
