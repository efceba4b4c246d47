/* RMSNorm as a fusible op: y = round(x rstd scale) over rows of one normalized_shape, with
 * rstd = 1 / sqrt(mean(x^2) + eps) and scale = weight or 1 + weight, all in f32 (f64 for f64).
 *
 *     dx = rstd (dy scale - c xhat) [+ dextra]    c = mean(dy scale xhat)    dweight = sum dy xhat
 *
 * Saved: x as rows, and rstd. A residual addition before it is AddRMSNorm (ops/add_rms_norm.c), and
 * so is an extra gradient of x: both add before the one rounding. How the margins are found is
 * margin.c. */
#include "nn/fusible/internal.h"
#include "nn/fusible/margin.h"
#include "ops/table.h"

typedef struct rms_norm_data {
    double eps;
    bool zero_centered;
    bb_shape shape;
    bb_margins margin;
} rms_norm_data;

enum { SAVED_X = 0, SAVED_RSTD };

static const rms_norm_data *data_of(const bb_fusible_op *op) { return op->data; }

/* The weight as compute dtype, or 1 + that in f32. */
static bb_tensor *scale_of(const bb_fusible_op *op, bb_tensor *weight, bb_dtype dtype) {
    bb_tensor *scale = bb_cast(weight, dtype);
    if (!data_of(op)->zero_centered) return scale;
    return bb_add_scalar(dtype == BB_F64 ? scale : bb_cast(scale, BB_F32), 1);
}

static int64_t inner_of(const bb_fusible_op *op) { return op->param[0]->count; }

/* The input must end in the weight's shape: no broadcasting here. */
static bb_status check_shape(const bb_fusible_op *op, bb_shape x) {
    const bb_shape *w = &data_of(op)->shape;
    bool fits = x.rank >= w->rank;
    for (int i = 0; i < w->rank && fits; i++) fits = x.size[x.rank - w->rank + i] == w->size[i];
    if (fits) return BB_OK;
    char a[BB_SHAPE_TEXT], b[BB_SHAPE_TEXT];
    return bb_fail(op->ctx, BB_ERR_ARGUMENT,
                   "RMSNorm: input: expected a shape that ends in the weight's %s, got %s",
                   bb_shape_text(w, a), bb_shape_text(&x, b));
}

/* As a contiguous matrix of rows of `inner` elements. */
static bb_tensor *rows_of(bb_tensor *x, int trailing, int64_t inner) {
    int64_t rows = 1;
    if (!x) return NULL;
    for (int i = 0; i < x->rank - trailing; i++) rows *= x->size[i];
    return bb_reshape(bb_contiguous(x), BB_SHAPE(rows, inner));
}

static bb_tensor *flat(bb_tensor *t) { return t ? bb_reshape(t, BB_SHAPE(t->count)) : NULL; }

/* One call of RMSNormImpl or AddRMSNorm and the operands it stands on. */
typedef struct norm_call {
    bb_call call;
    bb_rms_norm_attrs attrs;
    bb_tensor *in[3];
} norm_call;

static void norm_call_begin(norm_call *n, bb_context *ctx, const bb_op *record,
                            const bb_fusible_op *op, bb_tensor *x, bb_tensor *extra,
                            bb_tensor *scale) {
    *n = (norm_call){.attrs = {{1, {-1}}, data_of(op)->eps, BB_SCALE_THEN_ROUND}};
    int k = 0;
    n->in[k++] = x;
    if (record == &bb_op_add_rms_norm) n->in[k++] = extra;
    n->in[k++] = scale;
    n->call =
        (bb_call){.ctx = ctx, .op = record, .attrs = &n->attrs, .n_in = k, .n_out = k, .in = n->in};
    if (x) n->call.device = (bb_device)x->device;
}

static bb_status save(bb_op_context *c, bb_tensor *x, bb_tensor *rstd) {
    bb_status status = c->requires_grad ? bb_save(x, &c->saved[SAVED_X]) : BB_OK;
    return status || !c->requires_grad ? status : bb_save(rstd, &c->saved[SAVED_RSTD]);
}

