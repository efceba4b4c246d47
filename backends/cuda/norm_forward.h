/* Forward kernels of the norms, templates for rms_norm_forward.cu and layer_norm.cu.
 *
 *     RMSNorm     y = x rstd g               rstd = 1 / sqrt(mean(x^2) + eps)
 *     LayerNorm   y = (x - mean) rstd g + b  rstd = 1 / sqrt(mean((x - mean)^2) + eps)
 *
 * with x + more in place of x where there is something to add, which is written as well.
 *
 * held_kernel reads a row once, 16 bytes a lane; its raw bits stay in registers until it is
 * written: 2 D s bytes a row, 4 D s with an addition. By V, the vectors of 16 bytes in a row:
 *
 * - V <= 8, 16, 32: 8, 16, 32 lanes a row. Each group of lanes has 4 rows under way at once, so a
 *   lane has 64 bytes in flight although the row is short.
 * - V <= 64, 128: a warp a row, 2 or 4 vectors a lane. No barrier so far.
 * - V <= 1024: V/4 threads a row, 4 vectors each, one barrier (LayerNorm: two).
 * - V <= 2048: V/8 threads, 8 vectors, which are 32 registers of raw bits; not with an addition.
 *
 * gamma comes from L1 or L2: before the sum is known where a lane's share is 32 bytes, else after
 * it, because registers are better spent on more blocks, whose rows are then under way. Longer
 * rows, and rows that cannot be read 16 bytes at a time, are row_kernel's. It keeps long rows in
 * shared memory, as far as they fit (to 114,000 elements of 16 bits on H100 and H200), and reads
 * the rest again: from its end, which was read last and is still in L2.
 */
#ifndef BOBBIN_BACKENDS_CUDA_NORM_FORWARD_H
#define BOBBIN_BACKENDS_CUDA_NORM_FORWARD_H

#include "backends/cuda/norm.h"

/* What W elements of a row become. */
template <bool CENTRED, typename X, typename Y, typename S, int W>
static __device__ inline bb_span<Y, W> norm_apply(const bb_span<X, W> &x, const bb_span<S, W> &g,
                                                  const bb_span<S, W> &b, bb_real<X> mean,
                                                  bb_real<X> rstd, bool round_first) {
    bb_real<X> y[W];
#pragma unroll
    for (int k = 0; k < W; k++) {
        bb_real<X> xhat = (CENTRED ? x.get(k) - mean : x.get(k)) * rstd;
        if (round_first) xhat = widen(narrow<X>(xhat));
        y[k] = xhat * g.get(k);
        if (CENTRED) y[k] += b.get(k);
    }
    return bb_span<Y, W>::of(y);
}

/* Scale and bias of W columns from column i on. */
template <bool CENTRED, int W, typename S>
static __device__ inline void norm_affine(const bb_norm_args &a, int64_t i, bb_span<S, W> *g,
                                          bb_span<S, W> *b) {
    const S *scale = static_cast<const S *>(a.scale), *bias = static_cast<const S *>(a.bias);
    if constexpr (CENTRED) {
        *g = scale ? bb_span_load<W>(scale + i) : bb_span_of<S, W>(1);
        *b = bias ? bb_span_load<W>(bias + i) : bb_span_of<S, W>(0);
    } else {
        *g = bb_span_load<W>(scale + i);
        *b = *g; /* nobody reads it */
    }
}

/* Sum over the `lanes` threads of a warp that share a row, or over the block (lanes > 32).
 * `slots`: 32 values that no earlier sum still uses. */
template <typename R> static __device__ inline R norm_team_sum(R x, int lanes, R *slots) {
    return lanes <= BB_WARP ? bb_warp_sum(x, lanes) : bb_block_sum(x, slots);
}

/* ---- Rows that stay in registers */

enum { NORM_ADD_VECTORS = 4 }; /* more registers than these are not there for an addition */

/* ROWS rows of one team, VECTORS vectors of each a lane: vector v of lane l is v lanes + l. */
template <typename X, int ROWS, int VECTORS> struct norm_rows {
    enum { W = bb_pack<X>::N };
    bb_span<X, W> x[ROWS][VECTORS];
    int64_t order[ROWS]; /* -1: there is no such row */
    bb_real<X> mean[ROWS], rstd[ROWS];
};

