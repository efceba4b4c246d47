/* One fusible op and the context of its backward: what all kinds have in common. The kinds are the
 * other files of this folder; nn/fusible.h is the manual. */
#include <string.h>

#include "nn/fusible/internal.h"

bb_link bb_link_of(bb_tensor *tensor) { return (bb_link){tensor, NULL}; }

bb_fusible_op *bb_fusible_new(bb_context *ctx, const bb_fusible_kind *kind, bb_params *params,
                              bb_tensor *const *param, int n_params, size_t bytes) {
    if (!ctx || ctx->status || !kind) return NULL;
    if (!kind->name || (!kind->compute && (!kind->forward || !kind->backward))) {
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "bb_fusible_new: kind: expected a name, and compute or forward and backward");
        return NULL;
    }
    if (n_params < 0 || n_params > BB_FUSIBLE_PARAMS || (n_params && !params)) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "%s: parameters: expected 0 to %d of one set, got %d%s",
                kind->name, BB_FUSIBLE_PARAMS, n_params, params ? "" : " without a set");
        return NULL;
    }
    for (int i = 0; i < n_params; i++)
        if (!param || !param[i] || param[i]->ctx != ctx) {
            bb_fail(ctx, BB_ERR_ARGUMENT,
                    "%s: parameter %d: expected a tensor of this context, got %s", kind->name, i,
                    param && param[i] ? "one of another" : "NULL");
            return NULL;
        }
    bb_fusible_op *op = bb_nn_allocate(ctx, sizeof *op);
    void *data = op && bytes ? bb_nn_allocate(ctx, bytes) : NULL;
    if (!op || (bytes && !data)) return NULL;
    *op = (bb_fusible_op){
        .ctx = ctx, .kind = kind, .params = params, .n_params = n_params, .data = data};
    for (int i = 0; i < n_params; i++) op->param[i] = param[i];
    return op;
}

void *bb_fusible_data(const bb_fusible_op *op) { return op ? op->data : NULL; }
const char *bb_fusible_name(const bb_fusible_op *op) { return op ? op->kind->name : NULL; }
int bb_fusible_param_count(const bb_fusible_op *op) { return op ? op->n_params : 0; }
bb_tensor *bb_fusible_param(const bb_fusible_op *op, int i) {
    return op && i >= 0 && i < op->n_params ? op->param[i] : NULL;
}

bb_status bb_fusible_reset_parameters(bb_fusible_op *op) {
    if (!op) return BB_ERR_ARGUMENT;
    for (int i = 0; i < op->n_params && !op->ctx->status; i++) {
        if (op->param[i]->storage)
            bb_nn_reset(op->params, op->param[i]);
        else
            bb_params_build(op->params);
    }
    return op->ctx->status;
}

/* ---- Links ---------------------------------------------------------------------------------- */

bb_dtype bb_link_dtype(bb_link link) {
    return link.quantized ? link.quantized->dtype : bb_dtype_of(link.tensor);
}
bb_shape bb_link_shape(bb_link link) {
    return link.quantized ? link.quantized->shape : bb_shape_of(link.tensor);
}

bb_tensor *bb_link_tensor(bb_link link, bb_dtype dtype) {
    return bb_cast(link.quantized ? bb_dequantize(link.quantized) : link.tensor, dtype);
}

/* ---- Contexts ------------------------------------------------------------------------------- */

void bb_op_context_clear(bb_op_context *c) {
    if (!c) return;
    for (int i = 0; i < BB_FUSIBLE_SAVED; i++) bb_unsave(&c->saved[i]);
    for (int i = 0; i < 2; i++) {
        if (c->op && c->step == c->op->ctx->step) bb_quantized_let_go(c->quantized[i]);
        c->quantized[i] = NULL;
    }
    c->op = NULL;
}

static bb_dtype compute_dtype(const bb_fusible_op *op, const bb_op_context *c, bb_link input) {
    if (c->autocast) return c->autocast_dtype;
    return op->n_params ? (bb_dtype)op->param[0]->dtype : bb_link_dtype(input);
}

static bb_status begin(bb_fusible_op *op, bb_op_context *c, bb_link input) {
    bb_op_context_clear(c);
    if (c->autocast && !bb_dtype_is_float(c->autocast_dtype))
        return bb_fail(op->ctx, BB_ERR_ARGUMENT,
                       "%s: autocast: expected f64, f32, f16 or bf16, got %s", op->kind->name,
                       bb_dtype_name(c->autocast_dtype));
    for (int i = 0; i < op->n_params; i++) {
        if (!op->param[i]->storage && bb_params_build(op->params)) return op->ctx->status;
        if (!bb_tensor_usable(op->param[i])) return op->ctx->status;
        c->version[i] = op->param[i]->storage->version;
    }
    c->op = op;
    c->step = op->ctx->step;
    c->fused = false;
    c->dtype = compute_dtype(op, c, input);
    c->rng = bb_get_rng(op->ctx);
    return BB_OK;
}

