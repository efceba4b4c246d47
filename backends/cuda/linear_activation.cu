/* LinearActivation on CUDA: the product that starts from the bias (linear.cu), then the activation
 * in one launch. cuBLASLt's epilogues with activation give backward a mask or a GELU's input in a
 * layout of their own, and know ReLU and GELU only. The math: ops/linear_activation.c. */
#include "backends/cuda/kernels.h"
#include "ops/attrs.h"

bb_status bb_cuda_linear_activation(bb_call *call) {
    static bb_status (*const unary[])(bb_call *) = {bb_cuda_relu, bb_cuda_gelu, bb_cuda_silu,
                                                    bb_cuda_sigmoid, bb_cuda_tanh};
    const bb_linear_activation_attrs *a =
        static_cast<const bb_linear_activation_attrs *>(call->attrs);
    const bb_gelu_attrs tanh_form = {BB_GELU_TANH};
    bb_call one = *call;
    one.n_out = 1;
    one.out[0] = call->out[1];
    one.meta[0] = call->meta[1];
    bb_status status = bb_cuda_linear(&one);
    if (status || call->out[0]->count == 0) return status;
    bb_tensor *sum = call->out[1];
    one.attrs = &tanh_form;
    one.n_in = 1;
    one.in = &sum;
    one.out[0] = call->out[0];
    return unary[a->activation](&one);
}
