/* Backward of the norms in one read of x and dy, for rows of whole 16-byte vectors that a block
 * can hold; what it computes, and the other way: norm_backward.h.
 *
 * strip_kernel, one block of 512 threads a multiprocessor, takes whole strips and reads x and dy
 * once: 3 D s bytes a row (4 D s with an addition), 8 D a strip. While the rows of one step are
 * computed, those of the next one are on their way to shared memory (cp.async), 64 KiB of them
 * whatever D is: that alone keeps the memory busy, so one block is enough and there are few partial
 * sums. Each thread reads back only what it copied itself, so copies need no barrier. gamma and the
 * strip's partial sums stay in registers: a thread has the same columns in every row. By V, the
 * vectors of 16 bytes in a row:
 *
 * - V <= 8, 16, 32: 8, 16, 32 lanes a row, 4 rows of each group of lanes in a step.
 * - V <= 64: a warp a row, 2 rows in a step. No barrier but at the end of a strip.
 * - V <= 1024: V/2 threads a row, 2 vectors each, 2 rows of each team in a step; one barrier a
 * step.
 * - V <= 2048: V/4 threads a row, 4 vectors each (RMSNorm: LayerNorm has two sums to keep).
 *
 * At the end of a strip the sums of the block's teams are added in order. */
#ifndef BOBBIN_BACKENDS_CUDA_NORM_STRIPS_H
#define BOBBIN_BACKENDS_CUDA_NORM_STRIPS_H

#include "backends/cuda/async.h"
#include "backends/cuda/norm.h"

enum { NORM_BACKWARD_THREADS = 512 };

/* Rows of the strip `item`, from `row` to `end`. The same in all threads of a block. */
struct norm_cursor {
    int item, row, end;
};
static __device__ inline bool norm_live(const bb_norm_args &a, int item) {
    return item < (int)a.rows.groups * (int)a.strips;
}
/* Computed where it is needed: registers are scarcer than divisions here. */
static __device__ inline int norm_group(const bb_norm_args &a, int item) {
    return item / (int)a.strips;
}
static __device__ inline void norm_open(const bb_norm_args &a, norm_cursor *c) {
    const int rows = (int)a.strip_rows;
    c->row = c->item % (int)a.strips * rows;
    c->end = min(c->row + rows, (int)a.rows.rows);
}
static __device__ inline void norm_advance(const bb_norm_args &a, norm_cursor *c, int step) {
    c->row += step;
    if (c->row < c->end) return;
    c->item += (int)gridDim.x;
    norm_open(a, c);
}

/* Adds the teams' sums in order and writes the strip's n numbers; clears the sums. fold: n numbers
 * of shared memory. Teams narrower than a warp are added by exchange first. Every thread of the
 * block calls it. */
template <int LANES, typename R, int VECTORS, int W>
static __device__ inline void norm_flush(R (&sum)[VECTORS][W], int lanes, int64_t n, R *fold,
                                         R *target) {
    const int width = LANES && LANES < BB_WARP ? (int)BB_WARP : lanes;
    const int team = (int)threadIdx.x / width, teams = (int)blockDim.x / width;
    const int lane = (int)threadIdx.x % width;
#pragma unroll
    for (int v = 0; v < VECTORS; v++)
#pragma unroll
        for (int k = 0; k < W; k++)
            for (int d = lanes; d < width; d *= 2)
                sum[v][k] += __shfl_xor_sync(BB_ALL_LANES, sum[v][k], d);
    __syncthreads(); /* the fold of an earlier strip has been read */
    for (int t = 0; t < teams; t++) {
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            const int64_t i = ((int64_t)v * lanes + lane) * W;
            if (t != team || lane >= lanes || i >= n) continue;
            bb_span<R, W> s;
            if (t > 0) s = bb_span_load<W>(fold + i);
#pragma unroll
            for (int k = 0; k < W; k++) s.v[k] = t > 0 ? s.v[k] + sum[v][k] : sum[v][k];
            bb_span_store(t == teams - 1 ? target + i : fold + i, s);
        }
        if (t < teams - 1) __syncthreads();
    }
#pragma unroll
    for (int v = 0; v < VECTORS; v++)
#pragma unroll
        for (int k = 0; k < W; k++) sum[v][k] = 0;
}

/* Where the threads of a block stage their bytes: of a stage, x's slots, dy's, and those of more;
 * a slot is 16 bytes of each thread. */
