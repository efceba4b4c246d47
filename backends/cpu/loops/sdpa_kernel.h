/* Attention of one element type: sdpa.h says how it is laid out. The including file defines REAL
 * (float or double), its DTYPE, LOAD and STORE (the members of bb_elementwise_loops that convert to
 * and from it), and EXP and LOG of one REAL, and gets the static functions scratch_elements,
 * forward and backward; this is a header so that the two precisions are one text.
 * Products and transposes: sdpa_product.h.
 *
 * Softmax is online (Milakov and Gimelshein 2018; Dao et al., "FlashAttention", 2022): a tile of
 * scores is used up while it is in the L1 cache, against the maximum so far, and what was summed
 * before is scaled down when that maximum grows. Backward makes the probabilities again from
 * logsumexp. */
#include "backends/cpu/loops/loops.h"
#include "backends/cpu/loops/sdpa_product.h"

#include <math.h>
#include <string.h>

enum { BLOCK = BB_SDPA_BLOCK, TILE = BB_SDPA_TILE, GROUP = 16 };

/* Keys [first, first + keys) against the queries of a block: row j of a (key, query) array is key
 * first + j, lane i is query begin + i. Lanes from `rows` to `lanes` are padding. */
typedef struct tile {
    int64_t begin, rows, lanes;
    int64_t first, keys, last; /* last: keys of the whole block end here */
    int64_t shift;             /* S - T */
    bool diagonal;             /* causal, and not every lane sees every key */
} tile;

/* Positions of the queries and the keys that any of them may see. */
static tile first_tile(const bb_sdpa_head *h, int64_t begin, int64_t end) {
    tile t = {.begin = begin, .rows = end - begin, .shift = h->keys - h->queries, .last = h->keys};
    t.lanes = (t.rows + LANES - 1) / LANES * LANES;
    if (h->causal && end + t.shift < t.last) t.last = end + t.shift;
    if (h->window && begin + t.shift - h->window + 1 > 0) t.first = begin + t.shift - h->window + 1;
    return t;
}

/* The next tile after the keys of *t; false at the end. */
static bool next_tile(const bb_sdpa_head *h, tile *t) {
    t->first += t->keys;
    if (t->first >= t->last) return false;
    t->keys = t->last - t->first < TILE ? t->last - t->first : TILE;
    t->diagonal = h->causal && t->first + t->keys - 1 > t->begin + t->shift;
    return true;
}

/* A tile on the diagonal is worked on in groups of keys, leaving out the lanes that see none of the
 * group. */
static inline int64_t group_size(const tile *t, int64_t j) {
    if (!t->diagonal) return t->keys;
    return t->keys - j < GROUP ? t->keys - j : GROUP;
}
static inline int64_t first_lane(const tile *t, int64_t j) {
    if (!t->diagonal) return 0;
    int64_t lane = t->first + j / GROUP * GROUP - t->shift - t->begin;
    return lane < 0 ? 0 : lane / LANES * LANES;
}

/* Rows of REALs, `stride` elements apart. */
typedef struct rows {
    const REAL *at;
    int64_t stride;
} rows;

/* Element `index` of an array of the head's dtype. */
static char *element(const bb_sdpa_head *h, const void *array, int64_t index) {
    return (char *)array + index * (h->dtype == DTYPE ? (int64_t)sizeof(REAL) : 2);
}

/* `count` rows from `first` on: where they lie, or widened into `wide`. */
static rows get_rows(const bb_sdpa_head *h, const void *array, int64_t stride, int64_t first,
                     int64_t count, int64_t width, REAL *wide) {
    const char *from = element(h, array, first * stride);
    if (h->dtype == DTYPE) return (rows){(const REAL *)(const void *)from, stride};
    const int64_t run = stride == width ? count : 1;
    for (int64_t j = 0; j < count; j += run)
        BB_ISA_NAME(bb_elementwise_loops)
            .LOAD(h->dtype, run * width, element(h, from, j * stride), 1, wide + j * width);
    return (rows){wide, width};
}

