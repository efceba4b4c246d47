/* SDPA backward (math: ops/sdpa.c), in three launches without atomics, each result summed by one
 * block in a fixed order:
 *
 *   delta   rowsum(dy output) of each query, a warp a row
 *   dquery  a block takes queries and goes through the keys they see, as forward does
 *   dkey, dvalue  a block takes keys and goes through the queries that see them, of every query
 *           head that shares the keys; its scores have keys as rows, so that what has been made of
 *           them is the left operand of both products
 *
 * Probabilities are made again from logsumexp, twice: seven products of tiles instead of five, for
 * results that are the same bits every time and on every device. Read: query, key, value, dy and
 * the mask twice, mostly from L2; written: the gradients, once. */
#include "backends/cuda/sdpa_fma.h"
#include "backends/cuda/sdpa_mma.h"

namespace {

enum { DELTA_WARPS = 4 };

template <typename T>
__global__ void __launch_bounds__(DELTA_WARPS *BB_WARP) delta_kernel(const bb_sdpa_job<T> j) {
    typedef bb_real<T> R;
    const int lane = (int)threadIdx.x % BB_WARP;
    const int64_t step = (int64_t)gridDim.x * DELTA_WARPS, rows = j.heads * j.queries;
    for (int64_t i = blockIdx.x * (int64_t)DELTA_WARPS + threadIdx.x / BB_WARP; i < rows;
         i += step) {
        const T *dout = bb_sdpa_head(j, j.dout, i / j.queries) + i % j.queries * j.dout.row;
        const T *o = j.o + i * j.value_width;
        R sum = 0;
        for (int d = lane; d < j.value_width; d += BB_WARP) sum += widen(dout[d]) * widen(o[d]);
        sum = bb_warp_sum(sum);
        if (lane == 0) j.delta[i] = sum;
    }
}

/* Scores -> probabilities, dp -> dS without the scale. Statistics are those of rows. */
template <typename T, typename S, typename R>
__device__ inline void by_rows(S &s, S &dp, const R *lse, const R *delta) {
#pragma unroll
    for (int r = 0; r < S::ROWS; r++)
#pragma unroll
        for (int c = 0; c < S::COLUMNS; c++)
            dp.at(r, c) =
                bb_sdpa_scores_of<T>::power(s.at(r, c) - lse[r]) * (dp.at(r, c) - delta[r]);
}
template <typename T, typename S, typename R>
__device__ inline void probabilities(S &s, const R *lse) {
#pragma unroll
    for (int c = 0; c < S::COLUMNS; c++) {
        const R base = lse[s.column(c)];
#pragma unroll
        for (int r = 0; r < S::ROWS; r++)
            s.at(r, c) = bb_sdpa_scores_of<T>::power(s.at(r, c) - base);
    }
}
template <typename S, typename R>
__device__ inline void by_columns(const S &p, S &dp, const R *delta) {
    S &weights = const_cast<S &>(p);
#pragma unroll
    for (int c = 0; c < S::COLUMNS; c++) {
        const R base = delta[dp.column(c)];
#pragma unroll
        for (int r = 0; r < S::ROWS; r++) dp.at(r, c) = weights.at(r, c) * (dp.at(r, c) - base);
    }
}

/* ---- Tensor cores. A warp has 16 rows of the block's 64; the other side comes in tiles of OTHER
 * rows, in two buffers that take turns where the device has room for them. */
enum { OWN = 16 * BB_MMA_WARPS };
template <int WIDTH> struct mma_shape {
    enum {
        LD = WIDTH + BB_MMA_GAP,
        KEYS = WIDTH <= 64 ? 64 : 32, /* a tile, for dquery */
        QUERIES = WIDTH <= 64    ? 64
                  : WIDTH <= 128 ? 32
                                 : 16,                          /* a tile, for dkey and dvalue */
        KEYS_BYTES = 2 * KEYS * LD * 2,                         /* of a buffer: both operands */
        QUERIES_BYTES = 2 * QUERIES * LD * 2 + 2 * QUERIES * 4, /* and their statistics */
        OWN_BYTES = 2 * OWN * LD * 2
    };
};

template <typename T, int WIDTH>
__global__ void __launch_bounds__(BB_MMA_THREADS, 2)
    dquery_mma(const bb_sdpa_job<T> j, const int buffers) {
    typedef mma_shape<WIDTH> shape;
    enum { KEYS = shape::KEYS, LD = shape::LD };
    BB_DYNAMIC_SHARED(T, shared);
    if (WIDTH > BB_MMA_WIDEST) return;
    T *const q = shared, *const dout = q + OWN * LD, *const tiles = dout + OWN * LD;
    const int64_t blocks = (j.queries + OWN - 1) / OWN, head = blockIdx.x / blocks;
    const int64_t query = (blocks - 1 - blockIdx.x % blocks) * OWN;
    const int own = (int)threadIdx.x / BB_WARP * 16;
    const T *keys = bb_sdpa_head(j, j.k, head, j.group),
            *values = bb_sdpa_head(j, j.v, head, j.group);
    const void *mask = bb_sdpa_head_mask(j, head);
    const bb_sdpa_range range = bb_sdpa_keys_of(j, query, OWN);

    bb_mma_tile<1, WIDTH / 8> dq;
    float lse[2], delta[2];
    dq.clear();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        lse[r] = bb_sdpa_lse(j, head, query + own + dq.row(r));
        delta[r] = bb_sdpa_delta(j, head, query + own + dq.row(r));
    }
    bb_mma_stage<OWN, WIDTH>(q, bb_sdpa_head(j, j.q, head) + query * j.q.row, j.q.row,
                             j.queries - query, j.width, j.q.wide);
    bb_mma_stage<OWN, WIDTH>(dout, bb_sdpa_head(j, j.dout, head) + query * j.dout.row, j.dout.row,
                             j.queries - query, j.value_width, j.dout.wide);
    const auto stage = [&](int64_t key, T *to) {
        bb_mma_stage<KEYS, WIDTH>(to, keys + key * j.k.row, j.k.row, j.keys - key, j.width,
                                  j.k.wide);
        bb_mma_stage<KEYS, WIDTH>(to + KEYS * LD, values + key * j.v.row, j.v.row, j.keys - key,
                                  j.value_width, j.v.wide);
        bb_async_commit();
    };
    if (range.first < range.last) stage(range.first, tiles);
    int turn = 0;
    for (int64_t key = range.first; key < range.last; key += KEYS) {
        T *const k = tiles + turn * 2 * KEYS * LD, *const v = k + KEYS * LD;
        const bool more = key + KEYS < range.last;
        turn = buffers == 2 ? 1 - turn : 0;
        if (more && buffers == 2) {
            stage(key + KEYS, tiles + turn * 2 * KEYS * LD);
            bb_async_wait<1>();
        } else {
            bb_async_wait<0>();
        }
        __syncthreads();
        const bb_sdpa_corner corner = bb_sdpa_corner_at(j, query + own, key);
        if (!bb_sdpa_blind(corner, 16, KEYS)) {
            bb_mma_tile<1, KEYS / 8> s, dp;
            bb_mma_scores<WIDTH>(s, q + own * LD, k);
            bb_sdpa_score<false>(j, mask, corner, 16, KEYS, s);
            bb_mma_scores<WIDTH>(dp, dout + own * LD, v);
            by_rows<T>(s, dp, lse, delta);
            bb_mma_accumulate<WIDTH>(dq, dp, k);
        }
        __syncthreads();
        if (more && buffers == 1) stage(key + KEYS, tiles);
    }
    bb_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int c = 0; c < WIDTH / 4; c++) dq.at(r, c) *= j.scale;
    bb_mma_store<WIDTH>(dq, q + own * LD, j.dq + (head * j.queries + query + own) * j.width,
                        j.queries - query - own, j.width);
}

