/* What the tests of fusible ops share: the norm in double precision, tolerances, small makers. The
 * names T01 .. T35 and T-1 .. T-17 are those of nn/FUSIBLE.md. */
#ifndef BOBBIN_TESTS_NN_FUSIBLE_TEST_H
#define BOBBIN_TESTS_NN_FUSIBLE_TEST_H

#include "nn/fusible/internal.h"
#include "tests/nn/nn_test.h"

typedef struct tolerance {
    double relative, absolute;
} tolerance;

/* Those of TransformerEngine's tests. */
static inline tolerance tolerance_of(bb_dtype dtype) {
    switch (dtype) {
    case BB_F16: return (tolerance){1e-3, 1e-5};
    case BB_BF16: return (tolerance){1.6e-2, 1e-5};
    case BB_F64: return (tolerance){1e-7, 1e-7};
    default: return (tolerance){1.3e-6, 1e-5};
    }
}

static inline void check_close(test *t, const char *what, const double *got, const double *want,
                               int64_t n, tolerance tol) {
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(got[i] - want[i]) <= tol.absolute + tol.relative * fabs(want[i]))) {
            CHECK_MSG(t, false, "%s[%lld]: got %.9g, expected %.9g", what, (long long)i, got[i],
                      want[i]);
            return;
        }
    CHECK_MSG(t, true, "%s", what);
}

/* The same for a tensor, which must be there, of this shape and dtype. */
static inline void check_tensor(test *t, const char *what, bb_tensor *got, bb_dtype dtype,
                                bb_shape shape, const double *want, tolerance tol) {
    bb_shape has = bb_shape_of(got);
    if (!CHECK_MSG(t, got && bb_dtype_of(got) == dtype && bb_shape_equal(&has, &shape),
                   "%s: expected %s of another shape or dtype than %s", what, bb_dtype_name(dtype),
                   bb_dtype_name(bb_dtype_of(got))))
        return;
    double *v = values_of(t, got);
    check_close(t, what, v, want, bb_count(got), tol);
    free(v);
}

/* y = x rs g; dx = rs (dy g - c xhat) + add; dw = sum dy xhat: rows of `inner`, in f64. g is weight
 * or 1 + weight. Any of dy, add, dx, dw may be NULL. */
static inline void norm_reference(int64_t rows, int64_t inner, double eps, bool zero_centered,
                                  const double *x, const double *weight, const double *dy,
                                  const double *add, double *y, double *dx, double *dw) {
    for (int64_t j = 0; dw && j < inner; j++) dw[j] = 0;
    for (int64_t r = 0; r < rows; r++) {
        const double *xr = x + r * inner;
        double squares = 0, c = 0;
        for (int64_t j = 0; j < inner; j++) squares += xr[j] * xr[j];
        double rs = 1 / sqrt(squares / (double)inner + (double)(float)eps);
        for (int64_t j = 0; j < inner; j++) {
            double g = weight[j] + zero_centered, xhat = xr[j] * rs;
            if (y) y[r * inner + j] = g * xhat;
            if (dy) c += dy[r * inner + j] * g * xhat / (double)inner;
            if (dw) dw[j] += dy[r * inner + j] * xhat;
        }
        for (int64_t j = 0; dx && j < inner; j++) {
            double g = weight[j] + zero_centered, xhat = xr[j] * rs;
            dx[r * inner + j] = rs * (dy[r * inner + j] * g - c * xhat);
            if (add) dx[r * inner + j] += add[r * inner + j];
        }
    }
}

static inline double *doubles(int64_t n) { return calloc((size_t)n + 1, sizeof(double)); }

/* Uniform in [low, high). */
static inline bb_tensor *uniform(bb_context *ctx, bb_dtype dtype, bb_shape shape, double low,
                                 double high, uint64_t *state) {
    int64_t n = 0;
    bb_shape_count(&shape, &n);
    double *v = doubles(n);
    for (int64_t i = 0; i < n; i++) v[i] = low + (high - low) * (number(state) + 1) / 2;
    bb_tensor *x = bb_from_f64(ctx, dtype, shape, v);
    free(v);
    return x;
}

/* Writes other values into a parameter. */
static inline void set_param(test *t, bb_tensor *p, double low, double high, uint64_t *state) {
    overwrite(t, p, uniform(bb_context_of(p), bb_dtype_of(p), bb_shape_of(p), low, high, state));
}

static inline bb_params *set_of(bb_context *ctx, bb_dtype dtype) {
    return bb_params_new(ctx, bb_get_device(ctx), dtype);
}

static inline bool is_nothing(bb_link link) { return !link.tensor && !link.quantized; }

/* What is under test: a norm with values, its input and cotangent, and the reference's results. */
typedef struct norm_case {
    bb_context *ctx;
    bb_fusible_op *op;
    bb_tensor *x, *dy, *weight;
    int64_t rows, inner;
    double *y, *dx, *dw;
} norm_case;

static inline norm_case norm_case_open(test *t, bb_context *ctx, bb_dtype dtype, bb_shape shape,
                                       bb_shape normalized, double eps, bool zero_centered,
                                       double low, double high) {
    uint64_t state = 11;
    norm_case c = {.ctx = ctx, .inner = 1};
    bb_params *params = set_of(ctx, dtype);
    c.op = bb_fusible_rms_norm(
        params, "norm", normalized,
        &(bb_fusible_norm_options){.eps = eps, .zero_centered_gamma = zero_centered});
    bb_params_build(params);
    c.weight = bb_fusible_param(c.op, 0);
    set_param(t, c.weight, low, high, &state);
    c.x = uniform(ctx, dtype, shape, low, high, &state);
    c.dy = uniform(ctx, dtype, shape, low, high, &state);
    for (int i = 0; i < normalized.rank; i++) c.inner *= normalized.size[i];
    c.rows = c.inner ? bb_count(c.x) / c.inner : 0;
    c.y = doubles(bb_count(c.x)), c.dx = doubles(bb_count(c.x)), c.dw = doubles(c.inner);
    double *x = values_of(t, c.x), *dy = values_of(t, c.dy), *w = values_of(t, c.weight);
    norm_reference(c.rows, c.inner, eps, zero_centered, x, w, dy, NULL, c.y, c.dx, c.dw);
    free(x), free(dy), free(w);
    return c;
}

static inline void norm_case_close(norm_case *c) { free(c->y), free(c->dx), free(c->dw); }

#endif
