/* Which op runs which kernel on CUDA: one row per op. Views need no row. */
#include "backends/cuda/kernels.h"

const bb_kernel bb_cuda_kernels[] = {
    {NULL, NULL, NULL, NULL},
};
