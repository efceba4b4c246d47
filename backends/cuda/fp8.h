/* backends/fp8.h for kernels: the same text, compiled for the device too. The codes are the CPU's,
 * NaN with its sign included, which the conversions of the hardware do not promise. */
#ifndef BOBBIN_BACKENDS_CUDA_FP8_H
#define BOBBIN_BACKENDS_CUDA_FP8_H

#include "backends/cuda/lang.h"

#define BB_FP8_INLINE static __host__ __device__ inline
#include "backends/fp8.h"

/* What an element becomes; its codes and its values. */
enum bb_code_kind { BB_CODE_E4M3 = 0, BB_CODE_E5M2, BB_CODE_E2M1 };

static __device__ inline uint8_t bb_encode(int kind, float x) {
    if (kind == BB_CODE_E4M3) return bb_f32_to_e4m3(x);
    return kind == BB_CODE_E5M2 ? bb_f32_to_e5m2(x) : bb_f32_to_e2m1(x);
}
static __device__ inline float bb_decode(int kind, uint8_t code) {
    if (kind == BB_CODE_E4M3) return bb_e4m3_to_f32(code);
    return kind == BB_CODE_E5M2 ? bb_e5m2_to_f32(code) : bb_e2m1_to_f32(code);
}

#endif
