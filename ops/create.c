/* Tensors from nothing, and dropout.
 *
 *   full     value everywhere (converted to the dtype as bb_cast would)
 *   arange   start, start + step, ... before stop; each computed in double and rounded once
 *   rand     uniform on [0, 1)         randn  normal(0, 1) by Box-Muller
 *   dropout  0 with probability p, else x / (1 - p);   dx = the same op, with the same mask, of dy
 *
 * Random numbers are Philox blocks of four 32-bit lanes; element i of a call reads
 *   f32, f16, bf16, all dropout   block offset + i/4, lane i%4; 24 bits: u = (lane >> 8) 2^-24
 *   f64                           block offset + i/2, lanes 2(i%2) (low) and the next (high);
 *                                 53 bits: u = (high:low >> 11) 2^-53
 * rand in f16 and bf16 rounds u to the dtype, but never up to 1. randn takes elements in pairs
 * (even, odd): their u0, u1 give r cos a and r sin a with r = sqrt(-2 ln(1 - u0)), a = 2 pi u1.
 * dropout keeps an element where u >= p (p rounded to f32).
 * Kernels: backends/cpu/create.c, backends/cuda/create.cu. */
#include <math.h>
#include <stddef.h>

#include "core/impl.h"
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

/* ---- Shape rules */

static bb_status infer_sizes(bb_call *call, const bb_ints *sizes, int dtype) {
    bb_shape shape = {.rank = sizes->n};
    int64_t count;
    if (sizes->n < 0 || sizes->n > BB_MAX_RANK)
        return bb_fail_attr(call, "shape", "expected 0 to %d sizes, got %d", BB_MAX_RANK, sizes->n);
    for (int i = 0; i < sizes->n; i++) shape.size[i] = sizes->v[i];
    if (!bb_shape_count(&shape, &count)) {
        char text[BB_SHAPE_TEXT];
        return bb_fail_attr(call, "shape", "expected sizes >= 0 whose product fits, got %s",
                            bb_shape_text(&shape, text));
    }
    bb_set_meta(call, 0, (bb_dtype)dtype, shape);
    return BB_OK;
}

static bb_status infer_full(bb_call *call) {
    const bb_full_attrs *a = call->attrs;
    return infer_sizes(call, &a->shape, a->dtype);
}

static bb_status infer_arange(bb_call *call) {
    const bb_arange_attrs *a = call->attrs;
    if (!isfinite(a->start))
        return bb_fail_attr(call, "start", "expected a finite number, got %g", a->start);
    if (!isfinite(a->stop))
        return bb_fail_attr(call, "stop", "expected a finite number, got %g", a->stop);
    if (!isfinite(a->step) || a->step == 0)
        return bb_fail_attr(call, "step", "expected a finite number other than 0, got %g", a->step);
    if (a->dtype == BB_BOOL)
        return bb_fail_attr(call, "dtype", "expected a number dtype, got bool");
    double count = ceil((a->stop - a->start) / a->step);
    if (!(count <= 0x1p+53))
        return bb_fail_attr(call, "stop", "expected at most 2^53 steps, got %g", count);
    bb_ints sizes = {.n = 1, .v = {count > 0 ? (int64_t)count : 0}};
    return infer_sizes(call, &sizes, a->dtype);
}

static bb_status infer_random(bb_call *call) {
    const bb_random_attrs *a = call->attrs;
    bb_status status = infer_sizes(call, &a->shape, a->dtype);
    if (status || bb_dtype_is_float((bb_dtype)a->dtype)) return status;
    return bb_fail_attr(call, "dtype", "expected a float dtype, got %s",
                        bb_dtype_name((bb_dtype)a->dtype));
}

static bb_status infer_dropout(bb_call *call) {
    double p = ((const bb_dropout_attrs *)call->attrs)->p;
    if (!(p >= 0 && p <= 1)) return bb_fail_attr(call, "p", "expected 0 to 1, got %g", p);
    return bb_infer_float(call);
}

