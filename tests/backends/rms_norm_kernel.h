/* RMSNormImpl's CPU kernel by itself, for those who ask for the statistic that it leaves. */
#ifndef BOBBIN_TESTS_BACKENDS_RMS_NORM_KERNEL_H
#define BOBBIN_TESTS_BACKENDS_RMS_NORM_KERNEL_H

#include "backends/cpu/kernels.h"
#include "ops/table.h"

/* Runs it as dispatch does when a gradient is needed; *rstd is the saved statistic. NULL: it does
 * not take this call. */
static inline bb_tensor *rms_norm_kernel(bb_context *ctx, bb_tensor *x, bb_tensor *scale,
                                         const bb_rms_norm_attrs *attrs, bb_tensor **rstd) {
    bb_tensor *in[] = {x, scale};
    bb_call call = {.ctx = ctx,
                    .op = &bb_op_rms_norm,
                    .attrs = attrs,
                    .n_in = 2,
                    .n_out = 2,
                    .in = in,
                    .needs_grad = true};
    if (bb_op_rms_norm.infer(&call) != BB_OK || !bb_cpu_rms_norm_supports(&call)) return NULL;
    for (int i = 0; i < 2; i++) call.out[i] = bb_empty(ctx, call.meta[i].dtype, call.meta[i].shape);
    if (bb_cpu_rms_norm(&call) != BB_OK) return NULL;
    *rstd = call.out[1];
    return call.out[0];
}

#endif
