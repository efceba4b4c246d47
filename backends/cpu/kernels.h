/* The table of the CPU's kernels and the prototypes that it is made of. bb_cpu_<op> is the forward,
 * bb_cpu_<op>_backward the fused backward, bb_cpu_<op>_supports what the kernel cannot take. One
 * block per adapter file. */
#ifndef BOBBIN_BACKENDS_CPU_KERNELS_H
#define BOBBIN_BACKENDS_CPU_KERNELS_H

#include "backends/cpu/cpu.h"

/* table.c: one row per op, ended by a row without a name. */
extern const bb_kernel bb_cpu_kernels[];

/* add_rms_norm.c, rms_norm.c, layer_norm.c, softmax.c, log_softmax.c, cross_entropy.c */
bool bb_cpu_add_rms_norm_supports(const bb_call *call);
bb_status bb_cpu_add_rms_norm(bb_call *call);
bb_status bb_cpu_add_rms_norm_backward(const bb_grad_call *grad);
bool bb_cpu_rms_norm_supports(const bb_call *call);
bb_status bb_cpu_rms_norm(bb_call *call);
bb_status bb_cpu_rms_norm_backward(const bb_grad_call *grad);
bool bb_cpu_layer_norm_supports(const bb_call *call);
bb_status bb_cpu_layer_norm(bb_call *call);
bb_status bb_cpu_layer_norm_backward(const bb_grad_call *grad);
bool bb_cpu_softmax_supports(const bb_call *call);
bb_status bb_cpu_softmax(bb_call *call);
bb_status bb_cpu_softmax_backward(const bb_grad_call *grad);
bool bb_cpu_log_softmax_supports(const bb_call *call);
bb_status bb_cpu_log_softmax(bb_call *call);
bb_status bb_cpu_log_softmax_backward(const bb_grad_call *grad);
bb_status bb_cpu_cross_entropy(bb_call *call);
bb_status bb_cpu_cross_entropy_backward(const bb_grad_call *grad);

/* reduce.c, scan.c */
bb_status bb_cpu_sum(bb_call *call);
bb_status bb_cpu_mean(bb_call *call);
bb_status bb_cpu_amax(bb_call *call);
bb_status bb_cpu_amin(bb_call *call);
bb_status bb_cpu_sum_squares(bb_call *call);
bb_status bb_cpu_cumsum(bb_call *call);
bb_status bb_cpu_argmax(bb_call *call);

/* matmul.c, join.c, index.c */
bb_status bb_cpu_matmul(bb_call *call);
bb_status bb_cpu_cat(bb_call *call);
bb_status bb_cpu_stack(bb_call *call);
bb_status bb_cpu_pad(bb_call *call);
bb_status bb_cpu_gather(bb_call *call);
bb_status bb_cpu_index_select(bb_call *call);
bb_status bb_cpu_scatter_add(bb_call *call);
bb_status bb_cpu_embedding(bb_call *call);
bb_status bb_cpu_embedding_backward(const bb_grad_call *grad);

/* activation.c, rope.c, sdpa.c, linear.c, linear_activation.c, optimize.c */
bb_status bb_cpu_silu(bb_call *call);
bb_status bb_cpu_silu_backward(const bb_grad_call *grad);
bb_status bb_cpu_gelu(bb_call *call);
bb_status bb_cpu_gelu_backward(const bb_grad_call *grad);
bb_status bb_cpu_swiglu(bb_call *call);
bb_status bb_cpu_swiglu_backward(const bb_grad_call *grad);
bb_status bb_cpu_rope(bb_call *call);
bb_status bb_cpu_rope_backward(const bb_grad_call *grad);
bool bb_cpu_sdpa_supports(const bb_call *call);
bb_status bb_cpu_sdpa(bb_call *call);
bb_status bb_cpu_sdpa_backward(const bb_grad_call *grad);
bb_status bb_cpu_linear(bb_call *call);
bb_status bb_cpu_linear_backward(const bb_grad_call *grad);
bb_status bb_cpu_linear_activation(bb_call *call);
bb_status bb_cpu_adamw(bb_call *call);
bb_status bb_cpu_sgd(bb_call *call);

/* quantize.c, rms_norm_quantize.c */
bb_status bb_cpu_quantize(bb_call *call);
bb_status bb_cpu_dequantize(bb_call *call);
bb_status bb_cpu_update_scale(bb_call *call);
bb_status bb_cpu_rms_norm_quantize(bb_call *call);

/* elementwise.c */
bb_status bb_cpu_neg(bb_call *call);
bb_status bb_cpu_abs(bb_call *call);
bb_status bb_cpu_sign(bb_call *call);
bb_status bb_cpu_exp(bb_call *call);
bb_status bb_cpu_log(bb_call *call);
bb_status bb_cpu_sqrt(bb_call *call);
bb_status bb_cpu_rsqrt(bb_call *call);
bb_status bb_cpu_sin(bb_call *call);
bb_status bb_cpu_cos(bb_call *call);
bb_status bb_cpu_tanh(bb_call *call);
bb_status bb_cpu_sigmoid(bb_call *call);
bb_status bb_cpu_relu(bb_call *call);
bb_status bb_cpu_erf(bb_call *call);
bb_status bb_cpu_square(bb_call *call);
bb_status bb_cpu_reciprocal(bb_call *call);
bb_status bb_cpu_add(bb_call *call);
bb_status bb_cpu_sub(bb_call *call);
bb_status bb_cpu_mul(bb_call *call);
bb_status bb_cpu_div(bb_call *call);
bb_status bb_cpu_maximum(bb_call *call);
bb_status bb_cpu_minimum(bb_call *call);
bb_status bb_cpu_eq(bb_call *call);
bb_status bb_cpu_ne(bb_call *call);
bb_status bb_cpu_lt(bb_call *call);
bb_status bb_cpu_le(bb_call *call);
bb_status bb_cpu_gt(bb_call *call);
bb_status bb_cpu_ge(bb_call *call);
bb_status bb_cpu_pow(bb_call *call);
bb_status bb_cpu_add_scalar(bb_call *call);
bb_status bb_cpu_mul_scalar(bb_call *call);
bb_status bb_cpu_clamp(bb_call *call);
bb_status bb_cpu_where(bb_call *call);
/* create.c */
bb_status bb_cpu_full(bb_call *call);
bb_status bb_cpu_arange(bb_call *call);
bb_status bb_cpu_rand(bb_call *call);
bb_status bb_cpu_randn(bb_call *call);
bb_status bb_cpu_dropout(bb_call *call);
/* copy.c */
bb_status bb_cpu_cast(bb_call *call);
bb_status bb_cpu_contiguous(bb_call *call);

#endif
