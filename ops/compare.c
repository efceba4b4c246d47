/* Comparisons, and the choice they are made for. Inputs broadcast.
 *
 *   eq ne lt le gt ge   as bool; NaN is unequal to all, neither less nor greater. No gradient.
 *   where               condition ? x : y;  dx = dz where condition, else 0;  dy the reverse.
 *                       An inf or NaN in dz does not leak into the side that was not chosen.
 *
 * Kernels: backends/cpu/elementwise.c, backends/cuda/binary.cu. */
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

static bb_t compare(const bb_op *op, bb_t a, bb_t b) {
    bb_promote_pair(&a, &b);
    bb_tensor *in[] = {a, b};
    return bb_apply1(bb_context_of(a ? a : b), op, in, 2, NULL);
}

static bb_status infer_compare(bb_call *call) {
    bb_status status = bb_infer_broadcast(call);
    if (!status) call->meta[0].dtype = BB_BOOL;
    return status;
}

static bb_status infer_where(bb_call *call) {
    bb_status status = bb_want_dtype(call, 0, BB_BOOL);
    if (!status) status = bb_want_dtype(call, 2, bb_dtype_of(call->in[1]));
    return status ? status : bb_infer_shapes(call, bb_dtype_of(call->in[1]));
}

static bb_status where_gradient(const bb_grad_call *grad) {
    bb_t condition = grad->call->in[0], dz = grad->grad_out[0],
         zero = bb_constant(dz, BB_SCALAR, 0);
    if (grad->want[1]) grad->grad_in[1] = bb_where(condition, dz, zero);
    if (grad->want[2]) grad->grad_in[2] = bb_where(condition, zero, dz);
    return bb_error(grad->call->ctx);
}

const bb_op bb_op_eq = {
    .name = "eq",
    .doc = "input == other",
    .inputs = {"input", "other"},
    .outputs = {"output"},
    .infer = infer_compare,
    .gradient = bb_no_gradient,
};
const bb_op bb_op_ne = {
    .name = "ne",
    .doc = "input != other",
    .inputs = {"input", "other"},
    .outputs = {"output"},
    .infer = infer_compare,
    .gradient = bb_no_gradient,
};
const bb_op bb_op_lt = {
    .name = "lt",
    .doc = "input < other",
    .inputs = {"input", "other"},
    .outputs = {"output"},
    .infer = infer_compare,
    .gradient = bb_no_gradient,
};
const bb_op bb_op_le = {
    .name = "le",
    .doc = "input <= other",
    .inputs = {"input", "other"},
    .outputs = {"output"},
    .infer = infer_compare,
    .gradient = bb_no_gradient,
};
const bb_op bb_op_gt = {
    .name = "gt",
    .doc = "input > other",
    .inputs = {"input", "other"},
    .outputs = {"output"},
    .infer = infer_compare,
    .gradient = bb_no_gradient,
};
const bb_op bb_op_ge = {
    .name = "ge",
    .doc = "input >= other",
    .inputs = {"input", "other"},
    .outputs = {"output"},
    .infer = infer_compare,
    .gradient = bb_no_gradient,
};
const bb_op bb_op_where = {
    .name = "where",
    .doc = "condition ? input : other",
    .inputs = {"condition", "input", "other"},
    .outputs = {"output"},
    .saves_inputs = 1u << 0,
    .infer = infer_where,
    .gradient = where_gradient,
};

bb_t bb_eq(bb_t a, bb_t b) { return compare(&bb_op_eq, a, b); }
bb_t bb_ne(bb_t a, bb_t b) { return compare(&bb_op_ne, a, b); }
bb_t bb_lt(bb_t a, bb_t b) { return compare(&bb_op_lt, a, b); }
bb_t bb_le(bb_t a, bb_t b) { return compare(&bb_op_le, a, b); }
bb_t bb_gt(bb_t a, bb_t b) { return compare(&bb_op_gt, a, b); }
bb_t bb_ge(bb_t a, bb_t b) { return compare(&bb_op_ge, a, b); }
bb_t bb_where(bb_t condition, bb_t a, bb_t b) {
    bb_promote_pair(&a, &b);
    bb_tensor *in[] = {condition, a, b};
    return bb_apply1(bb_context_of(condition ? condition : a ? a : b), &bb_op_where, in, 3, NULL);
}
