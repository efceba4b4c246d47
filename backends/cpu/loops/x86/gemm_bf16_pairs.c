/* The product of bf16 where the processor has AVX512-BF16: gemm_kernel.h on pairs, twice as fast as
 * widened. The instruction takes what is below 2^-126 for zero, inputs and sums alike. */
#include "backends/cpu/loops/half_runs.h"

#define ELEMENT uint16_t
#define REAL float
#define HALF 1
#define PAIRS 1
#define WIDEN bf16_to_f32_run
#define NARROW f32_to_bf16_run
#define KERNEL bb_gemm_bf16
#include "backends/cpu/loops/gemm_kernel.h"
