/* Members of a chain that run as one node: forward here, backward below, each op by op or fused
 * (fuser.c). While a graph is recorded, ops run as ordinary ones instead, one layer each. */
#include <string.h>

#include "nn/fusible/internal.h"

/* What the node keeps. Lives in the step's arena. */
typedef struct state {
    const char *name;
    int n, n_in, n_extra_out, first; /* ops from `first` on want gradients */
    bool fusion;
    bb_dtype dtype; /* of the output */
    bb_shape shape;
    bb_device device;
    bb_fusible_op **op;
    bb_op_context *c;
    bb_tensor **in;            /* input, extra inputs, parameters */
    int *extra_in, *extra_out; /* by op: which input, which output; -1: none */
    int (*param_input)[BB_FUSIBLE_PARAMS];
} state;

static void *take(bb_context *ctx, size_t n, size_t bytes) {
    void *block = bb_arena_allocate(ctx, &ctx->arena, (n + 1) * bytes);
    return block ? memset(block, 0, (n + 1) * bytes) : NULL;
}

static void release(bb_context *ctx, void *user) {
    state *st = user;
    (void)ctx;
    for (int i = 0; i < st->n; i++) bb_op_context_clear(&st->c[i]);
}

/* The inputs of the node, and the first op that takes part in backward. */
static void list_inputs(state *st, bb_link x, bb_tensor *const *extra) {
    st->n_in = 1;
    st->in[0] = x.tensor;
    st->n_extra_out = 0;
    for (int i = 0; i < st->n; i++) {
        st->extra_in[i] = st->extra_out[i] = -1;
        if (st->op[i]->kind->extra_output) st->extra_out[i] = ++st->n_extra_out;
        if (!st->op[i]->kind->extra_input) continue;
        st->extra_in[i] = st->n_in;
        st->in[st->n_in++] = *extra++;
    }
    for (int i = 0; i < st->n; i++)
        for (int k = 0; k < st->op[i]->n_params; k++) {
            st->param_input[i][k] = st->n_in;
            st->in[st->n_in++] = st->op[i]->param[k];
        }
    bool wanted = x.tensor && x.tensor->requires_grad;
    for (st->first = 0; st->first < st->n && !wanted; st->first++) {
        int i = st->first, e = st->extra_in[i];
        if (e >= 0 && st->in[e]) wanted = st->in[e]->requires_grad;
        for (int k = 0; k < st->op[i]->n_params; k++) wanted |= st->op[i]->param[k]->requires_grad;
        if (wanted) break;
    }
}

static state *begin(const bb_segment *s, bb_link x, bb_tensor *const *extra) {
    bb_context *ctx = s->ctx;
    size_t n = (size_t)s->n;
    state *st = take(ctx, 1, sizeof *st);
    if (!st) return NULL;
    *st = (state){.name = s->name, .n = s->n, .fusion = s->fusion};
    st->op = take(ctx, n, sizeof *st->op);
    st->c = take(ctx, n, sizeof *st->c);
    st->in = take(ctx, 1 + (1 + BB_FUSIBLE_PARAMS) * n, sizeof(bb_tensor *));
    st->extra_in = take(ctx, n, sizeof(int));
    st->extra_out = take(ctx, n, sizeof(int));
    st->param_input = take(ctx, n, sizeof *st->param_input);
    if (ctx->status) return NULL;
    for (int i = 0; i < s->n; i++) {
        bb_fusible_op *op = st->op[i] = s->op[i];
        for (int k = 0; k < op->n_params; k++)
            if (!op->param[k]->storage && bb_params_build(op->params)) return NULL;
    }
    list_inputs(st, x, extra);
    bool wanted = bb_function_wanted(ctx, st->in, st->n_in);
    for (int i = 0; i < s->n; i++) {
        st->c[i].requires_grad = wanted && i >= st->first;
        st->c[i].autocast = s->autocast;
        st->c[i].autocast_dtype = s->autocast_dtype;
        const bb_fusible_kind *prev = i ? s->op[i - 1]->kind : NULL;
        if (s->fusion && prev && prev->grad_output_quantizer)
            st->c[i].prev_op_grad_output_quantizer = prev->grad_output_quantizer(s->op[i - 1]);
    }
    return st;
}

static void trace(bb_context *ctx, const state *st, const bb_fusion *f, const char *way, int at) {
    if (ctx->trace && f)
        fprintf(ctx->trace, "fusion %s %s of ops %d to %d in chain %s\n", f->name, way, at,
                at + f->n - 1, st->name);
}

static bool is_among(const bb_tensor *t, bb_tensor *const *list, int n) {
    for (int i = 0; i < n; i++)
        if (list[i] == t) return true;
    return false;
}

/* ---- Forward --------------------------------------------------------------------------------- */

