/* swiglu: output = silu(gate) up, in f32 (f64 for f64), rounded once. With s = sigmoid(gate):
 *
 *     dgate = dy up s (1 + gate (1 - s)),  dup = dy gate s
 *
 * Fused kernels: backends/cpu/activation.c, backends/cuda/activation.cu. */
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

static bb_status infer(bb_call *call) {
    bb_status status = bb_infer_float(call);
    if (!status) status = bb_want_dtype(call, 1, bb_dtype_of(call->in[0]));
    return status ? status : bb_want_shape(call, 1, bb_shape_of(call->in[0]));
}

static bb_status decompose(bb_call *call) {
    bb_dtype dtype = bb_dtype_of(call->in[0]), wide = dtype == BB_F64 ? BB_F64 : BB_F32;
    bb_t gate = bb_cast(call->in[0], wide), up = bb_cast(call->in[1], wide);
    call->out[0] = bb_cast(bb_mul(bb_mul(gate, bb_sigmoid(gate)), up), dtype);
    return bb_error(call->ctx);
}

const bb_op bb_op_swiglu = {
    .name = "swiglu",
    .doc = "silu(gate) * up",
    .inputs = {"gate", "up"},
    .outputs = {"output"},
    .saves_inputs = 1u << 0 | 1u << 1,
    .infer = infer,
    .decompose = decompose,
};

bb_t bb_swiglu(bb_t gate, bb_t up) {
    bb_tensor *in[] = {gate, up};
    return bb_apply1(bb_context_of(gate ? gate : up), &bb_op_swiglu, in, 2, NULL);
}
