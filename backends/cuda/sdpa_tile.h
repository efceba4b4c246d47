/* A tile of scores in the registers of a warp (tensor cores) or a block (FMA), and what is done to
 * it between two products: hiding what a query does not see, softmax, its gradient. The ways that
 * the two kinds of products spread a tile over threads meet here: a tile type S has
 *     ROWS, COLUMNS   elements of this thread       LANES  neighbouring lanes that share its rows
 *     at(r, c)        element                       row(r), column(c)  where it is in the tile
 */
#ifndef BOBBIN_BACKENDS_CUDA_SDPA_TILE_H
#define BOBBIN_BACKENDS_CUDA_SDPA_TILE_H

#include "backends/cuda/sdpa.h"

/* How scores are kept: for f16 and bf16 times log2(e), because exp2 is one instruction; for f32 and
 * f64 as they are, which rounds once less. */
template <typename T> struct bb_sdpa_scores_of {
    typedef bb_real<T> R;
    static __device__ inline R unit() { return (R)1.4426950408889634074; }
    static __device__ inline R power(R x) { return exp2f(x); }
    static __device__ inline R logarithm(R x) { return log2f(x); }
};
template <> struct bb_sdpa_scores_of<float> {
    static __device__ inline float unit() { return 1; }
    static __device__ inline float power(float x) { return expf(x); }
    static __device__ inline float logarithm(float x) { return logf(x); }
};
template <> struct bb_sdpa_scores_of<double> {
    static __device__ inline double unit() { return 1; }
    static __device__ inline double power(double x) { return exp(x); }
    static __device__ inline double logarithm(double x) { return log(x); }
};
static __device__ inline float bb_larger(float a, float b) { return fmaxf(a, b); }
static __device__ inline double bb_larger(double a, double b) { return fmax(a, b); }

/* ---- Where a head's rows are. `group` query heads share what is looked up; head is over all
 * batches. */
static __device__ inline int64_t bb_sdpa_lead(const int64_t *size, int leads, int64_t group,
                                              const int64_t *stride, int64_t head) {
    int64_t offset = 0;
    head /= group;
    for (int a = leads - 1; a >= 0; a--) {
        const int64_t n = a == leads - 1 ? size[a] / group : size[a];
        offset += head % n * stride[a];
        head /= n;
    }
    return offset;
}
template <typename T>
static __device__ inline const T *bb_sdpa_head(const bb_sdpa_job<T> &j, const bb_sdpa_rows<T> &r,
                                               int64_t head, int64_t group = 1) {
    return r.data + bb_sdpa_lead(j.lead_size, j.leads, group, r.lead, head);
}

/* ---- Who sees whom: query t sees key s if 0 <= t + S - T - s (causal) < window. */
struct bb_sdpa_range {
    int64_t first, last; /* from first up to, not including, last */
};
template <typename T>
static __device__ inline bb_sdpa_range bb_sdpa_keys_of(const bb_sdpa_job<T> &j, int64_t first,
                                                       int64_t count) {
    const int64_t shift = j.keys - j.queries, end = min(first + count, j.queries);
    bb_sdpa_range r = {0, j.keys};
    if (j.causal) r.last = min(r.last, end + shift);
    if (j.window) r.first = max(r.first, first + shift - j.window + 1);
    return r;
}
template <typename T>
static __device__ inline bb_sdpa_range bb_sdpa_queries_of(const bb_sdpa_job<T> &j, int64_t first,
                                                          int64_t count) {
    const int64_t shift = j.keys - j.queries, end = min(first + count, j.keys);
    bb_sdpa_range r = {0, j.queries};
    if (j.causal) r.first = max(r.first, first - shift);
    if (j.window) r.last = min(r.last, end - 1 + j.window - shift);
    return r;
}

