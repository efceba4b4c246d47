/* Backward kernels of the norms, templates for rms_norm_backward.cu and layer_norm.cu.
 *
 *     dx     = rstd (dy g - c0 - c1 xhat) + more     c1 = mean(dy g xhat), c0 = mean(dy g)
 *     dscale = sum(dy xhat)    dbias = sum(dy)       over the rows of a group
 *
 * RMSNorm has no c0 and no dbias; xhat is x rstd, LayerNorm's (x - mean) rstd. `more` is a gradient
 * that comes past the norm along a residual; it is added in f32 before the one rounding.
 *
 * The rows of a group are cut into strips (bb_norm_strips). strip_kernel, one block of 512 threads
 * a multiprocessor, takes whole strips and reads x and dy once: 3 D s bytes a row (4 D s with an
 * addition), 8 D a strip. While the rows of one step are computed, those of the next one are on
 * their way to shared memory (cp.async), 64 KiB of them whatever D is: that alone keeps the memory
 * busy, so one block is enough and there are few partial sums. Each thread reads back only what it
 * copied itself, so copies need no barrier. gamma and the strip's partial sums stay in registers: a
 * thread has the same columns in every row. By V, the vectors of 16 bytes in a row:
 *
 * - V <= 8, 16, 32: 8, 16, 32 lanes a row, 4 rows of each group of lanes in a step.
 * - V <= 64: a warp a row, 2 rows in a step. No barrier but at the end of a strip.
 * - V <= 1024: V/2 threads a row, 2 vectors each, 2 rows of each team in a step; one barrier a
 * step.
 * - V <= 2048: V/4 threads a row, 4 vectors each (RMSNorm: LayerNorm has two sums to keep).
 *
 * At the end of a strip the sums of the block's teams are added in order.
 *
 * Longer rows, and rows that cannot be read 16 bytes at a time, take two passes: row_dots_kernel
 * sums over rows, column_kernel writes dx and sums over columns. Both stream, but x and dy are read
 * twice: 5 D s bytes. */
#ifndef BOBBIN_BACKENDS_CUDA_NORM_BACKWARD_H
#define BOBBIN_BACKENDS_CUDA_NORM_BACKWARD_H

#include "backends/cuda/async.h"
#include "backends/cuda/norm.h"

/* ---- One read of x and dy */

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

/* Sums of ROWS x PAIRS numbers over the threads of a team: lanes of one warp, or whole warps; then
 * every thread of the block calls it. slots: 32 x ROWS x PAIRS values that no sum since the barrier
 * before the last has used. */
template <typename R, int ROWS, int PAIRS>
static __device__ inline void norm_sums(R (&sum)[ROWS][PAIRS], int lanes, R *slots) {
#pragma unroll
    for (int u = 0; u < ROWS; u++)
#pragma unroll
        for (int i = 0; i < PAIRS; i++)
            sum[u][i] = bb_warp_sum(sum[u][i], lanes < BB_WARP ? lanes : (int)BB_WARP);
    if (lanes <= BB_WARP) return;
    const int warp = (int)threadIdx.x / BB_WARP, warps = lanes / BB_WARP;
    const int first = warp / warps * warps;
#pragma unroll
    for (int u = 0; u < ROWS; u++)
#pragma unroll
        for (int i = 0; i < PAIRS; i++)
            if (threadIdx.x % BB_WARP == 0) slots[(u * PAIRS + i) * BB_WARP + warp] = sum[u][i];
    __syncthreads();
#pragma unroll
    for (int u = 0; u < ROWS; u++)
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            const R *slot = slots + (u * PAIRS + i) * BB_WARP + first;
            sum[u][i] = slot[0];
            for (int w = 1; w < warps; w++) sum[u][i] += slot[w];
        }
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

/* ---- Two passes */