/* The block's rows of out or dq, from their transpose; `wide` is for those that are rounded. */
static void put_rows(const bb_sdpa_head *h, const tile *t, int64_t width, const REAL *block,
                     void *array, REAL *wide) {
    void *to = element(h, array, t->begin * width);
    const bool narrow = h->dtype != DTYPE;
    transpose(width, t->rows, block, BLOCK, narrow ? wide : to, width);
    if (narrow) BB_ISA_NAME(bb_elementwise_loops).STORE(h->dtype, t->rows * width, wide, to);
}

/* scores[j][i] = sum over d of from[j][d] block[d][i]; for query and key, and for dO and value. */
static void score(const tile *t, rows from, int64_t width, const REAL *block, REAL *scores) {
    for (int64_t j = 0, n; j < t->keys; j += n) {
        const int64_t lane = first_lane(t, j);
        n = group_size(t, j);
        const operand a = {from.at + j * from.stride, from.stride, 1};
        product(n, t->lanes - lane, width, a, block + lane, BLOCK, false, scores + j * BLOCK + lane,
                BLOCK);
    }
}

/* sums[d][i] += sum over j of from[j][d] weights[j][i]. */
static void gather(const tile *t, rows from, int64_t width, const REAL *weights, REAL *sums) {
    for (int64_t j = 0, n; j < t->keys; j += n) {
        const int64_t lane = first_lane(t, j);
        n = group_size(t, j);
        const operand a = {from.at + j * from.stride, 1, from.stride};
        product(width, t->lanes - lane, n, a, weights + j * BLOCK + lane, BLOCK, true, sums + lane,
                BLOCK);
    }
}

/* out[j][d] += sum over i of weights[j][i] from[i][d]; `from` are rows of the block's queries. */
static void scatter(const tile *t, const REAL *weights, rows from, int64_t width, REAL *out) {
    for (int64_t j = 0, n; j < t->keys; j += n) {
        const int64_t lane = first_lane(t, j);
        n = group_size(t, j);
        if (lane >= t->rows) continue;
        const operand a = {weights + j * BLOCK + lane, BLOCK, 1};
        product(n, width, t->rows - lane, a, from.at + lane * from.stride, from.stride, true,
                out + (t->first + j) * width, width);
    }
}

static void add_mask(const bb_sdpa_head *h, const tile *t, REAL *scores) {
    for (int64_t j = 0; j < t->keys; j++) {
        const int64_t at = t->begin * h->mask_t + (t->first + j) * h->mask_s;
        REAL *s = scores + j * BLOCK;
        if (h->mask_is_bool) {
            const uint8_t *m = (const uint8_t *)h->mask + at;
            for (int64_t i = first_lane(t, j); i < t->rows; i++)
                s[i] = m[i * h->mask_t] ? s[i] : -(REAL)INFINITY;
        } else {
            REAL wide[BLOCK];
            rows m = {(const REAL *)(const void *)element(h, h->mask, at), h->mask_t};
            if (h->dtype != DTYPE) {
                BB_ISA_NAME(bb_elementwise_loops).LOAD(h->dtype, t->rows, m.at, m.stride, wide);
                m = (rows){wide, 1};
            }
            for (int64_t i = first_lane(t, j); i < t->rows; i++) s[i] += m.at[i * m.stride];
        }
    }
}

/* -inf where a query does not see a key. */
static void hide(const bb_sdpa_head *h, const tile *t, REAL *scores) {
    if (h->mask) add_mask(h, t, scores);
    if (!t->diagonal && !h->window) return;
    for (int64_t j = 0; j < t->keys; j++) {
        REAL *s = scores + j * BLOCK;
        const int64_t own =
            t->first + j - t->shift - t->begin; /* the lane whose last key this is */
        int64_t i = first_lane(t, j);
        if (h->causal)
            for (; i < own && i < t->lanes; i++) s[i] = -(REAL)INFINITY;
        if (h->window)
            for (i = own + h->window > i ? own + h->window : i; i < t->lanes; i++)
                s[i] = -(REAL)INFINITY;
    }
}

