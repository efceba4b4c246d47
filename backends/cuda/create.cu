/* full, arange, rand, randn and dropout. Which random number an element reads is laid down in
 * ops/create.c; it depends on the element's index only, so any grid gives the CPU's numbers: the
 * same bits for rand, dropout and arange, and what logf, sinf and cosf round differently for randn.
 *
 * A thread takes one Philox block at a time: four elements (two of an f64 rand), about eighty
 * integer instructions, stored 16 bytes at a time. Bytes moved: y once, and x once for dropout. */
#include "backends/cuda/convert.h"
#include "backends/cuda/copy.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/map.h"

namespace {

enum { BLOCK = 256 };

/* ---- Philox4x32-10, as core/random.c */

struct generator {
    uint64_t seed, offset;
};

__device__ inline void philox(generator g, uint64_t block, uint32_t out[4]) {
    const uint64_t at = g.offset + block;
    uint32_t c0 = (uint32_t)at, c1 = (uint32_t)(at >> 32), c2 = 0, c3 = 0;
    uint32_t k0 = (uint32_t)g.seed, k1 = (uint32_t)(g.seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1, c3 = (uint32_t)p0;
        c0 = n0, c2 = n2;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* The uniform numbers of one block: four floats of 24 bits or two doubles of 53. */
__device__ inline void uniform(generator g, uint64_t block, float u[4]) {
    uint32_t lane[4];
    philox(g, block, lane);
    for (int i = 0; i < 4; i++) u[i] = (float)(lane[i] >> 8) * 0x1p-24f;
}
__device__ inline void uniform(generator g, uint64_t block, double u[2]) {
    uint32_t lane[4];
    philox(g, block, lane);
    u[0] = (double)(((uint64_t)lane[1] << 32 | lane[0]) >> 11) * 0x1p-53;
    u[1] = (double)(((uint64_t)lane[3] << 32 | lane[2]) >> 11) * 0x1p-53;
}

/* ---- N elements at once: whole vectors, or up to n single ones where they end or are unaligned */

template <int N, typename T>
__device__ inline void load(const T *p, int64_t n, bool aligned, T v[N]) {
    enum { W = N < 16 / (int)sizeof(T) ? N : 16 / (int)sizeof(T) };
    if (aligned && n >= N) {
        for (int i = 0; i < N; i += W) {
            const bb_vector<T, W> piece = bb_load_vector<W>(p + i);
            for (int k = 0; k < W; k++) v[i + k] = piece.v[k];
        }
        return;
    }
    for (int i = 0; i < N; i++)
        if (i < n) v[i] = p[i];
}
template <int N, typename T>
__device__ inline void store(T *p, int64_t n, bool aligned, const T v[N]) {
    enum { W = N < 16 / (int)sizeof(T) ? N : 16 / (int)sizeof(T) };
    if (aligned && n >= N) {
        for (int i = 0; i < N; i += W) {
            bb_vector<T, W> piece;
            for (int k = 0; k < W; k++) piece.v[k] = v[i + k];
            bb_store_vector(p + i, piece);
        }
        return;
    }
    for (int i = 0; i < N; i++)
        if (i < n) p[i] = v[i];
}

/* ---- rand, randn: from the uniform numbers of a pair of elements, in place */

struct uniform_pair {
    double largest; /* rounding must not reach 1 */
    template <typename R> __device__ void operator()(R &a, R &b) const {
        a = a > (R)largest ? (R)largest : a;
        b = b > (R)largest ? (R)largest : b;
    }
};
struct normal_pair {
    __device__ void operator()(float &a, float &b) const {
        const float r = sqrtf(-2.0f * logf(1.0f - a)), angle = 6.28318531f * b;
        a = r * cosf(angle);
        b = r * sinf(angle);
    }
    __device__ void operator()(double &a, double &b) const {
        const double r = sqrt(-2.0 * log(1.0 - a)), angle = 6.283185307179586 * b;
        a = r * cos(angle);
        b = r * sin(angle);
    }
};

template <typename T, typename F>
__global__ void random_kernel(F pair, generator g, int64_t n, bool aligned, T *y) {
    enum { N = sizeof(T) == 8 ? 2 : 4 };
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t b = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; b * N < n; b += step) {
        bb_real<T> u[N];
        T v[N];
        uniform(g, (uint64_t)b, u);
        for (int i = 0; i < N; i += 2) pair(u[i], u[i + 1]);
        for (int i = 0; i < N; i++) v[i] = narrow<T>(u[i]);
        store<N>(y + b * N, n - b * N, aligned, v);
    }
}

template <typename F> bb_status random_op(bb_call *call, F pair) {
    const bb_random_attrs *a = static_cast<const bb_random_attrs *>(call->attrs);
    const bb_tensor *out = call->out[0];
    bb_cuda *cuda = bb_cuda_begin(call);
    bb_status status = BB_OK;
    if (out->count == 0) return BB_OK;
    bb_float_dtype(out->dtype, [&](auto t) {
        typedef typename decltype(t)::type T;
        T *y = reinterpret_cast<T *>(out->data);
        status = BB_LAUNCH(cuda, (random_kernel<T, F>), bb_cuda_grid(cuda, out->count, BLOCK * 4),
                           bb_cuda_block(out->count / 2 + 1, BLOCK), 0, pair,
                           (generator{(uint64_t)a->seed, (uint64_t)a->offset}), out->count,
                           bb_aligned16(y), y);
    });
    return status;
}

/* ---- dropout. p = 1 drops everything: u < 1 always, and 1/(1-p) is not used. */

template <typename T>
__global__ void dropout_kernel(generator g, float p, bb_real<T> scale, int64_t n, bool aligned,
                               T *y, const T *x) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t b = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; b * 4 < n; b += step) {
        float u[4];
        T v[4];
        load<4>(x + b * 4, n - b * 4, aligned, v);
        uniform(g, (uint64_t)b, u);
        for (int i = 0; i < 4; i++)
            if (i < n - b * 4) v[i] = narrow<T>(u[i] < p ? 0 : widen(v[i]) * scale);
        store<4>(y + b * 4, n - b * 4, aligned, v);
    }
}

