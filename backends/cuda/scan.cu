/* cumsum and argmax: one line of an axis at a time.
 *
 *     y_i = x_0 + ... + x_i    running sums in f64 (i64 for integers), rounded at each element
 *     argmax                   the first index of the largest; a NaN is larger than everything,
 *                              the first one counts
 *
 * cumsum, two maps: a thread goes along a line where lines are short, or many and side by side
 * (neighbouring threads then read neighbouring elements); else a block goes along it in tiles of
 * 1024, each thread four elements, a scan over the warps, and what came before carried along.
 * argmax: a thread, 2^k lanes or a block a line by the same rule. Bytes moved: x once, y once. A
 * single long line uses a single block: right, not fast; nothing in a training step has one. */
#include "backends/cuda/kernels.h"
#include "backends/cuda/lines.h"

namespace {

enum { BLOCK = 256, ITEMS = 4, SHORT = 64, MANY = 4096 };

template <typename T> struct sum_of { typedef double type; };
template <> struct sum_of<int64_t> { typedef int64_t type; };
template <> struct sum_of<int32_t> : sum_of<int64_t> {};
template <> struct sum_of<uint8_t> : sum_of<int64_t> {};

__device__ inline int64_t plus(int64_t a, int64_t b) {
    return (int64_t)((uint64_t)a + (uint64_t)b);
}
__device__ inline double plus(double a, double b) { return a + b; }

/* x in the type it is summed or compared in. */
template <typename A, typename T> __device__ inline A value_of(T x) {
    if constexpr ((A)0.5 == 0)
        return (A)x;
    else
        return (A)widen(x);
}
template <typename Y, typename A> __device__ inline Y result_of(A a) {
    if constexpr ((A)0.5 == 0)
        return (Y)a;
    else
        return narrow<Y>((bb_real<Y>)a);
}

/* ---- cumsum */

template <typename T, typename Y>
__global__ void __launch_bounds__(BLOCK)
    scan_threads(const bb_lines x_at, const bb_lines y_at, const T *x, Y *y) {
    typedef typename sum_of<T>::type A;
    const int64_t line = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (line >= x_at.count) return;
    const T *from = x + x_at.start(line);
    Y *to = y + y_at.start(line);
    A sum = 0;
    for (int64_t i = 0; i < x_at.n; i++) {
        sum = plus(sum, value_of<A>(from[i * x_at.step]));
        to[i * y_at.step] = result_of<Y>(sum);
    }
}

template <typename T, typename Y>
__global__ void __launch_bounds__(BLOCK)
    scan_block(const bb_lines x_at, const bb_lines y_at, const T *x, Y *y) {
    typedef typename sum_of<T>::type A;
    BB_SHARED(A, slots, 2 * BB_WARP);
    const T *from = x + x_at.start(blockIdx.x);
    Y *to = y + y_at.start(blockIdx.x);
    const int warp = threadIdx.x / BB_WARP, lane = threadIdx.x % BB_WARP;
    A before = 0;
    int turn = 0; /* the slots of one tile are still read while the next is written */
    for (int64_t tile = 0; tile < x_at.n; tile += BLOCK * ITEMS, turn ^= 1) {
        const int64_t first = tile + (int64_t)threadIdx.x * ITEMS;
        A v[ITEMS], sum = 0;
        for (int k = 0; k < ITEMS; k++) {
            if (first + k < x_at.n) sum = plus(sum, value_of<A>(from[(first + k) * x_at.step]));
            v[k] = sum;
        }
        A through = sum; /* of this warp, up to this lane */
        for (int d = 1; d < BB_WARP; d *= 2) {
            const A other = __shfl_up_sync(BB_ALL_LANES, through, d);
            if (lane >= d) through = plus(other, through);
        }
        A *totals = slots + turn * BB_WARP;
        if (lane == BB_WARP - 1) totals[warp] = through;
        A start = __shfl_up_sync(BB_ALL_LANES, through, 1);
        if (lane == 0) start = 0;
        __syncthreads();
        A all = before;
        for (int w = 0; w < BLOCK / BB_WARP; w++) {
            if (w == warp) start = plus(all, start);
            all = plus(all, totals[w]);
        }
        before = all;
        for (int k = 0; k < ITEMS; k++)
            if (first + k < x_at.n) to[(first + k) * y_at.step] = result_of<Y>(plus(start, v[k]));
    }
}

template <typename T, typename Y> bb_status cumsum(bb_cuda *cuda, bb_call *call, int axis) {
    const bb_lines x_at = bb_lines_of(call->in[0], axis), y_at = bb_lines_of(call->out[0], axis);
    const T *x = reinterpret_cast<const T *>(call->in[0]->data);
    Y *y = reinterpret_cast<Y *>(call->out[0]->data);
    if (x_at.n <= SHORT || (y_at.step != 1 && x_at.count >= MANY))
        return BB_LAUNCH(cuda, (scan_threads<T, Y>), (unsigned)((x_at.count + BLOCK - 1) / BLOCK),
                         BLOCK, 0, x_at, y_at, x, y);
    return BB_LAUNCH(cuda, (scan_block<T, Y>), (unsigned)x_at.count, BLOCK, 0, x_at, y_at, x, y);
}

/* ---- argmax */

template <typename A> struct best {
    A value;
    int64_t at; /* -1: nothing yet */

    __device__ void take(A v, int64_t i) {
        const bool first = at < 0, nan = v != v, is_nan = !first && value != value;
        const bool equal = !first && (v == value || (nan && is_nan));
        if (first || (nan && !is_nan) || v > value || (equal && i < at)) {
            value = v;
            at = i;
        }
    }
    __device__ void take(const best &other) {
        if (other.at >= 0) take(other.value, other.at);
    }
};

template <typename T>
__global__ void __launch_bounds__(BLOCK)
    argmax_kernel(const bb_lines x_at, int width, const T *x, int64_t *y) {
    typedef typename sum_of<T>::type A;
    BB_SHARED(best<A>, slots, BLOCK / BB_WARP);
    const int me = (int)threadIdx.x % width;
    const int64_t line = (int64_t)blockIdx.x * (BLOCK / width) + threadIdx.x / width;
    const bool mine = line < x_at.count;
    best<A> b = {0, -1};
    if (mine) {
        const T *from = x + x_at.start(line);
        for (int64_t i = me; i < x_at.n; i += width) b.take(value_of<A>(from[i * x_at.step]), i);
    }
    for (int d = min(width, (int)BB_WARP) / 2; d > 0; d /= 2)
        b.take(best<A>{__shfl_xor_sync(BB_ALL_LANES, b.value, d),
                       __shfl_xor_sync(BB_ALL_LANES, b.at, d)});
    if (width > BB_WARP) {
        if (threadIdx.x % BB_WARP == 0) slots[threadIdx.x / BB_WARP] = b;
        __syncthreads();
        for (int w = 0; w < BLOCK / BB_WARP; w++) b.take(slots[w]);
    }
    if (mine && me == 0) y[line] = b.at;
}

template <typename T> bb_status argmax(bb_cuda *cuda, bb_call *call, int axis) {
    const bb_lines x_at = bb_lines_of(call->in[0], axis);
    const bool side_by_side = x_at.step != 1 && x_at.count >= MANY;
    int width = 1;
    while (!side_by_side && width < BB_WARP && width * 8 < x_at.n) width *= 2;
    if (!side_by_side && x_at.n > SHORT * BB_WARP) width = BLOCK;
    const int64_t lines = BLOCK / width;
    return BB_LAUNCH(cuda, (argmax_kernel<T>), (unsigned)((x_at.count + lines - 1) / lines), BLOCK,
                     0, x_at, width, reinterpret_cast<const T *>(call->in[0]->data),
                     reinterpret_cast<int64_t *>(call->out[0]->data));
}

int axis_of(const bb_call *call, int64_t axis) {
    return (int)(axis < 0 ? axis + call->in[0]->rank : axis);
}

} // namespace