/* dot[order] = {c1, c0} of a row, W elements at a time; a.team threads a row. */
template <bool CENTRED, typename X, typename DY, int W>
static __global__ void __launch_bounds__(512, 2) row_dots_kernel(bb_norm_args a) {
    typedef bb_real<X> R;
    BB_SHARED(R, slots, 2 * 2 * BB_WARP);
    const int lanes = a.team, teams = (int)blockDim.x / lanes;
    const int lane = (int)threadIdx.x % lanes, team = (int)threadIdx.x / lanes;
    const int64_t n = a.rows.n, vectors = n / W, tiles = a.rows.groups * a.tiles;
    int turn = 0;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x, turn ^= 1) {
        const int64_t group = tile / a.tiles, row = (tile - group * a.tiles) * teams + team;
        const bool live = row < a.rows.rows;
        const bb_row_at at = bb_rows_at(a.rows, group, live ? row : 0);
        const int64_t order = at.of[BB_ROWS_ORDER];
        const X *x = static_cast<const X *>(a.x) + at.of[BB_ROWS_X];
        const DY *dy = static_cast<const DY *>(a.dy) + at.of[BB_ROWS_DY];
        const R *scale = a.scale ? static_cast<const R *>(a.scale) + group * n : NULL;
        const R rstd = static_cast<const R *>(a.rstd)[order];
        const R mean = CENTRED ? static_cast<const R *>(a.mean)[order] : (R)0;
        R dot[1][2] = {{0, 0}};
#pragma unroll 4
        for (int64_t k = lane; live && k < vectors; k += lanes) {
            const bb_span<X, W> xs = bb_span_load<W>(x + k * W);
            const bb_span<DY, W> ds = bb_span_load<W>(dy + k * W);
            const bb_span<R, W> g = scale ? bb_span_load<W>(scale + k * W) : bb_span_of<R, W>(1);
#pragma unroll
            for (int i = 0; i < W; i++) {
                const R dyg = ds.get(i) * g.get(i);
                dot[0][0] += dyg * ((CENTRED ? xs.get(i) - mean : xs.get(i)) * rstd);
                if (CENTRED) dot[0][1] += dyg;
            }
        }
        norm_sums(dot, lanes, slots + turn * 2 * BB_WARP);
        if (live && lane == 0) {
            static_cast<R *>(a.dot)[2 * order] = dot[0][0] / (R)n;
            static_cast<R *>(a.dot)[2 * order + 1] = dot[0][1] / (R)n;
        }
    }
}

/* Writes a strip's sums of blockDim.x vectors of columns; thread rows are added in order. sums: W
 * values of each thread. */
template <int W, typename R>
static __device__ inline void norm_column_flush(const R (&mine)[W], bool live, R *sums, R *target) {
    const int columns = (int)blockDim.x, turns = (int)blockDim.y;
    const int lane = (int)threadIdx.x, turn = (int)threadIdx.y;
    __syncthreads(); /* the sums of what came before have been read */
    for (int i = 0; i < W; i++) sums[(turn * columns + lane) * W + i] = mine[i];
    __syncthreads();
    for (int i = 0; turn == 0 && live && i < W; i++) {
        R sum = mine[i];
        for (int t = 1; t < turns; t++) sum += sums[(t * columns + lane) * W + i];
        target[i] = sum;
    }
}

/* dx, and partial sums of a strip, of blockDim.x vectors of columns; thread rows take the strip's
 * rows in turns. */
template <bool CENTRED, typename X, typename DY, int W>
static __global__ void __launch_bounds__(256, CENTRED ? 2 : 3) column_kernel(bb_norm_args a) {
    typedef bb_real<X> R;
    BB_SHARED(R, sums, 256 * W);
    const int columns = (int)blockDim.x, turns = (int)blockDim.y;
    const int64_t n = a.rows.n, vectors = n / W, slabs = (vectors + columns - 1) / columns;
    const int64_t tasks = a.rows.groups * a.strips * slabs;
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const int64_t item = task / slabs, k = (task - item * slabs) * columns + threadIdx.x;
        const int64_t group = item / a.strips, begin = (item - group * a.strips) * a.strip_rows;
        const int64_t end = begin + a.strip_rows < a.rows.rows ? begin + a.strip_rows : a.rows.rows;
        bb_span<R, W> g = bb_span_of<R, W>(1);
        R dscale[W] = {0}, dbias[W] = {0};
        if (a.scale && k < vectors)
            g = bb_span_load<W>(static_cast<const R *>(a.scale) + group * n + k * W);
#pragma unroll 2
        for (int64_t row = begin + threadIdx.y; k < vectors && row < end; row += turns) {
            const bb_row_at at = bb_rows_at(a.rows, group, row);
            const int64_t order = at.of[BB_ROWS_ORDER];
            const R rstd = static_cast<const R *>(a.rstd)[order];
            const R mean = CENTRED ? static_cast<const R *>(a.mean)[order] : (R)0;
            const bb_span<X, W> x =
                bb_span_load<W>(static_cast<const X *>(a.x) + at.of[BB_ROWS_X] + k * W);
            const bb_span<DY, W> dy =
                bb_span_load<W>(static_cast<const DY *>(a.dy) + at.of[BB_ROWS_DY] + k * W);
#pragma unroll
            for (int i = 0; i < W; i++) {
                dscale[i] += dy.get(i) * ((CENTRED ? x.get(i) - mean : x.get(i)) * rstd);
                dbias[i] += dy.get(i);
            }
            if (!a.y) continue;
            R dx[W];
            const R c1 = static_cast<const R *>(a.dot)[2 * order],
                    c0 = static_cast<const R *>(a.dot)[2 * order + 1];
#pragma unroll
            for (int i = 0; i < W; i++) {
                const R xhat = (CENTRED ? x.get(i) - mean : x.get(i)) * rstd;
                dx[i] = rstd * ((dy.get(i) * g.get(i) - c0) - c1 * xhat);
            }
            if (a.more) {
                const bb_span<X, W> past =
                    bb_span_load<W>(static_cast<const X *>(a.more) + at.of[BB_ROWS_MORE] + k * W);
#pragma unroll
                for (int i = 0; i < W; i++) dx[i] += past.get(i);
            }
            const bb_span<X, W> out = bb_span<X, W>::of(dx);
            bb_span_store(static_cast<X *>(a.y) + order * n + k * W, out);
            if (a.sum) bb_span_store(static_cast<X *>(a.sum) + order * n + k * W, out);
        }
        const int64_t to = item * n + k * W;
        if (a.dscale)
            norm_column_flush<W>(dscale, k < vectors, sums, static_cast<R *>(a.dscale) + to);
        if (CENTRED && a.dbias)
            norm_column_flush<W>(dbias, k < vectors, sums, static_cast<R *>(a.dbias) + to);
    }
}

