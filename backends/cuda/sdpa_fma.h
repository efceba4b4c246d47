/* Products of tiles without tensor cores: f32 and f64, and f16 and bf16 on devices that lack them.
 * A block is 16 x 16 threads; with N = 16 bytes / element (4 floats, 2 doubles) a thread has N x N
 * elements of a tile of 16 N x 16 N scores: rows N y.., columns x, x + 16, .... Operands pass
 * through shared memory a piece at a time, so any width fits: 36 KiB for f32, 18 for f64.
 *
 * Shared memory feeds 128 bytes a clock, the multipliers 128 f32 a clock. Reading 16 bytes along
 * the inner axis, a warp spends 12 clocks of shared memory on 16 clocks of arithmetic (4 rows that
 * half a warp shares, 4 columns in two passes each, for 64 multiplications a thread). */
#ifndef BOBBIN_BACKENDS_CUDA_SDPA_FMA_H
#define BOBBIN_BACKENDS_CUDA_SDPA_FMA_H

#include "backends/cuda/sdpa_tile.h"

enum { BB_FMA_SIDE = 16, BB_FMA_THREADS = BB_FMA_SIDE * BB_FMA_SIDE };

template <typename R> struct bb_fma_tile {
    enum {
        N = 16 / sizeof(R),
        ROWS = N,
        COLUMNS = N,
        LANES = BB_FMA_SIDE,
        SIZE = BB_FMA_SIDE * N, /* rows and columns of the block's tile */
        LD = SIZE + N,          /* 16 bytes of gap: no two rows of a read share banks */
        DEPTH = 8 * N,          /* of a piece of the inner axis */
        PIECE_LD = DEPTH + N,
        PIECE = 2 * SIZE * PIECE_LD > SIZE *LD ? 2 * SIZE *PIECE_LD : SIZE *LD,
        SHARED = SIZE * LD + PIECE, /* elements: a tile, and pieces of operands */
        BYTES = SHARED * sizeof(R)
    };
    R v[N][N];
    __device__ inline R &at(int r, int c) { return v[r][c]; }
    __device__ inline int row(int r) const { return (int)threadIdx.x / BB_FMA_SIDE * N + r; }
    __device__ inline int column(int c) const {
        return (int)threadIdx.x % BB_FMA_SIDE + BB_FMA_SIDE * c;
    }
};

/* Rows in device memory from the first one of a tile on. */
template <typename T> struct bb_fma_rows {
    const T *data;
    int64_t stride, left;
    int width;
};
template <typename T>
static __device__ inline bb_fma_rows<T> bb_fma_rows_at(const T *head, int64_t stride, int64_t first,
                                                       int64_t count, int width) {
    const bb_fma_rows<T> r = {head + first * stride, stride, count - first, width};
    return r;
}

/* SIZE rows, columns [from, from + COLUMNS), widened; zeros beyond. */
template <int COLUMNS, int LD, typename T, typename R>
static __device__ inline void bb_fma_stage(R *shared, const bb_fma_rows<T> &rows, int from) {
    for (int i = (int)threadIdx.x; i < bb_fma_tile<R>::SIZE * COLUMNS; i += BB_FMA_THREADS) {
        const int row = i / COLUMNS, column = i % COLUMNS;
        shared[row * LD + column] = row < rows.left && from + column < rows.width
                                        ? widen(rows.data[row * rows.stride + from + column])
                                        : (R)0;
    }
}

