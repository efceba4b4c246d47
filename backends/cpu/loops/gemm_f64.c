/* The product of f64: gemm_kernel.h. */
#define ELEMENT double
#define REAL double
#define HALF 0
#define PAIRS 0
#define KERNEL bb_gemm_f64
#include "backends/cpu/loops/gemm_kernel.h"
