/* Elementwise ops: one input (ops/unary.c), one input and numbers (scalar.c), two inputs
 * (binary.c), comparisons and where (compare.c).
 *
 * All are maps (map.h has thread map and bytes). An op computes in the wide type of its dtype
 * (convert.h) and rounds once; what is one IEEE operation gives the CPU's bits. An input that lies
 * across the output's rows is made contiguous first: reading it in the output's order would fetch
 * 32 bytes for every element. */
#include "backends/cuda/convert.h"
#include "backends/cuda/copy.h"
#include "backends/cuda/functions.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/map.h"

namespace {

/* ---- One way in: inputs, dtype, launch */

/* A call's inputs, straightened where need be, as long as this lives. */
struct inputs {
    bb_cuda *cuda;
    bool ok;
    const bb_tensor *at[3];
    bb_tensor copy[3];
    bb_storage *held[3];

    explicit inputs(const bb_call *call) : cuda(bb_cuda_begin(call)), ok(true), held() {
        for (int i = 0; i < call->n_in && ok; i++) {
            at[i] = bb_cuda_straight(cuda, call->in[i], &copy[i], &held[i]);
            ok = at[i] != nullptr;
        }
    }
    ~inputs() {
        for (bb_storage *s : held) bb_cuda_release(cuda, s);
    }
    inputs(const inputs &) = delete;
    inputs &operator=(const inputs &) = delete;
};

/* Ops are structs over the wide types; T is the stored type. */
struct for_floats {
    enum { integers = false };
};
struct for_numbers {
    enum { integers = true };
};
template <typename Op, typename T> struct computed {
    Op op;
    __device__ T operator()(T x) const { return bb_narrow<T>(op(bb_wide(x))); }
    __device__ T operator()(T x, T y) const { return bb_narrow<T>(op(bb_wide(x), bb_wide(y))); }
};
template <typename Op, typename T> struct tested {
    Op op;
    __device__ bb_bool operator()(T x, T y) const {
        return bb_bool{(uint8_t)op(bb_wide(x), bb_wide(y))};
    }
};

/* launch(tag of T, whether T is a float). ops/ gives ops for floats no other dtype. Integers are no
 * hot path: they have the kernel of single elements only. */
template <typename Op, typename F> bb_status run(bb_call *call, F launch) {
    const inputs in(call);
    const int dtype = call->in[0]->dtype;
    bb_status status = call->ctx->status;
    if (!in.ok) return status;
    auto wide = [&](auto t) { status = launch(in, t, std::true_type()); };
    auto single = [&](auto t) { status = launch(in, t, std::false_type()); };
    if (bb_float_dtype(dtype, wide)) return status;
    if constexpr (Op::integers) bb_integer_dtype(dtype, single);
    return status;
}

template <typename Op> bb_status unary(bb_call *call, Op op = Op()) {
    return run<Op>(call, [=](const inputs &in, auto t, auto is_float) {
        typedef typename decltype(t)::type T;
        const computed<Op, T> f = {op};
        if constexpr (decltype(is_float)::value)
            return bb_map<T, T>(in.cuda, f, call->out[0], in.at);
        return bb_map_single<T, T>(in.cuda, f, call->out[0], in.at);
    });
}
template <typename Op> bb_status binary(bb_call *call) {
    return run<Op>(call, [=](const inputs &in, auto t, auto is_float) {
        typedef typename decltype(t)::type T;
        const computed<Op, T> f = {Op()};
        if constexpr (decltype(is_float)::value)
            return bb_map<T, T, T>(in.cuda, f, call->out[0], in.at);
        return bb_map_single<T, T, T>(in.cuda, f, call->out[0], in.at);
    });
}
template <typename Op> bb_status test(bb_call *call) {
    return run<Op>(call, [=](const inputs &in, auto t, auto is_float) {
        typedef typename decltype(t)::type T;
        const tested<Op, T> f = {Op()};
        if constexpr (decltype(is_float)::value)
            return bb_map<bb_bool, T, T>(in.cuda, f, call->out[0], in.at);
        return bb_map_single<bb_bool, T, T>(in.cuda, f, call->out[0], in.at);
    });
}

/* Integers wrap: they are computed unsigned. */
__device__ inline int64_t wrapped(uint64_t x) { return (int64_t)x; }

/* ---- One input */

struct neg_op : for_numbers {
    template <typename R> __device__ R operator()(R x) const { return -x; }
    __device__ int64_t operator()(int64_t x) const { return wrapped(0 - (uint64_t)x); }
};
struct abs_op : for_numbers {
    template <typename R> __device__ R operator()(R x) const { return fabs(x); }
    __device__ int64_t operator()(int64_t x) const { return x < 0 ? wrapped(0 - (uint64_t)x) : x; }
};
struct sign_op : for_numbers {
    template <typename R> __device__ R operator()(R x) const { return (R)((x > 0) - (x < 0)); }
};
struct exp_op : for_floats {
    template <typename R> __device__ R operator()(R x) const { return exp(x); }
};
struct log_op : for_floats {
    template <typename R> __device__ R operator()(R x) const { return log(x); }
};
struct sqrt_op : for_floats {
    template <typename R> __device__ R operator()(R x) const { return sqrt(x); }
};
struct rsqrt_op : for_floats { /* two exact roundings, as the CPU */
    template <typename R> __device__ R operator()(R x) const { return 1 / sqrt(x); }
};
struct sin_op : for_floats {
    template <typename R> __device__ R operator()(R x) const { return sin(x); }
};
struct cos_op : for_floats {
    template <typename R> __device__ R operator()(R x) const { return cos(x); }
};
struct tanh_op : for_floats {
    template <typename R> __device__ R operator()(R x) const { return tanh(x); }
};
struct sigmoid_op : for_floats {
    template <typename R> __device__ R operator()(R x) const { return bb_sigmoid(x); }
};
struct relu_op : for_numbers { /* NaN stays */
    template <typename R> __device__ R operator()(R x) const { return x < 0 ? 0 : x; }
};
struct erf_op : for_floats {
    template <typename R> __device__ R operator()(R x) const { return erf(x); }
};
struct square_op : for_numbers {
    template <typename R> __device__ R operator()(R x) const { return x * x; }
    __device__ int64_t operator()(int64_t x) const { return wrapped((uint64_t)x * (uint64_t)x); }
};
struct reciprocal_op : for_floats {
    template <typename R> __device__ R operator()(R x) const { return 1 / x; }
};

/* ---- Two inputs. maximum and minimum give NaN where either is NaN. */

struct add_op : for_numbers {
    template <typename R> __device__ R operator()(R x, R y) const { return x + y; }
    __device__ int64_t operator()(int64_t x, int64_t y) const {
        return wrapped((uint64_t)x + (uint64_t)y);
    }
};
struct sub_op : for_numbers {
    template <typename R> __device__ R operator()(R x, R y) const { return x - y; }
    __device__ int64_t operator()(int64_t x, int64_t y) const {
        return wrapped((uint64_t)x - (uint64_t)y);
    }
};
struct mul_op : for_numbers {
    template <typename R> __device__ R operator()(R x, R y) const { return x * y; }
    __device__ int64_t operator()(int64_t x, int64_t y) const {
        return wrapped((uint64_t)x * (uint64_t)y);
    }
};
struct div_op : for_floats {
    template <typename R> __device__ R operator()(R x, R y) const { return x / y; }
};
struct maximum_op : for_numbers {
    template <typename R> __device__ R operator()(R x, R y) const {
        return x > y || x != x ? x : y;
    }
};
struct minimum_op : for_numbers {
    template <typename R> __device__ R operator()(R x, R y) const {
        return x < y || x != x ? x : y;
    }
};
struct eq_op : for_numbers {
    template <typename R> __device__ bool operator()(R x, R y) const { return x == y; }
};
struct ne_op : for_numbers {
    template <typename R> __device__ bool operator()(R x, R y) const { return x != y; }
};
struct lt_op : for_numbers {
    template <typename R> __device__ bool operator()(R x, R y) const { return x < y; }
};
struct le_op : for_numbers {
    template <typename R> __device__ bool operator()(R x, R y) const { return x <= y; }
};
struct gt_op : for_numbers {
    template <typename R> __device__ bool operator()(R x, R y) const { return x > y; }
};
struct ge_op : for_numbers {
    template <typename R> __device__ bool operator()(R x, R y) const { return x >= y; }
};

/* ---- One input and numbers, rounded to the wide type once */

struct add_scalar_op : for_numbers {
    double value;
    template <typename R> __device__ R operator()(R x) const {
        return add_op()(x, bb_narrow<R>(value));
    }
};
struct mul_scalar_op : for_numbers {
    double value;
    template <typename R> __device__ R operator()(R x) const {
        return mul_op()(x, bb_narrow<R>(value));
    }
};
/* The exponents of which a multiplication or division gives exactly pow's special values. Integers
 * wrap like repeated multiplication; their exponent is not negative. */
struct pow_op : for_numbers {
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
        return wrapped(power);
    }
};
/* NaN stays NaN; where low > high the result is high. */
struct clamp_op : for_numbers {
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

/* A choice moves bytes, whatever they mean. */
struct where_op {
    template <typename T> __device__ T operator()(bb_bool c, T x, T y) const {
        return c.bits ? x : y;
    }
};
template <typename T> bb_status where_of(bb_call *call) {
    const inputs in(call);
    if (!in.ok) return call->ctx->status;
    return bb_map<T, bb_bool, T, T>(in.cuda, where_op(), call->out[0], in.at);
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

bb_status bb_cuda_add(bb_call *call) { return binary<add_op>(call); }
bb_status bb_cuda_sub(bb_call *call) { return binary<sub_op>(call); }
bb_status bb_cuda_mul(bb_call *call) { return binary<mul_op>(call); }
bb_status bb_cuda_div(bb_call *call) { return binary<div_op>(call); }
bb_status bb_cuda_maximum(bb_call *call) { return binary<maximum_op>(call); }
bb_status bb_cuda_minimum(bb_call *call) { return binary<minimum_op>(call); }

bb_status bb_cuda_eq(bb_call *call) { return test<eq_op>(call); }
bb_status bb_cuda_ne(bb_call *call) { return test<ne_op>(call); }
bb_status bb_cuda_lt(bb_call *call) { return test<lt_op>(call); }
bb_status bb_cuda_le(bb_call *call) { return test<le_op>(call); }
bb_status bb_cuda_gt(bb_call *call) { return test<gt_op>(call); }
bb_status bb_cuda_ge(bb_call *call) { return test<ge_op>(call); }

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