/* Both gradients at once need 2 WIDTH sums a row: WIDTH 256 takes a launch for each. */
template <typename T, int WIDTH, bool KEY, bool VALUE>
__global__ void __launch_bounds__(BB_MMA_THREADS, 2)
    dkey_mma(const bb_sdpa_job<T> j, const int buffers) {
    typedef mma_shape<WIDTH> shape;
    enum { QUERIES = shape::QUERIES, LD = shape::LD, BUFFER = 2 * QUERIES * LD };
    BB_DYNAMIC_SHARED(T, shared);
    if (WIDTH > BB_MMA_WIDEST) return;
    T *const k = shared, *const v = k + OWN * LD, *const tiles = v + OWN * LD;
    float *const statistics = reinterpret_cast<float *>(tiles + buffers * BUFFER);
    const int64_t blocks = (j.keys + OWN - 1) / OWN, owner = blockIdx.x / blocks;
    const int64_t key = blockIdx.x % blocks * OWN;
    const int own = (int)threadIdx.x / BB_WARP * 16;
    const bb_sdpa_range range = bb_sdpa_queries_of(j, key, OWN);
    const int64_t stretch = max(range.last - range.first, (int64_t)0);
    const int64_t per_head = (stretch + QUERIES - 1) / QUERIES, turns = per_head * j.group;

    bb_mma_tile<1, KEY ? WIDTH / 8 : 1> dk;
    bb_mma_tile<1, VALUE ? WIDTH / 8 : 1> dv;
    dk.clear();
    dv.clear();
    bb_mma_stage<OWN, WIDTH>(k, bb_sdpa_head(j, j.k, owner * j.group, j.group) + key * j.k.row,
                             j.k.row, j.keys - key, j.width, j.k.wide);
    bb_mma_stage<OWN, WIDTH>(v, bb_sdpa_head(j, j.v, owner * j.group, j.group) + key * j.v.row,
                             j.v.row, j.keys - key, j.value_width, j.v.wide);
    const auto stage = [&](int64_t turn, int buffer) {
        const int64_t head = owner * j.group + turn / per_head,
                      query = range.first + turn % per_head * QUERIES;
        T *const to = tiles + buffer * BUFFER;
        bb_mma_stage<QUERIES, WIDTH>(to, bb_sdpa_head(j, j.q, head) + query * j.q.row, j.q.row,
                                     j.queries - query, j.width, j.q.wide);
        bb_mma_stage<QUERIES, WIDTH>(to + QUERIES * LD,
                                     bb_sdpa_head(j, j.dout, head) + query * j.dout.row, j.dout.row,
                                     j.queries - query, j.value_width, j.dout.wide);
        bb_async_commit();
        const int i = (int)threadIdx.x;
        float *const s = statistics + buffer * 2 * QUERIES;
        if (i < QUERIES) s[i] = bb_sdpa_lse(j, head, query + i);
        if (i < QUERIES) s[QUERIES + i] = bb_sdpa_delta(j, head, query + i);
    };
    if (turns > 0) stage(0, 0);
    for (int64_t turn = 0; turn < turns; turn++) {
        const int buffer = buffers == 2 ? (int)(turn % 2) : 0;
        const T *const q = tiles + buffer * BUFFER, *const dout = q + QUERIES * LD;
        const float *const lse = statistics + buffer * 2 * QUERIES;
        if (turn + 1 < turns && buffers == 2) {
            stage(turn + 1, 1 - buffer);
            bb_async_wait<1>();
        } else {
            bb_async_wait<0>();
        }
        __syncthreads();
        const int64_t query = range.first + turn % per_head * QUERIES;
        const bb_sdpa_corner corner = bb_sdpa_corner_at(j, query, key + own);
        if (!bb_sdpa_blind(corner, QUERIES, 16)) {
            const void *mask = bb_sdpa_head_mask(j, owner * j.group + turn / per_head);
            bb_mma_tile<1, QUERIES / 8> p, dp;
            bb_mma_scores<WIDTH>(p, k + own * LD, q);
            bb_sdpa_score<true>(j, mask, corner, QUERIES, 16, p);
            probabilities<T>(p, lse);
            if constexpr (VALUE) bb_mma_accumulate<WIDTH>(dv, p, dout);
            if constexpr (KEY) {
                bb_mma_scores<WIDTH>(dp, v + own * LD, dout);
                by_columns(p, dp, lse + QUERIES);
                bb_mma_accumulate<WIDTH>(dk, dp, q);
            }
        }
        __syncthreads();
        if (turn + 1 < turns && buffers == 1) stage(turn + 1, 0);
    }
    bb_async_wait<0>();
    __syncthreads();
    const int64_t row = owner * j.keys + key + own, left = j.keys - key - own;
    if constexpr (KEY) {
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int c = 0; c < WIDTH / 4; c++) dk.at(r, c) *= j.scale;
        if (j.dk) bb_mma_store<WIDTH>(dk, k + own * LD, j.dk + row * j.width, left, j.width);
    }
    if constexpr (VALUE)
        if (j.dv)
            bb_mma_store<WIDTH>(dv, v + own * LD, j.dv + row * j.value_width, left, j.value_width);
}

