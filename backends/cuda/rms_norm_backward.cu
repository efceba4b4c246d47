/* RMSNormImpl and AddRMSNorm backward. Kernels, their maps and bytes: norm_backward.h; forward:
 * rms_norm_forward.cu; math: ops/rms_norm.c, ops/add_rms_norm.c. */
#include "backends/cuda/kernels.h"
#include "backends/cuda/norm_backward.h"

bb_status bb_cuda_rms_norm_backward(const bb_grad_call *grad) {
    const bb_call *call = grad->call;
    bb_norm_pass pass = {};
    pass.x = call->in[0];
    pass.dy = grad->grad_out[0];
    pass.scale = call->in[1];
    pass.y = grad->grad_in[0];
    pass.rstd = call->out[1];
    pass.dscale = grad->grad_in[1];
    return norm_backward<false>(bb_cuda_begin(call), &pass);
}

/* Both summands have the sum's gradient: what came past the norm, and what came through it. */
bb_status bb_cuda_add_rms_norm_backward(const bb_grad_call *grad) {
    const bb_call *call = grad->call;
    bb_norm_pass pass = {};
    pass.x = call->out[1];
    pass.more = grad->grad_out[1];
    pass.dy = grad->grad_out[0];
    pass.scale = call->in[2];
    pass.y = grad->grad_in[0] ? grad->grad_in[0] : grad->grad_in[1];
    pass.sum = grad->grad_in[0] ? grad->grad_in[1] : NULL;
    pass.rstd = call->out[2];
    pass.dscale = grad->grad_in[2];
    return norm_backward<false>(bb_cuda_begin(call), &pass);
}
