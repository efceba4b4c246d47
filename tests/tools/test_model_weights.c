/* The weights of a model folder (tools/model_weights.c, model_index.c): what does not fit its
 * config.json, shards, dtypes, damage. */
#include "tests/tools/model_test.h"

enum { FIT, MISSING, FURTHER, RESHAPED, INTEGER, TIED_OTHER, OLD_BUFFER, TIED_SAME, WAYS };
static const char *const complaints[WAYS] = {
    [MISSING] =
        "tensor 'model.layers.1.mlp.up_proj.weight': expected to find it in the file, got no "
        "such tensor",
    [FURTHER] =
        "tensor 'model.layers.2.mlp.up_proj.weight': expected only tensors that config.json "
        "calls for, got one more",
    [RESHAPED] = "tensor 'model.norm.weight': expected (32,), got (4, 8)",
    [INTEGER] = "tensor 'model.norm.weight': expected f64, f32, f16 or bf16, got i32",
    [TIED_OTHER] = "tensor 'lm_head.weight': expected the values of model.embed_tokens.weight",
};

/* Fixture mistral, with something done to its tensors. */
static void write_folder(bb_context *ctx, const char *folder, int way) {
    char path[600];
    int count = 0, kept = 0;
    bb_named list[64];
    bb_nn_transformer *model = bb_model_load(ctx, BB_CPU, ROOT "mistral");
    const bb_named *all = bb_nn_transformer_named(model, &count);
    for (int i = 0; i < count; i++) {
        bool norm = strcmp(all[i].name, "model.norm.weight") == 0;
        if (way == MISSING && strcmp(all[i].name, "model.layers.1.mlp.up_proj.weight") == 0)
            continue;
        list[kept++] = all[i];
        if (norm && way == RESHAPED)
            list[kept - 1].tensor = bb_reshape(all[i].tensor, BB_SHAPE(4, 8));
        if (norm && way == INTEGER) list[kept - 1].tensor = bb_cast(all[i].tensor, BB_I32);
    }
    bb_tensor *head = model->embed.weight, *two = bb_mul_scalar(model->embed.weight, 2);
    if (way == FURTHER) list[kept++] = (bb_named){"model.layers.2.mlp.up_proj.weight", head};
    if (way == TIED_OTHER) list[kept++] = (bb_named){"lm_head.weight", two};
    if (way == TIED_SAME) list[kept++] = (bb_named){"lm_head.weight", head};
    if (way == OLD_BUFFER)
        list[kept++] = (bb_named){"model.layers.0.self_attn.rotary_emb.inv_freq", two};
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    bb_safetensors_save(ctx, path, list, kept, NULL, 0, NULL);
    size_t n;
    char *config = slurp(ROOT "mistral/config.json", &n);
    snprintf(path, sizeof path, "%s/config.json", folder);
    bb_file_write(ctx, path, config, n);
    free(config);
}

