/* Copies, conversions, fills and additions on the device (copy.h), and the kernels of cast and
 * contiguous (ops/cast.c). All are maps (map.h): source read once, target written once. Conversions
 * are those of convert.h; a copy that converts nothing moves bytes, whatever they mean. */
#include "backends/cuda/copy.h"

#include "backends/cuda/convert.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/map.h"

namespace {

struct same {
    template <typename T> __device__ T operator()(T x) const { return x; }
};
template <typename Y> struct converted {
    template <typename X> __device__ Y operator()(X x) const { return bb_narrow<Y>(bb_wide(x)); }
};
template <typename T> struct constant {
    double value;
    __device__ T operator()() const { return bb_narrow<T>(value); }
};
/* f16 and bf16 add in float and round once; integers wrap. */
struct sum {
    static __device__ float add(float x, float y) { return x + y; }
    static __device__ double add(double x, double y) { return x + y; }
    static __device__ int64_t add(int64_t x, int64_t y) {
        return (int64_t)((uint64_t)x + (uint64_t)y);
    }
    template <typename T> __device__ T operator()(T x, T y) const {
        return bb_narrow<T>(add(bb_wide(x), bb_wide(y)));
    }
};

bb_status move(bb_cuda *cuda, const bb_tensor *source, bb_tensor *target) {
    switch (source->dtype) {
    case BB_F64:
    case BB_I64: return bb_map<uint64_t, uint64_t>(cuda, same(), target, &source);
    case BB_F32:
    case BB_I32: return bb_map<uint32_t, uint32_t>(cuda, same(), target, &source);
    case BB_F16:
    case BB_BF16: return bb_map<uint16_t, uint16_t>(cuda, same(), target, &source);
    default: return bb_map<uint8_t, uint8_t>(cuda, same(), target, &source);
    }
}

} // namespace

bb_status bb_cuda_copy_elements(bb_cuda *cuda, const bb_tensor *source, bb_tensor *target) {
    if (source->dtype == target->dtype) return move(cuda, source, target);
    bb_status status = BB_OK;
    bb_any_dtype(target->dtype, [&](auto y) {
        typedef typename decltype(y)::type Y;
        bb_any_dtype(source->dtype, [&](auto x) {
            typedef typename decltype(x)::type X;
            status = bb_map<Y, X>(cuda, converted<Y>(), target, &source);
        });
    });
    return status;
}

bb_status bb_cuda_fill(bb_backend *self, bb_tensor *target, double value) {
    bb_cuda *cuda = reinterpret_cast<bb_cuda *>(self);
    bb_status status = BB_OK;
    cuda->op = "fill";
    bb_any_dtype(target->dtype, [&](auto y) {
        typedef typename decltype(y)::type Y;
        status = bb_map<Y>(cuda, constant<Y>{value}, target, nullptr);
    });
    return status;
}

bb_status bb_cuda_accumulate(bb_backend *self, const bb_tensor *source, bb_tensor *target) {
    bb_cuda *cuda = reinterpret_cast<bb_cuda *>(self);
    const bb_tensor *in[] = {target, source};
    bb_status status = BB_OK;
    cuda->op = "add";
    bb_any_dtype(target->dtype, [&](auto t) {
        typedef typename decltype(t)::type T;
        status = bb_map<T, T, T>(cuda, sum(), target, in);
    });
    return status;
}

bb_status bb_cuda_cast(bb_call *call) {
    return bb_cuda_copy_elements(bb_cuda_begin(call), call->in[0], call->out[0]);
}
bb_status bb_cuda_contiguous(bb_call *call) {
    return bb_cuda_copy_elements(bb_cuda_begin(call), call->in[0], call->out[0]);
}