/* y of the rows x, which are saved. */
static bb_tensor *normalize(const bb_fusible_op *op, bb_op_context *c, bb_tensor *x) {
    bb_context *ctx = op->ctx;
    norm_call n;
    norm_call_begin(&n, ctx, &bb_op_rms_norm, op, x, NULL,
                    flat(scale_of(op, op->param[0], c->dtype)));
    if (ctx->status) return NULL;
    int before = bb_margin_begin(ctx, &data_of(op)->margin, c->requires_grad ? 0 : 2);
    bb_status status = bb_run_call(&n.call, c->requires_grad, &c->fused);
    bb_margin_end(ctx, before);
    return status || save(c, x, n.call.out[1]) ? NULL : n.call.out[0];
}

/* The same written quantized, in one pass. */
static bb_quantized *normalize_quantized(const bb_fusible_op *op, bb_op_context *c, bb_tensor *x,
                                         bb_quantizer *q) {
    bb_context *ctx = op->ctx;
    bb_tensor *scale = bb_cast(flat(scale_of(op, op->param[0], c->dtype)), BB_F32), *rstd = NULL;
    if (ctx->status) return NULL;
    int before = bb_margin_begin(ctx, &data_of(op)->margin, c->requires_grad ? 0 : 2);
    bb_quantized *y =
        bb_rms_norm_quantize(q, x, scale, data_of(op)->eps, 1, c->requires_grad ? &rstd : NULL);
    bb_margin_end(ctx, before);
    c->fused = rstd && ctx->path != BB_PATH_COMPOSED &&
               bb_op_has_kernel(ctx, &bb_op_rms_norm, (bb_device)x->device, true);
    return save(c, x, rstd) ? NULL : y;
}

/* The result for rows x of an input of this shape: quantized for a quantizer that can be written
 * directly, otherwise a tensor, which the next op quantizes. */
static bb_status finish(const bb_fusible_op *op, bb_op_context *c, bb_tensor *x, bb_shape shape,
                        bb_quantizer *q, bb_link *output) {
    if (!x || !bb_quantizer_in_norm(q)) {
        *output = bb_link_of(bb_reshape(normalize(op, c, x), shape));
        return op->ctx->status;
    }
    bb_quantized *y = normalize_quantized(op, c, x, q);
    if (y) y->shape = shape;
    *output = (bb_link){NULL, y};
    return op->ctx->status;
}

static bb_status forward(bb_fusible_run *run) {
    const bb_fusible_op *op = run->op[0];
    bb_op_context *c = &run->c[0];
    bb_shape shape = bb_link_shape(run->input);
    if (check_shape(op, shape)) return run->ctx->status;
    bb_tensor *x = bb_link_tensor(run->input, c->dtype);
    return finish(op, c, rows_of(x, data_of(op)->shape.rank, inner_of(op)), shape,
                  run->next_op_input_quantizer, &run->output);
}

/* ---- Backward -------------------------------------------------------------------------------- */

/* AddRMSNorm's backward kernel takes the extra gradient in before it rounds. */
static bool adds_in_kernel(const norm_call *n) {
    const bb_entry *entry = bb_find_entry(n->call.ctx, &bb_op_add_rms_norm);
    const bb_kernel *kernel = entry ? &entry->kernel[n->call.device] : NULL;
    return kernel && kernel->backward && n->call.ctx->path != BB_PATH_COMPOSED &&
           (!kernel->supports || kernel->supports(&n->call));
}

/* Without such a kernel the gradient is computed in f32, the extra one added, and the sum rounded:
 * what the kernel does, in more passes. */
static bb_status plain_gradient(const bb_fusible_op *op, const bb_op_context *c, bb_tensor *x,
                                bb_tensor *rstd, bb_tensor *scale, bb_tensor *dy, bb_tensor *extra,
                                const bool want[2], bb_tensor *found[2]) {
    bb_context *ctx = op->ctx;
    bool widen = extra && want[0] && c->dtype != BB_F64 && c->dtype != BB_F32;
    norm_call n;
    if (widen) x = bb_cast(x, BB_F32), dy = bb_cast(dy, BB_F32);
    if (widen && !data_of(op)->zero_centered) scale = bb_cast(scale, BB_F32);
    norm_call_begin(&n, ctx, &bb_op_rms_norm, op, x, NULL, scale);
    n.call.out[1] = rstd;
    bb_grad_call grad = {&n.call, &dy, want, found};
    if (ctx->status || n.call.op->infer(&n.call) || bb_call_backward(&grad, c->fused && rstd))
        return ctx->status;
    if (extra && want[0]) {
        bb_tensor *sum = found[0];
        if (widen) extra = bb_cast(extra, BB_F32);
        bb_backend *backend = ctx->backend[sum->device];
        if (!extra || (sum->count && backend->add(backend, extra, sum))) return ctx->status;
        found[0] = bb_cast(sum, c->dtype);
    }
    return ctx->status;
}

