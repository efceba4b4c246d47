/* Quantizers as objects over the ops Quantize, Dequantize, RMSNormQuantize, QuantizedLinear and
 * update_scale_ (ops/quantize.c). The recipes are kinds like those of a user. */
#include "nn/quantize.h"

#include <math.h>

#include "nn/internal.h"

enum { HISTORY = 1024, MOST_HISTORY = 1 << 20 };

struct bb_quantizer {
    bb_context *ctx;
    bb_device device;
    const bb_quantizer_kind *kind;
    void *user;
    bool recipe; /* kind is one of ours, and options holds */
    bb_quantizer_options options;
    /* Delayed scaling, context tensors on the device. amax is the largest since the last update. */
    bb_tensor *scale, *history, *amax;
    bool measured; /* amax holds one */
};

/* ---- What all recipes do */

static bb_quantize_attrs attrs_of(const bb_quantizer *q) {
    const bb_quantizer_options *o = &q->options;
    return (bb_quantize_attrs){.recipe = (int)o->recipe,
                               .format = (int)o->format,
                               .rows = !o->no_rows,
                               .columns = !o->no_columns,
                               .square = o->square_blocks,
                               .scales = (int)o->scales,
                               .amax_floor = o->amax_floor};
}

static bb_quantized *quantized_of(bb_quantizer *q, const bb_tensor *x,
                                  const bb_quantized_parts *parts) {
    bb_quantized *y = bb_quantized_new(q, bb_dtype_of(x), bb_shape_of(x));
    if (!y) return NULL;
    y->data = parts->data;
    y->scale_inv = parts->scale_inv;
    y->columns = parts->columns;
    y->columns_scale_inv = parts->columns_scale_inv;
    y->amax = parts->amax;
    return y;
}

/* Several tensors may pass one quantizer in a step: it remembers the largest. A recorded graph does
 * not learn: it quantizes by the scale as it is. Nor is it a part of the result: a segment that is
 * run again (bb_recompute) need not find what it found. */
static bb_status measure(bb_quantizer *q, bb_tensor *amax) {
    if (!q->scale || bb_is_recorded(q->ctx)) return BB_OK;
    bb_watch *watch = q->ctx->watch;
    q->ctx->watch = NULL;
    bb_status status = bb_assign(q->amax, q->measured ? bb_maximum(q->amax, amax) : amax);
    q->ctx->watch = watch;
    q->measured = true;
    return status;
}

static bb_quantized *recipe_quantize(bb_quantizer *q, bb_tensor *x) {
    const bb_quantize_attrs attrs = attrs_of(q);
    bb_quantized_parts parts;
    if (bb_quantize_parts(x, q->scale, &attrs, &parts) || measure(q, parts.amax)) return NULL;
    return quantized_of(q, x, &parts);
}

static bb_quantized *recipe_rms_norm(bb_quantizer *q, bb_tensor *x, bb_tensor *weight, double eps,
                                     int axes, bb_tensor **rstd) {
    const bb_rms_norm_quantize_attrs attrs = {attrs_of(q), eps};
    bb_tensor *matrix = x, *row = weight;
    if (axes > 1) {
        bb_shape shape = bb_shape_of(x);
        int64_t inner = bb_count(weight), outer = 1;
        for (int i = 0; i < shape.rank - axes; i++) outer *= shape.size[i];
        matrix = bb_reshape(x, BB_SHAPE(outer, inner));
        row = bb_reshape(weight, BB_SHAPE(inner));
    }
    bb_quantized_parts parts;
    if (bb_rms_norm_quantize_parts(matrix, row, q->scale, &attrs, &parts, rstd)) return NULL;
    if (measure(q, parts.amax)) return NULL;
    bb_quantized *y = quantized_of(q, x, &parts);
    if (y) y->inner = bb_size(matrix, -1);
    return y;
}

