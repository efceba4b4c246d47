/* Quantize as a fusible op: what goes on from here is quantized, and so is, if asked for, the
 * gradient that comes back. The gradient goes straight through. Quantizers: nn/quantize.h. */
#include "nn/fusible/internal.h"

typedef struct quantize_data {
    bb_quantizer *forward, *backward;
} quantize_data;

static const quantize_data *data_of(const bb_fusible_op *op) { return op->data; }

static bb_link quantized(bb_link link, bb_quantizer *q) {
    return q && link.tensor ? (bb_link){NULL, bb_quantize(q, link.tensor)} : link;
}

static bb_status forward(bb_fusible_run *run) {
    run->output = quantized(run->input, data_of(run->op[0])->forward);
    return run->ctx->status;
}

static bb_status backward(bb_fusible_back *back) {
    back->grad_input = quantized(back->grad_output, data_of(back->op[0])->backward);
    back->n_grad_params[0] = 0;
    return back->ctx->status;
}

static bb_link record(const bb_fusible_op *op, const bb_op_context *c, bb_link input) {
    bb_quantizer *q = data_of(op)->forward;
    (void)c;
    return q && input.tensor ? (bb_link){NULL, bb_quantize_rows(q, input.tensor)} : input;
}

static bb_quantizer *input_quantizer(const bb_fusible_op *op) { return data_of(op)->forward; }
static bb_quantizer *grad_output_quantizer(const bb_fusible_op *op) {
    return data_of(op)->backward;
}

const bb_fusible_kind bb_kind_quantize = {.name = "Quantize",
                                          .forward = forward,
                                          .backward = backward,
                                          .record = record,
                                          .input_quantizer = input_quantizer,
                                          .grad_output_quantizer = grad_output_quantizer};

bb_fusible_op *bb_fusible_quantize(bb_context *ctx, bb_quantizer *forward_quantizer,
                                   bb_quantizer *backward_quantizer) {
    bb_fusible_op *op =
        bb_fusible_new(ctx, &bb_kind_quantize, NULL, NULL, 0, sizeof(quantize_data));
    if (op) *(quantize_data *)op->data = (quantize_data){forward_quantizer, backward_quantizer};
    return op;
}

/* ---- Quantized tensors for a backward -------------------------------------------------------- */

enum { PARTS = 5 };

/* quantized first: a held one is one. */
typedef struct held {
    bb_quantized quantized;
    bb_saved part[PARTS];
} held;

static bb_tensor **part_of(bb_quantized *x, int i) {
    bb_tensor **part[PARTS] = {&x->data, &x->scale_inv, &x->columns, &x->columns_scale_inv,
                               &x->amax};
    return part[i];
}

bb_quantized *bb_quantized_hold(const bb_quantized *x) {
    if (!x) return NULL;
    bb_context *ctx = bb_context_of(x->data ? x->data : x->columns);
    held *h = bb_arena_allocate(ctx, &ctx->arena, sizeof *h);
    if (!h) return NULL;
    *h = (held){.quantized = *x};
    for (int i = 0; i < PARTS && !ctx->status; i++) {
        bb_tensor **part = part_of(&h->quantized, i);
        if (*part) bb_save(*part, &h->part[i]);
        *part = NULL;
    }
    if (!ctx->status) return &h->quantized;
    bb_quantized_let_go(&h->quantized);
    return NULL;
}

bb_quantized *bb_quantized_held(bb_quantized *x, bb_context *ctx, const char *who) {
    held *h = (held *)x;
    for (int i = 0; i < PARTS; i++)
        if (h->part[i].ctx) *part_of(x, i) = bb_saved_read(&h->part[i], ctx, who);
    return ctx->status ? NULL : x;
}

void bb_quantized_let_go(bb_quantized *x) {
    held *h = (held *)x;
    for (int i = 0; h && i < PARTS; i++) bb_unsave(&h->part[i]);
}
