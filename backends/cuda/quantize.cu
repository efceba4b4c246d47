/* Quantize and RMSNormQuantize (rules: ops/quantize.c, ops/rms_norm_quantize.c), and update_scale_.
 *
 *     rows only              rows_kernel (quantize_rows.h): x is read once and the bytes written
 *                            once, a norm in front included
 *     columns, squares       tiles_kernel (quantize_tiles.h), after rows_kernel has left rstd
 *     fp8_current, nvfp4     need the tensor's amax first: rows_kernel measures, x is read again
 *
 * The scale of fp8_delayed and the amax of the others are read on the device, so a captured step
 * replays with new ones. */
#include "backends/cuda/quantize.h"

#include "backends/cuda/copy.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/quantize_rows.h"
#include "backends/cuda/quantize_tiles.h"

/* rows_kernel takes 16 bytes at a time where every row begins at a multiple of them. */
template <typename X> static bool packs(const bb_quantize_args &a) {
    const int64_t n = bb_pack<X>::N;
    if (a.width % n || (a.lines.step != 1 && a.width > 1) || !bb_aligned16(a.weight)) return false;
    if (!bb_aligned16(static_cast<const X *>(a.x))) return false;
    for (int k = 0; k < a.lines.axes; k++)
        if (a.lines.stride[k] % n) return false;
    return true;
}

/* A run within one warp, or one scale for all. */
static bool by_rows(const bb_quantize_args &a, int per_lane) {
    return !a.columns && !a.square && a.form.block / per_lane <= BB_WARP;
}

template <typename X, int W> static bb_status launch_rows(bb_cuda *cuda, bb_quantize_args a) {
    const int64_t vectors = a.width / W;
    const bool warps = vectors <= BB_WARP * QUANTIZE_HELD;
    const int threads = warps ? 128 : 256;
    a.team = warps ? BB_WARP : threads;
    const int64_t teams = threads / a.team, tiles = (a.rows + teams - 1) / teams;
    const int64_t most = (int64_t)bb_cuda_sms(cuda) * (1024 / threads);
    const int64_t grid = tiles < most ? tiles : most;
    return BB_LAUNCH(cuda, (rows_kernel<X, W>), (unsigned)(grid < 1 ? 1 : grid), threads, 0, a);
}

template <typename X> static bb_status launch_tiles(bb_cuda *cuda, const bb_quantize_args &a) {
    const int64_t height = tile_height(a), tiles = (a.rows + height - 1) / height *
                                                   ((a.width + TILE_WIDTH - 1) / TILE_WIDTH);
    const int64_t most = (int64_t)bb_cuda_sms(cuda) * 8, grid = tiles < most ? tiles : most;
    return BB_LAUNCH(cuda, (tiles_kernel<X>), (unsigned)(grid < 1 ? 1 : grid), TILE_THREADS, 0, a);
}

template <typename X> static bb_status launch(bb_cuda *cuda, bb_quantize_args a) {
    enum { W = bb_pack<X>::N };
    const bool whole = a.recipe == BB_FP8_CURRENT || a.recipe == BB_NVFP4, vector = packs<X>(a);
    const bool rows = by_rows(a, vector ? (int)W : 1);
    bb_status status = BB_OK;
    if (whole || (a.weight && !rows)) {
        bb_quantize_args first = a;
        first.measure = first.sum = true;
        if (!whole) first.amax = NULL;
        status = vector ? launch_rows<X, W>(cuda, first) : launch_rows<X, 1>(cuda, first);
    }
    if (status) return status;
    a.sum = rows && !whole;
    if (!rows) return launch_tiles<X>(cuda, a);
    return vector ? launch_rows<X, W>(cuda, a) : launch_rows<X, 1>(cuda, a);
}

static void *wanted(const bb_tensor *t, bool want) { return want ? t->data : NULL; }