/* Turns scores into exp(score - max) and adds them to sum; max grows and decay[i] is what older
 * sums shrink by. */
static void exponentiate(const tile *t, REAL *scores, REAL *max, REAL *sum, REAL *decay) {
    REAL top[BLOCK], base[BLOCK];
    memcpy(top, max, sizeof top);
    for (int64_t j = 0; j < t->keys; j++) {
        const REAL *s = scores + j * BLOCK;
#pragma omp simd
        for (int64_t i = first_lane(t, j); i < t->lanes; i++)
            top[i] = s[i] > top[i] ? s[i] : top[i];
    }
#pragma omp simd
    for (int64_t i = 0; i < t->lanes; i++) {
        base[i] =
            top[i] == -(REAL)INFINITY ? 0 : top[i]; /* nothing seen yet: inf - inf is no number */
        decay[i] = EXP(max[i] - base[i]);
        sum[i] *= decay[i];
        max[i] = top[i];
    }
    for (int64_t j = 0; j < t->keys; j++) {
        REAL *s = scores + j * BLOCK;
#pragma omp simd
        for (int64_t i = first_lane(t, j); i < t->lanes; i++) {
            s[i] = EXP(s[i] - base[i]);
            sum[i] += s[i];
        }
    }
}

/* The block of queries, transposed and scaled. */
static void load_block(const tile *t, rows from, int64_t width, double scale, REAL *block) {
    transpose(t->rows, width, from.at, from.stride, block, BLOCK);
    for (int64_t d = 0; d < width; d++) {
#pragma omp simd
        for (int64_t i = 0; i < t->rows; i++) block[d * BLOCK + i] *= (REAL)scale;
        for (int64_t i = t->rows; i < t->lanes; i++) block[d * BLOCK + i] = 0;
    }
}

static size_t scratch_elements(const bb_sdpa_head *h, bool backward) {
    const size_t widths = (size_t)(h->width + h->value_width);
    return BLOCK *
           (backward ? 3 * widths + (size_t)h->width + 2 * TILE + 2 : 2 * widths + TILE + 3);
}

static void forward(const bb_sdpa_head *h, int64_t begin, int64_t end, REAL *scratch) {
    REAL *q = scratch, *out = q + h->width * BLOCK, *scores = out + h->value_width * BLOCK;
    REAL *max = scores + TILE * BLOCK, *sum = max + BLOCK, *decay = sum + BLOCK;
    REAL *wide_k = decay + BLOCK, *wide_v = wide_k + h->width * TILE;
    tile t = first_tile(h, begin, end);
    load_block(&t, get_rows(h, h->q, h->q_stride, begin, t.rows, h->width, wide_k), h->width,
               h->scale, q);
    memset(out, 0, (size_t)(h->value_width * BLOCK) * sizeof *out);
    for (int i = 0; i < BLOCK; i++) max[i] = -(REAL)INFINITY, sum[i] = 0;

    for (bool first = true; next_tile(h, &t); first = false) {
        const rows k = get_rows(h, h->k, h->k_stride, t.first, t.keys, h->width, wide_k);
        const rows v = get_rows(h, h->v, h->v_stride, t.first, t.keys, h->value_width, wide_v);
        score(&t, k, h->width, q, scores);
        hide(h, &t, scores);
        exponentiate(&t, scores, max, sum, decay);
        for (int64_t d = 0; d < h->value_width && !first; d++) {
#pragma omp simd
            for (int64_t i = 0; i < t.lanes; i++) out[d * BLOCK + i] *= decay[i];
        }
        gather(&t, v, h->value_width, scores, out);
    }

    for (int64_t i = 0; i < t.lanes; i++)
        decay[i] = sum[i] == 0 ? 0 : 1 / sum[i]; /* no key: zeros */
    for (int64_t d = 0; d < h->value_width; d++) {
#pragma omp simd
        for (int64_t i = 0; i < t.lanes; i++) out[d * BLOCK + i] *= decay[i];
    }
    put_rows(h, &t, h->value_width, out, h->out, wide_v);
    if (!h->lse) return;
    for (int64_t i = 0; i < t.rows; i++) ((REAL *)h->lse)[begin + i] = max[i] + LOG(sum[i]);
}