/* Two buffers where they fit. */
template <int WIDTH, typename T> bb_status launch_mma(bb_cuda *cuda, const bb_sdpa_job<T> &j) {
    typedef mma_shape<WIDTH> shape;
    const size_t most = cuda->info.shared_bytes, own = shape::OWN_BYTES;
    const int queries = own + 2 * shape::QUERIES_BYTES <= most ? 2 : 1,
              keys = own + 2 * shape::KEYS_BYTES <= most ? 2 : 1;
    const unsigned query_blocks = (unsigned)(j.heads * ((j.queries + OWN - 1) / OWN)),
                   key_blocks = (unsigned)(j.heads / j.group * ((j.keys + OWN - 1) / OWN));
    const size_t query_bytes = own + keys * shape::KEYS_BYTES,
                 key_bytes = own + queries * shape::QUERIES_BYTES;
    bb_status status = BB_OK;
    if (j.dq)
        status = BB_LAUNCH(cuda, (dquery_mma<T, WIDTH>), query_blocks, BB_MMA_THREADS, query_bytes,
                           j, keys);
    if constexpr (WIDTH <= 128) {
        if (!status && (j.dk || j.dv))
            status = BB_LAUNCH(cuda, (dkey_mma<T, WIDTH, true, true>), key_blocks, BB_MMA_THREADS,
                               key_bytes, j, queries);
    } else {
        if (!status && j.dv)
            status = BB_LAUNCH(cuda, (dkey_mma<T, WIDTH, false, true>), key_blocks, BB_MMA_THREADS,
                               key_bytes, j, queries);
        if (!status && j.dk)
            status = BB_LAUNCH(cuda, (dkey_mma<T, WIDTH, true, false>), key_blocks, BB_MMA_THREADS,
                               key_bytes, j, queries);
    }
    return status;
}

