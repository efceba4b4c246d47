/* RMSNormImpl on the CPU, fused. Math: ops/rms_norm.c; rows: norm.c; loops: loops/rms_norm.c. */
#include "backends/cpu/kernels.h"
#include "backends/cpu/norm.h"

/* The composed form serves the rest: other axes, a scale that is larger than input, an f64 scale on
 * a narrower input. */
bool bb_cpu_rms_norm_supports(const bb_call *call) {
    const bb_rms_norm_attrs *a = call->attrs;
    return bb_cpu_norm_fits(call->in[0], &a->axes, call->in[1]);
}

bool bb_cpu_rms_norm_rounds_first(const bb_rms_norm_attrs *a, int dtype, int scale) {
    bool narrow = dtype == BB_F16 || dtype == BB_BF16;
    return narrow &&
           (a->rounding == BB_ROUND_AUTO ? scale != BB_F32 : a->rounding == BB_ROUND_THEN_SCALE);
}

bb_status bb_cpu_rms_norm(bb_call *call) {
    const bb_rms_norm_attrs *a = call->attrs;
    const bb_norm_loops *loops = bb_cpu_of(call->ctx)->loops->rms_norm;
    int dtype = call->in[0]->dtype;
    bb_norm_pass pass = {
        .loop = dtype == BB_F64 ? loops->forward_f64 : loops->forward_f32,
        .x = call->in[0],
        .scale = call->in[1],
        .y = call->out[0],
        .rstd = call->out[1],
        .eps = a->eps,
        .round_first = bb_cpu_rms_norm_rounds_first(a, dtype, call->in[1]->dtype),
    };
    return bb_cpu_norm(call, &pass);
}

bb_status bb_cpu_rms_norm_backward(const bb_grad_call *grad) {
    const bb_call *call = grad->call;
    const bb_norm_loops *loops = bb_cpu_of(call->ctx)->loops->rms_norm;
    bb_norm_pass pass = {
        .loop = call->in[0]->dtype == BB_F64 ? loops->backward_f64 : loops->backward_f32,
        .x = call->in[0],
        .dy = grad->grad_out[0],
        .scale = call->in[1],
        .y = grad->grad_in[0],
        .rstd = call->out[1],
        .dscale = grad->grad_in[1],
    };
    return bb_cpu_norm(call, &pass);
}
