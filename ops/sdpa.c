/* SDPA: scaled dot product attention. query (..., H, T, D), key (..., Hk, S, D), value (..., Hk, S,
 * Dv):
 *
 *     score  = scale query key^T + mask          (T, S) for each head; scale 0 means 1/sqrt(D)
 *     output = softmax(score) value
 *
 * A key s is seen by query t unless attn_mask (bool: true may attend; float: added; broadcast to
 * (..., H, T, S)) says no, or is_causal and s > t + S - T (aligned at the lower right), or
 * window_size w and s <= t + S - T - w. A query that sees no key gives zeros and no gradient.
 * Grouped queries: H is a multiple of Hk, and query head h reads key and value head h / (H / Hk).
 * Everything is f32 (f64 for f64), rounded once.
 *
 *     P  = exp(score - logsumexp),  dvalue = P^T dy
 *     dS = P (dy value^T - rowsum(dy output)),  dquery = scale dS key,  dkey = scale dS^T query
 *
 * logsumexp (..., H, T) is all that backward needs besides inputs and output, so memory grows with
 * T, not T^2. Its price, in the fused backward: P is off by a factor of up to exp(m 2^-24) in rows
 * whose largest score m is huge. Fused kernels: backends/cpu/sdpa.c, backends/cuda/sdpa.cu. */
#include <math.h>

#include "ops/constant.h"
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

static bb_status check_attrs(const bb_call *call) {
    const bb_sdpa_attrs *a = call->attrs;
    if (!isfinite(a->scale))
        return bb_fail_attr(call, "scale", "expected a finite number, got %g", a->scale);
    if (a->window_size < 0)
        return bb_fail_attr(call, "window_size", "expected a number >= 0, got %lld",
                            (long long)a->window_size);
    return BB_OK;
}

/* query's leading axes for key (input 1) and value (input 2), except that the head axis may be a
 * divisor. */
static bb_status check_heads(const bb_call *call, int input) {
    bb_shape q = bb_shape_of(call->in[0]), shape = bb_shape_of(call->in[input]);
    if (shape.rank != q.rank)
        return bb_fail_input(call, input, "expected %d axes like query, got %d", q.rank,
                             shape.rank);
    for (int i = 0; i < q.rank - 2; i++) {
        int64_t n = q.size[i], m = shape.size[i];
        if (n == m || (i == q.rank - 3 && m > 0 && n % m == 0)) continue;
        return bb_fail_input(call, input, "expected size %lld%s on axis %d, got %lld", (long long)n,
                             i == q.rank - 3 ? " or a divisor" : "", i, (long long)m);
    }
    return BB_OK;
}

static bb_status check_mask(const bb_call *call) {
    bb_dtype dtype = bb_dtype_of(call->in[3]), query = bb_dtype_of(call->in[0]);
    if (dtype != BB_BOOL && dtype != query)
        return bb_fail_input(call, 3, "expected dtype bool or %s, got %s", bb_dtype_name(query),
                             bb_dtype_name(dtype));
    bb_shape scores = bb_shape_of(call->in[0]), mask = bb_shape_of(call->in[3]), both;
    scores.size[scores.rank - 1] = bb_size(call->in[1], -2);
    if (bb_shape_broadcast(&scores, &mask, &both) && bb_shape_equal(&scores, &both)) return BB_OK;
    char expected[BB_SHAPE_TEXT], got[BB_SHAPE_TEXT];
    return bb_fail_input(call, 3, "expected a shape that broadcasts to %s, got %s",
                         bb_shape_text(&scores, expected), bb_shape_text(&mask, got));
}

static bb_status infer(bb_call *call) {
    bb_status status = bb_infer_float(call);
    if (!status) status = bb_want_rank(call, 0, 2);
    for (int i = 1; i < 3 && !status; i++) {
        status = bb_want_dtype(call, i, bb_dtype_of(call->in[0]));
        if (!status) status = check_heads(call, i);
    }
    if (status) return status;
    bb_shape key = bb_shape_of(call->in[1]), value = bb_shape_of(call->in[2]);
    int rank = key.rank;
    if (key.size[rank - 1] != bb_size(call->in[0], -1))
        return bb_fail_input(call, 1, "expected %lld elements a row like query, got %lld",
                             (long long)bb_size(call->in[0], -1), (long long)key.size[rank - 1]);
    key.size[rank - 1] = value.size[rank - 1];
    status = bb_want_shape(call, 2, key);
    if (!status && call->in[3]) status = check_mask(call);
    if (!status) status = check_attrs(call);
    if (status) return status;
    call->meta[0].shape.size[rank - 1] = value.size[rank - 1];
    bb_shape rows = bb_shape_of(call->in[0]);
    rows.rank--;
    bb_set_meta(call, 1, call->meta[0].dtype == BB_F64 ? BB_F64 : BB_F32, rows);
    return BB_OK;
}

/* Scores where is_causal and window_size let a query see; `never` elsewhere. */
static bb_t hide_by_position(const bb_call *call, bb_t s, bb_t never) {
    const bb_sdpa_attrs *a = call->attrs;
    if (!a->is_causal && !a->window_size) return s;
    double queries = (double)bb_size(s, -2), keys = (double)bb_size(s, -1);
    bb_t last = bb_unsqueeze(bb_arange(call->ctx, BB_F64, keys - queries, keys, 1), 1);
    bb_t distance = bb_place(call, bb_sub(last, bb_arange(call->ctx, BB_F64, 0, keys, 1)));
    if (a->is_causal)
        s = bb_where(bb_ge(distance, bb_place(call, bb_scalar(call->ctx, BB_F64, 0))), s, never);
    if (a->window_size > 0) {
        bb_t window = bb_place(call, bb_scalar(call->ctx, BB_F64, (double)a->window_size));
        s = bb_where(bb_lt(distance, window), s, never);
    }
    return s;
}

