/* softmax and log_softmax along the last axis, forward and backward (ops/softmax.c,
 * ops/log_softmax.c):
 *
 *     y = exp(x - max) / sum           dx = y (dy - sum(y dy))
 *     y = x - max - log(sum)           dx = dy - exp(y) sum(dy)
 *
 * Bytes moved: a row is read once and written once (backward: y and dy read, dx written), up to
 * what stays on chip. Two maps:
 *
 * - Up to 1024 elements: 2^k lanes of a warp a row, 8 or 32 elements each in registers; no barrier.
 *   Rows of less than 256 elements share a warp, so that it still reads 512 bytes at a time.
 * - Longer: a block of 256 to 1024 threads a row. The first pass leaves the row in shared memory as
 *   it came (no wider) and sums online; the second writes. Rows that do not fit are read twice: on
 *   227 KiB, above 116000 elements of 16 bits.
 *
 * Registers on sm_90 (no spills; shared bytes beside the row): short forward 40 and 64, backward 40
 * and 89 for 8 and 32 elements of 16 bits; long 64 and 62, 256 and 128 bytes. So 32 to 64 KiB of
 * loads are under way on a multiprocessor, but for rows of up to 256 elements: 24 KiB. 16 bytes at
 * a time where rows are aligned, else single elements; a row's elements may be any distance apart.
 * Each row is summed by one warp or block in a fixed order. */
#include "backends/cuda/softmax.h"

#include "backends/cuda/kernels.h"

