/* cross_entropy, forward and backward (ops/cross_entropy.c):
 *
 *     loss    = log(sum(exp(x - max))) + max - x[target]          0 where ignored
 *     dlogits = w (exp(x - logsumexp) - onehot(target))           0 where ignored
 *
 * Forward reads the logits once (online sum) and writes two numbers a row: 2^k lanes of a warp for
 * rows up to 1024, a block beyond. Losses are added in f64, PART rows a block and then the blocks
 * in order. Backward reads and writes each logit once, element by element, since logsumexp was
 * saved: no barrier, no shared memory, rows of any length cut into strips. 16 bytes at a time where
 * rows are aligned.
 *
 * Registers on sm_90, no spills: forward 62, backward 48 (bf16); 64 KiB of loads are under way on a
 * multiprocessor in either.
 *
 * Where nobody needs the logits any more, the walk hands their memory to backward for the gradient
 * (`overwrites` in ops/cross_entropy.c): each thread reads a logit before it writes the same place.
 * So x and dx are not __restrict__. It saves a buffer of (rows, classes) where a step needs most.
 *
 * A target out of range is left as a fault (cuda.h); its loss is NaN and its gradient 0. */
#include "backends/cuda/index_list.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/softmax.h"

namespace {

enum { BLOCK = 256, PART = 1 << 14, MOST = 1024, STRIP_STEPS = 8 };

struct targets {
    bb_index_list list;
    int64_t ignore;

    template <typename F> void each_pointer(F &f) const { list.each_pointer(f); }
};

struct job {
    bb_lines x;
    int width; /* threads a row */
    bool packed;
};

targets targets_of(const bb_call *call) {
    return targets{bb_index_list_of(call->in[1]),
                   static_cast<const bb_cross_entropy_attrs *>(call->attrs)->ignore_index};
}

/* ---- Forward */

/* loss: of each row, in the compute type or (rounded) in the logits'. */
template <typename T>
__global__ void __launch_bounds__(MOST, 1)
    rows_kernel(const job j, const targets target, const bb_guard guard, const T *x,
                bb_real<T> *loss, T *rounded, bb_real<T> *logsumexp) {
    typedef bb_real<T> R;
    BB_SHARED(R, slots, 2 * BB_WARP);
    const int me = (int)threadIdx.x % j.width;
    const int64_t row = (int64_t)blockIdx.x * (blockDim.x / j.width) + threadIdx.x / j.width;
    const bool mine = row < j.x.count;
    const T *line = mine ? x + j.x.start(row) : x;
    bb_online<R> s;
    s.clear();
    if (mine)
        bb_walk_line(line, j.x.step, j.x.n, j.packed, me, j.width,
                     [&](int64_t, const auto &pack) { s.add(pack); });
    if (j.width <= BB_WARP)
        s.join(j.width);
    else
        s.join_block(slots);
    if (!mine || me) return;
    const int64_t wanted = target.list[row];
    const R log_sum = bb_log(s.sum);
    R value = 0;
    if (wanted != target.ignore)
        value = bb_in_range(guard, wanted, row) ? log_sum + (s.max - widen(line[wanted * j.x.step]))
                                                : (R)NAN;
    if (loss) loss[row] = value;
    if (rounded) rounded[row] = narrow<T>(value);
    if (logsumexp) logsumexp[row] = s.max + log_sum;
}

/* What the sums over all rows become. */
template <typename T> struct result {
    bool mean;
    const T *dy;        /* NULL: the loss */
    T *loss;            /* the losses' sum or mean */
    bb_real<T> *weight; /* or, with dy, the gradient of each row's loss */

    __device__ void put(double sum, double count) const {
        if (dy)
            *weight = (bb_real<T>)(widen(*dy) / count);
        else
            *loss = narrow<T>((bb_real<T>)(mean ? sum / count : sum));
    }
    template <typename F> void each_pointer(F &f) const { f(dy), f(loss), f(weight); }
};

/* Sum of losses (if there are any to sum) and number of targets not ignored, in part blockIdx.x. */
template <typename T>
__global__ void __launch_bounds__(MOST, 1)
    total_kernel(const targets target, int64_t rows, const bb_real<T> *loss, double *pairs,
                 const result<T> to) {
    BB_SHARED(double, slots, 2 * BB_WARP);
    const int64_t begin = (int64_t)blockIdx.x * PART, end = min(rows, begin + PART);
    double sum = 0, count = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += MOST) {
        if (loss) sum += loss[i];
        count += target.list[i] != target.ignore;
    }
    sum = bb_block_sum(sum, slots);
    count = bb_block_sum(count, slots + BB_WARP);
    if (threadIdx.x) return;
    if (gridDim.x == 1) {
        to.put(sum, count);
    } else {
        pairs[2 * blockIdx.x] = sum;
        pairs[2 * blockIdx.x + 1] = count;
    }
}
template <typename T> __global__ void join_kernel(const double *pairs, int n, const result<T> to) {
    double sum = 0, count = 0;
    for (int i = (int)threadIdx.x; i < n; i += BB_WARP) {
        sum += pairs[2 * i];
        count += pairs[2 * i + 1];
    }
    sum = bb_warp_sum(sum);
    count = bb_warp_sum(count);
    if (threadIdx.x == 0) to.put(sum, count);
}

