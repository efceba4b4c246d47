/* What a transformer is: the named models, defaults, and the check of a description from outside.
 */
#include <math.h>
#include <string.h>

#include "nn/internal.h"

enum { LIMIT = 1 << 24 }; /* of every count, so that products of two stay far from overflow */

static const struct {
    const char *name;
    int64_t dim, layers, heads, hidden, max_seq, batch;
} named[] = {
    {"tiny", 64, 2, 4, 176, 64, 8},
    {"small", 128, 4, 4, 352, 128, 16},
    {"baby", 384, 6, 6, 1024, 256, 8},
};

bool bb_nn_config_named(const char *name, bb_nn_config *config, int64_t *batch) {
    for (size_t i = 0; name && i < sizeof named / sizeof *named; i++) {
        if (strcmp(name, named[i].name) != 0) continue;
        int64_t dim = named[i].dim, heads = named[i].heads;
        *config = (bb_nn_config){.vocab = 256,
                                 .dim = dim,
                                 .layers = named[i].layers,
                                 .heads = heads,
                                 .kv_heads = heads,
                                 .head_dim = dim / heads,
                                 .hidden = named[i].hidden,
                                 .max_seq = named[i].max_seq,
                                 .rope_base = 10000,
                                 .norm_eps = 1e-5,
                                 .dtype = BB_F32};
        if (batch) *batch = named[i].batch;
        return true;
    }
    return false;
}

static bb_status check_options(bb_context *ctx, const bb_nn_config *c) {
    if (c->qk_norm && c->qk_norm_shared)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "transformer: qk_norm_shared: expected it instead of qk_norm, got both");
    if ((unsigned)c->activation > BB_NN_GELU_TANH)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "transformer: activation: expected silu, gelu or gelu_tanh, got %d",
                       (int)c->activation);
    if (!(c->embed_scale >= 0) || isinf(c->embed_scale))
        return bb_fail(ctx, BB_ERR_ARGUMENT, "transformer: embed_scale: expected 0 or more, got %g",
                       c->embed_scale);
    if (c->has_padding && (c->padding < 0 || c->padding >= c->vocab))
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "transformer: padding: expected an id below vocab (%lld), got %lld",
                       (long long)c->vocab, (long long)c->padding);
    if (c->window < 0 || c->window_from < 0)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "transformer: window and window_from: expected 0 or more, got %lld and %lld",
                       (long long)c->window, (long long)c->window_from);
    return BB_OK;
}

static bool check_count(bb_context *ctx, const char *field, int64_t value) {
    if (value >= 1 && value <= LIMIT) return true;
    bb_fail(ctx, BB_ERR_ARGUMENT, "transformer: %s: expected 1 to %d, got %lld", field, LIMIT,
            (long long)value);
    return false;
}

bb_status bb_nn_config_check(bb_context *ctx, bb_nn_config *config) {
    if (!ctx) return BB_ERR_ARGUMENT;
    if (ctx->status) return ctx->status;
    if (!bb_nn_given(ctx, config, "bb_nn_config_check", "config")) return ctx->status;
    bb_nn_config c = *config;
    if (!check_count(ctx, "vocab", c.vocab) || !check_count(ctx, "dim", c.dim) ||
        !check_count(ctx, "layers", c.layers) || !check_count(ctx, "heads", c.heads) ||
        !check_count(ctx, "hidden", c.hidden) || !check_count(ctx, "max_seq", c.max_seq))
        return ctx->status;
    if (c.kv_heads == 0) c.kv_heads = c.heads;
    if (c.head_dim == 0 && c.dim % c.heads)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "transformer: dim: expected a multiple of heads (%lld), got %lld",
                       (long long)c.heads, (long long)c.dim);
    if (c.head_dim == 0) c.head_dim = c.dim / c.heads;
    if (c.rope_base == 0) c.rope_base = 10000;
    if (c.norm_eps == 0) c.norm_eps = 1e-5;
    if (!check_count(ctx, "kv_heads", c.kv_heads) || !check_count(ctx, "head_dim", c.head_dim))
        return ctx->status;
    if (c.heads % c.kv_heads)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "transformer: kv_heads: expected a divisor of heads (%lld), got %lld",
                       (long long)c.heads, (long long)c.kv_heads);
    if (c.head_dim % 2)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "transformer: head_dim: expected an even number, got %lld",
                       (long long)c.head_dim);
    if (!(c.rope_base > 0) || isinf(c.rope_base))
        return bb_fail(ctx, BB_ERR_ARGUMENT, "transformer: rope_base: expected more than 0, got %g",
                       c.rope_base);
    if (!(c.norm_eps > 0) || isinf(c.norm_eps))
        return bb_fail(ctx, BB_ERR_ARGUMENT, "transformer: norm_eps: expected more than 0, got %g",
                       c.norm_eps);
    if (!bb_dtype_is_float(c.dtype))
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "transformer: dtype: expected f64, f32, f16 or bf16, got %s",
                       bb_dtype_name(c.dtype));
    if (check_options(ctx, &c)) return ctx->status;
    *config = c;
    return BB_OK;
}

double bb_nn_residual_std(const bb_nn_config *config) {
    return BB_NN_STD / sqrt(2.0 * (double)config->layers);
}