static bb_status dropout_gradient(const bb_grad_call *grad) {
    grad->grad_in[0] =
        bb_apply1(grad->call->ctx, &bb_op_dropout, grad->grad_out, 1, grad->call->attrs);
    return grad->grad_in[0] ? BB_OK : bb_error(grad->call->ctx);
}

/* ---- Records */

const bb_op bb_op_full = {
    .name = "full",
    .doc = "value everywhere",
    .inputs = {NULL},
    .outputs = {"output"},
    .attrs = {{"shape", BB_ATTR_INTS, offsetof(bb_full_attrs, shape), .required = true},
              {"value", BB_ATTR_FLOAT, offsetof(bb_full_attrs, value), .value = 0},
              {"dtype", BB_ATTR_CHOICE, offsetof(bb_full_attrs, dtype), .choices = BB_DTYPE_CHOICES,
               .value = BB_F32}},
    .attrs_bytes = sizeof(bb_full_attrs),
    .infer = infer_full,
    .gradient = bb_no_gradient,
};
const bb_op bb_op_arange = {
    .name = "arange",
    .doc = "start, start + step, ... before stop",
    .inputs = {NULL},
    .outputs = {"output"},
    .attrs = {{"start", BB_ATTR_FLOAT, offsetof(bb_arange_attrs, start), .value = 0},
              {"stop", BB_ATTR_FLOAT, offsetof(bb_arange_attrs, stop), .required = true},
              {"step", BB_ATTR_FLOAT, offsetof(bb_arange_attrs, step), .value = 1},
              {"dtype", BB_ATTR_CHOICE, offsetof(bb_arange_attrs, dtype),
               .choices = BB_DTYPE_CHOICES, .value = BB_F32}},
    .attrs_bytes = sizeof(bb_arange_attrs),
    .infer = infer_arange,
    .gradient = bb_no_gradient,
};
const bb_op bb_op_rand = {
    .name = "rand",
    .doc = "uniform on [0, 1)",
    .inputs = {NULL},
    .outputs = {"output"},
    .attrs = {{"shape", BB_ATTR_INTS, offsetof(bb_random_attrs, shape), .required = true},
              {"dtype", BB_ATTR_CHOICE, offsetof(bb_random_attrs, dtype),
               .choices = BB_DTYPE_CHOICES, .value = BB_F32},
              {"seed", BB_ATTR_INT, offsetof(bb_random_attrs, seed), .value = 0},
              {"offset", BB_ATTR_INT, offsetof(bb_random_attrs, offset), .value = 0}},
    .attrs_bytes = sizeof(bb_random_attrs),
    .infer = infer_random,
    .gradient = bb_no_gradient,
};
const bb_op bb_op_randn = {
    .name = "randn",
    .doc = "normal(0, 1)",
    .inputs = {NULL},
    .outputs = {"output"},
    .attrs = {{"shape", BB_ATTR_INTS, offsetof(bb_random_attrs, shape), .required = true},
              {"dtype", BB_ATTR_CHOICE, offsetof(bb_random_attrs, dtype),
               .choices = BB_DTYPE_CHOICES, .value = BB_F32},
              {"seed", BB_ATTR_INT, offsetof(bb_random_attrs, seed), .value = 0},
              {"offset", BB_ATTR_INT, offsetof(bb_random_attrs, offset), .value = 0}},
    .attrs_bytes = sizeof(bb_random_attrs),
    .infer = infer_random,
    .gradient = bb_no_gradient,
};
const bb_op bb_op_dropout = {
    .name = "dropout",
    .doc = "0 with probability p, else input / (1 - p)",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"p", BB_ATTR_FLOAT, offsetof(bb_dropout_attrs, p), .value = 0.5},
              {"seed", BB_ATTR_INT, offsetof(bb_dropout_attrs, seed), .value = 0},
              {"offset", BB_ATTR_INT, offsetof(bb_dropout_attrs, offset), .value = 0}},
    .attrs_bytes = sizeof(bb_dropout_attrs),
    .infer = infer_dropout,
    .gradient = dropout_gradient,
};

