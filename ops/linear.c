/* linear: output = input weight^T + bias; input (..., in), weight (out, in), bias (out) or absent.
 * f16 and bf16 multiply and add in f32 and round once. With rows of input and dy flattened to (n,
 * .):
 *
 *     dinput = dy weight,  dweight = dy^T input,  dbias = sum of dy over rows
 *
 * Fused kernels: backends/cpu/linear.c, backends/cuda/linear.cu. The layer: nn/linear.c. */
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

static bb_status infer(bb_call *call) {
    const bb_tensor *weight = call->in[1];
    bb_status status = bb_infer_float(call);
    if (!status) status = bb_want_rank(call, 0, 1);
    for (int i = 1; i < 3 && !status; i++)
        if (call->in[i]) status = bb_want_dtype(call, i, bb_dtype_of(call->in[0]));
    if (status) return status;
    int64_t in = bb_size(call->in[0], -1);
    if (bb_rank(weight) != 2 || bb_size(weight, 1) != in) {
        char text[BB_SHAPE_TEXT];
        bb_shape shape = bb_shape_of(weight);
        return bb_fail_input(call, 1, "expected shape (out, %lld), got %s", (long long)in,
                             bb_shape_text(&shape, text));
    }
    int64_t out = bb_size(weight, 0);
    call->meta[0].shape.size[call->meta[0].shape.rank - 1] = out;
    return call->in[2] ? bb_want_shape(call, 2, BB_SHAPE(out)) : BB_OK;
}

static bb_status decompose(bb_call *call) {
    bb_dtype dtype = bb_dtype_of(call->in[0]), wide = dtype == BB_F64 ? BB_F64 : BB_F32;
    bb_shape shape = bb_shape_of(call->in[0]);
    int64_t rows = 1;
    for (int i = 0; i < shape.rank - 1; i++) rows *= shape.size[i];
    /* One product of two matrices: a batched one would multiply the weight anew for each batch. */
    bb_t x = bb_reshape(bb_cast(call->in[0], wide), BB_SHAPE(rows, shape.size[shape.rank - 1]));
    bb_t y = bb_matmul(x, bb_transpose(bb_cast(call->in[1], wide), 0, 1));
    if (call->in[2]) y = bb_add(y, bb_cast(call->in[2], wide));
    call->out[0] = bb_reshape(bb_cast(y, dtype), call->meta[0].shape);
    return bb_error(call->ctx);
}

const bb_op bb_op_linear = {
    .name = "linear",
    .doc = "input @ weight^T + bias",
    .inputs = {"input", "weight", "bias"},
    .outputs = {"output"},
    .optional = 1u << 2,
    .saves_inputs = 1u << 0 | 1u << 1,
    .infer = infer,
    .decompose = decompose,
};

bb_t bb_linear(bb_t input, bb_t weight, bb_t bias) {
    bb_tensor *in[] = {input, weight, bias};
    return bb_apply1(bb_context_of(input ? input : weight), &bb_op_linear, in, 3, NULL);
}
