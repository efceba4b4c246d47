/* Copies on the device (copy.cu), for backend.cu and for kernels that want contiguous inputs. */
#ifndef BOBBIN_BACKENDS_CUDA_COPY_H
#define BOBBIN_BACKENDS_CUDA_COPY_H

#include "backends/cuda/cuda.h"

/* Same shape; any strides, any dtypes (conversions as in backends/cpu/loops/elementwise.h); both on
 * the device. */
bb_status bb_cuda_copy_elements(bb_cuda *cuda, const bb_tensor *source, bb_tensor *target);
bb_status bb_cuda_fill(bb_backend *self, bb_tensor *target, double value);
bb_status bb_cuda_accumulate(bb_backend *self, const bb_tensor *source,
                             bb_tensor *target); /* target += source */

/* t's elements contiguous: where they lie if they already are, otherwise in a copy whose storage
 * goes to *held (release it after the launch). NULL: sticky error. */
const void *bb_cuda_contiguous_data(bb_cuda *cuda, const bb_tensor *t, bb_storage **held);

/* The same as a tensor: t itself, or *copy, the header of a contiguous copy. NULL: sticky error. */
const bb_tensor *bb_cuda_packed(bb_cuda *cuda, const bb_tensor *t, bb_tensor *copy,
                                bb_storage **held);
/* Packed only if t is large and its last axis lies across memory: reading it in row-major order
 * would fetch 32 bytes for every element. */
const bb_tensor *bb_cuda_straight(bb_cuda *cuda, const bb_tensor *t, bb_tensor *copy,
                                  bb_storage **held);

#endif
