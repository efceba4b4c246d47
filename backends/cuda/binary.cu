/* Elementwise ops of two inputs (ops/binary.c), comparisons and where (ops/compare.c), broadcast.
 * One input: elementwise.cu.
 *
 * All are maps (map.h has thread map and bytes), computed in the wide type of the dtype (convert.h)
 * and rounded once. */
#include "backends/cuda/elementwise.h"
#include "backends/cuda/kernels.h"

namespace {

template <typename Op> bb_status binary(bb_call *call) {
    return bb_elementwise<Op>(call, [=](const bb_inputs &in, auto t, auto is_float) {
        typedef typename decltype(t)::type T;
        const bb_computed<Op, T> f = {Op()};
        if constexpr (decltype(is_float)::value)
            return bb_map<T, T, T>(in.cuda, f, call->out[0], in.at);
        return bb_map_single<T, T, T>(in.cuda, f, call->out[0], in.at);
    });
}

/* add and mul: elementwise.h. maximum and minimum give NaN where either is NaN. */

struct sub_op : bb_for_numbers {
    template <typename R> __device__ R operator()(R x, R y) const { return x - y; }
    __device__ int64_t operator()(int64_t x, int64_t y) const {
        return bb_wrapped((uint64_t)x - (uint64_t)y);
    }
};
struct div_op : bb_for_floats {
    template <typename R> __device__ R operator()(R x, R y) const { return x / y; }
};
struct maximum_op : bb_for_numbers {
    template <typename R> __device__ R operator()(R x, R y) const {
        return x > y || x != x ? x : y;
    }
};
struct minimum_op : bb_for_numbers {
    template <typename R> __device__ R operator()(R x, R y) const {
        return x < y || x != x ? x : y;
    }
};

/* ---- Comparisons: one kernel for all six. true_for: the relations that give true. */

enum { LESS = 1, EQUAL = 2, GREATER = 4, UNORDERED = 8 };

template <typename T> struct compared {
    unsigned true_for;
    __device__ bb_bool operator()(T a, T b) const {
        const auto x = bb_wide(a), y = bb_wide(b);
        const unsigned relation = x < y ? LESS : x == y ? EQUAL : x > y ? GREATER : UNORDERED;
        return bb_bool{(uint8_t)((true_for & relation) != 0)};
    }
};
bb_status compare(bb_call *call, unsigned true_for) {
    return bb_elementwise<bb_for_numbers>(call, [=](const bb_inputs &in, auto t, auto is_float) {
        typedef typename decltype(t)::type T;
        const compared<T> f = {true_for};
        if constexpr (decltype(is_float)::value)
            return bb_map<bb_bool, T, T>(in.cuda, f, call->out[0], in.at);
        return bb_map_single<bb_bool, T, T>(in.cuda, f, call->out[0], in.at);
    });
}

/* A choice moves bytes, whatever they mean. */
struct where_op {
    template <typename T> __device__ T operator()(bb_bool c, T x, T y) const {
        return c.bits ? x : y;
    }
};
template <typename T> bb_status where_of(bb_call *call) {
    const bb_inputs in(call);
    if (!in.ok) return call->ctx->status;
    return bb_map<T, bb_bool, T, T>(in.cuda, where_op(), call->out[0], in.at);
}

} // namespace

bb_status bb_cuda_add(bb_call *call) { return binary<bb_add_op>(call); }
bb_status bb_cuda_sub(bb_call *call) { return binary<sub_op>(call); }
bb_status bb_cuda_mul(bb_call *call) { return binary<bb_mul_op>(call); }
bb_status bb_cuda_div(bb_call *call) { return binary<div_op>(call); }
bb_status bb_cuda_maximum(bb_call *call) { return binary<maximum_op>(call); }
bb_status bb_cuda_minimum(bb_call *call) { return binary<minimum_op>(call); }

bb_status bb_cuda_eq(bb_call *call) { return compare(call, EQUAL); }
bb_status bb_cuda_ne(bb_call *call) { return compare(call, LESS | GREATER | UNORDERED); }
bb_status bb_cuda_lt(bb_call *call) { return compare(call, LESS); }
bb_status bb_cuda_le(bb_call *call) { return compare(call, LESS | EQUAL); }
bb_status bb_cuda_gt(bb_call *call) { return compare(call, GREATER); }
bb_status bb_cuda_ge(bb_call *call) { return compare(call, GREATER | EQUAL); }

bb_status bb_cuda_where(bb_call *call) {
    switch (call->out[0]->dtype) {
    case BB_F64:
    case BB_I64: return where_of<uint64_t>(call);
    case BB_F32:
    case BB_I32: return where_of<uint32_t>(call);
    case BB_F16:
    case BB_BF16: return where_of<uint16_t>(call);
    default: return where_of<uint8_t>(call);
    }
}
