/* bb_backend.bandwidth on the device (bandwidth.cu), for backend.cu. */
#ifndef BOBBIN_BACKENDS_CUDA_BANDWIDTH_H
#define BOBBIN_BACKENDS_CUDA_BANDWIDTH_H

#include "backends/cuda/cuda.h"

bb_status bb_cuda_bandwidth(bb_backend *self, const void *const *from, int reads, void *const *to,
                            int writes, size_t bytes);

#endif
