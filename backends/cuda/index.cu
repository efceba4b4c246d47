/* Picking by index: gather, index_select and the forward of embedding. What adds by index is
 * scatter.cu.
 *
 *     gather                    y[i, j] = x[index[i, j], j]        a thread an element
 *     index_select, embedding   y[o, i, :] = x[o, index[i], :]     whole rows, as bytes
 *
 * Rows move in the widest pieces that addresses and the length of a row allow, up to 16 bytes,
 * whatever the dtype; up to 256 threads a row, several rows a block where they are short, strips of
 * long rows. Bytes moved: the rows picked and the output, once. An index out of range is left as a
 * fault (cuda.h), and zeros stand in its place. */
#include "backends/cuda/copy.h"
#include "backends/cuda/index_list.h"
#include "backends/cuda/kernels.h"

namespace {

enum { BLOCK = 256, STRIP_STEPS = 8 };

struct alignas(16) bytes16 {
    uint64_t v[2];
};

template <typename T>
__global__ void __launch_bounds__(BLOCK)
    gather_kernel(const bb_index_list index, const bb_lines beside, int64_t axis_stride,
                  const bb_guard guard, int64_t n, const T *x, T *y) {
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n; i += step) {
        const int64_t picked = index[i];
        y[i] = bb_in_range(guard, picked, i) ? x[beside.start(i) + picked * axis_stride] : T();
    }
}

template <typename T> bb_status gather(bb_cuda *cuda, bb_call *call, int axis) {
    const bb_tensor *x = call->in[0];
    bb_tensor *out = call->out[0];
    return BB_LAUNCH(cuda, (gather_kernel<T>), bb_cuda_grid(cuda, out->count, BLOCK), BLOCK, 0,
                     bb_index_list_of(call->in[1]), bb_lines_beside(call->in[1], x, axis),
                     x->stride[axis], bb_cuda_guard(cuda, call->op, x->size[axis]), out->count,
                     reinterpret_cast<const T *>(x->data), reinterpret_cast<T *>(out->data));
}

/* Rows of `units` pieces each: `count` of them for each of `outer`, out of `size`. */
struct rows {
    int64_t outer, count, size, units;
    int width; /* threads a row */
};

template <typename T>
__global__ void __launch_bounds__(BLOCK)
    pick_kernel(const rows r, const bb_index_list index, const bb_guard guard, const T *x, T *y) {
    const int me = (int)threadIdx.x % r.width;
    const int64_t row = (int64_t)blockIdx.x * (BLOCK / r.width) + threadIdx.x / r.width;
    if (row >= r.outer * r.count) return;
    const int64_t outer = row / r.count, at = row - outer * r.count, picked = index[at];
    const bool right = bb_in_range(guard, picked, at);
    const T *from = x + (outer * r.size + (right ? picked : 0)) * r.units;
    T *to = y + row * r.units;
    for (int64_t i = (int64_t)blockIdx.y * r.width + me; i < r.units;
         i += (int64_t)gridDim.y * r.width)
        to[i] = right ? from[i] : T();
}

template <typename T>
bb_status pick(bb_cuda *cuda, const bb_call *call, rows r, int64_t row_bytes, const void *x) {
    r.units = row_bytes / (int64_t)sizeof(T);
    r.width = 1;
    while (r.width < BLOCK && r.width < r.units) r.width *= 2;
    const int64_t per_block = BLOCK / r.width, strip = (int64_t)STRIP_STEPS * r.width;
    const dim3 grid((unsigned)((r.outer * r.count + per_block - 1) / per_block),
                    (unsigned)min((r.units + strip - 1) / strip, (int64_t)65535));
    return BB_LAUNCH(cuda, (pick_kernel<T>), grid, BLOCK, 0, r, bb_index_list_of(call->in[1]),
                     bb_cuda_guard(cuda, call->op, r.size), static_cast<const T *>(x),
                     reinterpret_cast<T *>(call->out[0]->data));
}

/* count: indices, which follow each other on the axis of the output. */
bb_status pick_along(bb_call *call, int axis, int64_t count) {
    static const unsigned char bytes_of[BB_DTYPE_COUNT] = {8, 4, 2, 2, 8, 4, 1, 1};
    bb_cuda *cuda = bb_cuda_begin(call);
    const bb_tensor *x = call->in[0];
    if (call->out[0]->count == 0) return BB_OK;
    bb_storage *held = NULL;
    const void *data = x->count ? bb_cuda_contiguous_data(cuda, x, &held) : call->out[0]->data;
    if (!data) return cuda->base.ctx->status;
    rows r = {1, count, x->size[axis], 0, 0};
    int64_t row_bytes = bytes_of[x->dtype];
    for (int a = 0; a < axis; a++) r.outer *= x->size[a];
    for (int a = axis + 1; a < x->rank; a++) row_bytes *= x->size[a];
    const uintptr_t all = (uintptr_t)data | (uintptr_t)call->out[0]->data | (uintptr_t)row_bytes;
    bb_status status;
    if (all % 16 == 0)
        status = pick<bytes16>(cuda, call, r, row_bytes, data);
    else if (all % 8 == 0)
        status = pick<uint64_t>(cuda, call, r, row_bytes, data);
    else if (all % 4 == 0)
        status = pick<uint32_t>(cuda, call, r, row_bytes, data);
    else if (all % 2 == 0)
        status = pick<uint16_t>(cuda, call, r, row_bytes, data);
    else
        status = pick<uint8_t>(cuda, call, r, row_bytes, data);
    bb_cuda_release(cuda, held);
    return status;
}

int axis_of(const bb_call *call) {
    const int64_t axis = static_cast<const bb_axis_attrs *>(call->attrs)->axis;
    return (int)(axis < 0 ? axis + call->in[0]->rank : axis);
}

} // namespace

bb_status bb_cuda_gather(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    if (call->out[0]->count == 0) return BB_OK;
    switch (call->in[0]->dtype) {
    case BB_F64:
    case BB_I64: return gather<uint64_t>(cuda, call, axis_of(call));
    case BB_F32:
    case BB_I32: return gather<uint32_t>(cuda, call, axis_of(call));
    case BB_F16:
    case BB_BF16: return gather<uint16_t>(cuda, call, axis_of(call));
    default: return gather<uint8_t>(cuda, call, axis_of(call));
    }
}

bb_status bb_cuda_index_select(bb_call *call) {
    return pick_along(call, axis_of(call), call->in[1]->count);
}
bb_status bb_cuda_embedding(bb_call *call) { return pick_along(call, 0, call->in[1]->count); }
