/* Copies, conversions, fills and additions on the device (copy.h), and the kernels of cast and
 * contiguous (ops/cast.c). Source read once, target written once: maps
 * (map.h), and tiles for transposes. Conversions are those of convert.h; a copy that converts
 * nothing moves bytes, whatever they mean. */
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

/* ---- Transposes. The target is contiguous along its innermost axis, the source along another one,
 * `across`. A block copies tiles of both axes through shared memory, so that both sides are touched
 * in whole sectors: 32 columns x 8 threads, four elements a thread; one column of padding keeps the
 * turned access off the same bank. */

enum { TILE = 32, TILE_ROWS = 8 };

struct transpose {
    bb_index<2> batch; /* what is left without the two axes; tensor 0: target, 1: source */
    int64_t rows, columns, row_tiles, column_tiles; /* rows: along `across` */
    int64_t target_row, source_column;              /* strides */
};

template <typename T>
__global__ void transpose_kernel(transpose w, int64_t tiles, T *target, const T *source) {
    BB_SHARED(T, tile, TILE * (TILE + 1));
    const int column = threadIdx.x % TILE, line = threadIdx.x / TILE;
    for (int64_t item = blockIdx.x; item < tiles; item += gridDim.x) {
        const int64_t c0 = item % w.column_tiles * TILE, left = item / w.column_tiles;
        const int64_t r0 = left % w.row_tiles * TILE;
        int64_t at[2];
        w.batch.offsets(left / w.row_tiles, at);
        for (int i = line; i < TILE; i += TILE_ROWS)
            if (r0 + column < w.rows && c0 + i < w.columns)
                tile[i * (TILE + 1) + column] =
                    source[at[1] + (c0 + i) * w.source_column + r0 + column];
        __syncthreads();
        for (int i = line; i < TILE; i += TILE_ROWS)
            if (r0 + i < w.rows && c0 + column < w.columns)
                target[at[0] + (r0 + i) * w.target_row + c0 + column] =
                    tile[column * (TILE + 1) + i];
        __syncthreads();
    }
}

/* Takes the two axes out of w; false: this copy is no transpose. */
bool is_transpose(bb_index<2> w, transpose *t) {
    int across = 1;
    if (w.stride[0][0] != 1 || w.stride[1][0] < 2) return false;
    while (across < w.rank && w.stride[1][across] != 1) across++;
    if (across == w.rank || w.size[0] < 8 || w.size[across] < 8) return false;
    *t = {};
    t->columns = w.size[0];
    t->rows = w.size[across];
    t->target_row = w.stride[0][across];
    t->source_column = w.stride[1][0];
    t->row_tiles = (t->rows + TILE - 1) / TILE;
    t->column_tiles = (t->columns + TILE - 1) / TILE;
    t->batch.width = t->batch.rank = 1;
    t->batch.size[0] = t->batch.count = 1;
    for (int a = 1, n = 0; a < w.rank; a++) {
        if (a == across) continue;
        t->batch.size[n] = w.size[a];
        t->batch.count *= w.size[a];
        for (int k = 0; k < 2; k++) t->batch.stride[k][n] = w.stride[k][a];
        t->batch.rank = ++n;
    }
    bb_index_set_dividers(&t->batch);
    return true;
}

template <typename T> bb_status move_as(bb_cuda *cuda, const bb_tensor *source, bb_tensor *target) {
    const bb_tensor *both[] = {target, source};
    transpose t;
    if (target->count == 0 || !is_transpose(bb_index_make<2>(both), &t))
        return bb_map<T, T>(cuda, same(), target, &source);
    const int64_t tiles = t.batch.count * t.row_tiles * t.column_tiles;
    return BB_LAUNCH(cuda, transpose_kernel<T>, bb_cuda_grid(cuda, tiles, 1), TILE * TILE_ROWS, 0,
                     t, tiles, reinterpret_cast<T *>(target->data),
                     reinterpret_cast<const T *>(source->data));
}

bb_status move(bb_cuda *cuda, const bb_tensor *source, bb_tensor *target) {
    switch (source->dtype) {
    case BB_F64:
    case BB_I64: return move_as<uint64_t>(cuda, source, target);
    case BB_F32:
    case BB_I32: return move_as<uint32_t>(cuda, source, target);
    case BB_F16:
    case BB_BF16: return move_as<uint16_t>(cuda, source, target);
    default: return move_as<uint8_t>(cuda, source, target);
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

const bb_tensor *bb_cuda_packed(bb_cuda *cuda, const bb_tensor *t, bb_tensor *copy,
                                bb_storage **held) {
    const void *data = bb_cuda_contiguous_data(cuda, t, held);
    if (!data || !*held) return data ? t : nullptr;
    *copy = *t;
    copy->data = static_cast<char *>((*held)->data);
    copy->contiguous = true;
    int64_t stride = 1;
    for (int axis = t->rank - 1; axis >= 0; axis--) {
        copy->stride[axis] = stride;
        stride *= t->size[axis];
    }
    return copy;
}

const bb_tensor *bb_cuda_straight(bb_cuda *cuda, const bb_tensor *t, bb_tensor *copy,
                                  bb_storage **held) {
    const int last = t->rank - 1;
    *held = nullptr;
    if (t->count < 4096 || t->contiguous || t->size[last] < 8 || t->stride[last] < 2) return t;
    return bb_cuda_packed(cuda, t, copy, held);
}

bb_status bb_cuda_cast(bb_call *call) {
    return bb_cuda_copy_elements(bb_cuda_begin(call), call->in[0], call->out[0]);
}
bb_status bb_cuda_contiguous(bb_call *call) {
    return bb_cuda_copy_elements(bb_cuda_begin(call), call->in[0], call->out[0]);
}
