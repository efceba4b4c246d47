/* A language model learns a nursery rhyme byte by byte, then recites it. The training loop is all
 * here.
 *
 *     build/examples/example_04_tiny_lm */
#include <stdio.h>
#include <string.h>

#include "bobbin.h"

static const char text[] =
    "One, two, buckle my shoe;\nThree, four, knock at the door;\n"
    "Five, six, pick up sticks;\nSeven, eight, lay them straight;\n"
    "Nine, ten, a big fat hen;\nEleven, twelve, dig and delve;\n"
    "Thirteen, fourteen, maids a-courting;\nFifteen, sixteen, maids in the kitchen;\n"
    "Seventeen, eighteen, maids in waiting;\nNineteen, twenty, my plate's empty.\n";

enum { BATCH = 8, LENGTH = 48, STEPS = 250 };

/* BATCH windows at random places of the text: ids, and the same moved on by one as targets. */
static void next_batch(uint32_t *random, int32_t *ids, int32_t *targets) {
    for (int b = 0; b < BATCH; b++) {
        *random = *random * 1664525u + 1013904223u;
        const char *from = text + (*random >> 8) % (sizeof text - 1 - LENGTH);
        for (int t = 0; t < LENGTH; t++) {
            ids[b * LENGTH + t] = (unsigned char)from[t];
            targets[b * LENGTH + t] = (unsigned char)from[t + 1];
        }
    }
}

static double train(bb_context *ctx, bb_nn_transformer *model) {
    bb_adamw *optimizer = bb_adamw_new(model->params, NULL);
    bb_schedule schedule = {.lr_max = 3e-3, .lr_min = 3e-4, .warmup = 20, .total = STEPS};
    int32_t ids[BATCH * LENGTH], targets[BATCH * LENGTH];
    uint32_t random = 1;
    double loss = 0;
    for (int step = 0; step < STEPS && !bb_error(ctx); step++) {
        next_batch(&random, ids, targets);
        bb_tensor *x = bb_from(ctx, BB_I32, BB_SHAPE(BATCH, LENGTH), ids);
        bb_tensor *y = bb_from(ctx, BB_I32, BB_SHAPE(BATCH, LENGTH), targets);

        bb_tensor *mean_loss = bb_nn_transformer_loss(model, x, y);
        bb_backward(mean_loss, NULL);
        double norm = bb_clip_grad_norm(model->params, 1.0);
        bb_adamw_step(optimizer, bb_schedule_lr(&schedule, step));
        bb_params_zero_grad(model->params);

        loss = bb_item(mean_loss);
        if (step % 50 == 0 || step == STEPS - 1)
            printf("step %3d  loss %.4f  gradient norm %.3f\n", step, loss, norm);
        bb_end_step(ctx); /* everything made in this step goes back to the pool */
    }
    return loss;
}

/* Greedy sampling with a cache: each call costs one position. Returns how many bytes were as in the
 * rhyme. */
static int recite(bb_context *ctx, bb_nn_transformer *model, int prompt, int count) {
    bb_nn_cache *cache = bb_nn_cache_new(model, 1, prompt + count);
    int32_t ids[64];
    int right = 0;
    for (int t = 0; t < prompt; t++) ids[t] = (unsigned char)text[t];
    bb_tensor *logits =
        bb_nn_transformer_next(model, cache, bb_from(ctx, BB_I32, BB_SHAPE(1, prompt), ids));
    printf("%.*s|", prompt, text);
    for (int i = 0; i < count && logits; i++) {
        int32_t next = (int32_t)bb_item(bb_select(bb_argmax(logits, -1, false), -1, -1));
        right += next == (unsigned char)text[prompt + i];
        putchar(next);
        bb_end_step(ctx);
        logits = bb_nn_transformer_next(model, cache, bb_from(ctx, BB_I32, BB_SHAPE(1, 1), &next));
    }
    return right;
}

int main(void) {
    bb_context *ctx = bb_open(&(bb_options){.seed = 1});
    if (!ctx) return 1;
    bb_nn_config config;
    bb_nn_config_named("tiny", &config, NULL);
    bb_nn_transformer *model = bb_nn_transformer_new(ctx, BB_CPU, &config);
    printf("%lld parameters\n", (long long)(model ? bb_params_elements(model->params) : 0));
    double loss = train(ctx, model);
    int right = recite(ctx, model, 9, 54);
    if (bb_error(ctx)) fprintf(stderr, "%s\n", bb_error_message(ctx));
    bool good = bb_error(ctx) == BB_OK && loss < 1.0 && right > 40;
    bb_close(ctx);
    return good ? 0 : 1;
}
