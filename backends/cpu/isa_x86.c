/* The x86-64 levels, best first: x86-64-v4 with AVX512-BF16 for one product, x86-64-v4, v3, and the
 * baseline every such processor has. */
#include <string.h>

#include "backends/cpu/isa.h"

extern const bb_gemm_kernel bb_gemm_bf16_avx512_bf16;

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512cd");
}
static bool has_avx512_bf16(void) { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2");
}
static bool always(void) { return true; }

static const bb_isa levels[] = {
    {"avx512_bf16", &bb_loops_avx512, &bb_gemm_bf16_avx512_bf16, has_avx512_bf16},
    {"avx512", &bb_loops_avx512, NULL, has_avx512},
    {"avx2", &bb_loops_avx2, NULL, has_avx2},
    {"baseline", &bb_loops_baseline, NULL, always},
};
enum { LEVELS = sizeof levels / sizeof levels[0] };

const bb_isa *bb_isa_at(int index) { return index >= 0 && index < LEVELS ? &levels[index] : NULL; }

const bb_isa *bb_isa_choose(const char *wish) {
    const bb_isa *best = NULL;
    for (int i = 0; i < LEVELS; i++) {
        if (!levels[i].usable()) continue;
        if (!best) best = &levels[i];
        if (wish && strcmp(wish, levels[i].name) == 0) return &levels[i];
    }
    return best;
}