/* The corner of a tile, and what is hidden in it. */
struct bb_sdpa_corner {
    int64_t query, key;
    int distance;      /* query + S - T - key: how far the corner's query looks past its key */
    int least, most;   /* distances that are seen */
    int queries, keys; /* that there are from here on */
};
static __device__ inline int bb_sdpa_clamp(int64_t x) {
    const int64_t most = 1 << 29; /* far beyond any tile, and sums of two stay in an int */
    return (int)(x < -most ? -most : x > most ? most : x);
}
template <typename T>
static __device__ inline bb_sdpa_corner bb_sdpa_corner_at(const bb_sdpa_job<T> &j, int64_t query,
                                                          int64_t key) {
    bb_sdpa_corner c;
    c.query = query, c.key = key;
    c.distance = bb_sdpa_clamp(query + j.keys - j.queries - key);
    c.least = j.causal ? 0 : -(1 << 30);
    c.most = j.window ? bb_sdpa_clamp(j.window - 1) : 1 << 30;
    c.queries = bb_sdpa_clamp(j.queries - query);
    c.keys = bb_sdpa_clamp(j.keys - key);
    return c;
}
/* Of a tile of this many queries and keys: nothing is seen, everything is. */
static __device__ inline bool bb_sdpa_blind(const bb_sdpa_corner &c, int queries, int keys) {
    return c.queries <= 0 || c.keys <= 0 || c.distance + queries - 1 < c.least ||
           c.distance - keys + 1 > c.most;
}
static __device__ inline bool bb_sdpa_open(const bb_sdpa_corner &c, int queries, int keys) {
    return c.queries >= queries && c.keys >= keys && c.distance - keys + 1 >= c.least &&
           c.distance + queries - 1 <= c.most;
}

/* Adds a float mask, or puts -inf where a bool mask says false. Column by column, so that few
 * addresses are alive at a time: this is the rare case, and its registers are everybody's. */
template <bool BY_KEYS, typename T, typename S>
static __device__ inline void bb_sdpa_add_mask(const bb_sdpa_job<T> &j, const void *mask,
                                               const bb_sdpa_corner &c, S &s) {
    typedef bb_real<T> R;
    const int64_t row_stride = BY_KEYS ? j.mask.key : j.mask.query,
                  column_stride = BY_KEYS ? j.mask.query : j.mask.key,
                  corner = c.query * j.mask.query + c.key * j.mask.key;
    const int rows = BY_KEYS ? c.keys : c.queries, columns = BY_KEYS ? c.queries : c.keys;
#pragma unroll
    for (int x = 0; x < S::COLUMNS; x++) {
        const int64_t at = corner + s.column(x) * column_stride;
#pragma unroll
        for (int r = 0; r < S::ROWS; r++) {
            if (s.column(x) >= columns || s.row(r) >= rows) continue;
            if (j.mask.kind == BB_SDPA_FLOAT_MASK)
                s.at(r, x) += widen(static_cast<const T *>(mask)[at + s.row(r) * row_stride]) *
                              bb_sdpa_scores_of<T>::unit();
            else if (!static_cast<const uint8_t *>(mask)[at + s.row(r) * row_stride])
                s.at(r, x) = -(R)INFINITY;
        }
    }
}

/* Scales the products of queries and keys to scores; -inf where a key is not seen. BY_KEYS: the
 * tile's rows are keys and its columns queries. mask: the head's own. */
