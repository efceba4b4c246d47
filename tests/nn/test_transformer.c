/* The whole model: shapes, gradients against finite differences, sampling with a cache, training,
 * memory. */
#include "tests/nn/nn_test.h"
#include "tests/support/alloc.h"

static const bb_nn_config little = {.vocab = 7,
                                    .dim = 8,
                                    .layers = 1,
                                    .heads = 2,
                                    .kv_heads = 1,
                                    .head_dim = 4,
                                    .hidden = 6,
                                    .max_seq = 5,
                                    .rope_base = 100,
                                    .norm_eps = 1e-3,
                                    .dtype = BB_F64};

static bb_nn_config with(bool qk_norm, bool tie, bb_dtype dtype, int64_t layers) {
    bb_nn_config c = little;
    c.qk_norm = qk_norm, c.tie_embeddings = tie, c.dtype = dtype, c.layers = layers;
    return c;
}

static bb_tensor *ids_of(bb_context *ctx, int64_t batch, int64_t length, uint64_t seed) {
    int32_t ids[64];
    for (int64_t i = 0; i < batch * length; i++) ids[i] = (int32_t)((number(&seed) + 1) * 3.5);
    return bb_from(ctx, BB_I32, BB_SHAPE(batch, length), ids);
}

static void shapes(test *t) {
    bb_context *ctx = test_open();
    bb_nn_config c = with(false, false, BB_F32, 3);
    bb_nn_transformer *model = bb_nn_transformer_new(ctx, bb_get_device(ctx), &c);
    bb_tensor *logits = bb_nn_transformer_forward(model, ids_of(ctx, 2, 5, 1));
    bb_shape want = BB_SHAPE(2, 5, 7), got = bb_shape_of(logits);
    CHECK(t, bb_shape_equal(&want, &got));
    CHECK_INT(t, bb_params_count(model->params), 3 + 3 * 7);
    CHECK_TEXT(t, bb_params_name(model->params, 0), "embed.weight");
    CHECK_TEXT(t, bb_params_name(model->params, 2), "blocks.0.attn.qkv.weight");
    CHECK_TEXT(t, bb_params_name(model->params, 3 * 7 + 2), "head.weight");
    int64_t block = 2 * 8 + (2 + 2) * 4 * 8 + 8 * 8 + 3 * 6 * 8;
    CHECK_INT(t, bb_params_elements(model->params), 2 * 7 * 8 + 8 + 3 * block);
    /* At the start all bytes are about equally likely. */
    CHECK_NEAR(t,
               bb_item(bb_nn_transformer_loss(model, ids_of(ctx, 2, 5, 1), ids_of(ctx, 2, 5, 2))),
               log(7), 0.1);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Every element of every parameter, by central differences. */
static void check_gradient(test *t, int kind, const bb_nn_config *c, bool again) {
    bb_context *ctx = test_open_host();
    uint64_t state = 30;
    bb_nn_transformer *model = bb_nn_transformer_new(ctx, bb_get_device(ctx), c);
    scramble(t, model->params, &state);
    model->recompute = again;
    bb_tensor *ids = bb_keep(ids_of(ctx, 2, 4, 3)), *targets = bb_keep(ids_of(ctx, 2, 4, 4));
    bb_backward(bb_nn_transformer_loss(model, ids, targets), NULL);
    bb_set_grad_enabled(ctx, false);
    double worst = 0;
    for (int i = 0; i < bb_params_count(model->params); i++) {
        bb_tensor *p = bb_params_at(model->params, i);
        double *g = values_of(t, bb_grad(p)), *v = bb_data(p), eps = 1e-5;
        for (int64_t k = 0; k < bb_count(p); k++) {
            double at = v[k], up, down;
            v[k] = at + eps;
            up = bb_item(bb_nn_transformer_loss(model, ids, targets));
            v[k] = at - eps;
            down = bb_item(bb_nn_transformer_loss(model, ids, targets));
            v[k] = at;
            worst = fmax(worst, fabs((up - down) / (2 * eps) - g[k]) / (1e-3 + fabs(g[k])));
            bb_end_step(ctx);
        }
        free(g);
    }
    CHECK_MSG(t, worst < 1e-5, "kind %d: worst relative error %g", kind, worst);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* What decoders of other families than Llama need, one family's worth a kind. */
enum { OPTIONS = 4 };
static bb_nn_config with_options(int kind) {
    bb_nn_config c = with(false, kind == 2, BB_F64, 2);
    if (kind == 0) c.window = 2;
    if (kind == 1) c.window = 3, c.window_from = 1, c.qk_norm_shared = true;
    if (kind == 2) c.zero_centered_norm = true, c.activation = BB_NN_GELU_TANH, c.embed_scale = 1.7;
    if (kind == 3)
        c.qkv_bias = c.out_bias = c.mlp_bias = true, c.activation = BB_NN_GELU, c.head_dim = 6;
    return c;
}

static void gradient(test *t) {
    for (int kind = 0; kind < 4; kind++) {
        bb_nn_config c = with(kind & 1, kind & 2, BB_F64, 1);
        check_gradient(t, kind, &c, kind == 3);
    }
    for (int kind = 0; kind < OPTIONS; kind++) {
        bb_nn_config c = with_options(kind);
        check_gradient(t, 4 + kind, &c, kind == 1);
    }
}

/* A window of one position is no attention to others; a window hides nothing from the layers before
 * window_from. */
static void windows(test *t) {
    for (int kind = 0; kind < 3; kind++) {
        bb_context *ctx = test_open();
        bb_nn_config c = with(false, false, BB_F64, 2);
        c.window = 1;
        c.window_from = kind;
        bb_nn_transformer *model = bb_nn_transformer_new(ctx, bb_get_device(ctx), &c);
        int32_t ids[5] = {1, 2, 3, 4, 5};
        bb_tensor *y[2];
        for (int i = 0; i < 2; i++, ids[0] = 6)
            y[i] = bb_select(
                bb_nn_transformer_forward(model, bb_from(ctx, BB_I32, BB_SHAPE(1, 5), ids)), 1, -1);
        CHECK(t, same_bytes(bb_contiguous(y[0]), bb_contiguous(y[1])) == (kind == 0));
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

/* The lookup of the padding id gives its row no gradient, and changes no other row's. */
static void padding(test *t) {
    double *grad[2];
    for (int i = 0; i < 2; i++) {
        bb_context *ctx = test_open();
        bb_nn_config c = with(false, false, BB_F64, 1);
        c.has_padding = i == 1;
        c.padding = 3;
        bb_nn_transformer *model = bb_nn_transformer_new(ctx, bb_get_device(ctx), &c);
        const int32_t ids[6] = {3, 1, 2, 3, 0, 5};
        bb_tensor *input = bb_from(ctx, BB_I32, BB_SHAPE(2, 3), ids);
        CHECK_INT(t, bb_backward(bb_nn_transformer_loss(model, input, input), NULL), BB_OK);
        grad[i] = values_of(t, bb_grad(model->embed.weight));
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
    for (int row = 0; row < 7; row++)
        for (int k = 0; k < 8; k++)
            CHECK_NEAR(t, grad[1][8 * row + k], row == 3 ? 0 : grad[0][8 * row + k], 1e-15);
    CHECK(t, fabs(grad[0][3 * 8]) > 1e-6);
    free(grad[0]), free(grad[1]);
}

/* Recomputing the blocks in backward changes no bit, and keeps less. */
static void recompute(test *t) {
    bb_tensor *grads[2];
    bb_context *ctx[2];
    size_t held[2];
    for (int i = 0; i < 2; i++) {
        ctx[i] = test_open();
        bb_nn_config c = with(true, false, BB_F32, 3);
        bb_nn_transformer *model = bb_nn_transformer_new(ctx[i], bb_get_device(ctx[i]), &c);
        model->recompute = i == 1;
        bb_tensor *loss =
            bb_nn_transformer_loss(model, ids_of(ctx[i], 4, 5, 5), ids_of(ctx[i], 4, 5, 6));
        held[i] = bb_memory_stats(ctx[i]).bytes_in_use;
        CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
        grads[i] = bb_params_grads(model->params);
        CHECK_OK(t, ctx[i]);
    }
    CHECK(t, same_bytes(grads[0], grads[1]));
    CHECK(t, bb_item(bb_sum_squares(grads[0])) > 0);
    CHECK_MSG(t, held[1] < held[0], "with recompute %zu bytes, without %zu", held[1], held[0]);
    bb_close(ctx[0]), bb_close(ctx[1]);
}

/* Greedy sampling with the cache picks what the whole sequence run again picks. */
static void sampling(test *t) {
    enum { PROMPT = 3, TOTAL = 12 };
    for (int kind = 0; kind < 2 + OPTIONS; kind++) {
        bb_context *ctx = test_open();
        uint64_t state = 40;
        bb_nn_config c = kind < 2 ? with(kind, kind, BB_F64, 2) : with_options(kind - 2);
        bb_nn_transformer *model = bb_nn_transformer_new(ctx, bb_get_device(ctx), &c);
        scramble(t, model->params, &state);
        bb_nn_cache *cache = bb_nn_cache_new(model, 1, TOTAL);
        int32_t ids[TOTAL + 1] = {1, 4, 2};
        bb_tensor *logits =
            bb_nn_transformer_next(model, cache, bb_from(ctx, BB_I32, BB_SHAPE(1, PROMPT), ids));
        for (int n = PROMPT; n < TOTAL; n++) {
            bb_tensor *whole =
                bb_nn_transformer_forward(model, bb_from(ctx, BB_I32, BB_SHAPE(1, n), ids));
            double *a = values_of(t, bb_select(logits, 1, -1)),
                   *b = values_of(t, bb_select(whole, 1, -1));
            check_near(t, "logits", a, b, 7, 1e-12);
            CHECK(t, !bb_requires_grad(logits) && bb_requires_grad(whole));
            for (int k = 1; k < 7; k++)
                if (a[k] > a[ids[n]]) ids[n] = k;
            free(a), free(b);
            bb_end_step(ctx);
            logits =
                bb_nn_transformer_next(model, cache, bb_from(ctx, BB_I32, BB_SHAPE(1, 1), &ids[n]));
            CHECK_INT(t, cache->length, n + 1);
        }
        CHECK(t, !bb_nn_transformer_next(model, cache, bb_from(ctx, BB_I32, BB_SHAPE(1, 1), ids)));
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "12 of 12 positions used");
        CHECK_INT(t, cache->length, TOTAL);
        bb_nn_cache_reset(cache);
        CHECK(t, bb_nn_transformer_next(model, cache, bb_from(ctx, BB_I32, BB_SHAPE(1, 1), ids)));
        CHECK_INT(t, cache->length, 1);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

static double train_step(bb_context *ctx, bb_nn_transformer *model, bb_adamw *o, uint64_t seed) {
    bb_tensor *loss =
        bb_nn_transformer_loss(model, ids_of(ctx, 4, 5, seed), ids_of(ctx, 4, 5, seed + 1));
    bb_backward(loss, NULL);
    bb_clip_grad_norm(model->params, 1);
    bb_adamw_step(o, 1e-2);
    bb_params_zero_grad(model->params);
    double value = bb_item(loss);
    bb_end_step(ctx);
    return value;
}

/* Training learns one batch by heart, and from the third step on asks the system for nothing. */
static void training(test *t) {
    static const bb_dtype dtypes[] = {BB_F32, BB_BF16};
    for (int kind = 0; kind < 4; kind++) {
        bb_context *ctx = test_open();
        bb_nn_config c = with(kind & 1, kind & 1, dtypes[kind / 2], 2);
        bb_nn_transformer *model = bb_nn_transformer_new(ctx, bb_get_device(ctx), &c);
        bb_adamw *o = bb_adamw_new(model->params, NULL);
        model->recompute = kind == 1;
        double first = train_step(ctx, model, o, 50), last = first;
        uint64_t allocations = 0;
        for (int step = 2; step <= 60; step++) {
            last = train_step(ctx, model, o, 50);
            if (step == 2) allocations = bb_memory_stats(ctx).system_allocations;
            if (step <= 10) CHECK_INT(t, bb_memory_stats(ctx).system_allocations, allocations);
        }
        CHECK_MSG(t, last < 0.75 * first, "kind %d: loss %g at first, %g at last", kind, first,
                  last);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

/* Two runs of the same seed have the same bytes after some steps. */
static void repeats(test *t) {
    bb_context *ctx[2] = {test_open(), test_open()};
    bb_tensor *values[2];
    for (int i = 0; i < 2; i++) {
        bb_nn_config c = with(true, false, BB_F32, 2);
        bb_nn_transformer *model = bb_nn_transformer_new(ctx[i], bb_get_device(ctx[i]), &c);
        bb_adamw *o = bb_adamw_new(model->params, NULL);
        for (uint64_t step = 0; step < 5; step++) train_step(ctx[i], model, o, step);
        values[i] = bb_params_values(model->params);
        CHECK_OK(t, ctx[i]);
    }
    CHECK(t, same_bytes(values[0], values[1]));
    bb_close(ctx[0]), bb_close(ctx[1]);
}

static void errors(test *t) {
    bb_context *ctx = test_open_host();
    bb_nn_transformer *model = bb_nn_transformer_new(ctx, bb_get_device(ctx), &little);
    CHECK(t, !bb_nn_transformer_forward(model,
                                        bb_from(ctx, BB_I32, BB_SHAPE(1), (const int32_t[]){1})));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "transformer: ids: expected (B, T), got rank 1");
    CHECK(t, !bb_nn_transformer_forward(
                 model, bb_from(ctx, BB_I32, BB_SHAPE(1, 1), (const int32_t[]){7})));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "embedding");
    CHECK(t, !bb_nn_transformer_loss(model, ids_of(ctx, 2, 3, 1), ids_of(ctx, 2, 4, 1)));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "cross_entropy");
    CHECK(t, !bb_nn_cache_new(model, 0, 4));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected 1 or more, got 0 and 4");
    bb_nn_cache *cache = bb_nn_cache_new(model, 2, 4);
    CHECK(t, !bb_nn_transformer_next(model, cache, ids_of(ctx, 1, 1, 1)));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "expected (2, 1 to 4) for this cache (0 of 4 positions used), got (1, 1)");
    CHECK(t, bb_grad_enabled(ctx));
    CHECK(t, !bb_nn_transformer_new(NULL, BB_CPU, &little) &&
                 !bb_nn_transformer_new(ctx, bb_get_device(ctx), NULL));
    CHECK(t, !bb_nn_transformer_forward(NULL, NULL) && !bb_nn_transformer_loss(NULL, NULL, NULL) &&
                 !bb_nn_cache_new(NULL, 1, 1));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void whole_life(bb_context *ctx) {
    bb_nn_config c = with(true, false, BB_F32, 1);
    bb_nn_transformer *model = bb_nn_transformer_new(ctx, bb_get_device(ctx), &c);
    if (!model) return;
    bb_adamw *o = bb_adamw_new(model->params, NULL);
    bb_tensor *loss = bb_nn_transformer_loss(model, ids_of(ctx, 1, 2, 1), ids_of(ctx, 1, 2, 2));
    bb_backward(loss, NULL);
    bb_clip_grad_norm(model->params, 1);
    bb_adamw_step(o, 1e-2);
    bb_params_zero_grad(model->params);
    bb_nn_transformer_next(model, bb_nn_cache_new(model, 1, 4), ids_of(ctx, 1, 2, 1));
    bb_nn_transformer_named(model, NULL);
}
static void failing_memory(test *t) { alloc_failure_loop(t, whole_life); }

static const test_row rows[] = {
    {"shapes", shapes},       {"gradient", gradient},
    {"windows", windows},     {"padding", padding},
    {"recompute", recompute}, {"sampling", sampling},
    {"training", training},   {"repeats", repeats},
    {"errors", errors},       {"failing_memory", failing_memory},
};
TEST_MAIN(rows)
