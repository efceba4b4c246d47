/* silu, gelu and swiglu and their derivatives, in f32 with math.h's vector functions and in f64
 * with libm's. */
#include <math.h>

#include "backends/cpu/loops/loops.h"
#include "backends/cpu/loops/math.h"

static const double root_half = 0.70710678118654752440,
                    one_over_root_two_pi = 0.39894228040143267794;
static const double root_two_over_pi = 0.79788456080286535588, cube_part = 0.044715;

static double sigmoid(double x) {
    const double e = exp(-fabs(x));
    return (x < 0 ? e : 1) / (1 + e);
}

/* ---- One element: value and derivative */

static inline float silu_f32(float x) { return x * bb_sigmoidf(x); }
static inline float silu_slope_f32(float x) {
    const float s = bb_sigmoidf(x);
    return s + x * (s * (1.0f - s));
}
static inline double silu_f64(double x) { return x * sigmoid(x); }
static inline double silu_slope_f64(double x) {
    const double s = sigmoid(x);
    return s + x * (s * (1 - s));
}

/* 1 + erf(t) as erfc(-t) would keep the digits of a negative tail; torch computes it this way, and
 * so do we. */
static inline float gelu_f32(float x) { return 0.5f * x * (1.0f + bb_erff(x * (float)root_half)); }
static inline float gelu_slope_f32(float x) {
    const float bell = bb_expf(-0.5f * x * x) * (float)one_over_root_two_pi;
    return 0.5f * (1.0f + bb_erff(x * (float)root_half)) + x * bell;
}
static inline double gelu_f64(double x) { return 0.5 * x * (1 + erf(x * root_half)); }
static inline double gelu_slope_f64(double x) {
    return 0.5 * (1 + erf(x * root_half)) + x * (exp(-0.5 * x * x) * one_over_root_two_pi);
}

static inline float gelu_tanh_f32(float x) {
    const float u = (float)root_two_over_pi * (x + (float)cube_part * (x * x * x));
    return 0.5f * x * (1.0f + bb_tanhf(u));
}
static inline float gelu_tanh_slope_f32(float x) {
    const float u = (float)root_two_over_pi * (x + (float)cube_part * (x * x * x)), t = bb_tanhf(u);
    const float du = (float)root_two_over_pi * (1.0f + 3.0f * (float)cube_part * (x * x));
    const float flat = 1.0f - t * t; /* 0 where u' x may overflow */
    return 0.5f * (1.0f + t) + (flat == 0.0f ? 0.0f : 0.5f * x * (flat * du));
}
static inline double gelu_tanh_f64(double x) {
    return 0.5 * x * (1 + tanh(root_two_over_pi * (x + cube_part * (x * x * x))));
}
static inline double gelu_tanh_slope_f64(double x) {
    const double t = tanh(root_two_over_pi * (x + cube_part * (x * x * x)));
    const double du = root_two_over_pi * (1 + 3 * cube_part * (x * x)), flat = 1 - t * t;
    return 0.5 * (1 + t) + (flat == 0 ? 0 : 0.5 * x * (flat * du));
}

/* ---- Runs. The arguments are those of bb_map_fn. */

static void silu_run_f32(int64_t n, const void *const *in, void *const *out) {
    const float *x = in[0];
    float *y = out[0];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = silu_f32(x[i]);
}
static void silu_run_f64(int64_t n, const void *const *in, void *const *out) {
    const double *x = in[0];
    double *y = out[0];
    for (int64_t i = 0; i < n; i++) y[i] = silu_f64(x[i]);
}
static void silu_backward_f32(int64_t n, const void *const *in, void *const *out) {
    const float *x = in[0], *dy = in[1];
    float *dx = out[0];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * silu_slope_f32(x[i]);
}
static void silu_backward_f64(int64_t n, const void *const *in, void *const *out) {
    const double *x = in[0], *dy = in[1];
    double *dx = out[0];
    for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * silu_slope_f64(x[i]);
}

static void gelu_run_f32(int64_t n, const void *const *in, void *const *out) {
    const float *x = in[0];
    float *y = out[0];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = gelu_f32(x[i]);
}
static void gelu_run_f64(int64_t n, const void *const *in, void *const *out) {
    const double *x = in[0];
    double *y = out[0];
    for (int64_t i = 0; i < n; i++) y[i] = gelu_f64(x[i]);
}
static void gelu_backward_f32(int64_t n, const void *const *in, void *const *out) {
    const float *x = in[0], *dy = in[1];
    float *dx = out[0];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * gelu_slope_f32(x[i]);
}
static void gelu_backward_f64(int64_t n, const void *const *in, void *const *out) {
    const double *x = in[0], *dy = in[1];
    double *dx = out[0];
    for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * gelu_slope_f64(x[i]);
}

static void gelu_tanh_run_f32(int64_t n, const void *const *in, void *const *out) {
    const float *x = in[0];
    float *y = out[0];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = gelu_tanh_f32(x[i]);
}
static void gelu_tanh_run_f64(int64_t n, const void *const *in, void *const *out) {
    const double *x = in[0];
    double *y = out[0];
    for (int64_t i = 0; i < n; i++) y[i] = gelu_tanh_f64(x[i]);
}
static void gelu_tanh_backward_f32(int64_t n, const void *const *in, void *const *out) {
    const float *x = in[0], *dy = in[1];
    float *dx = out[0];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * gelu_tanh_slope_f32(x[i]);
}
static void gelu_tanh_backward_f64(int64_t n, const void *const *in, void *const *out) {
    const double *x = in[0], *dy = in[1];
    double *dx = out[0];
    for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * gelu_tanh_slope_f64(x[i]);
}

static void swiglu_run_f32(int64_t n, const void *const *in, void *const *out) {
    const float *gate = in[0], *up = in[1];
    float *y = out[0];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = silu_f32(gate[i]) * up[i];
}
static void swiglu_run_f64(int64_t n, const void *const *in, void *const *out) {
    const double *gate = in[0], *up = in[1];
    double *y = out[0];
    for (int64_t i = 0; i < n; i++) y[i] = silu_f64(gate[i]) * up[i];
}
static void swiglu_backward_f32(int64_t n, const void *const *in, void *const *out) {
    const float *gate = in[0], *up = in[1], *dy = in[2];
    float *dgate = out[0], *dup = out[1];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float g = gate[i], d = dy[i], s = bb_sigmoidf(g), silu = g * s;
        dgate[i] = d * up[i] * (s + silu * (1.0f - s));
        dup[i] = d * silu;
    }
}
static void swiglu_backward_f64(int64_t n, const void *const *in, void *const *out) {
    const double *gate = in[0], *up = in[1], *dy = in[2];
    double *dgate = out[0], *dup = out[1];
    for (int64_t i = 0; i < n; i++) {
        const double g = gate[i], d = dy[i], s = sigmoid(g), silu = g * s;
        dgate[i] = d * up[i] * (s + silu * (1 - s));
        dup[i] = d * silu;
    }
}

const bb_activation_loops BB_ISA_NAME(bb_activation_loops) = {
    .silu = {silu_run_f64, silu_run_f32},
    .silu_backward = {silu_backward_f64, silu_backward_f32},
    .gelu = {{gelu_run_f64, gelu_run_f32}, {gelu_tanh_run_f64, gelu_tanh_run_f32}},
    .gelu_backward = {{gelu_backward_f64, gelu_backward_f32},
                      {gelu_tanh_backward_f64, gelu_tanh_backward_f32}},
    .swiglu = {swiglu_run_f64, swiglu_run_f32},
    .swiglu_backward = {swiglu_backward_f64, swiglu_backward_f32},
};
