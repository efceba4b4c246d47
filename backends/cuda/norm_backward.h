/* Backward kernels of the norms, templates for rms_norm_backward.cu and layer_norm.cu.
 *
 *     dx     = rstd (dy g - c0 - c1 xhat) + more     c1 = mean(dy g xhat), c0 = mean(dy g)
 *     dscale = sum(dy xhat)    dbias = sum(dy)       over the rows of a group
 *
 * RMSNorm has no c0 and no dbias; xhat = x rstd, or (x - mean) rstd. `more` is the gradient that
 * comes past the norm along a residual; it is added in f32 before the one rounding.
 *
 * The rows of a group are cut into strips (bb_norm_strips). strip_kernel: one block a
 * multiprocessor, 512 threads, goes over whole strips and reads x and dy once: 3 D s bytes a row
 * (4 D s with an addition), 8 D a strip. While the rows of one step are computed, those of the next
 * one are on their way into shared memory (cp.async, 64 KiB a step whatever D is): that alone keeps
 * the memory busy, so one block is enough, and there are few partial sums. Each thread reads back
 * only what it copied itself, so copies need no barrier. gamma and the strip's partial sums stay in
 * registers: a thread has the same columns in every row. By vectors of 16 bytes in a row, V:
 *   V <= 8, 16, 32   8, 16, 32 lanes a row, 4 rows of each group of lanes in a step
 *   V <= 64, 128     a warp a row, 2 rows or 1 in a step
 *   V <= 2048        V/4 threads a row, as many rows in a step as fit 512 threads, one barrier a
 *                    step for the sums over a row
 * At the end of a strip the partial sums of the block's teams are added in order.
 *
 * Longer rows, and rows that cannot be read 16 bytes at a time, take two passes: row_dots_kernel
 * sums over rows, column_kernel writes dx and sums over columns. x and dy are read twice: 5 D s
 * bytes. */
#ifndef BOBBIN_BACKENDS_CUDA_NORM_BACKWARD_H
#define BOBBIN_BACKENDS_CUDA_NORM_BACKWARD_H

#include "backends/cuda/async.h"
#include "backends/cuda/norm.h"

/* ---- One read of x and dy */

/* Which rows a block is at: rows of the strip `item` from `row` to `end`. The same in all threads.
 */
struct norm_cursor {
    int64_t item, group, row, end;
};
static __device__ inline void norm_open(const bb_norm_args &a, norm_cursor *c) {
    c->group = c->item / a.strips;
    c->row = (c->item - c->group * a.strips) * a.strip_rows;
    c->end = c->row + a.strip_rows < a.rows.rows ? c->row + a.strip_rows : a.rows.rows;
}
/* False: no rows are left. */
static __device__ inline bool norm_advance(const bb_norm_args &a, norm_cursor *c, int64_t step) {
    c->row += step;
    if (c->row < c->end) return true;
    c->item += gridDim.x;
    if (c->item >= a.rows.groups * a.strips) return false;
    norm_open(a, c);
    return true;
}

/* Sums of a pair over the threads of a team: lanes of one warp, or `warps` whole warps that write
 * to slots[] of their own; then each thread of the block must call it. */
template <typename R>
static __device__ inline void norm_pair_sum(R pair[2], int lanes, int pairs, R *slots) {
    for (int i = 0; i < pairs; i++)
        pair[i] = bb_warp_sum(pair[i], lanes < BB_WARP ? lanes : BB_WARP);
    if (lanes <= BB_WARP) return;
    const int warp = (int)threadIdx.x / BB_WARP, warps = lanes / BB_WARP,
              first = warp / warps * warps;
    if (threadIdx.x % BB_WARP == 0)
        for (int i = 0; i < pairs; i++) slots[warp * 2 + i] = pair[i];
    __syncthreads();
    for (int i = 0; i < pairs; i++) {
        pair[i] = slots[first * 2 + i];
        for (int w = 1; w < warps; w++) pair[i] += slots[(first + w) * 2 + i];
    }
}

enum { NORM_BACKWARD_THREADS = 512 };

/* Adds the teams' sums in order and writes the strip's: n numbers. fold: n numbers of shared
 * memory. A team's lanes hold VECTORS x W columns each; teams narrower than a warp are added by
 * exchange first. Each thread of the block calls it. */