static bb_link run_all(const bb_segment *s, state *st, bb_link x, bb_tensor *const *extra,
                       bb_tensor **extra_out) {
    bb_context *ctx = s->ctx;
    bb_tensor **in = take(ctx, (size_t)s->n, sizeof *in),
              **out = take(ctx, (size_t)s->n, sizeof *out);
    if (ctx->status) return (bb_link){NULL, NULL};
    for (int i = 0; i < s->n; i++)
        if (st->extra_in[i] >= 0) in[i] = *extra++;
    for (int i = 0; i < s->n && !ctx->status;) {
        bb_fusible_run run = {.ctx = ctx,
                              .n = 1,
                              .op = st->op + i,
                              .c = st->c + i,
                              .input = x,
                              .extra_input = in + i,
                              .extra_output = out + i};
        const bb_fusion *f = s->fusion ? bb_fusion_forward(&run, s->n - i) : NULL;
        int next = i + run.n;
        if (s->fusion && next < s->n && st->op[next]->kind->input_quantizer)
            run.next_op_input_quantizer = st->op[next]->kind->input_quantizer(st->op[next]);
        trace(ctx, st, f, "forward", i);
        bb_fusible_run_forward(&run, f ? f->forward : NULL);
        x = run.output;
        i = next;
    }
    for (int i = 0; i < s->n; i++)
        if (st->extra_out[i] >= 0) *extra_out++ = out[i];
    return ctx->status ? (bb_link){NULL, NULL} : x;
}

/* Results of a node are new handles. */
static bb_tensor *own(const state *st, bb_tensor *t, bb_tensor *const *before, int n) {
    bool known = !t || t->life != BB_LIFE_STEP || t->node >= 0 || t->requires_grad ||
                 is_among(t, st->in, st->n_in) || is_among(t, before, n);
    return known && t ? bb_detach_header(t) : t;
}

static const bb_function segment_function;

static bb_link eager(const bb_segment *s, bb_link x, bb_tensor *const *extra_in,
                     bb_tensor **extra_out, bool tensor_wanted) {
    bb_context *ctx = s->ctx;
    bb_tensor *result[BB_MAX_OUTPUTS] = {NULL}, **extra = NULL;
    state *st = begin(s, x, extra_in);
    if (!st) return (bb_link){NULL, NULL};
    if (st->n_extra_out >= BB_MAX_OUTPUTS) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "chain %s: extra outputs: expected at most %d, got %d",
                s->name, BB_MAX_OUTPUTS - 1, st->n_extra_out);
        return (bb_link){NULL, NULL};
    }
    extra = result + 1;
    bb_scope scope = bb_scope_begin(ctx);
    bb_link y = run_all(s, st, x, extra_in, extra);
    if (y.quantized && !tensor_wanted) return y; /* nothing is recorded */
    result[0] = bb_link_tensor(y, bb_link_dtype(y));
    int n = 1 + st->n_extra_out;
    for (int i = 0; i < n && !ctx->status; i++) result[i] = own(st, result[i], result, i);
    bb_scope_end_many(ctx, scope, result, n);
    if (ctx->status) {
        release(ctx, st);
        return (bb_link){NULL, NULL};
    }
    st->dtype = (bb_dtype)result[0]->dtype;
    st->shape = bb_shape_of_tensor(result[0]);
    st->device = (bb_device)result[0]->device;
    if (bb_function_record(ctx, &segment_function, st, st->in, st->n_in, result, n))
        return (bb_link){NULL, NULL};
    for (int i = 1; i < n; i++) extra_out[i - 1] = result[i];
    return bb_link_of(result[0]);
}

/* ---- Backward -------------------------------------------------------------------------------- */

typedef struct grads {
    bb_tensor **extra_out, **extra_in;
    bb_tensor *(*param)[BB_FUSIBLE_PARAMS];
    bool (*want)[BB_FUSIBLE_PARAMS];
    int *given;
} grads;

static bb_status begin_grads(const bb_function_call *call, const state *st, grads *g) {
    bb_context *ctx = call->ctx;
    size_t n = (size_t)st->n;
    g->extra_out = take(ctx, n, sizeof(bb_tensor *));
    g->extra_in = take(ctx, n, sizeof(bb_tensor *));
    g->param = take(ctx, n, sizeof *g->param);
    g->want = take(ctx, n, sizeof *g->want);
    g->given = take(ctx, n, sizeof(int));
    if (ctx->status) return ctx->status;
    for (int i = 0; i < st->n; i++) {
        if (st->extra_out[i] >= 0) g->extra_out[i] = call->grad_out[st->extra_out[i]];
        for (int k = 0; k < st->op[i]->n_params; k++)
            g->want[i][k] = call->want[st->param_input[i][k]];
    }
    return BB_OK;
}

/* The gradient of the output; where only extra outputs were used, zeros. */
static bb_tensor *cotangent(const bb_function_call *call, const state *st) {
    if (call->grad_out[0]) return call->grad_out[0];
    bb_tensor *zeros = bb_tensor_new(call->ctx, st->device, st->dtype, &st->shape);
    bb_backend *backend = call->ctx->backend[st->device];
    return zeros && (zeros->count == 0 || backend->fill(backend, zeros, 0) == BB_OK) ? zeros : NULL;
}

