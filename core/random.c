/* Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
 * 2011. */
#include "core/impl.h"

void bb_philox(uint64_t seed, uint64_t offset, uint32_t out[4]) {
    uint32_t c0 = (uint32_t)offset, c1 = (uint32_t)(offset >> 32), c2 = 0, c3 = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1, c3 = (uint32_t)p0;
        c0 = n0, c2 = n2;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

uint64_t bb_take_random(bb_context *ctx, int64_t elements) {
    uint64_t first = ctx->rng.offset;
    bb_refuse_in_capture(ctx, "random numbers", "a replay would draw the same ones again");
    ctx->rng.offset += ((uint64_t)(elements < 0 ? 0 : elements) + 3) / 4;
    return first;
}

bb_rng bb_get_rng(const bb_context *ctx) { return ctx ? ctx->rng : (bb_rng){0, 0}; }
void bb_set_rng(bb_context *ctx, bb_rng rng) {
    if (ctx) ctx->rng = rng;
}
