/* Named models, defaults, and descriptions that are refused. */
#include "tests/nn/nn_test.h"

static void named(test *t) {
    static const struct {
        const char *name;
        int64_t dim, layers, heads, hidden, max_seq, batch;
    } want[] = {{"tiny", 64, 2, 4, 176, 64, 8},
                {"small", 128, 4, 4, 352, 128, 16},
                {"baby", 384, 6, 6, 1024, 256, 8}};
    bb_context *ctx = test_open();
    for (int i = 0; i < 3; i++) {
        bb_nn_config c;
        int64_t batch = 0;
        CHECK(t, bb_nn_config_named(want[i].name, &c, &batch) &&
                     bb_nn_config_named(want[i].name, &c, NULL));
        CHECK_INT(t, c.dim, want[i].dim);
        CHECK_INT(t, c.layers, want[i].layers);
        CHECK_INT(t, c.heads, want[i].heads);
        CHECK_INT(t, c.kv_heads, want[i].heads);
        CHECK_INT(t, c.hidden, want[i].hidden);
        CHECK_INT(t, c.max_seq, want[i].max_seq);
        CHECK_INT(t, batch, want[i].batch);
        CHECK_INT(t, c.vocab, 256);
        CHECK_INT(t, c.dtype, BB_F32);
        CHECK(t, !c.tie_embeddings && !c.qk_norm);
        CHECK_INT(t, bb_nn_config_check(ctx, &c), BB_OK);
    }
    bb_nn_config c;
    CHECK(t, !bb_nn_config_named("huge", &c, NULL) && !bb_nn_config_named(NULL, &c, NULL));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const bb_nn_config good = {
    .vocab = 7, .dim = 12, .layers = 1, .heads = 3, .hidden = 4, .max_seq = 9, .dtype = BB_BF16};

static void defaults(test *t) {
    bb_context *ctx = test_open();
    bb_nn_config c = good;
    CHECK_INT(t, bb_nn_config_check(ctx, &c), BB_OK);
    CHECK_INT(t, c.kv_heads, 3);
    CHECK_INT(t, c.head_dim, 4);
    CHECK_NEAR(t, c.rope_base, 10000, 0);
    CHECK_NEAR(t, c.norm_eps, 1e-5, 0);
    c.head_dim = 6, c.kv_heads = 1; /* a head_dim that is not dim / heads is fine */
    CHECK_INT(t, bb_nn_config_check(ctx, &c), BB_OK);
    CHECK_INT(t, c.head_dim, 6);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void refused(test *t) {
    bb_context *ctx = test_open();
    bb_nn_config c[17];
    const char *part[17] = {"vocab: expected 1 to 16777216, got 0",
                            "dim: expected 1 to",
                            "layers: expected 1 to",
                            "heads: expected 1 to",
                            "hidden: expected 1 to",
                            "max_seq: expected 1 to",
                            "kv_heads: expected a divisor of heads (3), got 2",
                            "head_dim: expected an even number, got 5",
                            "dim: expected a multiple of heads (3), got 13",
                            "rope_base: expected more than 0, got -1",
                            "norm_eps: expected more than 0, got nan",
                            "dtype: expected f64, f32, f16 or bf16, got i32",
                            "qk_norm_shared: expected it instead of qk_norm, got both",
                            "activation: expected silu, gelu or gelu_tanh, got 7",
                            "embed_scale: expected 0 or more, got -1",
                            "window and window_from: expected 0 or more, got -1 and 0",
                            "padding: expected an id below vocab (7), got 7"};
    for (int i = 0; i < 17; i++) c[i] = good;
    c[12].qk_norm = c[12].qk_norm_shared = true, c[13].activation = (bb_nn_activation)7,
    c[14].embed_scale = -1, c[15].window = -1, c[16].has_padding = true, c[16].padding = 7;
    c[0].vocab = 0, c[1].dim = -1, c[2].layers = INT64_MAX, c[3].heads = 0, c[4].hidden = 0,
    c[5].max_seq = 0;
    c[6].kv_heads = 2, c[7].head_dim = 5, c[8].dim = 13, c[9].rope_base = -1, c[10].norm_eps = NAN,
    c[11].dtype = BB_I32;
    for (int i = 0; i < 17; i++) {
        bb_nn_config before = c[i];
        CHECK_INT(t, bb_nn_config_check(ctx, &c[i]), BB_ERR_ARGUMENT);
        CHECK(t, c[i].kv_heads == before.kv_heads); /* left as it was */
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, part[i]);
        CHECK(t, !bb_nn_transformer_new(ctx, bb_get_device(ctx), &before));
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, part[i]);
    }
    CHECK_INT(t, bb_nn_config_check(NULL, &c[0]), BB_ERR_ARGUMENT);
    bb_close(ctx);
}

static const test_row rows[] = {{"named", named}, {"defaults", defaults}, {"refused", refused}};
TEST_MAIN(rows)
