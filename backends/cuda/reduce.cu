/* Sums, means and extremes over any axes of any strides.
 *
 *     y[o] = fold over r of x[o, r]                      bytes moved: those of x, once
 *
 * Axes are sorted by stride and merged where they lie densely together. Two maps:
 *   rows     2^k lanes of a warp, or a block, fold one output each; neighbouring threads take
 *            neighbouring elements, 16 bytes of them where alignment allows.
 *   columns  the innermost kept axis is contiguous: neighbouring threads own neighbouring outputs
 *            (16 bytes of them), and the block's other threads share their elements.
 * Where there are few outputs the elements are cut into chunks, a block each; their results are a
 * small f64 (or i64) tensor, which is folded as rows in turn: two launches up to half a billion
 * elements, three beyond.
 *
 * Registers on sm_90, no spills: rows 60, columns 80 (bf16, eight outputs a thread, 16 KiB of
 * shared memory) and 72 (f32): 48 to 64 KiB of loads are under way on a multiprocessor.
 *
 * f32, f16 and bf16 add up a few dozen values in f32 and those sums in f64: full accuracy for any
 * length, and one f64 addition in 64 bytes does not show even where f64 runs at 1/64 speed. All
 * cuts depend on shape and alignment alone, so results do not depend on the device's size. */
#include "backends/cuda/kernels.h"
#include "backends/cuda/reduce_plan.h"

