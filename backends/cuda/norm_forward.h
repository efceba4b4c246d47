/* Forward kernels of the norms, templates for rms_norm_forward.cu and layer_norm.cu.
 *
 *     RMSNorm   y = x rstd g              rstd = 1 / sqrt(mean(x^2) + eps)
 *     LayerNorm y = (x - mean) rstd g + b     rstd = 1 / sqrt(mean((x - mean)^2) + eps)
 *
 * with x + more in place of x where there is something to add, which is written as well.
 *
 * A row is read once, 16 bytes a lane, and its raw bits stay in registers until it is written:
 * 2 D s bytes a row (4 D s with an addition). By vectors of 16 bytes in a row, V:
 *   V <= 8, 16, 32   8, 16, 32 lanes a row, 4 rows of each group of lanes under way at once, so
 * that a lane has 64 bytes in flight although the row is short V <= 64, 128     a warp a row, 2 or
 * 4 vectors a lane V <= 1024        V/4 threads a row, 4 vectors each: one barrier (LayerNorm: two)
 *   V <= 8192        V/8 threads, 8 vectors: 32 registers of raw bits, so 64 registers suffice and
 *                    two blocks of 512 threads share a multiprocessor
 * All of these read gamma from L1 or L2 each time; whoever has few rows in flight (the last line)
 * loads it after the sum, the others before.
 * Longer rows, and rows that cannot be read 16 bytes at a time: row_kernel walks over the row
 * twice, the second time from its end, which is still in L2; of long rows, shared memory keeps the
 * head. */
#ifndef BOBBIN_BACKENDS_CUDA_NORM_FORWARD_H
#define BOBBIN_BACKENDS_CUDA_NORM_FORWARD_H

#include "backends/cuda/norm.h"

/* What a row's elements become, W of them. */
template <bool CENTRED, typename X, typename Y, typename S, int W>
static __device__ inline bb_span<Y, W> norm_apply(const bb_span<X, W> &x, const bb_span<S, W> &g,
                                                  const bb_span<S, W> &b, bb_real<X> mean,
                                                  bb_real<X> rstd, bool round_first) {
    bb_span<Y, W> y;
#pragma unroll
    for (int k = 0; k < W; k++) {
        bb_real<X> xhat;
        if constexpr (CENTRED)
            xhat = (widen(x.v[k]) - mean) * rstd;
        else
            xhat = widen(x.v[k]) * rstd;
        if (round_first) xhat = widen(narrow<X>(xhat));
        bb_real<X> value = xhat * widen(g.v[k]);
        if constexpr (CENTRED) value += widen(b.v[k]);
        y.v[k] = narrow<Y>(value);
    }
    return y;
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
        *b = *g; /* not read */
    }
}

/* Sum over the `lanes` threads of a warp that share a row, or over the block (lanes > 32).
 * `slots`: 32 values that no earlier sum still uses. */
template <typename R> static __device__ inline R norm_team_sum(R x, int lanes, R *slots) {
    return lanes <= BB_WARP ? bb_warp_sum(x, lanes) : bb_block_sum(x, slots);
}

