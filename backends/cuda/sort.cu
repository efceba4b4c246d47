/* A stable radix sort, eight bits a pass from the lowest (sort.h). A pass is three launches:
 *
 *   count    how often each digit occurs in each tile of 2048 entries
 *   offsets  running sums of those counts, digit by digit and tile by tile within it
 *   place    each entry to the next free place of its digit; within a tile, warps take their 256
 *            entries 32 at a time, and lanes with the same digit line up in order
 *
 * Only integers are counted by atomics, in shared memory: sums do not depend on their order.
 * Bytes moved a pass: 16 n read and 16 n written, 8 n read for the counts. Indices of an embedding
 * are a few thousand entries, so launches are what it costs: 3 for 256 keys, 6 for 65536. */
#include "backends/cuda/sort.h"

namespace {

enum { BLOCK = 256, WARPS = BLOCK / BB_WARP, STRIP = 256, TILE = WARPS * STRIP, DIGITS = 256 };
enum { SCAN_BLOCK = 1024 };

int64_t tiles_of(int64_t n) { return (n + TILE - 1) / TILE; }

__device__ inline int digit_of(uint64_t key, int shift) { return (int)(key >> shift & 0xff); }

__global__ void __launch_bounds__(BLOCK)
    count_kernel(const uint64_t *key, int64_t n, int shift, int64_t tiles, int64_t *counts) {
    BB_SHARED(int, count, DIGITS);
    count[threadIdx.x] = 0;
    __syncthreads();
    const int64_t first = (int64_t)blockIdx.x * TILE;
    for (int k = 0; k < STRIP / BB_WARP; k++) {
        const int64_t i = first + k * BLOCK + threadIdx.x;
        if (i < n) atomicAdd(&count[digit_of(key[i], shift)], 1);
    }
    __syncthreads();
    counts[(int64_t)threadIdx.x * tiles + blockIdx.x] = count[threadIdx.x];
}

/* counts[i] becomes the sum of those before it; one block. */
__global__ void __launch_bounds__(SCAN_BLOCK) offsets_kernel(int64_t *counts, int64_t n) {
    BB_SHARED(int64_t, slots, 2 * BB_WARP);
    const int warp = threadIdx.x / BB_WARP, lane = threadIdx.x % BB_WARP;
    int64_t before = 0;
    int turn = 0; /* the slots of one round are still read while the next is written */
    for (int64_t first = 0; first < n; first += SCAN_BLOCK, turn ^= 1) {
        const int64_t i = first + threadIdx.x, own = i < n ? counts[i] : 0;
        int64_t through = own;
        for (int d = 1; d < BB_WARP; d *= 2) {
            const int64_t other = __shfl_up_sync(BB_ALL_LANES, through, d);
            if (lane >= d) through += other;
        }
        int64_t *totals = slots + turn * BB_WARP;
        if (lane == BB_WARP - 1) totals[warp] = through;
        __syncthreads();
        int64_t start = before;
        for (int w = 0; w < SCAN_BLOCK / BB_WARP; w++) {
            if (w == warp) start = before;
            before += totals[w];
        }
        if (i < n) counts[i] = start + through - own;
    }
}

/* Lanes of the warp whose digit is the same; lanes without an entry are in nobody's. */
__device__ inline unsigned same_digit(int digit, bool there) {
    unsigned mask = __ballot_sync(BB_ALL_LANES, there);
    for (int bit = 0; bit < 8; bit++) {
        const unsigned set = __ballot_sync(BB_ALL_LANES, digit >> bit & 1);
        mask &= digit >> bit & 1 ? set : ~set;
    }
    return mask;
}

__global__ void __launch_bounds__(BLOCK)
    place_kernel(const uint64_t *key, const int64_t *value, int64_t n, int shift, int64_t tiles,
                 const int64_t *offsets, uint64_t *key_to, int64_t *value_to) {
    BB_SHARED(int, count, WARPS *DIGITS);
    BB_SHARED(int64_t, next, WARPS * DIGITS); /* free place of a digit for a warp's entries */
    const int warp = threadIdx.x / BB_WARP, lane = threadIdx.x % BB_WARP;
    const int64_t first = (int64_t)blockIdx.x * TILE + warp * STRIP;
    for (int w = 0; w < WARPS; w++) count[w * DIGITS + threadIdx.x] = 0;
    __syncthreads();
    for (int k = lane; k < STRIP; k += BB_WARP)
        if (first + k < n) atomicAdd(&count[warp * DIGITS + digit_of(key[first + k], shift)], 1);
    __syncthreads();
    int64_t place = offsets[(int64_t)threadIdx.x * tiles + blockIdx.x];
    for (int w = 0; w < WARPS; w++) {
        next[w * DIGITS + threadIdx.x] = place;
        place += count[w * DIGITS + threadIdx.x];
    }
    __syncthreads();
    for (int k = lane; k < STRIP; k += BB_WARP) {
        const int64_t i = first + k;
        const bool there = i < n;
        const uint64_t own = there ? key[i] : 0;
        const int digit = digit_of(own, shift);
        const unsigned mask = same_digit(digit, there), below = mask & ((1u << lane) - 1u);
        int64_t *at = &next[warp * DIGITS + digit];
        if (there) {
            const int64_t to = *at + __popc(below);
            key_to[to] = own;
            value_to[to] = value[i];
        }
        __syncwarp();
        if (there && below == 0) *at += __popc(mask);
        __syncwarp();
    }
}

} // namespace

size_t bb_sort_bytes(int64_t n) {
    return ((size_t)n * 4 + (size_t)tiles_of(n) * DIGITS) * sizeof(int64_t);
}

bb_sort bb_sort_in(void *scratch, int64_t n) {
    int64_t *at = static_cast<int64_t *>(scratch);
    bb_sort s = {n, {NULL, NULL}, {NULL, NULL}, at + 4 * n, 0};
    for (int i = 0; i < 2; i++) {
        s.key[i] = reinterpret_cast<uint64_t *>(at + 2 * i * n);
        s.value[i] = at + (2 * i + 1) * n;
    }
    return s;
}

bb_status bb_cuda_sort(bb_cuda *cuda, bb_sort *s, uint64_t limit) {
    const int64_t tiles = tiles_of(s->n);
    for (int shift = 0; shift < 64 && limit > 1 && (limit - 1) >> shift; shift += 8) {
        const uint64_t *key = s->key[s->current];
        bb_status status = BB_LAUNCH(cuda, count_kernel, (unsigned)tiles, BLOCK, 0, key, s->n,
                                     shift, tiles, s->counts);
        if (!status)
            status = BB_LAUNCH(cuda, offsets_kernel, 1, SCAN_BLOCK, 0, s->counts, tiles * DIGITS);
        if (!status)
            status = BB_LAUNCH(cuda, place_kernel, (unsigned)tiles, BLOCK, 0, key,
                               static_cast<const int64_t *>(s->value[s->current]), s->n, shift,
                               tiles, static_cast<const int64_t *>(s->counts), s->key[!s->current],
                               s->value[!s->current]);
        if (status) return status;
        s->current = !s->current;
    }
    return BB_OK;
}
