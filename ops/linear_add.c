/* LinearAdd: output = input weight^T + bias + residual; the linear map that ends on a residual
 * stream. input (..., in), weight (out, in), bias (out) or absent, residual of output's shape. f16
 * and bf16 multiply and add in f32 and round once. Gradients are those of linear (ops/linear.c),
 * and dresidual = dy.
 *
 * Fused kernels: backends/cpu/linear.c, backends/cuda/linear.cu, whose product starts from the
 * residual instead of zeros. */
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

static bb_status infer(bb_call *call) {
    bb_status status = bb_op_linear.infer(call);
    if (!status) status = bb_want_dtype(call, 3, bb_dtype_of(call->in[0]));
    return status ? status : bb_want_shape(call, 3, call->meta[0].shape);
}

static bb_status decompose(bb_call *call) {
    bb_dtype dtype = bb_dtype_of(call->in[0]), wide = dtype == BB_F64 ? BB_F64 : BB_F32;
    bb_t bias = call->in[2] ? bb_cast(call->in[2], wide) : NULL;
    bb_t y = bb_linear(bb_cast(call->in[0], wide), bb_cast(call->in[1], wide), bias);
    call->out[0] = bb_cast(bb_add(y, bb_cast(call->in[3], wide)), dtype);
    return bb_error(call->ctx);
}

const bb_op bb_op_linear_add = {
    .name = "LinearAdd",
    .doc = "input @ weight^T + bias + residual",
    .inputs = {"input", "weight", "bias", "residual"},
    .outputs = {"output"},
    .optional = 1u << 2,
    .saves_inputs = 1u << 0 | 1u << 1,
    .infer = infer,
    .decompose = decompose,
};

bb_t bb_linear_add(bb_t input, bb_t weight, bb_t bias, bb_t residual) {
    bb_tensor *in[] = {input, weight, bias, residual};
    return bb_apply1(bb_context_of(input ? input : weight), &bb_op_linear_add, in, 4, NULL);
}
