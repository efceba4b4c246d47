/* A norm on the device against its definition in double precision: values, the statistics it saves
 * for backward, all gradients. For tests/cuda/test_rms_norm.c and test_layer_norm.c, which choose
 * shapes, dtypes and layouts at the borders of the kernels' maps. */
#ifndef BOBBIN_TESTS_CUDA_NORM_PROBLEM_H
#define BOBBIN_TESTS_CUDA_NORM_PROBLEM_H

#include "autograd/autograd.h"
#include "autograd/tape.h"
#include "ops/ops.h"
#include "tests/support/checker.h"

typedef enum norm_kind { RMS_NORM, ADD_RMS_NORM, LAYER_NORM } norm_kind;
/* PACKED: contiguous. SPACED: rows that begin 16-byte aligned, farther apart than they are long.
 * SHIFTED: rows that begin anywhere. HEADS: (2, 3, rows/6, n) cut out of (2, rows/6, 5, n), as q
 * out of a fused q, k, v, with a scale of (3, 1, n). */
typedef enum norm_layout { PACKED, SPACED, SHIFTED, HEADS } norm_layout;

typedef struct norm_problem {
    norm_kind kind;
    norm_layout layout;
    bb_dtype x, scale;
    int64_t rows, n, heads; /* heads 0: 3 */
} norm_problem;

enum { NORM_X, NORM_MORE, NORM_SCALE, NORM_BIAS, NORM_DY, NORM_DMORE, NORM_TENSORS };

/* Results of one run, or what they should be. rstd: NULL after a run without gradients. */
typedef struct norm_result {
    double *y, *sum, *rstd, *dx, *dmore, *dscale, *dbias;
} norm_result;

static inline int64_t norm_heads(const norm_problem *p) {
    return p->layout != HEADS ? 1 : p->heads ? p->heads : 3;
}
static inline int64_t norm_scales(const norm_problem *p) { return norm_heads(p) * p->n; }
static inline int64_t norm_count(const norm_problem *p, int tensor) {
    return tensor == NORM_SCALE || tensor == NORM_BIAS ? norm_scales(p) : p->rows * p->n;
}
static inline bool norm_has(const norm_problem *p, int tensor) {
    if (tensor == NORM_MORE || tensor == NORM_DMORE) return p->kind == ADD_RMS_NORM;
    return tensor != NORM_BIAS || p->kind == LAYER_NORM;
}
/* dy has y's dtype. */
static inline bb_dtype norm_dtype(const norm_problem *p, int tensor) {
    bool scale = tensor == NORM_SCALE || tensor == NORM_BIAS;
    if (tensor == NORM_DY && p->scale != p->x && p->scale != BB_F32) return BB_F32;
    return scale ? p->scale : p->x;
}

static inline double *norm_doubles(int64_t n) {
    double *v = calloc((size_t)n + 1, sizeof *v);
    if (!v) exit(1);
    return v;
}
static inline void norm_draw(const norm_problem *p, double *value[NORM_TENSORS]) {
    for (int i = 0; i < NORM_TENSORS; i++) {
        uint64_t state = 77 + (uint64_t)i + (uint64_t)p->n * 8;
        value[i] = norm_doubles(norm_count(p, i));
        for (int64_t k = 0; k < norm_count(p, i); k++)
            value[i][k] = round_to(norm_dtype(p, i), draw_normal(&state) + (i == NORM_X));
    }
}

static inline norm_result norm_result_new(const norm_problem *p) {
    const int64_t n = p->rows * p->n;
    return (norm_result){norm_doubles(n),
                         norm_doubles(n),
                         norm_doubles(p->rows),
                         norm_doubles(n),
                         norm_doubles(n),
                         norm_doubles(norm_scales(p)),
                         norm_doubles(norm_scales(p))};
}
static inline void norm_result_free(norm_result *r) {
    double *all[] = {r->y, r->sum, r->rstd, r->dx, r->dmore, r->dscale, r->dbias};
    for (int i = 0; i < 7; i++) free(all[i]);
}

