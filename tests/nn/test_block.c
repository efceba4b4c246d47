/* A block is its two halves, and keeps no storage that backward does not need. */
#include "tests/nn/nn_test.h"

static const bb_nn_config config = {.vocab = 5,
                                    .dim = 16,
                                    .layers = 1,
                                    .heads = 4,
                                    .kv_heads = 2,
                                    .head_dim = 4,
                                    .hidden = 24,
                                    .max_seq = 8,
                                    .rope_base = 10000,
                                    .norm_eps = 1e-5,
                                    .dtype = BB_F32};

static void halves(test *t) {
    bb_context *ctx = test_open();
    uint64_t state = 7;
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    bb_nn_block block = bb_nn_block_new(params, "blocks.0", &config);
    bb_params_build(params);
    scramble(t, params, &state);
    const char *names[] = {"attn_norm.weight", "attn.qkv.weight", "attn.out.weight",
                           "mlp_norm.weight",  "mlp.gate.weight", "mlp.up.weight",
                           "mlp.down.weight"};
    CHECK_INT(t, bb_params_count(params), 7);
    for (int i = 0; i < 7; i++) {
        CHECK_MSG(t, strncmp(bb_params_name(params, i), "blocks.0.", 9) == 0, "%s",
                  bb_params_name(params, i));
        CHECK_TEXT(t, bb_params_name(params, i) + 9, names[i]);
    }
    bb_tensor *x =
        bb_set_requires_grad(random_tensor(ctx, BB_F32, BB_SHAPE(2, 8, 16), 1, &state), true);
    bb_tensor *y = bb_nn_block_forward(&block, x, NULL, 0);
    bb_tensor *h =
        bb_add(x, bb_nn_attention_forward(&block.attn, bb_nn_rms_norm_forward(&block.attn_norm, x),
                                          NULL, 0));
    bb_tensor *z =
        bb_add(h, bb_nn_mlp_forward(&block.mlp, bb_nn_rms_norm_forward(&block.mlp_norm, h)));
    CHECK(t, same_bytes(y, z));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Without gradients only the result stays. */
static void storage(test *t) {
    bb_context *ctx = test_open();
    uint64_t state = 8;
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    bb_nn_block block = bb_nn_block_new(params, "b", &config);
    bb_params_build(params);
    bb_tensor *x = random_tensor(ctx, BB_F32, BB_SHAPE(2, 8, 16), 1, &state);
    bb_set_grad_enabled(ctx, false);
    size_t before = bb_memory_stats(ctx).bytes_in_use;
    bb_tensor *y = bb_nn_block_forward(&block, x, NULL, 0);
    CHECK_INT(t, bb_memory_stats(ctx).bytes_in_use - before, bb_count(y) * 4);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {{"halves", halves}, {"storage", storage}};
TEST_MAIN(rows)