template <bool CENTRED, typename X, int ROWS, int VECTORS>
static __device__ inline void norm_load(const bb_norm_args &a, int64_t group, int64_t first,
                                        int teams, int lanes, int lane,
                                        norm_rows<X, ROWS, VECTORS> *r) {
    enum { W = bb_pack<X>::N };
    const int vectors = (int)(a.rows.n / W);
#pragma unroll
    for (int u = 0; u < ROWS; u++) {
        const int64_t row = first + u * teams;
        r->order[u] = -1, r->mean[u] = 0;
        if (row >= a.rows.rows) continue;
        const bb_row_at at = bb_rows_at(a.rows, group, row);
        const X *x = static_cast<const X *>(a.x) + at.of[BB_ROWS_X];
        r->order[u] = at.of[BB_ROWS_ORDER];
        if (CENTRED) r->mean[u] = widen(x[0]);
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            const int k = v * lanes + lane;
            if (k < vectors) r->x[u][v] = bb_span_load<W>(x + k * W);
        }
        if (VECTORS > NORM_ADD_VECTORS || !a.more) continue;
        const X *more = static_cast<const X *>(a.more) + at.of[BB_ROWS_MORE];
        X *sum = static_cast<X *>(a.sum) + r->order[u] * a.rows.n;
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            const int k = v * lanes + lane;
            if (k >= vectors) continue;
            r->x[u][v] = bb_span_add(r->x[u][v], bb_span_load<W>(more + k * W));
            bb_span_store(sum + k * W, r->x[u][v]);
        }
    }
}

/* The statistics. The mean is summed as differences from the row's first element (in mean[] until
 * then): rows far from zero keep their digits. slots: 2 x 32 values. */
template <bool CENTRED, typename X, int ROWS, int VECTORS>
static __device__ inline void norm_statistics(const bb_norm_args &a, int lanes, int lane,
                                              bb_real<X> *slots, norm_rows<X, ROWS, VECTORS> *r) {
    typedef bb_real<X> R;
    enum { W = bb_pack<X>::N };
    const int vectors = (int)(a.rows.n / W);
    if (CENTRED) {
#pragma unroll
        for (int u = 0; u < ROWS; u++) {
            R sum = 0;
#pragma unroll
            for (int v = 0; v < VECTORS; v++)
                if (r->order[u] >= 0 && v * lanes + lane < vectors)
#pragma unroll
                    for (int k = 0; k < W; k++) sum += r->x[u][v].get(k) - r->mean[u];
            r->mean[u] += norm_team_sum(sum, lanes, slots) / (R)a.rows.n;
        }
    }
#pragma unroll
    for (int u = 0; u < ROWS; u++) {
        R squares[2] = {0, 0}; /* two chains of additions */
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            if (r->order[u] >= 0 && v * lanes + lane < vectors)
#pragma unroll
                for (int k = 0; k < W; k++) {
                    const R d = r->x[u][v].get(k) - (CENTRED ? r->mean[u] : (R)0);
                    squares[k & 1] += d * d;
                }
        r->rstd[u] = squares[0] + squares[1];
    }
#pragma unroll
    for (int u = 0; u < ROWS; u++)
        r->rstd[u] =
            bb_norm_rstd(norm_team_sum(r->rstd[u], lanes, slots + BB_WARP), a.rows.n, a.eps);
}

/* LANES threads a row; 0: the whole block. */
template <bool CENTRED, typename X, typename S, int LANES, int VECTORS, int ROWS, int THREADS,
          int BLOCKS>
