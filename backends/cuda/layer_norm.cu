/* LayerNorm forward and backward. Kernels, their maps and bytes: norm_forward.h, norm_backward.h;
 * math: ops/layer_norm.c. */
#include "backends/cuda/kernels.h"
#include "backends/cuda/norm_backward.h"
#include "backends/cuda/norm_forward.h"

bool bb_cuda_layer_norm_supports(const bb_call *call) {
    const bb_layer_norm_attrs *a = static_cast<const bb_layer_norm_attrs *>(call->attrs);
    const bb_tensor *weight = call->in[1], *bias = call->in[2];
    if (weight && bias) {
        if (weight->rank != bias->rank) return false;
        for (int i = 0; i < weight->rank; i++)
            if (weight->size[i] != bias->size[i]) return false;
    }
    return bb_norm_fits(call->in[0], &a->axes, weight) && bb_norm_fits(call->in[0], &a->axes, bias);
}

bb_status bb_cuda_layer_norm(bb_call *call) {
    const bb_layer_norm_attrs *a = static_cast<const bb_layer_norm_attrs *>(call->attrs);
    bb_norm_pass pass = {};
    pass.x = call->in[0];
    pass.scale = call->in[1];
    pass.bias = call->in[2];
    pass.y = call->out[0];
    pass.mean = call->out[1];
    pass.rstd = call->out[2];
    pass.eps = a->eps;
    return norm_forward<true>(bb_cuda_begin(call), &pass);
}

bb_status bb_cuda_layer_norm_backward(const bb_grad_call *grad) {
    const bb_call *call = grad->call;
    bb_norm_pass pass = {};
    pass.x = call->in[0];
    pass.dy = grad->grad_out[0];
    pass.scale = call->in[1];
    pass.y = grad->grad_in[0];
    pass.mean = call->out[1];
    pass.rstd = call->out[2];
    pass.dscale = grad->grad_in[1];
    pass.dbias = grad->grad_in[2];
    return norm_backward<true>(bb_cuda_begin(call), &pass);
}
