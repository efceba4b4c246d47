/* From the formula of one element to a loop over a bb_span. Everything here is inlined always, so
 * that the call in the loop disappears and the loop vectorizes. For loops/elementwise.c only. */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_MAP_H
#define BOBBIN_BACKENDS_CPU_LOOPS_MAP_H

#include <stdbool.h>

#include "backends/cpu/loops/elementwise.h"

#define INLINE static inline __attribute__((always_inline))

INLINE void map1_f32(const bb_span *s, float (*f)(float)) {
    const float *x = s->x[0];
    float *y = s->y;
    int64_t n = s->n, stride = s->stride[0];
    if (stride == 1) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) y[i] = f(x[i]);
    } else {
        const float y0 = f(*x);
        for (int64_t i = 0; i < n; i++) y[i] = y0;
    }
}

INLINE void map1_f64(const bb_span *s, double (*f)(double)) {
    const double *x = s->x[0];
    double *y = s->y;
    for (int64_t i = 0, n = s->n, stride = s->stride[0]; i < n; i++) y[i] = f(x[i * stride]);
}

INLINE void map1_i64(const bb_span *s, int64_t (*f)(int64_t)) {
    const int64_t *x = s->x[0];
    int64_t *y = s->y;
    for (int64_t i = 0, n = s->n, stride = s->stride[0]; i < n; i++) y[i] = f(x[i * stride]);
}

INLINE void map2_f32(const bb_span *s, float (*f)(float, float)) {
    const float *x = s->x[0], *y = s->x[1];
    float *z = s->y;
    int64_t n = s->n;
    if (s->stride[0] == 1 && s->stride[1] == 1) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) z[i] = f(x[i], y[i]);
    } else if (s->stride[0] == 1) {
        const float y0 = *y;
#pragma omp simd
        for (int64_t i = 0; i < n; i++) z[i] = f(x[i], y0);
    } else if (s->stride[1] == 1) {
        const float x0 = *x;
#pragma omp simd
        for (int64_t i = 0; i < n; i++) z[i] = f(x0, y[i]);
    } else {
        const float z0 = f(*x, *y);
        for (int64_t i = 0; i < n; i++) z[i] = z0;
    }
}

INLINE void map2_f64(const bb_span *s, double (*f)(double, double)) {
    const double *x = s->x[0], *y = s->x[1];
    double *z = s->y;
    int64_t n = s->n, sx = s->stride[0], sy = s->stride[1];
    if (sx == 1 && sy == 1) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) z[i] = f(x[i], y[i]);
    } else {
        for (int64_t i = 0; i < n; i++) z[i] = f(x[i * sx], y[i * sy]);
    }
}

INLINE void map2_i64(const bb_span *s, int64_t (*f)(int64_t, int64_t)) {
    const int64_t *x = s->x[0], *y = s->x[1];
    int64_t *z = s->y, sx = s->stride[0], sy = s->stride[1];
    for (int64_t i = 0, n = s->n; i < n; i++) z[i] = f(x[i * sx], y[i * sy]);
}

/* An op with a number: the second operand is span.a for all elements. */
INLINE void mapa_f32(const bb_span *s, float (*f)(float, float)) {
    const float a = (float)s->a;
    bb_span t = *s;
    t.x[1] = &a, t.stride[1] = 0;
    map2_f32(&t, f);
}

INLINE void mapa_f64(const bb_span *s, double (*f)(double, double)) {
    bb_span t = *s;
    t.x[1] = &s->a, t.stride[1] = 0;
    map2_f64(&t, f);
}

INLINE void mapa_i64(const bb_span *s, int64_t (*f)(int64_t, int64_t)) {
    const int64_t a = f64_to_i64(s->a);
    bb_span t = *s;
    t.x[1] = &a, t.stride[1] = 0;
    map2_i64(&t, f);
}

/* Comparisons: the result is bool. */
INLINE void test_f32(const bb_span *s, bool (*f)(float, float)) {
    const float *x = s->x[0], *y = s->x[1];
    uint8_t *z = s->y;
    int64_t n = s->n, sx = s->stride[0], sy = s->stride[1];
    if (sx == 1 && sy == 1) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) z[i] = f(x[i], y[i]);
    } else if (sx == 1) {
        const float y0 = *y;
#pragma omp simd
        for (int64_t i = 0; i < n; i++) z[i] = f(x[i], y0);
    } else {
        for (int64_t i = 0; i < n; i++) z[i] = f(x[i * sx], y[i * sy]);
    }
}

INLINE void test_f64(const bb_span *s, bool (*f)(double, double)) {
    const double *x = s->x[0], *y = s->x[1];
    uint8_t *z = s->y;
    int64_t sx = s->stride[0], sy = s->stride[1];
    for (int64_t i = 0, n = s->n; i < n; i++) z[i] = f(x[i * sx], y[i * sy]);
}

INLINE void test_i64(const bb_span *s, bool (*f)(int64_t, int64_t)) {
    const int64_t *x = s->x[0], *y = s->x[1];
    uint8_t *z = s->y;
    int64_t sx = s->stride[0], sy = s->stride[1];
    for (int64_t i = 0, n = s->n; i < n; i++) z[i] = f(x[i * sx], y[i * sy]);
}

#endif
