/* Rotations of rows, and the sums of angles that tables are made of. */
#include <string.h>

#include "backends/cpu/loops/tile.h"

enum { PAIRS = TILE / 2 };

/* n pairs, in y from x; y may be x. */
static void turn(int64_t n, bool interleaved, const float *x1, const float *x2, float *y1,
                 float *y2, const float *cosine, const float *sine, float direction) {
    if (!interleaved) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            const float a = x1[i], b = x2[i], s = direction * sine[i];
            y1[i] = a * cosine[i] - b * s;
            y2[i] = b * cosine[i] + a * s;
        }
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            const float a = x1[2 * i], b = x2[2 * i], s = direction * sine[i];
            y1[2 * i] = a * cosine[i] - b * s;
            y2[2 * i] = b * cosine[i] + a * s;
        }
    }
}

/* A narrow row passes through the buffers at once, or in two runs a tile where the halves of a long
 * one are apart. */
static void rotate_row(const bb_rope_rows *s, const void *x, void *y, const float *cosine,
                       const float *sine) {
    float from[TILE], to[TILE];
    const int dtype = s->dtype;
    const int64_t half = s->dims / 2;
    for (int64_t at = 0; at < half; at += PAIRS) {
        const int64_t n = tile_length(at, half, PAIRS), other = s->interleaved ? 1 : n;
        const bool one = s->interleaved || n == half;
        const int64_t first = s->interleaved ? 2 * at : at, run = one ? 2 * n : n;
        void *target = tile_writable(dtype, y, first), *second = tile_writable(dtype, y, half + at);
        const float *x1 = tile_load(dtype, run, tile_at(dtype, x, first), 1, from);
        const float *x2 =
            one ? x1 + other : tile_load(dtype, n, tile_at(dtype, x, half + at), 1, from + n);
        float *y1 = tile_target(dtype, target, to);
        float *y2 = one ? y1 + other : tile_target(dtype, second, to + n);
        turn(n, s->interleaved, x1, x2, y1, y2, cosine + at, sine + at, (float)s->direction);
        tile_store(dtype, run, y1, target);
        if (!one) tile_store(dtype, n, y2, second);
    }
    if (s->dims < s->width)
        memcpy(tile_writable(dtype, y, s->dims), tile_at(dtype, x, s->dims),
               (size_t)((s->width - s->dims) * tile_bytes(dtype)));
}

static void rotate_f32(const bb_rope_rows *s, const void *x, void *y, const float *cosine,
                       const float *sine) {
    const int64_t half = s->dims / 2;
    for (int64_t r = 0; r < s->rows; r++)
        rotate_row(s, tile_at(s->dtype, x, r * s->x_stride),
                   tile_writable(s->dtype, y, r * s->y_stride), cosine + r * half, sine + r * half);
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