namespace {

enum { BLOCK = 256, LONG_BLOCK = 1024, RESERVED = 1024 /* bytes of shared memory for sums */ };

/* x: the input, or dy in backward, of any strides; y and dx have no gaps. */
struct job {
    bb_lines x;
    int lanes;
    bool packed, logarithm, held;
};

/* ---- Short rows */

/* Blocks a multiprocessor that ptxas is asked for: left alone it spills on sm_75. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
enum { SHORT_BLOCKS = 2 };
#else
enum { SHORT_BLOCKS = 0 }; /* as it likes */
#endif

/* Element of the row that item k of a lane is, N items side by side. */
template <int N> __device__ inline int place(int k, int lane, int lanes) {
    return (k / N * lanes + lane) * N + k % N;
}

template <typename T, int ITEMS>
__device__ inline void load_items(const job &j, const T *row, int64_t step, int lane,
                                  bb_real<T> (&v)[ITEMS]) {
    enum { N = bb_pack<T>::N };
    const int n = (int)j.x.n;
    if (j.packed) {
        for (int k = 0; k < ITEMS; k += N) {
            const int i = place<N>(k, lane, j.lanes);
            if (i >= n) continue;
            const bb_pack<T> pack = bb_load16(row + i);
            for (int m = 0; m < N; m++) v[k + m] = widen(pack.v[m]);
        }
    } else {
        for (int k = 0; k < ITEMS; k++) {
            const int i = place<1>(k, lane, j.lanes);
            if (i < n) v[k] = widen(row[i * step]);
        }
    }
}

template <typename T, int ITEMS>
__device__ inline void store_items(const job &j, T *row, int lane, const bb_real<T> (&v)[ITEMS]) {
    enum { N = bb_pack<T>::N };
    const int n = (int)j.x.n;
    if (j.packed) {
        for (int k = 0; k < ITEMS; k += N) {
            const int i = place<N>(k, lane, j.lanes);
            if (i >= n) continue;
            bb_pack<T> pack;
            for (int m = 0; m < N; m++) pack.v[m] = narrow<T>(v[k + m]);
            bb_store16(row + i, pack);
        }
    } else {
        for (int k = 0; k < ITEMS; k++) {
            const int i = place<1>(k, lane, j.lanes);
            if (i < n) row[i] = narrow<T>(v[k]);
        }
    }
}

template <typename T, int ITEMS>
__global__ void __launch_bounds__(BLOCK, SHORT_BLOCKS)
    short_forward(const job j, const T *x, T *y) {
    typedef bb_real<T> R;
    const int lane = (int)threadIdx.x % j.lanes;
    const int64_t row = (int64_t)blockIdx.x * (BLOCK / j.lanes) + threadIdx.x / j.lanes;
    const bool mine = row < j.x.count;
    R v[ITEMS], max = (R)-INFINITY, sum = 0;
    for (int k = 0; k < ITEMS; k++) v[k] = (R)-INFINITY;
    if (mine) load_items(j, x + j.x.start(row), j.x.step, lane, v);
    for (int k = 0; k < ITEMS; k++) max = v[k] > max ? v[k] : max;
    max = bb_warp_max(max, j.lanes);
    /* What pads the row stays -inf and adds 0; a row that is -inf throughout becomes NaN below. */
    const R shift = bb_online<R>::shift(max);
    for (int k = 0; k < ITEMS; k++) {
        const R e = bb_exp(v[k] - shift);
        sum += e;
        v[k] = j.logarithm ? v[k] - max : e;
    }
    sum = bb_warp_sum(sum, j.lanes);
    const R scale = 1 / sum, log_sum = bb_log(sum);
    for (int k = 0; k < ITEMS; k++) v[k] = j.logarithm ? v[k] - log_sum : v[k] * scale;
    if (mine) store_items(j, y + row * j.x.n, lane, v);
}

template <typename T, int ITEMS>
__global__ void __launch_bounds__(BLOCK)
    short_backward(const job j, const T *grad, const T *y, T *dx) {
    typedef bb_real<T> R;
    const int lane = (int)threadIdx.x % j.lanes;
    const int64_t row = (int64_t)blockIdx.x * (BLOCK / j.lanes) + threadIdx.x / j.lanes;
    const bool mine = row < j.x.count;
    R dy[ITEMS], out[ITEMS], sum = 0;
    for (int k = 0; k < ITEMS; k++) dy[k] = out[k] = 0;
    if (mine) {
        load_items(j, grad + j.x.start(row), j.x.step, lane, dy);
        load_items(j, y + row * j.x.n, 1, lane, out);
    }
    for (int k = 0; k < ITEMS; k++) sum += j.logarithm ? dy[k] : dy[k] * out[k];
    sum = bb_warp_sum(sum, j.lanes);
    for (int k = 0; k < ITEMS; k++)
        out[k] = j.logarithm ? dy[k] - bb_exp(out[k]) * sum : out[k] * (dy[k] - sum);
    if (mine) store_items(j, dx + row * j.x.n, lane, out);
}

/* ---- Long rows */

template <typename T>
__global__ void __launch_bounds__(LONG_BLOCK, 1) long_forward(const job j, const T *x, T *y) {
    typedef bb_real<T> R;
    BB_SHARED(R, slots, 2 * BB_WARP);
    BB_DYNAMIC_SHARED(T, held);
    const T *row = x + j.x.start(blockIdx.x);
    T *to = y + blockIdx.x * j.x.n;
    const int me = (int)threadIdx.x, width = (int)blockDim.x;
    bb_online<R> s;
    s.clear();
    bb_walk_line(row, j.x.step, j.x.n, j.packed, me, width, [&](int64_t i, const auto &pack) {
        if (j.held) bb_put(held + i, pack);
        s.add(pack);
    });
    s.join_block(slots);
    const R scale = 1 / s.sum, log_sum = bb_log(s.sum);
    /* Each thread reads what it wrote itself. */
    bb_walk_line(j.held ? held : row, j.held ? 1 : j.x.step, j.x.n, j.packed, me, width,
                 [&](int64_t i, auto pack) {
                     for (int k = 0; k < decltype(pack)::N; k++) {
                         const R d = widen(pack.v[k]) - s.max;
                         pack.v[k] = narrow<T>(j.logarithm ? d - log_sum : bb_exp(d) * scale);
                     }
                     bb_put(to + i, pack);
                 });
}

template <typename T>
__global__ void __launch_bounds__(LONG_BLOCK, 1)
    long_backward(const job j, const T *grad, const T *y, T *dx) {
    typedef bb_real<T> R;
    BB_SHARED(R, slots, BB_WARP);
    BB_DYNAMIC_SHARED(T, held);
    const int64_t n = j.x.n;
    const T *row = grad + j.x.start(blockIdx.x), *out = y + blockIdx.x * n;
    T *to = dx + blockIdx.x * n, *held_out = held + n;
    const int me = (int)threadIdx.x, width = (int)blockDim.x;
    R sum = 0;
    bb_walk_line(row, j.x.step, n, j.packed, me, width, [&](int64_t i, const auto &dy) {
        auto pack = dy;
        if (j.held || !j.logarithm) bb_get(out, 1, i, &pack);
        if (j.held) {
            bb_put(held + i, dy);
            bb_put(held_out + i, pack);
        }
        for (int k = 0; k < (int)(sizeof dy / sizeof(T)); k++)
            sum += j.logarithm ? widen(dy.v[k]) : widen(dy.v[k]) * widen(pack.v[k]);
    });
    sum = bb_block_sum(sum, slots);
    const T *from = j.held ? held_out : out;
    bb_walk_line(j.held ? held : row, j.held ? 1 : j.x.step, n, j.packed, me, width,
                 [&](int64_t i, auto dy) {
                     auto pack = dy;
                     bb_get(from, 1, i, &pack);
                     for (int k = 0; k < decltype(dy)::N; k++) {
                         const R d = widen(dy.v[k]), v = widen(pack.v[k]);
                         pack.v[k] = narrow<T>(j.logarithm ? d - bb_exp(v) * sum : v * (d - sum));
                     }
                     bb_put(to + i, pack);
                 });
}

/* ---- Launching */

/* Rows of y lie n apart, so packs need aligned rows there too. */
template <typename T>
job job_of(const bb_tensor *x, const void *y, const void *dx, bool logarithm) {
    job j = {bb_lines_of(x, x->rank - 1), 0, false, logarithm, false};
    j.lanes = bb_lanes_for(j.x.n);
    j.packed = bb_lines_packed<T>(j.x, x->data) && bb_aligned16(static_cast<const T *>(y)) &&
               (!dx || bb_aligned16(static_cast<const T *>(dx)));
    return j;
}

/* Shared memory for `rows` rows of a long kernel, or none if they do not fit. */
template <typename T> size_t hold(const bb_cuda *cuda, job *j, int rows) {
    const uint64_t bytes = (uint64_t)rows * (uint64_t)j->x.n * sizeof(T);
    j->held = bytes + RESERVED <= cuda->info.shared_bytes;
    return j->held ? (size_t)bytes : 16;
}

unsigned short_grid(const job &j) {
    const int64_t rows = BLOCK / j.lanes;
    return (unsigned)((j.x.count + rows - 1) / rows);
}

template <typename T>
bb_status forward(bb_cuda *cuda, const bb_tensor *input, bb_tensor *output, bool logarithm) {
    const T *x = reinterpret_cast<const T *>(input->data);
    T *y = reinterpret_cast<T *>(output->data);
    job j = job_of<T>(input, y, NULL, logarithm);
    if (j.x.n <= 8 * j.lanes)
        return BB_LAUNCH(cuda, (short_forward<T, 8>), short_grid(j), BLOCK, 0, j, x, y);
    if (j.x.n <= BB_LANES_MAX_ROW)
        return BB_LAUNCH(cuda, (short_forward<T, 32>), short_grid(j), BLOCK, 0, j, x, y);
    const size_t shared = hold<T>(cuda, &j, 1);
    return BB_LAUNCH(cuda, (long_forward<T>), (unsigned)j.x.count, bb_threads_for(j.x.n), shared, j,
                     x, y);
}

template <typename T>
bb_status backward(bb_cuda *cuda, const bb_tensor *grad, const bb_tensor *output, bb_tensor *target,
                   bool logarithm) {
    const T *dy = reinterpret_cast<const T *>(grad->data),
            *y = reinterpret_cast<const T *>(output->data);
    T *dx = reinterpret_cast<T *>(target->data);
    job j = job_of<T>(grad, y, dx, logarithm);
    if (j.x.n <= 8 * j.lanes)
        return BB_LAUNCH(cuda, (short_backward<T, 8>), short_grid(j), BLOCK, 0, j, dy, y, dx);
    if (j.x.n <= BB_LANES_MAX_ROW)
        return BB_LAUNCH(cuda, (short_backward<T, 32>), short_grid(j), BLOCK, 0, j, dy, y, dx);
    const size_t shared = hold<T>(cuda, &j, 2);
    return BB_LAUNCH(cuda, (long_backward<T>), (unsigned)j.x.count, bb_threads_for(j.x.n), shared,
                     j, dy, y, dx);
}

} // namespace

