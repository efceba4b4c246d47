/* LayerNorm as a fusible op: zero mean and unit variance over normalized_shape, times weight (or
 * 1 + weight), plus bias, in f32 (f64 for f64), one rounding. It saves its input and runs again. */
#include "nn/fusible/internal.h"
#include "nn/fusible/margin.h"

typedef struct layer_norm_data {
    double eps;
    bool zero_centered;
    bb_shape shape;
    bb_margins margin;
} layer_norm_data;

static bb_tensor *compute(const bb_fusible_op *op, const bb_op_context *c, bb_tensor *const *in,
                          int n) {
    const layer_norm_data *d = op->data;
    bb_context *ctx = op->ctx;
    (void)n;
    bb_tensor *x = bb_cast(in[0], c->dtype), *weight = bb_cast(in[1], c->dtype),
              *bias = bb_cast(in[2], c->dtype);
    if (!x || !weight || !bias) return NULL;
    bool fits = x->rank >= d->shape.rank;
    for (int i = 0; i < d->shape.rank && fits; i++)
        fits = x->size[x->rank - d->shape.rank + i] == d->shape.size[i];
    if (!fits) {
        char a[BB_SHAPE_TEXT], b[BB_SHAPE_TEXT];
        bb_shape got = bb_shape_of_tensor(x);
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "LayerNorm: input: expected a shape that ends in the weight's %s, got %s",
                bb_shape_text(&d->shape, a), bb_shape_text(&got, b));
        return NULL;
    }
    if (d->zero_centered)
        weight = bb_add_scalar(c->dtype == BB_F64 ? weight : bb_cast(weight, BB_F32), 1);
    bb_layer_norm_attrs attrs = {{0, {0}}, d->eps};
    for (int i = d->shape.rank; i > 0; i--) attrs.axes.v[attrs.axes.n++] = -i;
    bb_tensor *operands[] = {x, weight, bias};
    int stage = !c->requires_grad ? 2 : bb_grad_enabled(ctx) ? 1 : 0;
    int before = bb_margin_begin(ctx, &d->margin, stage);
    bb_tensor *y = bb_apply1(ctx, bb_find_op(ctx, "LayerNorm"), operands, 3, &attrs);
    bb_margin_end(ctx, before);
    return y;
}

static const bb_fusible_kind kind = {.name = "LayerNorm", .compute = compute};

bb_fusible_op *bb_fusible_layer_norm(bb_params *params, const char *name, bb_shape normalized_shape,
                                     const bb_fusible_norm_options *options) {
    static const bb_fusible_norm_options defaults = {0};
    bb_context *ctx = bb_nn_context(params);
    if (!params || ctx->status) return NULL;
    if (!options) options = &defaults;
    layer_norm_data d = {.zero_centered = options->zero_centered_gamma, .shape = normalized_shape};
    if (bb_norm_eps(ctx, "LayerNorm", options, &d.eps) ||
        bb_margins_read(ctx, "LayerNorm", options, &d.margin))
        return NULL;
    if (normalized_shape.rank < 1) {
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "LayerNorm: normalized_shape: expected 1 to %d dimensions, got ()", BB_MAX_RANK);
        return NULL;
    }
    bb_init ones = d.zero_centered ? BB_INIT_ZEROS : BB_INIT_ONES;
    bb_tensor *param[] = {bb_nn_add(params, name, "weight", normalized_shape, ones, 0),
                          bb_nn_add(params, name, "bias", normalized_shape, BB_INIT_ZEROS, 0)};
    if (ctx->status) return NULL;
    bb_fusible_op *op = bb_fusible_new(ctx, &kind, params, param, 2, sizeof d);
    if (!op) return NULL;
    *(layer_norm_data *)op->data = d;
    op->name = bb_nn_layer_name(params, name);
    return op;
}
