/* LayerNorm: zero mean, unit variance over axes, then an affine map.
 *
 *     mean   = mean(x over axes)         rstd = 1 / sqrt(mean((x - mean)^2 over axes) + eps)
 *     output = round((x - mean) * rstd * weight + bias)
 *
 * in f32 (f64 for f64), rounded once to input's dtype. weight and bias may be absent; their shapes
 * broadcast to input's. Gradients, with g = weight and xhat = (x - mean) rstd:
 *
 *     dinput  = rstd (dy g - mean(dy g) - xhat mean(dy g xhat))
 *     dweight = sum(dy xhat), dbias = sum(dy) over the axes that weight and bias lack
 *
 * Fused kernels: backends/cpu/layer_norm.c, backends/cuda/layer_norm.cu. */
#include "ops/norm.h"
#include "ops/ops.h"
#include "ops/table.h"

/* weight (input 1) and bias (input 2): input's dtype or f32, and no larger than input. */
static bb_status check_affine(bb_call *call, int i) {
    const bb_tensor *affine = call->in[i];
    bb_shape shape = bb_shape_of(call->in[0]), got = bb_shape_of(affine), both;
    bb_dtype dtype = bb_dtype_of(affine);
    if (dtype != bb_dtype_of(call->in[0]) && dtype != BB_F32) {
        return bb_fail_input(call, i, "expected dtype %s or f32, got %s",
                             bb_dtype_name(bb_dtype_of(call->in[0])), bb_dtype_name(dtype));
    }
    if (!bb_shape_broadcast(&shape, &got, &both) || !bb_shape_equal(&shape, &both)) {
        char expected_text[BB_SHAPE_TEXT], got_text[BB_SHAPE_TEXT];
        return bb_fail_input(call, i, "expected a shape that broadcasts to input %s, got %s",
                             bb_shape_text(&shape, expected_text), bb_shape_text(&got, got_text));
    }
    return BB_OK;
}

static bb_status infer(bb_call *call) {
    const bb_layer_norm_attrs *a = call->attrs;
    bb_status status = bb_norm_infer(call, &a->axes, a->eps, &call->meta[1]);
    for (int i = 1; i < 3 && status == BB_OK; i++) {
        if (call->in[i]) status = check_affine(call, i);
    }
    if (status != BB_OK) return status;
    call->meta[0].dtype = bb_dtype_of(call->in[0]);
    call->meta[0].shape = bb_shape_of(call->in[0]);
    call->meta[2] = call->meta[1];
    return BB_OK;
}

static bb_status decompose(bb_call *call) {
    const bb_layer_norm_attrs *a = call->attrs;
    bb_t input = call->in[0], weight = call->in[1], bias = call->in[2];
    bb_dtype dtype = bb_dtype_of(input), wide = bb_statistic_dtype(dtype);

    bb_t x = bb_cast(input, wide);
    bb_t centred = bb_sub(x, bb_mean(x, a->axes, true));
    bb_t variance = bb_mean(bb_mul(centred, centred), a->axes, true);
    bb_t y = bb_mul(centred, bb_rsqrt(bb_add_scalar(variance, bb_statistic_eps(dtype, a->eps))));
    if (weight) y = bb_mul(y, bb_cast(weight, wide));
    if (bias) y = bb_add(y, bb_cast(bias, wide));
    call->out[0] = bb_cast(y, dtype);
    return bb_error(call->ctx);
}

const bb_op bb_op_layer_norm = {
    .name = "LayerNorm",
    .doc = "(input - mean) / sqrt(variance + eps) * weight + bias, statistics over axes",
    .inputs = {"input", "weight", "bias"},
    .outputs = {"output", "mean", "rstd"},
    .attrs = {{"axes", BB_ATTR_INTS, offsetof(bb_layer_norm_attrs, axes), .ints = {1, {-1}}},
              {"eps", BB_ATTR_FLOAT, offsetof(bb_layer_norm_attrs, eps), .value = 1e-5}},
    .attrs_bytes = sizeof(bb_layer_norm_attrs),
    .optional = 1u << 1 | 1u << 2,
    .hidden = 2,
    .saves_inputs = 1u << 0 | 1u << 1,
    .saves_outputs = 1u << 1 | 1u << 2,
    .infer = infer,
    .decompose = decompose,
};

bb_t bb_layer_norm(bb_t input, bb_t weight, bb_t bias, double eps) {
    bb_layer_norm_attrs attrs = {{1, {-1}}, eps};
    bb_tensor *in[] = {input, weight, bias};
    bb_t first = input ? input : weight ? weight : bias;
    return bb_apply1(bb_context_of(first), &bb_op_layer_norm, in, 3, &attrs);
}
