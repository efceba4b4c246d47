/* Elementwise ops of two inputs, which broadcast. dz is the gradient of the result; the tape sums a
 * gradient down to its input's shape.
 *
 *   add  x + y    dx = dz      dy = dz             maximum  the larger; NaN where either is NaN
 *   sub  x - y    dx = dz      dy = -dz            minimum  the smaller; NaN where either is NaN
 *   mul  x y      dx = dz y    dy = dz x                    the chosen one gets dz, equal ones
 *   div  x / y    dx = dz / y  dy = -(dz / y)(x / y)        dz/2 each
 *
 * The records want equal dtypes; the C functions promote first, with a bb_cast that the tape sees.
 * Kernels: backends/cpu/elementwise.c, backends/cuda/binary.cu. */
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

/* ---- Promotion (PyTorch's) */

/* The wider of two dtypes, whatever the shapes. Bool below integers below floats; f16 with bf16
 * needs f32. */
static bb_dtype wider(bb_dtype a, bb_dtype b) {
    static const int rank[BB_DTYPE_COUNT] = {
        [BB_BOOL] = 0, [BB_U8] = 1,   [BB_I32] = 2, [BB_I64] = 3,
        [BB_F16] = 4,  [BB_BF16] = 4, [BB_F32] = 5, [BB_F64] = 6};
    if (a != b && rank[a] == rank[b]) return BB_F32;
    return rank[a] >= rank[b] ? a : b;
}

static int kind(bb_dtype dtype) { return bb_dtype_is_float(dtype) ? 2 : dtype == BB_BOOL ? 0 : 1; }

/* A rank-0 tensor does not widen one with axes unless it is of a higher kind. NULL does not take
 * part. */
bb_dtype bb_promote(const bb_tensor *a, const bb_tensor *b) {
    if (!a || !b) return a ? bb_dtype_of(a) : b ? bb_dtype_of(b) : BB_F32;
    bb_dtype da = bb_dtype_of(a), db = bb_dtype_of(b);
    if (da == db) return da;
    int ra = bb_rank(a), rb = bb_rank(b);
    if (ra > 0 && rb == 0 && kind(da) >= kind(db)) return da;
    if (rb > 0 && ra == 0 && kind(db) >= kind(da)) return db;
    return wider(da, db);
}

void bb_promote_pair(bb_tensor **a, bb_tensor **b) {
    if (!*a || !*b || bb_dtype_of(*a) == bb_dtype_of(*b)) return;
    bb_dtype dtype = bb_promote(*a, *b);
    *a = bb_cast(*a, dtype);
    *b = bb_cast(*b, dtype);
}

static bb_t binary(const bb_op *op, bb_t a, bb_t b) {
    bb_promote_pair(&a, &b);
    bb_tensor *in[] = {a, b};
    return bb_apply1(bb_context_of(a ? a : b), op, in, 2, NULL);
}

/* ---- Shape rules */

/* add and mul of bool are or and and; a difference of bool has no meaning. */
static bb_status infer_sub(bb_call *call) {
    if (bb_dtype_of(call->in[0]) == BB_BOOL)
        return bb_fail_input(call, 0, "expected a number dtype, got bool");
    return bb_infer_broadcast(call);
}

static bb_status infer_div(bb_call *call) {
    bb_status status = bb_want_float(call, 0);
    return status ? status : bb_infer_broadcast(call);
}

/* ---- Gradients */

static bb_status add_gradient(const bb_grad_call *grad) {
    if (grad->want[0]) grad->grad_in[0] = grad->grad_out[0];
    if (grad->want[1]) grad->grad_in[1] = grad->grad_out[0];
    return BB_OK;
}

static bb_status sub_gradient(const bb_grad_call *grad) {
    if (grad->want[0]) grad->grad_in[0] = grad->grad_out[0];
    if (grad->want[1]) grad->grad_in[1] = bb_neg(grad->grad_out[0]);
    return bb_error(grad->call->ctx);
}

static bb_status mul_gradient(const bb_grad_call *grad) {
    if (grad->want[0]) grad->grad_in[0] = bb_mul(grad->grad_out[0], grad->call->in[1]);
    if (grad->want[1]) grad->grad_in[1] = bb_mul(grad->grad_out[0], grad->call->in[0]);
    return bb_error(grad->call->ctx);
}

