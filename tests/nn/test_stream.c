/* A transformer whose residual stream runs as chains against the plain one: the same gradients, and
 * the same training curve. */
#include "tests/nn/nn_test.h"
#include "tests/support/alloc.h"

enum { BATCH = 4, LENGTH = 8, STEPS = 20, VOCAB = 11 };

static bb_nn_config config_of(bb_dtype dtype, int variant) {
    bb_nn_config c = {.vocab = VOCAB,
                      .dim = 16,
                      .layers = 2,
                      .heads = 2,
                      .hidden = 24,
                      .max_seq = LENGTH,
                      .dtype = dtype};
    if (variant & 1) c.zero_centered_norm = c.qk_norm = c.tie_embeddings = true;
    if (variant & 2) c.out_bias = c.mlp_bias = true, c.activation = BB_NN_GELU_TANH;
    return c;
}

static bb_tensor *ids_of(bb_context *ctx, uint64_t seed) {
    int32_t ids[BATCH * LENGTH];
    for (int i = 0; i < BATCH * LENGTH; i++)
        ids[i] = (int32_t)((number(&seed) + 1) / 2 * (VOCAB - 0.001));
    return bb_from(ctx, BB_I32, BB_SHAPE(BATCH, LENGTH), ids);
}

static bb_nn_transformer *model_of(test *t, bb_context *ctx, bb_nn_config c, bool chain) {
    uint64_t state = 5;
    c.fused_chain = chain;
    bb_nn_transformer *model = bb_nn_transformer_new(ctx, bb_get_device(ctx), &c);
    if (CHECK(t, model)) scramble(t, model->params, &state);
    return model;
}

