/* Elementwise ops of one input, y = f(x), with dy the gradient of y:
 *
 *   neg    -x         dx = -dy            tanh        tanh x        dx = dy (1 - y^2)
 *   abs    |x|        dx = dy sign x      sigmoid     1/(1 + e^-x)  dx = dy y (1 - y)
 *   sign   -1, 0, 1   dx = 0              relu        max(x, 0)     dx = 0 where y <= 0, else dy
 *   exp    e^x        dx = dy y           erf         erf x         dx = dy 2/sqrt(pi) e^(-x^2)
 *   log    ln x       dx = dy / x         square      x^2           dx = 2 x dy
 *   sqrt   x^(1/2)    dx = dy / (2 y)     reciprocal  1/x           dx = -dy y^2
 *   rsqrt  x^(-1/2)   dx = -dy y / (2 x)  sin, cos                  dx = dy cos x, -dy sin x
 *
 * neg, abs, sign, relu and square take any number, the others floats.
 * Kernels: backends/cpu/elementwise.c, backends/cuda/elementwise.cu. */
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

static bb_t unary(const bb_op *op, bb_t x) { return bb_apply1(bb_context_of(x), op, &x, 1, NULL); }

/* Stores a gradient; NULL means that an op above has failed and said why. */
static bb_status give(const bb_grad_call *grad, bb_t gradient) {
    grad->grad_in[0] = gradient;
    return gradient ? BB_OK : bb_error(grad->call->ctx);
}

static bb_status neg_gradient(const bb_grad_call *grad) {
    return give(grad, bb_neg(grad->grad_out[0]));
}
const bb_op bb_op_neg = {
    .name = "neg",
    .doc = "-input",
    .inputs = {"input"},
    .outputs = {"output"},
    .infer = bb_infer_number,
    .gradient = neg_gradient,
};
bb_t bb_neg(bb_t x) { return unary(&bb_op_neg, x); }

static bb_status abs_gradient(const bb_grad_call *grad) {
    return give(grad, bb_mul(grad->grad_out[0], bb_sign(grad->call->in[0])));
}
const bb_op bb_op_abs = {
    .name = "abs",
    .doc = "|input|",
    .inputs = {"input"},
    .outputs = {"output"},
    .saves_inputs = 1u << 0,
    .infer = bb_infer_number,
    .gradient = abs_gradient,
};
bb_t bb_abs(bb_t x) { return unary(&bb_op_abs, x); }

/* Zero, not "none": a network with sign in it still has gradients of the right shape everywhere. */
static bb_status sign_gradient(const bb_grad_call *grad) {
    return give(grad, bb_zeros_like(grad->grad_out[0]));
}
const bb_op bb_op_sign = {
    .name = "sign",
    .doc = "-1, 0 or 1; 0 for NaN",
    .inputs = {"input"},
    .outputs = {"output"},
    .infer = bb_infer_number,
    .gradient = sign_gradient,
};
bb_t bb_sign(bb_t x) { return unary(&bb_op_sign, x); }

static bb_status exp_gradient(const bb_grad_call *grad) {
    return give(grad, bb_mul(grad->grad_out[0], grad->call->out[0]));
}
const bb_op bb_op_exp = {
    .name = "exp",
    .doc = "e^input",
    .inputs = {"input"},
    .outputs = {"output"},
    .saves_outputs = 1u << 0,
    .infer = bb_infer_float,
    .gradient = exp_gradient,
};
bb_t bb_exp(bb_t x) { return unary(&bb_op_exp, x); }

static bb_status log_gradient(const bb_grad_call *grad) {
    return give(grad, bb_div(grad->grad_out[0], grad->call->in[0]));
}
const bb_op bb_op_log = {
    .name = "log",
    .doc = "natural logarithm",
    .inputs = {"input"},
    .outputs = {"output"},
    .saves_inputs = 1u << 0,
    .infer = bb_infer_float,
    .gradient = log_gradient,
};
bb_t bb_log(bb_t x) { return unary(&bb_op_log, x); }

static bb_status sqrt_gradient(const bb_grad_call *grad) {
    return give(grad, bb_mul_scalar(bb_div(grad->grad_out[0], grad->call->out[0]), 0.5));
}
const bb_op bb_op_sqrt = {
    .name = "sqrt",
    .doc = "square root",
    .inputs = {"input"},
    .outputs = {"output"},
    .saves_outputs = 1u << 0,
    .infer = bb_infer_float,
    .gradient = sqrt_gradient,
};
bb_t bb_sqrt(bb_t x) { return unary(&bb_op_sqrt, x); }

/* Not dy y^3: that leaves f32's range at x = 2e-26 and at 2e25, where the gradient of a norm is
 * still an ordinary number, and has y's rounding three times. abs is for -0, where y is -infinity.
 */
static bb_status rsqrt_gradient(const bb_grad_call *grad) {
    bb_t slope = bb_div(bb_mul(grad->grad_out[0], grad->call->out[0]), bb_abs(grad->call->in[0]));
    return give(grad, bb_mul_scalar(slope, -0.5));
}
const bb_op bb_op_rsqrt = {
    .name = "rsqrt",
    .doc = "1 / sqrt(input)",
    .inputs = {"input"},
    .outputs = {"output"},
    .saves_inputs = 1u << 0,
    .saves_outputs = 1u << 0,
    .infer = bb_infer_float,
    .gradient = rsqrt_gradient,
};
bb_t bb_rsqrt(bb_t x) { return unary(&bb_op_rsqrt, x); }