template <bool BY_KEYS, typename T, typename S>
static __device__ inline void bb_sdpa_score(const bb_sdpa_job<T> &j, const void *mask,
                                            const bb_sdpa_corner &c, int queries, int keys, S &s) {
    typedef bb_real<T> R;
    const R scale = j.scale * bb_sdpa_scores_of<T>::unit();
#pragma unroll
    for (int x = 0; x < S::COLUMNS; x++)
#pragma unroll
        for (int r = 0; r < S::ROWS; r++) s.at(r, x) *= scale;
    if (j.mask.kind != BB_SDPA_NO_MASK) bb_sdpa_add_mask<BY_KEYS>(j, mask, c, s);
    if (bb_sdpa_open(c, queries, keys)) return;
#pragma unroll
    for (int x = 0; x < S::COLUMNS; x++)
#pragma unroll
        for (int r = 0; r < S::ROWS; r++) {
            const int t = BY_KEYS ? s.column(x) : s.row(r), k = BY_KEYS ? s.row(r) : s.column(x);
            const int distance = c.distance + t - k;
            if (t >= c.queries || k >= c.keys || distance < c.least || distance > c.most)
                s.at(r, x) = -(R)INFINITY;
        }
}
template <typename T>
static __device__ inline const void *bb_sdpa_head_mask(const bb_sdpa_job<T> &j, int64_t head) {
    if (j.mask.kind == BB_SDPA_NO_MASK) return NULL;
    const int64_t unit = j.mask.kind == BB_SDPA_BOOL_MASK ? 1 : (int64_t)sizeof(T);
    return static_cast<const char *>(j.mask.data) +
           unit * bb_sdpa_lead(j.lead_size, j.leads, 1, j.mask.lead, head);
}

/* ---- Online softmax (Milakov and Gimelshein 2018; Dao et al., "FlashAttention", 2022). Turns
 * scores into exp(score - max) and adds this thread's share to sum; max is the row's and grows,
 * decay[r] is what older sums of the row shrink by. */
template <typename T, typename R, typename S>
static __device__ inline void bb_sdpa_soften(S &s, R *max, R *sum, R *decay) {
#pragma unroll
    for (int r = 0; r < S::ROWS; r++) {
        R top = max[r];
#pragma unroll
        for (int x = 0; x < S::COLUMNS; x++) top = bb_larger(top, s.at(r, x));
#pragma unroll
        for (int d = S::LANES / 2; d > 0; d /= 2)
            top = bb_larger(top, __shfl_xor_sync(BB_ALL_LANES, top, d));
        const R base = top == -(R)INFINITY ? 0 : top; /* nothing seen: inf - inf is no number */
        decay[r] = bb_sdpa_scores_of<T>::power(max[r] - base);
        max[r] = top;
        sum[r] *= decay[r];
#pragma unroll
        for (int x = 0; x < S::COLUMNS; x++) {
            s.at(r, x) = bb_sdpa_scores_of<T>::power(s.at(r, x) - base);
            sum[r] += s.at(r, x);
        }
    }
}
/* At the end: sum of the whole row; logsumexp and the factor that makes output of what was summed.
 * A row that saw nothing: -inf and 0. */
template <int LANES, typename T, typename R>
static __device__ inline void bb_sdpa_finish(R max, R sum, R *lse, R *factor) {
#pragma unroll
    for (int d = LANES / 2; d > 0; d /= 2) sum += __shfl_xor_sync(BB_ALL_LANES, sum, d);
    *lse = (max + bb_sdpa_scores_of<T>::logarithm(sum)) / bb_sdpa_scores_of<T>::unit();
    *factor = sum == 0 ? 0 : 1 / sum;
}

/* ---- Backward. What a row of probabilities is made again from, in the unit of scores; +inf where
 * the query sees nothing or is not there, which makes its probabilities 0. */
template <typename T>
static __device__ inline bb_real<T> bb_sdpa_lse(const bb_sdpa_job<T> &j, int64_t head,
                                                int64_t query) {
    typedef bb_real<T> R;
    const R lse = query < j.queries ? j.lse[head * j.queries + query] : -(R)INFINITY;
    return lse == -(R)INFINITY ? (R)INFINITY : lse * bb_sdpa_scores_of<T>::unit();
}
template <typename T>
static __device__ inline bb_real<T> bb_sdpa_delta(const bb_sdpa_job<T> &j, int64_t head,
                                                  int64_t query) {
    return query < j.queries ? j.delta[head * j.queries + query] : (bb_real<T>)0;
}

#endif
