/* Attention on plain pointers, for one ISA level: sdpa_kernel.h in float here, in double in
 * sdpa_f64.c. Threads and tensors are in ../sdpa.c. */
#include "backends/cpu/loops/loops.h"
#include "backends/cpu/loops/math.h"
#include "core/core.h"

/* exp(x) for x <= 0 or little above, which is all a softmax asks for: results below 2^-125 are 0,
 * NaN stays. Within 1.1 ulp, and half the work of bb_expf. */
static inline float exp_of_difference(float x) {
    const float round = 0x1.8p+23f; /* adding it leaves the nearest integer in the low bits */
    float c = x < -86.6f ? -86.6f : x;
    float shifted = c * 0x1.715476p+0f + round;
    float n = shifted - round;
    float r = (c - n * 0x1.63p-1f) - n * -0x1.bd0106p-13f;
    float p = 0x1.6a3ad4p-10f;
    p = p * r + 0x1.123c6ep-7f;
    p = p * r + 0x1.5558e6p-5f;
    p = p * r + 0x1.55548ep-3f;
    p = p * r + 0x1.fffffcp-2f;
    p = p * (r * r) + r + 1.0f;
    float scale = bb_f32_of_bits((bb_bits_of_f32(shifted) << 23) + 0x3F800000u);
    return x < -86.6f ? 0.0f : p * scale;
}

#define REAL float
#define DTYPE BB_F32
#define LOAD load_f32
#define STORE store_f32
#define EXP exp_of_difference
#define LOG logf
#include "backends/cpu/loops/sdpa_kernel.h"

size_t BB_ISA_NAME(bb_sdpa_f64_scratch)(const bb_sdpa_head *head, bool backward);
void BB_ISA_NAME(bb_sdpa_f64_forward)(const bb_sdpa_head *head, int64_t begin, int64_t end,
                                      double *scratch);
void BB_ISA_NAME(bb_sdpa_f64_backward)(const bb_sdpa_head *head, double *scratch);

const bb_sdpa_loops BB_ISA_NAME(bb_sdpa_loops) = {
    .scratch_f32 = scratch_elements,
    .scratch_f64 = BB_ISA_NAME(bb_sdpa_f64_scratch),
    .forward_f32 = forward,
    .forward_f64 = BB_ISA_NAME(bb_sdpa_f64_forward),
    .backward_f32 = backward,
    .backward_f64 = BB_ISA_NAME(bb_sdpa_f64_backward),
};
