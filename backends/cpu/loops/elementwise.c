/* One loop per elementwise op and compute type (loops/elementwise.h), compiled once per ISA level. Formulas that need
 * care are in math.h, conversions in convert.h; adapters in backends/cpu/elementwise.c.
 *
 * An op is a function of one, two or three numbers; map1_*, map2_*, map3_* turn it into a loop. They are always
 * inlined, so that the call inside the loop disappears and the loop vectorizes. */
#include "backends/cpu/loops/elementwise.h"

#include "backends/cpu/loops/convert.h"
#include "backends/cpu/loops/loops.h"
#include "backends/cpu/loops/math.h"

#define INLINE static inline __attribute__((always_inline))

enum { PACK = 256 };

/* ---- Loads of any stride: packed first, then converted as a contiguous run. */

static size_t dtype_bytes(int dtype) {
    return dtype == BB_F64 || dtype == BB_I64 ? 8 : dtype == BB_F32 || dtype == BB_I32 ? 4 : dtype >= BB_U8 ? 1 : 2;
}

static void load_f32(int dtype, int64_t n, const void *x, int64_t stride, float *y) {
    uint64_t packed[PACK];
    size_t bytes = dtype_bytes(dtype);
    if (stride == 1) {
        load_f32_run(dtype, n, x, y);
        return;
    }
    for (int64_t i = 0; i < n; i += PACK) {
        int64_t m = n - i < PACK ? n - i : PACK;
        pack_run(bytes, m, (const char *)x + i * stride * (int64_t)bytes, stride, packed);
        load_f32_run(dtype, m, packed, y + i);
    }
}

static void load_f64(int dtype, int64_t n, const void *x, int64_t stride, double *y) {
    uint64_t packed[PACK];
    size_t bytes = dtype_bytes(dtype);
    if (stride == 1) {
        load_f64_run(dtype, n, x, y);
        return;
    }
    for (int64_t i = 0; i < n; i += PACK) {
        int64_t m = n - i < PACK ? n - i : PACK;
        pack_run(bytes, m, (const char *)x + i * stride * (int64_t)bytes, stride, packed);
        load_f64_run(dtype, m, packed, y + i);
    }
}

static void load_i64(int dtype, int64_t n, const void *x, int64_t stride, int64_t *y) {
    uint64_t packed[PACK];
    size_t bytes = dtype_bytes(dtype);
    if (stride == 1) {
        load_i64_run(dtype, n, x, y);
        return;
    }
    for (int64_t i = 0; i < n; i += PACK) {
        int64_t m = n - i < PACK ? n - i : PACK;
        pack_run(bytes, m, (const char *)x + i * stride * (int64_t)bytes, stride, packed);
        load_i64_run(dtype, m, packed, y + i);
    }
}

/* ---- Turning a function into a loop */

INLINE void map1_f32(const bb_span *s, float (*f)(float, float, float)) {
    const float *x = s->x[0], a = (float)s->a, b = (float)s->b;
    float *y = s->y;
    int64_t stride = s->stride[0];
    if (stride == 1) {
#pragma omp simd
        for (int64_t i = 0; i < s->n; i++) y[i] = f(x[i], a, b);
    } else {
        for (int64_t i = 0; i < s->n; i++) y[i] = f(x[i * stride], a, b);
    }
}

INLINE void map1_f64(const bb_span *s, double (*f)(double, double, double)) {
    const double *x = s->x[0], a = s->a, b = s->b;
    double *y = s->y;
    int64_t stride = s->stride[0];
#pragma omp simd
    for (int64_t i = 0; i < s->n; i++) y[i] = f(x[i * stride], a, b);
}

INLINE void map1_i64(const bb_span *s, int64_t (*f)(int64_t, int64_t, int64_t)) {
    const int64_t *x = s->x[0], a = f64_to_i64(s->a), b = f64_to_i64(s->b);
    int64_t *y = s->y, stride = s->stride[0];
#pragma omp simd
    for (int64_t i = 0; i < s->n; i++) y[i] = f(x[i * stride], a, b);
}

INLINE void map2_f32(const bb_span *s, float (*f)(float, float)) {
    const float *x = s->x[0], *y = s->x[1];
    float *z = s->y;
    int64_t n = s->n, sx = s->stride[0], sy = s->stride[1];
    if (sx == 1 && sy == 1) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) z[i] = f(x[i], y[i]);
    } else if (sx == 1) {
        const float y0 = *y;
#pragma omp simd
        for (int64_t i = 0; i < n; i++) z[i] = f(x[i], y0);
    } else if (sy == 1) {
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
    for (int64_t i = 0; i < s->n; i++) z[i] = f(x[i * sx], y[i * sy]);
}

/* Comparisons: f says how x and y compare, and the result is bool. */
INLINE void test_f32(const bb_span *s, bool (*f)(double, double)) {
    const float *x = s->x[0], *y = s->x[1];
    uint8_t *z = s->y;
    int64_t n = s->n, sx = s->stride[0], sy = s->stride[1];
    if (sx == 1 && sy == 1) {
        for (int64_t i = 0; i < n; i++) z[i] = f(x[i], y[i]);
    } else if (sx == 1) {
        const float y0 = *y;
        for (int64_t i = 0; i < n; i++) z[i] = f(x[i], y0);
    } else {
        for (int64_t i = 0; i < n; i++) z[i] = f(x[i * sx], y[i * sy]);
    }
}

INLINE void test_f64(const bb_span *s, bool (*f)(double, double)) {
    const double *x = s->x[0], *y = s->x[1];
    uint8_t *z = s->y;
    for (int64_t i = 0; i < s->n; i++) z[i] = f(x[i * s->stride[0]], y[i * s->stride[1]]);
}

INLINE void test_i64(const bb_span *s, bool (*f)(int64_t, int64_t)) {
    const int64_t *x = s->x[0], *y = s->x[1];
    uint8_t *z = s->y;
    for (int64_t i = 0; i < s->n; i++) z[i] = f(x[i * s->stride[0]], y[i * s->stride[1]]);
}
