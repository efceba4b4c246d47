/* log_softmax along the last axis. The math: ops/log_softmax.c; the kernels: softmax.cu. */
#include "backends/cuda/kernels.h"
#include "backends/cuda/softmax.h"

bool bb_cuda_log_softmax_supports(const bb_call *call) { return bb_cuda_last_axis(call); }
bb_status bb_cuda_log_softmax(bb_call *call) { return bb_cuda_softmax_rows(call, true); }
bb_status bb_cuda_log_softmax_backward(const bb_grad_call *grad) {
    return bb_cuda_softmax_rows_backward(grad, true);
}
