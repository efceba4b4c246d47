/* AddRMSNorm on the CPU, fused. Math: ops/add_rms_norm.c; rows: norm.c; loops:
 * loops/rms_norm.c.
 *
 * Rows passed through memory, beside the composed form: forward 4 against 5; backward 5 against 6,
 * where both summands want their gradient. */
#include "backends/cpu/kernels.h"
#include "backends/cpu/norm.h"
#include "backends/cpu/pack.h"

enum { INPUT = 0, RESIDUAL, SCALE, OUTPUT = 0, SUM, RSTD };

bool bb_cpu_add_rms_norm_supports(const bb_call *call) {
    const bb_rms_norm_attrs *a = call->attrs;
    const bb_tensor *input = call->in[INPUT];
    return input->contiguous && call->in[RESIDUAL]->contiguous &&
           bb_cpu_norm_fits(input, &a->axes, call->in[SCALE]);
}

bb_status bb_cpu_add_rms_norm(bb_call *call) {
    const bb_rms_norm_attrs *a = call->attrs;
    const bb_norm_loops *loops = bb_cpu_of(call->ctx)->loops->rms_norm;
    bb_norm_pass pass = {
        .loop = call->in[INPUT]->dtype == BB_F64 ? loops->forward_f64 : loops->forward_f32,
        .x = call->in[INPUT],
        .more = call->in[RESIDUAL],
        .scale = call->in[SCALE],
        .y = call->out[OUTPUT],
        .sum = call->out[SUM],
        .rstd = call->out[RSTD],
        .eps = a->eps,
        .round_first =
            bb_cpu_rms_norm_rounds_first(a, call->in[INPUT]->dtype, call->in[SCALE]->dtype),
    };
    return bb_cpu_norm(call, &pass);
}

/* The loops add the sum's gradient as it lies in memory only where it lies as the sum does. */
bb_status bb_cpu_add_rms_norm_backward(const bb_grad_call *grad) {
    const bb_call *call = grad->call;
    const bb_tensor *sum = call->out[SUM], *more = grad->grad_out[SUM];
    bb_tensor *copy, *dx = grad->grad_in[INPUT], *twin = grad->grad_in[RESIDUAL];
    more = bb_cpu_pack(more, more->contiguous, (bb_dtype)more->dtype, &copy);
    const bb_norm_loops *loops = bb_cpu_of(call->ctx)->loops->rms_norm;
    bb_norm_pass pass = {
        .loop = sum->dtype == BB_F64 ? loops->backward_f64 : loops->backward_f32,
        .x = sum,
        .dy = grad->grad_out[OUTPUT],
        .more = more,
        .scale = call->in[SCALE],
        .y = dx ? dx : twin,
        .sum = dx ? twin : NULL,
        .rstd = call->out[RSTD],
        .dscale = grad->grad_in[SCALE],
    };
    bb_status status = more ? bb_cpu_norm(call, &pass) : bb_error(call->ctx);
    bb_drop(copy);
    return status;
}
