/* What the tests of graphs share: small functions to record, and a transformer with values. */
#ifndef BOBBIN_TESTS_IO_GRAPH_TEST_H
#define BOBBIN_TESTS_IO_GRAPH_TEST_H

#include "tests/support/test.h"

/* Random elements, the same for the same seed. */
static inline bb_tensor *graph_random(bb_context *ctx, bb_dtype dtype, bb_shape shape,
                                      uint64_t seed) {
    bb_rng before = bb_get_rng(ctx);
    bb_set_rng(ctx, (bb_rng){seed, 0});
    bb_tensor *t = bb_randn(ctx, dtype, shape);
    bb_set_rng(ctx, before);
    return t;
}

static inline bb_tensor *graph_ids(bb_context *ctx, int64_t batch, int64_t time, int64_t vocab) {
    bb_tensor *ids = bb_empty(ctx, BB_I64, BB_SHAPE(batch, time));
    int64_t *at = bb_data(ids);
    for (int64_t i = 0; i < batch * time; i++) at[i] = (i * 7919 + 13) % vocab;
    return ids;
}

/* The graph as text, until the next call. */
static inline const char *printed(const bb_graph *g) {
    static char text[1 << 17];
    FILE *f = tmpfile();
    bb_graph_print(g, f);
    rewind(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    return text;
}

static inline bool graph_same(bb_tensor *a, bb_tensor *b) {
    if (!a || !b) return false;
    bb_shape sa = bb_shape_of(a), sb = bb_shape_of(b);
    if (!bb_shape_equal(&sa, &sb) || bb_dtype_of(a) != bb_dtype_of(b)) return false;
    size_t bytes = (size_t)bb_count(a) * bb_dtype_bytes(bb_dtype_of(a));
    char *x = malloc(bytes + 1), *y = malloc(bytes + 1);
    bool same = x && y && bb_read(a, x, bytes) == BB_OK && bb_read(b, y, bytes) == BB_OK &&
                memcmp(x, y, bytes) == 0;
    free(x);
    free(y);
    return same;
}

/* A transformer with other values than its initial ones, so that no norm is constant. */
static inline bb_nn_transformer *graph_model_of(bb_context *ctx, const bb_nn_config *config) {
    bb_nn_transformer *model = bb_nn_transformer_new(ctx, BB_CPU, config);
    for (int i = 0; model && i < bb_params_count(model->params); i++) {
        bb_tensor *p = bb_params_at(model->params, i);
        double values[4096];
        int64_t n = bb_count(p);
        bb_read_f64(p, values, n);
        for (int64_t k = 0; k < n; k++) values[k] += 0.05 * sin((double)(k * 37 + i));
        bb_tensor *fresh = bb_from_f64(ctx, config->dtype, bb_shape_of(p), values);
        bb_write(p, bb_data(fresh), (size_t)n * bb_dtype_bytes(config->dtype));
    }
    return model;
}

static inline bb_nn_transformer *graph_model(bb_context *ctx, bb_dtype dtype, bool qk_norm,
                                             bool tied) {
    const bb_nn_config config = {.vocab = 19,
                                 .dim = 24,
                                 .layers = 2,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .hidden = 40,
                                 .max_seq = 32,
                                 .qk_norm = qk_norm,
                                 .tie_embeddings = tied,
                                 .dtype = dtype};
    return graph_model_of(ctx, &config);
}

static inline bb_status graph_forward(void *user, bb_tensor *const *in, bb_tensor **out) {
    bb_nn_transformer *model = user;
    out[0] = bb_nn_transformer_forward(model, in[0]);
    return bb_error(bb_context_of(in[0]));
}

static inline bb_graph *graph_of_model(bb_nn_transformer *model) {
    bb_context *ctx = bb_context_of(model->embed.weight);
    static const bb_graph_arg ids = {"ids", BB_I64, 2, {{.symbol = "batch"}, {.symbol = "time"}}};
    static const char *const outputs[] = {"logits"};
    int n = 0;
    const bb_named *listed = bb_params_list(model->params, &n);
    bb_graph_signature signature = {&ids, 1, listed, n, outputs, 1, BB_CPU};
    bool grad = bb_set_grad_enabled(ctx, false);
    bb_graph *g = bb_graph_trace(ctx, graph_forward, model, &signature);
    bb_set_grad_enabled(ctx, grad);
    return g;
}

#endif
