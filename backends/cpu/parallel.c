/* Sharing work among threads: fixed pieces, handed out in turn, so that results do not depend on
 * the number of threads. OpenMP is the one thread pool (OpenBLAS's OpenMP flavour uses it too). */
#include <omp.h>

#include "backends/cpu/cpu.h"

int64_t bb_cpu_grain(int64_t item_elements, int64_t target) {
    if (item_elements < 1) item_elements = 1;
    int64_t grain = target / item_elements;
    return grain < 1 ? 1 : grain;
}

void bb_cpu_for(const bb_cpu *cpu, int64_t n, int64_t grain, bb_piece_fn body, void *user) {
    if (n <= 0) return;
    if (grain < 1) grain = 1;
    int64_t pieces = n / grain + (n % grain != 0);
    if (pieces == 1 || cpu->threads == 1 || omp_in_parallel()) {
        for (int64_t p = 0; p < pieces; p++)
            body(user, p * grain, p + 1 == pieces ? n : (p + 1) * grain);
        return;
    }
    int threads = cpu->threads < pieces ? cpu->threads : (int)pieces;
    /* dynamic: pieces are seldom alike (the last column of tiles), and cores seldom equally free */
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t p = 0; p < pieces; p++)
        body(user, p * grain, p + 1 == pieces ? n : (p + 1) * grain);
}