static bb_status check_context(const bb_fusible_op *op, const bb_op_context *c) {
    bb_context *ctx = op->ctx;
    const char *name = op->kind->name;
    if (c->op != op)
        return bb_fail(ctx, BB_ERR_STATE, "%s: backward: expected a context that %s, got %s", name,
                       "its forward has filled",
                       c->op ? "that of another op"
                             : "one that is empty (no forward, or a backward before)");
    if (c->step != ctx->step)
        return bb_fail(ctx, BB_ERR_STATE,
                       "%s: backward: expected the step of its forward, which has ended", name);
    if (!c->requires_grad)
        return bb_fail(ctx, BB_ERR_STATE,
                       "%s: backward: expected a context with requires_grad at the forward", name);
    for (int i = 0; i < op->n_params; i++)
        if (!bb_tensor_usable(op->param[i]) || op->param[i]->storage->version != c->version[i])
            return bb_fail(ctx, BB_ERR_STATE,
                           "%s: backward: a parameter was changed in place after the forward pass",
                           name);
    return BB_OK;
}

/* ---- Kinds that are only `compute` ----------------------------------------------------------- */

enum { COMPUTE_MAX = 2 + BB_FUSIBLE_PARAMS };

static int compute_inputs(const bb_fusible_op *op, bb_tensor *x, bb_tensor *extra,
                          bb_tensor *in[COMPUTE_MAX]) {
    int n = 0;
    in[n++] = x;
    if (op->kind->extra_input) in[n++] = extra;
    for (int i = 0; i < op->n_params; i++) in[n++] = op->param[i];
    return n;
}

static bb_status computed_forward(bb_fusible_run *run) {
    const bb_fusible_op *op = run->op[0];
    bb_op_context *c = &run->c[0];
    bb_tensor *in[COMPUTE_MAX], *x = bb_link_tensor(run->input, c->dtype);
    bb_tensor *extra = op->kind->extra_input ? bb_cast(run->extra_input[0], c->dtype) : NULL;
    if (c->requires_grad && (bb_save(x, &c->saved[0]) || bb_save(extra, &c->saved[1])))
        return run->ctx->status;
    int n = compute_inputs(op, x, extra, in);
    run->output = bb_link_of(op->kind->compute(op, c, in, n));
    return run->ctx->status;
}

typedef struct computed {
    const bb_fusible_op *op;
    const bb_op_context *c;
} computed;

static bb_status compute_again(void *user, bb_tensor *const *in, int n,
                               bb_tensor *out[BB_MAX_OUTPUTS]) {
    const computed *again = user;
    out[0] = again->op->kind->compute(again->op, again->c, in, n);
    return bb_error(again->op->ctx);
}

static bb_status computed_backward(bb_fusible_back *back) {
    const bb_fusible_op *op = back->op[0];
    bb_op_context *c = &back->c[0];
    bb_context *ctx = back->ctx;
    bool has_extra = op->kind->extra_input;
    bb_tensor *x = bb_saved_read(&c->saved[0], ctx, op->kind->name), *in[COMPUTE_MAX];
    bb_tensor *extra = has_extra ? bb_saved_read(&c->saved[1], ctx, op->kind->name) : NULL;
    bb_tensor *dy = bb_link_tensor(back->grad_output, c->dtype), *found[COMPUTE_MAX] = {NULL};
    if (!x || !dy || (has_extra && !extra)) return ctx->status;
    bool want[COMPUTE_MAX] = {back->want_input, true};
    int n = compute_inputs(op, x, extra, in), first = n - op->n_params;
    for (int i = 0; i < op->n_params; i++) want[first + i] = back->want_param[0][i];
    computed again = {op, c};
    bb_call call = {.ctx = ctx, .n_in = n, .in = in};
    bb_grad_call grad = {&call, &dy, want, found};
    bb_rng now = bb_get_rng(ctx);
    bb_set_rng(ctx, c->rng); /* the same random numbers again */
    bb_segment_backward(ctx, compute_again, &again, &grad);
    bb_set_rng(ctx, now);
    back->grad_input = bb_link_of(found[0]);
    if (has_extra) back->grad_extra_input[0] = found[1];
    for (int i = 0; i < op->n_params; i++)
        back->grad_param[0][i] = found[first + i] ? bb_cast(found[first + i], c->dtype) : NULL;
    back->n_grad_params[0] = op->n_params;
    return ctx->status;
}

