/* RMSNormQuantize on the CPU, fused: quantize.c with a norm in front. Math:
 * ops/rms_norm_quantize.c.
 */
#include "backends/cpu/kernels.h"
#include "backends/cpu/pack.h"
#include "backends/cpu/quantize.h"

static void part(const bb_tensor *weight, bb_tensor *apart) {
    const float *from = (const float *)(const void *)weight->data;
    float *even = (float *)(void *)apart->data, *odd = even + (weight->count + 1) / 2;
    for (int64_t i = 0; i < weight->count; i++) *(i % 2 ? odd++ : even++) = from[i];
}

bb_status bb_cpu_rms_norm_quantize(bb_call *call) {
    const bb_rms_norm_quantize_attrs *a = call->attrs;
    bb_tensor *copy;
    const bb_tensor *weight =
        bb_cpu_pack(call->in[1], bb_cpu_rows_ready(call->in[1], BB_F32), BB_F32, &copy);
    bb_tensor *apart = weight ? bb_cpu_like(weight, BB_F32) : NULL;
    if (apart) {
        part(weight, apart);
        const bb_quantize_norm norm = {.weight = (const float *)(const void *)weight->data,
                                       .apart = (const float *)(const void *)apart->data,
                                       .rstd = (float *)(void *)call->out[5]->data,
                                       .eps = a->eps};
        bb_cpu_quantize_with(call, &a->quantize, call->in[2], &norm);
    }
    bb_drop(apart);
    bb_drop(copy);
    return call->ctx->status;
}