static bb_quantize_args arguments(const bb_call *call, const bb_quantize_attrs *q,
                                  const bb_tensor *scale) {
    const bb_tensor *x = call->in[0];
    bb_quantize_args a = {};
    a.form = bb_recipe_forms[q->recipe];
    a.recipe = q->recipe;
    a.kind = a.form.packed ? (int)BB_CODE_E2M1 : q->format;
    a.x = x->data;
    a.lines = bb_lines_of(x, x->rank - 1);
    a.width = a.lines.n;
    a.rows = a.lines.count;
    a.round = q->recipe != BB_FP8_DELAYED;
    a.square = q->square && q->recipe == BB_FP8_BLOCK;
    a.rule.most = bb_fp8_most(q->format);
    a.rule.most_inv = 1.0f / a.rule.most;
    a.rule.amax_floor = (float)q->amax_floor;
    a.rule.power_of_two =
        q->scales == BB_SCALES_AUTO ? a.form.block != 0 : q->scales == BB_SCALES_POWER_OF_TWO;
    if (scale) a.scale = reinterpret_cast<const float *>(scale->data);
    a.data = wanted(call->out[0], q->rows);
    a.scale_inv = wanted(call->out[1], q->rows);
    a.columns = wanted(call->out[2], q->columns);
    a.columns_scale_inv = wanted(call->out[3], q->columns);
    a.amax = static_cast<int *>(wanted(call->out[4], a.form.measures));
    return a;
}

static bb_status run(bb_cuda *cuda, const bb_call *call, const bb_quantize_args &a) {
    if (a.amax) {
        const char *why = bb_runtime_set(cuda->runtime, a.amax, 0, sizeof *a.amax);
        if (why) return bb_cuda_fail(cuda, "clearing amax", why);
    }
    switch (call->in[0]->dtype) {
    case BB_F32: return launch<float>(cuda, a);
    case BB_F16: return launch<bb_half>(cuda, a);
    default: return launch<bb_bfloat>(cuda, a);
    }
}

bb_status bb_cuda_quantize(bb_call *call) {
    const bb_quantize_attrs *q = static_cast<const bb_quantize_attrs *>(call->attrs);
    bb_cuda *cuda = bb_cuda_begin(call);
    return run(cuda, call, arguments(call, q, call->in[1]));
}

bb_status bb_cuda_rms_norm_quantize(bb_call *call) {
    const bb_rms_norm_quantize_attrs *q =
        static_cast<const bb_rms_norm_quantize_attrs *>(call->attrs);
    bb_cuda *cuda = bb_cuda_begin(call);
    bb_storage *held;
    const void *weight = bb_cuda_contiguous_data(cuda, call->in[1], &held);
    if (!weight && call->in[1]->count) return call->ctx->status;
    bb_quantize_args a = arguments(call, &q->quantize, call->in[2]);
    a.weight = static_cast<const float *>(weight);
    a.rstd = reinterpret_cast<float *>(call->out[5]->data);
    a.eps = q->eps;
    const bb_status status = run(cuda, call, a);
    bb_cuda_release(cuda, held);
    return status;
}

/* ---- update_scale_ */

/* One block. The history moves up by one from its end, a block's length at a time. */
static __global__ void __launch_bounds__(256)
    update_kernel(float *scale, float *history, int64_t n, const float *amax, float most_by_margin,
                  bool most_recent) {
    BB_SHARED(int, slots, BB_WARP);
    const int now = bb_magnitude(*amax);
    if (now >= BB_F32_INFINITY) return;
    int most = now;
    const int64_t step = blockDim.x;
    for (int64_t first = (n - 1) / step * step; first >= 0; first -= step) {
        const int64_t i = first + threadIdx.x;
        const float value = i > 0 && i < n ? history[i - 1] : bb_fp8_float(now);
        __syncthreads();
        if (i < n) history[i] = value;
        if (i < n && !most_recent) most = max(most, bb_magnitude(value));
        __syncthreads();
    }
    most = bb_warp_most(most);
    if (threadIdx.x % BB_WARP == 0) slots[threadIdx.x / BB_WARP] = most;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < (int)blockDim.x / BB_WARP; w++) most = max(most, slots[w]);
    *scale = bb_delayed_scale(*scale, bb_fp8_float(most), most_by_margin);
}

bb_status bb_cuda_update_scale(bb_call *call) {
    const bb_update_scale_attrs *u = static_cast<const bb_update_scale_attrs *>(call->attrs);
    bb_cuda *cuda = bb_cuda_begin(call);
    const float most = ldexpf(bb_fp8_most(u->format), -(int)u->margin);
    float *scale = reinterpret_cast<float *>(call->in[0]->data),
          *history = reinterpret_cast<float *>(call->in[1]->data);
    const float *amax = reinterpret_cast<const float *>(call->in[2]->data);
    return BB_LAUNCH(cuda, update_kernel, 1, 256, 0, scale, history, call->in[1]->count, amax, most,
                     u->most_recent);
}
