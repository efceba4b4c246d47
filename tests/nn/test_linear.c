/* The linear layer: x weight^T + bias, its parameters and their start. */
#include "tests/nn/nn_test.h"

static void forward(test *t) {
    enum { N = 6, IN = 5, OUT = 3 };
    bb_context *ctx = test_open();
    uint64_t state = 3;
    for (int bias = 0; bias < 2; bias++) {
        bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F64);
        bb_nn_linear layer = bb_nn_linear_new(params, "fc", IN, OUT, bias, 0);
        CHECK_INT(t, bb_params_build(params), BB_OK);
        CHECK_INT(t, bb_params_count(params), 1 + bias);
        CHECK_TEXT(t, bb_params_name(params, 0), "fc.weight");
        if (bias) CHECK_TEXT(t, bb_params_name(params, 1), "fc.bias");
        CHECK(t, (layer.bias != NULL) == bias);
        scramble(t, params, &state);
        bb_tensor *x = random_tensor(ctx, BB_F64, BB_SHAPE(2, 3, IN), 1, &state);
        double *v = values_of(t, x), *w = values_of(t, layer.weight),
               *b = bias ? values_of(t, layer.bias) : NULL;
        double *y = values_of(t, bb_nn_linear_forward(&layer, x)), expected[N * OUT];
        for (int r = 0; r < N; r++)
            for (int o = 0; o < OUT; o++) {
                double sum = bias ? b[o] : 0;
                for (int i = 0; i < IN; i++) sum += v[r * IN + i] * w[o * IN + i];
                expected[r * OUT + o] = sum;
            }
        check_near(t, "y", y, expected, N * OUT, 1e-14);
        free(v), free(w), free(b), free(y);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void start(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    bb_nn_linear given = bb_nn_linear_new(params, "given", 100, 100, true, 0.02);
    bb_nn_linear standard = bb_nn_linear_new(params, "default", 100, 100, true, 0);
    bb_params_build(params);
    bb_tensor *w[2] = {given.weight, standard.weight};
    double expected[2] = {0.02, 0.1};
    for (int i = 0; i < 2; i++)
        CHECK_NEAR(t, sqrt(bb_item(bb_mean_all(bb_square(w[i])))) / expected[i], 1, 0.03);
    CHECK_NEAR(t, bb_item(bb_sum_all(bb_abs(given.bias))), 0, 0);
    CHECK(t, bb_params_decayed(params) == 20000 && bb_params_elements(params) == 20200);
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(2, 7));
    CHECK(t, !bb_nn_linear_forward(&given, x));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "linear");
    CHECK(t, !bb_nn_linear_forward(&given, NULL) || bb_error(ctx) != BB_OK);
    bb_close(ctx);
}

static const test_row rows[] = {{"forward", forward}, {"start", start}};
TEST_MAIN(rows)
