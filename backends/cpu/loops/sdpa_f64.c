/* Attention in double, for the table in sdpa.c: sdpa_kernel.h once more. */
#include "backends/cpu/loops/loops.h"
#include "core/core.h"

#define REAL double
#define DTYPE BB_F64
#define LOAD load_f64
#define STORE store_f64
#define EXP exp
#define LOG log
#include "backends/cpu/loops/sdpa_kernel.h"

size_t BB_ISA_NAME(bb_sdpa_f64_scratch)(const bb_sdpa_head *head, bool backward);
void BB_ISA_NAME(bb_sdpa_f64_forward)(const bb_sdpa_head *head, int64_t begin, int64_t end,
                                      double *scratch);
void BB_ISA_NAME(bb_sdpa_f64_backward)(const bb_sdpa_head *head, double *scratch);

size_t BB_ISA_NAME(bb_sdpa_f64_scratch)(const bb_sdpa_head *head, bool with_backward) {
    return scratch_elements(head, with_backward);
}

void BB_ISA_NAME(bb_sdpa_f64_forward)(const bb_sdpa_head *head, int64_t begin, int64_t end,
                                      double *scratch) {
    forward(head, begin, end, scratch);
}

void BB_ISA_NAME(bb_sdpa_f64_backward)(const bb_sdpa_head *head, double *scratch) {
    backward(head, scratch);
}