/* ---- FMA. C: tiles of columns of the gradients. */
template <typename T, int C>
__global__ void __launch_bounds__(BB_FMA_THREADS, 1) dquery_fma(const bb_sdpa_job<T> j) {
    typedef bb_real<T> R;
    typedef bb_fma_tile<R> tile;
    enum { N = tile::N, SIZE = tile::SIZE };
    BB_DYNAMIC_SHARED(R, weights);
    R *const pieces = weights + SIZE * tile::LD;
    const int64_t blocks = (j.queries + SIZE - 1) / SIZE, head = blockIdx.x / blocks;
    const int64_t query = (blocks - 1 - blockIdx.x % blocks) * SIZE;
    const T *keys = bb_sdpa_head(j, j.k, head, j.group),
            *values = bb_sdpa_head(j, j.v, head, j.group);
    const void *mask = bb_sdpa_head_mask(j, head);
    const bb_sdpa_range range = bb_sdpa_keys_of(j, query, SIZE);
    const bb_fma_rows<T> q = bb_fma_rows_at(bb_sdpa_head(j, j.q, head), j.q.row, query, j.queries,
                                            j.width),
                         dout = bb_fma_rows_at(bb_sdpa_head(j, j.dout, head), j.dout.row, query,
                                               j.queries, j.value_width);
    tile s, dp;
    bb_fma_sums<R, C> dq;
    R lse[N], delta[N], factor[N];
    dq.clear();
#pragma unroll
    for (int r = 0; r < N; r++) {
        lse[r] = bb_sdpa_lse(j, head, query + s.row(r));
        delta[r] = bb_sdpa_delta(j, head, query + s.row(r));
        factor[r] = j.scale;
    }
    for (int64_t key = range.first; key < range.last; key += SIZE) {
        const bb_fma_rows<T> k = bb_fma_rows_at(keys, j.k.row, key, j.keys, j.width);
        bb_fma_scores(s, q, k, pieces);
        bb_sdpa_score<false>(j, mask, bb_sdpa_corner_at(j, query, key), SIZE, SIZE, s);
        bb_fma_scores(dp, dout, bb_fma_rows_at(values, j.v.row, key, j.keys, j.value_width),
                      pieces);
        by_rows<T>(s, dp, lse, delta);
        bb_fma_share(dp, weights);
        bb_fma_accumulate(dq, weights, k, pieces);
    }
    bb_fma_store(dq, factor, j.dq + (head * j.queries + query) * j.width, j.queries - query,
                 j.width);
}

