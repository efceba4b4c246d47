/* The yardstick of `bobbin bench gpu`: what memory gives a kernel that does nothing else. Reads
 * each of up to three buffers once, writes each of up to two once, 16 bytes a lane, four loads of
 * every buffer under way. What is written depends on all that was read. */
#include "backends/cuda/bandwidth.h"

enum { THREADS = 256, VECTORS = 4, MOST_READS = 3, MOST_WRITES = 2, WORDS = 4 };

struct buffers {
    const uint32_t *from[MOST_READS];
    uint32_t *to[MOST_WRITES];
    int64_t vectors;
    template <typename F> void each_pointer(F &&f) const {
        for (const uint32_t *p : from) f(p);
        for (const uint32_t *p : to) f(p);
    }
};

template <int READS, int WRITES> static __global__ void bandwidth_kernel(buffers b) {
    const int64_t first = blockIdx.x * (int64_t)(THREADS * VECTORS) + threadIdx.x;
    bb_pack<uint32_t> x[READS][VECTORS];
#pragma unroll
    for (int r = 0; r < READS; r++)
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            if (first + v * THREADS < b.vectors)
                x[r][v] = bb_load16(b.from[r] + (first + v * THREADS) * WORDS);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        if (first + v * THREADS >= b.vectors) continue;
#pragma unroll
        for (int r = 1; r < READS; r++)
#pragma unroll
            for (int k = 0; k < WORDS; k++) x[0][v].v[k] ^= x[r][v].v[k];
#pragma unroll
        for (int w = 0; w < WRITES; w++)
            bb_store16(b.to[w] + (first + v * THREADS) * WORDS, x[0][v]);
    }
}

bb_status bb_cuda_bandwidth(bb_backend *self, const void *const *from, int reads, void *const *to,
                            int writes, size_t bytes) {
    bb_cuda *cuda = reinterpret_cast<bb_cuda *>(self);
    cuda->op = "bandwidth";
    if (reads < 1 || reads > MOST_READS || writes < 1 || writes > MOST_WRITES || writes > reads)
        return bb_cuda_fail(cuda, "bandwidth", "no kernel for so many buffers");
    buffers b = {};
    for (int i = 0; i < reads; i++) b.from[i] = static_cast<const uint32_t *>(from[i]);
    for (int i = 0; i < writes; i++) b.to[i] = static_cast<uint32_t *>(to[i]);
    b.vectors = (int64_t)(bytes / 16);
    const unsigned grid = (unsigned)((b.vectors + THREADS * VECTORS - 1) / (THREADS * VECTORS));
    if (writes == 2)
        return reads == 2 ? BB_LAUNCH(cuda, (bandwidth_kernel<2, 2>), grid, THREADS, 0, b)
                          : BB_LAUNCH(cuda, (bandwidth_kernel<3, 2>), grid, THREADS, 0, b);
    if (reads == 1) return BB_LAUNCH(cuda, (bandwidth_kernel<1, 1>), grid, THREADS, 0, b);
    return reads == 2 ? BB_LAUNCH(cuda, (bandwidth_kernel<2, 1>), grid, THREADS, 0, b)
                      : BB_LAUNCH(cuda, (bandwidth_kernel<3, 1>), grid, THREADS, 0, b);
}