/* By the definitions in ops/rms_norm.c, ops/add_rms_norm.c, ops/layer_norm.c. */
static inline void norm_solve(const norm_problem *p, double *const value[NORM_TENSORS], double eps,
                              norm_result *r) {
    const int64_t n = p->n;
    double *x = norm_doubles(n), *dyg = norm_doubles(n);
    for (int64_t row = 0; row < p->rows; row++) {
        const int64_t at = row * n, heads = norm_heads(p),
                      head = p->layout == HEADS ? row / (p->rows / (2 * heads)) % heads * n : 0;
        double mean = 0, squares = 0, c1 = 0, c0 = 0;
        for (int64_t i = 0; i < n; i++) {
            x[i] = value[NORM_X][at + i];
            if (p->kind == ADD_RMS_NORM) x[i] = round_to(p->x, x[i] + value[NORM_MORE][at + i]);
            r->sum[at + i] = x[i];
            mean += x[i] / (double)n;
        }
        if (p->kind != LAYER_NORM) mean = 0;
        for (int64_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
        const double rstd = 1 / sqrt(squares / (double)n + eps);
        r->rstd[row] = rstd;
        for (int64_t i = 0; i < n; i++) {
            const double xhat = (x[i] - mean) * rstd, dy = value[NORM_DY][at + i];
            const double g = value[NORM_SCALE][head + i];
            r->y[at + i] = xhat * g + (p->kind == LAYER_NORM ? value[NORM_BIAS][head + i] : 0);
            dyg[i] = dy * g;
            c1 += dyg[i] * xhat / (double)n;
            c0 += p->kind == LAYER_NORM ? dyg[i] / (double)n : 0;
            r->dscale[head + i] += dy * xhat;
            r->dbias[head + i] += dy;
        }
        for (int64_t i = 0; i < n; i++) {
            r->dx[at + i] = rstd * (dyg[i] - c0 - c1 * (x[i] - mean) * rstd);
            if (p->kind == ADD_RMS_NORM) r->dx[at + i] += value[NORM_DMORE][at + i];
            r->dmore[at + i] = r->dx[at + i];
        }
    }
    free(x);
    free(dyg);
}

/* A tensor of these values in the problem's layout: a leaf, and the view that the op sees. */
static inline bb_tensor *norm_tensor(bb_context *ctx, const norm_problem *p, int tensor,
                                     const double *value, bb_tensor **leaf) {
    const bb_dtype dtype = norm_dtype(p, tensor);
    const int64_t n = p->n, rows = p->rows, heads = norm_heads(p), t = rows / (2 * heads);
    if (tensor == NORM_SCALE || tensor == NORM_BIAS)
        return *leaf = bb_from_f64(ctx, dtype,
                                   p->layout == HEADS ? BB_SHAPE(heads, 1, n) : BB_SHAPE(n), value);
    if (p->layout == PACKED) return *leaf = bb_from_f64(ctx, dtype, BB_SHAPE(rows, n), value);
    const int64_t before = p->layout == SPACED ? 8 : 1, wide = n + 2 * before;
    const bool cut = p->layout == HEADS;
    double *buffer = norm_doubles(cut ? 2 * t * (heads + 2) * n : rows * wide);
    for (int64_t i = 0; i < rows * n; i++) {
        const int64_t row = i / n, b = row / (heads * t), h = row / t % heads;
        if (cut)
            buffer[((b * t + row % t) * (heads + 2) + h + 1) * n + i % n] = value[i];
        else
            buffer[row * wide + before + i % n] = value[i];
    }
    bb_tensor *view;
    if (cut) {
        *leaf = bb_from_f64(ctx, dtype, BB_SHAPE(2, t, heads + 2, n), buffer);
        view = bb_transpose(bb_narrow(*leaf, 2, 1, heads), 1, 2);
    } else {
        *leaf = bb_from_f64(ctx, dtype, BB_SHAPE(rows, wide), buffer);
        view = bb_narrow(*leaf, 1, before, n);
    }
    free(buffer);
    return view;
}

/* Runs the fused op forward and backward with gradients for the tensors in `want` (bits by NORM_X,
 * ...). */
static inline void norm_run(bb_context *ctx, const norm_problem *p,
                            double *const value[NORM_TENSORS], double eps, unsigned want,
                            norm_result *r) {
    bb_tensor *leaf[NORM_TENSORS] = {NULL}, *in[NORM_TENSORS] = {NULL}, *sum = NULL, *y = NULL;
    for (int i = 0; i < NORM_TENSORS; i++) {
        if (!norm_has(p, i)) continue;
        in[i] = norm_tensor(ctx, p, i, value[i], &leaf[i]);
        /* The view is the leaf: its gradient is then the op's own, not a window of another's. */
        in[i] = bb_detach(in[i]);
        if (want >> i & 1) bb_set_requires_grad(in[i], true);
    }
    const int nodes = bb_tape_length(ctx);
    bb_set_path(ctx, BB_PATH_FUSED);
    if (p->kind == RMS_NORM) y = bb_rms_norm(in[NORM_X], in[NORM_SCALE], eps);
    if (p->kind == ADD_RMS_NORM)
        y = bb_add_rms_norm(in[NORM_X], in[NORM_MORE], in[NORM_SCALE], eps, &sum);
    if (p->kind == LAYER_NORM) y = bb_layer_norm(in[NORM_X], in[NORM_SCALE], in[NORM_BIAS], eps);
    if (bb_tape_length(ctx) > nodes) {
        const tape_node *node = bb_tape_of(ctx)->nodes[nodes];
        const saved_value *saved = &node->saved[node->n_in + node->n_out - 1];
        bb_tensor rstd =
            *node->out[node->n_out - 1]; /* its handle is gone, the tape has the bytes */
        rstd.storage = saved->storage;
        rstd.data = (char *)saved->storage->data + saved->offset;
        rstd.life = BB_LIFE_STEP;
        bb_read_f64(&rstd, r->rstd, p->rows);
    }
    bb_set_path(ctx, BB_PATH_AUTO);
    bb_read_f64(y, r->y, p->rows * p->n);
    if (sum) bb_read_f64(sum, r->sum, p->rows * p->n);
    if (want && sum) {
        bb_tensor *parts[] = {bb_mul(y, in[NORM_DY]), bb_mul(sum, in[NORM_DMORE])};
        for (int i = 0; i < 2; i++) parts[i] = bb_sum(parts[i], (bb_ints){0, {0}}, false);
        bb_backward(bb_add(parts[0], parts[1]), NULL);
    } else if (want) {
        bb_backward(y, in[NORM_DY]);
    }
    double *const to[] = {r->dx, r->dmore, r->dscale, r->dbias};
    for (int i = NORM_X; i <= NORM_BIAS; i++)
        if (in[i] && (want >> i & 1)) bb_read_f64(bb_grad(in[i]), to[i], norm_count(p, i));
}

/* |got - expected| <= bound times the largest expected; names the problem. */
static inline void norm_compare(test *t, const norm_problem *p, const char *what, int64_t count,
                                const double *got, const double *expected, double bound) {
    static const char *const kinds[] = {"RMSNorm", "AddRMSNorm", "LayerNorm"};
    static const char *const layouts[] = {"packed", "spaced", "shifted", "heads"};
    double most = largest(count, expected) * bound;
    for (int64_t i = 0; i < count; i++) {
        if (fabs(got[i] - expected[i]) <= most) continue;
        CHECK_MSG(
            t, false, "%s %s x %s, %lld x %lld, %s: %s[%lld]: got %.9g, expected %.9g within %.2g",
            kinds[p->kind], bb_dtype_name(p->x), bb_dtype_name(p->scale), (long long)p->rows,
            (long long)p->n, layouts[p->layout], what, (long long)i, got[i], expected[i], most);
        return;
    }
    CHECK_MSG(t, true, "%s", what);
}

/* All of it, on the device of ctx. */
static inline void norm_check(test *t, bb_context *ctx, const norm_problem *p) {
    /* f64: what the reference's plain sums are worth. */
    const double eps = 1e-5, unit = p->x == BB_F64 ? 1e-12 : dtype_epsilon(p->x);
    const double sums = p->x == BB_F64 ? 1e-12 : 2e-6 + 2 * dtype_epsilon(p->scale);
    double *value[NORM_TENSORS];
    norm_result got = norm_result_new(p), expected = norm_result_new(p);
    const unsigned all = 1u << NORM_X | 1u << NORM_MORE | 1u << NORM_SCALE | 1u << NORM_BIAS;
    norm_draw(p, value);
    norm_solve(p, value, eps, &expected);
    norm_run(ctx, p, value, eps, all, &got);
    if (CHECK_OK(t, ctx)) {
        const int64_t n = p->rows * p->n;
        norm_compare(t, p, "output", n, got.y, expected.y, 2 * unit);
        norm_compare(t, p, "rstd", p->rows, got.rstd, expected.rstd,
                     p->x == BB_F64 ? unit : 8 * dtype_epsilon(BB_F32));
        norm_compare(t, p, "dx", n, got.dx, expected.dx, 2 * unit + 4e-6 * (p->x != BB_F64));
        norm_compare(t, p, "dscale", norm_scales(p), got.dscale, expected.dscale, sums);
        if (p->kind == ADD_RMS_NORM) {
            norm_compare(t, p, "sum", n, got.sum, expected.sum, 0);
            norm_compare(t, p, "dresidual", n, got.dmore, got.dx, 0);
        }
        if (p->kind == LAYER_NORM)
            norm_compare(t, p, "dbias", norm_scales(p), got.dbias, expected.dbias, sums);
    }
    bb_clear_error(ctx);
    bb_end_step(ctx);
    norm_result_free(&got);
    norm_result_free(&expected);
    for (int i = 0; i < NORM_TENSORS; i++) free(value[i]);
}

#endif
