/* Which op runs which kernel on CUDA: one row per op. Views need no row. */
#include "backends/cuda/kernels.h"

const bb_kernel bb_cuda_kernels[] = {
    {"softmax", bb_cuda_softmax, bb_cuda_softmax_backward, bb_cuda_softmax_supports},
    {"log_softmax", bb_cuda_log_softmax, bb_cuda_log_softmax_backward,
     bb_cuda_log_softmax_supports},
    {"cross_entropy", bb_cuda_cross_entropy, bb_cuda_cross_entropy_backward, NULL},
    {"sum", bb_cuda_sum, NULL, NULL},
    {"mean", bb_cuda_mean, NULL, NULL},
    {"amax", bb_cuda_amax, NULL, NULL},
    {"amin", bb_cuda_amin, NULL, NULL},
    {"sum_squares", bb_cuda_sum_squares, NULL, NULL},
    {"cumsum", bb_cuda_cumsum, NULL, NULL},
    {"argmax", bb_cuda_argmax, NULL, NULL},
    {"cat", bb_cuda_cat, NULL, NULL},
    {"stack", bb_cuda_stack, NULL, NULL},
    {"pad", bb_cuda_pad, NULL, NULL},
    {"gather", bb_cuda_gather, NULL, NULL},
    {"index_select", bb_cuda_index_select, NULL, NULL},
    {"scatter_add", bb_cuda_scatter_add, NULL, NULL},
    {"embedding", bb_cuda_embedding, bb_cuda_embedding_backward, NULL},
    {"matmul", bb_cuda_matmul, NULL, NULL},
    {"linear", bb_cuda_linear, bb_cuda_linear_backward, NULL},
    {"cast", bb_cuda_cast, NULL, NULL},
    {"contiguous", bb_cuda_contiguous, NULL, NULL},
    {NULL, NULL, NULL, NULL},
};