static bb_status added_gradient(norm_call *n, bb_tensor *x, bb_tensor *rstd, bb_tensor *dy,
                                bb_tensor *extra, const bool want[2], bb_tensor *found[2]) {
    bb_tensor *dout[2] = {dy, extra}, *grads[3] = {NULL, NULL, found[1]};
    const bool wants[3] = {want[0], false, want[1]};
    n->call.out[1] = x; /* the sum of what AddRMSNorm adds */
    n->call.out[2] = rstd;
    bb_grad_call grad = {&n->call, dout, wants, grads};
    bb_status status = bb_call_backward(&grad, true);
    found[0] = grads[0], found[1] = grads[2];
    return status;
}

/* Gradients of the norm that is member i, with that of an extra output of its input (or NULL). */
static bb_status gradient(bb_fusible_back *back, int i, bb_tensor *extra) {
    const bb_fusible_op *op = back->op[i];
    const bb_op_context *c = &back->c[i];
    bb_context *ctx = back->ctx;
    int64_t inner = inner_of(op);
    bb_tensor *dy = bb_link_tensor(back->grad_output, c->dtype);
    if (!dy || check_shape(op, bb_shape_of_tensor(dy))) return ctx->status;
    bb_shape shape = bb_shape_of_tensor(dy), weight = data_of(op)->shape;
    bb_tensor *x = bb_saved_read(&c->saved[SAVED_X], ctx, "RMSNorm: backward"), *rstd = NULL;
    if (c->fused) rstd = bb_saved_read(&c->saved[SAVED_RSTD], ctx, "RMSNorm: backward");
    bb_tensor *scale = flat(scale_of(op, op->param[0], c->dtype));
    dy = rows_of(dy, weight.rank, inner);
    if (extra) extra = rows_of(bb_cast(extra, c->dtype), weight.rank, inner);
    if (ctx->status || !x || !scale || !dy) return ctx->status;
    const bool want[2] = {back->want_input, back->want_param[i][0]};
    bb_tensor *found[2] = {NULL, NULL}, *target = NULL;
    /* A narrow extra gradient is added in f32, with a weight gradient in f32. */
    bool direct = !extra || c->dtype == BB_F32 || c->dtype == BB_F64;
    if (want[1] && direct && op->param[0]->dtype == scale->dtype)
        target = bb_fusible_target(back, i, 0);
    found[1] = flat(target);
    norm_call n;
    norm_call_begin(&n, ctx, &bb_op_add_rms_norm, op, x, x, scale);
    if (ctx->status || n.call.op->infer(&n.call)) return ctx->status;
    int before = bb_margin_begin(ctx, &data_of(op)->margin, 1);
    if (extra && want[0] && c->fused && adds_in_kernel(&n))
        added_gradient(&n, x, rstd, dy, extra, want, found);
    else
        plain_gradient(op, c, x, rstd, scale, dy, extra, want, found);
    bb_margin_end(ctx, before);
    if (want[0]) back->grad_input = bb_link_of(bb_reshape(found[0], shape));
    if (want[1])
        back->grad_param[i][0] = target ? target : bb_reshape(bb_cast(found[1], c->dtype), weight);
    back->n_grad_params[i] = 1;
    return ctx->status;
}

static bb_status backward(bb_fusible_back *back) { return gradient(back, 0, NULL); }

/* ---- With its neighbours --------------------------------------------------------------------- */

