/* Functions of one number that several kernels need. R is float or double. */
#ifndef BOBBIN_BACKENDS_CUDA_FUNCTIONS_H
#define BOBBIN_BACKENDS_CUDA_FUNCTIONS_H

#include "backends/cuda/lang.h"

/* 1 / (1 + exp(-x)), written with exp(-|x|) so that neither side loses digits or overflows. */
template <typename R> static __device__ inline R bb_sigmoid(R x) {
    const R e = exp(-fabs(x));
    return (x < 0 ? e : 1) / (1 + e);
}

#endif
