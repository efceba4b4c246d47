/* Training in few bits: a toy transformer, of attention and an MLP as a chain, learns with each
 * recipe (nn/fusible/recipe.c) as well as in bf16. */
#include "tests/nn/fusible_test.h"

enum { BATCH = 4, LENGTH = 16, DIM = 32, HIDDEN = 64, VOCAB = 32 };

/* A walk in which each next id is one of four: no model gets below log(4). */
static bb_tensor *ids_of(bb_context *ctx, int step, int shift) {
    int32_t ids[BATCH * LENGTH];
    for (int b = 0; b < BATCH; b++) {
        uint64_t state = (uint64_t)(step * BATCH + b + 1);
        for (int i = 0, id = b; i < LENGTH + shift; i++) {
            if (i >= shift) ids[b * LENGTH + i - shift] = id;
            id = (5 * id + (int)(2 * (number(&state) + 1)) + 1) % VOCAB;
        }
    }
    return bb_from(ctx, BB_I32, BB_SHAPE(BATCH, LENGTH), ids);
}

/* The mean loss of the last steps. A simulated device is slow: it takes the first of them. */
static double train(test *t, const bb_chain_recipe *recipe) {
    bb_context *ctx = test_open();
    int steps = bb_get_device(ctx) == BB_CPU ? 60 : 12;
    bb_params *params = set_of(ctx, BB_BF16);
    bb_nn_config config = {.vocab = VOCAB,
                           .dim = DIM,
                           .layers = 1,
                           .heads = 2,
                           .hidden = HIDDEN,
                           .max_seq = LENGTH,
                           .dtype = BB_BF16};
    bb_nn_config_check(ctx, &config);
    bb_nn_embedding embed = bb_nn_embedding_new(params, "embed", VOCAB, DIM, 0.5);
    bb_nn_attention attention = bb_nn_attention_new(params, "attn", &config);
    bb_chain *mlp = bb_chain_new(ctx, "mlp"), *head = bb_chain_new(ctx, "head");
    bb_chain_append(mlp, bb_fusible_rms_norm(params, "mlp.norm", BB_SHAPE(DIM), NULL));
    bb_chain_append(mlp, bb_fusible_linear(params, "mlp.up", DIM, 2 * HIDDEN, 0));
    bb_chain_append(mlp, bb_fusible_activation(ctx, BB_ACT_SWIGLU));
    bb_chain_append(mlp, bb_fusible_linear(params, "mlp.down", HIDDEN, DIM, 0));
    bb_chain_append(mlp, bb_fusible_add_extra_input(ctx));
    bb_chain_append(head, bb_fusible_rms_norm(params, "norm", BB_SHAPE(DIM), NULL));
    bb_chain_append(head, bb_fusible_linear(params, "head", DIM, VOCAB, 0));
    bb_chain_set_recipe(mlp, bb_get_device(ctx), recipe);
    bb_chain_set_recipe(head, bb_get_device(ctx), recipe);
    bb_adamw *optimizer = bb_adamw_new(params, NULL);
    double sum = 0, first = 0;
    for (int i = 0; i < steps; i++) {
        bb_tensor *x = bb_nn_embedding_forward(&embed, ids_of(ctx, i, 0));
        x = bb_add(x, bb_nn_attention_forward(&attention, x, NULL, 0));
        x = bb_reshape(x, BB_SHAPE(BATCH * LENGTH, DIM));
        bb_tensor *logits = bb_chain_forward(head, bb_chain_forward_with(mlp, x, &x, 1, NULL, 0));
        bb_tensor *targets = bb_reshape(ids_of(ctx, i, 1), BB_SHAPE(BATCH * LENGTH));
        bb_tensor *loss = bb_cross_entropy(bb_cast(logits, BB_F32), targets, -100, BB_REDUCE_MEAN);
        if (!CHECK_INT(t, bb_backward(loss, NULL), BB_OK)) break;
        if (i == 0) first = bb_item(loss);
        if (i >= steps - 5) sum += bb_item(loss) / 5;
        bb_adamw_step(optimizer, 1e-2 * (i < 40 ? 1 : 0.2));
        bb_chain_update_quantizers(mlp), bb_chain_update_quantizers(head);
        bb_params_zero_grad(params);
        bb_end_step(ctx);
    }
    CHECK_MSG(t, sum < (steps == 60 ? 0.65 : 0.95) * first, "it learns nothing: %g from %g", sum,
              first);
    CHECK_OK(t, ctx);
    bb_close(ctx);
    return sum;
}

/* NVFP4 has nothing here that its published recipe has besides (random Hadamard transforms,
 * stochastic rounding), and no promise: twice what this run needs. */
static void training(test *t) {
    static const struct {
        bb_chain_recipe recipe;
        double bound;
    } rows[] = {{{.recipe = BB_FP8_DELAYED, .history = 16}, 0.02},
                {{.recipe = BB_FP8_CURRENT}, 0.02},
                {{.recipe = BB_MXFP8}, 0.02},
                {{.recipe = BB_FP8_BLOCK}, 0.02},
                {{.recipe = BB_NVFP4}, 0.05}};
    double plain = train(t, NULL);
    for (int r = 0; r < BB_RECIPE_COUNT; r++) {
        double loss = train(t, &rows[r].recipe);

        CHECK_MSG(t, fabs(loss - plain) <= rows[r].bound * plain, "recipe %d: loss %g, %g in bf16",
                  r, loss, plain);
    }
}

static const test_row rows[] = {{"a toy transformer with each recipe", training}};
TEST_MAIN(rows)
