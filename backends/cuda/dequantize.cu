/* Dequantize (layouts: ops/quantize.c). The stored matrix is (P, Q). Where it is the result's,
 * a thread takes four neighbours of a row, or one where Q does not allow it; 1 byte read and 2
 * written an element for bf16. A transposed copy goes through tiles of 32 x 32 in shared memory, so
 * that both sides are walked along their rows. */
#include "backends/cuda/copy.h"
#include "backends/cuda/fp8.h"
#include "backends/cuda/kernels.h"

enum { SIDE = 32, TURN_ROWS = 8 };

struct dequantize_args {
    const uint8_t *data;
    const void *scale;
    const float *amax; /* nvfp4's */
    void *y;
    bb_recipe_form form;
    int64_t rows, columns; /* P, Q */
    int kind;
    bool square, down; /* squares; runs along P */
    template <typename F> void each_pointer(F &&f) const {
        f(data);
        f(scale);
        f(amax);
        f(y);
    }
};

static __device__ inline float whole_inv(const dequantize_args &a) {
    return a.amax ? bb_nvfp4_whole_inv(*a.amax) : 1.0f;
}

/* What stored element (row, column) stands for. */
static __device__ inline float value_at(const dequantize_args &a, float whole, int64_t row,
                                        int64_t column) {
    const int64_t block = a.form.block, i = row * a.columns + column;
    const uint8_t code = a.form.packed ? (uint8_t)(a.data[i / 2] >> (i % 2 * 4) & 15) : a.data[i];
    int64_t s = 0;
    if (block && a.down)
        s = row / block * a.columns + column;
    else if (block)
        s = (a.square ? row / block : row) * ((a.columns + block - 1) / block) + column / block;
    float factor;
    if (a.form.scale_dtype == BB_F32)
        factor = static_cast<const float *>(a.scale)[s];
    else if (a.form.packed)
        factor = bb_e4m3_to_f32(static_cast<const uint8_t *>(a.scale)[s]) * whole;
    else
        factor = bb_e8m0_to_f32(static_cast<const uint8_t *>(a.scale)[s]);
    return bb_decode(a.kind, code) * factor;
}

template <typename Y, int W> struct alignas(sizeof(Y) * W) neighbours { Y v[W]; };

template <typename Y, int W> static __global__ void plain_kernel(dequantize_args a) {
    const int64_t count = a.rows * a.columns / W, step = (int64_t)gridDim.x * blockDim.x;
    const float whole = whole_inv(a);
    neighbours<Y, W> *y = static_cast<neighbours<Y, W> *>(a.y);
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < count; i += step) {
        const int64_t row = i * W / a.columns, column = i * W - row * a.columns;
        neighbours<Y, W> out;
#pragma unroll
        for (int k = 0; k < W; k++) out.v[k] = narrow<Y>(value_at(a, whole, row, column + k));
        y[i] = out;
    }
}

template <typename Y> static __global__ void turn_kernel(dequantize_args a) {
    BB_SHARED(float, tile, SIDE *(SIDE + 1));
    const int64_t across = (a.columns + SIDE - 1) / SIDE,
                  tiles = (a.rows + SIDE - 1) / SIDE * across;
    const float whole = whole_inv(a);
    for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
        const int64_t p = t / across * SIDE, q = t % across * SIDE;
        for (int i = threadIdx.y; i < SIDE; i += TURN_ROWS)
            if (p + i < a.rows && q + threadIdx.x < a.columns)
                tile[i * (SIDE + 1) + threadIdx.x] = value_at(a, whole, p + i, q + threadIdx.x);
        __syncthreads();
        for (int i = threadIdx.y; i < SIDE; i += TURN_ROWS)
            if (q + i < a.columns && p + threadIdx.x < a.rows)
                static_cast<Y *>(a.y)[(q + i) * a.rows + p + threadIdx.x] =
                    narrow<Y>(tile[threadIdx.x * (SIDE + 1) + i]);
        __syncthreads();
    }
}

template <typename Y>
static bb_status launch(bb_cuda *cuda, const dequantize_args &a, bool turned) {
    const int64_t count = a.rows * a.columns;
    if (turned) {
        const int64_t tiles = (a.rows + SIDE - 1) / SIDE * ((a.columns + SIDE - 1) / SIDE);
        return BB_LAUNCH(cuda, turn_kernel<Y>, bb_cuda_grid(cuda, tiles, 1), dim3(SIDE, TURN_ROWS),
                         0, a);
    }
    if (a.columns % 4 == 0)
        return BB_LAUNCH(cuda, (plain_kernel<Y, 4>), bb_cuda_grid(cuda, count / 4, 256), 256, 0, a);
    return BB_LAUNCH(cuda, (plain_kernel<Y, 1>), bb_cuda_grid(cuda, count, 256), 256, 0, a);
}

static bb_status run(bb_cuda *cuda, const bb_call *call, const void *data, const void *scale) {
    const bb_dequantize_attrs *d = static_cast<const bb_dequantize_attrs *>(call->attrs);
    const bb_tensor *stored = call->in[0];
    dequantize_args a = {};
    a.form = bb_recipe_forms[d->recipe];
    a.data = static_cast<const uint8_t *>(data);
    a.scale = scale;
    if (call->in[2]) a.amax = reinterpret_cast<const float *>(call->in[2]->data);
    a.y = call->out[0]->data;
    a.columns = stored->size[stored->rank - 1] * (a.form.packed ? 2 : 1);
    a.rows = call->out[0]->count / a.columns;
    a.kind = a.form.packed ? (int)BB_CODE_E2M1 : d->format;
    a.square = d->square && d->recipe == BB_FP8_BLOCK;
    a.down = d->columns && !a.form.transposed;
    const bool turned = d->columns && a.form.transposed;
    switch (call->out[0]->dtype) {
    case BB_F32: return launch<float>(cuda, a, turned);
    case BB_F16: return launch<bb_half>(cuda, a, turned);
    default: return launch<bb_bfloat>(cuda, a, turned);
    }
}

bb_status bb_cuda_dequantize(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    if (call->out[0]->count == 0) return BB_OK;
    bb_storage *held[2] = {NULL, NULL};
    const void *data = bb_cuda_contiguous_data(cuda, call->in[0], &held[0]);
    const void *scale = data ? bb_cuda_contiguous_data(cuda, call->in[1], &held[1]) : NULL;
    const bb_status status = scale ? run(cuda, call, data, scale) : call->ctx->status;
    bb_cuda_release(cuda, held[0]);
    bb_cuda_release(cuda, held[1]);
    return status;
}
