/* Adding by index, without atomics and in a fixed order: scatter_add, and the backward of
 * embedding.
 *
 *     y[o, key[i], :] += g[o, i, :]          for i = 0, 1, ... in this order
 *
 * Positions are sorted by key (sort.cu), stably, so that the rows of g that go to one place stand
 * in a run, in order. Runs are cut where 32 entries are full: a block adds the rows of a chunk,
 * columns side by side and 16 bytes a thread, and writes what begins and ends in it; of a run that
 * goes on it leaves a partial sum. A second launch adds the partial sums of such runs in order. So
 * a token that is a fifth of the text costs a thread a few hundred additions, not thousands, and
 * the result depends on the indices alone. f16 and bf16 add in f32 and round once; integers wrap.
 *
 * Registers on sm_90, no spills: 64 (bf16, eight columns a thread) and 56 (f32).
 *
 * Bytes moved: y filled or copied, g read once, the rows of y that occur read and written, 1/16 of
 * g's rows as partial sums at most. scatter_add whose index differs within a row (not a list spread
 * over the others) has columns of one element, and keys that are offsets in y: right and ordered,
 * but each element is moved by itself. An index out of range is left as a fault and adds nothing.
 */
#include "backends/cuda/copy.h"
#include "backends/cuda/index_list.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/sort.h"

namespace {

enum { BLOCK = 256, CHUNK = 32, IN_FLIGHT = 4 };

template <typename T> struct sum_of { typedef int64_t type; };
template <> struct sum_of<double> { typedef double type; };
template <> struct sum_of<float> { typedef float type; };
template <> struct sum_of<bb_half> : sum_of<float> {};
template <> struct sum_of<bb_bfloat> : sum_of<float> {};
template <typename T> using sum_t = typename sum_of<T>::type;

__device__ inline int64_t plus(int64_t a, int64_t b) {
    return (int64_t)((uint64_t)a + (uint64_t)b);
}
template <typename R> __device__ inline R plus(R a, R b) { return a + b; }
template <typename T> __device__ inline sum_t<T> value_of(T x) {
    if constexpr ((sum_t<T>)0.5 == 0)
        return (int64_t)x;
    else
        return widen(x);
}
template <typename T> __device__ inline T result_of(sum_t<T> a) {
    if constexpr ((sum_t<T>)0.5 == 0)
        return (T)a;
    else
        return narrow<T>(a);
}

/* ---- Keys */

__global__ void __launch_bounds__(BLOCK, 2)
    keys_kernel(const bb_index_list index, const bb_lines beside, int64_t axis_stride,
                const bb_guard guard, int64_t n, uint64_t *key, int64_t *position) {
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n; i += step) {
        const int64_t at = index[i];
        const bool right = bb_in_range(guard, at, i);
        key[i] = right ? (uint64_t)(beside.start(i) + at * axis_stride) : 0;
        position[i] = right ? i : -1;
    }
}

/* ---- Sums of runs */

struct runs {
    const uint64_t *key;
    const int64_t *position;
    int64_t n, chunks;
    int64_t targets, columns; /* of y: (outer, targets, columns); g: (outer, n, columns) */
    int width;                /* threads a row of N columns each */

    template <typename F> void each_pointer(F &f) const { f(key), f(position); }
};

/* N elements at once, 16 bytes or one. */
template <typename T, int N> struct strip { T v[N]; };
template <typename T, int N> __device__ inline strip<T, N> load(const T *at) {
    strip<T, N> s;
    if (N > 1) {
        const bb_pack<T> pack = bb_load16(at);
        for (int i = 0; i < N; i++) s.v[i] = pack.v[i];
    } else {
        s.v[0] = *at;
    }
    return s;
}
template <typename T, int N> __device__ inline void add_to(T *at, const sum_t<T> (&sum)[N]) {
    const strip<T, N> old = load<T, N>(at);
    if (N > 1) {
        bb_pack<T> pack;
        for (int i = 0; i < N; i++) pack.v[i] = result_of<T>(plus(value_of(old.v[i]), sum[i]));
        bb_store16(at, pack);
    } else {
        at[0] = result_of<T>(plus(value_of(old.v[0]), sum[0]));
    }
}

/* Partial sums of chunk c: [2 c] of the run that came into it, [2 c + 1] of the one that begins in
 * it and goes on. */