/* LANES threads a row (0: the whole block), VECTORS each, ROWS rows of each team at once. */
template <bool CENTRED, typename X, typename S, int LANES, int VECTORS, int ROWS, int THREADS>
static __global__ void __launch_bounds__(THREADS) held_kernel(bb_norm_args a) {
    typedef bb_real<X> R;
    enum { W = bb_pack<X>::N, EARLY = VECTORS <= 4 };
    BB_SHARED(R, slots, 4 * BB_WARP); /* two sums a tile, of two tiles in turn */
    const int lanes = LANES ? LANES : (int)blockDim.x, teams = LANES ? (int)blockDim.x / LANES : 1;
    const int lane = (int)threadIdx.x % lanes, team = (int)threadIdx.x / lanes;
    const int64_t n = a.rows.n, vectors = n / W, tiles = a.rows.groups * a.tiles;
    int turn = 0;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x, turn ^= 2) {
        const int64_t group = tile / a.tiles,
                      first = (tile - group * a.tiles) * (teams * ROWS) + team;
        bb_span<X, W> x[ROWS][VECTORS];
        bb_span<S, W> g[VECTORS], b[VECTORS];
        int64_t order[ROWS];
        R mean[ROWS], rstd[ROWS], shift[ROWS];
#pragma unroll
        for (int u = 0; u < ROWS; u++) {
            const int64_t row = first + u * teams;
            order[u] = -1;
            shift[u] = 0;
            if (row < a.rows.rows) {
                const bb_row_at at = bb_rows_at(a.rows, group, row);
                const X *from = static_cast<const X *>(a.x) + at.of[BB_ROWS_X];
                order[u] = at.of[BB_ROWS_ORDER];
                if (CENTRED) shift[u] = widen(from[0]);
#pragma unroll
                for (int v = 0; v < VECTORS; v++) {
                    const int64_t k = v * lanes + lane;
                    if (k < vectors) x[u][v] = bb_span_load<W>(from + k * W);
                }
                if (a.more) {
                    const X *more = static_cast<const X *>(a.more) + at.of[BB_ROWS_MORE];
                    X *sum = static_cast<X *>(a.sum) + order[u] * n;
#pragma unroll
                    for (int v = 0; v < VECTORS; v++) {
                        const int64_t k = v * lanes + lane;
                        if (k >= vectors) continue;
                        bb_span_add(x[u][v], bb_span_load<W>(more + k * W));
                        bb_span_store(sum + k * W, x[u][v]);
                    }
                }
            }
        }
        if (EARLY) {
#pragma unroll
            for (int v = 0; v < VECTORS; v++) {
                const int64_t k = v * lanes + lane;
                if (k < vectors) norm_affine<CENTRED, W>(a, group * n + k * W, &g[v], &b[v]);
            }
        }
#pragma unroll
        for (int u = 0; u < ROWS; u++) {
            mean[u] = 0;
            if constexpr (CENTRED) {
                R sum = 0;
#pragma unroll
                for (int v = 0; v < VECTORS; v++)
                    if (order[u] >= 0 && v * lanes + lane < vectors)
#pragma unroll
                        for (int k = 0; k < W; k++) sum += widen(x[u][v].v[k]) - shift[u];
                mean[u] = shift[u] + norm_team_sum(sum, lanes, slots + turn * BB_WARP) / (R)n;
            }
            R squares[2] = {0, 0}; /* two chains of additions */
#pragma unroll
            for (int v = 0; v < VECTORS; v++)
                if (order[u] >= 0 && v * lanes + lane < vectors)
#pragma unroll
                    for (int k = 0; k < W; k++) {
                        const R d = widen(x[u][v].v[k]) - mean[u];
                        squares[k & 1] += d * d;
                    }
            rstd[u] = squares[0] + squares[1];
        }
#pragma unroll
        for (int u = 0; u < ROWS; u++)
            rstd[u] =
                bb_norm_rstd(norm_team_sum(rstd[u], lanes, slots + (turn + 1) * BB_WARP), n, a.eps);
#pragma unroll
        for (int u = 0; u < ROWS; u++) {
            if (order[u] < 0) continue;
            if (lane == 0) {
                if (a.rstd) static_cast<R *>(a.rstd)[order[u]] = rstd[u];
                if (CENTRED && a.mean) static_cast<R *>(a.mean)[order[u]] = mean[u];
            }
            X *y = static_cast<X *>(a.y) + order[u] * n;
#pragma unroll
            for (int v = 0; v < VECTORS; v++) {
                const int64_t k = v * lanes + lane;
                if (k >= vectors) continue;
                if (!EARLY) norm_affine<CENTRED, W>(a, group * n + k * W, &g[v], &b[v]);
                bb_span_store(y + k * W, norm_apply<CENTRED, X, X>(x[u][v], g[v], b[v], mean[u],
                                                                   rstd[u], a.round_first));
            }
        }
    }
}