/* Copies of the column-wise bytes know only the matrix, rows of several axes too. */
static bb_tensor *recipe_dequantize(const bb_quantized *x, bool columns) {
    const bb_quantizer_options *o = &x->quantizer->options;
    const bb_dequantize_attrs attrs = {(int)o->recipe, (int)o->format, o->square_blocks, columns,
                                       (int)x->dtype};
    bb_tensor *y = bb_dequantize_parts(columns ? x->columns : x->data,
                                       columns ? x->columns_scale_inv : x->scale_inv,
                                       o->recipe == BB_NVFP4 ? x->amax : NULL, &attrs);
    if (!y) return NULL;
    bb_shape shape = bb_shape_of(y);
    return bb_shape_equal(&shape, &x->shape) ? y : bb_reshape(y, x->shape);
}

static bb_status delayed_update(bb_quantizer *q) {
    if (!q->measured) return BB_OK;
    const bb_update_scale_attrs attrs = {(int)q->options.format, q->options.margin,
                                         q->options.most_recent};
    q->measured = false;
    return bb_update_scale_(q->scale, q->history, q->amax, &attrs);
}

static const bb_quantizer_kind kinds[BB_RECIPE_COUNT] = {
    {"fp8_delayed", recipe_quantize, recipe_dequantize, recipe_rms_norm, delayed_update},
    {"fp8_current", recipe_quantize, recipe_dequantize, recipe_rms_norm, NULL},
    {"mxfp8", recipe_quantize, recipe_dequantize, recipe_rms_norm, NULL},
    {"fp8_block", recipe_quantize, recipe_dequantize, recipe_rms_norm, NULL},
    {"nvfp4", recipe_quantize, recipe_dequantize, recipe_rms_norm, NULL},
};

/* ---- Quantizers */

static bb_quantizer *make(bb_context *ctx, bb_device device, const bb_quantizer_kind *kind,
                          void *user, const char *who) {
    const char *why = NULL;
    if ((unsigned)device >= BB_DEVICE_COUNT || !bb_device_available(ctx, device, &why)) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "%s: device: %s", who, why ? why : "no such device");
        return NULL;
    }
    bb_quantizer *q = bb_nn_allocate(ctx, sizeof *q);
    if (!q) return NULL;
    *q = (bb_quantizer){.ctx = ctx, .device = device, .kind = kind, .user = user};
    return q;
}

bb_quantizer *bb_quantizer_of_kind(bb_context *ctx, bb_device device, const bb_quantizer_kind *kind,
                                   void *user) {
    if (!ctx || ctx->status) return NULL;
    if (kind && kind->name && kind->quantize && kind->dequantize)
        return make(ctx, device, kind, user, "bb_quantizer_of_kind");
    bb_fail(ctx, BB_ERR_ARGUMENT,
            "bb_quantizer_of_kind: kind: expected a name, quantize and dequantize");
    return NULL;
}

static bb_status check_options(bb_context *ctx, const bb_quantizer_options *o) {
    const char *who = "bb_quantizer_new";
    if ((unsigned)o->recipe >= BB_RECIPE_COUNT)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: recipe: expected one of %s, got %d", who,
                       BB_RECIPE_CHOICES, (int)o->recipe);
    if ((unsigned)o->format > BB_E5M2)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: format: expected BB_E4M3 or BB_E5M2, got %d", who,
                       (int)o->format);
    if (o->recipe == BB_NVFP4 && o->format != BB_E4M3)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "%s: format: expected BB_E4M3, the format of nvfp4's scales", who);
    if (o->no_rows && o->no_columns)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: no_rows: expected rows, columns or both", who);
    if (o->margin < -100 || o->margin > 100)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: margin: expected -100 to 100, got %d", who,
                       o->margin);
    if (o->history < 0 || o->history > MOST_HISTORY)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: history: expected 0 to %d, got %d", who,
                       MOST_HISTORY, o->history);
    if ((unsigned)o->scales > BB_SCALES_POWER_OF_TWO)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: scales: no such kind of scale: %d", who,
                       (int)o->scales);
    if (!(o->amax_floor >= 0) || isinf(o->amax_floor))
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "%s: amax_floor: expected a finite number >= 0, got %g", who, o->amax_floor);
    return BB_OK;
}