static __global__ void __launch_bounds__(THREADS, BLOCKS) held_kernel(bb_norm_args a) {
    typedef bb_real<X> R;
    enum { W = bb_pack<X>::N, EARLY = VECTORS * W * sizeof(S) <= 32 };
    BB_SHARED(R, slots, 4 * BB_WARP); /* of this tile and the one before */
    const int lanes = LANES ? LANES : (int)blockDim.x, teams = (int)blockDim.x / lanes;
    const int lane = (int)threadIdx.x % lanes, team = (int)threadIdx.x / lanes;
    const int vectors = (int)(a.rows.n / W);
    const int64_t tiles = a.rows.groups * a.tiles;
    int turn = 0;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x, turn ^= 2) {
        const int64_t group = tile / a.tiles;
        norm_rows<X, ROWS, VECTORS> r;
        bb_span<S, W> g[VECTORS], b[VECTORS];
        norm_load<CENTRED>(a, group, (tile - group * a.tiles) * (teams * ROWS) + team, teams, lanes,
                           lane, &r);
        if (EARLY) {
#pragma unroll
            for (int v = 0; v < VECTORS; v++)
                if (v * lanes + lane < vectors)
                    norm_affine<CENTRED, W>(a, group * a.rows.n + (v * lanes + lane) * W, &g[v],
                                            &b[v]);
        }
        norm_statistics<CENTRED>(a, lanes, lane, slots + turn * BB_WARP, &r);
#pragma unroll
        for (int u = 0; u < ROWS; u++) {
            if (r.order[u] < 0) continue;
            if (lane == 0) {
                if (a.rstd) static_cast<R *>(a.rstd)[r.order[u]] = r.rstd[u];
                if (CENTRED && a.mean) static_cast<R *>(a.mean)[r.order[u]] = r.mean[u];
            }
            X *y = static_cast<X *>(a.y) + r.order[u] * a.rows.n;
#pragma unroll
            for (int v = 0; v < VECTORS; v++) {
                const int k = v * lanes + lane;
                if (k >= vectors) continue;
                if (!EARLY) norm_affine<CENTRED, W>(a, group * a.rows.n + k * W, &g[v], &b[v]);
                bb_span_store(y + k * W, norm_apply<CENTRED, X, X>(r.x[u][v], g[v], b[v], r.mean[u],
                                                                   r.rstd[u], a.round_first));
            }
        }
    }
}

/* ---- Any row */

/* Vectors begin, begin + lanes, ... of a row, BATCH of them for a lane, so that as many loads are
 * under way at once; vectors below `held` come from `head`. */
enum { NORM_BATCH = 4 };
template <int W, typename X>
static __device__ inline void norm_batch(const X *row, const X *head, int64_t held, int64_t begin,
                                         int lanes, int64_t vectors, bb_span<X, W> x[NORM_BATCH]) {
#pragma unroll
    for (int i = 0; i < NORM_BATCH; i++) {
        const int64_t k = begin + i * lanes;
        if (k < vectors) x[i] = bb_span_load<W>((k < held ? head : row) + k * W);
    }
}

/* W elements at a time, a warp or a block a row (a.team threads). A row is read again to be written
 * (LayerNorm: and once more in between), but for its first a.held vectors, which stay in shared
 * memory. Each thread reads back only what it wrote itself. */