template <typename X> struct norm_stage {
    X *base;
    int streams, slots;
    __device__ X *at(int stage, int stream, int slot) const {
        const int place = ((stage * streams + stream) * slots + slot) * (int)blockDim.x;
        return base + (int64_t)(place + (int)threadIdx.x) * bb_pack<X>::N;
    }
    __device__ unsigned char *end() const {
        return reinterpret_cast<unsigned char *>(base) +
               (int64_t)2 * streams * slots * blockDim.x * 16;
    }
};

/* What a thread knows of the rows of one step. */
template <typename R, int ROWS> struct norm_step {
    int item;        /* strip */
    int order[ROWS]; /* among all rows, fewer than 2^31; -1: there is no such row */
    R mean[ROWS], rstd[ROWS];
};

/* Sends for the rows that the cursor is at, and moves it on. */
template <bool CENTRED, int VECTORS, typename X, typename R, int ROWS>
static __device__ inline void norm_fetch(const bb_norm_args &a, const norm_stage<X> &staged,
                                         int stage, int lanes, norm_cursor *c,
                                         norm_step<R, ROWS> *s) {
    enum { W = bb_pack<X>::N };
    const int teams = (int)blockDim.x / lanes, vectors = (int)(a.rows.n / W);
    const int lane = (int)threadIdx.x % lanes, team = (int)threadIdx.x / lanes;
    const bool live = norm_live(a, c->item);
    s->item = c->item;
#pragma unroll
    for (int u = 0; u < ROWS; u++) {
        const int row = c->row + u * teams + team;
        s->order[u] = -1, s->rstd[u] = 0, s->mean[u] = 0;
        if (!live || row >= c->end) continue;
        const bb_row_at at = bb_rows_at(a.rows, norm_group(a, c->item), row);
        s->order[u] = (int)at.of[BB_ROWS_ORDER];
        s->rstd[u] = static_cast<const R *>(a.rstd)[s->order[u]];
        if (CENTRED) s->mean[u] = static_cast<const R *>(a.mean)[s->order[u]];
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            const int k = v * lanes + lane, slot = u * VECTORS + v;
            if (k >= vectors) continue;
            bb_async_copy16(staged.at(stage, 0, slot),
                            static_cast<const X *>(a.x) + at.of[BB_ROWS_X] + k * W);
            bb_async_copy16(staged.at(stage, 1, slot),
                            static_cast<const X *>(a.dy) + at.of[BB_ROWS_DY] + k * W);
            if (a.more)
                bb_async_copy16(staged.at(stage, 2, slot),
                                static_cast<const X *>(a.more) + at.of[BB_ROWS_MORE] + k * W);
        }
    }
    bb_async_commit();
    if (live) norm_advance(a, c, teams * ROWS);
}

/* dx of a vector. */
template <bool CENTRED, typename X, typename S, int W>
static __device__ inline bb_span<X, W>
norm_dx(const bb_span<X, W> &x, const bb_span<X, W> &dy, const bb_span<S, W> &g, const X *more,
        bb_real<X> mean, bb_real<X> rstd, bb_real<X> c1, bb_real<X> c0) {
    bb_real<X> dx[W];
#pragma unroll
    for (int k = 0; k < W; k++) {
        const bb_real<X> xhat = (CENTRED ? x.get(k) - mean : x.get(k)) * rstd;
        const bb_real<X> dyg = dy.get(k) * g.get(k);
        dx[k] = rstd * ((CENTRED ? dyg - c0 : dyg) - c1 * xhat);
    }
    if (more) {
        const bb_span<X, W> past = bb_span_load<W>(more);
#pragma unroll
        for (int k = 0; k < W; k++) dx[k] += past.get(k);
    }
    return bb_span<X, W>::of(dx);
}

/* Vector k of a group's scale; ones where there is none, or no such column. */
template <typename S, int W>
static __device__ inline bb_span<S, W> norm_gamma(const bb_norm_args &a, int group, int k) {
    if (!a.scale || k >= (int)(a.rows.n / W)) return bb_span_of<S, W>(1);
    return bb_span_load<W>(static_cast<const S *>(a.scale) + (int64_t)group * a.rows.n + k * W);
}

/* LANES threads a row (0: a.team), VECTORS vectors each, ROWS rows of each team a step. gamma stays
 * in registers, unless it takes more than 16 of them, for LayerNorm with its second sum 8: then it
 * comes from L1 or L2 each time. */