template <typename R, int LANES, int VECTORS, int W>
static __device__ inline void norm_flush(R (&sum)[VECTORS][W], int lanes, int64_t n, R *fold,
                                         R *target) {
    const int64_t vectors = n / W;
    const int lane = (int)threadIdx.x % lanes;
    const int width = LANES && LANES < BB_WARP ? BB_WARP : lanes;
    const int team = (int)threadIdx.x / width, teams = (int)blockDim.x / width;
#pragma unroll
    for (int v = 0; v < VECTORS; v++)
#pragma unroll
        for (int k = 0; k < W; k++)
            for (int d = lanes; d < width; d *= 2)
                sum[v][k] += __shfl_xor_sync(BB_ALL_LANES, sum[v][k], d);
    const bool speaks = (int)threadIdx.x % width < lanes;
    __syncthreads(); /* the fold of an earlier strip has been read */
    for (int t = 0; t < teams; t++) {
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            const int64_t i = ((int64_t)v * lanes + lane) * W;
            if (t != team || !speaks || i >= vectors * W) continue;
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

/* LANES threads a row (0: a.team), VECTORS vectors each, ROWS rows of each team a step. */
template <bool CENTRED, typename X, typename S, int LANES, int VECTORS, int ROWS>
static __global__ void __launch_bounds__(NORM_BACKWARD_THREADS, 1) strip_kernel(bb_norm_args a) {
    typedef bb_real<X> R;
    enum { W = bb_pack<X>::N, SLOTS = ROWS * VECTORS };
    BB_SHARED(R, slots, 2 * 2 * BB_WARP);
    BB_DYNAMIC_SHARED(unsigned char, shared);
    const int lanes = LANES ? LANES : a.team, teams = (int)blockDim.x / lanes;
    const int lane = (int)threadIdx.x % lanes, team = (int)threadIdx.x / lanes;
    const int64_t n = a.rows.n, vectors = n / W, step = (int64_t)teams * ROWS;
    const int streams = a.more ? 3 : 2;
    /* Stage s, stream i (x, dy, more), slot, thread: 16 bytes. */
    X *const staged = reinterpret_cast<X *>(shared);
    const int64_t stream = (int64_t)SLOTS * blockDim.x * W;
    R *const fold = reinterpret_cast<R *>(shared + 2 * streams * stream * sizeof(X));

    bb_span<S, W> g[VECTORS];
    R dscale[VECTORS][W], dbias[VECTORS][W];
#pragma unroll
    for (int v = 0; v < VECTORS; v++)
#pragma unroll
        for (int k = 0; k < W; k++) dscale[v][k] = dbias[v][k] = 0;

    norm_cursor fetch = {blockIdx.x, 0, 0, 0}, at = fetch;
    norm_open(a, &fetch);
    at = fetch;
    bool more_to_fetch = true;
    int64_t group = -1, next_order[ROWS], order[ROWS];
    R next_rstd[ROWS], rstd[ROWS], next_mean[ROWS], mean[ROWS];
    int stage = 0;
    /* Step -1 only fetches. */
    for (bool first = true;; first = false) {
        X *const into = staged + (stage ^ 1) * streams * stream;
#pragma unroll
        for (int u = 0; u < ROWS; u++) {
            order[u] = next_order[u], rstd[u] = next_rstd[u], mean[u] = next_mean[u];
            const int64_t row = fetch.row + u * teams + team;
            next_order[u] = -1, next_rstd[u] = 0, next_mean[u] = 0;
            if (!more_to_fetch || row >= fetch.end) continue;
            const bb_row_at from = bb_rows_at(a.rows, fetch.group, row);
            next_order[u] = from.of[BB_ROWS_ORDER];
            next_rstd[u] = static_cast<const R *>(a.rstd)[next_order[u]];
            if (CENTRED) next_mean[u] = static_cast<const R *>(a.mean)[next_order[u]];
#pragma unroll
            for (int v = 0; v < VECTORS; v++) {
                const int64_t k = (int64_t)v * lanes + lane;
                if (k >= vectors) continue;
                X *slot = into + ((int64_t)(u * VECTORS + v) * blockDim.x + threadIdx.x) * W;
                bb_async_copy16(slot, static_cast<const X *>(a.x) + from.of[BB_ROWS_X] + k * W);
                bb_async_copy16(slot + stream,
                                static_cast<const X *>(a.dy) + from.of[BB_ROWS_DY] + k * W);
                if (a.more)
                    bb_async_copy16(slot + 2 * stream,
                                    static_cast<const X *>(a.more) + from.of[BB_ROWS_MORE] + k * W);
            }
        }
        bb_async_commit();
        if (more_to_fetch) more_to_fetch = norm_advance(a, &fetch, step);
        stage ^= 1;
        if (first) continue;

        if (at.group != group) {
            group = at.group;
#pragma unroll
            for (int v = 0; v < VECTORS; v++) {
                const int64_t k = (int64_t)v * lanes + lane;
                g[v] = a.scale && k < vectors
                           ? bb_span_load<W>(static_cast<const S *>(a.scale) + group * n + k * W)
                           : bb_span_of<S, W>(1);
            }
        }
        bb_async_wait<1>();
        const X *const here = staged + (stage ^ 1) * streams * stream;
        R dot[ROWS][2];
#pragma unroll
        for (int u = 0; u < ROWS; u++) {
            dot[u][0] = dot[u][1] = 0;
            if (order[u] < 0) continue;
#pragma unroll
            for (int v = 0; v < VECTORS; v++) {
                if ((int64_t)v * lanes + lane >= vectors) continue;
                const X *slot = here + ((int64_t)(u * VECTORS + v) * blockDim.x + threadIdx.x) * W;
                const bb_span<X, W> x = bb_span_load<W>(slot), dy = bb_span_load<W>(slot + stream);
#pragma unroll
                for (int k = 0; k < W; k++) {
                    R xhat = widen(x.v[k]), d = widen(dy.v[k]);
                    if constexpr (CENTRED) xhat -= mean[u];
                    xhat *= rstd[u];
                    const R dyg = d * widen(g[v].v[k]);
                    dot[u][0] += dyg * xhat;
                    dscale[v][k] += d * xhat;
                    if constexpr (CENTRED) {
                        dot[u][1] += dyg;
                        dbias[v][k] += d;
                    }
                }
            }
        }
#pragma unroll
        for (int u = 0; u < ROWS; u++)
            norm_pair_sum(dot[u], lanes, CENTRED ? 2 : 1, slots + stage * 2 * BB_WARP);
#pragma unroll
        for (int u = 0; u < ROWS; u++) {
            if (order[u] < 0 || !a.y) continue;
            const R c1 = dot[u][0] / (R)n, c0 = dot[u][1] / (R)n;
#pragma unroll
            for (int v = 0; v < VECTORS; v++) {
                const int64_t k = (int64_t)v * lanes + lane;
                if (k >= vectors) continue;
                const X *slot = here + ((int64_t)(u * VECTORS + v) * blockDim.x + threadIdx.x) * W;
                const bb_span<X, W> x = bb_span_load<W>(slot), dy = bb_span_load<W>(slot + stream);
                bb_span<X, W> more = x, dx;
                if (a.more) more = bb_span_load<W>(slot + 2 * stream);
#pragma unroll
                for (int i = 0; i < W; i++) {
                    R xhat = widen(x.v[i]), d = widen(dy.v[i]) * widen(g[v].v[i]);
                    if constexpr (CENTRED) xhat -= mean[u], d -= c0;
                    R value = rstd[u] * (d - c1 * (xhat * rstd[u]));
                    if (a.more) value += widen(more.v[i]);
                    dx.v[i] = narrow<X>(value);
                }
                bb_span_store(static_cast<X *>(a.y) + order[u] * n + k * W, dx);
                if (a.sum) bb_span_store(static_cast<X *>(a.sum) + order[u] * n + k * W, dx);
            }
        }
        const int64_t item = at.item;
        const bool on = norm_advance(a, &at, step);
        if (!on || at.item != item) {
            if (a.dscale)
                norm_flush<R, LANES>(dscale, lanes, n, fold, static_cast<R *>(a.dscale) + item * n);
            if constexpr (CENTRED)
                if (a.dbias)
                    norm_flush<R, LANES>(dbias, lanes, n, fold,
                                         static_cast<R *>(a.dbias) + item * n);
        }
        if (!on) break;
    }
    bb_async_wait<0>();
}

/* ---- Two passes */

/* dot[order] = {c1, c0} of a row, W elements at a time; a.team threads a row. */
template <bool CENTRED, typename X, typename DY, int W>
static __global__ void __launch_bounds__(512) row_dots_kernel(bb_norm_args a) {
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
        const R *scale = static_cast<const R *>(a.scale);
        const R rstd = static_cast<const R *>(a.rstd)[order];
        const R mean = CENTRED ? static_cast<const R *>(a.mean)[order] : (R)0;
        R dot[2] = {0, 0};
#pragma unroll 4
        for (int64_t k = lane; live && k < vectors; k += lanes) {
            const bb_span<X, W> xs = bb_span_load<W>(x + k * W);
            const bb_span<DY, W> ds = bb_span_load<W>(dy + k * W);
            const bb_span<R, W> g =
                scale ? bb_span_load<W>(scale + group * n + k * W) : bb_span_of<R, W>(1);
#pragma unroll
            for (int i = 0; i < W; i++) {
                const R dyg = widen(ds.v[i]) * g.v[i];
                dot[0] += dyg * ((widen(xs.v[i]) - mean) * rstd);
                dot[1] += dyg;
            }
        }
        norm_pair_sum(dot, lanes, CENTRED ? 2 : 1, slots + turn * 2 * BB_WARP);
        if (live && lane == 0) {
            static_cast<R *>(a.dot)[2 * order] = dot[0] / (R)n;
            static_cast<R *>(a.dot)[2 * order + 1] = CENTRED ? dot[1] / (R)n : (R)0;
        }
    }
}

/* dx, and partial sums of a strip, of blockDim.x vectors of columns; thread rows take the strip's
 * rows in turns, and their sums are added in order. */
template <bool CENTRED, typename X, typename DY, int W>
static __global__ void __launch_bounds__(256) column_kernel(bb_norm_args a) {
    typedef bb_real<X> R;
    BB_SHARED(R, sums, 256 * W);
    const int columns = (int)blockDim.x, turns = (int)blockDim.y;
    const int lane = (int)threadIdx.x, turn = (int)threadIdx.y;
    const int64_t n = a.rows.n, vectors = n / W, slabs = (vectors + columns - 1) / columns;
    const int64_t tasks = a.rows.groups * a.strips * slabs;
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const int64_t item = task / slabs, k = (task - item * slabs) * columns + lane;
        const int64_t group = item / a.strips, begin = (item - group * a.strips) * a.strip_rows;
        const int64_t end = begin + a.strip_rows < a.rows.rows ? begin + a.strip_rows : a.rows.rows;
        const R *scale = static_cast<const R *>(a.scale);
        bb_span<R, W> g = bb_span_of<R, W>(1), dscale = bb_span_of<R, W>(0), dbias = dscale;
        if (scale && k < vectors) g = bb_span_load<W>(scale + group * n + k * W);
#pragma unroll 2
        for (int64_t row = begin + turn; k < vectors && row < end; row += turns) {
            const bb_row_at at = bb_rows_at(a.rows, group, row);
            const int64_t order = at.of[BB_ROWS_ORDER];
            const R rstd = static_cast<const R *>(a.rstd)[order];
            const R mean = CENTRED ? static_cast<const R *>(a.mean)[order] : (R)0;
            const bb_span<X, W> x =
                bb_span_load<W>(static_cast<const X *>(a.x) + at.of[BB_ROWS_X] + k * W);
            const bb_span<DY, W> dy =
                bb_span_load<W>(static_cast<const DY *>(a.dy) + at.of[BB_ROWS_DY] + k * W);
            R xhat[W];
#pragma unroll
            for (int i = 0; i < W; i++) {
                xhat[i] = (widen(x.v[i]) - mean) * rstd;
                dscale.v[i] += widen(dy.v[i]) * xhat[i];
                dbias.v[i] += widen(dy.v[i]);
            }
            if (!a.y) continue;
            const R c1 = static_cast<const R *>(a.dot)[2 * order],
                    c0 = static_cast<const R *>(a.dot)[2 * order + 1];
            bb_span<X, W> more = x, dx;
            if (a.more)
                more =
                    bb_span_load<W>(static_cast<const X *>(a.more) + at.of[BB_ROWS_MORE] + k * W);
#pragma unroll
            for (int i = 0; i < W; i++) {
                R value = rstd * ((widen(dy.v[i]) * g.v[i] - c0) - c1 * xhat[i]);
                if (a.more) value += widen(more.v[i]);
                dx.v[i] = narrow<X>(value);
            }
            bb_span_store(static_cast<X *>(a.y) + order * n + k * W, dx);
            if (a.sum) bb_span_store(static_cast<X *>(a.sum) + order * n + k * W, dx);
        }
        for (int which = 0; which < (CENTRED ? 2 : 1); which++) {
            R *target = static_cast<R *>(which ? a.dbias : a.dscale);
            if (!target) continue;
            const bb_span<R, W> mine = which ? dbias : dscale;
            __syncthreads(); /* the sums of what came before have been read */
            for (int i = 0; i < W; i++) sums[(turn * columns + lane) * W + i] = mine.v[i];
            __syncthreads();
            if (turn > 0 || k >= vectors) continue;
            for (int i = 0; i < W; i++) {
                R sum = mine.v[i];
                for (int t = 1; t < turns; t++) sum += sums[(t * columns + lane) * W + i];
                target[item * n + k * W + i] = sum;
            }
        }
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

/* Vectors that one thread holds of a long row: LayerNorm sums two gradients in registers. */
template <bool CENTRED> struct norm_strip_vectors {
    enum { value = CENTRED ? 2 : 4 };
};

/* As many rows a step as 512 threads and the device's shared memory allow. */
template <bool CENTRED>
static norm_shape strip_shape(const bb_cuda *cuda, int64_t vectors, int64_t n, bool more) {
    enum { VECTORS = norm_strip_vectors<CENTRED>::value, SLOTS = 4 };
    norm_shape shape = {BB_WARP, 0, 0};
    if (vectors > NORM_BACKWARD_THREADS * VECTORS) return shape;
    if (vectors > BB_WARP * VECTORS)
        shape.team = (int)((vectors + BB_WARP * VECTORS - 1) / (BB_WARP * VECTORS) * BB_WARP);
    const size_t room = cuda->info.shared_bytes - 1024; /* the kernel has some beside it */
    for (int threads = NORM_BACKWARD_THREADS / shape.team * shape.team; threads > 0;
         threads -= shape.team) {
        /* Two stages of x, dy and more, and the fold. */
        shape.shared =
            (size_t)threads * SLOTS * 16 * 2 * (more ? 3 : 2) + (size_t)n * sizeof(float);
        if (shape.shared > room) continue;
        shape.threads = threads;
        break;
    }
    return shape;
}

template <bool CENTRED, typename X, typename S>
static bb_status strip_backward(bb_cuda *cuda, const bb_norm_pass *pass, bb_norm_plan *plan,
                                const norm_shape &shape) {
    const int64_t v = plan->vectors;
    if constexpr (CENTRED) {
        if (v <= 64) return launch_strips<CENTRED, X, S, 32, 2, 2>(cuda, pass, plan, shape);
        return launch_strips<CENTRED, X, S, 0, 2, 2>(cuda, pass, plan, shape);
    } else {
        if (v <= 8) return launch_strips<CENTRED, X, S, 8, 1, 4>(cuda, pass, plan, shape);
        if (v <= 16) return launch_strips<CENTRED, X, S, 16, 1, 4>(cuda, pass, plan, shape);
        if (v <= 32) return launch_strips<CENTRED, X, S, 32, 1, 4>(cuda, pass, plan, shape);
        if (v <= 64) return launch_strips<CENTRED, X, S, 32, 2, 2>(cuda, pass, plan, shape);
        if (v <= 128) return launch_strips<CENTRED, X, S, 32, 4, 1>(cuda, pass, plan, shape);
        return launch_strips<CENTRED, X, S, 0, 4, 1>(cuda, pass, plan, shape);
    }
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
    const int64_t n = pass->x->size[pass->x->rank - 1];
    norm_shape shape = strip_shape<CENTRED>(cuda, n / W, n, pass->more != NULL);
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