bb_quantizer *bb_quantizer_new(bb_context *ctx, bb_device device,
                               const bb_quantizer_options *options) {
    const bb_quantizer_options o = options ? *options : (bb_quantizer_options){.history = 0};
    if (!ctx || ctx->status || check_options(ctx, &o)) return NULL;
    bb_quantizer *q = make(ctx, device, &kinds[o.recipe], NULL, "bb_quantizer_new");
    if (!q) return NULL;
    q->recipe = true;
    q->options = o;
    if (o.recipe != BB_FP8_DELAYED) return q;
    if (q->options.history == 0) q->options.history = HISTORY;
    q->history = bb_nn_zeros(ctx, device, BB_F32, q->options.history);
    q->amax = bb_nn_zeros(ctx, device, BB_F32, 1);
    q->scale = bb_nn_zeros(ctx, device, BB_F32, 1);
    if (!q->history || !q->amax || !q->scale || bb_nn_write_number(q->scale, 1)) return NULL;
    return q;
}

bb_status bb_quantizer_set_usage(bb_quantizer *q, bool rows, bool columns) {
    if (!q) return BB_ERR_ARGUMENT;
    if (q->ctx->status) return q->ctx->status;
    if (!rows && !columns)
        return bb_fail(q->ctx, BB_ERR_ARGUMENT,
                       "bb_quantizer_set_usage: rows: expected rows, columns or both");
    q->options.no_rows = !rows;
    q->options.no_columns = !columns;
    return BB_OK;
}

bool bb_quantizer_uses_rows(const bb_quantizer *q) { return q && !q->options.no_rows; }
bool bb_quantizer_uses_columns(const bb_quantizer *q) { return q && !q->options.no_columns; }
const char *bb_quantizer_name(const bb_quantizer *q) { return q ? q->kind->name : NULL; }
void *bb_quantizer_user(const bb_quantizer *q) { return q ? q->user : NULL; }
bool bb_quantizer_in_norm(const bb_quantizer *q) { return q && q->kind->rms_norm; }
const bb_quantizer_options *bb_quantizer_get_options(const bb_quantizer *q) {
    return q && q->recipe ? &q->options : NULL;
}

bb_status bb_quantizer_update(bb_quantizer *q) {
    if (!q) return BB_ERR_ARGUMENT;
    if (q->ctx->status || !q->kind->update) return q->ctx->status;
    return q->kind->update(q);
}

const bb_named *bb_quantizer_state(bb_quantizer *q, int *count) {
    if (count) *count = 0;
    if (!q || q->ctx->status || !q->scale) return NULL;
    bb_named *list = bb_arena_allocate(q->ctx, &q->ctx->arena, 3 * sizeof *list);
    if (!list) return NULL;
    list[0] = (bb_named){"scale", q->scale};
    list[1] = (bb_named){"history", q->history};
    list[2] = (bb_named){"amax", q->amax};
    if (count) *count = 3;
    return list;
}

/* ---- Quantized tensors */

bb_quantized *bb_quantized_new(bb_quantizer *q, bb_dtype dtype, bb_shape shape) {
    if (!q || q->ctx->status) return NULL;
    bb_quantized *x = bb_arena_allocate(q->ctx, &q->ctx->arena, sizeof *x);
    if (!x) return NULL;
    *x = (bb_quantized){.quantizer = q, .dtype = dtype, .shape = shape};
    x->inner = shape.rank ? shape.size[shape.rank - 1] : 1;
    return x;
}

static bool is_ours(const bb_quantizer *q, const bb_tensor *t, const char *what) {
    if (bb_context_of(t) == q->ctx) return true;
    bb_fail(q->ctx, BB_ERR_ARGUMENT, "%s: expected a tensor of this context, got one of another",
            what);
    return false;
}

bb_quantized *bb_quantize(bb_quantizer *q, bb_tensor *x) {
    if (!q || !x || q->ctx->status || !is_ours(q, x, "bb_quantize: x")) return NULL;
    return q->kind->quantize(q, x);
}

bb_quantized *bb_quantize_rows(bb_quantizer *q, bb_tensor *x) {
    if (!q || q->options.no_rows) return bb_quantize(q, x);
    bool before = q->options.no_columns;
    q->options.no_columns = true;
    bb_quantized *y = bb_quantize(q, x);
    q->options.no_columns = before;
    return y;
}