/* Any row, W elements at a time, a warp or a block each (a.team threads). A row is read again to be
 * written (LayerNorm: and once more in between); its first a.held vectors stay in shared memory.
 * Four loads of a thread are under way at once. */
template <bool CENTRED, typename X, typename Y, int W>
static __global__ void __launch_bounds__(1024) row_kernel(bb_norm_args a) {
    typedef bb_real<X> R;
    typedef bb_span<X, W> span;
    enum { BATCH = 4 };
    BB_SHARED(R, slots, 4 * BB_WARP);
    BB_DYNAMIC_SHARED(X, head);
    const int lanes = a.team, teams = (int)blockDim.x / lanes;
    const int lane = (int)threadIdx.x % lanes, team = (int)threadIdx.x / lanes;
    const int64_t n = a.rows.n, vectors = n / W, tiles = a.rows.groups * a.tiles;
    const int64_t batch = (int64_t)BATCH * lanes, last = (vectors - 1) / batch * batch;
    int turn = 0;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x, turn ^= 2) {
        const int64_t group = tile / a.tiles, row = (tile - group * a.tiles) * teams + team;
        const bool live = row < a.rows.rows; /* of a whole team */
        const bb_row_at at = bb_rows_at(a.rows, group, live ? row : 0);
        const int64_t order = at.of[BB_ROWS_ORDER];
        const X *from = static_cast<const X *>(a.x) + at.of[BB_ROWS_X];
        const R shift = CENTRED ? widen(from[0]) : (R)0;
        R sum = 0, squares = 0, mean = 0;
        for (int64_t begin = 0; live && begin < vectors; begin += batch) {
            span x[BATCH];
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                const int64_t k = begin + i * lanes + lane;
                if (k < vectors) x[i] = bb_span_load<W>(from + k * W);
            }
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                const int64_t k = begin + i * lanes + lane;
                if (k >= vectors) continue;
                if (a.more) {
                    const X *more = static_cast<const X *>(a.more) + at.of[BB_ROWS_MORE];
                    bb_span_add(x[i], bb_span_load<W>(more + k * W));
                    bb_span_store(static_cast<X *>(a.sum) + order * n + k * W, x[i]);
                }
                if (k < a.held) bb_span_store(head + k * W, x[i]);
#pragma unroll
                for (int e = 0; e < W; e++) {
                    const R value = widen(x[i].v[e]);
                    sum += value - shift;
                    squares += value * value;
                }
            }
        }
        if (a.more) from = static_cast<const X *>(a.sum) + order * n; /* what this thread wrote */
        if constexpr (CENTRED) {
            mean = shift + norm_team_sum(sum, lanes, slots + turn * BB_WARP) / (R)n;
            squares = 0;
            for (int64_t k = lane; live && k < vectors; k += lanes) {
                const span x = bb_span_load<W>(k < a.held ? head + k * W : from + k * W);
#pragma unroll
                for (int e = 0; e < W; e++)
                    squares += (widen(x.v[e]) - mean) * (widen(x.v[e]) - mean);
            }
        }
        const R rstd =
            bb_norm_rstd(norm_team_sum(squares, lanes, slots + (turn + 1) * BB_WARP), n, a.eps);
        if (!live) continue;
        if (lane == 0) {
            if (a.rstd) static_cast<R *>(a.rstd)[order] = rstd;
            if (CENTRED && a.mean) static_cast<R *>(a.mean)[order] = mean;
        }
        for (int64_t begin = last; begin >= 0; begin -= batch) {
            span x[BATCH];
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                const int64_t k = begin + i * lanes + lane;
                if (k < vectors) x[i] = bb_span_load<W>(k < a.held ? head + k * W : from + k * W);
            }
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                const int64_t k = begin + i * lanes + lane;
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

/* A block per tile, as many as there are; with a margin, what the multiprocessors that are left
 * hold at once, and each block takes several. `resident`: blocks that a multiprocessor holds. */