static void gradients(test *t) {
    for (int k = 0; k < 8; k++) {
        bb_context *ctx = test_open();
        bb_nn_config c = config_of(k & 4 ? BB_F32 : BB_F64, k & 3);
        bb_nn_transformer *plain = model_of(t, ctx, c, false), *chain = model_of(t, ctx, c, true);
        bb_tensor *a = bb_nn_transformer_loss(plain, ids_of(ctx, 1), ids_of(ctx, 2));
        int nodes = bb_tape_length(ctx);
        bb_tensor *b = bb_nn_transformer_loss(chain, ids_of(ctx, 1), ids_of(ctx, 2));
        CHECK(t, bb_tape_length(ctx) - nodes < nodes);
        CHECK_INT(t, bb_params_count(plain->params), bb_params_count(chain->params));
        bb_backward(a, NULL), bb_backward(b, NULL);
        double tolerance = c.dtype == BB_F64 ? 1e-12 : 2e-5;
        CHECK_NEAR(t, bb_item(a), bb_item(b), tolerance);
        for (int i = 0; i < bb_params_count(plain->params); i++) {
            bb_tensor *p = bb_params_at(plain->params, i), *q = bb_params_at(chain->params, i);
            CHECK_TEXT(t, bb_params_name(plain->params, i), bb_params_name(chain->params, i));
            double *x = values_of(t, bb_grad(p)), *y = values_of(t, bb_grad(q));
            check_near(t, bb_params_name(plain->params, i), y, x, bb_count(p), tolerance);
            free(x), free(y);
        }
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

/* Losses of a training run. */
static void train(test *t, bb_context *ctx, const bb_nn_config *c, bool chain, double *loss) {
    bb_nn_transformer *model = model_of(t, ctx, *c, chain);
    bb_adamw *optimizer = bb_adamw_new(model->params, NULL);
    for (int i = 0; i < STEPS; i++) {
        bb_tensor *value = bb_nn_transformer_loss(model, ids_of(ctx, 1), ids_of(ctx, 2));
        bb_backward(value, NULL);
        loss[i] = bb_item(value);
        bb_clip_grad_norm(model->params, 1);
        CHECK_INT(t, bb_adamw_step(optimizer, 1e-2), BB_OK);
        bb_params_zero_grad(model->params);
        bb_end_step(ctx);
    }
}

static void curve(test *t) {
    for (int k = 0; k < 2; k++) {
        /* A bf16 loss is known to 0.4 %, and the curve is steep. */
        double plain[STEPS], chain[STEPS], bound = k ? 4e-2 : 1e-4;
        bb_context *ctx = test_open();
        bb_nn_config c = config_of(k ? BB_BF16 : BB_F32, 0);
        train(t, ctx, &c, false, plain);
        train(t, ctx, &c, true, chain);
        for (int i = 0; i < STEPS; i++)
            CHECK_MSG(t, fabs(plain[i] - chain[i]) <= bound * plain[i],
                      "step %d: loss %.7g in chains, %.7g plain", i, chain[i], plain[i]);
        CHECK_MSG(t, plain[STEPS - 1] < 0.7 * plain[0], "it learns nothing");
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

/* A steady step takes nothing from the system; sampling, recomputing and recording run plainly. */
static void steady(test *t) {
    bb_context *ctx = test_open();
    bb_nn_config c = config_of(BB_F32, 0);
    bb_nn_transformer *model = model_of(t, ctx, c, true);
    uint64_t before = 0;
    for (int i = 0; i < 5; i++) {
        if (i == 3) before = bb_memory_stats(ctx).system_allocations;
        bb_backward(bb_nn_transformer_loss(model, ids_of(ctx, 1), ids_of(ctx, 2)), NULL);
        bb_params_zero_grad(model->params);
        bb_end_step(ctx);
    }
    CHECK_INT(t, bb_memory_stats(ctx).system_allocations, before);
    bb_nn_cache *cache = bb_nn_cache_new(model, BATCH, LENGTH);
    double *a = values_of(t, bb_nn_transformer_next(model, cache, ids_of(ctx, 1)));
    double *b = values_of(t, bb_nn_transformer_forward(model, ids_of(ctx, 1)));
    check_near(t, "logits", b, a, BATCH * LENGTH * VOCAB, 1e-5);
    free(a), free(b);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* A step that a device records and replays. */
typedef struct captured {
    bb_nn_transformer *model;
    bb_adamw *optimizer;
    bb_tensor *ids, *targets, *loss;
} captured;
static bb_status captured_step(void *user) {
    captured *s = user;
    bb_tensor *loss = bb_nn_transformer_loss(s->model, s->ids, s->targets);
    bb_backward(loss, NULL);
    bb_adamw_apply(s->optimizer);
    bb_params_zero_grad(s->model->params);
    return loss ? bb_assign(s->loss, loss) : BB_ERR_STATE;
}
static void capture(test *t) {
    bb_context *ctx = test_open();
    bb_nn_config c = config_of(BB_F32, 0);
    double plain[5];
    for (int recorded = 0; recorded < 2; recorded++) {
        captured s = {.model = model_of(t, ctx, c, true)};
        s.optimizer = bb_adamw_new(s.model->params, NULL);
        s.ids = bb_keep(ids_of(ctx, 1)), s.targets = bb_keep(ids_of(ctx, 2));
        s.loss = bb_keep(bb_zeros(ctx, BB_F32, BB_SCALAR));
        bb_capture *steps =
            recorded ? bb_capture_step(ctx, bb_get_device(ctx), captured_step, &s) : NULL;
        for (int i = 0; i < 5; i++) {
            bb_adamw_set_lr(s.optimizer, 1e-2);
            CHECK_INT(t, recorded ? bb_capture_run(steps) : captured_step(&s), BB_OK);
            double loss = bb_item(s.loss);
            if (!recorded) plain[i] = loss;
            CHECK_MSG(t, loss == plain[i], "step %d: %.9g recorded, %.9g plain", i, loss, plain[i]);
            bb_end_step(ctx);
        }
        bb_capture_free(steps);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void whole_life(bb_context *ctx) {
    bb_nn_config c = config_of(BB_F32, 2);
    c.fused_chain = true, c.layers = 1;
    bb_nn_transformer *model = bb_nn_transformer_new(ctx, BB_CPU, &c);
    if (model) bb_backward(bb_nn_transformer_loss(model, ids_of(ctx, 1), ids_of(ctx, 2)), NULL);
}
static void allocation(test *t) { alloc_failure_loop(t, whole_life); }

static const test_row rows[] = {{"the plain model's gradients", gradients},
                                {"the plain model's training curve", curve},
                                {"steady state", steady},
                                {"captured steps", capture},
                                {"allocation", allocation}};
TEST_MAIN(rows)
