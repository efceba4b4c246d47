/* RMSNormQuantize: the norm of a linear layer's input, written as the bytes that the layer reads.
 *
 *     z = x / sqrt(mean(x^2 over the last axis) + eps) * weight        in f32
 *     data, scale_inv, ... = Quantize(z)                               ops/quantize.c
 *
 * z is never written. fp8_delayed quantizes and measures z as it is, in f32; the others round it to
 * input's dtype first, so that they give the bytes of RMSNormImpl (scale_then_round) and Quantize.
 * rstd, the reciprocal root of each row, is what a backward pass needs beside input.
 *
 * Bytes an element: 3 from bf16 to fp8, where norm and Quantize move 7. fp8_current and nvfp4 need
 * the amax of all z first, and read input twice.
 *
 * Fused kernels: backends/cpu/rms_norm_quantize.c, backends/cuda/quantize.cu. */
#include "ops/infer.h"
#include "ops/norm.h"
#include "ops/quantize.h"
#include "ops/table.h"

enum { INPUT = 0, WEIGHT, SCALE, RSTD = BB_QUANTIZED_OUTPUTS };

static bb_status infer(bb_call *call) {
    const bb_rms_norm_quantize_attrs *a = call->attrs;
    bb_ints axes = {1, {-1}};
    bb_status status = bb_quantize_infer(call, &a->quantize, SCALE);
    if (!status) status = bb_norm_infer(call, &axes, a->eps, &call->meta[RSTD]);
    if (!status) status = bb_want_dtype(call, WEIGHT, BB_F32);
    return status ? status : bb_want_shape(call, WEIGHT, BB_SHAPE(bb_size(call->in[INPUT], -1)));
}

static bb_status decompose(bb_call *call) {
    const bb_rms_norm_quantize_attrs *a = call->attrs;
    const bb_rms_norm_attrs norm = {{1, {-1}}, a->eps, BB_SCALE_THEN_ROUND};
    bb_t x = bb_cast(call->in[INPUT], BB_F32);
    bool wide = a->quantize.recipe == BB_FP8_DELAYED;
    bb_tensor *in[] = {bb_rms_norm_with(wide ? x : call->in[INPUT], call->in[WEIGHT], &norm),
                       call->in[SCALE]};
    bb_apply(call->ctx, &bb_op_quantize, in, 2, &a->quantize, call->out);
    bb_t mean_square = bb_mean(bb_mul(x, x), norm.axes, true);
    call->out[RSTD] = bb_rsqrt(bb_add_scalar(mean_square, bb_statistic_eps(BB_F32, a->eps)));
    return bb_error(call->ctx);
}

const bb_op bb_op_rms_norm_quantize = {
    .name = "RMSNormQuantize",
    .doc = "Quantize(RMSNormImpl(input, weight)), without writing the norm",
    .inputs = {"input", "weight", "scale"},
    .outputs = {"data", "scale_inv", "columns", "columns_scale_inv", "amax", "rstd"},
    .attrs = {BB_QUANTIZE_ATTRS(bb_rms_norm_quantize_attrs, quantize.),
              {"eps", BB_ATTR_FLOAT, offsetof(bb_rms_norm_quantize_attrs, eps), .value = 1e-5}},
    .attrs_bytes = sizeof(bb_rms_norm_quantize_attrs),
    .optional = 1u << SCALE,
    .infer = infer,
    .gradient = bb_no_gradient,
    .decompose = decompose,
};

bb_status bb_rms_norm_quantize_parts(bb_t x, bb_t weight, bb_t scale,
                                     const bb_rms_norm_quantize_attrs *attrs,
                                     bb_quantized_parts *parts, bb_t *rstd) {
    bb_tensor *in[] = {x, weight, scale}, *out[BB_MAX_OUTPUTS] = {NULL};
    bb_context *ctx = bb_context_of(x ? x : weight);
    if (rstd) *rstd = NULL;
    bb_status status = bb_want_parts(ctx, "RMSNormQuantize", attrs, parts);
    if (status) return status;
    status = bb_apply(ctx, &bb_op_rms_norm_quantize, in, 3, attrs, out);
    *parts = status ? (bb_quantized_parts){NULL, NULL, NULL, NULL, NULL}
                    : bb_parts_of(out, &attrs->quantize);
    if (rstd) *rstd = status ? NULL : out[RSTD];
    return status;
}