namespace {

enum fold { SUM, SQUARES, MAX }; /* a minimum is a maximum of what is flipped over */

/* ---- What elements become: f32 for a few, f64 beyond; i64 for integers */

template <typename T> struct running { typedef int64_t type, total; };
template <> struct running<double> { typedef double type, total; };
template <> struct running<float> {
    typedef float type;
    typedef double total;
};
template <> struct running<bb_half> : running<float> {};
template <> struct running<bb_bfloat> : running<float> {};
template <typename T> using running_t = typename running<T>::type;
template <typename T> using total_t = typename running<T>::total;

__device__ inline int64_t value_of(int64_t x) { return x; }
__device__ inline int64_t value_of(int32_t x) { return x; }
__device__ inline int64_t value_of(uint8_t x) { return x; }
__device__ inline double value_of(double x) { return x; }
__device__ inline float value_of(float x) { return x; }
__device__ inline float value_of(bb_half x) { return widen(x); }
__device__ inline float value_of(bb_bfloat x) { return widen(x); }

/* Turns the order round, without loss. */
__device__ inline int64_t flipped(int64_t x) { return ~x; }
template <typename R> __device__ inline R flipped(R x) { return -x; }

/* NaN beats everything; integers wrap. */
template <int FOLD> __device__ inline int64_t join(int64_t a, int64_t b) {
    if (FOLD == MAX) return b > a ? b : a;
    return (int64_t)((uint64_t)a + (uint64_t)b);
}
template <int FOLD, typename R> __device__ inline R join(R a, R b) {
    if (FOLD == MAX) return b > a || b != b ? b : a;
    return a + b;
}
template <int FOLD> __device__ inline void clear(int64_t *a) { *a = FOLD == MAX ? INT64_MIN : 0; }
template <int FOLD, typename R> __device__ inline void clear(R *a) {
    *a = FOLD == MAX ? (R)-INFINITY : (R)0;
}
template <int FOLD, typename T> __device__ inline running_t<T> term(const plan &p, T element) {
    const running_t<T> x = value_of(element);
    if (FOLD == SQUARES) return x * x;
    return FOLD == MAX && p.flip ? flipped(x) : x;
}

/* A result at place i of y, or a chunk's in scratch. */
__device__ inline void put(const plan &p, void *y, int64_t i, double a) {
    a = (p.flip ? -a : a) / p.divisor;
    if (p.to == BB_F64)
        static_cast<double *>(y)[i] = a;
    else if (p.to == BB_F32)
        static_cast<float *>(y)[i] = (float)a;
    else if (p.to == BB_F16)
        static_cast<bb_half *>(y)[i] = narrow<bb_half>((float)a);
    else
        static_cast<bb_bfloat *>(y)[i] = narrow<bb_bfloat>((float)a);
}
__device__ inline void put(const plan &p, void *y, int64_t i, int64_t a) {
    a = p.flip ? ~a : a;
    if (p.to == BB_I64)
        static_cast<int64_t *>(y)[i] = a;
    else if (p.to == BB_I32)
        static_cast<int32_t *>(y)[i] = (int32_t)a;
    else
        static_cast<uint8_t *>(y)[i] = (uint8_t)a;
}

/* Offset of reduced element j. */
__device__ inline int64_t gone_offset(const plan &p, int64_t j) {
    int64_t offset = 0;
    for (int a = p.gone_count - 1; a > 0; a--) {
        offset += j % p.gone[a].size * p.gone[a].x;
        j /= p.gone[a].size;
    }
    return offset + j * p.gone[0].x;
}
/* Offsets of position `line` of the first `count` kept axes. */
__device__ inline void kept_offsets(const plan &p, int count, int64_t line, int64_t *x,
                                    int64_t *y) {
    *x = *y = 0;
    for (int a = count - 1; a >= 0; a--) {
        const int64_t at = a > 0 ? line % p.kept[a].size : line;
        *x += at * p.kept[a].x;
        *y += at * p.kept[a].y;
        line /= p.kept[a].size;
    }
}

/* ---- Rows */

template <typename T, int FOLD>
__device__ inline running_t<T> fold_pack(const plan &p, const bb_pack<T> &pack) {
    running_t<T> part = term<FOLD>(p, pack.v[0]);
    for (int i = 1; i < bb_pack<T>::N; i++) part = join<FOLD>(part, term<FOLD>(p, pack.v[i]));
    return part;
}

/* One thread's share of elements [begin, end) of the output that starts at x: several loads are
 * under way at once. */
template <typename T, int FOLD>
__device__ inline total_t<T> fold_share(const plan &p, const T *x, int64_t begin, int64_t end,
                                        int me) {
    typedef total_t<T> A;
    A total;
    clear<FOLD>(&total);
    if (p.packed) {
        const int64_t step = (int64_t)p.width * bb_pack<T>::N;
        int64_t j = begin + (int64_t)me * bb_pack<T>::N;
        for (; j + (IN_FLIGHT - 1) * step < end; j += IN_FLIGHT * step) {
            bb_pack<T> pack[IN_FLIGHT];
            for (int k = 0; k < IN_FLIGHT; k++) pack[k] = bb_load16(x + j + k * step);
            running_t<T> part = fold_pack<T, FOLD>(p, pack[0]);
            for (int k = 1; k < IN_FLIGHT; k++)
                part = join<FOLD>(part, fold_pack<T, FOLD>(p, pack[k]));
            total = join<FOLD>(total, (A)part);
        }
        for (; j < end; j += step)
            total = join<FOLD>(total, (A)fold_pack<T, FOLD>(p, bb_load16(x + j)));
        return total;
    }
    int64_t j = begin + me;
    for (; j + (IN_FLIGHT - 1) * p.width < end; j += IN_FLIGHT * p.width) {
        T v[IN_FLIGHT];
        for (int k = 0; k < IN_FLIGHT; k++) v[k] = x[gone_offset(p, j + k * p.width)];
        running_t<T> part = term<FOLD>(p, v[0]);
        for (int k = 1; k < IN_FLIGHT; k++) part = join<FOLD>(part, term<FOLD>(p, v[k]));
        total = join<FOLD>(total, (A)part);
    }
    for (; j < end; j += p.width) total = join<FOLD>(total, (A)term<FOLD>(p, x[gone_offset(p, j)]));
    return total;
}

template <typename T, int FOLD>
__global__ void __launch_bounds__(THREADS, 2) rows_kernel(const plan p, const T *x, void *y) {
    typedef total_t<T> A;
    BB_SHARED(A, slots, THREADS / BB_WARP);
    const int group = (int)threadIdx.x / p.width, me = (int)threadIdx.x % p.width;
    const int64_t item = (int64_t)blockIdx.x * (THREADS / p.width) + group;
    const int64_t output = item / p.chunks, begin = item % p.chunks * p.chunk;
    const bool mine = output < p.outputs;
    int64_t from = 0, to = 0;
    A a;
    clear<FOLD>(&a);
    if (mine) {
        kept_offsets(p, p.kept_count, output, &from, &to);
        a = fold_share<T, FOLD>(p, x + from, begin, min(p.n, begin + p.chunk), me);
    }
    for (int d = min(p.width, (int)BB_WARP) / 2; d > 0; d /= 2)
        a = join<FOLD>(a, __shfl_xor_sync(BB_ALL_LANES, a, d));
    if (p.width > BB_WARP) {
        if (threadIdx.x % BB_WARP == 0) slots[threadIdx.x / BB_WARP] = a;
        __syncthreads();
        a = slots[0];
        for (int w = 1; w < THREADS / BB_WARP; w++) a = join<FOLD>(a, slots[w]);
    }
    if (mine && me == 0) put(p, y, p.chunks > 1 ? item : to, a);
}

/* ---- Columns: N neighbouring outputs a thread, THREADS / width threads for their elements */

template <typename T, int FOLD, int N>
__device__ inline void fold_rows(const plan &p, const T *x, int64_t begin, int64_t end, int shares,
                                 total_t<T> (&total)[N]) {
    struct strip {
        T v[N];
    };
    int64_t j = begin;
    while (j < end) {
        const int rows = j + (IN_FLIGHT - 1) * (int64_t)shares < end ? IN_FLIGHT : 1;
        strip row[IN_FLIGHT];
        for (int k = 0; k < IN_FLIGHT; k++) {
            if (k >= rows) break;
            const T *at = x + gone_offset(p, j + (int64_t)k * shares);
            if (N > 1) {
                const bb_pack<T> pack = bb_load16(at);
                for (int i = 0; i < N; i++) row[k].v[i] = pack.v[i];
            } else {
                row[k].v[0] = *at;
            }
        }
        for (int i = 0; i < N; i++) {
            running_t<T> part = term<FOLD>(p, row[0].v[i]);
            if (rows > 1)
                for (int k = 1; k < IN_FLIGHT; k++)
                    part = join<FOLD>(part, term<FOLD>(p, row[k].v[i]));
            total[i] = join<FOLD>(total[i], (total_t<T>)part);
        }
        j += (int64_t)rows * shares;
    }
}

template <typename T, int FOLD, int N>
__global__ void __launch_bounds__(THREADS, 2) columns_kernel(const plan p, const T *x, void *y) {
    typedef total_t<T> A;
    BB_SHARED(A, slots, THREADS * N);
    const axis strip = p.kept[p.kept_count - 1];
    const int me = (int)threadIdx.x % p.width, share = (int)threadIdx.x / p.width,
              shares = THREADS / p.width;
    const int64_t chunk = blockIdx.x % p.chunks, at = blockIdx.x / p.chunks;
    const int64_t line = at / p.strips, column = (at % p.strips * p.width + me) * N;
    const bool mine = column < strip.size;
    int64_t from, to;
    kept_offsets(p, p.kept_count - 1, line, &from, &to);
    A total[N];
    for (int i = 0; i < N; i++) clear<FOLD>(&total[i]);
    const int64_t begin = chunk * p.chunk;
    if (mine)
        fold_rows<T, FOLD, N>(p, x + from + column, begin + share, min(p.n, begin + p.chunk),
                              shares, total);
    for (int s = shares / 2; s > 0; s /= 2) {
        if (share >= s && share < 2 * s)
            for (int i = 0; i < N; i++) slots[i * THREADS + threadIdx.x] = total[i];
        __syncthreads();
        if (share < s)
            for (int i = 0; i < N; i++)
                total[i] = join<FOLD>(total[i], slots[i * THREADS + threadIdx.x + s * p.width]);
    }
    if (!mine || share) return;
    for (int i = 0; i < N; i++) {
        const int64_t output = line * strip.size + column + i;
        put(p, y, p.chunks > 1 ? output * p.chunks + chunk : to + (column + i) * strip.y, total[i]);
    }
}

/* ---- Launching */

template <typename T, int FOLD>
bb_status launch(bb_cuda *cuda, const plan &p, bool columns, int64_t blocks, const T *x, void *y) {
    enum { N = sizeof(T) == 1 ? 1 : bb_pack<T>::N };
    if (!columns)
        return BB_LAUNCH(cuda, (rows_kernel<T, FOLD>), (unsigned)blocks, THREADS, 0, p, x, y);
    if (p.packed)
        return BB_LAUNCH(cuda, (columns_kernel<T, FOLD, N>), (unsigned)blocks, THREADS, 0, p, x, y);
    return BB_LAUNCH(cuda, (columns_kernel<T, FOLD, 1>), (unsigned)blocks, THREADS, 0, p, x, y);
}

/* Into y, or by chunks into scratch, which is then folded as rows. */
template <typename T, int FOLD>
bb_status run(bb_cuda *cuda, plan p, const T *x, void *y, int to, double divisor) {
    typedef total_t<T> A;
    const bool columns = by_columns(p);
    const int64_t blocks = columns ? plan_columns<T>(&p, x) : plan_rows<T>(&p, x);
    p.to = to;
    p.divisor = divisor;
    if (p.chunks == 1) return launch<T, FOLD>(cuda, p, columns, blocks, x, y);

    bb_storage *scratch = bb_cuda_scratch(cuda, (size_t)(p.outputs * p.chunks) * sizeof(A));
    if (!scratch) return cuda->base.ctx->status;
    p.to = (A)0.5 == 0 ? BB_I64 : BB_F64;
    p.divisor = 1;
    bb_status status = launch<T, FOLD>(cuda, p, columns, blocks, x, scratch->data);
    /* [output, in the order of the sorted axes][chunk] */
    p.n = p.chunks;
    p.gone_count = 1;
    p.gone[0] = axis{p.chunks, 1, 0};
    int64_t stride = p.chunks;
    for (int a = p.kept_count - 1; a >= 0; a--) {
        p.kept[a].x = stride;
        stride *= p.kept[a].size;
    }
    if (!status)
        status = run < A,
        FOLD == MAX ? MAX : SUM > (cuda, p, static_cast<const A *>(scratch->data), y, to, divisor);
    bb_cuda_release(cuda, scratch);
    return status;
}

template <int FOLD>
bb_status run_dtype(bb_cuda *cuda, const plan &p, const bb_tensor *x, void *y, int to,
                    double divisor) {
    bb_status status = BB_OK;
    if (bb_float_dtype(x->dtype, [&](auto tag) {
            typedef typename decltype(tag)::type T;
            status = run<T, FOLD>(cuda, p, reinterpret_cast<const T *>(x->data), y, to, divisor);
        }))
        return status;
    if constexpr (FOLD != SQUARES) {
        switch (x->dtype) {
        case BB_I64:
            return run<int64_t, FOLD>(cuda, p, reinterpret_cast<const int64_t *>(x->data), y, to,
                                      divisor);
        case BB_I32:
            return run<int32_t, FOLD>(cuda, p, reinterpret_cast<const int32_t *>(x->data), y, to,
                                      divisor);
        default:
            return run<uint8_t, FOLD>(cuda, p, reinterpret_cast<const uint8_t *>(x->data), y, to,
                                      divisor);
        }
    }
    return status;
}

template <int FOLD> bb_status reduce(bb_call *call, unsigned mask, bool flip, bool mean) {
    bb_cuda *cuda = bb_cuda_begin(call);
    if (call->out[0]->count == 0) return BB_OK;
    plan p = plan_of(call->in[0], mask);
    p.flip = flip;
    return run_dtype<FOLD>(cuda, p, call->in[0], call->out[0]->data, call->meta[0].dtype,
                           mean ? (double)p.n : 1);
}

unsigned mask_of(const bb_call *call) {
    const bb_ints *axes = &static_cast<const bb_reduce_attrs *>(call->attrs)->axes;
    const int rank = call->in[0]->rank;
    unsigned mask = axes->n == 0 ? (1u << rank) - 1u : 0;
    for (int i = 0; i < axes->n; i++)
        mask |= 1u << (axes->v[i] < 0 ? axes->v[i] + rank : axes->v[i]);
    return mask;
}

} // namespace

bb_status bb_cuda_sum(bb_call *call) { return reduce<SUM>(call, mask_of(call), false, false); }
bb_status bb_cuda_mean(bb_call *call) { return reduce<SUM>(call, mask_of(call), false, true); }
bb_status bb_cuda_amax(bb_call *call) { return reduce<MAX>(call, mask_of(call), false, false); }
bb_status bb_cuda_amin(bb_call *call) { return reduce<MAX>(call, mask_of(call), true, false); }
bb_status bb_cuda_sum_squares(bb_call *call) {
    return reduce<SQUARES>(call, (1u << call->in[0]->rank) - 1u, false, false);
}
