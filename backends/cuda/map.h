/* One kernel for everything that computes element by element: y = f(x0, x1, ...), any strides.
 *
 * f is a small struct whose operator() takes one element of each input and gives one of y, in the
 * types they are stored in. Threads take items of index.h in turn (grid-stride): 16 bytes of the
 * widest type where strides and alignment allow, and single elements otherwise. Bytes moved: every
 * input once (a broadcast one from cache), y once; nothing else, so memory speed is the bound. */
#ifndef BOBBIN_BACKENDS_CUDA_MAP_H
#define BOBBIN_BACKENDS_CUDA_MAP_H

#include <utility>

#include "backends/cuda/cuda.h"
#include "backends/cuda/index.h"

/* N elements that are loaded and stored at once: at most 16 bytes, aligned to their size. */
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
/* One value for all where the stride is 0. */
template <int N, typename T>
static __device__ inline bb_vector<T, N> bb_load_item(const T *p, int64_t stride) {
    if constexpr (N > 1) {
        if (stride == 0) {
            bb_vector<T, N> x;
            for (int i = 0; i < N; i++) x.v[i] = *p;
            return x;
        }
    }
    (void)stride;
    return bb_load_vector<N>(p);
}

template <int N, typename F, typename Y, typename... X>
static __device__ inline void bb_map_item(const F &f, Y *y, const bb_vector<X, N> &...x) {
    bb_vector<Y, N> out;
#pragma unroll
    for (int i = 0; i < N; i++) out.v[i] = f(x.v[i]...);
    bb_store_vector(y, out);
}
template <int N, typename F, int K, size_t... I, typename Y, typename... X>
static __device__ inline void bb_map_at(const F &f, const bb_index<K> &w, const int64_t *at,
                                        std::index_sequence<I...>, Y *y, const X *...x) {
    bb_map_item<N, F, Y, X...>(f, y + at[0], bb_load_item<N>(x + at[I + 1], w.stride[I + 1][0])...);
}

template <int N, typename F, typename Y, typename... X>
static __global__ void bb_map_kernel(F f, bb_index<1 + (int)sizeof...(X)> w, Y *y, const X *...x) {
    const int64_t first = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    const std::index_sequence_for<X...> inputs;
    int64_t at[1 + sizeof...(X)];
    for (int64_t i = first; i < w.count; i += (int64_t)gridDim.x * blockDim.x) {
        w.offsets(i, at);
        bb_map_at<N>(f, w, at, inputs, y, x...);
    }
    if (N > 1 && first < w.tail) {
        w.tail_offsets(first, at);
        bb_map_at<1>(f, w, at, inputs, y, x...);
    }
}

template <int A, int... B> struct bb_largest {
    enum { value = A };
};
template <int A, int B, int... C> struct bb_largest<A, B, C...> {
    enum { value = bb_largest<(A > B ? A : B), C...>::value };
};

template <typename Y, typename... X, typename F, size_t... I>
static bb_status bb_map_launch(bb_cuda *cuda, const F &f, const bb_tensor *out,
                               const bb_tensor *const *in, std::index_sequence<I...>) {
    enum { K = 1 + sizeof...(X), N = 16 / bb_largest<sizeof(Y), sizeof(X)...>::value, BLOCK = 256 };
    if (out->count == 0) return BB_OK;
    const bb_tensor *tensors[] = {out, in[I]...};
    const void *data[] = {out->data, in[I]->data...};
    const int bytes[] = {sizeof(Y), sizeof(X)...};
    bb_index<K> w = bb_index_make<K>(tensors);
    if (bb_index_widen(&w, N, data, bytes))
        return BB_LAUNCH(cuda, (bb_map_kernel<N, F, Y, X...>), bb_cuda_grid(cuda, w.count, BLOCK),
                         BLOCK, 0, f, w, reinterpret_cast<Y *>(out->data),
                         reinterpret_cast<const X *>(in[I]->data)...);
    return BB_LAUNCH(cuda, (bb_map_kernel<1, F, Y, X...>), bb_cuda_grid(cuda, w.count, BLOCK),
                     BLOCK, 0, f, w, reinterpret_cast<Y *>(out->data),
                     reinterpret_cast<const X *>(in[I]->data)...);
}

/* out = f(in[0], in[1], ...), the inputs broadcast to out's shape; Y and X... are the element
 * types. out may be one of the inputs. */
template <typename Y, typename... X, typename F>
static bb_status bb_map(bb_cuda *cuda, const F &f, const bb_tensor *out,
                        const bb_tensor *const *in) {
    return bb_map_launch<Y, X...>(cuda, f, out, in, std::index_sequence_for<X...>());
}

#endif