/* ---- On the host */

enum { NORM_STRIPS = 1024 };

/* How strip_kernel is launched; threads 0: not at all. */
struct norm_shape {
    int team, threads;
    size_t shared;
};

template <bool CENTRED, typename X, typename S, int LANES, int VECTORS, int ROWS>
static bb_status launch_strips(bb_cuda *cuda, const bb_norm_pass *pass, bb_norm_plan *plan,
                               const norm_shape &shape) {
    bb_norm_args *a = &plan->args;
    a->team = shape.team;
    const int team = LANES ? LANES : shape.team;
    bb_norm_strips(a, (int64_t)shape.threads / team * ROWS, sizeof(X), NORM_STRIPS);
    bb_status status = bb_norm_partials(cuda, pass, plan);
    if (status) return status;
    const int64_t items = a->rows.groups * a->strips, sms = bb_cuda_sms(cuda);
    return BB_LAUNCH(cuda, (strip_kernel<CENTRED, X, S, LANES, VECTORS, ROWS>),
                     (unsigned)(items < sms ? items : sms), shape.threads, shape.shared, *a);
}

/* As many rows a step as 512 threads and the device's shared memory allow. */
template <bool CENTRED>
static norm_shape strip_shape(const bb_cuda *cuda, const bb_norm_pass *pass) {
    enum { SLOTS = 4, WIDTH = NORM_BACKWARD_THREADS };
    const int64_t n = pass->x->size[pass->x->rank - 1];
    const int64_t vectors = n * (int64_t)bb_norm_bytes(pass->x->dtype) / 16;
    norm_shape shape = {BB_WARP, 0, 0};
    if (vectors > (CENTRED ? 2 : 4) * WIDTH || pass->x->count / n > INT32_MAX) return shape;
    const int64_t lane = vectors > 2 * WIDTH ? 4 : 2; /* vectors of each thread */
    if (vectors > lane * BB_WARP)
        shape.team = (int)((vectors + lane * BB_WARP - 1) / (lane * BB_WARP) * BB_WARP);
    const size_t room = cuda->info.shared_bytes - 1024; /* the kernel has some beside it */
    for (int t = WIDTH / shape.team * shape.team; t > 0; t -= shape.team) {
        /* Two stages of x, dy and more, and the fold. */
        shape.shared =
            (size_t)t * SLOTS * 16 * 2 * (pass->more ? 3 : 2) + (size_t)n * sizeof(float);
        if (shape.shared > room) continue;
        shape.threads = t;
        break;
    }
    return shape;
}

