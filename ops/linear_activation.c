/* LinearActivation: sum = input weight^T + bias, output = activation(sum), both written, since a
 * backward reads the sum; input (..., in), weight (out, in), bias (out) or absent. f16 and bf16
 * multiply and add in f32; the sum is rounded once, and so is the activation of what it was rounded
 * to: the bits are those of linear and activation.
 *
 *     relu, gelu (the tanh form), silu, sigmoid, tanh
 *
 * Fused kernels: backends/cpu/linear_activation.c, backends/cuda/linear_activation.cu, without a
 * backward: a chain (nn/fusible/linear.c) has the activation's and linear's own. */
#include "ops/ops.h"
#include "ops/table.h"

static bb_status infer(bb_call *call) {
    bb_status status = bb_op_linear.infer(call);
    call->meta[1] = call->meta[0];
    return status;
}

static bb_status decompose(bb_call *call) {
    const bb_linear_activation_attrs *a = call->attrs;
    bb_t sum = bb_linear(call->in[0], call->in[1], call->in[2]);
    bb_t (*const unary[])(bb_t) = {bb_relu, NULL, bb_silu, bb_sigmoid, bb_tanh};
    call->out[0] =
        a->activation == BB_LINEAR_GELU ? bb_gelu(sum, BB_GELU_TANH) : unary[a->activation](sum);
    call->out[1] = sum;
    return bb_error(call->ctx);
}

const bb_op bb_op_linear_activation = {
    .name = "LinearActivation",
    .doc = "activation(input @ weight^T + bias), and what it is of",
    .inputs = {"input", "weight", "bias"},
    .outputs = {"output", "sum"},
    .attrs = {{"activation", BB_ATTR_CHOICE, offsetof(bb_linear_activation_attrs, activation),
               .value = BB_LINEAR_GELU, .choices = "relu|gelu|silu|sigmoid|tanh"}},
    .attrs_bytes = sizeof(bb_linear_activation_attrs),
    .optional = 1u << 2,
    .infer = infer,
    .decompose = decompose,
};

bb_t bb_linear_activation(bb_t input, bb_t weight, bb_t bias, bb_linear_activation_kind activation,
                          bb_t *sum) {
    bb_tensor *in[] = {input, weight, bias}, *out[BB_MAX_OUTPUTS] = {NULL};
    const bb_linear_activation_attrs attrs = {(int)activation};
    bb_context *ctx = bb_context_of(input ? input : weight);
    bb_status status = bb_apply(ctx, &bb_op_linear_activation, in, 3, &attrs, out);
    if (sum) *sum = status ? NULL : out[1];
    return status ? NULL : out[0];
}
