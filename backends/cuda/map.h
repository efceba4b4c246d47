/* Kernels for everything that computes element by element: y = f(x0, x1, ...), any strides.
 *
 * f is a small struct whose operator() takes one element of each input and gives one of y, in the
 * types they are stored in. Bytes moved: every input once (a broadcast one from cache), y once;
 * nothing else, so memory speed is the bound. Threads take items in turn (grid-stride):
 *   flat   all contiguous or of one element: 16 bytes of the widest type an item, no index
 *          arithmetic, few registers, so that 2048 threads of a multiprocessor have loads under way
 *   rows   runs of 16 bytes along the innermost axis, where its length, strides and addresses
 *          allow: a bias added to rows, halves of a fused projection
 *   any    single elements */
#ifndef BOBBIN_BACKENDS_CUDA_MAP_H
#define BOBBIN_BACKENDS_CUDA_MAP_H

#include <type_traits>
#include <utility>

#include "backends/cuda/cuda.h"
#include "backends/cuda/index.h"

/* N elements that are loaded and stored at once: at most 16 bytes, aligned to their size. N is what
 * the widest type of an op has room for, so a mask beside f32 has 4 bytes; where all types are one,
 * bb_pack (types.h) is always 16. */
template <typename T, int N> struct alignas(sizeof(T) * N) bb_vector { T v[N]; };
template <int N, typename T> static __device__ inline bb_vector<T, N> bb_load_vector(const T *p) {
#if defined(BOBBIN_CUDA_SIM)
    bb_vector<T, N> x;
    bb_sim_aligned(p, sizeof x);
    memcpy(&x, p, sizeof x);
    return x;
#else
    return *reinterpret_cast<const bb_vector<T, N> *>(p);
#endif
}
template <typename T, int N>
static __device__ inline void bb_store_vector(T *p, const bb_vector<T, N> &x) {
#if defined(BOBBIN_CUDA_SIM)
    bb_sim_aligned(p, sizeof x);
    memcpy(p, &x, sizeof x);
#else
    *reinterpret_cast<bb_vector<T, N> *>(p) = x;
#endif
}
/* N elements at p, or the one at p for all. */
template <int N, typename T>
static __device__ inline bb_vector<T, N> bb_load_item(const T *p, bool spread) {
    if constexpr (N > 1) {
        if (spread) {
            bb_vector<T, N> x;
            for (int i = 0; i < N; i++) x.v[i] = *p;
            return x;
        }
    }
    (void)spread;
    return bb_load_vector<N>(p);
}

template <int N, typename F, typename Y, typename... X>
static __device__ inline void bb_map_item(const F &f, Y *y, const bb_vector<X, N> &...x) {
    bb_vector<Y, N> out;
#pragma unroll
    for (int i = 0; i < N; i++) out.v[i] = f(x.v[i]...);
    bb_store_vector(y, out);
}

/* ---- Flat. Bit k of spread: input k is one element. */

template <int N, typename F, size_t... I, typename Y, typename... X>
static __device__ inline void bb_map_flat_item(const F &f, int64_t at, unsigned spread,
                                               std::index_sequence<I...>, Y *y, const X *...x) {
    (void)spread;
    bb_map_item<N, F, Y, X...>(f, y + at,
                               bb_load_item<N>(spread >> I & 1 ? x : x + at, spread >> I & 1)...);
}
template <int N, typename F, typename Y, typename... X>
static __global__ void bb_map_flat(F f, int64_t count, unsigned spread, Y *y, const X *...x) {
    const int64_t first = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    const int64_t step = (int64_t)gridDim.x * blockDim.x, whole = count / N * N;
    for (int64_t at = first * N; at < whole; at += step * N)
        bb_map_flat_item<N>(f, at, spread, std::index_sequence_for<X...>(), y, x...);
    if (N > 1 && first < count - whole)
        bb_map_flat_item<1>(f, whole + first, spread, std::index_sequence_for<X...>(), y, x...);
}

/* ---- Rows and any */