static inline unsigned norm_grid(const bb_cuda *cuda, const bb_norm_args *a, int resident,
                                 bool persistent) {
    int64_t tiles = a->rows.groups * a->tiles, most = 0x7fffffff;
    if (persistent || cuda->base.ctx->sm_margin > 0) most = (int64_t)bb_cuda_sms(cuda) * resident;
    return (unsigned)(tiles < most ? tiles : most);
}

template <bool CENTRED, typename X, typename S, int LANES, int VECTORS, int ROWS, int THREADS>
static bb_status launch_held(bb_cuda *cuda, bb_norm_plan *plan, int threads) {
    bb_norm_args *a = &plan->args;
    const int rows = LANES ? threads / (LANES ? LANES : 1) * ROWS : 1;
    a->tiles = (a->rows.rows + rows - 1) / rows;
    const int resident = 1024 / threads < 1 ? 1 : 1024 / threads;
    return BB_LAUNCH(cuda, (held_kernel<CENTRED, X, S, LANES, VECTORS, ROWS, THREADS>),
                     norm_grid(cuda, a, resident, ROWS > 1), threads, 0, *a);
}

static inline int norm_threads(int64_t work) {
    return (int)((work + BB_WARP - 1) / BB_WARP * BB_WARP);
}

enum { NORM_HELD_VECTORS = 8192 }; /* longest row that registers hold */

template <bool CENTRED, typename X, typename S>
static bb_status held_forward(bb_cuda *cuda, bb_norm_plan *plan) {
    const int64_t v = plan->vectors;
    if constexpr (!CENTRED) {
        if (v <= 8) return launch_held<CENTRED, X, S, 8, 1, 4, 128>(cuda, plan, 128);
        if (v <= 16) return launch_held<CENTRED, X, S, 16, 1, 4, 128>(cuda, plan, 128);
        if (v <= 32) return launch_held<CENTRED, X, S, 32, 1, 4, 128>(cuda, plan, 128);
        if (v <= 64) return launch_held<CENTRED, X, S, 32, 2, 2, 128>(cuda, plan, 128);
    }
    if (v <= 128) return launch_held<CENTRED, X, S, 32, 4, 1, 128>(cuda, plan, 128);
    if (v <= 1024)
        return launch_held<CENTRED, X, S, 0, 4, 1, 256>(cuda, plan, norm_threads((v + 3) / 4));
    return launch_held<CENTRED, X, S, 0, 8, 1, 1024>(cuda, plan, norm_threads((v + 7) / 8));
}

/* The scale is of R here. */
template <bool CENTRED, typename X, typename Y, int W>
static bb_status row_forward(bb_cuda *cuda, bb_norm_plan *plan) {
    bb_norm_args *a = &plan->args;
    const int64_t vectors = a->rows.n / W;
    const bool warps = vectors <= 1024; /* enough for 32 of a lane */
    int threads = 128;
    while (!warps && threads < 1024 && threads * 16 < vectors) threads *= 2;
    a->team = warps ? BB_WARP : threads;
    const int rows = threads / a->team;
    a->tiles = (a->rows.rows + rows - 1) / rows;
    /* Only rows too long for registers are worth the shared memory; another block still fits beside
     * the rest of it. */
    size_t shared = 0;
    if (W > 1 && vectors > NORM_HELD_VECTORS) {
        const int64_t room = (int64_t)(cuda->info.shared_bytes - 4096) / 16;
        a->held = vectors < room ? vectors : room;
        shared = (size_t)a->held * 16;
    }
    return BB_LAUNCH(cuda, (row_kernel<CENTRED, X, Y, W>),
                     norm_grid(cuda, a, 2048 / threads, false), threads, shared ? shared : 16, *a);
}

/* All rows of a pass whose x is X. y is of X, or float where the plan says so. */
template <bool CENTRED, typename X>
static bb_status norm_forward_of(bb_cuda *cuda, const bb_norm_pass *pass) {
    enum { W = bb_pack<X>::N };
    const bool wide_y = pass->y->dtype != pass->x->dtype;
    const int64_t vectors = pass->x->size[pass->x->rank - 1] / W;
    const bool held = sizeof(X) < 8 && !wide_y && vectors <= NORM_HELD_VECTORS;
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
