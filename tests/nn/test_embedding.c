/* The embedding layer: rows by index, gradients to the rows used. */
#include "tests/nn/nn_test.h"

static void rows_by_index(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F64);
    bb_nn_embedding layer = bb_nn_embedding_new(params, "embed", 5, 3, 0.5);
    bb_params_build(params);
    CHECK_INT(t, bb_params_count(params), 1);
    CHECK_TEXT(t, bb_params_name(params, 0), "embed.weight");
    const int32_t ids[4] = {4, 0, 4, 2};
    bb_tensor *y = bb_nn_embedding_forward(&layer, bb_from(ctx, BB_I32, BB_SHAPE(2, 2), ids));
    bb_shape want = BB_SHAPE(2, 2, 3), got = bb_shape_of(y);
    CHECK(t, bb_shape_equal(&want, &got));
    bb_backward(bb_sum_all(y), NULL);
    double *w = values_of(t, layer.weight), *v = values_of(t, y),
           *g = values_of(t, bb_grad(layer.weight));
    double uses[5] = {1, 0, 1, 0, 2};
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 3; k++) CHECK_NEAR(t, v[3 * i + k], w[3 * ids[i] + k], 0);
    for (int i = 0; i < 15; i++) CHECK_NEAR(t, g[i], uses[i / 3], 0);
    CHECK(t, w[0] != w[3] && w[0] != 0);
    free(w), free(v), free(g);
    CHECK_OK(t, ctx);
    /* An accelerator finds it when somebody waits for the result. */
    bb_tensor *late =
        bb_nn_embedding_forward(&layer, bb_from(ctx, BB_I32, BB_SHAPE(1), (const int32_t[]){5}));
    CHECK(t, !late || bb_get_device(ctx) != BB_CPU);
    if (late) bb_item(bb_sum_all(late));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "embedding");
    bb_close(ctx);
}

static void default_std(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    bb_nn_embedding layer = bb_nn_embedding_new(params, "e", 100, 100, 0);
    bb_params_build(params);
    CHECK_NEAR(t, sqrt(bb_item(bb_mean_all(bb_square(layer.weight)))), 1, 0.03);
    bb_close(ctx);
}

static const test_row rows[] = {{"rows_by_index", rows_by_index}, {"default_std", default_std}};
TEST_MAIN(rows)
