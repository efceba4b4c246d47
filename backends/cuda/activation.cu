/* silu, gelu and swiglu, forward and backward (formulas: ops/silu.c, gelu.c, swiglu.c), in f32, or
 * f64 for f64, rounded once.
 *
 * Maps (map.h): every input once, every output once; the halves of a fused projection are rows.
 * swiglu's backward gives both gradients in one pass: 5 n elements of traffic, where one pass each
 * would be 7 n. */
#include "backends/cuda/copy.h"
#include "backends/cuda/functions.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/map.h"

namespace {

/* ---- One element: value and derivative. R is float or double. */

struct silu_form {
    template <typename R> static __device__ R value(R x) { return x * bb_sigmoid(x); }
    template <typename R> static __device__ R slope(R x) {
        const R s = bb_sigmoid(x);
        return s + x * (s * (1 - s));
    }
};

struct gelu_form {
    template <typename R> static __device__ R phi(R x) { /* the normal distribution */
        return (R)0.5 * (1 + erf(x * (R)0.70710678118654752440));
    }
    template <typename R> static __device__ R value(R x) { return x * phi(x); }
    template <typename R> static __device__ R slope(R x) {
        return phi(x) + x * (exp((R)-0.5 * x * x) * (R)0.39894228040143267794);
    }
};

struct gelu_tanh_form {
    template <typename R> static __device__ R bend(R x) {
        return tanh((R)0.79788456080286535588 * (x + (R)0.044715 * (x * x * x)));
    }
    template <typename R> static __device__ R value(R x) { return (R)0.5 * x * (1 + bend(x)); }
    template <typename R> static __device__ R slope(R x) {
        const R t = bend(x), flat = 1 - t * t; /* 0 where u' x may overflow */
        const R du = (R)0.79788456080286535588 * (1 + (R)(3 * 0.044715) * (x * x));
        return (R)0.5 * (1 + t) + (flat == 0 ? 0 : (R)0.5 * x * (flat * du));
    }
};

/* ---- Maps */

template <typename Form, typename T> struct forward {
    __device__ T operator()(T x) const { return narrow<T>(Form::value(widen(x))); }
};
template <typename Form, typename T> struct backward {
    __device__ T operator()(T x, T dy) const {
        return narrow<T>(widen(dy) * Form::slope(widen(x)));
    }
};
template <typename T> struct gated {
    __device__ T operator()(T gate, T up) const {
        return narrow<T>(silu_form::value(widen(gate)) * widen(up));
    }
};

template <typename Form> bb_status run(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    bb_status status = BB_OK;
    bb_float_dtype(call->in[0]->dtype, [&](auto t) {
        typedef typename decltype(t)::type T;
        status = bb_map<T, T>(cuda, forward<Form, T>(), call->out[0], call->in);
    });
    return status;
}
template <typename Form> bb_status run_backward(const bb_grad_call *grad) {
    bb_cuda *cuda = bb_cuda_begin(grad->call);
    const bb_tensor *in[] = {grad->call->in[0], grad->grad_out[0]};
    bb_status status = BB_OK;
    if (!grad->grad_in[0]) return BB_OK;
    bb_float_dtype(in[0]->dtype, [&](auto t) {
        typedef typename decltype(t)::type T;
        status = bb_map<T, T, T>(cuda, backward<Form, T>(), grad->grad_in[0], in);
    });
    return status;
}

/* ---- swiglu's backward: two outputs. Tensors 0 to 3 of the index: dgate (and dup, which lies
 * alike), gate, up, dy. */

template <int N, typename T>
__device__ inline void gated_backward(const bb_vector<T, N> &gate, const bb_vector<T, N> &up,
                                      const bb_vector<T, N> &dy, T *dgate, T *dup) {
    bb_vector<T, N> to_gate, to_up;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const bb_real<T> g = widen(gate.v[i]), d = widen(dy.v[i]), s = bb_sigmoid(g), silu = g * s;
        to_gate.v[i] = narrow<T>(d * widen(up.v[i]) * (s + silu * (1 - s)));
        to_up.v[i] = narrow<T>(d * silu);
    }
    if (dgate) bb_store_vector(dgate, to_gate);
    if (dup) bb_store_vector(dup, to_up);
}