bool bb_cuda_last_axis(const bb_call *call) {
    const int64_t axis = static_cast<const bb_axis_attrs *>(call->attrs)->axis;
    return axis == -1 || axis == call->in[0]->rank - 1;
}

bb_status bb_cuda_softmax_rows(bb_call *call, bool logarithm) {
    bb_cuda *cuda = bb_cuda_begin(call);
    bb_status status = BB_OK;
    if (call->in[0]->count)
        bb_float_dtype(call->in[0]->dtype, [&](auto tag) {
            typedef typename decltype(tag)::type T;
            status = forward<T>(cuda, call->in[0], call->out[0], logarithm);
        });
    return status;
}

bb_status bb_cuda_softmax_rows_backward(const bb_grad_call *grad, bool logarithm) {
    bb_cuda *cuda = bb_cuda_begin(grad->call);
    bb_status status = BB_OK;
    if (grad->grad_in[0] && grad->grad_in[0]->count)
        bb_float_dtype(grad->grad_in[0]->dtype, [&](auto tag) {
            typedef typename decltype(tag)::type T;
            status = backward<T>(cuda, grad->grad_out[0], grad->call->out[0], grad->grad_in[0],
                                 logarithm);
        });
    return status;
}

bool bb_cuda_softmax_supports(const bb_call *call) { return bb_cuda_last_axis(call); }
bb_status bb_cuda_softmax(bb_call *call) { return bb_cuda_softmax_rows(call, false); }
bb_status bb_cuda_softmax_backward(const bb_grad_call *grad) {
    return bb_cuda_softmax_rows_backward(grad, false);
}
