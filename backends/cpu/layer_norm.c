/* layer_norm on the CPU, fused. Math: ops/layer_norm.c; rows: norm.c; loops: loops/layer_norm.c. */
#include "backends/cpu/kernels.h"
#include "backends/cpu/norm.h"

bool bb_cpu_layer_norm_supports(const bb_call *call) {
    const bb_layer_norm_attrs *a = call->attrs;
    const bb_tensor *weight = call->in[1], *bias = call->in[2];
    if (weight && bias) {
        bb_shape w = bb_shape_of_tensor(weight), b = bb_shape_of_tensor(bias);
        if (!bb_shape_equal(&w, &b)) return false;
    }
    return bb_cpu_norm_fits(call->in[0], &a->axes, weight) &&
           bb_cpu_norm_fits(call->in[0], &a->axes, bias);
}

bb_status bb_cpu_layer_norm(bb_call *call) {
    const bb_layer_norm_attrs *a = call->attrs;
    const bb_norm_loops *loops = bb_cpu_of(call->ctx)->loops->layer_norm;
    bb_norm_pass pass = {
        .loop = call->in[0]->dtype == BB_F64 ? loops->forward_f64 : loops->forward_f32,
        .layer = true,
        .x = call->in[0],
        .scale = call->in[1],
        .bias = call->in[2],
        .y = call->out[0],
        .mean = call->out[1],
        .rstd = call->out[2],
        .eps = a->eps,
    };
    return bb_cpu_norm(call, &pass);
}

bb_status bb_cpu_layer_norm_backward(const bb_grad_call *grad) {
    const bb_call *call = grad->call;
    const bb_norm_loops *loops = bb_cpu_of(call->ctx)->loops->layer_norm;
    bb_norm_pass pass = {
        .loop = call->in[0]->dtype == BB_F64 ? loops->backward_f64 : loops->backward_f32,
        .layer = true,
        .x = call->in[0],
        .dy = grad->grad_out[0],
        .scale = call->in[1],
        .y = grad->grad_in[0],
        .mean = call->out[1],
        .rstd = call->out[2],
        .dscale = grad->grad_in[1],
        .dbias = grad->grad_in[2],
    };
    return bb_cpu_norm(call, &pass);
}
