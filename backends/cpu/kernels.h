/* Prototypes of all CPU kernels, for table.c. bb_cpu_<op> is the forward, bb_cpu_<op>_backward the fused backward,
 * bb_cpu_<op>_supports what the kernel cannot take. One block per adapter file. */
#ifndef BOBBIN_BACKENDS_CPU_KERNELS_H
#define BOBBIN_BACKENDS_CPU_KERNELS_H

#include "backends/cpu/cpu.h"

/* rms_norm.c, layer_norm.c, softmax.c, log_softmax.c, cross_entropy.c */
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

#endif
