/* Composites as operators of ONNX's own, opset 23: only where these mean exactly what ours do.
 *
 *   RMSNormalization  normalizes trailing axes in f32, rounds, then scales: our round_then_scale.
 *                     The scale must have exactly the shape of those axes: shapes of lower rank are
 *                     allowed by the standard and computed wrongly by some kernels.
 *   RotaryEmbedding   takes cosines and sines; f32 only, since it rounds products in x's type.
 *   Attention         f32 only; aligns causal masks at the upper left, so T = S. */
#include <math.h>
#include <string.h>

#include "io/onnx.h"
#include "ops/attrs.h"

static const bb_value *value(const bb_onnx_body *b, int i) {
    return &b->o->g->value[b->node->in[i]];
}

/* The first of the trailing axes that `axes` lists; -1: they are not the trailing ones. */
static int trailing(const bb_ints *axes, int rank) {
    unsigned seen = 0;
    for (int i = 0; i < axes->n; i++)
        seen |= 1u << (axes->v[i] < 0 ? axes->v[i] + rank : axes->v[i]);
    int first = rank - axes->n;
    return seen == (1u << rank) - (1u << first) ? first : -1;
}

static bool rms_norm(bb_onnx_body *b) {
    const bb_rms_norm_attrs *a = b->node->attrs;
    const bb_value *x = value(b, 0), *scale = value(b, 1);
    int first = trailing(&a->axes, x->rank);
    bool rounds_first = a->rounding != BB_SCALE_THEN_ROUND || x->dtype == BB_F32;
    if (first < 0 || x->dtype != scale->dtype || x->dtype == BB_F64 || !rounds_first ||
        scale->rank != x->rank - first)
        return false;
    for (int i = 0; i < scale->rank; i++)
        if (!bb_dim_equal(&scale->dim[i], &x->dim[first + i])) return false;
    bb_proto attrs = {.ctx = b->o->ctx};
    bb_onnx_attr_int(&attrs, "axis", first - x->rank);
    bb_onnx_attr_float(&attrs, "epsilon", (float)a->eps);
    bb_onnx_attr_int(&attrs, "stash_type", 1);
    const char *in[] = {bb_onnx_name(b, b->node->in[0]), bb_onnx_name(b, b->node->in[1])};
    bb_onnx_emit(b, "RMSNormalization", in, 2, bb_onnx_name(b, b->node->out[0]), &attrs);
    return true;
}

/* angle = scale (offset + t) base^(-2i/dims), in f64 as in ops/rope.c; (B, T, dims/2). */
static const char *table(bb_onnx_body *b, const char *function, const char *angle,
                         const bb_value *x, int64_t half) {
    const char *narrow = bb_onnx_cast(b, bb_onnx_emit1(b, function, angle, bb_onnx_temporary(b)),
                                      BB_F32, bb_onnx_temporary(b));
    bb_dim dims[] = {x->dim[0], x->dim[2], bb_dim_of(half)};
    return bb_onnx_emit2(b, "Expand", narrow, bb_onnx_dims(b, dims, 3), bb_onnx_temporary(b));
}

static const char *angles(bb_onnx_body *b, const bb_rope_attrs *a, const bb_value *x,
                          int64_t half) {
    const char *rows = bb_onnx_dims(b, &x->dim[2], 1), *t;
    rows = bb_onnx_emit1(b, "Squeeze", bb_onnx_cast(b, rows, BB_F64, bb_onnx_temporary(b)),
                         bb_onnx_temporary(b));
    const char *range[] = {bb_onnx_scalar(b, BB_F64, 0), rows, bb_onnx_scalar(b, BB_F64, 1)};
    t = bb_onnx_emit(b, "Range", range, 3, bb_onnx_temporary(b), NULL);
    t = bb_onnx_emit2(b, "Add", t, bb_onnx_scalar(b, BB_F64, (double)a->offset),
                      bb_onnx_temporary(b));
    t = bb_onnx_emit2(b, "Mul", t, bb_onnx_scalar(b, BB_F64, a->scale), bb_onnx_temporary(b));
    t = bb_onnx_emit2(b, "Unsqueeze", t, bb_onnx_ints(b, &(int64_t){1}, 1), bb_onnx_temporary(b));
    range[1] = bb_onnx_scalar(b, BB_F64, (double)half);
    const char *i = bb_onnx_emit(b, "Range", range, 3, bb_onnx_temporary(b), NULL);
    i = bb_onnx_emit2(b, "Mul", i, bb_onnx_scalar(b, BB_F64, -log(a->base) / (double)half),
                      bb_onnx_temporary(b));
    i = bb_onnx_emit1(b, "Exp", i, bb_onnx_temporary(b));
    return bb_onnx_emit2(b, "Mul", t, i, bb_onnx_temporary(b));
}

static bool rope(bb_onnx_body *b) {
    const bb_rope_attrs *a = b->node->attrs;
    const bb_value *x = value(b, 0);
    if (x->rank != 4 || x->dtype != BB_F32 || !bb_dim_constant(&x->dim[3])) return false;
    int64_t dims = a->dims ? a->dims : x->dim[3].c[0], half = dims / 2;
    if (half < 1) return false;
    const char *angle = angles(b, a, x, half);
    const char *in[] = {bb_onnx_name(b, b->node->in[0]), table(b, "Cos", angle, x, half),
                        table(b, "Sin", angle, x, half)};
    bb_proto attrs = {.ctx = b->o->ctx};
    bb_onnx_attr_int(&attrs, "interleaved", a->interleaved);
    bb_onnx_attr_int(&attrs, "rotary_embedding_dim", dims == x->dim[3].c[0] ? 0 : dims);
    bb_onnx_emit(b, "RotaryEmbedding", in, 3, bb_onnx_name(b, b->node->out[0]), &attrs);
    return true;
}

static bool sdpa(bb_onnx_body *b) {
    const bb_sdpa_attrs *a = b->node->attrs;
    const bb_value *q = value(b, 0), *k = value(b, 1);
    if (q->rank != 4 || q->dtype != BB_F32 || b->node->in[3] >= 0 || a->window_size ||
        (a->is_causal && !bb_dim_equal(&q->dim[2], &k->dim[2])))
        return false;
    bb_proto attrs = {.ctx = b->o->ctx};
    bb_onnx_attr_int(&attrs, "is_causal", a->is_causal);
    if (a->scale != 0) bb_onnx_attr_float(&attrs, "scale", (float)a->scale);
    const char *in[3];
    for (int i = 0; i < 3; i++) in[i] = bb_onnx_name(b, b->node->in[i]);
    bb_onnx_emit(b, "Attention", in, 3, bb_onnx_name(b, b->node->out[0]), &attrs);
    return true;
}

static const struct {
    const char *op, *onnx;
    bool (*write)(bb_onnx_body *b);
} forms[] = {{"RMSNormImpl", "RMSNormalization", rms_norm},
             {"RoPE", "RotaryEmbedding", rope},
             {"SDPA", "Attention", sdpa}};

bb_status bb_onnx_native(bb_onnx_body *b, bool *done) {
    *done = false;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0] && !*done; i++)
        if (strcmp(forms[i].op, b->node->op->name) == 0) *done = forms[i].write(b);
    return b->o->ctx->status;
}

const char *bb_onnx_native_form(const bb_op *op) {
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        if (strcmp(forms[i].op, op->name) == 0) return forms[i].onnx;
    return NULL;
}