static bb_status div_gradient(const bb_grad_call *grad) {
    bb_t x = grad->call->in[0], y = grad->call->in[1];
    bb_t slope = bb_div(grad->grad_out[0], y);
    if (grad->want[0]) grad->grad_in[0] = slope;
    if (grad->want[1]) grad->grad_in[1] = bb_neg(bb_mul(slope, bb_div(x, y)));
    return bb_error(grad->call->ctx);
}

/* dz where x lost nothing, half of it on a tie, 0 where x lost. NaN wins and loses nowhere, and so
 * keeps dz. */
static bb_t share(bb_t lost, bb_t tie, bb_t dz, bb_t zero) {
    return bb_where(lost, zero, bb_where(tie, bb_mul_scalar(dz, 0.5), dz));
}

static bb_status maximum_gradient(const bb_grad_call *grad) {
    bb_t x = grad->call->in[0], y = grad->call->in[1], dz = grad->grad_out[0];
    bb_t tie = bb_eq(x, y), zero = bb_constant(dz, BB_SCALAR, 0);
    if (grad->want[0]) grad->grad_in[0] = share(bb_lt(x, y), tie, dz, zero);
    if (grad->want[1]) grad->grad_in[1] = share(bb_gt(x, y), tie, dz, zero);
    return bb_error(grad->call->ctx);
}

static bb_status minimum_gradient(const bb_grad_call *grad) {
    bb_t x = grad->call->in[0], y = grad->call->in[1], dz = grad->grad_out[0];
    bb_t tie = bb_eq(x, y), zero = bb_constant(dz, BB_SCALAR, 0);
    if (grad->want[0]) grad->grad_in[0] = share(bb_gt(x, y), tie, dz, zero);
    if (grad->want[1]) grad->grad_in[1] = share(bb_lt(x, y), tie, dz, zero);
    return bb_error(grad->call->ctx);
}

/* ---- Records */

const bb_op bb_op_add = {
    .name = "add",
    .doc = "input + other",
    .inputs = {"input", "other"},
    .outputs = {"output"},
    .infer = bb_infer_broadcast,
    .gradient = add_gradient,
};
const bb_op bb_op_sub = {
    .name = "sub",
    .doc = "input - other",
    .inputs = {"input", "other"},
    .outputs = {"output"},
    .infer = infer_sub,
    .gradient = sub_gradient,
};
const bb_op bb_op_mul = {
    .name = "mul",
    .doc = "input * other",
    .inputs = {"input", "other"},
    .outputs = {"output"},
    .saves_inputs = 3u,
    .infer = bb_infer_broadcast,
    .gradient = mul_gradient,
};
const bb_op bb_op_div = {
    .name = "div",
    .doc = "input / other",
    .inputs = {"input", "other"},
    .outputs = {"output"},
    .saves_inputs = 3u,
    .infer = infer_div,
    .gradient = div_gradient,
};
const bb_op bb_op_maximum = {
    .name = "maximum",
    .doc = "the larger of input and other",
    .inputs = {"input", "other"},
    .outputs = {"output"},
    .saves_inputs = 3u,
    .infer = bb_infer_broadcast,
    .gradient = maximum_gradient,
};
const bb_op bb_op_minimum = {
    .name = "minimum",
    .doc = "the smaller of input and other",
    .inputs = {"input", "other"},
    .outputs = {"output"},
    .saves_inputs = 3u,
    .infer = bb_infer_broadcast,
    .gradient = minimum_gradient,
};

bb_t bb_add(bb_t a, bb_t b) { return binary(&bb_op_add, a, b); }
bb_t bb_sub(bb_t a, bb_t b) { return binary(&bb_op_sub, a, b); }
bb_t bb_mul(bb_t a, bb_t b) { return binary(&bb_op_mul, a, b); }
bb_t bb_div(bb_t a, bb_t b) {
    if (a && b && !bb_dtype_is_float(bb_promote(a, b))) {
        a = bb_cast(a, BB_F32);
        b = bb_cast(b, BB_F32);
    }
    return binary(&bb_op_div, a, b);
}
bb_t bb_maximum(bb_t a, bb_t b) { return binary(&bb_op_maximum, a, b); }
bb_t bb_minimum(bb_t a, bb_t b) { return binary(&bb_op_minimum, a, b); }
