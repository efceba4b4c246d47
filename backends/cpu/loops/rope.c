/* Rotations of rows, and the sums of angles that tables are made of. */
#include <string.h>

#include "backends/cpu/loops/loops.h"

static void rotate_f32(const bb_rope_rows *s, const float *x, float *y, const float *cosine,
                       const float *sine) {
    const int64_t half = s->dims / 2;
    const float direction = (float)s->direction;
    for (int64_t r = 0; r < s->rows;
         r++, x += s->x_stride, y += s->y_stride, cosine += half, sine += half) {
        const int64_t step = s->interleaved ? 2 : 1;
        const float *x1 = x, *x2 = s->interleaved ? x + 1 : x + half;
        float *y1 = y, *y2 = s->interleaved ? y + 1 : y + half;
        if (step == 1) {
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                const float a = x1[i], b = x2[i], n = direction * sine[i];
                y1[i] = a * cosine[i] - b * n;
                y2[i] = b * cosine[i] + a * n;
            }
        } else {
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                const float a = x1[2 * i], b = x2[2 * i], n = direction * sine[i];
                y1[2 * i] = a * cosine[i] - b * n;
                y2[2 * i] = b * cosine[i] + a * n;
            }
        }
        if (s->dims < s->width)
            memcpy(y + s->dims, x + s->dims, (size_t)(s->width - s->dims) * sizeof *y);
    }
}

static void rotate_f64(const bb_rope_rows *s, const double *x, double *y, const double *cosine,
                       const double *sine) {
    const int64_t half = s->dims / 2, step = s->interleaved ? 2 : 1,
                  other = s->interleaved ? 1 : half;
    for (int64_t r = 0; r < s->rows;
         r++, x += s->x_stride, y += s->y_stride, cosine += half, sine += half) {
        for (int64_t i = 0; i < half; i++) {
            const double a = x[i * step], b = x[i * step + other], n = s->direction * sine[i];
            y[i * step] = a * cosine[i] - b * n;
            y[i * step + other] = b * cosine[i] + a * n;
        }
        if (s->dims < s->width)
            memcpy(y + s->dims, x + s->dims, (size_t)(s->width - s->dims) * sizeof *y);
    }
}

static void add_f32(int64_t n, const double *cos_a, const double *sin_a, const double *cos_b,
                    const double *sin_b, float *cosine, float *sine) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        cosine[i] = (float)(cos_a[i] * cos_b[i] - sin_a[i] * sin_b[i]);
        sine[i] = (float)(sin_a[i] * cos_b[i] + cos_a[i] * sin_b[i]);
    }
}

static void add_f64(int64_t n, const double *cos_a, const double *sin_a, const double *cos_b,
                    const double *sin_b, double *cosine, double *sine) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        cosine[i] = cos_a[i] * cos_b[i] - sin_a[i] * sin_b[i];
        sine[i] = sin_a[i] * cos_b[i] + cos_a[i] * sin_b[i];
    }
}

const bb_rope_loops BB_ISA_NAME(bb_rope_loops) = {
    .f32 = rotate_f32,
    .f64 = rotate_f64,
    .add_f32 = add_f32,
    .add_f64 = add_f64,
};