bb_status bb_cuda_cumsum(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    const int axis = axis_of(call, static_cast<const bb_axis_attrs *>(call->attrs)->axis);
    if (call->in[0]->count == 0) return BB_OK;
    switch (call->in[0]->dtype) {
    case BB_F64: return cumsum<double, double>(cuda, call, axis);
    case BB_F32: return cumsum<float, float>(cuda, call, axis);
    case BB_F16: return cumsum<bb_half, bb_half>(cuda, call, axis);
    case BB_BF16: return cumsum<bb_bfloat, bb_bfloat>(cuda, call, axis);
    case BB_I64: return cumsum<int64_t, int64_t>(cuda, call, axis);
    case BB_I32: return cumsum<int32_t, int64_t>(cuda, call, axis);
    default: return cumsum<uint8_t, int64_t>(cuda, call, axis);
    }
}

bb_status bb_cuda_argmax(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    const int axis = axis_of(call, static_cast<const bb_arg_attrs *>(call->attrs)->axis);
    if (call->in[0]->count == 0) return BB_OK;
    switch (call->in[0]->dtype) {
    case BB_F64: return argmax<double>(cuda, call, axis);
    case BB_F32: return argmax<float>(cuda, call, axis);
    case BB_F16: return argmax<bb_half>(cuda, call, axis);
    case BB_BF16: return argmax<bb_bfloat>(cuda, call, axis);
    case BB_I64: return argmax<int64_t>(cuda, call, axis);
    case BB_I32: return argmax<int32_t>(cuda, call, axis);
    default: return argmax<uint8_t>(cuda, call, axis);
    }
}