template <typename T, int N>
__global__ void __launch_bounds__(BLOCK, 2)
    add_runs(const runs r, const T *g, T *y, sum_t<T> *partial) {
    const int me = (int)threadIdx.x % r.width;
    const int64_t chunk = (int64_t)blockIdx.x * (BLOCK / r.width) + threadIdx.x / r.width,
                  column = ((int64_t)blockIdx.y * r.width + me) * N;
    if (chunk >= r.chunks || column >= r.columns) return;
    g += (int64_t)blockIdx.z * r.n * r.columns + column;
    y += (int64_t)blockIdx.z * r.targets * r.columns + column;
    partial += (int64_t)blockIdx.z * 2 * r.chunks * r.columns + column;
    const int64_t begin = chunk * CHUNK, end = min(r.n, begin + CHUNK);
    bool came_in = begin > 0 && r.key[begin - 1] == r.key[begin];
    sum_t<T> sum[N];
    for (int k = 0; k < N; k++) sum[k] = 0;
    for (int64_t i = begin; i < end; i += IN_FLIGHT) {
        strip<T, N> row[IN_FLIGHT];
        for (int f = 0; f < IN_FLIGHT; f++) {
            const int64_t at = i + f < end ? r.position[i + f] : -1;
            for (int k = 0; k < N; k++) row[f].v[k] = T();
            if (at >= 0) row[f] = load<T, N>(g + at * r.columns);
        }
        for (int f = 0; f < IN_FLIGHT; f++) {
            const int64_t next = i + f + 1;
            if (next > end) break;
            for (int k = 0; k < N; k++) sum[k] = plus(sum[k], value_of(row[f].v[k]));
            const uint64_t key = r.key[next - 1];
            const bool goes_on = next < r.n && r.key[next] == key;
            if (goes_on && next < end) continue;
            if (came_in || goes_on) {
                sum_t<T> *to = partial + (2 * chunk + !came_in) * r.columns;
                for (int k = 0; k < N; k++) to[k] = sum[k];
            } else {
                add_to<T, N>(y + (int64_t)key * r.columns, sum);
            }
            came_in = false;
            for (int k = 0; k < N; k++) sum[k] = 0;
        }
    }
}

/* The run that begins in a chunk and goes on: its partial sums, in order. */
template <typename T, int N>
__global__ void __launch_bounds__(BLOCK, 2) join_runs(const runs r, T *y, const sum_t<T> *partial) {
    const int me = (int)threadIdx.x % r.width;
    const int64_t chunk = (int64_t)blockIdx.x * (BLOCK / r.width) + threadIdx.x / r.width,
                  column = ((int64_t)blockIdx.y * r.width + me) * N;
    if (chunk >= r.chunks - 1 || column >= r.columns) return;
    const int64_t begin = chunk * CHUNK, end = begin + CHUNK;
    const uint64_t key = r.key[end - 1];
    if (r.key[end] != key) return;
    if (begin > 0 && r.key[begin - 1] == key) return; /* it began earlier */
    y += (int64_t)blockIdx.z * r.targets * r.columns + column;
    partial += (int64_t)blockIdx.z * 2 * r.chunks * r.columns + column;
    sum_t<T> sum[N];
    for (int k = 0; k < N; k++) sum[k] = partial[(2 * chunk + 1) * r.columns + k];
    for (int64_t c = chunk + 1; c < r.chunks && r.key[c * CHUNK] == key; c++)
        for (int k = 0; k < N; k++) sum[k] = plus(sum[k], partial[2 * c * r.columns + k]);
    add_to<T, N>(y + (int64_t)key * r.columns, sum);
}

/* ---- Launching */

struct work {
    const bb_tensor *index; /* the list of keys */
    bb_lines beside;
    int64_t axis_stride, limit; /* of the index */
    int64_t outer;
    runs r;
};

template <typename T, int N>
bb_status add_sorted(bb_cuda *cuda, const work &w, runs r, const T *g, T *y, void *partial) {
    sum_t<T> *sums = static_cast<sum_t<T> *>(partial);
    r.width = 1;
    while (r.width < BLOCK && r.width * N < r.columns) r.width *= 2;
    const int64_t per_block = BLOCK / r.width, strips = (r.columns - 1) / (r.width * N) + 1;
    const dim3 grid((unsigned)((r.chunks + per_block - 1) / per_block), (unsigned)strips,
                    (unsigned)w.outer);
    bb_status status = BB_LAUNCH(cuda, (add_runs<T, N>), grid, BLOCK, 0, r, g, y, sums);
    if (!status && r.chunks > 1)
        status = BB_LAUNCH(cuda, (join_runs<T, N>), grid, BLOCK, 0, r, y,
                           static_cast<const sum_t<T> *>(sums));
    return status;
}