/* logsumexp and rowsum(dO O) of the block's queries. Padding and queries that see nothing get
 * probability 0. */
static void load_statistics(const bb_sdpa_head *h, const tile *t, rows out, rows dout, REAL *lse,
                            REAL *delta) {
    for (int64_t i = 0; i < t->lanes; i++) {
        REAL dot = 0;
        lse[i] = (REAL)INFINITY;
        delta[i] = 0;
        if (i >= t->rows) continue;
        const REAL *o = out.at + i * out.stride, *g = dout.at + i * dout.stride;
#pragma omp simd reduction(+ : dot)
        for (int64_t d = 0; d < h->value_width; d++) dot += o[d] * g[d];
        delta[i] = dot;
        const REAL l = ((const REAL *)h->lse)[t->begin + i];
        if (l != -(REAL)INFINITY) lse[i] = l;
    }
}

/* scores -> probabilities, dp -> dS, the gradient of the scores before scaling. */
static void differentiate(const bb_sdpa_head *h, const tile *t, const REAL *lse, const REAL *delta,
                          REAL *scores, REAL *dp) {
    for (int64_t j = 0; j < t->keys; j++) {
        REAL *s = scores + j * BLOCK, *d = dp + j * BLOCK;
#pragma omp simd
        for (int64_t i = first_lane(t, j); i < t->lanes; i++) {
            s[i] = EXP(s[i] - lse[i]);
            d[i] = s[i] * (d[i] - delta[i]) * (REAL)h->scale;
        }
    }
}

static void backward(const bb_sdpa_head *h, REAL *scratch) {
    const int64_t d = h->width, e = h->value_width;
    REAL *q = scratch, *dout = q + d * BLOCK, *dq = dout + e * BLOCK, *scores = dq + d * BLOCK;
    REAL *dp = scores + TILE * BLOCK, *lse = dp + TILE * BLOCK, *delta = lse + BLOCK;
    REAL *wide_q = delta + BLOCK, *wide_dout = wide_q + d * BLOCK;
    REAL *wide_k = wide_dout + e * BLOCK, *wide_v = wide_k + d * TILE;
    for (int64_t begin = 0; begin < h->queries; begin += BLOCK) {
        tile t = first_tile(h, begin, begin + BLOCK < h->queries ? begin + BLOCK : h->queries);
        const rows own_q = get_rows(h, h->q, h->q_stride, begin, t.rows, d, wide_q);
        const rows own_dout = get_rows(h, h->dout, h->dout_stride, begin, t.rows, e, wide_dout);
        load_block(&t, own_q, d, h->scale, q);
        load_block(&t, own_dout, e, 1, dout);
        load_statistics(h, &t, get_rows(h, h->out, e, begin, t.rows, e, wide_v), own_dout, lse,
                        delta);
        memset(dq, 0, (size_t)(d * BLOCK) * sizeof *dq);
        while (next_tile(h, &t)) {
            const rows k = get_rows(h, h->k, h->k_stride, t.first, t.keys, d, wide_k);
            const rows v = get_rows(h, h->v, h->v_stride, t.first, t.keys, e, wide_v);
            score(&t, k, d, q, scores);
            hide(h, &t, scores);
            score(&t, v, e, dout, dp);
            differentiate(h, &t, lse, delta, scores, dp);
            if (h->dq) gather(&t, k, d, dp, dq);
            if (h->dk) scatter(&t, dp, own_q, d, h->dk);
            if (h->dv) scatter(&t, scores, own_dout, e, h->dv);
        }
        if (h->dq) put_rows(h, &t, d, dq, h->dq, wide_q);
    }
}
