/* Gathers the tables of one ISA level. */
#include "backends/cpu/loops/loops.h"

const bb_loops BB_ISA_NAME(bb_loops) = {
    .elementwise = &BB_ISA_NAME(bb_elementwise_loops),
    .reduce = &BB_ISA_NAME(bb_reduce_loops),
    .gemm = &BB_ISA_NAME(bb_gemm_loops),
    .rms_norm = &BB_ISA_NAME(bb_rms_norm_loops),
    .layer_norm = &BB_ISA_NAME(bb_layer_norm_loops),
    .softmax = &BB_ISA_NAME(bb_softmax_loops),
    .activation = &BB_ISA_NAME(bb_activation_loops),
    .rope = &BB_ISA_NAME(bb_rope_loops),
    .sdpa = &BB_ISA_NAME(bb_sdpa_loops),
    .optimize = &BB_ISA_NAME(bb_optimize_loops),
    .quantize = &BB_ISA_NAME(bb_quantize_loops),
};