template <bool CENTRED, typename X, typename S, int LANES, int VECTORS, int ROWS>
static __global__ void __launch_bounds__(NORM_BACKWARD_THREADS, 1) strip_kernel(bb_norm_args a) {
    typedef bb_real<X> R;
    enum {
        W = bb_pack<X>::N,
        PAIRS = CENTRED ? 2 : 1,
        KEEP = VECTORS * W * (int)sizeof(S) / 4 <= (CENTRED ? 8 : 16)
    };
    BB_SHARED(R, slots, 2 * ROWS * PAIRS * BB_WARP);
    BB_DYNAMIC_SHARED(X, shared);
    const int lanes = LANES ? LANES : a.team, lane = (int)threadIdx.x % lanes;
    const int vectors = (int)(a.rows.n / W);
    const norm_stage<X> staged = {shared, a.more ? 3 : 2, ROWS * VECTORS};
    R *const fold = reinterpret_cast<R *>(staged.end());
    bb_span<S, W> g[VECTORS];
    R dscale[VECTORS][W], dbias[VECTORS][W];
#pragma unroll
    for (int v = 0; v < VECTORS; v++)
#pragma unroll
        for (int k = 0; k < W; k++) dscale[v][k] = dbias[v][k] = 0;

    norm_cursor cursor = {(int)blockIdx.x, 0, 0};
    norm_step<R, ROWS> s, next;
    int group = -1;
    norm_open(a, &cursor);
    norm_fetch<CENTRED, VECTORS>(a, staged, 0, lanes, &cursor, &next);
    for (int stage = 0; norm_live(a, next.item); stage ^= 1) {
        s = next;
        norm_fetch<CENTRED, VECTORS>(a, staged, stage ^ 1, lanes, &cursor, &next);
        if (KEEP && norm_group(a, s.item) != group) {
            group = norm_group(a, s.item);
#pragma unroll
            for (int v = 0; v < VECTORS; v++) g[v] = norm_gamma<S, W>(a, group, v * lanes + lane);
        }
        bb_async_wait<1>();
        R dot[ROWS][PAIRS];
#pragma unroll
        for (int u = 0; u < ROWS; u++) {
#pragma unroll
            for (int i = 0; i < PAIRS; i++) dot[u][i] = 0;
#pragma unroll
            for (int v = 0; v < VECTORS; v++) {
                if (s.order[u] < 0 || v * lanes + lane >= vectors) continue;
                const bb_span<X, W> x = bb_span_load<W>(staged.at(stage, 0, u * VECTORS + v));
                const bb_span<X, W> dy = bb_span_load<W>(staged.at(stage, 1, u * VECTORS + v));
                if (!KEEP) g[v] = norm_gamma<S, W>(a, norm_group(a, s.item), v * lanes + lane);
#pragma unroll
                for (int k = 0; k < W; k++) {
                    const R xhat = (CENTRED ? x.get(k) - s.mean[u] : x.get(k)) * s.rstd[u];
                    const R d = dy.get(k), dyg = d * g[v].get(k);
                    dot[u][0] += dyg * xhat;
                    dscale[v][k] += d * xhat;
                    if (CENTRED) {
                        dot[u][PAIRS - 1] += dyg;
                        dbias[v][k] += d;
                    }
                }
            }
        }
        norm_sums(dot, lanes, slots + stage * ROWS * PAIRS * BB_WARP);
#pragma unroll
        for (int u = 0; u < ROWS; u++) {
            if (s.order[u] < 0 || !a.y) continue;
            const R c1 = dot[u][0] / (R)a.rows.n,
                    c0 = CENTRED ? dot[u][PAIRS - 1] / (R)a.rows.n : (R)0;
#pragma unroll
            for (int v = 0; v < VECTORS; v++) {
                const int k = v * lanes + lane, slot = u * VECTORS + v;
                if (k >= vectors) continue;
                if (!KEEP) g[v] = norm_gamma<S, W>(a, norm_group(a, s.item), k);
                const bb_span<X, W> dx = norm_dx<CENTRED>(
                    bb_span_load<W>(staged.at(stage, 0, slot)),
                    bb_span_load<W>(staged.at(stage, 1, slot)), g[v],
                    a.more ? staged.at(stage, 2, slot) : NULL, s.mean[u], s.rstd[u], c1, c0);
                const int64_t at = (int64_t)s.order[u] * a.rows.n + k * W;
                bb_span_store(static_cast<X *>(a.y) + at, dx);
                if (a.sum) bb_span_store(static_cast<X *>(a.sum) + at, dx);
            }
        }
        if (next.item == s.item) continue; /* more of this strip */
        const int64_t at = (int64_t)s.item * a.rows.n;
        if (a.dscale)
            norm_flush<LANES>(dscale, lanes, a.rows.n, fold, static_cast<R *>(a.dscale) + at);
        if (CENTRED && a.dbias)
            norm_flush<LANES>(dbias, lanes, a.rows.n, fold, static_cast<R *>(a.dbias) + at);
    }
    bb_async_wait<0>();
}

#endif
