/* SwiGLU against its formula in double. */
#include "tests/nn/nn_test.h"

static void against_reference(test *t) {
    enum { N = 3, DIM = 4, HIDDEN = 7 };
    bb_context *ctx = test_open();
    uint64_t state = 6;
    bb_nn_config c = {.dim = DIM, .hidden = HIDDEN, .layers = 2};
    bb_params *params = bb_params_new(ctx, BB_CPU, BB_F64);
    bb_nn_mlp layer = bb_nn_mlp_new(params, "mlp", &c);
    bb_params_build(params);
    CHECK_INT(t, bb_params_count(params), 3);
    CHECK_INT(t, bb_params_elements(params), 3 * DIM * HIDDEN);
    CHECK_TEXT(t, bb_params_name(params, 2), "mlp.down.weight");
    scramble(t, params, &state);
    bb_tensor *x = random_tensor(ctx, BB_F64, BB_SHAPE(N, DIM), 2, &state);
    double *v = values_of(t, x), *gate = values_of(t, layer.gate.weight),
           *up = values_of(t, layer.up.weight);
    double *down = values_of(t, layer.down.weight), *y = values_of(t, bb_nn_mlp_forward(&layer, x)),
           expected[N * DIM] = {0};
    for (int r = 0; r < N; r++)
        for (int h = 0; h < HIDDEN; h++) {
            double g = 0, u = 0;
            for (int i = 0; i < DIM; i++)
                g += gate[h * DIM + i] * v[r * DIM + i], u += up[h * DIM + i] * v[r * DIM + i];
            for (int i = 0; i < DIM; i++)
                expected[r * DIM + i] += down[i * HIDDEN + h] * g / (1 + exp(-g)) * u;
        }
    check_near(t, "y", y, expected, N * DIM, 1e-13);
    free(v), free(gate), free(up), free(down), free(y);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* The projection that ends on the residual stream starts smaller by sqrt(2 layers). */
static void start(test *t) {
    bb_context *ctx = test_open();
    bb_nn_config c = {.dim = 100, .hidden = 100, .layers = 8};
    bb_params *params = bb_params_new(ctx, BB_CPU, BB_F32);
    bb_nn_mlp layer = bb_nn_mlp_new(params, "mlp", &c);
    bb_params_build(params);
    CHECK_NEAR(t, sqrt(bb_item(bb_mean_all(bb_square(layer.up.weight)))) / 0.02, 1, 0.03);
    CHECK_NEAR(t, sqrt(bb_item(bb_mean_all(bb_square(layer.down.weight)))) / 0.005, 1, 0.03);
    bb_close(ctx);
}

static const test_row rows[] = {{"against_reference", against_reference}, {"start", start}};
TEST_MAIN(rows)
