/* Fusible ops without parameters that only compute: activations, dropout, scaling, L2 norm. They
 * save their input, and backward runs them again. */
#include <math.h>

#include "nn/fusible/internal.h"

/* ---- Activations ----------------------------------------------------------------------------- */

typedef bb_tensor *(*unary_fn)(bb_tensor *x);

static bb_tensor *gelu(bb_tensor *x) { return bb_gelu(x, BB_GELU_TANH); }
static bb_tensor *qgelu(bb_tensor *x) { return bb_mul(x, bb_sigmoid(bb_mul_scalar(x, 1.702))); }
static bb_tensor *srelu(bb_tensor *x) { return bb_square(bb_relu(x)); }

static const struct {
    const char *name;
    unary_fn fn;
    bool gated;
} activations[BB_ACT_COUNT] = {
    [BB_ACT_RELU] = {"ReLU", bb_relu, false},  [BB_ACT_GELU] = {"GELU", gelu, false},
    [BB_ACT_SILU] = {"SiLU", bb_silu, false},  [BB_ACT_QGELU] = {"QGELU", qgelu, false},
    [BB_ACT_SRELU] = {"SReLU", srelu, false},  [BB_ACT_SIGMOID] = {"Sigmoid", bb_sigmoid, false},
    [BB_ACT_TANH] = {"Tanh", bb_tanh, false},  [BB_ACT_REGLU] = {"ReGLU", bb_relu, true},
    [BB_ACT_GEGLU] = {"GEGLU", gelu, true},    [BB_ACT_SWIGLU] = {"SwiGLU", bb_silu, true},
    [BB_ACT_QGEGLU] = {"QGEGLU", qgelu, true}, [BB_ACT_SREGLU] = {"SReGLU", srelu, true},
    [BB_ACT_GLU] = {"GLU", bb_sigmoid, true},
};

/* f(a) b; f16 and bf16 are rounded once, like an op. */
static bb_tensor *gated(bb_activation which, bb_tensor *x) {
    int64_t n = bb_size(x, -1);
    if (!x) return NULL;
    if (x->rank < 1 || n % 2) {
        bb_fail(x->ctx, BB_ERR_ARGUMENT, "%s: input: expected an even last axis, got %lld",
                activations[which].name, x->rank < 1 ? 0 : (long long)n);
        return NULL;
    }
    bb_tensor *a = bb_narrow(x, -1, 0, n / 2), *b = bb_narrow(x, -1, n / 2, n / 2);
    if (which == BB_ACT_SWIGLU) return bb_swiglu(a, b);
    bb_dtype wide = x->dtype == BB_F64 ? BB_F64 : BB_F32;
    bb_tensor *y = bb_mul(activations[which].fn(bb_cast(a, wide)), bb_cast(b, wide));
    return bb_cast(y, (bb_dtype)x->dtype);
}

static bb_tensor *activate(const bb_fusible_op *op, const bb_op_context *c, bb_tensor *const *in,
                           int n) {
    (void)n;
    bb_activation which = *(const bb_activation *)op->data;
    bb_tensor *x = bb_cast(in[0], c->dtype);
    if (activations[which].gated) return gated(which, x);
    bool by_parts = which == BB_ACT_QGELU || which == BB_ACT_SRELU;
    if (!by_parts || c->dtype == BB_F64) return activations[which].fn(x);
    return bb_cast(activations[which].fn(bb_cast(x, BB_F32)), c->dtype);
}

bool bb_activation_of_linear(const bb_fusible_op *op, bb_linear_activation_attrs *attrs) {
    static const int kind[BB_ACT_COUNT] = {[BB_ACT_RELU] = 1 + BB_LINEAR_RELU,
                                           [BB_ACT_GELU] = 1 + BB_LINEAR_GELU,
                                           [BB_ACT_SILU] = 1 + BB_LINEAR_SILU,
                                           [BB_ACT_SIGMOID] = 1 + BB_LINEAR_SIGMOID,
                                           [BB_ACT_TANH] = 1 + BB_LINEAR_TANH};
    attrs->activation = kind[*(const bb_activation *)op->data] - 1;
    return attrs->activation >= 0;
}