static void hand_over(const bb_function_call *call, const state *st, const grads *g, int from,
                      int n) {
    for (int i = from; i < from + n; i++) {
        if (st->extra_in[i] >= 0) call->grad_in[st->extra_in[i]] = g->extra_in[i];
        for (int k = 0; k < st->op[i]->n_params; k++)
            call->grad_in[st->param_input[i][k]] = g->want[i][k] ? g->param[i][k] : NULL;
    }
}

static bb_status backward(const bb_function_call *call) {
    state *st = call->state;
    bb_context *ctx = call->ctx;
    grads g;
    bb_link dy = bb_link_of(cotangent(call, st));
    if (!dy.tensor || begin_grads(call, st, &g)) return ctx->status;
    for (int last = st->n - 1; last >= st->first && !ctx->status;) {
        const bb_fusion *f = st->fusion ? bb_fusion_backward(st->op, last) : NULL;
        int n = f && last + 1 - f->n >= st->first ? f->n : 1, i = last + 1 - n;
        if (n == 1) f = NULL;
        bb_fusible_back back = {.ctx = ctx,
                                .n = n,
                                .op = st->op + i,
                                .c = st->c + i,
                                .grad_output = dy,
                                .want_input = i > st->first || call->want[0],
                                .grad_extra_output = g.extra_out + i,
                                .grad_extra_input = g.extra_in + i,
                                .grad_param = g.param + i,
                                .want_param = (const bool(*)[BB_FUSIBLE_PARAMS])g.want + i,
                                .n_grad_params = g.given + i,
                                .call = call,
                                .param_input =
                                    (const int(*)[BB_FUSIBLE_PARAMS])st->param_input + i};
        if (st->extra_in[i] >= 0) back.want_input |= call->want[st->extra_in[i]];
        for (int k = 0; k < n; k++) st->c[i + k].keep = call->again;
        trace(ctx, st, f, "backward", i);
        if (bb_fusible_run_backward(&back, f ? f->backward : NULL)) return ctx->status;
        hand_over(call, st, &g, i, n);
        dy = back.grad_input;
        last = i - 1;
    }
    if (call->want[0]) call->grad_in[0] = bb_link_tensor(dy, bb_link_dtype(dy));
    return ctx->status;
}

static const bb_function segment_function = {"chain", backward, release};

/* ---- Recorded -------------------------------------------------------------------------------- */

static bb_link recorded(const bb_segment *s, bb_link x, bb_tensor *const *extra_in,
                        bb_tensor **extra_out, bool tensor_wanted) {
    bb_context *ctx = s->ctx;
    state *st = begin(s, x, extra_in);
    if (!st) return (bb_link){NULL, NULL};
    for (int i = 0; i < s->n && !ctx->status; i++) {
        const bb_fusible_op *op = st->op[i];
        bb_op_context *c = &st->c[i];
        bb_tensor *in[2 + BB_FUSIBLE_PARAMS];
        bb_module here;
        int n = 0;
        in[n++] = op->kind->record ? NULL : bb_link_tensor(x, bb_link_dtype(x));
        if (op->kind->extra_input) in[n++] = *extra_in++;
        for (int k = 0; k < op->n_params; k++) in[n++] = op->param[k];
        c->dtype = c->autocast    ? c->autocast_dtype
                   : op->n_params ? (bb_dtype)op->param[0]->dtype
                                  : bb_link_dtype(x);
        bb_module_enter(ctx, &here, op->kind->name, op->name ? op->name : "ops", op->name ? -1 : i);
        x = op->kind->record ? op->kind->record(op, c, x)
                             : bb_link_of(op->kind->compute(op, c, in, n));
        bb_module_leave(ctx, &here);
        if (op->kind->extra_output) *extra_out++ = x.tensor;
    }
    if (x.quantized && tensor_wanted) x = bb_link_of(bb_dequantize(x.quantized));
    return ctx->status ? (bb_link){NULL, NULL} : x;
}

bb_link bb_segment_forward(const bb_segment *s, bb_link x, bb_tensor *const *extra_in,
                           bb_tensor **extra_out, bool tensor_wanted) {
    if (s->ctx->status) return (bb_link){NULL, NULL};
    if (!bb_is_recorded(s->ctx)) return eager(s, x, extra_in, extra_out, tensor_wanted);
    for (int i = 0; i < s->n; i++)
        if (!s->op[i]->kind->compute && !s->op[i]->kind->record) {
            bb_fail(s->ctx, BB_ERR_UNSUPPORTED,
                    "%s: a graph is being recorded: this kind does not say how it computes",
                    s->op[i]->kind->name);
            return (bb_link){NULL, NULL};
        }
    return recorded(s, x, extra_in, extra_out, tensor_wanted);
}
