/* Hugging Face's names and shapes; views that read from and write into the fused weights. */
#include "tests/nn/nn_test.h"

static const bb_nn_config grouped = {.vocab = 11,
                                     .dim = 12,
                                     .layers = 2,
                                     .heads = 4,
                                     .kv_heads = 2,
                                     .head_dim = 6,
                                     .hidden = 20,
                                     .max_seq = 8,
                                     .dtype = BB_F32};

static bb_tensor *find(const bb_named *list, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (strcmp(list[i].name, name) == 0) return list[i].tensor;
    return NULL;
}

static void shapes(test *t) {
    static const struct {
        const char *name;
        int64_t rows, columns; /* columns 0: rank 1 */
    } want[] = {{"input_layernorm", 12, 0},   {"self_attn.q_proj", 24, 12},
                {"self_attn.k_proj", 12, 12}, {"self_attn.v_proj", 12, 12},
                {"self_attn.o_proj", 12, 24}, {"post_attention_layernorm", 12, 0},
                {"mlp.gate_proj", 20, 12},    {"mlp.up_proj", 20, 12},
                {"mlp.down_proj", 12, 20}};
    bb_context *ctx = test_open_host();
    bb_nn_transformer *model = bb_nn_transformer_new(ctx, bb_get_device(ctx), &grouped);
    int n = 0;
    const bb_named *list = bb_nn_transformer_named(model, &n);
    CHECK_INT(t, n, 3 + 2 * 9);
    CHECK_TEXT(t, list[0].name, "model.embed_tokens.weight");
    CHECK_TEXT(t, list[n - 2].name, "model.norm.weight");
    CHECK_TEXT(t, list[n - 1].name, "lm_head.weight");
    int64_t elements = 0;
    for (int i = 0; i < n; i++) {
        elements += bb_count(list[i].tensor);
        CHECK(t, bb_is_contiguous(list[i].tensor) && bb_data(list[i].tensor) &&
                     !bb_requires_grad(list[i].tensor));
    }
    CHECK_INT(t, elements, bb_params_elements(model->params)); /* all of them, none twice */
    char name[100];
    for (int layer = 0; layer < 2; layer++)
        for (int i = 0; i < 9; i++) {
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, want[i].name);
            bb_tensor *x = find(list, n, name);
            bb_shape expected = want[i].columns ? BB_SHAPE(want[i].rows, want[i].columns)
                                                : BB_SHAPE(want[i].rows),
                     got = bb_shape_of(x);
            CHECK_MSG(t, x && bb_shape_equal(&expected, &got), "%s", name);
        }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Row 0 of k_proj is row heads * head_dim of the fused weight, and writing it is seen by the model.
 */
static void views(test *t) {
    bb_context *ctx = test_open_host();
    bb_nn_transformer *model = bb_nn_transformer_new(ctx, bb_get_device(ctx), &grouped);
    int n = 0;
    const bb_named *list = bb_nn_transformer_named(model, &n);
    bb_tensor *k = find(list, n, "model.layers.1.self_attn.k_proj.weight"),
              *v = find(list, n, "model.layers.1.self_attn.v_proj.weight");
    float *fused = bb_data(model->blocks[1].attn.qkv.weight);
    CHECK(t, (float *)bb_data(k) == fused + 24 * 12 && (float *)bb_data(v) == fused + 36 * 12);
    const int32_t ids[3] = {1, 2, 3};
    bb_tensor *before = bb_nn_transformer_forward(model, bb_from(ctx, BB_I32, BB_SHAPE(1, 3), ids));
    float *ones = malloc(12 * 12 * sizeof *ones);
    for (int i = 0; i < 144; i++) ones[i] = 1;
    CHECK_INT(t, bb_write(v, ones, 144 * sizeof *ones), BB_OK);
    free(ones);
    CHECK(t, fused[36 * 12] == 1 && fused[35 * 12] != 1);
    CHECK(t, !same_bytes(before, bb_nn_transformer_forward(
                                     model, bb_from(ctx, BB_I32, BB_SHAPE(1, 3), ids))));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void variants(test *t) {
    bb_context *ctx = test_open();
    bb_nn_config c = grouped;
    c.tie_embeddings = c.qk_norm = true;
    bb_nn_transformer *model = bb_nn_transformer_new(ctx, bb_get_device(ctx), &c);
    int n = 0;
    const bb_named *list = bb_nn_transformer_named(model, &n);
    CHECK_INT(t, n, 2 + 2 * 10);
    CHECK(t, !find(list, n, "lm_head.weight") &&
                 find(list, n, "model.layers.0.self_attn.qk_norm.weight"));
    CHECK(t, !bb_nn_transformer_named(NULL, &n) && n == 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {{"shapes", shapes}, {"views", views}, {"variants", variants}};
TEST_MAIN(rows)
