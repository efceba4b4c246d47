/* gelu: output = x Phi(x), in f32 (f64 for f64), rounded once. Phi is the normal distribution, or
 * its approximation:
 *
 *     none   Phi(x) = (1 + erf(x / sqrt 2)) / 2    dx = dy (Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi))
 *     tanh   Phi(x) = (1 + t) / 2,  t = tanh(u)    dx = dy (Phi(x) + x (1 - t^2) u' / 2)
 *            u = sqrt(2 / pi) (x + 0.044715 x^3)
 *
 * Fused kernels: backends/cpu/activation.c, backends/cuda/activation.cu. */
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

static const double root_half = 0.70710678118654752440, root_two_over_pi = 0.79788456080286535588;

static bb_status decompose(bb_call *call) {
    const bb_gelu_attrs *a = call->attrs;
    bb_dtype dtype = bb_dtype_of(call->in[0]);
    bb_t x = bb_cast(call->in[0], dtype == BB_F64 ? BB_F64 : BB_F32), bell;
    if (a->approximate == BB_GELU_TANH) {
        bb_t cube = bb_mul(bb_square(x), x);
        bell = bb_tanh(bb_mul_scalar(bb_add(x, bb_mul_scalar(cube, 0.044715)), root_two_over_pi));
    } else {
        bell = bb_erf(bb_mul_scalar(x, root_half));
    }
    call->out[0] = bb_cast(bb_mul(bb_mul_scalar(x, 0.5), bb_add_scalar(bell, 1)), dtype);
    return bb_error(call->ctx);
}

const bb_op bb_op_gelu = {
    .name = "gelu",
    .doc = "input * (1 + erf(input / sqrt(2))) / 2, or its tanh approximation",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"approximate", BB_ATTR_CHOICE, offsetof(bb_gelu_attrs, approximate),
               .value = BB_GELU_ERF, .choices = "none|tanh"}},
    .attrs_bytes = sizeof(bb_gelu_attrs),
    .saves_inputs = 1u << 0,
    .infer = bb_infer_float,
    .decompose = decompose,
};

bb_t bb_gelu(bb_t x, bb_gelu_form form) {
    bb_gelu_attrs attrs = {(int)form};
    return bb_apply1(bb_context_of(x), &bb_op_gelu, &x, 1, &attrs);
}