/* s = A B^T. pieces: PIECE elements. Threads may still be reading what was in them. */
template <typename T, typename R>
static __device__ inline void bb_fma_scores(bb_fma_tile<R> &s, const bb_fma_rows<T> &a,
                                            const bb_fma_rows<T> &b, R *pieces) {
    typedef bb_fma_tile<R> tile;
    enum { N = tile::N, LD = tile::PIECE_LD };
    R *const left = pieces, *const right = pieces + tile::SIZE * LD;
    const int y = (int)threadIdx.x / BB_FMA_SIDE, x = (int)threadIdx.x % BB_FMA_SIDE;
#pragma unroll
    for (int i = 0; i < N * N; i++) s.v[i / N][i % N] = 0;
    for (int from = 0; from < a.width; from += tile::DEPTH) {
        __syncthreads();
        bb_fma_stage<tile::DEPTH, LD>(left, a, from);
        bb_fma_stage<tile::DEPTH, LD>(right, b, from);
        __syncthreads();
#pragma unroll 1
        for (int k = 0; k < tile::DEPTH; k += N) {
            bb_pack<R> l[N], r[N];
#pragma unroll
            for (int i = 0; i < N; i++) {
                l[i] = bb_load16(left + (y * N + i) * LD + k);
                r[i] = bb_load16(right + (x + BB_FMA_SIDE * i) * LD + k);
            }
#pragma unroll
            for (int i = 0; i < N; i++)
#pragma unroll
                for (int c = 0; c < N; c++)
#pragma unroll
                    for (int e = 0; e < N; e++) s.v[i][c] += l[i].v[e] * r[c].v[e];
        }
    }
}

/* What a thread has of (SIZE, up to C SIZE) sums: rows as in a tile, N neighbouring columns from
 * SIZE c + N x on. */
template <typename R, int C> struct bb_fma_sums {
    enum { N = bb_fma_tile<R>::N };
    R v[C][N][N];
    __device__ inline void clear() {
#pragma unroll
        for (int i = 0; i < C * N * N; i++) v[i / (N * N)][i / N % N][i % N] = 0;
    }
};

/* Puts a tile where bb_fma_accumulate reads it. */
template <typename R> static __device__ inline void bb_fma_share(bb_fma_tile<R> &s, R *shared) {
    typedef bb_fma_tile<R> tile;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < tile::N * tile::N; i++)
        shared[s.row(i / tile::N) * tile::LD + s.column(i % tile::N)] =
            s.v[i / tile::N][i % tile::N];
}

/* out += p B; p: a shared tile. Threads may still be reading what was in pieces. */
template <typename T, typename R, int C>
static __device__ inline void bb_fma_accumulate(bb_fma_sums<R, C> &out, const R *p,
                                                const bb_fma_rows<T> &b, R *pieces) {
    typedef bb_fma_tile<R> tile;
    enum { N = tile::N, LD = tile::LD };
    const int y = (int)threadIdx.x / BB_FMA_SIDE, x = (int)threadIdx.x % BB_FMA_SIDE;
#pragma unroll
    for (int c = 0; c < C; c++) {
        if (c * tile::SIZE >= b.width) break;
        __syncthreads();
        bb_fma_stage<tile::SIZE, LD>(pieces, b, c * tile::SIZE);
        __syncthreads();
#pragma unroll 1
        for (int k = 0; k < tile::SIZE; k += N) {
            bb_pack<R> l[N];
#pragma unroll
            for (int i = 0; i < N; i++) l[i] = bb_load16(p + (y * N + i) * LD + k);
#pragma unroll
            for (int e = 0; e < N; e++) {
                const bb_pack<R> r = bb_load16(pieces + (k + e) * LD + x * N);
#pragma unroll
                for (int i = 0; i < N; i++)
#pragma unroll
                    for (int z = 0; z < N; z++) out.v[c][i][z] += l[i].v[e] * r.v[z];
            }
        }
    }
}

/* Rounds factor[row] times the sums to contiguous rows; `left` of them are there. */
template <typename T, typename R, int C>
static __device__ inline void bb_fma_store(const bb_fma_sums<R, C> &sums, const R *factor, T *rows,
                                           int64_t left, int width) {
    typedef bb_fma_tile<R> tile;
    enum { N = tile::N };
    const int y = (int)threadIdx.x / BB_FMA_SIDE, x = (int)threadIdx.x % BB_FMA_SIDE;
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int c = 0; c < C; c++)
#pragma unroll
            for (int z = 0; z < N; z++) {
                const int column = c * tile::SIZE + x * N + z;
                if (y * N + i < left && column < width)
                    rows[(y * N + i) * (int64_t)width + column] =
                        narrow<T>(sums.v[c][i][z] * factor[i]);
            }
}

#endif
