/* silu: output = x sigmoid(x), in f32 (f64 for f64), rounded once.
 *
 *     dx = dy s (1 + x (1 - s)),  s = sigmoid(x)
 *
 * Fused kernels: backends/cpu/activation.c, backends/cuda/activation.cu. */
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

static bb_status decompose(bb_call *call) {
    bb_dtype dtype = bb_dtype_of(call->in[0]);
    bb_t x = bb_cast(call->in[0], dtype == BB_F64 ? BB_F64 : BB_F32);
    call->out[0] = bb_cast(bb_mul(x, bb_sigmoid(x)), dtype);
    return bb_error(call->ctx);
}

const bb_op bb_op_silu = {
    .name = "silu",
    .doc = "input * sigmoid(input)",
    .inputs = {"input"},
    .outputs = {"output"},
    .saves_inputs = 1u << 0,
    .infer = bb_infer_float,
    .decompose = decompose,
};

bb_t bb_silu(bb_t x) { return bb_apply1(bb_context_of(x), &bb_op_silu, &x, 1, NULL); }