/* ---- Functions */

/* More axes than a shape can hold are passed on as such, for the shape rule to refuse. */
static bb_ints ints_of(const bb_shape *shape) {
    bb_ints ints = {.n = shape->rank};
    for (int i = 0; i < shape->rank && i < BB_MAX_RANK; i++) ints.v[i] = shape->size[i];
    return ints;
}

bb_t bb_full(bb_context *ctx, bb_dtype dtype, bb_shape shape, double value) {
    bb_full_attrs attrs = {.shape = ints_of(&shape), .value = value, .dtype = (int)dtype};
    return bb_apply1(ctx, &bb_op_full, NULL, 0, &attrs);
}
bb_t bb_zeros(bb_context *ctx, bb_dtype dtype, bb_shape shape) {
    return bb_full(ctx, dtype, shape, 0);
}
bb_t bb_ones(bb_context *ctx, bb_dtype dtype, bb_shape shape) {
    return bb_full(ctx, dtype, shape, 1);
}

/* Not an op call: an op without inputs runs on the host; a constant belongs where its user is. */
bb_tensor *bb_constant(const bb_tensor *like, bb_shape shape, double value) {
    bb_context *ctx = bb_context_of(like);
    if (!ctx || bb_error(ctx)) return NULL;
    bb_backend *backend = ctx->backend[like->device];
    bb_tensor *t = bb_empty_on(ctx, (bb_device)like->device, (bb_dtype)like->dtype, shape);
    return t && backend->fill(backend, t, value) == BB_OK ? t : NULL;
}
bb_t bb_zeros_like(bb_t x) { return x ? bb_constant(x, bb_shape_of(x), 0) : NULL; }
bb_t bb_ones_like(bb_t x) { return x ? bb_constant(x, bb_shape_of(x), 1) : NULL; }

bb_t bb_arange(bb_context *ctx, bb_dtype dtype, double start, double stop, double step) {
    bb_arange_attrs attrs = {.start = start, .stop = stop, .step = step, .dtype = (int)dtype};
    return bb_apply1(ctx, &bb_op_arange, NULL, 0, &attrs);
}

/* f64 reads two lanes an element. A shape without a count takes no numbers: the shape rule refuses
 * it. */
static bb_t draw(const bb_op *op, bb_context *ctx, bb_dtype dtype, const bb_shape *shape) {
    int64_t count;
    if (!ctx || bb_error(ctx)) return NULL;
    if (!bb_shape_count(shape, &count) || count > INT64_MAX / 2) count = 0;
    bb_random_attrs attrs = {
        .shape = ints_of(shape), .dtype = (int)dtype, .seed = (int64_t)bb_get_rng(ctx).seed};
    attrs.offset = (int64_t)bb_take_random(ctx, dtype == BB_F64 ? 2 * count : count);
    return bb_apply1(ctx, op, NULL, 0, &attrs);
}
bb_t bb_rand(bb_context *ctx, bb_dtype dtype, bb_shape shape) {
    return draw(&bb_op_rand, ctx, dtype, &shape);
}
bb_t bb_randn(bb_context *ctx, bb_dtype dtype, bb_shape shape) {
    return draw(&bb_op_randn, ctx, dtype, &shape);
}

bb_t bb_dropout(bb_t x, double p) {
    bb_context *ctx = bb_context_of(x);
    if (!ctx || bb_error(ctx)) return NULL;
    bb_dropout_attrs attrs = {.p = p, .seed = (int64_t)bb_get_rng(ctx).seed};
    attrs.offset = (int64_t)bb_take_random(ctx, bb_count(x));
    return bb_apply1(ctx, &bb_op_dropout, &x, 1, &attrs);
}