template <bool CENTRED, typename X, typename Y, int W>
static __global__ void __launch_bounds__(1024, 1) row_kernel(bb_norm_args a) {
    typedef bb_real<X> R;
    BB_SHARED(R, slots, 4 * BB_WARP);
    BB_DYNAMIC_SHARED(X, head);
    const int lanes = a.team, teams = (int)blockDim.x / lanes;
    const int lane = (int)threadIdx.x % lanes, team = (int)threadIdx.x / lanes;
    const int64_t n = a.rows.n, vectors = n / W, tiles = a.rows.groups * a.tiles;
    const int step = NORM_BATCH * lanes;
    bb_span<X, W> x[NORM_BATCH];
    int turn = 0;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x, turn ^= 2) {
        const int64_t group = tile / a.tiles, row = (tile - group * a.tiles) * teams + team;
        const bool live = row < a.rows.rows; /* the same for a whole team */
        const bb_row_at at = bb_rows_at(a.rows, group, live ? row : 0);
        const int64_t order = at.of[BB_ROWS_ORDER];
        const X *from = static_cast<const X *>(a.x) + at.of[BB_ROWS_X];
        const R shift = CENTRED ? widen(from[0]) : (R)0;
        R sum = 0, squares = 0, mean = 0;
        for (int64_t begin = lane; live && begin < vectors; begin += step) {
            norm_batch<W>(from, head, 0, begin, lanes, vectors, x);
#pragma unroll
            for (int i = 0; i < NORM_BATCH; i++) {
                const int64_t k = begin + i * lanes;
                if (k >= vectors) continue;
                if (a.more) {
                    const X *more = static_cast<const X *>(a.more) + at.of[BB_ROWS_MORE];
                    x[i] = bb_span_add(x[i], bb_span_load<W>(more + k * W));
                    bb_span_store(static_cast<X *>(a.sum) + order * n + k * W, x[i]);
                }
                if (k < a.held) bb_span_store(head + k * W, x[i]);
#pragma unroll
                for (int e = 0; e < W; e++) {
                    const R value = x[i].get(e);
                    sum += value - shift;
                    squares += value * value;
                }
            }
        }
        if (a.more) from = static_cast<const X *>(a.sum) + order * n;
        if (CENTRED) {
            mean = shift + norm_team_sum(sum, lanes, slots + turn * BB_WARP) / (R)n;
            squares = 0;
            for (int64_t begin = lane; live && begin < vectors; begin += step) {
                norm_batch<W>(from, head, a.held, begin, lanes, vectors, x);
#pragma unroll
                for (int i = 0; i < NORM_BATCH; i++)
                    for (int e = 0; e < W && begin + i * lanes < vectors; e++)
                        squares += (x[i].get(e) - mean) * (x[i].get(e) - mean);
            }
        }
        const R rstd =
            bb_norm_rstd(norm_team_sum(squares, lanes, slots + (turn + 1) * BB_WARP), n, a.eps);
        if (!live) continue;
        if (lane == 0) {
            if (a.rstd) static_cast<R *>(a.rstd)[order] = rstd;
            if (CENTRED && a.mean) static_cast<R *>(a.mean)[order] = mean;
        }
        for (int64_t begin = (vectors - 1) / step * step + lane; begin >= 0; begin -= step) {
            norm_batch<W>(from, head, a.held, begin, lanes, vectors, x);
#pragma unroll
            for (int i = 0; i < NORM_BATCH; i++) {
                const int64_t k = begin + i * lanes;
                if (k >= vectors) continue;
                bb_span<R, W> g, b;
                norm_affine<CENTRED, W>(a, group * n + k * W, &g, &b);
                bb_span_store(static_cast<Y *>(a.y) + order * n + k * W,
                              norm_apply<CENTRED, X, Y>(x[i], g, b, mean, rstd, a.round_first));
            }
        }
    }
}

/* ---- On the host */

/* A block per tile, as many as there are; with a margin, or where blocks should keep their gamma,
 * what the multiprocessors that may be used hold at once, and each block takes several. `resident`:
 * blocks of a multiprocessor. */
static inline unsigned norm_grid(const bb_cuda *cuda, const bb_norm_args *a, int resident,
                                 bool persistent) {
    int64_t tiles = a->rows.groups * a->tiles, most = 0x7fffffff;
    if (persistent || cuda->base.ctx->sm_margin > 0) most = (int64_t)bb_cuda_sms(cuda) * resident;
    return (unsigned)(tiles < most ? tiles : most);
}

/* BLOCKS of THREADS share a multiprocessor. */
template <bool CENTRED, typename X, typename S, int LANES, int VECTORS, int ROWS, int THREADS,
          int BLOCKS>
static bb_status launch_held(bb_cuda *cuda, bb_norm_plan *plan) {
    bb_norm_args *a = &plan->args;
    const int warps = (int)((plan->vectors + VECTORS * BB_WARP - 1) / (VECTORS * BB_WARP));
    const int threads = LANES ? THREADS : warps * BB_WARP;
    const int rows = (LANES ? THREADS / (LANES ? LANES : 1) : 1) * ROWS;
    a->tiles = (a->rows.rows + rows - 1) / rows;
    return BB_LAUNCH(cuda, (held_kernel<CENTRED, X, S, LANES, VECTORS, ROWS, THREADS, BLOCKS>),
                     norm_grid(cuda, a, BLOCKS * THREADS / threads, ROWS > 1), threads, 0, *a);
}

