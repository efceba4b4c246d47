/* softmax and log_softmax differ in their loops alone; the walk over rows is in softmax.c. */
#ifndef BOBBIN_BACKENDS_CPU_SOFTMAX_H
#define BOBBIN_BACKENDS_CPU_SOFTMAX_H

#include "backends/cpu/cpu.h"

typedef void (*bb_softmax_loop)(const bb_softmax_run *run);

bool bb_cpu_last_axis(const bb_call *call);
bb_status bb_cpu_softmax_rows(bb_call *call, bb_softmax_loop f32, bb_softmax_loop f64);
bb_status bb_cpu_softmax_rows_backward(const bb_grad_call *grad, bb_softmax_loop f32,
                                       bb_softmax_loop f64);

#endif