unsigned parts_of(int64_t rows) { return rows <= PART ? 1u : (unsigned)((rows + PART - 1) / PART); }

template <typename T>
bb_status total(bb_cuda *cuda, const targets &target, int64_t rows, const bb_real<T> *loss,
                double *pairs, const result<T> &to) {
    const unsigned parts = parts_of(rows);
    bb_status status =
        BB_LAUNCH(cuda, (total_kernel<T>), parts, MOST, 0, target, rows, loss, pairs, to);
    if (!status && parts > 1)
        status = BB_LAUNCH(cuda, (join_kernel<T>), 1, BB_WARP, 0,
                           static_cast<const double *>(pairs), (int)parts, to);
    return status;
}

template <typename T> bb_status forward(bb_cuda *cuda, bb_call *call) {
    typedef bb_real<T> R;
    const int reduction = static_cast<const bb_cross_entropy_attrs *>(call->attrs)->reduction;
    const bb_tensor *logits = call->in[0];
    const int64_t rows = call->in[1]->count;
    const T *x = reinterpret_cast<const T *>(logits->data);
    T *out = reinterpret_cast<T *>(call->out[0]->data);
    job j = {bb_lines_of(logits, logits->rank - 1), 0, false};
    j.packed = bb_lines_packed<T>(j.x, x);
    j.width = j.x.n <= BB_LANES_MAX_ROW ? bb_lanes_for(j.x.n) : bb_threads_for(j.x.n);
    const int block = j.width > BLOCK ? j.width : BLOCK;
    const unsigned grid = (unsigned)((rows + block / j.width - 1) / (block / j.width));
    const targets target = targets_of(call);
    const bb_guard guard = bb_cuda_guard(cuda, call->op, j.x.n);
    R *logsumexp = call->out[1] ? reinterpret_cast<R *>(call->out[1]->data) : nullptr;
    if (reduction == BB_REDUCE_NONE)
        return BB_LAUNCH(cuda, (rows_kernel<T>), grid, block, 0, j, target, guard, x,
                         static_cast<R *>(nullptr), out, logsumexp);

    bb_storage *scratch =
        bb_cuda_scratch(cuda, ((size_t)rows + 2 * (size_t)parts_of(rows)) * sizeof(double));
    if (!scratch) return cuda->base.ctx->status;
    double *pairs = static_cast<double *>(scratch->data);
    R *loss = reinterpret_cast<R *>(pairs + 2 * parts_of(rows));
    bb_status status = BB_LAUNCH(cuda, (rows_kernel<T>), grid, block, 0, j, target, guard, x, loss,
                                 static_cast<T *>(nullptr), logsumexp);
    if (!status)
        status = total<T>(cuda, target, rows, loss, pairs,
                          result<T>{reduction == BB_REDUCE_MEAN, nullptr, out, nullptr});
    bb_cuda_release(cuda, scratch);
    return status;
}

/* ---- Backward */

/* One strip of a row: STRIP_STEPS packs or elements a thread. weight: one for all rows, or NULL and
 * each row's stands in dy. */
