/* adamw_ and sgd_ (formulas: ops/optimize.c): one launch over a flat block of parameters.
 *
 * A thread takes 16 bytes of state at a time (grid-stride): four elements, two in f64. Memory is
 * the bound: AdamW reads p, g, m, v and writes p, m, v, which is 28 bytes an f32 parameter and 22
 * bytes a bf16 one. lr, step and grad_scale are read from device memory by every thread (one cache
 * line for all), so that a captured step replays while they change; what follows from them is a
 * few instructions a thread. 1 - beta^step is -expm1(step ln beta), which keeps its digits in f32
 * where beta^step is nearly 1. */
#include "backends/cuda/copy.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/map.h"

namespace {

enum { BLOCK = 256 };

/* One f32 or f64 on the device; absent, it is 1. */
struct number {
    const void *at;
    bool wide;
    __device__ double value() const {
        if (!at) return 1;
        return wide ? *static_cast<const double *>(at) : (double)*static_cast<const float *>(at);
    }
    template <typename F> void each_pointer(F &f) const { f(at); }
};
number number_of(const bb_tensor *t) {
    return t ? number{t->data, t->dtype == BB_F64} : number{nullptr, false};
}

/* ---- One element. R is what it computes in. */

template <typename R> struct adamw {
    R scale, keep, beta2, new1, new2, eps, rate, correction;
    __device__ void operator()(R &p, R g, R &m, R &v, bool decays) const {
        const R d = g * scale;
        m += new1 * (d - m);
        v = beta2 * v + new2 * (d * d);
        p = (decays ? keep : 1) * p - rate * (m / (sqrt(v) * correction + eps));
    }
};
struct adamw_arguments {
    number lr, step, scale;
    double beta1, beta2, log_beta1, log_beta2, eps, weight_decay;
    int64_t decayed; /* elements before this one decay */
    template <typename F> void each_pointer(F &f) const {
        lr.each_pointer(f);
        step.each_pointer(f);
        scale.each_pointer(f);
    }
    template <typename R> __device__ adamw<R> update() const {
        const R rate = (R)lr.value(), steps = (R)step.value();
        adamw<R> u;
        u.scale = (R)scale.value();
        u.keep = 1 - rate * (R)weight_decay;
        u.beta2 = (R)beta2;
        u.new1 = (R)(1 - beta1);
        u.new2 = (R)(1 - beta2);
        u.eps = (R)eps;
        u.rate = rate / -expm1(steps * (R)log_beta1);
        u.correction = 1 / sqrt(-expm1(steps * (R)log_beta2));
        return u;
    }
};

template <typename R> struct sgd {
    R scale, decay, momentum, lr;
    bool nesterov;
    __device__ void operator()(R &p, R g, R &velocity) const {
        const R d = g * scale + decay * p;
        velocity = momentum * velocity + d;
        p -= lr * (nesterov ? d + momentum * velocity : velocity);
    }
};
struct sgd_arguments {
    number lr, scale;
    double momentum, weight_decay;
    bool nesterov;
    template <typename F> void each_pointer(F &f) const {
        lr.each_pointer(f);
        scale.each_pointer(f);
    }
    template <typename R> __device__ sgd<R> update() const {
        return sgd<R>{(R)scale.value(), (R)weight_decay, (R)momentum, (R)lr.value(), nesterov};
    }
};

/* ---- N elements */

/* The first `decayed` of them decay. */
template <int N, typename T, typename R>
__device__ inline void adamw_item(const adamw<R> &u, int64_t decayed, T *p, const T *g, R *m,
                                  R *v) {
    bb_vector<T, N> new_p = bb_load_vector<N>(p);
    const bb_vector<T, N> gradient = bb_load_vector<N>(g);
    bb_vector<R, N> new_m = bb_load_vector<N>(m), new_v = bb_load_vector<N>(v);
#pragma unroll
    for (int i = 0; i < N; i++) {
        R x = widen(new_p.v[i]);
        u(x, widen(gradient.v[i]), new_m.v[i], new_v.v[i], i < decayed);
        new_p.v[i] = narrow<T>(x);
    }
    bb_store_vector(p, new_p);
    bb_store_vector(m, new_m);
    bb_store_vector(v, new_v);
}

/* velocity NULL: no momentum, and the update needs none of what was. */
template <int N, typename T, typename R>
__device__ inline void sgd_item(const sgd<R> &u, T *p, const T *g, R *velocity) {
    bb_vector<T, N> new_p = bb_load_vector<N>(p);
    const bb_vector<T, N> gradient = bb_load_vector<N>(g);
    bb_vector<R, N> moved = {};
    if (velocity) moved = bb_load_vector<N>(velocity);
#pragma unroll
    for (int i = 0; i < N; i++) {
        R x = widen(new_p.v[i]);
        u(x, widen(gradient.v[i]), moved.v[i]);
        new_p.v[i] = narrow<T>(x);
    }
    bb_store_vector(p, new_p);
    if (velocity) bb_store_vector(velocity, moved);
}

/* ---- Kernels. A grad_scale of NaN changes nothing. */

template <int N, typename T>
__global__ void adamw_kernel(adamw_arguments a, int64_t n, T *p, const T *g, bb_real<T> *m,
                             bb_real<T> *v) {
    const int64_t first = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, whole = n / N * N;
    const int64_t step = (int64_t)gridDim.x * blockDim.x * N;
    const adamw<bb_real<T>> u = a.update<bb_real<T>>();
    if (u.scale != u.scale) return;
    for (int64_t i = first * N; i < whole; i += step)
        adamw_item<N>(u, a.decayed - i, p + i, g + i, m + i, v + i);
    const int64_t last = whole + first;
    if (N > 1 && last < n)
        adamw_item<1>(u, a.decayed - last, p + last, g + last, m + last, v + last);
}

template <int N, typename T>
__global__ void sgd_kernel(sgd_arguments a, int64_t n, T *p, const T *g, bb_real<T> *velocity) {
    const int64_t first = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, whole = n / N * N;
    const int64_t step = (int64_t)gridDim.x * blockDim.x * N;
    const sgd<bb_real<T>> u = a.update<bb_real<T>>();
    if (u.scale != u.scale) return;
    for (int64_t i = first * N; i < whole; i += step)
        sgd_item<N>(u, p + i, g + i, velocity ? velocity + i : velocity);
    const int64_t last = whole + first;
    if (N > 1 && last < n)
        sgd_item<1>(u, p + last, g + last, velocity ? velocity + last : velocity);
}

/* ---- Launching */

template <typename T> bool vectors(const void *p, const void *g, const void *m, const void *v) {
    enum { N = 16 / sizeof(bb_real<T>) };
    const uintptr_t narrow_bytes = N * sizeof(T);
    return ((uintptr_t)p | (uintptr_t)g) % narrow_bytes == 0 &&
           ((uintptr_t)m | (uintptr_t)v) % 16 == 0;
}

template <typename T>
bb_status launch(bb_cuda *cuda, const adamw_arguments &a, bb_tensor *const *in, const void *grad) {
    enum { N = 16 / sizeof(bb_real<T>) };
    T *p = reinterpret_cast<T *>(in[0]->data);
    const T *g = static_cast<const T *>(grad);
    bb_real<T> *m = reinterpret_cast<bb_real<T> *>(in[2]->data);
    bb_real<T> *v = reinterpret_cast<bb_real<T> *>(in[3]->data);
    const int64_t n = in[0]->count;
    if (vectors<T>(p, g, m, v))
        return BB_LAUNCH(cuda, (adamw_kernel<N, T>), bb_cuda_grid(cuda, n, BLOCK * N),
                         bb_cuda_block(n / N + 1, BLOCK), 0, a, n, p, g, m, v);
    return BB_LAUNCH(cuda, (adamw_kernel<1, T>), bb_cuda_grid(cuda, n, BLOCK),
                     bb_cuda_block(n, BLOCK), 0, a, n, p, g, m, v);
}
template <typename T>
bb_status launch(bb_cuda *cuda, const sgd_arguments &a, bb_tensor *const *in, const void *grad) {
    enum { N = 16 / sizeof(bb_real<T>) };
    T *p = reinterpret_cast<T *>(in[0]->data);
    const T *g = static_cast<const T *>(grad);
    bb_real<T> *velocity = a.momentum != 0 ? reinterpret_cast<bb_real<T> *>(in[2]->data) : nullptr;
    const int64_t n = in[0]->count;
    if (vectors<T>(p, g, velocity, nullptr))
        return BB_LAUNCH(cuda, (sgd_kernel<N, T>), bb_cuda_grid(cuda, n, BLOCK * N),
                         bb_cuda_block(n / N + 1, BLOCK), 0, a, n, p, g, velocity);
    return BB_LAUNCH(cuda, (sgd_kernel<1, T>), bb_cuda_grid(cuda, n, BLOCK),
                     bb_cuda_block(n, BLOCK), 0, a, n, p, g, velocity);
}

template <typename A> bb_status run(bb_call *call, const A &arguments) {
    bb_cuda *cuda = bb_cuda_begin(call);
    bb_storage *held;
    bb_status status = BB_OK;
    if (call->in[0]->count == 0) return BB_OK;
    const void *grad = bb_cuda_contiguous_data(cuda, call->in[1], &held);
    if (!grad) return call->ctx->status;
    bb_float_dtype(call->in[0]->dtype, [&](auto t) {
        status = launch<typename decltype(t)::type>(cuda, arguments, call->in, grad);
    });
    bb_cuda_release(cuda, held);
    return status;
}

} // namespace

bb_status bb_cuda_adamw(bb_call *call) {
    const bb_adamw_attrs *a = static_cast<const bb_adamw_attrs *>(call->attrs);
    return run(call, adamw_arguments{number_of(call->in[4]), number_of(call->in[5]),
                                     number_of(call->in[6]), a->beta1, a->beta2, log(a->beta1),
                                     log(a->beta2), a->eps, a->weight_decay,
                                     call->in[0]->count - a->undecayed});
}

bb_status bb_cuda_sgd(bb_call *call) {
    const bb_sgd_attrs *a = static_cast<const bb_sgd_attrs *>(call->attrs);
    return run(call, sgd_arguments{number_of(call->in[3]), number_of(call->in[4]), a->momentum,
                                   a->weight_decay, a->nesterov});
}
