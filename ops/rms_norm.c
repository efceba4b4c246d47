/* RMSNormImpl: root mean square normalization with a scale that is an argument.
 *
 *     rstd   = 1 / sqrt(mean(x^2 over axes) + eps)
 *     xhat   = x * rstd
 *     output = round(xhat) * scale        "round_then_scale"
 *     output = round(xhat * scale)        "scale_then_round"
 *
 * x is widened to f32 before it is squared, and rstd and xhat are f32 (f64 for f64). round is to
 * input's dtype. The output of round_then_scale has the dtype that input and scale promote to, that
 * of scale_then_round has input's.
 *
 * "auto" is scale_then_round for an f32 scale on an f16 or bf16 input, round_then_scale otherwise.
 * The two differ in the last bit of most f16 and bf16 results and not at all in f32 and f64.
 *
 * scale may have any shape that broadcasts with input, (dim,) or (heads, 1, dim) for instance;
 * output has the broadcast shape. Gradients, with g = scale and c = mean(dy g xhat over axes):
 *
 *     dinput = rstd (dy g - c xhat)        dscale = sum(dy xhat) over the axes that scale lacks
 *
 * with xhat before it is rounded: the fused kernels' dscale of f16 and bf16 is closer to the exact
 * one than that of the decomposition, where round_then_scale multiplies dy by what was rounded.
 *
 * Fused kernels: backends/cpu/rms_norm.c, backends/cuda/rms_norm_forward.cu, rms_norm_backward.cu.
 * With an addition before it: ops/add_rms_norm.c. The layer: nn/rms_norm.c. */
#include "ops/norm.h"
#include "ops/ops.h"
#include "ops/table.h"

static bb_status infer(bb_call *call) {
    return bb_rms_norm_infer(call, call->attrs, 1, &call->meta[0], &call->meta[1]);
}

static bb_status decompose(bb_call *call) {
    const bb_rms_norm_attrs *a = call->attrs;
    bb_t input = call->in[0], scale = call->in[1];
    bb_dtype dtype = bb_dtype_of(input);

    bb_t x = bb_cast(input, bb_statistic_dtype(dtype));
    bb_t mean_square = bb_mean(bb_mul(x, x), a->axes, true);
    bb_t rstd = bb_rsqrt(bb_add_scalar(mean_square, bb_statistic_eps(dtype, a->eps)));
    bb_t xhat = bb_mul(x, rstd);
    if (bb_rms_norm_rounds_last(a, dtype, bb_dtype_of(scale))) {
        call->out[0] = bb_cast(bb_mul(xhat, scale), dtype);
    } else {
        call->out[0] = bb_mul(bb_cast(xhat, dtype), scale);
    }
    return bb_error(call->ctx);
}

const bb_op bb_op_rms_norm = {
    .name = "RMSNormImpl",
    .doc = "input / sqrt(mean(input^2 over axes) + eps) * scale",
    .inputs = {"input", "scale"},
    .outputs = {"output", "rstd"},
    .attrs = {{"axes", BB_ATTR_INTS, offsetof(bb_rms_norm_attrs, axes), .ints = {1, {-1}}},
              {"eps", BB_ATTR_FLOAT, offsetof(bb_rms_norm_attrs, eps), .value = 1e-5},
              {"rounding", BB_ATTR_CHOICE, offsetof(bb_rms_norm_attrs, rounding),
               .choices = "auto|round_then_scale|scale_then_round"}},
    .attrs_bytes = sizeof(bb_rms_norm_attrs),
    .hidden = 1,
    .saves_inputs = 1u << 0 | 1u << 1,
    .saves_outputs = 1u << 1,
    .infer = infer,
    .decompose = decompose,
};

bb_t bb_rms_norm_with(bb_t input, bb_t scale, const bb_rms_norm_attrs *attrs) {
    bb_tensor *in[] = {input, scale};
    return bb_apply1(bb_context_of(input ? input : scale), &bb_op_rms_norm, in, 2, attrs);
}

bb_t bb_rms_norm(bb_t input, bb_t scale, double eps) {
    bb_rms_norm_attrs attrs = {{1, {-1}}, eps, BB_ROUND_AUTO};
    return bb_rms_norm_with(input, scale, &attrs);
}
