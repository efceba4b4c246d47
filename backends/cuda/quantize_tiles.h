/* Tiles, for columns and for squares of 128 x 128: a block of 256 threads takes 128 columns of as
 * many rows as a run is long (32 with one scale). For quantize.cu.
 *
 * x is read for each of: the rows' bytes, the columns' maxima, the columns' bytes; after the first
 * time from L1 or L2. rstd is there already. Transposed bytes pass through shared memory, so that
 * both copies are written in lines. */
#ifndef BOBBIN_BACKENDS_CUDA_QUANTIZE_TILES_H
#define BOBBIN_BACKENDS_CUDA_QUANTIZE_TILES_H

#include "backends/cuda/quantize.h"

/* A row of shared codes is longer than a tile's: neighbours in a column are in different banks. */
enum { TILE_WIDTH = 128, TILE_HEIGHT = 128, TILE_STRIDE = 132, TILE_THREADS = 256 };

struct tile_at {
    int64_t row, column;
    int height, width;
};

/* Its amax, known to all threads; ends in a barrier. slots: 8 ints. */
static __device__ inline int tile_most(int most, int *slots) {
    const int warp = (int)threadIdx.x / BB_WARP;
    most = bb_warp_most(most);
    __syncthreads();
    if (threadIdx.x % BB_WARP == 0) slots[warp] = most;
    __syncthreads();
    most = slots[0];
    for (int w = 1; w < TILE_THREADS / BB_WARP; w++) most = max(most, slots[w]);
    return most;
}

/* The tile's codes in shared memory to the transposed copy, consecutive threads along its rows. */
static __device__ inline void tile_turn(const bb_quantize_args &a, const tile_at &t,
                                        const uint8_t *codes) {
    const int pack = a.form.packed ? 2 : 1, height = t.height / pack;
    uint8_t *columns = static_cast<uint8_t *>(a.columns);
    for (int i = (int)threadIdx.x; i < t.width * height; i += TILE_THREADS) {
        const int c = i / height, r = i % height * pack;
        int code = codes[r * TILE_STRIDE + c];
        if (pack == 2) code |= codes[(r + 1) * TILE_STRIDE + c] << 4;
        columns[((t.column + c) * a.rows + t.row + r) / pack] = (uint8_t)code;
    }
}

/* The tile with one multiplier: rows, then columns. Gives its amax as this thread saw it. */
template <typename X>
static __device__ inline int tile_one(const bb_quantize_args &a, const tile_at &t, float multiplier,
                                      uint8_t *codes) {
    int most = 0;
    for (int i = (int)threadIdx.x; i < t.height * t.width; i += TILE_THREADS) {
        const int r = i / t.width, c = i % t.width;
        const X *at = static_cast<const X *>(a.x) + a.lines.start(t.row + r);
        const float z = bb_quantize_at(a, at, t.row + r, t.column + c);
        const uint8_t code = bb_encode(a.kind, z * multiplier);
        most = max(most, bb_magnitude(z));
        codes[r * TILE_STRIDE + c] = code;
        if (a.data) static_cast<uint8_t *>(a.data)[(t.row + r) * a.width + t.column + c] = code;
    }
    __syncthreads();
    if (a.columns) tile_turn(a, t, codes);
    return most;
}

template <typename X>
static __device__ inline void tile_square(const bb_quantize_args &a, const tile_at &t,
                                          uint8_t *codes, int *slots) {
    int most = 0;
    for (int i = (int)threadIdx.x; i < t.height * t.width; i += TILE_THREADS) {
        const int64_t row = t.row + i / t.width;
        const X *at = static_cast<const X *>(a.x) + a.lines.start(row);
        most = max(most, bb_magnitude(bb_quantize_at(a, at, row, t.column + i % t.width)));
    }
    const bb_block_scale s = bb_quantize_scale(a, a.rule, tile_most(most, slots));
    const int64_t block = a.form.block, across = (a.width + block - 1) / block,
                  down = (a.rows + block - 1) / block;
    if (threadIdx.x == 0 && a.scale_inv)
        bb_put_scale(a, a.scale_inv, t.row / block * across + t.column / block, s);
    if (threadIdx.x == 0 && a.columns_scale_inv)
        bb_put_scale(a, a.columns_scale_inv, t.column / block * down + t.row / block, s);
    tile_one<X>(a, t, s.multiplier, codes);
}

