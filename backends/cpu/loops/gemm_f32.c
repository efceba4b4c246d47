/* The product of f32: gemm_kernel.h. */
#define ELEMENT float
#define REAL float
#define HALF 0
#define PAIRS 0
#define KERNEL bb_gemm_f32
#include "backends/cpu/loops/gemm_kernel.h"
