/* AddRMSNorm: what a block adds to the residual stream, and the norm that reads the stream next.
 *
 *     sum    = input + residual                 rounded to their dtype
 *     output = RMSNormImpl(sum, scale)          ops/rms_norm.c has formula, attributes, rounding
 *
 * Two ops that are always neighbours in a transformer: fused, the sum is written once and not read
 * again. input and residual have one shape and dtype. Backward reads sum, not the summands, whose
 * gradients are one and the same:
 *
 *     dinput = dresidual = dsum + rstd (dy g - c xhat), rounded once
 *
 * Fused kernels: backends/cpu/add_rms_norm.c; backends/cuda/rms_norm_forward.cu,
 * rms_norm_backward.cu. */
#include "ops/infer.h"
#include "ops/norm.h"
#include "ops/ops.h"
#include "ops/table.h"

enum { INPUT = 0, RESIDUAL, SCALE, OUTPUT = 0, SUM, RSTD };

static bb_status infer(bb_call *call) {
    bb_shape shape = bb_shape_of(call->in[INPUT]);
    bb_dtype dtype = bb_dtype_of(call->in[INPUT]);
    bb_status status = bb_want_dtype(call, RESIDUAL, dtype);
    if (!status) status = bb_want_shape(call, RESIDUAL, shape);
    if (status) return status;
    call->meta[SUM].dtype = dtype;
    call->meta[SUM].shape = shape;
    return bb_rms_norm_infer(call, call->attrs, SCALE, &call->meta[OUTPUT], &call->meta[RSTD]);
}

static bb_status decompose(bb_call *call) {
    call->out[SUM] = bb_add(call->in[INPUT], call->in[RESIDUAL]);
    call->out[OUTPUT] = bb_rms_norm_with(call->out[SUM], call->in[SCALE], call->attrs);
    return bb_error(call->ctx);
}

const bb_op bb_op_add_rms_norm = {
    .name = "AddRMSNorm",
    .doc = "sum = input + residual; output = RMSNormImpl(sum, scale)",
    .inputs = {"input", "residual", "scale"},
    .outputs = {"output", "sum", "rstd"},
    .attrs = {{"axes", BB_ATTR_INTS, offsetof(bb_rms_norm_attrs, axes), .ints = {1, {-1}}},
              {"eps", BB_ATTR_FLOAT, offsetof(bb_rms_norm_attrs, eps), .value = 1e-5},
              {"rounding", BB_ATTR_CHOICE, offsetof(bb_rms_norm_attrs, rounding),
               .choices = "auto|round_then_scale|scale_then_round"}},
    .attrs_bytes = sizeof(bb_rms_norm_attrs),
    .hidden = 1,
    .saves_inputs = 1u << SCALE,
    .saves_outputs = 1u << SUM | 1u << RSTD,
    .infer = infer,
    .decompose = decompose,
};

bb_t bb_add_rms_norm(bb_t input, bb_t residual, bb_t scale, double eps, bb_t *sum) {
    const bb_rms_norm_attrs attrs = {{1, {-1}}, eps, BB_ROUND_AUTO};
    bb_tensor *in[] = {input, residual, scale}, *out[BB_MAX_OUTPUTS] = {NULL};
    bb_tensor *first = input ? input : residual ? residual : scale;
    bb_apply(bb_context_of(first), &bb_op_add_rms_norm, in, 3, &attrs, out);
    if (sum) *sum = out[SUM];
    return out[OUTPUT];
}
