/* log_softmax on the CPU, fused along the last axis. The math: ops/log_softmax.c; the walk over
 * rows: softmax.c. */
#include "backends/cpu/kernels.h"
#include "backends/cpu/softmax.h"

bool bb_cpu_log_softmax_supports(const bb_call *call) { return bb_cpu_last_axis(call); }

bb_status bb_cpu_log_softmax(bb_call *call) {
    const bb_softmax_loops *loops = bb_cpu_of(call->ctx)->loops->softmax;
    return bb_cpu_softmax_rows(call, loops->log_softmax_f32, loops->log_softmax_f64);
}

bb_status bb_cpu_log_softmax_backward(const bb_grad_call *grad) {
    const bb_softmax_loops *loops = bb_cpu_of(grad->call->ctx)->loops->softmax;
    return bb_cpu_softmax_rows_backward(grad, loops->log_softmax_backward_f32,
                                        loops->log_softmax_backward_f64);
}