bb_quantized *bb_rms_norm_quantize(bb_quantizer *q, bb_tensor *x, bb_tensor *weight, double eps,
                                   int axes, bb_tensor **rstd) {
    if (rstd) *rstd = NULL;
    if (!bb_quantizer_in_norm(q) || !x || !weight || q->ctx->status) return NULL;
    if (!is_ours(q, x, "bb_rms_norm_quantize: x") ||
        !is_ours(q, weight, "bb_rms_norm_quantize: weight"))
        return NULL;
    bb_shape shape = bb_shape_of(x), last = {.rank = axes};
    bool fits = axes >= 1 && axes <= shape.rank;
    for (int i = 0; fits && i < axes; i++) last.size[i] = shape.size[shape.rank - axes + i];
    bb_shape got = bb_shape_of(weight);
    if (!fits || !bb_shape_equal(&last, &got)) {
        char a[BB_SHAPE_TEXT], b[BB_SHAPE_TEXT];
        bb_fail(q->ctx, BB_ERR_ARGUMENT,
                "bb_rms_norm_quantize: weight: expected the last %d sizes of input %s, got %s",
                axes, bb_shape_text(&shape, a), bb_shape_text(&got, b));
        return NULL;
    }
    return q->kind->rms_norm(q, x, weight, eps, axes, rstd);
}

bb_tensor *bb_dequantize(const bb_quantized *x) {
    if (!x || x->quantizer->ctx->status) return NULL;
    return x->quantizer->kind->dequantize(x, !x->data);
}

static bool has_columns(const bb_quantized *x, const char *who) {
    if (!x || x->quantizer->ctx->status) return false;
    if (x->columns) return true;
    bb_fail(x->quantizer->ctx, BB_ERR_STATE,
            "%s: x: expected columns, got a tensor quantized without that usage", who);
    return false;
}

bb_tensor *bb_dequantize_columns(const bb_quantized *x) {
    if (!has_columns(x, "bb_dequantize_columns")) return NULL;
    return x->quantizer->kind->dequantize(x, true);
}

bb_quantized *bb_quantized_transpose(const bb_quantized *x) {
    if (!has_columns(x, "bb_quantized_transpose")) return NULL;
    bb_quantizer *q = x->quantizer;
    if (!q->recipe || !bb_recipe_forms[q->options.recipe].transposed) return NULL;
    bb_shape data = bb_shape_of(x->columns);
    int64_t rows = data.size[1] * (bb_recipe_forms[q->options.recipe].packed ? 2 : 1);
    bb_quantized *y = bb_quantized_new(q, x->dtype, BB_SHAPE(data.size[0], rows));
    if (!y) return NULL;
    y->data = x->columns;
    y->scale_inv = x->columns_scale_inv;
    y->amax = x->amax;
    return y;
}

/* ---- Products */

bb_tensor *bb_linear_quantized(const bb_quantized *x, const bb_quantized *weight, bb_tensor *bias,
                               bb_dtype dtype) {
    if (!x || !weight || x->quantizer->ctx->status) return NULL;
    const bb_quantizer *a = x->quantizer, *b = weight->quantizer;
    if (!a->recipe || !b->recipe || !x->data || !weight->data) {
        bb_tensor *wide_bias = bias ? bb_cast(bias, BB_F32) : NULL;
        bb_tensor *wide = bb_linear(bb_cast(bb_dequantize(x), BB_F32),
                                    bb_cast(bb_dequantize(weight), BB_F32), wide_bias);
        return bb_cast(wide, dtype);
    }
    const bb_quantized_linear_attrs attrs = {(int)a->options.recipe,
                                             (int)a->options.format,
                                             (int)b->options.recipe,
                                             (int)b->options.format,
                                             a->options.square_blocks,
                                             b->options.square_blocks,
                                             (int)dtype};
    const bb_quantized_parts left = {x->data, x->scale_inv, NULL, NULL, x->amax},
                             right = {weight->data, weight->scale_inv, NULL, NULL, weight->amax};
    return bb_quantized_linear(&left, &right, bias, &attrs);
}
