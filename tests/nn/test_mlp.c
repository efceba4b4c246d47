/* SwiGLU and GeGLU, with and without biases, against their formulas in double. */
#include "tests/nn/nn_test.h"

static double activate(bb_nn_activation activation, double x) {
    if (activation == BB_NN_SILU) return x / (1 + exp(-x));
    if (activation == BB_NN_GELU) return 0.5 * x * (1 + erf(x / sqrt(2)));
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
}

static void check(test *t, bb_nn_activation activation, bool bias) {
    enum { N = 3, DIM = 4, HIDDEN = 7 };
    bb_context *ctx = test_open();
    uint64_t state = 6;
    bb_nn_config c = {
        .dim = DIM, .hidden = HIDDEN, .layers = 2, .activation = activation, .mlp_bias = bias};
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F64);
    bb_nn_mlp layer = bb_nn_mlp_new(params, "mlp", &c);
    bb_params_build(params);
    CHECK_INT(t, bb_params_count(params), bias ? 6 : 3);
    CHECK_TEXT(t, bb_params_name(params, bias ? 4 : 2), "mlp.down.weight");
    scramble(t, params, &state);
    bb_tensor *x = random_tensor(ctx, BB_F64, BB_SHAPE(N, DIM), 2, &state);
    const bb_nn_linear *linear[] = {&layer.gate, &layer.up, &layer.down};
    double *v = values_of(t, x), *y = values_of(t, bb_nn_mlp_forward(&layer, x)), *w[3], *b[3],
           expected[N * DIM] = {0};
    for (int i = 0; i < 3; i++) {
        w[i] = values_of(t, linear[i]->weight);
        b[i] = bias ? values_of(t, linear[i]->bias) : calloc(HIDDEN, sizeof **b);
    }
    for (int r = 0; r < N; r++)
        for (int h = 0; h < HIDDEN; h++) {
            double g = b[0][h], u = b[1][h];
            for (int i = 0; i < DIM; i++)
                g += w[0][h * DIM + i] * v[r * DIM + i], u += w[1][h * DIM + i] * v[r * DIM + i];
            for (int i = 0; i < DIM; i++)
                expected[r * DIM + i] +=
                    w[2][i * HIDDEN + h] * activate(activation, g) * u + (h == 0 ? b[2][i] : 0);
        }
    check_near(t, "y", y, expected, N * DIM, 1e-13);
    for (int i = 0; i < 3; i++) free(w[i]), free(b[i]);
    free(v), free(y);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void against_reference(test *t) {
    for (int i = 0; i < 6; i++) check(t, (bb_nn_activation)(i / 2), i % 2);
}

/* The projection that ends on the residual stream starts smaller by sqrt(2 layers). */
static void start(test *t) {
    bb_context *ctx = test_open();
    bb_nn_config c = {.dim = 100, .hidden = 100, .layers = 8};
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    bb_nn_mlp layer = bb_nn_mlp_new(params, "mlp", &c);
    bb_params_build(params);
    CHECK_NEAR(t, sqrt(bb_item(bb_mean_all(bb_square(layer.up.weight)))) / 0.02, 1, 0.03);
    CHECK_NEAR(t, sqrt(bb_item(bb_mean_all(bb_square(layer.down.weight)))) / 0.005, 1, 0.03);
    bb_close(ctx);
}

static const test_row rows[] = {{"against_reference", against_reference}, {"start", start}};
TEST_MAIN(rows)
