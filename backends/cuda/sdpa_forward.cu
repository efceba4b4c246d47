/* SDPA forward (math: ops/sdpa.c). A block takes a stretch of one head's queries and goes through
 * the keys that any of them sees, a tile at a time; the scores of a tile never leave the registers
 * (tensor cores) or shared memory (FMA), so memory grows with T and S.
 *
 * Read: query once, key and value once per block of queries (mostly from L2: the blocks of a head
 * are neighbours), mask once. Written: output, and 4 bytes (f64: 8) of logsumexp a query. The
 * blocks with most keys under a causal mask start first. Tile sizes, registers and the rates that
 * they allow: DESIGN.md here. Results do not depend on the device's size. */
#include "backends/cuda/sdpa_fma.h"
#include "backends/cuda/sdpa_mma.h"

namespace {

/* ---- Tensor cores: a warp has 16 M queries. More rows a warp use each fragment of key and value
 * more often, until the registers are full; see DESIGN.md. */
template <int WIDTH> struct mma_shape {
    enum {
        M = WIDTH <= 128 ? 2 : 1,
        KEYS = WIDTH <= 64 ? 64 : 32,
        WARP_QUERIES = 16 * M,
        QUERIES = BB_MMA_WARPS * WARP_QUERIES,
        LD = WIDTH + BB_MMA_GAP,
        BYTES = (QUERIES + 2 * KEYS) * LD * 2
    };
};

/* While a tile's scores are made its values arrive, and the next tile's keys while they are used:
 * one buffer each, two barriers a tile. */
template <typename T, int WIDTH>
__global__ void __launch_bounds__(BB_MMA_THREADS, 2) forward_mma(const bb_sdpa_job<T> j) {
    typedef mma_shape<WIDTH> shape;
    enum { M = shape::M, KEYS = shape::KEYS };
    BB_DYNAMIC_SHARED(T, shared);
    if (WIDTH > BB_MMA_WIDEST) return;
    T *const q = shared, *const k = q + shape::QUERIES * shape::LD, *const v = k + KEYS * shape::LD;
    const int64_t blocks = (j.queries + shape::QUERIES - 1) / shape::QUERIES;
    const int64_t head = blockIdx.x / blocks;
    const int64_t query = (blocks - 1 - blockIdx.x % blocks) * shape::QUERIES;
    const int own = (int)threadIdx.x / BB_WARP * shape::WARP_QUERIES; /* the warp's first row */
    const T *keys = bb_sdpa_head(j, j.k, head, j.group),
            *values = bb_sdpa_head(j, j.v, head, j.group);
    const void *mask = bb_sdpa_head_mask(j, head);
    const bb_sdpa_range range = bb_sdpa_keys_of(j, query, shape::QUERIES);

    float max[2 * M], sum[2 * M], decay[2 * M];
    bb_mma_tile<M, WIDTH / 8> out;
    out.clear();
    for (int r = 0; r < 2 * M; r++) max[r] = -INFINITY, sum[r] = 0;
    bb_mma_stage<shape::QUERIES, WIDTH>(q, bb_sdpa_head(j, j.q, head) + query * j.q.row, j.q.row,
                                        j.queries - query, j.width, j.q.wide);
    if (range.first < range.last)
        bb_mma_stage<KEYS, WIDTH>(k, keys + range.first * j.k.row, j.k.row, j.keys - range.first,
                                  j.width, j.k.wide);
    bb_async_commit();
    for (int64_t key = range.first; key < range.last; key += KEYS) {
        const bb_sdpa_corner corner = bb_sdpa_corner_at(j, query + own, key);
        const bool busy = !bb_sdpa_blind(corner, shape::WARP_QUERIES, KEYS);
        bb_mma_tile<M, KEYS / 8> s;
        bb_async_wait<0>();
        __syncthreads(); /* the keys are here, and nobody reads the last values */
        bb_mma_stage<KEYS, WIDTH>(v, values + key * j.v.row, j.v.row, j.keys - key, j.value_width,
                                  j.v.wide);
        bb_async_commit();
        if (busy) {
            bb_mma_scores<WIDTH>(s, q + own * shape::LD, k);
            bb_sdpa_score<false>(j, mask, corner, shape::WARP_QUERIES, KEYS, s);
            bb_sdpa_soften<T>(s, max, sum, decay);
#pragma unroll
            for (int r = 0; r < 2 * M; r++)
#pragma unroll
                for (int c = 0; c < WIDTH / 4; c++) out.at(r, c) *= decay[r];
        }
        bb_async_wait<0>();
        __syncthreads(); /* the values are here, and nobody reads the keys */
        if (key + KEYS < range.last)
            bb_mma_stage<KEYS, WIDTH>(k, keys + (key + KEYS) * j.k.row, j.k.row,
                                      j.keys - key - KEYS, j.width, j.k.wide);
        bb_async_commit();
        if (busy) bb_mma_accumulate<WIDTH>(out, s, v);
    }
    bb_async_wait<0>();
    __syncthreads(); /* without keys the queries may still be on their way into shared memory */
    const int64_t left = j.queries - query - own;
#pragma unroll
    for (int r = 0; r < 2 * M; r++) {
        float lse, factor;
        bb_sdpa_finish<4, T>(max[r], sum[r], &lse, &factor);
        const int row = out.row(r);
        if (j.lse && bb_lane() % 4 == 0 && row < left)
            j.lse[head * j.queries + query + own + row] = lse;
#pragma unroll
        for (int c = 0; c < WIDTH / 4; c++) out.at(r, c) *= factor;
    }
    bb_mma_store<WIDTH>(out, q + own * shape::LD,
                        j.out + (head * j.queries + query + own) * j.value_width, left,
                        j.value_width);
}

template <int WIDTH, typename T> bb_status launch_mma(bb_cuda *cuda, const bb_sdpa_job<T> &j) {
    typedef mma_shape<WIDTH> shape;
    const int64_t blocks = (j.queries + shape::QUERIES - 1) / shape::QUERIES;
    return BB_LAUNCH(cuda, (forward_mma<T, WIDTH>), (unsigned)(blocks * j.heads), BB_MMA_THREADS,
                     shape::BYTES, j);
}

/* ---- FMA: the block is one tile of queries. C: tiles of output columns. */
template <typename T, int C>
__global__ void __launch_bounds__(BB_FMA_THREADS, 1) forward_fma(const bb_sdpa_job<T> j) {
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
    const bb_fma_rows<T> q =
        bb_fma_rows_at(bb_sdpa_head(j, j.q, head), j.q.row, query, j.queries, j.width);

    R max[N], sum[N], decay[N];
    tile s;
    bb_fma_sums<R, C> out;
    out.clear();
    for (int r = 0; r < N; r++) max[r] = -(R)INFINITY, sum[r] = 0;
    for (int64_t key = range.first; key < range.last; key += SIZE) {
        bb_fma_scores(s, q, bb_fma_rows_at(keys, j.k.row, key, j.keys, j.width), pieces);
        bb_sdpa_score<false>(j, mask, bb_sdpa_corner_at(j, query, key), SIZE, SIZE, s);
        bb_sdpa_soften<T>(s, max, sum, decay);
#pragma unroll
        for (int i = 0; i < C * N * N; i++)
            out.v[i / (N * N)][i / N % N][i % N] *= decay[i / N % N];
        bb_fma_share(s, weights);
        bb_fma_accumulate(out, weights, bb_fma_rows_at(values, j.v.row, key, j.keys, j.value_width),
                          pieces);
    }
    R factor[N];
#pragma unroll
    for (int r = 0; r < N; r++) {
        R lse;
        bb_sdpa_finish<tile::LANES, T>(max[r], sum[r], &lse, &factor[r]);
        const int64_t row = query + s.row(r);
        if (j.lse && threadIdx.x % BB_FMA_SIDE == 0 && row < j.queries)
            j.lse[head * j.queries + row] = lse;
    }
    bb_fma_store(out, factor, j.out + (head * j.queries + query) * j.value_width, j.queries - query,
                 j.value_width);
}

template <int WIDTH, typename T> bb_status launch_fma(bb_cuda *cuda, const bb_sdpa_job<T> &j) {
    typedef bb_fma_tile<bb_real<T>> tile;
    const int64_t blocks = (j.queries + tile::SIZE - 1) / tile::SIZE;
    return BB_LAUNCH(cuda, (forward_fma<T, WIDTH / tile::SIZE>), (unsigned)(blocks * j.heads),
                     BB_FMA_THREADS, tile::BYTES, j);
}

} // namespace

template <typename T> bb_status bb_sdpa_forward(bb_cuda *cuda, const bb_sdpa_job<T> &j) {
    const int width = max(j.width, j.value_width);
    bb_status status = BB_OK;
    const auto launch = [&](auto w) { status = launch_mma<decltype(w)::value>(cuda, j); };
    if (bb_mma_for_width<T>(cuda, width, mma_shape<256>::BYTES, launch)) return status;
    return j.value_width <= 64 ? launch_fma<64>(cuda, j) : launch_fma<256>(cuda, j);
}

template bb_status bb_sdpa_forward(bb_cuda *, const bb_sdpa_job<double> &);
template bb_status bb_sdpa_forward(bb_cuda *, const bb_sdpa_job<float> &);
template bb_status bb_sdpa_forward(bb_cuda *, const bb_sdpa_job<bb_half> &);
template bb_status bb_sdpa_forward(bb_cuda *, const bb_sdpa_job<bb_bfloat> &);
