/* Which op runs which kernel on the CPU: one row per op. Views need no row. */
#include "backends/cpu/kernels.h"

const bb_kernel bb_cpu_kernels[] = {
    {"RMSNormImpl", bb_cpu_rms_norm, bb_cpu_rms_norm_backward, bb_cpu_rms_norm_supports},
    {"layer_norm", bb_cpu_layer_norm, bb_cpu_layer_norm_backward, bb_cpu_layer_norm_supports},
    {"softmax", bb_cpu_softmax, bb_cpu_softmax_backward, bb_cpu_softmax_supports},
    {"log_softmax", bb_cpu_log_softmax, bb_cpu_log_softmax_backward, bb_cpu_log_softmax_supports},
    {"cross_entropy", bb_cpu_cross_entropy, bb_cpu_cross_entropy_backward, NULL},
    {NULL, NULL, NULL, NULL},
};