/* A warp a row: lane l holds columns l, l + 32, l + 64, l + 96. Runs of 16, 32 or 128. */
template <typename X>
static __device__ inline void tile_rows(const bb_quantize_args &a, const tile_at &t,
                                        const bb_scale_rule &rule) {
    const int lane = (int)threadIdx.x % BB_WARP, block = (int)a.form.block;
    const int64_t across = (a.width + block - 1) / block;
    uint8_t *data = static_cast<uint8_t *>(a.data);
    for (int r = (int)threadIdx.x / BB_WARP; r < t.height; r += TILE_THREADS / BB_WARP) {
        const int64_t row = t.row + r;
        const X *at = static_cast<const X *>(a.x) + a.lines.start(row);
        float z[4];
        int most[4];
        for (int q = 0; q < 4; q++) {
            const int c = q * BB_WARP + lane;
            z[q] = c < t.width ? bb_quantize_at(a, at, row, t.column + c) : 0;
            most[q] = bb_warp_most(bb_magnitude(z[q]), block < BB_WARP ? block : BB_WARP);
        }
        const int all = max(max(most[0], most[1]), max(most[2], most[3]));
        for (int q = 0; q < 4; q++) {
            const int c = q * BB_WARP + lane;
            const bb_block_scale s =
                bb_quantize_scale(a, rule, block == TILE_WIDTH ? all : most[q]);
            const uint8_t code = bb_encode(a.kind, z[q] * s.multiplier);
            const int next = __shfl_down_sync(BB_ALL_LANES, (int)code, 1);
            if (c >= t.width) continue;
            if (c % block == 0)
                bb_put_scale(a, a.scale_inv, row * across + (t.column + c) / block, s);
            const int64_t i = row * a.width + t.column + c;
            if (!a.form.packed)
                data[i] = code;
            else if (c % 2 == 0)
                data[i / 2] = (uint8_t)(code | next << 4);
        }
    }
}

/* Two threads a column, one for the even and one for the odd rows. slots: 2 x 128 ints. */
template <typename X>
static __device__ inline void tile_columns(const bb_quantize_args &a, const tile_at &t,
                                           const bb_scale_rule &rule, uint8_t *codes, int *slots) {
    const int c = (int)threadIdx.x % TILE_WIDTH, half = (int)threadIdx.x / TILE_WIDTH;
    const int64_t column = t.column + c, block = a.form.block, down = (a.rows + block - 1) / block;
    int most = 0;
    for (int r = half; c < t.width && r < t.height; r += 2) {
        const X *at = static_cast<const X *>(a.x) + a.lines.start(t.row + r);
        most = max(most, bb_magnitude(bb_quantize_at(a, at, t.row + r, column)));
    }
    __syncthreads();
    slots[threadIdx.x] = most;
    __syncthreads();
    const bb_block_scale s = bb_quantize_scale(a, rule, max(slots[c], slots[TILE_WIDTH + c]));
    if (c < t.width && half == 0)
        bb_put_scale(a, a.columns_scale_inv,
                     a.form.transposed ? column * down + t.row / block
                                       : t.row / block * a.width + column,
                     s);
    for (int r = half; c < t.width && r < t.height; r += 2) {
        const X *at = static_cast<const X *>(a.x) + a.lines.start(t.row + r);
        const uint8_t code =
            bb_encode(a.kind, bb_quantize_at(a, at, t.row + r, column) * s.multiplier);
        if (a.form.transposed)
            codes[r * TILE_STRIDE + c] = code;
        else
            static_cast<uint8_t *>(a.columns)[(t.row + r) * a.width + column] = code;
    }
    __syncthreads();
    if (a.form.transposed) tile_turn(a, t, codes);
}

static __host__ __device__ inline int64_t tile_height(const bb_quantize_args &a) {
    return a.form.block ? a.form.block : (int64_t)BB_WARP;
}

template <typename X>
static __global__ void __launch_bounds__(TILE_THREADS, 3) tiles_kernel(bb_quantize_args a) {
    BB_SHARED(uint8_t, codes, TILE_HEIGHT * TILE_STRIDE);
    BB_SHARED(int, slots, TILE_THREADS);
    const int64_t height = tile_height(a), across = (a.width + TILE_WIDTH - 1) / TILE_WIDTH,
                  tiles = (a.rows + height - 1) / height * across;
    const bb_scale_rule rule = bb_quantize_rule(a);
    const float multiplier = bb_quantize_multiplier(a);
    int most = 0;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        tile_at t;
        t.row = tile / across * height;
        t.column = tile % across * TILE_WIDTH;
        t.height = (int)min(height, a.rows - t.row);
        t.width = (int)min((int64_t)TILE_WIDTH, a.width - t.column);
        if (!a.form.block) most = max(most, tile_one<X>(a, t, multiplier, codes));
        if (a.form.block && a.square) tile_square<X>(a, t, codes, slots);
        if (a.form.block && !a.square && a.data) tile_rows<X>(a, t, rule);
        if (a.form.block && !a.square && a.columns) tile_columns<X>(a, t, rule, codes, slots);
        __syncthreads(); /* before the next tile's codes */
    }
    if (a.recipe != BB_FP8_DELAYED) return;
    most = bb_warp_most(most);
    if (threadIdx.x % BB_WARP == 0 && most > 0) atomicMax(a.amax, most);
}

#endif
