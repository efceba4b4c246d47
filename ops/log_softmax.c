/* log_softmax: output = (x - max) - log(sum(exp(x - max))) along one axis.
 *
 * Computed in f32 (f64 for f64) and rounded once.
 *
 *     dx = dy - exp(output) sum(dy)
 *
 * Fused kernels: backends/cpu/log_softmax.c, backends/cuda/softmax.cu. */
#include "ops/ops.h"
#include "ops/softmax.h"
#include "ops/table.h"

static bb_status decompose(bb_call *call) {
    const bb_axis_attrs *a = call->attrs;
    bb_ints axes = BB_INTS(a->axis);
    bb_t x = bb_softmax_shifted(call->in[0], a->axis);
    bb_t y = bb_sub(x, bb_log(bb_sum(bb_exp(x), axes, true)));
    call->out[0] = bb_cast(y, bb_dtype_of(call->in[0]));
    return bb_error(call->ctx);
}

const bb_op bb_op_log_softmax = {
    .name = "log_softmax",
    .doc = "input - log(sum(exp(input) along axis))",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"axis", BB_ATTR_INT, offsetof(bb_axis_attrs, axis), .value = -1}},
    .attrs_bytes = sizeof(bb_axis_attrs),
    .saves_outputs = 1u << 0,
    .infer = bb_softmax_infer,
    .decompose = decompose,
};

bb_t bb_log_softmax(bb_t x, int64_t axis) {
    bb_axis_attrs attrs = {axis};
    return bb_apply1(bb_context_of(x), &bb_op_log_softmax, &x, 1, &attrs);
}
