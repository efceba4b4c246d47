/* What elementwise.cu and binary.cu share: from a call to a map over one dtype.
 *
 * An input that lies across the output's rows is made contiguous first: reading it in the output's
 * order would fetch 32 bytes for every element. */
#ifndef BOBBIN_BACKENDS_CUDA_ELEMENTWISE_H
#define BOBBIN_BACKENDS_CUDA_ELEMENTWISE_H

#include "backends/cuda/convert.h"
#include "backends/cuda/copy.h"
#include "backends/cuda/map.h"

/* A call's inputs, straightened where need be, as long as this lives. */
struct bb_inputs {
    bb_cuda *cuda;
    bool ok;
    const bb_tensor *at[3];
    bb_tensor copy[3];
    bb_storage *held[3];

    explicit bb_inputs(const bb_call *call) : cuda(bb_cuda_begin(call)), ok(true), held() {
        for (int i = 0; i < call->n_in && ok; i++) {
            at[i] = bb_cuda_straight(cuda, call->in[i], &copy[i], &held[i]);
            ok = at[i] != nullptr;
        }
    }
    ~bb_inputs() {
        for (bb_storage *s : held) bb_cuda_release(cuda, s);
    }
    bb_inputs(const bb_inputs &) = delete;
    bb_inputs &operator=(const bb_inputs &) = delete;
};

/* Ops are structs over the wide types; T is the stored type. */
struct bb_for_floats {
    enum { integers = false };
};
struct bb_for_numbers {
    enum { integers = true };
};
template <typename Op, typename T> struct bb_computed {
    Op op;
    __device__ T operator()(T x) const { return bb_narrow<T>(op(bb_wide(x))); }
    __device__ T operator()(T x, T y) const { return bb_narrow<T>(op(bb_wide(x), bb_wide(y))); }
};

/* launch(tag of T, whether T is a float). ops/ gives ops for floats no other dtype. Integers are no
 * hot path: they have the kernel of single elements only. */
template <typename Op, typename F> static bb_status bb_elementwise(bb_call *call, F launch) {
    const bb_inputs in(call);
    const int dtype = call->in[0]->dtype;
    bb_status status = call->ctx->status;
    if (!in.ok) return status;
    auto wide = [&](auto t) { status = launch(in, t, std::true_type()); };
    auto single = [&](auto t) { status = launch(in, t, std::false_type()); };
    if (bb_float_dtype(dtype, wide)) return status;
    if constexpr (Op::integers) bb_integer_dtype(dtype, single);
    return status;
}

/* Integers wrap: they are computed unsigned. */
static __device__ inline int64_t bb_wrapped(uint64_t x) { return (int64_t)x; }

/* Two inputs, or one and a number. */
struct bb_add_op : bb_for_numbers {
    template <typename R> __device__ R operator()(R x, R y) const { return x + y; }
    __device__ int64_t operator()(int64_t x, int64_t y) const {
        return bb_wrapped((uint64_t)x + (uint64_t)y);
    }
};
struct bb_mul_op : bb_for_numbers {
    template <typename R> __device__ R operator()(R x, R y) const { return x * y; }
    __device__ int64_t operator()(int64_t x, int64_t y) const {
        return bb_wrapped((uint64_t)x * (uint64_t)y);
    }
};

#endif
