/* The product of bf16: gemm_kernel.h, widened to f32 where it is packed. */
#include "backends/cpu/loops/half_runs.h"

#define ELEMENT uint16_t
#define REAL float
#define HALF 1
#define PAIRS 0
#define WIDEN bf16_to_f32_run
#define NARROW f32_to_bf16_run
#define KERNEL bb_gemm_bf16
#include "backends/cpu/loops/gemm_kernel.h"
