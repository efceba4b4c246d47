/* RoPE, forward and backward (formula: ops/rope.c): pairs of a row turn by angle(t, i), or back.
 *
 * A thread owns the same N pairs of position t in many matrices (T, D): it computes their sines and
 * cosines once, in f64, keeps them in registers, and goes through its share of the batch. So there
 * is no table to write and read, and one launch. Blocks along x cover (t, pairs), blocks along y
 * share the batch; there are as many of these as fill the device, and no more, because each one
 * computes the angles again. Bytes moved: x once, y once. A pair is (i, i + dims/2) or,
 * interleaved, (2i, 2i + 1); either way a thread loads two runs of N elements, 8 bytes each of f16
 * and bf16, 16 of f32 and f64. What lies past dims is copied, N elements an item, by threads of the
 * same grid. */
#include "backends/cuda/copy.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/map.h"

namespace {

enum { BLOCK = 128, THREADS_PER_SM = 512 };

struct rotation {
    bb_index<2> batch;         /* all axes but the last two; tensor 0: y, 1: x */
    int64_t rows, half, items; /* T; dims / 2; items of N pairs or N copied elements in a row */
    int64_t x_row, y_row;      /* strides of t */
    double log_step, scale;    /* log_step: the logarithm of base^(-2 / dims) */
    int64_t offset;
    int direction;
};

/* The pairs of an item are elements (k, N + k) of its two runs, or (2k, 2k + 1) of both in a row.
 */
template <int N, bool INTERLEAVED, typename T>
__device__ inline void turn(const bb_real<T> *cosine, const bb_real<T> *sine, const T *from, T *to,
                            int64_t second) {
    typedef bb_real<T> R;
    bb_vector<T, N> low = bb_load_vector<N>(from), high = bb_load_vector<N>(from + second);
    R v[2 * N];
    for (int k = 0; k < N; k++) v[k] = widen(low.v[k]), v[N + k] = widen(high.v[k]);
#pragma unroll
    for (int k = 0; k < N; k++) {
        const int one = INTERLEAVED ? 2 * k : k, other = INTERLEAVED ? one + 1 : N + k;
        const R a = v[one], b = v[other];
        v[one] = a * cosine[k] - b * sine[k];
        v[other] = b * cosine[k] + a * sine[k];
    }
    for (int k = 0; k < N; k++) low.v[k] = narrow<T>(v[k]), high.v[k] = narrow<T>(v[N + k]);
    bb_store_vector(to, low);
    bb_store_vector(to + second, high);
}

template <int N, bool INTERLEAVED, typename T>
__global__ void rope_kernel(rotation w, T *__restrict__ y, const T *__restrict__ x) {
    const int64_t id = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, t = id / w.items;
    const int64_t pair = id % w.items * N;
    bb_real<T> cosine[N], sine[N];
    if (t >= w.rows) return;
    const bool turns = pair < w.half;
    const int64_t first = INTERLEAVED && turns ? 2 * pair : turns ? pair : w.half + pair;
    const int64_t second = INTERLEAVED ? N : w.half;
    for (int k = 0; k < N && turns; k++) {
        const double frequency = exp(w.log_step * (double)(pair + k));
        const double angle = w.scale * (double)(w.offset + t) * frequency;
        cosine[k] = (bb_real<T>)cos(angle);
        sine[k] = (bb_real<T>)(w.direction * sin(angle));
    }
#pragma unroll 4
    for (int64_t b = blockIdx.y; b < w.batch.count; b += gridDim.y) {
        int64_t at[2];
        w.batch.offsets(b, at);
        const T *from = x + at[1] + t * w.x_row + first;
        T *to = y + at[0] + t * w.y_row + first;
        if (turns)
            turn<N, INTERLEAVED>(cosine, sine, from, to, second);
        else
            bb_store_vector(to, bb_load_vector<N>(from));
    }
}

/* ---- Launching. x's last axis is contiguous. */

bb_tensor leading_axes(const bb_tensor *t) {
    bb_tensor h = *t;
    h.rank = (uint8_t)(t->rank - 2);
    h.count = 1;
    for (int a = 0; a < h.rank; a++) h.count *= h.size[a];
    return h;
}

bool runs_of(int n, const rotation &w, int64_t width, const void *x, const void *y, int bytes) {
    if (((uintptr_t)x | (uintptr_t)y) % (uintptr_t)(n * bytes)) return false;
    if (w.half % n || width % n || w.x_row % n || w.y_row % n) return false;
    for (int a = 0; a < w.batch.rank; a++)
        if (w.batch.stride[0][a] % n || w.batch.stride[1][a] % n) return false;
    return true;
}

template <int N, typename T>
bb_status launch(bb_cuda *cuda, rotation w, int64_t width, bool interleaved, T *y, const T *x) {
    w.items = w.half / N + (width - 2 * w.half) / N;
    const int64_t threads = w.rows * w.items;
    const unsigned block = bb_cuda_block(threads, BLOCK);
    const int64_t blocks = (threads + block - 1) / block;
    int64_t shares = (int64_t)cuda->info.multiprocessors * THREADS_PER_SM / (blocks * block);
    if (shares > w.batch.count) shares = w.batch.count;
    if (shares > 65535) shares = 65535;
    const dim3 grid((unsigned)blocks, shares < 1 ? 1u : (unsigned)shares);
    if (interleaved) return BB_LAUNCH(cuda, (rope_kernel<N, true, T>), grid, block, 0, w, y, x);
    return BB_LAUNCH(cuda, (rope_kernel<N, false, T>), grid, block, 0, w, y, x);
}

bb_status rotate(const bb_call *call, const bb_tensor *x, int direction, bb_tensor *y) {
    const bb_rope_attrs *a = static_cast<const bb_rope_attrs *>(call->attrs);
    bb_cuda *cuda = bb_cuda_begin(call);
    const int64_t width = y->size[y->rank - 1];
    const bb_tensor leading[] = {leading_axes(y), leading_axes(x)};
    const bb_tensor *both[] = {&leading[0], &leading[1]};
    rotation w = {};
    bb_status status = BB_OK;
    w.batch = bb_index_make<2>(both);
    w.rows = x->size[x->rank - 2];
    w.x_row = x->stride[x->rank - 2];
    w.y_row = width;
    w.half = (a->dims ? a->dims : width) / 2;
    w.log_step = -log(a->base) / (double)w.half;
    w.scale = a->scale;
    w.offset = a->offset;
    w.direction = direction;
    bb_float_dtype(y->dtype, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        enum { N = sizeof(T) == 8 ? 2 : 4 };
        T *to = reinterpret_cast<T *>(y->data);
        const T *from = reinterpret_cast<const T *>(x->data);
        if (runs_of(N, w, width, from, to, sizeof(T)))
            status = launch<N>(cuda, w, width, a->interleaved, to, from);
        else
            status = launch<1>(cuda, w, width, a->interleaved, to, from);
    });
    return status;
}

bb_status run(const bb_call *call, const bb_tensor *x, int direction, bb_tensor *y) {
    bb_tensor copy;
    bb_storage *held = nullptr;
    bb_cuda *cuda = bb_cuda_begin(call);
    if (y->count == 0) return BB_OK;
    if (x->stride[x->rank - 1] != 1) x = bb_cuda_packed(cuda, x, &copy, &held);
    if (!x) return call->ctx->status;
    const bb_status status = rotate(call, x, direction, y);
    bb_cuda_release(cuda, held);
    return status;
}

} // namespace

bb_status bb_cuda_rope(bb_call *call) { return run(call, call->in[0], 1, call->out[0]); }

bb_status bb_cuda_rope_backward(const bb_grad_call *grad) {
    if (!grad->grad_in[0]) return BB_OK;
    return run(grad->call, grad->grad_out[0], -1, grad->grad_in[0]);
}