template <bool CENTRED, typename X, typename S>
static bb_status strip_backward(bb_cuda *cuda, const bb_norm_pass *pass, bb_norm_plan *plan,
                                const norm_shape &shape) {
    const int64_t v = plan->vectors;
    if constexpr (!CENTRED) {
        if (v <= 8) return launch_strips<CENTRED, X, S, 8, 1, 4>(cuda, pass, plan, shape);
        if (v <= 16) return launch_strips<CENTRED, X, S, 16, 1, 4>(cuda, pass, plan, shape);
        if (v <= 32) return launch_strips<CENTRED, X, S, 32, 1, 4>(cuda, pass, plan, shape);
    }
    if (v <= 64) return launch_strips<CENTRED, X, S, 32, 2, 2>(cuda, pass, plan, shape);
    if constexpr (!CENTRED)
        if (v > 1024) return launch_strips<CENTRED, X, S, 0, 4, 1>(cuda, pass, plan, shape);
    return launch_strips<CENTRED, X, S, 0, 2, 2>(cuda, pass, plan, shape);
}

/* The scale is of R here. */
template <bool CENTRED, typename X, typename DY, int W>
static bb_status two_passes(bb_cuda *cuda, const bb_norm_pass *pass, bb_norm_plan *plan) {
    bb_norm_args *a = &plan->args;
    const int64_t vectors = a->rows.n / W, rows = a->rows.groups * a->rows.rows;
    bb_status status = BB_OK;
    if (a->y) {
        bb_storage *s = bb_cuda_scratch(cuda, (size_t)rows * 2 * sizeof(bb_real<X>));
        if (!s) return cuda->base.ctx->status;
        plan->held[plan->held_count++] = s;
        a->dot = s->data;
        const int threads = vectors <= 1024 ? 128 : 512;
        a->team = vectors <= 1024 ? BB_WARP : threads;
        const int64_t each = threads / a->team,
                      most = (int64_t)bb_cuda_sms(cuda) * (2048 / threads);
        a->tiles = (a->rows.rows + each - 1) / each;
        const int64_t tiles = a->rows.groups * a->tiles;
        status = BB_LAUNCH(cuda, (row_dots_kernel<CENTRED, X, DY, W>),
                           (unsigned)(tiles < most ? tiles : most), threads, 0, *a);
    }
    unsigned columns = 1;
    while (columns < 256 && columns < vectors) columns *= 2;
    const dim3 block(columns, 256 / columns);
    const int64_t slabs = (vectors + columns - 1) / columns;
    /* Slabs share the work, so long rows need few strips. */
    bb_norm_strips(a, block.y * 4, sizeof(X), NORM_STRIPS * 2 / slabs);
    if (!status) status = bb_norm_partials(cuda, pass, plan);
    if (status) return status;
    const int64_t tasks = a->rows.groups * a->strips * slabs, most = (int64_t)bb_cuda_sms(cuda) * 8;
    return BB_LAUNCH(cuda, (column_kernel<CENTRED, X, DY, W>),
                     (unsigned)(tasks < most ? tasks : most), block, 0, *a);
}

template <bool CENTRED, typename X>
static bb_status norm_backward_of(bb_cuda *cuda, const bb_norm_pass *pass) {
    enum { W = bb_pack<X>::N };
    const bool wide_dy = pass->dy->dtype != pass->x->dtype;
    norm_shape shape = strip_shape<CENTRED>(cuda, pass);
    if (sizeof(X) == 8 || wide_dy) shape.threads = 0;
    bb_norm_plan plan;
    bb_status status = bb_norm_prepare(cuda, pass, shape.threads > 0, &plan);
    if (!status) {
        if constexpr (sizeof(X) < 8) {
            if (shape.threads && plan.vector)
                status = plan.scale_is_x
                             ? strip_backward<CENTRED, X, X>(cuda, pass, &plan, shape)
                             : strip_backward<CENTRED, X, float>(cuda, pass, &plan, shape);
            else if (wide_dy)
                status = plan.vector ? two_passes<CENTRED, X, float, W>(cuda, pass, &plan)
                                     : two_passes<CENTRED, X, float, 1>(cuda, pass, &plan);
            else
                status = plan.vector ? two_passes<CENTRED, X, X, W>(cuda, pass, &plan)
                                     : two_passes<CENTRED, X, X, 1>(cuda, pass, &plan);
        } else {
            status = two_passes<CENTRED, X, X, 1>(cuda, pass, &plan);
        }
    }
    if (!status) status = bb_norm_fold(cuda, pass, &plan);
    bb_norm_release(cuda, &plan);
    return status;
}

template <bool CENTRED> static bb_status norm_backward(bb_cuda *cuda, const bb_norm_pass *pass) {
    if (pass->x->count == 0) return bb_norm_no_gradient(cuda, pass);
    bb_status status = BB_OK;
    bb_float_dtype(pass->x->dtype, [&](auto tag) {
        status = norm_backward_of<CENTRED, typename decltype(tag)::type>(cuda, pass);
    });
    return status;
}

#endif
