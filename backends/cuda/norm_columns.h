/* Backward of the norms in two passes over x and dy, for the rows that norm_strips.h cannot take:
 * long ones, and those that cannot be read 16 bytes at a time. row_dots_kernel sums over rows,
 * column_kernel writes dx and sums over columns. Both stream, but x and dy are read twice: 5 D s
 * bytes a row. What they compute: norm_backward.h. */
#ifndef BOBBIN_BACKENDS_CUDA_NORM_COLUMNS_H
#define BOBBIN_BACKENDS_CUDA_NORM_COLUMNS_H

#include "backends/cuda/norm.h"

/* dot[order] = {c1, c0} of a row, W elements at a time; a.team threads a row. */
template <bool CENTRED, typename X, typename DY, int W>
static __global__ void __launch_bounds__(512, 2) row_dots_kernel(bb_norm_args a) {
    typedef bb_real<X> R;
    BB_SHARED(R, slots, 2 * 2 * BB_WARP);
    const int lanes = a.team, teams = (int)blockDim.x / lanes;
    const int lane = (int)threadIdx.x % lanes, team = (int)threadIdx.x / lanes;
    const int64_t n = a.rows.n, vectors = n / W, tiles = a.rows.groups * a.tiles;
    int turn = 0;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x, turn ^= 1) {
        const int64_t group = tile / a.tiles, row = (tile - group * a.tiles) * teams + team;
        const bool live = row < a.rows.rows;
        const bb_row_at at = bb_rows_at(a.rows, group, live ? row : 0);
        const int64_t order = at.of[BB_ROWS_ORDER];
        const X *x = static_cast<const X *>(a.x) + at.of[BB_ROWS_X];
        const DY *dy = static_cast<const DY *>(a.dy) + at.of[BB_ROWS_DY];
        const R *scale = a.scale ? static_cast<const R *>(a.scale) + group * n : NULL;
        const R rstd = static_cast<const R *>(a.rstd)[order];
        const R mean = CENTRED ? static_cast<const R *>(a.mean)[order] : (R)0;
        R dot[1][2] = {{0, 0}};
#pragma unroll 4
        for (int64_t k = lane; live && k < vectors; k += lanes) {
            const bb_span<X, W> xs = bb_span_load<W>(x + k * W);
            const bb_span<DY, W> ds = bb_span_load<W>(dy + k * W);
            const bb_span<R, W> g = scale ? bb_span_load<W>(scale + k * W) : bb_span_of<R, W>(1);
#pragma unroll
            for (int i = 0; i < W; i++) {
                const R dyg = ds.get(i) * g.get(i);
                dot[0][0] += dyg * ((CENTRED ? xs.get(i) - mean : xs.get(i)) * rstd);
                if (CENTRED) dot[0][1] += dyg;
            }
        }
        norm_sums(dot, lanes, slots + turn * 2 * BB_WARP);
        if (live && lane == 0) {
            static_cast<R *>(a.dot)[2 * order] = dot[0][0] / (R)n;
            static_cast<R *>(a.dot)[2 * order + 1] = dot[0][1] / (R)n;
        }
    }
}

/* Writes a strip's sums of blockDim.x vectors of columns; thread rows are added in order. sums: W
 * values of each thread. */
template <int W, typename R>
static __device__ inline void norm_column_flush(const R (&mine)[W], bool live, R *sums, R *target) {
    const int columns = (int)blockDim.x, turns = (int)blockDim.y;
    const int lane = (int)threadIdx.x, turn = (int)threadIdx.y;
    __syncthreads(); /* the sums of what came before have been read */
    for (int i = 0; i < W; i++) sums[(turn * columns + lane) * W + i] = mine[i];
    __syncthreads();
    for (int i = 0; turn == 0 && live && i < W; i++) {
        R sum = mine[i];
        for (int t = 1; t < turns; t++) sum += sums[(t * columns + lane) * W + i];
        target[i] = sum;
    }
}

/* dx, and partial sums of a strip, of blockDim.x vectors of columns; thread rows take the strip's
 * rows in turns. */
template <bool CENTRED, typename X, typename DY, int W>
static __global__ void __launch_bounds__(256, CENTRED ? 2 : 3) column_kernel(bb_norm_args a) {
    typedef bb_real<X> R;
    BB_SHARED(R, sums, 256 * W);
    const int columns = (int)blockDim.x, turns = (int)blockDim.y;
    const int64_t n = a.rows.n, vectors = n / W, slabs = (vectors + columns - 1) / columns;
    const int64_t tasks = a.rows.groups * a.strips * slabs;
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const int64_t item = task / slabs, k = (task - item * slabs) * columns + threadIdx.x;
        const int64_t group = item / a.strips, begin = (item - group * a.strips) * a.strip_rows;
        const int64_t end = begin + a.strip_rows < a.rows.rows ? begin + a.strip_rows : a.rows.rows;
        bb_span<R, W> g = bb_span_of<R, W>(1);
        R dscale[W] = {0}, dbias[W] = {0};
        if (a.scale && k < vectors)
            g = bb_span_load<W>(static_cast<const R *>(a.scale) + group * n + k * W);
#pragma unroll 2
        for (int64_t row = begin + threadIdx.y; k < vectors && row < end; row += turns) {
            const bb_row_at at = bb_rows_at(a.rows, group, row);
            const int64_t order = at.of[BB_ROWS_ORDER];
            const R rstd = static_cast<const R *>(a.rstd)[order];
            const R mean = CENTRED ? static_cast<const R *>(a.mean)[order] : (R)0;
            const bb_span<X, W> x =
                bb_span_load<W>(static_cast<const X *>(a.x) + at.of[BB_ROWS_X] + k * W);
            const bb_span<DY, W> dy =
                bb_span_load<W>(static_cast<const DY *>(a.dy) + at.of[BB_ROWS_DY] + k * W);
#pragma unroll
            for (int i = 0; i < W; i++) {
                dscale[i] += dy.get(i) * ((CENTRED ? x.get(i) - mean : x.get(i)) * rstd);
                dbias[i] += dy.get(i);
            }
            if (!a.y) continue;
            R dx[W];
            const R c1 = static_cast<const R *>(a.dot)[2 * order],
                    c0 = static_cast<const R *>(a.dot)[2 * order + 1];
#pragma unroll
            for (int i = 0; i < W; i++) {
                const R xhat = (CENTRED ? x.get(i) - mean : x.get(i)) * rstd;
                dx[i] = rstd * ((dy.get(i) * g.get(i) - c0) - c1 * xhat);
            }
            if (a.more) {
                const bb_span<X, W> past =
                    bb_span_load<W>(static_cast<const X *>(a.more) + at.of[BB_ROWS_MORE] + k * W);
#pragma unroll
                for (int i = 0; i < W; i++) dx[i] += past.get(i);
            }
            const bb_span<X, W> out = bb_span<X, W>::of(dx);
            bb_span_store(static_cast<X *>(a.y) + order * n + k * W, out);
            if (a.sum) bb_span_store(static_cast<X *>(a.sum) + order * n + k * W, out);
        }
        const int64_t to = item * n + k * W;
        if (a.dscale)
            norm_column_flush<W>(dscale, k < vectors, sums, static_cast<R *>(a.dscale) + to);
        if (CENTRED && a.dbias)
            norm_column_flush<W>(dbias, k < vectors, sums, static_cast<R *>(a.dbias) + to);
    }
}

#endif