/* ---- What stays of a run --------------------------------------------------------------------- */

enum { RESULTS_MAX = 6 + BB_FUSION_MEMBERS * (1 + BB_FUSIBLE_PARAMS) };

static int list_link(bb_link link, bb_tensor **list) {
    int n = 0;
    const bb_quantized *q = link.quantized;
    list[n++] = link.tensor;
    if (!q) return n;
    list[n++] = q->data, list[n++] = q->scale_inv, list[n++] = q->columns;
    list[n++] = q->columns_scale_inv, list[n++] = q->amax;
    return n;
}

/* ---- Forward and backward -------------------------------------------------------------------- */

static bb_status check_home(bb_context *ctx, const bb_fusible_kind *kind, const char *what,
                            bb_link link) {
    if (!link.tensor || bb_context_of(link.tensor) == ctx) return BB_OK;
    return bb_fail(ctx, BB_ERR_ARGUMENT,
                   "%s: %s: expected a tensor of this context, got one of another", kind->name,
                   what);
}

bb_fusible_run bb_fusible_member(const bb_fusible_run *run, int i) {
    bb_fusible_run one = *run;
    one.n = 1;
    one.op += i, one.c += i, one.extra_input += i, one.extra_output += i;
    return one;
}

bb_status bb_fusible_run_forward(bb_fusible_run *run, bb_status (*forward)(bb_fusible_run *run)) {
    bb_context *ctx = run->ctx;
    const bb_fusible_kind *kind = run->op[0]->kind;
    if (ctx->status) return ctx->status;
    if (!run->input.tensor == !run->input.quantized)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "%s: input: expected a tensor or a quantized one, got %s", kind->name,
                       run->input.tensor ? "both" : "neither");
    if (check_home(ctx, kind, "input", run->input)) return ctx->status;
    for (int i = 0; i < run->n; i++)
        if (begin(run->op[i], &run->c[i], run->input)) return ctx->status;
    if (!forward) forward = kind->forward ? kind->forward : computed_forward;
    bool before = bb_set_grad_enabled(ctx, false);
    bb_scope scope = bb_scope_begin(ctx);
    bb_status status = forward(run);
    bb_set_grad_enabled(ctx, before);
    bb_tensor *result[RESULTS_MAX];
    int n = list_link(run->output, result);
    for (int i = 0; i < run->n; i++) result[n++] = run->extra_output[i];
    bb_scope_end_many(ctx, scope, result, n);
    if (!status && !ctx->status && !run->output.tensor && !run->output.quantized)
        status = bb_fail(ctx, BB_ERR_STATE, "%s: forward: expected a result, got NULL", kind->name);
    if (status && !ctx->status) bb_fail(ctx, status, "%s: forward failed", kind->name);
    if (ctx->status) run->output = (bb_link){NULL, NULL};
    for (int i = 0; i < run->n && ctx->status; i++) bb_op_context_clear(&run->c[i]);
    return ctx->status;
}

static bb_status check_grads(const bb_fusible_back *back) {
    for (int i = 0; i < back->n; i++) {
        const bb_fusible_op *op = back->op[i];
        if (back->n_grad_params[i] != op->n_params)
            return bb_fail(back->ctx, BB_ERR_STATE,
                           "%s: backward: expected gradients of its %d parameters, got %d",
                           op->kind->name, op->n_params, back->n_grad_params[i]);
    }
    return BB_OK;
}

