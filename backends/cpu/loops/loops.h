/* The tables of loops. A struct per loops/<stem>.c; bb_loops gathers them per ISA level (isa.c). */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_H
#define BOBBIN_BACKENDS_CPU_LOOPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* BB_ISA is baseline, avx2, avx512, and avx512_bf16 for the loops of x86/ that stand over avx512's
 * (x86-64), or baseline elsewhere; set by CMake per compilation. */
#define BB_ISA_PASTE_(name, isa) name##_##isa
#define BB_ISA_PASTE(name, isa) BB_ISA_PASTE_(name, isa)
#define BB_ISA_NAME(name) BB_ISA_PASTE(name, BB_ISA)

#include "backends/cpu/loops/elementwise.h"
#include "backends/cpu/loops/reduce.h"
#include "backends/cpu/loops/gemm.h"
#include "backends/cpu/loops/norm.h"
#include "backends/cpu/loops/softmax.h"
#include "backends/cpu/loops/activation.h"
#include "backends/cpu/loops/rope.h"
#include "backends/cpu/loops/sdpa.h"
#include "backends/cpu/loops/optimize.h"
#include "backends/cpu/loops/quantize.h"

typedef struct bb_loops {
    const bb_elementwise_loops *elementwise;
    const bb_reduce_loops *reduce;
    const bb_gemm_loops *gemm;
    const bb_norm_loops *rms_norm, *layer_norm;
    const bb_softmax_loops *softmax;
    const bb_activation_loops *activation;
    const bb_rope_loops *rope;
    const bb_sdpa_loops *sdpa;
    const bb_optimize_loops *optimize;
    const bb_quantize_loops *quantize;
} bb_loops;
extern const bb_loops bb_loops_baseline, bb_loops_avx2, bb_loops_avx512;

#endif
