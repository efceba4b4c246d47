/* Prototypes of all CUDA kernels, for table.cu. bb_cuda_<op> is the forward, bb_cuda_<op>_backward
 * the fused backward, bb_cuda_<op>_supports what the kernel cannot take. One block per adapter
 * file. */
#ifndef BOBBIN_BACKENDS_CUDA_KERNELS_H
#define BOBBIN_BACKENDS_CUDA_KERNELS_H

#include "backends/cuda/cuda.h"

/* rms_norm_forward.cu, rms_norm_backward.cu, layer_norm.cu, softmax.cu, log_softmax.cu, cross_entropy.cu */
bool bb_cuda_rms_norm_supports(const bb_call *call);
bb_status bb_cuda_rms_norm(bb_call *call);
bb_status bb_cuda_rms_norm_backward(const bb_grad_call *grad);
bool bb_cuda_add_rms_norm_supports(const bb_call *call);
bb_status bb_cuda_add_rms_norm(bb_call *call);
bb_status bb_cuda_add_rms_norm_backward(const bb_grad_call *grad);
bool bb_cuda_layer_norm_supports(const bb_call *call);
bb_status bb_cuda_layer_norm(bb_call *call);
bb_status bb_cuda_layer_norm_backward(const bb_grad_call *grad);
bool bb_cuda_softmax_supports(const bb_call *call);
bb_status bb_cuda_softmax(bb_call *call);
bb_status bb_cuda_softmax_backward(const bb_grad_call *grad);
bool bb_cuda_log_softmax_supports(const bb_call *call);
bb_status bb_cuda_log_softmax(bb_call *call);
bb_status bb_cuda_log_softmax_backward(const bb_grad_call *grad);
bb_status bb_cuda_cross_entropy(bb_call *call);
bb_status bb_cuda_cross_entropy_backward(const bb_grad_call *grad);

/* reduce.cu, scan.cu */
bb_status bb_cuda_sum(bb_call *call);
bb_status bb_cuda_mean(bb_call *call);
bb_status bb_cuda_amax(bb_call *call);
bb_status bb_cuda_amin(bb_call *call);
bb_status bb_cuda_sum_squares(bb_call *call);
bb_status bb_cuda_cumsum(bb_call *call);
bb_status bb_cuda_argmax(bb_call *call);

/* matmul.cu, join.cu, index.cu, scatter.cu */
bb_status bb_cuda_matmul(bb_call *call);
bb_status bb_cuda_cat(bb_call *call);
bb_status bb_cuda_stack(bb_call *call);
bb_status bb_cuda_pad(bb_call *call);
bb_status bb_cuda_gather(bb_call *call);
bb_status bb_cuda_index_select(bb_call *call);
bb_status bb_cuda_scatter_add(bb_call *call);
bb_status bb_cuda_embedding(bb_call *call);
bb_status bb_cuda_embedding_backward(const bb_grad_call *grad);

/* activation.cu, rope.cu, sdpa.cu, linear.cu, optimize.cu */
bb_status bb_cuda_silu(bb_call *call);
bb_status bb_cuda_silu_backward(const bb_grad_call *grad);
bb_status bb_cuda_gelu(bb_call *call);
bb_status bb_cuda_gelu_backward(const bb_grad_call *grad);
bb_status bb_cuda_swiglu(bb_call *call);
bb_status bb_cuda_swiglu_backward(const bb_grad_call *grad);
bb_status bb_cuda_rope(bb_call *call);
bb_status bb_cuda_rope_backward(const bb_grad_call *grad);
bool bb_cuda_sdpa_supports(const bb_call *call);
bb_status bb_cuda_sdpa(bb_call *call);
bb_status bb_cuda_sdpa_backward(const bb_grad_call *grad);
bool bb_cuda_linear_add_supports(const bb_call *call);
bb_status bb_cuda_linear(bb_call *call);
bb_status bb_cuda_linear_backward(const bb_grad_call *grad);
bb_status bb_cuda_linear_activation(bb_call *call);
bb_status bb_cuda_adamw(bb_call *call);
bb_status bb_cuda_sgd(bb_call *call);

/* elementwise.cu, binary.cu */
bb_status bb_cuda_neg(bb_call *call);
bb_status bb_cuda_abs(bb_call *call);
bb_status bb_cuda_sign(bb_call *call);
bb_status bb_cuda_exp(bb_call *call);
bb_status bb_cuda_log(bb_call *call);
bb_status bb_cuda_sqrt(bb_call *call);
bb_status bb_cuda_rsqrt(bb_call *call);
bb_status bb_cuda_sin(bb_call *call);
bb_status bb_cuda_cos(bb_call *call);
bb_status bb_cuda_tanh(bb_call *call);
bb_status bb_cuda_sigmoid(bb_call *call);
bb_status bb_cuda_relu(bb_call *call);
bb_status bb_cuda_erf(bb_call *call);
bb_status bb_cuda_square(bb_call *call);
bb_status bb_cuda_reciprocal(bb_call *call);
bb_status bb_cuda_add(bb_call *call);
bb_status bb_cuda_sub(bb_call *call);
bb_status bb_cuda_mul(bb_call *call);
bb_status bb_cuda_div(bb_call *call);
bb_status bb_cuda_maximum(bb_call *call);
bb_status bb_cuda_minimum(bb_call *call);
bb_status bb_cuda_eq(bb_call *call);
bb_status bb_cuda_ne(bb_call *call);
bb_status bb_cuda_lt(bb_call *call);
bb_status bb_cuda_le(bb_call *call);
bb_status bb_cuda_gt(bb_call *call);
bb_status bb_cuda_ge(bb_call *call);
bb_status bb_cuda_pow(bb_call *call);
bb_status bb_cuda_add_scalar(bb_call *call);
bb_status bb_cuda_mul_scalar(bb_call *call);
bb_status bb_cuda_clamp(bb_call *call);
bb_status bb_cuda_where(bb_call *call);
/* quantize.cu, dequantize.cu, quantized_linear.cu */
bool bb_cuda_quantized_linear_supports(const bb_call *call);
bb_status bb_cuda_quantized_linear(bb_call *call);
bb_status bb_cuda_quantize(bb_call *call);
bb_status bb_cuda_rms_norm_quantize(bb_call *call);
bb_status bb_cuda_update_scale(bb_call *call);
bb_status bb_cuda_dequantize(bb_call *call);
/* create.cu */
bb_status bb_cuda_full(bb_call *call);
bb_status bb_cuda_arange(bb_call *call);
bb_status bb_cuda_rand(bb_call *call);
bb_status bb_cuda_randn(bb_call *call);
bb_status bb_cuda_dropout(bb_call *call);
/* copy.cu */
bb_status bb_cuda_cast(bb_call *call);
bb_status bb_cuda_contiguous(bb_call *call);

#endif