template <typename T, int C>
__global__ void __launch_bounds__(BB_FMA_THREADS, 1) dkey_fma(const bb_sdpa_job<T> j) {
    typedef bb_real<T> R;
    typedef bb_fma_tile<R> tile;
    enum { N = tile::N, SIZE = tile::SIZE };
    BB_DYNAMIC_SHARED(R, weights);
    R *const pieces = weights + SIZE * tile::LD, *const lse = weights + tile::SHARED,
             *const delta = lse + SIZE;
    const int64_t blocks = (j.keys + SIZE - 1) / SIZE, owner = blockIdx.x / blocks;
    const int64_t key = blockIdx.x % blocks * SIZE;
    const bb_sdpa_range range = bb_sdpa_queries_of(j, key, SIZE);
    const bb_fma_rows<T> k = bb_fma_rows_at(bb_sdpa_head(j, j.k, owner * j.group, j.group), j.k.row,
                                            key, j.keys, j.width),
                         v = bb_fma_rows_at(bb_sdpa_head(j, j.v, owner * j.group, j.group), j.v.row,
                                            key, j.keys, j.value_width);
    tile p, dp;
    bb_fma_sums<R, C> dk, dv;
    R factor[N];
    dk.clear();
    dv.clear();
    for (int64_t head = owner * j.group; head < (owner + 1) * j.group; head++) {
        const void *mask = bb_sdpa_head_mask(j, head);
        for (int64_t query = range.first; query < range.last; query += SIZE) {
            const bb_fma_rows<T> q = bb_fma_rows_at(bb_sdpa_head(j, j.q, head), j.q.row, query,
                                                    j.queries, j.width),
                                 dout = bb_fma_rows_at(bb_sdpa_head(j, j.dout, head), j.dout.row,
                                                       query, j.queries, j.value_width);
            __syncthreads();
            if (threadIdx.x < SIZE) {
                lse[threadIdx.x] = bb_sdpa_lse(j, head, query + threadIdx.x);
                delta[threadIdx.x] = bb_sdpa_delta(j, head, query + threadIdx.x);
            }
            __syncthreads();
            bb_fma_scores(p, k, q, pieces);
            bb_sdpa_score<true>(j, mask, bb_sdpa_corner_at(j, query, key), SIZE, SIZE, p);
            probabilities<T>(p, lse);
            if (j.dv) {
                bb_fma_share(p, weights);
                bb_fma_accumulate(dv, weights, dout, pieces);
            }
            if (!j.dk) continue;
            bb_fma_scores(dp, v, dout, pieces);
            by_columns(p, dp, delta);
            bb_fma_share(dp, weights);
            bb_fma_accumulate(dk, weights, q, pieces);
        }
    }
    const int64_t row = owner * j.keys + key, left = j.keys - key;
#pragma unroll
    for (int r = 0; r < N; r++) factor[r] = j.scale;
    if (j.dk) bb_fma_store(dk, factor, j.dk + row * j.width, left, j.width);
#pragma unroll
    for (int r = 0; r < N; r++) factor[r] = 1;
    if (j.dv) bb_fma_store(dv, factor, j.dv + row * j.value_width, left, j.value_width);
}

template <int WIDTH, typename T> bb_status launch_fma(bb_cuda *cuda, const bb_sdpa_job<T> &j) {
    typedef bb_fma_tile<bb_real<T>> tile;
    enum { C = WIDTH / tile::SIZE, SIZE = tile::SIZE };
    bb_status status = BB_OK;
    if (j.dq)
        status = BB_LAUNCH(cuda, (dquery_fma<T, C>),
                           (unsigned)(j.heads * ((j.queries + SIZE - 1) / SIZE)), BB_FMA_THREADS,
                           tile::BYTES, j);
    if (!status && (j.dk || j.dv))
        status = BB_LAUNCH(cuda, (dkey_fma<T, C>),
                           (unsigned)(j.heads / j.group * ((j.keys + SIZE - 1) / SIZE)),
                           BB_FMA_THREADS, tile::BYTES + 2 * SIZE * sizeof(bb_real<T>), j);
    return status;
}

} // namespace

template <typename T> bb_status bb_sdpa_backward(bb_cuda *cuda, const bb_sdpa_job<T> &j) {
    const int width = max(j.width, j.value_width);
    const int64_t rows = j.heads * j.queries;
    bb_status status =
        BB_LAUNCH(cuda, (delta_kernel<T>), rows ? bb_cuda_grid(cuda, rows, DELTA_WARPS, 16) : 0,
                  DELTA_WARPS * BB_WARP, 0, j);
    if (status) return status;
    typedef mma_shape<256> widest;
    const auto launch = [&](auto w) { status = launch_mma<decltype(w)::value>(cuda, j); };
    if (bb_mma_for_width<T>(cuda, width, (size_t)widest::OWN_BYTES + widest::KEYS_BYTES, launch))
        return status;
    return width <= 64 ? launch_fma<64>(cuda, j) : launch_fma<256>(cuda, j);
}

template bb_status bb_sdpa_backward(bb_cuda *, const bb_sdpa_job<double> &);
template bb_status bb_sdpa_backward(bb_cuda *, const bb_sdpa_job<float> &);
template bb_status bb_sdpa_backward(bb_cuda *, const bb_sdpa_job<bb_half> &);
template bb_status bb_sdpa_backward(bb_cuda *, const bb_sdpa_job<bb_bfloat> &);