static bb_status sin_gradient(const bb_grad_call *grad) {
    return give(grad, bb_mul(grad->grad_out[0], bb_cos(grad->call->in[0])));
}
const bb_op bb_op_sin = {
    .name = "sin",
    .doc = "sine of input in radians",
    .inputs = {"input"},
    .outputs = {"output"},
    .saves_inputs = 1u << 0,
    .infer = bb_infer_float,
    .gradient = sin_gradient,
};
bb_t bb_sin(bb_t x) { return unary(&bb_op_sin, x); }

static bb_status cos_gradient(const bb_grad_call *grad) {
    return give(grad, bb_neg(bb_mul(grad->grad_out[0], bb_sin(grad->call->in[0]))));
}
const bb_op bb_op_cos = {
    .name = "cos",
    .doc = "cosine of input in radians",
    .inputs = {"input"},
    .outputs = {"output"},
    .saves_inputs = 1u << 0,
    .infer = bb_infer_float,
    .gradient = cos_gradient,
};
bb_t bb_cos(bb_t x) { return unary(&bb_op_cos, x); }

/* 1 - y^2 */
static bb_t one_minus_square(bb_t y) { return bb_add_scalar(bb_neg(bb_square(y)), 1.0); }

static bb_status tanh_gradient(const bb_grad_call *grad) {
    return give(grad, bb_mul(grad->grad_out[0], one_minus_square(grad->call->out[0])));
}
const bb_op bb_op_tanh = {
    .name = "tanh",
    .doc = "hyperbolic tangent",
    .inputs = {"input"},
    .outputs = {"output"},
    .saves_outputs = 1u << 0,
    .infer = bb_infer_float,
    .gradient = tanh_gradient,
};
bb_t bb_tanh(bb_t x) { return unary(&bb_op_tanh, x); }

static bb_status sigmoid_gradient(const bb_grad_call *grad) {
    bb_t y = grad->call->out[0];
    return give(grad, bb_mul(grad->grad_out[0], bb_mul(y, bb_add_scalar(bb_neg(y), 1.0))));
}
const bb_op bb_op_sigmoid = {
    .name = "sigmoid",
    .doc = "1 / (1 + e^-input)",
    .inputs = {"input"},
    .outputs = {"output"},
    .saves_outputs = 1u << 0,
    .infer = bb_infer_float,
    .gradient = sigmoid_gradient,
};
bb_t bb_sigmoid(bb_t x) { return unary(&bb_op_sigmoid, x); }

/* where, not a product: an infinite gradient of a cut element must not become NaN. NaN is not cut,
 * as in PyTorch. */
static bb_status relu_gradient(const bb_grad_call *grad) {
    bb_t y = grad->call->out[0], zero = bb_constant(y, BB_SCALAR, 0);
    return give(grad, bb_where(bb_le(y, zero), zero, grad->grad_out[0]));
}
const bb_op bb_op_relu = {
    .name = "relu",
    .doc = "max(input, 0)",
    .inputs = {"input"},
    .outputs = {"output"},
    .saves_outputs = 1u << 0,
    .infer = bb_infer_number,
    .gradient = relu_gradient,
};
bb_t bb_relu(bb_t x) { return unary(&bb_op_relu, x); }

static bb_status erf_gradient(const bb_grad_call *grad) {
    const double two_over_sqrt_pi = 1.1283791670955126;
    bb_t slope = bb_mul_scalar(bb_exp(bb_neg(bb_square(grad->call->in[0]))), two_over_sqrt_pi);
    return give(grad, bb_mul(grad->grad_out[0], slope));
}
const bb_op bb_op_erf = {
    .name = "erf",
    .doc = "error function",
    .inputs = {"input"},
    .outputs = {"output"},
    .saves_inputs = 1u << 0,
    .infer = bb_infer_float,
    .gradient = erf_gradient,
};
bb_t bb_erf(bb_t x) { return unary(&bb_op_erf, x); }

/* Doubled last: 2 x may be beyond a range that 2 x dy is in. */
static bb_status square_gradient(const bb_grad_call *grad) {
    return give(grad, bb_mul_scalar(bb_mul(grad->grad_out[0], grad->call->in[0]), 2.0));
}
const bb_op bb_op_square = {
    .name = "square",
    .doc = "input^2",
    .inputs = {"input"},
    .outputs = {"output"},
    .saves_inputs = 1u << 0,
    .infer = bb_infer_number,
    .gradient = square_gradient,
};
bb_t bb_square(bb_t x) { return unary(&bb_op_square, x); }

static bb_status reciprocal_gradient(const bb_grad_call *grad) {
    return give(grad, bb_neg(bb_mul(grad->grad_out[0], bb_square(grad->call->out[0]))));
}
const bb_op bb_op_reciprocal = {
    .name = "reciprocal",
    .doc = "1 / input",
    .inputs = {"input"},
    .outputs = {"output"},
    .saves_outputs = 1u << 0,
    .infer = bb_infer_float,
    .gradient = reciprocal_gradient,
};
bb_t bb_reciprocal(bb_t x) { return unary(&bb_op_reciprocal, x); }
