/* Elementwise ops of one input (ops/unary.c), and of one input and numbers (ops/scalar.c). Two
 * inputs: binary.cu.
 *
 * All are maps (map.h has thread map and bytes). An op computes in the wide type of its dtype
 * (convert.h) and rounds once; what is one IEEE operation gives the CPU's bits. */
#include "backends/cuda/elementwise.h"
#include "backends/cuda/functions.h"
#include "backends/cuda/kernels.h"

namespace {

template <typename Op> bb_status unary(bb_call *call, Op op = Op()) {
    return bb_elementwise<Op>(call, [=](const bb_inputs &in, auto t, auto is_float) {
        typedef typename decltype(t)::type T;
        const bb_computed<Op, T> f = {op};
        if constexpr (decltype(is_float)::value)
            return bb_map<T, T>(in.cuda, f, call->out[0], in.at);
        return bb_map_single<T, T>(in.cuda, f, call->out[0], in.at);
    });
}

/* ---- One input */

struct neg_op : bb_for_numbers {
    template <typename R> __device__ R operator()(R x) const { return -x; }
    __device__ int64_t operator()(int64_t x) const { return bb_wrapped(0 - (uint64_t)x); }
};
struct abs_op : bb_for_numbers {
    template <typename R> __device__ R operator()(R x) const { return fabs(x); }
    __device__ int64_t operator()(int64_t x) const {
        return x < 0 ? bb_wrapped(0 - (uint64_t)x) : x;
    }
};
struct sign_op : bb_for_numbers {
    template <typename R> __device__ R operator()(R x) const { return (R)((x > 0) - (x < 0)); }
};
struct exp_op : bb_for_floats {
    template <typename R> __device__ R operator()(R x) const { return exp(x); }
};
struct log_op : bb_for_floats {
    template <typename R> __device__ R operator()(R x) const { return log(x); }
};
struct sqrt_op : bb_for_floats {
    template <typename R> __device__ R operator()(R x) const { return sqrt(x); }
};
struct rsqrt_op : bb_for_floats { /* two exact roundings, as the CPU */
    template <typename R> __device__ R operator()(R x) const { return 1 / sqrt(x); }
};
struct sin_op : bb_for_floats {
    template <typename R> __device__ R operator()(R x) const { return sin(x); }
};
struct cos_op : bb_for_floats {
    template <typename R> __device__ R operator()(R x) const { return cos(x); }
};
struct tanh_op : bb_for_floats {
    template <typename R> __device__ R operator()(R x) const { return tanh(x); }
};
struct sigmoid_op : bb_for_floats {
    template <typename R> __device__ R operator()(R x) const { return bb_sigmoid(x); }
};
struct relu_op : bb_for_numbers { /* NaN stays */
    template <typename R> __device__ R operator()(R x) const { return x < 0 ? 0 : x; }
};
struct erf_op : bb_for_floats {
    template <typename R> __device__ R operator()(R x) const { return erf(x); }
};
struct square_op : bb_for_numbers {
    template <typename R> __device__ R operator()(R x) const { return x * x; }
    __device__ int64_t operator()(int64_t x) const { return bb_wrapped((uint64_t)x * (uint64_t)x); }
};
struct reciprocal_op : bb_for_floats {
    template <typename R> __device__ R operator()(R x) const { return 1 / x; }
};

/* ---- One input and numbers, rounded to the wide type once */

struct add_scalar_op : bb_for_numbers {
    double value;
    template <typename R> __device__ R operator()(R x) const {
        return bb_add_op()(x, bb_narrow<R>(value));
    }
};
struct mul_scalar_op : bb_for_numbers {
    double value;
    template <typename R> __device__ R operator()(R x) const {
        return bb_mul_op()(x, bb_narrow<R>(value));
    }
};
/* The exponents of which a multiplication or division gives exactly pow's special values. Integers
 * wrap like repeated multiplication; their exponent is not negative. */
struct pow_op : bb_for_numbers {
    double value;
    __device__ float operator()(float x) const {
        if (value == 2) return x * x;
        if (value == 3) return x * x * x;
        return value == -1 ? 1 / x : powf(x, (float)value);
    }
    __device__ double operator()(double x) const {
        if (value == 2) return x * x;
        return value == -1 ? 1 / x : pow(x, value);
    }
    __device__ int64_t operator()(int64_t x) const {
        uint64_t power = 1, base = (uint64_t)x;
        for (uint64_t e = (uint64_t)bb_narrow<int64_t>(value); e; e >>= 1, base *= base)
            if (e & 1) power *= base;
        return bb_wrapped(power);
    }
};
/* NaN stays NaN; where low > high the result is high. */
struct clamp_op : bb_for_numbers {
    double low, high;
    template <typename R> static __device__ R between(R x, R a, R b) {
        const R t = x < a ? a : x;
        return t > b ? b : t;
    }
    template <typename R> __device__ R operator()(R x) const { return between(x, (R)low, (R)high); }
    __device__ int64_t operator()(int64_t x) const {
        return between(x, bb_narrow<int64_t>(ceil(low)), bb_narrow<int64_t>(floor(high)));
    }
};
template <typename Op> bb_status scalar(bb_call *call) {
    Op op;
    op.value = static_cast<const bb_scalar_attrs *>(call->attrs)->value;
    return unary(call, op);
}

} // namespace

bb_status bb_cuda_neg(bb_call *call) { return unary<neg_op>(call); }
bb_status bb_cuda_abs(bb_call *call) { return unary<abs_op>(call); }
bb_status bb_cuda_sign(bb_call *call) { return unary<sign_op>(call); }
bb_status bb_cuda_exp(bb_call *call) { return unary<exp_op>(call); }
bb_status bb_cuda_log(bb_call *call) { return unary<log_op>(call); }
bb_status bb_cuda_sqrt(bb_call *call) { return unary<sqrt_op>(call); }
bb_status bb_cuda_rsqrt(bb_call *call) { return unary<rsqrt_op>(call); }
bb_status bb_cuda_sin(bb_call *call) { return unary<sin_op>(call); }
bb_status bb_cuda_cos(bb_call *call) { return unary<cos_op>(call); }
bb_status bb_cuda_tanh(bb_call *call) { return unary<tanh_op>(call); }
bb_status bb_cuda_sigmoid(bb_call *call) { return unary<sigmoid_op>(call); }
bb_status bb_cuda_relu(bb_call *call) { return unary<relu_op>(call); }
bb_status bb_cuda_erf(bb_call *call) { return unary<erf_op>(call); }
bb_status bb_cuda_square(bb_call *call) { return unary<square_op>(call); }
bb_status bb_cuda_reciprocal(bb_call *call) { return unary<reciprocal_op>(call); }

bb_status bb_cuda_pow(bb_call *call) { return scalar<pow_op>(call); }
bb_status bb_cuda_add_scalar(bb_call *call) { return scalar<add_scalar_op>(call); }
bb_status bb_cuda_mul_scalar(bb_call *call) { return scalar<mul_scalar_op>(call); }
bb_status bb_cuda_clamp(bb_call *call) {
    const bb_clamp_attrs *a = static_cast<const bb_clamp_attrs *>(call->attrs);
    clamp_op op;
    op.low = a->min;
    op.high = a->max;
    return unary(call, op);
}
