/* softmax: output = exp(x - max) / sum(exp(x - max)) along one axis.
 *
 * Computed in f32 (f64 for f64) and rounded once.
 *
 *     dx = output (dy - sum(dy output))
 *
 * A row that is -inf throughout, or holds +inf or NaN, gives NaN, as exp says.
 * Fused kernels: backends/cpu/softmax.c, backends/cuda/softmax.cu. */
#include "ops/ops.h"
#include "ops/softmax.h"
#include "ops/table.h"

static bb_status decompose(bb_call *call) {
    const bb_axis_attrs *a = call->attrs;
    bb_dtype dtype = bb_dtype_of(call->in[0]);
    bb_ints axes = BB_INTS(a->axis);
    bb_t e = bb_exp(bb_softmax_shifted(call->in[0], a->axis));
    call->out[0] = bb_cast(bb_div(e, bb_sum(e, axes, true)), dtype);
    return bb_error(call->ctx);
}

const bb_op bb_op_softmax = {
    .name = "softmax",
    .doc = "exp(input) / sum(exp(input) along axis)",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"axis", BB_ATTR_INT, offsetof(bb_axis_attrs, axis), .value = -1}},
    .attrs_bytes = sizeof(bb_axis_attrs),
    .saves_outputs = 1u << 0,
    .infer = bb_softmax_infer,
    .decompose = decompose,
};

bb_t bb_softmax(bb_t x, int64_t axis) {
    bb_axis_attrs attrs = {axis};
    return bb_apply1(bb_context_of(x), &bb_op_softmax, &x, 1, &attrs);
}
