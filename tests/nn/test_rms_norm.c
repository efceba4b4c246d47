/* The RMSNorm layer: its one parameter, and n_heads standing for several norms at once. */
#include "tests/nn/nn_test.h"

static void parameter(test *t) {
    bb_context *ctx = test_open();
    bb_params *plain = bb_params_new(ctx, bb_get_device(ctx), BB_F32),
              *heads = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    bb_nn_rms_norm a = bb_nn_rms_norm_new(plain, "", 6, 1e-5, 0),
                   b = bb_nn_rms_norm_new(heads, "norm", 6, 1e-6, 4);
    bb_params_build(plain), bb_params_build(heads);
    CHECK_INT(t, bb_params_count(plain), 1);
    CHECK_TEXT(t, bb_params_name(plain, 0), "weight");
    CHECK_TEXT(t, bb_params_name(heads, 0), "norm.weight");
    bb_shape want = BB_SHAPE(6), want_heads = BB_SHAPE(4, 1, 6), got = bb_shape_of(a.weight),
             got_heads = bb_shape_of(b.weight);
    CHECK(t, bb_shape_equal(&want, &got) && bb_shape_equal(&want_heads, &got_heads));
    double *v = values_of(t, b.weight);
    for (int i = 0; i < 24; i++) CHECK_NEAR(t, v[i], 1, 0);
    free(v);
    CHECK_NEAR(t, a.eps, 1e-5, 0);
    CHECK_INT(t, bb_params_decayed(heads), 0); /* a scale, whatever its rank */
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void forward(test *t) {
    bb_context *ctx = test_open();
    uint64_t state = 1;
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F64);
    bb_nn_rms_norm layer = bb_nn_rms_norm_new(params, "norm", 5, 0.3, 0);
    bb_params_build(params);
    scramble(t, params, &state);
    bb_tensor *x = random_tensor(ctx, BB_F64, BB_SHAPE(2, 3, 5), 2, &state);
    double *v = values_of(t, x), *w = values_of(t, layer.weight),
           *y = values_of(t, bb_nn_rms_norm_forward(&layer, x));
    for (int r = 0; r < 6; r++) {
        double squares = 0;
        for (int i = 0; i < 5; i++) squares += v[5 * r + i] * v[5 * r + i];
        for (int i = 0; i < 5; i++) v[5 * r + i] *= w[i] / sqrt(squares / 5 + 0.3);
        check_near(t, "row", y + 5 * r, v + 5 * r, 5, 1e-14);
    }
    free(v), free(w), free(y);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* 1 + weight, with a weight that starts at zero: a bf16 weight is added to 1 in f32. */
static void zero_centered(test *t) {
    bb_context *ctx = test_open_host();
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_BF16);
    bb_nn_rms_norm layer = bb_nn_rms_norm_zero_centered_new(params, "norm", 2, 0, 0);
    bb_params_build(params);
    CHECK_TEXT(t, bb_params_name(params, 0), "norm.weight");
    const double ones[2] = {1, 1}, small[2] = {0.00390625, 0.00390625};
    bb_tensor *x = bb_from_f64(ctx, BB_BF16, BB_SHAPE(2), ones);
    double *y = values_of(t, bb_nn_rms_norm_forward(&layer, x));
    CHECK(t, y[0] == 1 && y[1] == 1);
    free(y);
    bb_tensor *w = bb_from_f64(ctx, BB_BF16, BB_SHAPE(2), small);
    bb_write(layer.weight, bb_data(w), 4);
    /* 1 + 2^-8 is no bf16 and would round to 1, but 7/5 and 7/5 (1 + 2^-8) round apart. */
    const double wide[2] = {7, 1};
    y = values_of(t, bb_nn_rms_norm_forward(&layer, bb_from_f64(ctx, BB_BF16, BB_SHAPE(2), wide)));
    double *exact = values_of(
        t, bb_from_f64(ctx, BB_BF16, BB_SHAPE(2),
                       (double[]){7.0 / 5 * (1 + 0.00390625), 1.0 / 5 * (1 + 0.00390625)}));
    CHECK(t, y[0] == exact[0] && y[1] == exact[1]);
    free(y), free(exact);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* One norm over query and key heads is a norm of the queries beside a norm of the keys: values and
 * gradients. */
static void heads(test *t) {
    enum { Q = 3, K = 2, D = 8 };
    bb_context *ctx = test_open_host();
    uint64_t state = 2;
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F32),
              *apart = bb_params_new(ctx, bb_get_device(ctx), BB_F32);
    bb_nn_rms_norm both = bb_nn_rms_norm_new(params, "qk", D, 1e-5, Q + K);
    bb_nn_rms_norm queries = bb_nn_rms_norm_new(apart, "q", D, 1e-5, Q),
                   keys = bb_nn_rms_norm_new(apart, "k", D, 1e-5, K);
    bb_params_build(params), bb_params_build(apart);
    scramble(t, params, &state);
    bb_write(queries.weight, bb_data(both.weight), Q * D * 4);
    bb_write(keys.weight, (float *)bb_data(both.weight) + Q * D, K * D * 4);
    bb_tensor *x =
        bb_set_requires_grad(random_tensor(ctx, BB_F32, BB_SHAPE(2, Q + K, 5, D), 3, &state), true);
    bb_tensor *cotangent = random_tensor(ctx, BB_F32, BB_SHAPE(2, Q + K, 5, D), 1, &state);
    bb_tensor *y = bb_nn_rms_norm_forward(&both, x);
    bb_backward(y, cotangent);
    bb_tensor *dx = bb_keep(bb_grad(x));
    bb_zero_grad(x);
    bb_tensor *parts[2] = {bb_nn_rms_norm_forward(&queries, bb_narrow(x, 1, 0, Q)),
                           bb_nn_rms_norm_forward(&keys, bb_narrow(x, 1, Q, K))};
    CHECK(t, same_bytes(bb_cat(parts, 2, 1), y));
    bb_backward(bb_cat(parts, 2, 1), cotangent);
    CHECK(t, same_bytes(bb_grad(x), dx));
    double *w = values_of(t, bb_grad(both.weight)), *q = values_of(t, bb_grad(queries.weight)),
           *k = values_of(t, bb_grad(keys.weight));
    check_near(t, "query scales", q, w, Q * D, 1e-6);
    check_near(t, "key scales", k, w + Q * D, K * D, 1e-6);
    free(w), free(q), free(k);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {{"parameter", parameter},
                                {"forward", forward},
                                {"zero_centered", zero_centered},
                                {"heads", heads}};
TEST_MAIN(rows)