template <typename T>
__global__ void __launch_bounds__(BLOCK, sizeof(T) == 8 ? 2 : 0) /* f64: else 64 registers, spilt */
    backward_kernel(const job j, const targets target, const bb_lines dy_at, const T *dy,
                    const bb_real<T> *weight, const bb_real<T> *logsumexp, const T *x, T *dx) {
    typedef bb_real<T> R;
    const int me = (int)threadIdx.x % j.width;
    const int64_t row = (int64_t)blockIdx.x * (BLOCK / j.width) + threadIdx.x / j.width;
    if (row >= j.x.count) return;
    const int64_t wanted = target.list[row], n = j.x.n;
    const bool ignored = wanted == target.ignore || wanted < 0 || wanted >= n;
    const R w = weight ? *weight : widen(dy[dy_at.start(row)]), shift = logsumexp[row];
    const int64_t strip = (int64_t)STRIP_STEPS * j.width * (j.packed ? (int)bb_pack<T>::N : 1);
    const int64_t first = blockIdx.y * strip, count = min(strip, n - first);
    T *to = dx + row * n + first;
    bb_walk_line(x + j.x.start(row) + first * j.x.step, j.x.step, count, j.packed, me, j.width,
                 [&](int64_t i, auto pack) {
                     for (int k = 0; k < decltype(pack)::N; k++) {
                         R d = w * bb_exp(widen(pack.v[k]) - shift);
                         if (first + i + k == wanted) d -= w;
                         pack.v[k] = narrow<T>(ignored ? (R)0 : d);
                     }
                     bb_put(to + i, pack);
                 });
}

template <typename T> bb_status backward(bb_cuda *cuda, const bb_grad_call *grad) {
    typedef bb_real<T> R;
    const bb_call *call = grad->call;
    const bool mean =
        static_cast<const bb_cross_entropy_attrs *>(call->attrs)->reduction == BB_REDUCE_MEAN;
    const bb_tensor *logits = call->in[0];
    const int64_t rows = call->in[1]->count;
    const T *x = reinterpret_cast<const T *>(logits->data),
            *dy = reinterpret_cast<const T *>(grad->grad_out[0]->data);
    T *dx = reinterpret_cast<T *>(grad->grad_in[0]->data);
    job j = {bb_lines_of(logits, logits->rank - 1), 1, false};
    j.packed = bb_lines_packed<T>(j.x, x) && bb_aligned16(dx);
    const int64_t steps = j.packed ? j.x.n / bb_pack<T>::N : j.x.n;
    while (j.width < BLOCK && j.width < steps) j.width *= 2;
    const int64_t row_blocks = (rows + BLOCK / j.width - 1) / (BLOCK / j.width),
                  strip = (int64_t)STRIP_STEPS * j.width, strips = (steps + strip - 1) / strip;
    const targets target = targets_of(call);

    bb_storage *scratch = nullptr;
    bb_status status = BB_OK;
    R *weight = nullptr;
    if (mean) {
        scratch = bb_cuda_scratch(cuda, (1 + 2 * (size_t)parts_of(rows)) * sizeof(double));
        if (!scratch) return cuda->base.ctx->status;
        double *pairs = static_cast<double *>(scratch->data);
        weight = reinterpret_cast<R *>(pairs + 2 * parts_of(rows));
        status = total<T>(cuda, target, rows, static_cast<const R *>(nullptr), pairs,
                          result<T>{true, dy, nullptr, weight});
    }
    if (!status)
        status = BB_LAUNCH(cuda, (backward_kernel<T>), dim3((unsigned)row_blocks, (unsigned)strips),
                           BLOCK, 0, j, target, bb_lines_of(grad->grad_out[0], -1), dy,
                           static_cast<const R *>(weight),
                           reinterpret_cast<const R *>(call->out[1]->data), x, dx);
    bb_cuda_release(cuda, scratch);
    return status;
}

} // namespace

bb_status bb_cuda_cross_entropy(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    bb_status status = BB_OK;
    bb_float_dtype(call->in[0]->dtype,
                   [&](auto tag) { status = forward<typename decltype(tag)::type>(cuda, call); });
    return status;
}

bb_status bb_cuda_cross_entropy_backward(const bb_grad_call *grad) {
    bb_cuda *cuda = bb_cuda_begin(grad->call);
    bb_status status = BB_OK;
    if (grad->grad_in[0] && grad->call->in[0]->count)
        bb_float_dtype(grad->call->in[0]->dtype, [&](auto tag) {
            status = backward<typename decltype(tag)::type>(cuda, grad);
        });
    return status;
}