/* Scores of shape (n, group, T, S) with every mask applied; -inf where a key is not seen. */
static bb_t scores(const bb_call *call, bb_t q, bb_t k, bb_shape four) {
    const bb_sdpa_attrs *a = call->attrs;
    bb_t mask = call->in[3];
    bb_dtype wide = bb_dtype_of(q);
    int64_t width = bb_size(q, -1);
    double scale = a->scale != 0 || width == 0 ? a->scale : 1 / sqrt((double)width);
    bb_t never = bb_place(call, bb_scalar(call->ctx, wide, -INFINITY));
    bb_t s = bb_matmul(bb_mul_scalar(q, scale), bb_transpose(k, -2, -1));
    if (mask) {
        bb_shape full = bb_shape_of(call->in[0]);
        full.size[full.rank - 1] = four.size[3];
        bb_t m = bb_reshape(bb_expand(mask, full), four);
        s = bb_dtype_of(mask) == BB_BOOL ? bb_where(m, s, never) : bb_add(s, bb_cast(m, wide));
    }
    return hide_by_position(call, s, never);
}

/* The largest score of each row, 0 where it is -inf. As in softmax, no gradient goes through it. */
static bb_t largest(const bb_call *call, bb_t scores, bb_t zero) {
    bool grad = bb_set_grad_enabled(call->ctx, false);
    bb_t top = bb_amax(scores, BB_INTS(-1), true);
    bb_t never = bb_place(call, bb_scalar(call->ctx, bb_dtype_of(scores), -INFINITY));
    top = bb_where(bb_eq(top, never), zero, top);
    bb_set_grad_enabled(call->ctx, grad);
    return top;
}

static bb_status decompose(bb_call *call) {
    bb_dtype dtype = bb_dtype_of(call->in[0]), wide = dtype == BB_F64 ? BB_F64 : BB_F32;
    bb_shape shape = bb_shape_of(call->in[1]);
    int rank = shape.rank;
    int64_t n = 1, heads = rank > 2 ? bb_size(call->in[0], rank - 3) : 1,
            kv_heads = rank > 2 ? shape.size[rank - 3] : 1;
    for (int i = 0; i < rank - 2; i++) n *= shape.size[i];
    int64_t group = kv_heads ? heads / kv_heads : 1;
    int64_t queries = bb_size(call->in[0], -2), keys = shape.size[rank - 2],
            width = shape.size[rank - 1];

    /* One axis for batch and key heads, one for the query heads that share them. */
    bb_t q = bb_reshape(bb_cast(call->in[0], wide), BB_SHAPE(n, group, queries, width));
    bb_t k = bb_reshape(bb_cast(call->in[1], wide), BB_SHAPE(n, 1, keys, width));
    bb_t v = bb_reshape(bb_cast(call->in[2], wide), BB_SHAPE(n, 1, keys, bb_size(call->in[2], -1)));
    bb_t p = scores(call, q, k, BB_SHAPE(n, group, queries, keys));
    if (keys > 0) {
        /* Of a row without keys there would be -inf - -inf: it gets equal finite scores, and its
         * probabilities are cleared after. What is far below the row's largest score is no more
         * hidden than that: a mask of the lowest finite number over a whole row changes nothing. */
        bb_t zero = bb_place(call, bb_scalar(call->ctx, wide, 0));
        bb_t lowest = bb_place(call, bb_scalar(call->ctx, wide, wide == BB_F64 ? -1e300 : -1e30));
        p = bb_sub(p, largest(call, p, zero));
        bb_t masked = bb_eq(p, bb_place(call, bb_scalar(call->ctx, wide, -INFINITY)));
        p = bb_where(masked, zero, bb_softmax(bb_where(masked, lowest, p), -1));
    }
    call->out[0] = bb_reshape(bb_cast(bb_matmul(p, v), dtype), call->meta[0].shape);
    return bb_error(call->ctx);
}

const bb_op bb_op_sdpa = {
    .name = "SDPA",
    .doc = "softmax(scale * query @ key^T + attn_mask) @ value",
    .inputs = {"query", "key", "value", "attn_mask"},
    .outputs = {"output", "logsumexp"},
    .attrs = {{"scale", BB_ATTR_FLOAT, offsetof(bb_sdpa_attrs, scale), .value = 0},
              {"is_causal", BB_ATTR_BOOL, offsetof(bb_sdpa_attrs, is_causal), .value = 0},
              {"window_size", BB_ATTR_INT, offsetof(bb_sdpa_attrs, window_size), .value = 0}},
    .attrs_bytes = sizeof(bb_sdpa_attrs),
    .optional = 1u << 3,
    .hidden = 1,
    .saves_inputs = 1u << 0 | 1u << 1 | 1u << 2 | 1u << 3,
    .saves_outputs = 1u << 0 | 1u << 1,
    .infer = infer,
    .decompose = decompose,
};

bb_t bb_sdpa(bb_t query, bb_t key, bb_t value, bb_t attn_mask, const bb_sdpa_attrs *attrs) {
    bb_tensor *in[] = {query, key, value, attn_mask};
    bb_t first = query ? query : key ? key : value;
    return bb_apply1(bb_context_of(first), &bb_op_sdpa, in, 4, attrs);
}
