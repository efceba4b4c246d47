/* Which op runs which kernel on CUDA: one row per op. Views need no row. */
#include "backends/cuda/kernels.h"

const bb_kernel bb_cuda_kernels[] = {
    {"RMSNormImpl", bb_cuda_rms_norm, bb_cuda_rms_norm_backward, bb_cuda_rms_norm_supports},
    {"LayerNorm", bb_cuda_layer_norm, bb_cuda_layer_norm_backward, bb_cuda_layer_norm_supports},
    {"matmul", bb_cuda_matmul, NULL, NULL},
    {"linear", bb_cuda_linear, bb_cuda_linear_backward, NULL},
    {"cast", bb_cuda_cast, NULL, NULL},
    {"contiguous", bb_cuda_contiguous, NULL, NULL},
    {NULL, NULL, NULL, NULL},
};