/* [add_extra_input] [make_extra_output] rms_norm: the sum and its norm. */
bb_status bb_fused_add_rms_norm(bb_fusible_run *run) {
    bb_context *ctx = run->ctx;
    int last = run->n - 1;
    const bb_fusible_op *op = run->op[last];
    bb_op_context *c = &run->c[last];
    bb_tensor *x = run->input.tensor, *extra = run->extra_input[0];
    bb_shape shape = bb_shape_of(x);
    if (check_shape(op, shape)) return ctx->status;
    int trailing = data_of(op)->shape.rank;
    int64_t inner = inner_of(op);
    norm_call n;
    norm_call_begin(&n, ctx, &bb_op_add_rms_norm, op, rows_of(x, trailing, inner),
                    rows_of(extra, trailing, inner), flat(scale_of(op, op->param[0], c->dtype)));
    if (ctx->status) return ctx->status;
    bb_tensor *sum;
    if (!bb_quantizer_in_norm(run->next_op_input_quantizer) &&
        bb_op_has_kernel(ctx, n.call.op, n.call.device, true)) {
        int before = bb_margin_begin(ctx, &data_of(op)->margin, c->requires_grad ? 0 : 2);
        bb_status status = bb_run_call(&n.call, c->requires_grad, &c->fused);
        bb_margin_end(ctx, before);
        sum = n.call.out[1];
        if (status || save(c, sum, n.call.out[2])) return ctx->status;
        run->output = bb_link_of(bb_reshape(n.call.out[0], shape));
    } else {
        sum = bb_add(n.in[0], n.in[1]);
        finish(op, c, sum, shape, run->next_op_input_quantizer, &run->output);
    }
    if (run->n == 3) run->extra_output[1] = bb_reshape(sum, shape);
    return ctx->status;
}

/* rms_norm quantize: the second has nothing left to do. */
bb_status bb_fused_rms_norm_quantize(bb_fusible_run *run) {
    bb_fusible_run norm = bb_fusible_member(run, 0);
    norm.next_op_input_quantizer = run->op[1]->kind->input_quantizer(run->op[1]);
    bb_status status = forward(&norm);
    run->output = norm.output;
    return status;
}

/* [add_extra_input] make_extra_output rms_norm: the gradient that the extra output brings is added
 * to the norm's. */
bb_status bb_fused_add_rms_norm_backward(bb_fusible_back *back) {
    int last = back->n - 1;
    bb_status status = gradient(back, last, back->grad_extra_output[last - 1]);
    for (int i = 0; i < last; i++) back->n_grad_params[i] = 0;
    if (back->op[0]->kind->extra_input) back->grad_extra_input[0] = back->grad_input.tensor;
    return status;
}

/* ---- The record ------------------------------------------------------------------------------ */

/* Over all axes of normalized_shape at once, statistics in f32, 1 + weight in f32: a recorded graph
 * computes what the op does. */
static bb_tensor *compute(const bb_fusible_op *op, const bb_op_context *c, bb_tensor *const *in,
                          int n) {
    (void)n;
    bb_rms_norm_attrs attrs = {{0, {0}}, data_of(op)->eps, BB_SCALE_THEN_ROUND};
    if (!in[0] || check_shape(op, bb_shape_of(in[0]))) return NULL;
    for (int i = data_of(op)->shape.rank; i > 0; i--) attrs.axes.v[attrs.axes.n++] = -i;
    return bb_rms_norm_with(bb_cast(in[0], c->dtype), scale_of(op, in[1], c->dtype), &attrs);
}

const bb_fusible_kind bb_kind_rms_norm = {
    .name = "RMSNorm", .forward = forward, .backward = backward, .compute = compute};

bb_fusible_op *bb_fusible_rms_norm_of(bb_params *params, bb_tensor *weight,
                                      const bb_fusible_norm_options *options) {
    static const bb_fusible_norm_options defaults = {0};
    bb_context *ctx = bb_nn_context(params);
    if (!params || !weight || ctx->status) return NULL;
    if (!options) options = &defaults;
    rms_norm_data d = {.zero_centered = options->zero_centered_gamma,
                       .shape = bb_shape_of_tensor(weight)};
    if (bb_norm_eps(ctx, "RMSNorm", options, &d.eps) ||
        bb_margins_read(ctx, "RMSNorm", options, &d.margin))
        return NULL;
    if (d.shape.rank < 1) {
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "RMSNorm: normalized_shape: expected 1 to %d dimensions, got ()", BB_MAX_RANK);
        return NULL;
    }
    bb_fusible_op *op = bb_fusible_new(ctx, &bb_kind_rms_norm, params, &weight, 1, sizeof d);
    if (op) *(rms_norm_data *)op->data = d;
    return op;
}

bb_fusible_op *bb_fusible_rms_norm(bb_params *params, const char *name, bb_shape normalized_shape,
                                   const bb_fusible_norm_options *options) {
    bool zero = options && options->zero_centered_gamma;
    bb_tensor *weight =
        bb_nn_add(params, name, "weight", normalized_shape, zero ? BB_INIT_ZEROS : BB_INIT_ONES, 0);
    bb_fusible_op *op = bb_fusible_rms_norm_of(params, weight, options);
    if (op) op->name = bb_nn_layer_name(params, name);
    return op;
}
