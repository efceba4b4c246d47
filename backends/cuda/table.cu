/* Which op runs which kernel on CUDA: one row per op. Views need no row. */
#include "backends/cuda/kernels.h"

const bb_kernel bb_cuda_kernels[] = {
    {"matmul", bb_cuda_matmul, NULL, NULL},
    {"SDPA", bb_cuda_sdpa, bb_cuda_sdpa_backward, bb_cuda_sdpa_supports},
    {"linear", bb_cuda_linear, bb_cuda_linear_backward, NULL},
    {"cast", bb_cuda_cast, NULL, NULL},
    {"contiguous", bb_cuda_contiguous, NULL, NULL},
    {NULL, NULL, NULL, NULL},
};