template <int N, typename T>
__global__ void swiglu_backward_kernel(bb_index<4> w, T *dgate, T *dup, const T *gate, const T *up,
                                       const T *dy) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < w.count; i += step) {
        int64_t at[4];
        w.offsets(i, at);
        gated_backward<N, T>(bb_load_item<N>(gate + at[1], w.stride[1][0] == 0),
                             bb_load_item<N>(up + at[2], w.stride[2][0] == 0),
                             bb_load_item<N>(dy + at[3], w.stride[3][0] == 0),
                             dgate ? dgate + at[0] : nullptr, dup ? dup + at[0] : nullptr);
    }
}

template <typename T> bb_status swiglu_backward(bb_cuda *cuda, const bb_grad_call *grad) {
    enum { N = 16 / sizeof(T), BLOCK = 256 };
    bb_tensor *const *to = grad->grad_in, *const *in = grad->call->in;
    const bb_tensor *like = to[0] ? to[0] : to[1];
    const bb_tensor *tensors[] = {like, in[0], in[1], grad->grad_out[0]};
    T *dgate = to[0] ? reinterpret_cast<T *>(to[0]->data) : nullptr;
    T *dup = to[1] ? reinterpret_cast<T *>(to[1]->data) : nullptr;
    const T *gate = reinterpret_cast<const T *>(in[0]->data);
    const T *up = reinterpret_cast<const T *>(in[1]->data);
    const T *dy = reinterpret_cast<const T *>(grad->grad_out[0]->data);
    const void *data[] = {like->data, gate, up, dy};
    const int bytes[] = {sizeof(T), sizeof(T), sizeof(T), sizeof(T)};
    bb_index<4> w = bb_index_make<4>(tensors);
    const bool vectors = w.size[0] % N == 0 && bb_index_aligned(w, N, data, bytes) &&
                         bb_aligned16(dgate) && bb_aligned16(dup);
    if (!vectors)
        return BB_LAUNCH(cuda, (swiglu_backward_kernel<1, T>), bb_cuda_grid(cuda, w.count, BLOCK),
                         bb_cuda_block(w.count, BLOCK), 0, w, dgate, dup, gate, up, dy);
    bb_index_widen(&w, N);
    return BB_LAUNCH(cuda, (swiglu_backward_kernel<N, T>), bb_cuda_grid(cuda, w.count, BLOCK),
                     bb_cuda_block(w.count, BLOCK), 0, w, dgate, dup, gate, up, dy);
}

const bb_gelu_attrs *form_of(const bb_call *call) {
    return static_cast<const bb_gelu_attrs *>(call->attrs);
}

} // namespace

bb_status bb_cuda_silu(bb_call *call) { return run<silu_form>(call); }
bb_status bb_cuda_silu_backward(const bb_grad_call *grad) { return run_backward<silu_form>(grad); }

bb_status bb_cuda_gelu(bb_call *call) {
    return form_of(call)->approximate == BB_GELU_TANH ? run<gelu_tanh_form>(call)
                                                      : run<gelu_form>(call);
}
bb_status bb_cuda_gelu_backward(const bb_grad_call *grad) {
    return form_of(grad->call)->approximate == BB_GELU_TANH ? run_backward<gelu_tanh_form>(grad)
                                                            : run_backward<gelu_form>(grad);
}

bb_status bb_cuda_swiglu(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    bb_status status = BB_OK;
    bb_float_dtype(call->in[0]->dtype, [&](auto t) {
        typedef typename decltype(t)::type T;
        status = bb_map<T, T, T>(cuda, gated<T>(), call->out[0], call->in);
    });
    return status;
}
bb_status bb_cuda_swiglu_backward(const bb_grad_call *grad) {
    bb_cuda *cuda = bb_cuda_begin(grad->call);
    bb_status status = BB_OK;
    if (grad->call->in[0]->count == 0 || (!grad->grad_in[0] && !grad->grad_in[1])) return BB_OK;
    bb_float_dtype(grad->call->in[0]->dtype, [&](auto t) {
        status = swiglu_backward<typename decltype(t)::type>(cuda, grad);
    });
    return status;
}
