/* RMSNormQuantize on the CPU, fused: quantize.c with a norm in front. Math:
 * ops/rms_norm_quantize.c.
 */
#include "backends/cpu/kernels.h"
#include "backends/cpu/pack.h"
#include "backends/cpu/quantize.h"

bb_status bb_cpu_rms_norm_quantize(bb_call *call) {
    const bb_rms_norm_quantize_attrs *a = call->attrs;
    bb_tensor *copy;
    const bb_tensor *weight =
        bb_cpu_pack(call->in[1], bb_cpu_rows_ready(call->in[1], BB_F32), BB_F32, &copy);
    if (!weight) return call->ctx->status;
    const bb_quantize_norm norm = {.weight = (const float *)(const void *)weight->data,
                                   .rstd = (float *)(void *)call->out[5]->data,
                                   .eps = a->eps};
    bb_status status = bb_cpu_quantize_with(call, &a->quantize, call->in[2], &norm);
    bb_drop(copy);
    return status;
}