bb_status bb_fusible_run_backward(bb_fusible_back *back,
                                  bb_status (*backward)(bb_fusible_back *back)) {
    bb_context *ctx = back->ctx;
    const bb_fusible_kind *kind = back->op[0]->kind;
    if (ctx->status) return ctx->status;
    for (int i = 0; i < back->n; i++)
        if (check_context(back->op[i], &back->c[i])) return ctx->status;
    if (!back->grad_output.tensor == !back->grad_output.quantized)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "%s: grad_output: expected a tensor or a quantized one, got %s", kind->name,
                       back->grad_output.tensor ? "both" : "neither");
    if (check_home(ctx, kind, "grad_output", back->grad_output)) return ctx->status;
    if (!backward) backward = kind->backward ? kind->backward : computed_backward;
    bool before = bb_set_grad_enabled(ctx, false);
    bb_scope scope = bb_scope_begin(ctx);
    bb_status status = backward(back);
    if (!status && !ctx->status) status = check_grads(back);
    bb_quantizer *wish = back->c[0].prev_op_grad_output_quantizer;
    if (!ctx->status && wish && kind->quantizes_gradient && back->grad_input.tensor)
        back->grad_input = (bb_link){NULL, bb_quantize(wish, back->grad_input.tensor)};
    bb_set_grad_enabled(ctx, before);
    bb_tensor *result[RESULTS_MAX];
    int n = list_link(back->grad_input, result);
    for (int i = 0; i < back->n; i++) {
        result[n++] = back->grad_extra_input[i];
        for (int k = 0; k < BB_FUSIBLE_PARAMS; k++) result[n++] = back->grad_param[i][k];
    }
    bb_scope_end_many(ctx, scope, result, n);
    if (status && !ctx->status) bb_fail(ctx, status, "%s: backward failed", kind->name);
    if (ctx->status) back->grad_input = (bb_link){NULL, NULL};
    for (int i = 0; i < back->n; i++)
        if (!back->c[i].keep) bb_op_context_clear(&back->c[i]);
    return ctx->status;
}

bb_tensor *bb_fusible_target(const bb_fusible_back *back, int i, int k) {
    return back->call ? bb_function_target(back->call, back->param_input[i][k]) : NULL;
}

static bool alone(const bb_fusible_op *op, const char *what) {
    if (!op->kind->extra_input && !op->kind->extra_output) return true;
    bb_fail(op->ctx, BB_ERR_ARGUMENT, "%s: %s: an op with an extra input or output runs in a chain",
            op->kind->name, what);
    return false;
}

bb_link bb_fusible_forward(bb_fusible_op *op, bb_op_context *c, bb_link input,
                           bb_quantizer *prev_op_grad_output_quantizer,
                           bb_quantizer *next_op_input_quantizer) {
    bb_tensor *none = NULL;
    if (!op || !c || op->ctx->status || !alone(op, "forward")) return (bb_link){NULL, NULL};
    if (!input.tensor && !input.quantized && op->ctx->status) return input;
    bb_fusible_run run = {.ctx = op->ctx,
                          .n = 1,
                          .op = &op,
                          .c = c,
                          .input = input,
                          .extra_input = &none,
                          .extra_output = &none,
                          .next_op_input_quantizer = next_op_input_quantizer};
    c->prev_op_grad_output_quantizer = prev_op_grad_output_quantizer;
    if (bb_fusible_run_forward(&run, NULL) == BB_OK) c->result = bb_link_shape(run.output);
    return run.output;
}

/* A gradient has the elements of what the forward gave; its leading shape may be another. */
static bb_status check_shape(const bb_fusible_op *op, const bb_op_context *c, bb_link grad) {
    if (c->op != op || !grad.tensor == !grad.quantized) return BB_OK; /* said elsewhere */
    bb_shape shape = bb_link_shape(grad);
    char expected[BB_SHAPE_TEXT], got[BB_SHAPE_TEXT];
    int64_t n = 0, count = 0;
    if (bb_shape_count(&shape, &n) && bb_shape_count(&c->result, &count) && n == count)
        return BB_OK;
    return bb_fail(op->ctx, BB_ERR_ARGUMENT, "%s: grad_output: expected %s, got %s", op->kind->name,
                   bb_shape_text(&c->result, expected), bb_shape_text(&shape, got));
}

bb_link bb_fusible_backward(bb_fusible_op *op, bb_op_context *c, bb_link grad_output,
                            bb_tensor **grad_params) {
    if (!op || !c || op->ctx->status || !alone(op, "backward") || check_shape(op, c, grad_output))
        return (bb_link){NULL, NULL};
    bb_tensor *none = NULL, *no_extra = NULL, *grads[1][BB_FUSIBLE_PARAMS] = {{NULL}};
    const bool want[1][BB_FUSIBLE_PARAMS] = {{grad_params != NULL, grad_params != NULL}};
    int given = 0;
    bb_fusible_back back = {.ctx = op->ctx,
                            .n = 1,
                            .op = &op,
                            .c = c,
                            .grad_output = grad_output,
                            .want_input = true,
                            .grad_extra_output = &no_extra,
                            .grad_extra_input = &none,
                            .grad_param = grads,
                            .want_param = want,
                            .n_grad_params = &given};
    bb_fusible_run_backward(&back, NULL);
    for (int i = 0; i < op->n_params && grad_params; i++)
        grad_params[i] = op->ctx->status ? NULL : grads[0][i];
    return back.grad_input;
}
