/* Loops of RoPE (adapter: ../rope.c). */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_ROPE_H
#define BOBBIN_BACKENDS_CPU_LOOPS_ROPE_H

#include <stdbool.h>
#include <stdint.h>

/* Rotates `rows` rows of `width` elements, the first `dims` of each; the rest is copied. Row r of
 * the table has dims/2 cosines at cosine + r*dims/2, and sines alike. direction -1 rotates back.
 * The f32 loop computes in f32 and rounds once, the f64 loop takes f64 alone. */
typedef struct bb_rope_rows {
    int dtype; /* of x and y */
    int64_t rows, width, dims;
    int64_t x_stride, y_stride; /* between rows, in elements; rows themselves are contiguous */
    bool interleaved;
    int direction;
} bb_rope_rows;

typedef struct bb_rope_loops {
    void (*f32)(const bb_rope_rows *shape, const void *x, void *y, const float *cosine,
                const float *sine);
    void (*f64)(const bb_rope_rows *shape, const double *x, double *y, const double *cosine,
                const double *sine);
    /* One row of the table from two: the angle is the sum of the angles of a and b. */
    void (*add_f32)(int64_t n, const double *cos_a, const double *sin_a, const double *cos_b,
                    const double *sin_b, float *cosine, float *sine);
    void (*add_f64)(int64_t n, const double *cos_a, const double *sin_a, const double *cos_b,
                    const double *sin_b, double *cosine, double *sine);
} bb_rope_loops;

extern const bb_rope_loops bb_rope_loops_baseline, bb_rope_loops_avx2, bb_rope_loops_avx512;

#endif