static void weights(test *t) {
    scratch_folder s;
    bb_context *ctx = test_open();
    if (!scratch_open(t, &s)) return;
    for (int way = 0; way < WAYS; way++) {
        write_folder(ctx, s.path, way);
        CHECK_OK(t, ctx);
        bb_nn_transformer *model = bb_model_load(ctx, BB_CPU, s.path);
        CHECK_MSG(t, (model == NULL) == (complaints[way] != NULL), "way %d: %s", way,
                  bb_error_message(ctx));
        if (complaints[way]) CHECK_ERROR(t, ctx, BB_ERR_FORMAT, complaints[way]);
    }
    /* A configuration of far more weights than there are makes no model. */
    char *huge =
        changed(t, "mistral", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 16000000");
    scratch_write(&s, "config.json", huge, strlen(huge));
    CHECK(t, !bb_model_load(ctx, BB_CPU, s.path));
    CHECK_ERROR(t, ctx, BB_ERR_FORMAT, "weights for its config.json, got");
    free(huge);
    scratch_close(&s);
    bb_close(ctx);
}

/* Two shards hold the same model as one file; an index that lies is refused. */
static void shards(test *t) {
    scratch_folder s;
    bb_context *ctx = test_open();
    char path[600];
    int count = 0;
    if (!scratch_open(t, &s)) return;
    bb_nn_transformer *model = bb_model_load(ctx, BB_CPU, ROOT "mistral");
    const bb_named *all = bb_nn_transformer_named(model, &count);
    write_folder(ctx, s.path, FIT);
    snprintf(path, sizeof path, "%s/model.safetensors", s.path);
    remove(path);
    for (int part = 0; part < 2; part++) {
        snprintf(path, sizeof path, "%s/part-%d.safetensors", s.path, part);
        int half = count / 2, begin = part ? half : 0, n = part ? count - half : half;
        bb_safetensors_save(ctx, path, all + begin, n, NULL, 0, NULL);
    }
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", s.path);
    for (int lie = 0; lie < 4; lie++) {
        bb_json_writer w;
        bb_json_open(&w, ctx, 0);
        bb_json_begin_object(&w);
        bb_json_key(&w, lie == 3 ? "weights" : "weight_map");
        bb_json_begin_object(&w);
        for (int i = 0; i < count; i++) {
            bb_json_key(&w, all[i].name);
            bb_json_put_string(&w, lie == 1 && i == 3   ? "../part-0.safetensors"
                                   : lie == 2 && i == 3 ? "part-1.safetensors"
                                   : i < count / 2      ? "part-0.safetensors"
                                                        : "part-1.safetensors");
        }
        bb_json_end_object(&w);
        bb_json_end_object(&w);
        bb_json_save(&w, path);
        bb_json_close(&w);
        bb_nn_transformer *again = bb_model_load(ctx, BB_CPU, s.path);
        if (lie == 0 && CHECK(t, again != NULL)) {
            bb_tensor *a = bb_params_values(model->params), *b = bb_params_values(again->params);
            CHECK(t, memcmp(bb_data(a), bb_data(b), (size_t)bb_count(a) * 4) == 0);
        }
        if (lie == 1)
            CHECK_ERROR(t, ctx, BB_ERR_FORMAT, "weight_map: expected names of files, got");
        if (lie == 2) CHECK_ERROR(t, ctx, BB_ERR_FORMAT, "expected to find it in the file");
        if (lie == 3) CHECK_ERROR(t, ctx, BB_ERR_FORMAT, "weight_map: expected an object");
    }
    CHECK_OK(t, ctx);
    scratch_close(&s);
    bb_close(ctx);
}

/* bf16 files widen exactly; f32 files round once. */
static void dtypes(test *t) {
    scratch_folder s;
    bb_context *ctx = test_open();
    if (!scratch_open(t, &s)) return;
    bb_nn_transformer *narrow = bb_model_load_as(ctx, BB_CPU, ROOT "gemma", BB_BF16);
    CHECK_INT(t, bb_model_save(narrow, s.path), BB_OK);
    bb_nn_transformer *wide = bb_model_load(ctx, BB_CPU, s.path);
    if (CHECK_MSG(t, wide != NULL, "%s", bb_error_message(ctx))) {
        bb_tensor *a = bb_cast(bb_params_values(narrow->params), BB_F32),
                  *b = bb_params_values(wide->params);
        /* The blocks are padded to other widths, so tensor by tensor. */
        CHECK(t, a && b);
        for (int i = 0; i < bb_params_count(wide->params); i++) {
            bb_tensor *x = bb_cast(bb_params_at(narrow->params, i), BB_F32),
                      *y = bb_params_at(wide->params, i);
            CHECK(t, memcmp(bb_data(x), bb_data(y), (size_t)bb_count(y) * 4) == 0);
        }
    }
    char *config = scratch_read(&s, "config.json", NULL);
    CHECK(t, config && strstr(config, "\"torch_dtype\": \"bfloat16\""));
    free(config);
    scratch_close(&s);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* A configuration or weights cut short, or with a byte changed, anywhere: a model or one error, and
 * nothing worse. */
static void damaged(test *t) {
    static const char *const files[] = {"config.json", "model.safetensors"};
    scratch_folder s;
    bb_context *ctx = test_open();
    uint64_t state = 5;
    int refusals = 0;
    if (!scratch_open(t, &s)) return;
    for (int i = 0; i < 300; i++) {
        char path[512];
        size_t n;
        bb_context *one = test_open();
        write_folder(one, s.path, FIT);
        snprintf(path, sizeof path, "%s/%s", s.path, files[i % 2]);
        char *bytes = slurp(path, &n);
        state = state * 6364136223846793005u + 1442695040888963407u;
        size_t at = (size_t)(state >> 33) % (i % 2 && i % 3 ? 2000 : n);
        if (i % 4) bytes[at] = "\"{}[],:90e-\\\xff\x00nt"[state >> 20 & 15];
        scratch_write(&s, files[i % 2], bytes, i % 4 ? n : at);
        bb_nn_transformer *model = bb_model_load(one, BB_CPU, s.path);
        CHECK(t, (model == NULL) == (bb_error(one) != BB_OK));
        refusals += model == NULL;
        free(bytes);
        bb_close(one);
    }
    CHECK(t, refusals > 150);
    scratch_close(&s);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"weights", weights}, {"shards", shards}, {"dtypes", dtypes}, {"damaged", damaged}};
TEST_MAIN(rows)
