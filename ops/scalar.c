/* Elementwise ops of one input and numbers. The dtype is x's; the numbers are rounded to the
 * compute type once.
 *
 *   pow         x^p        dx = dy p x^(p-1)       add_scalar  x + v    dx = dy
 *   clamp       min(max(x, low), high)             mul_scalar  x v      dx = dy v
 *               dx = dy where low <= x <= high
 *
 * Integers take whole numbers only. Kernels: backends/cpu/elementwise.c,
 * backends/cuda/elementwise.cu. */
#include <math.h>
#include <stddef.h>

#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

static const bb_scalar_attrs *scalar_of(const bb_call *call) { return call->attrs; }
static const bb_clamp_attrs *bounds_of(const bb_call *call) { return call->attrs; }

static bb_t with_scalar(const bb_op *op, bb_t x, double value) {
    bb_scalar_attrs attrs = {.value = value};
    return bb_apply1(bb_context_of(x), op, &x, 1, &attrs);
}

static bb_status give(const bb_grad_call *grad, bb_t gradient) {
    grad->grad_in[0] = gradient;
    return gradient ? BB_OK : bb_error(grad->call->ctx);
}

/* Integers would silently lose the fraction. */
static bb_status infer_scalar(bb_call *call) {
    double value = scalar_of(call)->value;
    bb_dtype dtype = bb_dtype_of(call->in[0]);
    if (!bb_dtype_is_float(dtype) && !(fabs(value) <= 0x1p+63 && floor(value) == value))
        return bb_fail_attr(call, "value", "expected a whole number for %s, got %g",
                            bb_dtype_name(dtype), value);
    return bb_infer_number(call);
}

static bb_status infer_pow(bb_call *call) {
    double exponent = scalar_of(call)->value;
    bb_dtype dtype = bb_dtype_of(call->in[0]);
    if (!bb_dtype_is_float(dtype) && exponent < 0)
        return bb_fail_attr(call, "value", "expected an exponent >= 0 for %s, got %g",
                            bb_dtype_name(dtype), exponent);
    return infer_scalar(call);
}

static bb_status infer_clamp(bb_call *call) {
    const bb_clamp_attrs *a = bounds_of(call);
    if (isnan(a->min)) return bb_fail_attr(call, "min", "expected a number, got NaN");
    if (isnan(a->max)) return bb_fail_attr(call, "max", "expected a number, got NaN");
    return bb_infer_number(call);
}

/* x^0 is constant: 0 x^-1 would give NaN at 0. */
static bb_status pow_gradient(const bb_grad_call *grad) {
    double p = scalar_of(grad->call)->value;
    if (p == 0) return give(grad, bb_zeros_like(grad->grad_out[0]));
    return give(grad,
                bb_mul(grad->grad_out[0], bb_mul_scalar(bb_pow(grad->call->in[0], p - 1), p)));
}

static bb_status add_scalar_gradient(const bb_grad_call *grad) {
    return give(grad, grad->grad_out[0]);
}

static bb_status mul_scalar_gradient(const bb_grad_call *grad) {
    return give(grad, bb_mul_scalar(grad->grad_out[0], scalar_of(grad->call)->value));
}

/* x lies within the bounds where clamping does not change it. */
static bb_status clamp_gradient(const bb_grad_call *grad) {
    const bb_clamp_attrs *a = bounds_of(grad->call);
    bb_t x = grad->call->in[0];
    bb_t inside = bb_eq(bb_clamp(x, a->min, a->max), x);
    return give(grad, bb_where(inside, grad->grad_out[0], bb_constant(x, BB_SCALAR, 0)));
}

const bb_op bb_op_pow = {
    .name = "pow",
    .doc = "input^value",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"value", BB_ATTR_FLOAT, offsetof(bb_scalar_attrs, value), .required = true}},
    .attrs_bytes = sizeof(bb_scalar_attrs),
    .saves_inputs = 1u << 0,
    .infer = infer_pow,
    .gradient = pow_gradient,
};
const bb_op bb_op_add_scalar = {
    .name = "add_scalar",
    .doc = "input + value",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"value", BB_ATTR_FLOAT, offsetof(bb_scalar_attrs, value), .required = true}},
    .attrs_bytes = sizeof(bb_scalar_attrs),
    .infer = infer_scalar,
    .gradient = add_scalar_gradient,
};
const bb_op bb_op_mul_scalar = {
    .name = "mul_scalar",
    .doc = "input * value",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"value", BB_ATTR_FLOAT, offsetof(bb_scalar_attrs, value), .required = true}},
    .attrs_bytes = sizeof(bb_scalar_attrs),
    .infer = infer_scalar,
    .gradient = mul_scalar_gradient,
};
const bb_op bb_op_clamp = {
    .name = "clamp",
    .doc = "min(max(input, min), max)",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"min", BB_ATTR_FLOAT, offsetof(bb_clamp_attrs, min), .value = -INFINITY},
              {"max", BB_ATTR_FLOAT, offsetof(bb_clamp_attrs, max), .value = INFINITY}},
    .attrs_bytes = sizeof(bb_clamp_attrs),
    .saves_inputs = 1u << 0,
    .infer = infer_clamp,
    .gradient = clamp_gradient,
};

bb_t bb_pow(bb_t x, double exponent) { return with_scalar(&bb_op_pow, x, exponent); }
bb_t bb_add_scalar(bb_t x, double value) { return with_scalar(&bb_op_add_scalar, x, value); }
bb_t bb_mul_scalar(bb_t x, double value) { return with_scalar(&bb_op_mul_scalar, x, value); }
bb_t bb_clamp(bb_t x, double min, double max) {
    bb_clamp_attrs attrs = {.min = min, .max = max};
    return bb_apply1(bb_context_of(x), &bb_op_clamp, &x, 1, &attrs);
}