template <typename T>
bb_status add(bb_cuda *cuda, const bb_call *call, const work &w, const void *rows, bb_tensor *out) {
    enum { N = sizeof(T) == 1 ? 1 : bb_pack<T>::N };
    const T *g = static_cast<const T *>(rows);
    T *y = reinterpret_cast<T *>(out->data);
    runs r = w.r;
    r.chunks = (r.n + CHUNK - 1) / CHUNK;
    const size_t sort_bytes = bb_sort_bytes(r.n),
                 partial_bytes = (size_t)(w.outer * 2 * r.chunks * r.columns) * sizeof(sum_t<T>);
    bb_storage *scratch = bb_cuda_scratch(cuda, sort_bytes + partial_bytes);
    if (!scratch) return cuda->base.ctx->status;
    bb_sort sort = bb_sort_in(scratch->data, r.n);
    void *partial = static_cast<char *>(scratch->data) + sort_bytes;
    bb_status status =
        BB_LAUNCH(cuda, keys_kernel, bb_cuda_grid(cuda, r.n, BLOCK), BLOCK, 0,
                  bb_index_list_of(w.index), w.beside, w.axis_stride,
                  bb_cuda_guard(cuda, call->op, w.limit), r.n, sort.key[0], sort.value[0]);
    if (!status && out->count) status = bb_cuda_sort(cuda, &sort, (uint64_t)r.targets);
    r.key = sort.key[sort.current];
    r.position = sort.value[sort.current];
    if (!status && out->count)
        status = N > 1 && r.columns % bb_pack<T>::N == 0 && bb_aligned16(g) && bb_aligned16(y)
                     ? add_sorted<T, N>(cuda, w, r, g, y, partial)
                     : add_sorted<T, 1>(cuda, w, r, g, y, partial);
    bb_cuda_release(cuda, scratch);
    return status;
}

/* out holds what is added to. */
bb_status add_rows(bb_cuda *cuda, const bb_call *call, const work &w, const bb_tensor *source,
                   bb_tensor *out) {
    if (source->count == 0) return BB_OK;
    bb_storage *held;
    const void *g = bb_cuda_contiguous_data(cuda, source, &held);
    if (!g) return cuda->base.ctx->status;
    bb_status status = BB_OK;
    switch (out->dtype) {
    case BB_F64: status = add<double>(cuda, call, w, g, out); break;
    case BB_F32: status = add<float>(cuda, call, w, g, out); break;
    case BB_F16: status = add<bb_half>(cuda, call, w, g, out); break;
    case BB_BF16: status = add<bb_bfloat>(cuda, call, w, g, out); break;
    case BB_I64: status = add<int64_t>(cuda, call, w, g, out); break;
    case BB_I32: status = add<int32_t>(cuda, call, w, g, out); break;
    default: status = add<uint8_t>(cuda, call, w, g, out); break;
    }
    bb_cuda_release(cuda, held);
    return status;
}

/* Whether the index is a list along `axis` that was spread over the other axes, which have x's
 * sizes; and the outer ones fit a grid's third axis. */
bool is_list(const bb_tensor *index, const bb_tensor *x, int axis) {
    int64_t outer = 1;
    for (int a = 0; a < x->rank; a++) {
        if (a == axis) continue;
        if (index->size[a] != x->size[a] || (index->size[a] > 1 && index->stride[a] != 0))
            return false;
        if (a < axis) outer *= x->size[a];
    }
    return outer <= 65535;
}
bb_tensor list_of(const bb_tensor *index, int axis) {
    bb_tensor list = *index;
    list.rank = 1;
    list.count = list.size[0] = index->size[axis];
    list.stride[0] = index->stride[axis];
    return list;
}

} // namespace

bb_status bb_cuda_scatter_add(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    const bb_tensor *x = call->in[0], *index = call->in[1], *source = call->in[2];
    bb_tensor *out = call->out[0];
    int64_t axis = static_cast<const bb_axis_attrs *>(call->attrs)->axis;
    if (axis < 0) axis += x->rank;
    bb_status status = out->count ? bb_cuda_copy_elements(cuda, x, out) : BB_OK;
    if (status) return status;
    bb_tensor list = *index;
    work w = {};
    w.index = index;
    w.limit = x->size[axis];
    w.outer = 1;
    if (is_list(index, x, (int)axis)) {
        list = list_of(index, (int)axis);
        w.index = &list;
        w.axis_stride = 1;
        w.r.columns = 1;
        for (int a = 0; a < axis; a++) w.outer *= x->size[a];
        for (int a = (int)axis + 1; a < x->rank; a++) w.r.columns *= x->size[a];
        w.r.targets = x->size[axis];
    } else {
        w.beside = bb_lines_beside(index, out, (int)axis);
        w.axis_stride = out->stride[axis];
        w.r.columns = 1;
        w.r.targets = out->count;
    }
    w.r.n = w.index->count;
    return add_rows(cuda, call, w, source, out);
}

bb_status bb_cuda_embedding_backward(const bb_grad_call *grad) {
    bb_cuda *cuda = bb_cuda_begin(grad->call);
    bb_tensor *target = grad->grad_in[0];
    if (!target || target->count == 0) return BB_OK;
    bb_status status = bb_cuda_fill(&cuda->base, target, 0);
    cuda->op = grad->call->op->name;
    work w = {};
    w.index = grad->call->in[1];
    w.axis_stride = 1;
    w.limit = w.r.targets = target->size[0];
    w.outer = 1;
    w.r.columns = target->size[1];
    w.r.n = w.index->count;
    return status ? status : add_rows(cuda, grad->call, w, grad->grad_out[0], target);
}
