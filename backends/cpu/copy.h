/* Copies between tensors on the host: the CPU backend's copy, fill and add. They cannot fail. */
#ifndef BOBBIN_BACKENDS_CPU_COPY_H
#define BOBBIN_BACKENDS_CPU_COPY_H

#include "backends/cpu/cpu.h"

/* target = source: same shape, any strides and dtypes (conversion rules: loops/elementwise.h). They
 * do not overlap. */
bb_status bb_cpu_copy(bb_backend *self, const bb_tensor *source, bb_tensor *target);
/* Every element = value, converted as from f64. */
bb_status bb_cpu_fill(bb_backend *self, bb_tensor *target, double value);
/* target += source: same shape and dtype, any strides; f16 and bf16 add in f32 and round once. */
bb_status bb_cpu_accumulate(bb_backend *self, const bb_tensor *source, bb_tensor *target);

#endif
