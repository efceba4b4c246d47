/* Rows by rows: one team of threads a row, which reads it, normalizes it if a norm stands in front,
 * and writes its bytes and scales. For quantize.cu.
 *
 * A thread keeps the raw bits of up to 8 vectors of 16 bytes in registers between the sum of
 * squares and the bytes: a row of up to 2,048 elements of 16 bits by a warp, of up to 16,384 by 256
 * threads, is read once: 3 bytes an element. Longer rows read the rest again, from L2 mostly. A run
 * with a scale of its own lies in a few neighbouring lanes, which find its amax by shuffles. The
 * amax of a tensor is a maximum of integers: an atomic of one warp each gives the same in any
 * order.
 */
#ifndef BOBBIN_BACKENDS_CUDA_QUANTIZE_ROWS_H
#define BOBBIN_BACKENDS_CUDA_QUANTIZE_ROWS_H

#include "backends/cuda/quantize.h"

enum { QUANTIZE_HELD = 8 };

/* W codes from element i of data on, two a byte if packed. */
template <int W>
static __device__ inline void put_codes(const bb_quantize_args &a, int64_t i,
                                        const uint8_t (&code)[W]) {
    uint8_t *data = static_cast<uint8_t *>(a.data);
    if (a.form.packed) {
        if constexpr (W == 1) {
            const int pair = __shfl_down_sync(BB_ALL_LANES, (int)code[0], 1);
            if (i % 2 == 0 && i >= 0) data[i / 2] = (uint8_t)(code[0] | pair << 4);
        } else {
            uint32_t bits = 0;
#pragma unroll
            for (int k = 0; k < W; k++) bits |= (uint32_t)code[k] << (4 * k);
            if (i < 0) return;
            if (W == 8)
                *reinterpret_cast<uint32_t *>(data + i / 2) = bits;
            else
                *reinterpret_cast<uint16_t *>(data + i / 2) = (uint16_t)bits;
        }
        return;
    }
    if (i < 0) return;
    if constexpr (W == 1) {
        data[i] = code[0];
    } else {
        uint64_t bits = 0;
#pragma unroll
        for (int k = 0; k < W; k++) bits |= (uint64_t)code[k] << (8 * k);
        if (W == 8)
            *reinterpret_cast<uint64_t *>(data + i) = bits;
        else
            *reinterpret_cast<uint32_t *>(data + i) = (uint32_t)bits;
    }
}

/* One vector of a row: z is what it holds, 0 beyond the row (there: column < 0). All lanes of a
 * warp come here together. */
template <int W>
static __device__ inline int rows_make(const bb_quantize_args &a, const bb_scale_rule &rule,
                                       float multiplier, int64_t row, int64_t column,
                                       const float (&z)[W]) {
    int most = 0;
#pragma unroll
    for (int k = 0; k < W; k++) most = max(most, bb_magnitude(z[k]));
    if (a.measure) return most;
    if (a.form.block) {
        const int lanes = (int)a.form.block / W;
        const bb_block_scale s = bb_quantize_scale(a, rule, bb_warp_most(most, lanes));
        multiplier = s.multiplier;
        if (column >= 0 && threadIdx.x % lanes == 0)
            bb_put_scale(
                a, a.scale_inv,
                row * ((a.width + a.form.block - 1) / a.form.block) + column / a.form.block, s);
    }
    uint8_t code[W];
#pragma unroll
    for (int k = 0; k < W; k++) code[k] = bb_encode(a.kind, z[k] * multiplier);
    put_codes<W>(a, column < 0 ? -1 : row * a.width + column, code);
    return most;
}

/* The span x of columns from `column` on, as what is quantized. */
template <typename X, int W>
static __device__ inline void rows_values(const bb_quantize_args &a, const bb_span<X, W> &x,
                                          float rstd, int64_t column, float (&z)[W]) {
    if (!a.weight) {
#pragma unroll
        for (int k = 0; k < W; k++) z[k] = x.get(k);
        return;
    }
    const bb_span<float, W> g = bb_span_load<W>(a.weight + column);
#pragma unroll
    for (int k = 0; k < W; k++) z[k] = bb_quantize_value<X>(a, x.get(k), rstd, g.get(k));
}

template <typename X, int W>
static __device__ inline bb_span<X, W> rows_load(const X *from, int64_t step, int64_t k) {
    if constexpr (W > 1) {
        return bb_span_load<W>(from + k * W);
    } else {
        bb_span<X, W> x;
        x.v[0] = from[k * step];
        return x;
    }
}

template <typename X, int W> static __device__ inline float rows_squares(const bb_span<X, W> &x) {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < W; k++) sum += x.get(k) * x.get(k);
    return sum;
}

template <typename X, int W>
static __global__ void __launch_bounds__(256, 2) rows_kernel(bb_quantize_args a) {
    BB_SHARED(float, slots, 2 * BB_WARP);
    const int lanes = a.team, teams = (int)blockDim.x / lanes, lane = (int)threadIdx.x % lanes;
    const int64_t vectors = a.width / W, tiles = (a.rows + teams - 1) / teams;
    const bb_scale_rule rule = bb_quantize_rule(a);
    const float multiplier = bb_quantize_multiplier(a);
    const bool statistics = a.weight && a.sum;
    int most = 0, turn = 0;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x, turn ^= BB_WARP) {
        const int64_t row = tile * teams + (int)threadIdx.x / lanes;
        const bool live = row < a.rows;
        const X *from = static_cast<const X *>(a.x) + a.lines.start(live ? row : 0);
        bb_span<X, W> x[QUANTIZE_HELD];
        float squares = 0, rstd = 1;
#pragma unroll
        for (int v = 0; v < QUANTIZE_HELD; v++) {
            const int64_t k = (int64_t)v * lanes + lane;
            if (!live || k >= vectors) continue;
            x[v] = rows_load<X, W>(from, a.lines.step, k);
            if (statistics) squares += rows_squares(x[v]);
        }
        for (int64_t k = (int64_t)QUANTIZE_HELD * lanes + lane; live && statistics && k < vectors;
             k += lanes)
            squares += rows_squares(rows_load<X, W>(from, a.lines.step, k));
        if (statistics) {
            squares = lanes == BB_WARP ? bb_warp_sum(squares) : bb_block_sum(squares, slots + turn);
            rstd = bb_norm_rstd(squares, a.width, a.eps);
            if (live && lane == 0) a.rstd[row] = rstd;
        } else if (a.weight && live) {
            rstd = a.rstd[row];
        }
        if (a.measure && !a.amax) continue;
        /* Whole warps go round together, beyond the row's end with zeros. */
        for (int64_t first = 0; first < vectors; first += (int64_t)QUANTIZE_HELD * lanes) {
#pragma unroll
            for (int v = 0; v < QUANTIZE_HELD; v++) {
                if (first + (int64_t)v * lanes >= vectors) continue;
                const int64_t k = first + (int64_t)v * lanes + lane;
                const bool inside = live && k < vectors;
                float z[W] = {0};
                if (inside && first > 0) x[v] = rows_load<X, W>(from, a.lines.step, k);
                if (inside) rows_values<X, W>(a, x[v], rstd, k * W, z);
                most = max(most, rows_make<W>(a, rule, multiplier, row, inside ? k * W : -1, z));
            }
        }
    }
    if (!a.amax || (!a.measure && a.recipe != BB_FP8_DELAYED)) return;
    most = bb_warp_most(most);
    if (threadIdx.x % BB_WARP == 0 && most > 0) atomicMax(a.amax, most);
}

#endif