const bb_fusible_kind bb_kind_activation = {
    .name = "Activation", .quantizes_gradient = true, .compute = activate};

bb_fusible_op *bb_fusible_activation(bb_context *ctx, bb_activation activation) {
    if (!ctx || ctx->status) return NULL;
    if ((unsigned)activation >= BB_ACT_COUNT) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "bb_fusible_activation: expected 0 to %d, got %d",
                BB_ACT_COUNT - 1, (int)activation);
        return NULL;
    }
    bb_fusible_op *op =
        bb_fusible_new(ctx, &bb_kind_activation, NULL, NULL, 0, sizeof(bb_activation));
    if (!op) return NULL;
    *(bb_activation *)op->data = activation;
    op->name = activations[activation].name;
    return op;
}

/* ---- Dropout, scaling, L2 norm --------------------------------------------------------------- */

static bb_tensor *drop(const bb_fusible_op *op, const bb_op_context *c, bb_tensor *const *in,
                       int n) {
    (void)n;
    return bb_dropout(bb_cast(in[0], c->dtype), *(const double *)op->data);
}

static bb_tensor *scale(const bb_fusible_op *op, const bb_op_context *c, bb_tensor *const *in,
                        int n) {
    (void)n;
    return bb_mul_scalar(bb_cast(in[0], c->dtype), *(const double *)op->data);
}

/* With d columns, sum + eps = d (mean + eps/d): RMSNormImpl with a scale of 1/sqrt(d). */
static bb_tensor *normalize(const bb_fusible_op *op, const bb_op_context *c, bb_tensor *const *in,
                            int n) {
    (void)n;
    bb_tensor *x = bb_cast(in[0], c->dtype);
    if (!x) return NULL;
    if (x->rank < 1) {
        bb_fail(op->ctx, BB_ERR_ARGUMENT, "L2Normalization: input: expected rank 1 or more, got %s",
                "a scalar");
        return NULL;
    }
    double d = (double)(x->size[x->rank - 1] > 0 ? x->size[x->rank - 1] : 1);
    bb_rms_norm_attrs attrs = {{1, {-1}}, *(const double *)op->data / d, BB_SCALE_THEN_ROUND};
    bb_dtype wide = c->dtype == BB_F64 ? BB_F64 : BB_F32;
    bb_device before = bb_get_device(op->ctx);
    bb_set_device(op->ctx, (bb_device)x->device);
    bb_tensor *one = bb_full(op->ctx, wide, BB_SHAPE(1), 1 / sqrt(d));
    bb_set_device(op->ctx, before);
    return bb_rms_norm_with(x, one, &attrs);
}

static const bb_fusible_kind dropout_kind = {.name = "Dropout", .compute = drop},
                             scale_kind = {.name = "ConstantScale",
                                           .quantizes_gradient = true,
                                           .compute = scale},
                             l2_kind = {.name = "L2Normalization", .compute = normalize};

static bb_fusible_op *with_number(bb_context *ctx, const bb_fusible_kind *kind, double number) {
    bb_fusible_op *op = bb_fusible_new(ctx, kind, NULL, NULL, 0, sizeof number);
    if (op) *(double *)op->data = number;
    return op;
}

bb_fusible_op *bb_fusible_dropout(bb_context *ctx, double p) {
    if (ctx && !ctx->status && !(p >= 0 && p < 1)) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "Dropout: p: expected [0, 1), got %g", p);
        return NULL;
    }
    return with_number(ctx, &dropout_kind, p);
}

bb_fusible_op *bb_fusible_constant_scale(bb_context *ctx, double factor) {
    return with_number(ctx, &scale_kind, factor);
}

bb_fusible_op *bb_fusible_l2_normalization(bb_context *ctx, double eps) {
    if (ctx && !ctx->status && !(eps >= 0)) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "L2Normalization: eps: expected a number >= 0, got %g", eps);
        return NULL;
    }
    return with_number(ctx, &l2_kind, eps == 0 ? 1e-6 : eps);
}