/* ---- arange */

template <typename T>
__global__ void arange_kernel(double start, double increment, int64_t n, T *y) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += step)
        y[i] = bb_narrow<T>(__dadd_rn(start, __dmul_rn((double)i, increment)));
}

} // namespace

bb_status bb_cuda_full(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    return bb_cuda_fill(&cuda->base, call->out[0],
                        static_cast<const bb_full_attrs *>(call->attrs)->value);
}

bb_status bb_cuda_arange(bb_call *call) {
    const bb_arange_attrs *a = static_cast<const bb_arange_attrs *>(call->attrs);
    const bb_tensor *out = call->out[0];
    bb_cuda *cuda = bb_cuda_begin(call);
    bb_status status = BB_OK;
    if (out->count == 0) return BB_OK;
    bb_any_dtype(out->dtype, [&](auto t) {
        typedef typename decltype(t)::type T;
        status = BB_LAUNCH(cuda, arange_kernel<T>, bb_cuda_grid(cuda, out->count, BLOCK),
                           bb_cuda_block(out->count, BLOCK), 0, a->start, a->step, out->count,
                           reinterpret_cast<T *>(out->data));
    });
    return status;
}

bb_status bb_cuda_rand(bb_call *call) {
    const int dtype = call->out[0]->dtype;
    return random_op(call, uniform_pair{dtype == BB_F16    ? 1 - 0x1p-11
                                        : dtype == BB_BF16 ? 1 - 0x1p-8
                                                           : 1.0});
}
bb_status bb_cuda_randn(bb_call *call) { return random_op(call, normal_pair()); }

/* A strided x is made contiguous in y first; the kernel then works in place. */
bb_status bb_cuda_dropout(bb_call *call) {
    const bb_dropout_attrs *a = static_cast<const bb_dropout_attrs *>(call->attrs);
    const bb_tensor *x = call->in[0];
    bb_tensor *out = call->out[0];
    bb_cuda *cuda = bb_cuda_begin(call);
    bb_status status = BB_OK;
    if (out->count == 0) return BB_OK;
    if (!x->contiguous) status = bb_cuda_copy_elements(cuda, x, out);
    if (status) return status;
    bb_float_dtype(out->dtype, [&](auto t) {
        typedef typename decltype(t)::type T;
        T *y = reinterpret_cast<T *>(out->data);
        const T *from = x->contiguous ? reinterpret_cast<const T *>(x->data) : y;
        status = BB_LAUNCH(cuda, dropout_kernel<T>, bb_cuda_grid(cuda, out->count, BLOCK * 4),
                           bb_cuda_block(out->count / 2 + 1, BLOCK), 0,
                           (generator{(uint64_t)a->seed, (uint64_t)a->offset}), (float)a->p,
                           (bb_real<T>)(1 / (1 - a->p)), out->count,
                           bb_aligned16(y) && bb_aligned16(from), y, from);
    });
    return status;
}