/* The vectors of the longest row that registers hold. */
static inline int64_t norm_held_vectors(const bb_norm_pass *pass) {
    return pass->more ? 1024 : 2048;
}

template <bool CENTRED, typename X, typename S>
static bb_status held_forward(bb_cuda *cuda, bb_norm_plan *plan) {
    const int64_t v = plan->vectors;
    if constexpr (!CENTRED) {
        if (v <= 8) return launch_held<CENTRED, X, S, 8, 1, 4, 128, 7>(cuda, plan);
        if (v <= 16) return launch_held<CENTRED, X, S, 16, 1, 4, 128, 7>(cuda, plan);
        if (v <= 32) return launch_held<CENTRED, X, S, 32, 1, 4, 128, 7>(cuda, plan);
        if (v <= 64) return launch_held<CENTRED, X, S, 32, 2, 2, 128, 7>(cuda, plan);
    }
    if (v <= 128) return launch_held<CENTRED, X, S, 32, 4, 1, 128, 8>(cuda, plan);
    if (v <= 1024) return launch_held<CENTRED, X, S, 0, 4, 1, 256, 4>(cuda, plan);
    return launch_held<CENTRED, X, S, 0, 8, 1, 256, 3>(cuda, plan);
}

/* The scale is of R here. */
template <bool CENTRED, typename X, typename Y, int W>
static bb_status row_forward(bb_cuda *cuda, bb_norm_plan *plan) {
    bb_norm_args *a = &plan->args;
    const int64_t vectors = a->rows.n / W;
    const bool warps = vectors <= 1024; /* 32 of a lane */
    int threads = 128, resident;
    while (!warps && threads < 1024 && threads * 8 < vectors) threads *= 2;
    a->team = warps ? BB_WARP : threads;
    const int rows = threads / a->team;
    a->tiles = (a->rows.rows + rows - 1) / rows;
    resident = 1024 / threads;
    size_t shared = 16;
    if (W > 1 && !warps) {
        const size_t room = cuda->info.shared_bytes - 4096;
        a->held = vectors < (int64_t)(room / 16) ? vectors : (int64_t)(room / 16);
        shared = (size_t)a->held * 16;
        if ((size_t)resident > room / shared) resident = (int)(room / shared);
    }
    return BB_LAUNCH(cuda, (row_kernel<CENTRED, X, Y, W>), norm_grid(cuda, a, resident, false),
                     threads, shared, *a);
}

/* y is of x's type, or f32 where a narrow x meets a scale that widens it. */
template <bool CENTRED, typename X>
static bb_status norm_forward_of(bb_cuda *cuda, const bb_norm_pass *pass) {
    enum { W = bb_pack<X>::N };
    const bool wide_y = pass->y->dtype != pass->x->dtype;
    const bool held =
        sizeof(X) < 8 && !wide_y && pass->x->size[pass->x->rank - 1] / W <= norm_held_vectors(pass);
    bb_norm_plan plan;
    bb_status status = bb_norm_prepare(cuda, pass, held, &plan);
    if (!status) {
        if constexpr (sizeof(X) < 8) {
            if (held && plan.vector)
                status = plan.scale_is_x ? held_forward<CENTRED, X, X>(cuda, &plan)
                                         : held_forward<CENTRED, X, float>(cuda, &plan);
            else if (wide_y)
                status = plan.vector ? row_forward<CENTRED, X, float, W>(cuda, &plan)
                                     : row_forward<CENTRED, X, float, 1>(cuda, &plan);
            else
                status = plan.vector ? row_forward<CENTRED, X, X, W>(cuda, &plan)
                                     : row_forward<CENTRED, X, X, 1>(cuda, &plan);
        } else {
            status = row_forward<CENTRED, X, X, 1>(cuda, &plan);
        }
    }
    bb_norm_release(cuda, &plan);
    return status;
}

template <bool CENTRED> static bb_status norm_forward(bb_cuda *cuda, const bb_norm_pass *pass) {
    if (pass->x->count == 0) return BB_OK;
    bb_status status = BB_OK;
    bb_float_dtype(pass->x->dtype, [&](auto tag) {
        status = norm_forward_of<CENTRED, typename decltype(tag)::type>(cuda, pass);
    });
    return status;
}

#endif
