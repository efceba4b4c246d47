/* What Quantize and RMSNormQuantize share on the CPU (quantize.c). */
#ifndef BOBBIN_BACKENDS_CPU_QUANTIZE_H
#define BOBBIN_BACKENDS_CPU_QUANTIZE_H

#include "backends/cpu/cpu.h"

/* A norm in front of quantizing; NULL: none. */
typedef struct bb_quantize_norm {
    const float *weight; /* of the row's length */
    const float *apart;  /* its even elements, then its odd ones */
    float *rstd;         /* a number a row, written */
    double eps;
} bb_quantize_norm;

/* Quantizes call->in[0] into call->out[0] to call->out[4]. scale: of fp8_delayed, or NULL. */
bb_status bb_cpu_quantize_with(const bb_call *call, const bb_quantize_attrs *attrs,
                               const bb_tensor *scale, const bb_quantize_norm *norm);

#endif
