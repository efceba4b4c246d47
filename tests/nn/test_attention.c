/* Attention against a plain double-precision rewrite; grouped heads, qk_norm, the cache. */
#include "tests/nn/nn_test.h"

enum { B = 2, T = 5, DIM = 6, D = 4, MAX_HEADS = 8 };

/* y (T, DIM) of one sequence x (T, DIM), by the definition. scale NULL: no norm of queries and
 * keys. */
static void reference(const bb_nn_config *c, const double *qkv_w, const double *scale,
                      const double *out_w, const double *x, double *y) {
    int heads = (int)c->heads, kv = (int)c->kv_heads, all = heads + 2 * kv;
    double z[T][MAX_HEADS][D], o[T][MAX_HEADS * D] = {{0}};
    for (int s = 0; s < T; s++)
        for (int h = 0; h < all; h++) {
            double squares = 0, turned[D];
            for (int i = 0; i < D; i++) {
                z[s][h][i] = 0;
                for (int k = 0; k < DIM; k++)
                    z[s][h][i] += qkv_w[(h * D + i) * DIM + k] * x[s * DIM + k];
                squares += z[s][h][i] * z[s][h][i];
            }
            if (h >= heads + kv) continue;
            for (int i = 0; i < D && scale; i++)
                z[s][h][i] *= scale[h * D + i] / sqrt(squares / D + c->norm_eps);
            for (int i = 0; i < D / 2; i++) {
                double angle = s * pow(c->rope_base, -2.0 * i / D), a = z[s][h][i],
                       b = z[s][h][i + D / 2];
                turned[i] = a * cos(angle) - b * sin(angle);
                turned[i + D / 2] = b * cos(angle) + a * sin(angle);
            }
            memcpy(z[s][h], turned, sizeof turned);
        }
    for (int s = 0; s < T; s++)
        for (int h = 0; h < heads; h++) {
            int group = heads + h / (heads / kv);
            double weight[T], sum = 0;
            for (int u = 0; u <= s; u++) {
                double dot = 0;
                for (int i = 0; i < D; i++) dot += z[s][h][i] * z[u][group][i];
                sum += weight[u] = exp(dot / sqrt(D));
            }
            for (int u = 0; u <= s; u++)
                for (int i = 0; i < D; i++)
                    o[s][h * D + i] += weight[u] / sum * z[u][group + kv][i];
        }
    for (int s = 0; s < T; s++)
        for (int k = 0; k < DIM; k++) {
            y[s * DIM + k] = 0;
            for (int i = 0; i < heads * D; i++)
                y[s * DIM + k] += out_w[k * heads * D + i] * o[s][i];
        }
}

static const struct {
    int heads, kv_heads;
    bool qk_norm;
} kinds[] = {{1, 1, false}, {2, 2, false}, {4, 2, false},
             {4, 1, false}, {2, 2, true},  {4, 2, true}};
enum { KINDS = sizeof kinds / sizeof *kinds };

static bb_nn_config config_of(int kind) {
    return (bb_nn_config){.vocab = 5,
                          .dim = DIM,
                          .layers = 1,
                          .heads = kinds[kind].heads,
                          .kv_heads = kinds[kind].kv_heads,
                          .head_dim = D,
                          .hidden = 4,
                          .max_seq = T,
                          .rope_base = 100,
                          .norm_eps = 1e-2,
                          .qk_norm = kinds[kind].qk_norm,
                          .dtype = BB_F64};
}

static void against_reference(test *t) {
    uint64_t state = 4;
    for (int kind = 0; kind < KINDS; kind++)
        for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += BB_PATH_COMPOSED) {
            bb_context *ctx = test_open();
            bb_set_path(ctx, (bb_path)path);
            bb_nn_config c = config_of(kind);
            bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F64);
            bb_nn_attention layer = bb_nn_attention_new(params, "attn", &c);
            bb_params_build(params);
            CHECK_INT(t, bb_params_count(params), 2 + c.qk_norm);
            CHECK_TEXT(t, bb_params_name(params, 0), "attn.qkv.weight");
            scramble(t, params, &state);
            bb_tensor *x = random_tensor(ctx, BB_F64, BB_SHAPE(B, T, DIM), 2, &state);
            double *v = values_of(t, x), *w = values_of(t, layer.qkv.weight),
                   *o = values_of(t, layer.out.weight);
            double *s = c.qk_norm ? values_of(t, layer.qk_norm.weight) : NULL;
            double *y = values_of(t, bb_nn_attention_forward(&layer, x, NULL, 0)),
                   expected[B * T * DIM];
            for (int b = 0; b < B; b++)
                reference(&c, w, s, o, v + b * T * DIM, expected + b * T * DIM);
            check_near(t, "y", y, expected, B * T * DIM, 1e-12);
            free(v), free(w), free(o), free(s), free(y);
            CHECK_OK(t, ctx);
            bb_close(ctx);
        }
}

/* In pieces of 1, 3 and 1 positions with a cache, the same as all at once. */
static void cache(test *t) {
    uint64_t state = 5;
    for (int kind = 0; kind < KINDS; kind++) {
        bb_context *ctx = test_open();
        bb_nn_config c = config_of(kind);
        bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F64);
        bb_nn_attention layer = bb_nn_attention_new(params, "attn", &c);
        bb_params_build(params);
        scramble(t, params, &state);
        bb_set_grad_enabled(ctx, false);
        bb_tensor *x = random_tensor(ctx, BB_F64, BB_SHAPE(B, T, DIM), 2, &state);
        double *whole = values_of(t, bb_nn_attention_forward(&layer, x, NULL, 0));
        bb_shape shape = BB_SHAPE(B, c.kv_heads, T + 2, D); /* longer than what is used of it */
        bb_nn_layer_cache kept = {bb_tensor_context(ctx, bb_get_device(ctx), BB_F64, &shape),
                                  bb_tensor_context(ctx, bb_get_device(ctx), BB_F64, &shape)};
        bb_tensor *part[3];
        const int from[4] = {0, 1, 4, 5};
        for (int i = 0; i < 3; i++)
            part[i] = bb_nn_attention_forward(
                &layer, bb_narrow(x, 1, from[i], from[i + 1] - from[i]), &kept, from[i]);
        double *pieces = values_of(t, bb_cat(part, 3, 1));
        check_near(t, "pieces", pieces, whole, B * T * DIM, 1e-13);
        free(whole), free(pieces);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

static void errors(test *t) {
    bb_context *ctx = test_open();
    bb_nn_config c = config_of(0);
    bb_params *params = bb_params_new(ctx, bb_get_device(ctx), BB_F64);
    bb_nn_attention layer = bb_nn_attention_new(params, "attn", &c);
    bb_params_build(params);
    CHECK(t, !bb_nn_attention_forward(&layer, bb_ones(ctx, BB_F64, BB_SHAPE(T, DIM)), NULL, 0));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "attention: x: expected (B, T, dim), got rank 2");
    CHECK(t,
          !bb_nn_attention_forward(&layer, bb_ones(ctx, BB_F64, BB_SHAPE(1, T, DIM + 1)), NULL, 0));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "linear");
    CHECK(t, !bb_nn_attention_forward(&layer, NULL, NULL, 0));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"against_reference", against_reference}, {"cache", cache}, {"errors", errors}};
TEST_MAIN(rows)
