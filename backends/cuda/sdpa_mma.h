/* Products of tiles on tensor cores (mma.h). A block is four warps; each has rows of its own and
 * keeps scores and results in registers, so a product's result is the next one's left operand
 * without touching memory. What is shared lies in shared memory as rows of WIDTH + 8 elements: 16
 * bytes of gap put the eight rows that one load reads into different banks. Columns from the real
 * width to WIDTH (32, 64, 128 or 256) are zeros. */
#ifndef BOBBIN_BACKENDS_CUDA_SDPA_MMA_H
#define BOBBIN_BACKENDS_CUDA_SDPA_MMA_H

#include <type_traits>

#include "backends/cuda/async.h"
#include "backends/cuda/mma.h"
#include "backends/cuda/sdpa_tile.h"

enum { BB_MMA_WARPS = 4, BB_MMA_THREADS = BB_MMA_WARPS * BB_WARP, BB_MMA_GAP = 8 };

/* Wider kernels need more shared memory than the device has, and stay empty: they would spill. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
enum { BB_MMA_WIDEST = 128 };
#else
enum { BB_MMA_WIDEST = 256 };
#endif

static __device__ inline int bb_lane() { return (int)threadIdx.x % BB_WARP; }

/* (16 M, 8 N) numbers of a warp, laid out as mma.h's D. */
template <int M, int N> struct bb_mma_tile {
    enum { ROWS = 2 * M, COLUMNS = 2 * N, LANES = 4 };
    float v[M][N][4];
    __device__ inline float &at(int r, int c) { return v[r / 2][c / 2][r % 2 * 2 + c % 2]; }
    __device__ inline int row(int r) const { return r / 2 * 16 + r % 2 * 8 + bb_lane() / 4; }
    __device__ inline int column(int c) const { return c / 2 * 8 + bb_lane() % 4 * 2 + c % 2; }
    __device__ inline void clear() {
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) at(r, c) = 0;
    }
};

/* s = A B^T over WIDTH; a: the warp's 16 M rows, b: 8 N rows. */
template <int WIDTH, typename T, int M, int N>
static __device__ inline void bb_mma_scores(bb_mma_tile<M, N> &s, const T *a, const T *b) {
    enum { LD = WIDTH + BB_MMA_GAP };
    const int lane = bb_lane();
    a += lane % 16 * LD + lane / 16 * 8;
    b += (lane / 16 * 8 + lane % 8) * LD + lane / 8 % 2 * 8;
    s.clear();
#pragma unroll
    for (int k = 0; k < WIDTH; k += 16) {
        uint32_t left[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) bb_load_matrices<false>(left[m], a + m * 16 * LD + k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t right[4];
            bb_load_matrices<false>(right, b + n * 8 * LD + k);
#pragma unroll
            for (int m = 0; m < M; m++) {
                bb_mma<T>(s.v[m][n], left[m], right);
                bb_mma<T>(s.v[m][n + 1], left[m], right + 2);
            }
        }
    }
}

/* out += p B; p rounded to T, b: 8 N rows of WIDTH. */
template <int WIDTH, typename T, int M, int N>
static __device__ inline void bb_mma_accumulate(bb_mma_tile<M, WIDTH / 8> &out,
                                                const bb_mma_tile<M, N> &p, const T *b) {
    enum { LD = WIDTH + BB_MMA_GAP };
    const int lane = bb_lane();
    b += lane % 16 * LD + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < N; k += 2) {
        uint32_t left[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) bb_mma_a_of<T>(left[m], p.v[m][k], p.v[m][k + 1]);
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n += 2) {
            uint32_t right[4];
            bb_load_matrices<true>(right, b + k * 8 * LD + n * 8);
#pragma unroll
            for (int m = 0; m < M; m++) {
                bb_mma<T>(out.v[m][n], left[m], right);
                bb_mma<T>(out.v[m][n + 1], left[m], right + 2);
            }
        }
    }
}

/* All threads: ROWS rows to shared memory, asynchronously where rows may be read 16 bytes at a
 * time; zeros for rows from `left` on. The caller commits and waits. */
template <int ROWS, int WIDTH, typename T>
static __device__ inline void bb_mma_stage(T *shared, const T *rows, int64_t stride, int64_t left,
                                           int width, bool wide) {
    enum { LD = WIDTH + BB_MMA_GAP, PACKS = WIDTH / 8 };
    if (wide) {
#pragma unroll
        for (int i = (int)threadIdx.x; i < ROWS * PACKS; i += BB_MMA_THREADS) {
            const int row = i / PACKS, column = i % PACKS * 8;
            T *at = shared + row * LD + column;
            if (row < left && column < width)
                bb_async_copy16(at, rows + row * stride + column);
            else
                bb_store16(at, bb_pack<T>());
        }
    } else {
        for (int i = (int)threadIdx.x; i < ROWS * WIDTH; i += BB_MMA_THREADS) {
            const int row = i / WIDTH, column = i % WIDTH;
            shared[row * LD + column] =
                row < left && column < width ? rows[row * stride + column] : T();
        }
    }
}

/* The warp's rows, rounded, by way of its own rows of shared memory, so that whole 16 bytes go out;
 * `left` of them are there. */
template <int WIDTH, typename T, int M>
static __device__ inline void bb_mma_store(bb_mma_tile<M, WIDTH / 8> &tile, T *shared, T *rows,
                                           int64_t left, int width) {
    enum { LD = WIDTH + BB_MMA_GAP, PACKS = WIDTH / 8 };
    __syncwarp();
#pragma unroll
    for (int r = 0; r < 2 * M; r++)
#pragma unroll
        for (int c = 0; c < WIDTH / 4; c += 2)
            *reinterpret_cast<uint32_t *>(shared + tile.row(r) * LD + tile.column(c)) =
                bb_join<T>(tile.at(r, c), tile.at(r, c + 1));
    __syncwarp();
    const bool wide = (uintptr_t)rows % 16 == 0 && width % 8 == 0;
    for (int i = bb_lane(); i < 16 * M * PACKS; i += BB_WARP) {
        const int row = i / PACKS, column = i % PACKS * 8;
        if (row >= left) continue;
        const bb_pack<T> pack = bb_load16(shared + row * LD + column);
        T *to = rows + row * (int64_t)width + column;
        if (wide && column < width) bb_store16(to, pack);
        for (int e = 0; e < 8 && !wide; e++)
            if (column + e < width) to[e] = pack.v[e];
    }
}

/* On the host: launch(w), w.value being the width that a kernel for rows of `width` is made for.
 * False: the tensor cores do not serve, or the device has no room for the widest kernel. */
template <typename T, typename F>
static inline bool bb_mma_for_width(const bb_cuda *cuda, int width, size_t widest_bytes, F launch) {
    if constexpr (sizeof(T) == 2) {
        if (!bb_sdpa_tensor_cores<T>(cuda)) return false;
        if (width > 128 && widest_bytes > cuda->info.shared_bytes) return false;
        if (width <= 32)
            launch(std::integral_constant<int, 32>());
        else if (width <= 64)
            launch(std::integral_constant<int, 64>());
        else if (width <= 128)
            launch(std::integral_constant<int, 128>());
        else
            launch(std::integral_constant<int, 256>());
        return true;
    }
    return false;
}

#endif