template <int N, typename F, int K, size_t... I, typename Y, typename... X>
static __device__ inline void bb_map_strided_item(const F &f, const bb_index<K> &w,
                                                  const int64_t *at, std::index_sequence<I...>,
                                                  Y *y, const X *...x) {
    bb_map_item<N, F, Y, X...>(f, y + at[0],
                               bb_load_item<N>(x + at[I + 1], w.stride[I + 1][0] == 0)...);
}
template <int N, typename F, typename Y, typename... X>
static __global__ void bb_map_strided(F f, bb_index<1 + (int)sizeof...(X)> w, Y *y, const X *...x) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < w.count; i += step) {
        int64_t at[1 + sizeof...(X)];
        w.offsets(i, at);
        bb_map_strided_item<N>(f, w, at, std::index_sequence_for<X...>(), y, x...);
    }
}

/* ---- Launching */

template <int A, int... B> struct bb_largest {
    enum { value = A };
};
template <int A, int B, int... C> struct bb_largest<A, B, C...> {
    enum { value = bb_largest<(A > B ? A : B), C...>::value };
};

template <int N, typename Y, typename... X, typename F, size_t... I>
static bb_status bb_map_launch(bb_cuda *cuda, const F &f, const bb_tensor *out,
                               const bb_tensor *const *in, std::index_sequence<I...>) {
    enum { K = 1 + sizeof...(X), BLOCK = 256 };
    if (out->count == 0) return BB_OK;
    const bb_tensor *tensors[] = {out, in[I]...};
    Y *y = reinterpret_cast<Y *>(out->data);
    bb_index<K> w = bb_index_make<K>(tensors);
    if constexpr (N > 1) {
        const void *data[] = {out->data, in[I]->data...};
        const int bytes[] = {sizeof(Y), sizeof(X)...};
        const bool aligned = bb_index_aligned(w, N, data, bytes);
        if (aligned && w.rank == 1) {
            const unsigned spread = (0u | ... | ((unsigned)(w.stride[I + 1][0] == 0) << I));
            return BB_LAUNCH(cuda, (bb_map_flat<N, F, Y, X...>),
                             bb_cuda_grid(cuda, w.count, BLOCK * N),
                             bb_cuda_block(w.count / N + 1, BLOCK), 0, f, w.count, spread, y,
                             reinterpret_cast<const X *>(in[I]->data)...);
        }
        if (aligned && w.size[0] % N == 0) {
            bb_index_widen(&w, N);
            return BB_LAUNCH(cuda, (bb_map_strided<N, F, Y, X...>),
                             bb_cuda_grid(cuda, w.count, BLOCK), bb_cuda_block(w.count, BLOCK), 0,
                             f, w, y, reinterpret_cast<const X *>(in[I]->data)...);
        }
    }
    return BB_LAUNCH(cuda, (bb_map_strided<1, F, Y, X...>), bb_cuda_grid(cuda, w.count, BLOCK),
                     bb_cuda_block(w.count, BLOCK), 0, f, w, y,
                     reinterpret_cast<const X *>(in[I]->data)...);
}

/* out = f(in[0], in[1], ...), the inputs broadcast to out's shape; Y and X... are the element
 * types. out may have any strides and may be one of the inputs. bb_map_single has only the kernel
 * of single elements, for what need not be fast: a third of the code. */
template <typename Y, typename... X, typename F>
static bb_status bb_map(bb_cuda *cuda, const F &f, const bb_tensor *out,
                        const bb_tensor *const *in) {
    enum { N = 16 / bb_largest<sizeof(Y), sizeof(X)...>::value };
    return bb_map_launch<N, Y, X...>(cuda, f, out, in, std::index_sequence_for<X...>());
}
template <typename Y, typename... X, typename F>
static bb_status bb_map_single(bb_cuda *cuda, const F &f, const bb_tensor *out,
                               const bb_tensor *const *in) {
    return bb_map_launch<1, Y, X...>(cuda, f, out, in, std::index_sequence_for<X...>());
}

#endif
