/* Model folders: what a configuration may and may not say, weights that do not fit it, shards,
 * dtypes, and the program on a folder with a tokenizer. That the numbers are right is the business
 * of tests/reference/test_models.c, whose fixtures are used here. */
#include "tools/model.h"

#include "tests/tools/program.h"
#include "tools/tokenizer.h"

#define ROOT BOBBIN_SOURCE_DIR "/tests/reference/models/"

static char *slurp(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    char *text = calloc(1 << 20, 1);
    *bytes = file && text ? fread(text, 1, 1 << 20, file) : 0;
    if (file) fclose(file);
    return text;
}

/* The configuration of fixture `kind` with one text in place of another; free() it. */
static char *changed(test *t, const char *kind, const char *from, const char *to) {
    char path[512];
    size_t n;
    snprintf(path, sizeof path, ROOT "%s/config.json", kind);
    char *good = slurp(path, &n), *at = strstr(good, from), *bad = calloc(n + 400, 1);
    CHECK_MSG(t, at != NULL, "no %s in %s", from, kind);
    if (at) sprintf(bad, "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
    free(good);
    return bad;
}

/* ---- Configurations ---------------------------------------------------------------------------
 */

static const struct {
    const char *kind, *from, *to, *part;
} wrong[] = {
    {"llama", "\"model_type\": \"llama\"", "\"model_type\": \"mamba\"",
     "model_type: expected \"llama\", \"mistral\", \"qwen3\" or \"gemma\", got"},
    {"llama", "LlamaForCausalLM", "LlamaForTokenClassification",
     "architectures: expected \"LlamaForCausalLM\", got"},
    {"gemma", "GemmaForCausalLM", "Gemma2ForCausalLM",
     "architectures: expected \"GemmaForCausalLM\", got"},
    {"llama", "\"rope_type\": \"default\"", "\"rope_type\": \"llama3\", \"factor\": 8.0",
     "rope_parameters.rope_type: expected \"default\", got"},
    {"llama", "\"rope_type\": \"default\"", "\"factor\": 8.0",
     "rope_parameters: expected only rope_type \"default\" and rope_theta, got"},
    {"llama", "\"use_cache\": true", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}",
     "rope_scaling.rope_type: expected \"default\", got"},
    {"llama", "\"use_cache\": true", "\"rope_theta\": 10000.0",
     "rope_parameters.rope_theta: expected the rope_theta of the top level, got"},
    {"llama", "\"rope_theta\": 500.0", "\"rope_theta\": -1.0", "expected a rope_theta above 0"},
    {"llama", "\"hidden_act\": \"silu\"", "\"hidden_act\": \"relu\"",
     "hidden_act: expected \"silu\""},
    {"llama", "\"attention_dropout\": 0.0", "\"attention_dropout\": 0.1",
     "attention_dropout: expected 0.0, got"},
    {"llama", "\"use_cache\": true", "\"sliding_window\": 8",
     "sliding_window: expected none in a model of type llama, got"},
    {"mistral", "\"use_cache\": true", "\"attention_bias\": true",
     "attention_bias: expected none in a model of type mistral, got"},
    {"mistral", "\"sliding_window\": 5", "\"sliding_window\": 0",
     "sliding_window: expected null or an integer from 1"},
    {"qwen3", "\"full_attention\"", "\"chunked_attention\"", "layer_types: expected"},
    {"qwen3", "\"full_attention\",", "", "layer_types: expected one for each of num_hidden_layers"},
    {"qwen3", "\"full_attention\",", "\"sliding_attention\", \"full_attention\",",
     "layer_types: expected no full layer after a sliding one"},
    {"qwen3", "\"use_sliding_window\": true", "\"use_sliding_window\": false",
     "layer_types: expected a sliding_window for"},
    {"qwen3", "\"max_window_layers\": 1", "\"max_window_layers\": -1",
     "max_window_layers: expected"},
    {"gemma", "\"pad_token_id\": 0", "\"pad_token_id\": 96",
     "pad_token_id: expected null or an id"},
    {"gemma", "\"use_cache\": true", "\"final_logit_softcapping\": 30.0",
     "expected keys of a gemma configuration, got '\"final_logit_softcapping"},
    {"gemma", "\"use_cache\": true", "\"use_bidirectional_attention\": true", "expected"},
    {"llama", "\"use_cache\": true", "\"quantization_config\": {}",
     "quantization_config: expected null"},
    {"llama", "\"vocab_size\": 96", "\"vocab_size\": 96.5",
     "vocab_size: expected an integer from 1"},
    {"llama", "\"vocab_size\": 96", "\"use_cache\": 1", "use_cache"},
    {"llama", "\"head_dim\": 12", "\"head_dim\": 11", "head_dim: expected an even number, got 11"},
    {"llama", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3",
     "kv_heads: expected a divisor of heads (4), got 3"},
    {"llama", "\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": \"small\"",
     "rms_norm_eps: expected a number above 0"},
    {"llama", "{", "[{", ""},
};

static void refused(test *t) {
    bb_context *ctx = test_open();
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        bb_nn_config config;
        char *bad = changed(t, wrong[i].kind, wrong[i].from, wrong[i].to);
        CHECK(t, bb_model_config_parse(ctx, "config.json", bad, strlen(bad), &config) != BB_OK);
        CHECK_MSG(t, strstr(bb_error_message(ctx), wrong[i].part), "%d: %s", (int)i,
                  bb_error_message(ctx));
        CHECK(t, !strchr(bb_error_message(ctx), '\n'));
        bb_clear_error(ctx);
        free(bad);
    }
    bb_close(ctx);
}

/* Keys left out mean what the configuration classes of transformers say. */
static void left_out(test *t) {
    static const char text[] =
        "{\"model_type\": \"%s\", \"vocab_size\": 300, \"hidden_size\": 64, \"intermediate_size\": "
        "8, "
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 32, \"max_position_embeddings\": 9%s}";
    char full[600];
    bb_nn_config c;
    bb_context *ctx = test_open();
    snprintf(full, sizeof full, text, "llama", "");
    CHECK_INT(t, bb_model_config_parse(ctx, "c", full, strlen(full), &c), BB_OK);
    CHECK(t, c.kv_heads == 32 && c.head_dim == 2 && c.norm_eps == 1e-6 && c.rope_base == 1e4);
    CHECK(t, !c.tie_embeddings && !c.qkv_bias && !c.mlp_bias && !c.window && !c.has_padding);
    snprintf(full, sizeof full, text, "mistral", "");
    CHECK_INT(t, bb_model_config_parse(ctx, "c", full, strlen(full), &c), BB_OK);
    CHECK(t, c.kv_heads == 8 && c.window == 4096 && c.window_from == 0 && c.norm_eps == 1e-6);
    snprintf(full, sizeof full, text, "mistral", ", \"sliding_window\": null");
    CHECK_INT(t, bb_model_config_parse(ctx, "c", full, strlen(full), &c), BB_OK);
    CHECK_INT(t, c.window, 0);
    snprintf(full, sizeof full, text, "qwen3", ", \"sliding_window\": 7");
    CHECK_INT(t, bb_model_config_parse(ctx, "c", full, strlen(full), &c), BB_OK);
    CHECK(t, c.kv_heads == 32 && c.head_dim == 128 && c.qk_norm_shared && c.window == 0 &&
                 c.norm_eps == 1e-6 && c.rope_base == 1e4);
    snprintf(full, sizeof full, text, "gemma", "");
    CHECK_INT(t, bb_model_config_parse(ctx, "c", full, strlen(full), &c), BB_OK);
    CHECK(t, c.kv_heads == 16 && c.head_dim == 256 && c.tie_embeddings && c.zero_centered_norm);
    CHECK(t, c.has_padding && c.padding == 0 && c.embed_scale == 8 &&
                 c.activation == BB_NN_GELU_TANH && c.norm_eps == 1e-6 && c.rope_base == 1e4);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* A mixture of options that no architecture has is refused before anything is written. */
static void no_such_form(test *t) {
    scratch_folder s;
    bb_context *ctx = test_open();
    bb_nn_config c;
    if (!scratch_open(t, &s)) return;
    bb_nn_config_named("tiny", &c, NULL);
    c.window = 8;
    c.mlp_bias = true;
    bb_nn_transformer *model = bb_nn_transformer_new(ctx, BB_CPU, &c);
    CHECK_INT(t, bb_model_save(model, s.path), BB_ERR_UNSUPPORTED);
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, "expected a llama, mistral, qwen3 or gemma model");
    CHECK(t,
          !scratch_read(&s, "model.safetensors", NULL) && !scratch_read(&s, "config.json", NULL));
    scratch_close(&s);
    bb_close(ctx);
}

/* ---- Weights ----------------------------------------------------------------------------------
 */

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

/* ---- The program -------------------------------------------------------------------------------
 */

static void ends(test *t) {
    scratch_folder s;
    bb_context *ctx = test_open();
    if (!scratch_open(t, &s)) return;
    CHECK_INT(t, bb_model_end_tokens(ctx, s.path).n, 0);
    scratch_write(&s, "config.json", "{\"eos_token_id\": 7}", 19);
    bb_ints one = bb_model_end_tokens(ctx, s.path);
    CHECK(t, one.n == 1 && one.v[0] == 7);
    scratch_write(&s, "generation_config.json", "{\"eos_token_id\": [3, 4]}", 24);
    bb_ints two = bb_model_end_tokens(ctx, s.path);
    CHECK(t, two.n == 2 && two.v[0] == 3 && two.v[1] == 4);
    char to[256];
    snprintf(to, sizeof to, "%s/to", s.path);
    mkdir(to, 0777);
    CHECK_INT(t, bb_model_copy_papers(ctx, s.path, to), BB_OK);
    two = bb_model_end_tokens(ctx, to);
    CHECK(t, two.n == 2 && two.v[0] == 3 && two.v[1] == 4);
    char gone[300];
    snprintf(gone, sizeof gone, "%s/generation_config.json", s.path);
    remove(gone);
    CHECK_INT(t, bb_model_copy_papers(ctx, s.path, to), BB_OK); /* from config.json */
    one = bb_model_end_tokens(ctx, to);
    CHECK(t, one.n == 1 && one.v[0] == 7);
    scratch_write(&s, "generation_config.json", "{\"eos_token_id\": [3, \"x\", 4]}", 29);
    bb_model_end_tokens(ctx, s.path);
    CHECK_ERROR(t, ctx, BB_ERR_FORMAT, "eos_token_id: expected an id or up to");
    scratch_close(&s);
    bb_close(ctx);
}

/* A folder of a family's form with a tokenizer: fine-tuned, resumed, sampled; the same run in one
 * go gives the same bytes. */
static void fine_tuning(test *t) {
    scratch_folder s;
    bb_context *ctx = test_open();
    char folder[256];
    size_t n, a_bytes = 0, b_bytes = 1;
    if (!scratch_open(t, &s)) return;
    char *qwen = changed(t, "qwen3", "\"vocab_size\": 96", "\"vocab_size\": 430");
    bb_nn_config c;
    bb_model_config_parse(ctx, "qwen3", qwen, strlen(qwen), &c);
    snprintf(folder, sizeof folder, "%s/base", s.path);
    mkdir(folder, 0777);
    CHECK_INT(t, bb_model_save(bb_nn_transformer_new(ctx, BB_CPU, &c), folder), BB_OK);
    char *tokenizer = slurp(ROOT "tokenizers/qwen.json", &n);
    scratch_write(&s, "base/tokenizer.json", tokenizer, n);
    free(tokenizer);
    free(qwen);
#define RUN                                                                                        \
    "train --model base --data '" ROOT "tokenizers/text.txt' --batch 4 --seq 16 --lr 1e-2 "        \
    "--warmup 2 --eval-every 0 --save-every 0 --threads 1 "
    CHECK_INT(t, program_run(&s, RUN "--steps 6 --out whole"), 0);
    char *said = scratch_read(&s, "out.txt", NULL);
    CHECK_MSG(t, said && strstr(said, "nats/token"), "%s", said ? said : "nothing");
    free(said);
    CHECK_INT(t, program_run(&s, RUN "--steps 4 --out parts"), 0);
    CHECK_INT(t, program_run(&s, "train --resume parts --steps 6 --threads 1"), 0);
    char *a = scratch_read(&s, "whole/model.safetensors", &a_bytes),
         *b = scratch_read(&s, "parts/model.safetensors", &b_bytes);
    CHECK(t, a && b && a_bytes == b_bytes && memcmp(a, b, a_bytes) == 0);
    free(a);
    free(b);
    CHECK_INT(t,
              program_run(&s, "sample --model parts --prompt 'The quick' --tokens 20 "
                              "--temperature 0"),
              0);
    said = scratch_read(&s, "out.txt", &n);
    CHECK(t, said && strncmp(said, "The quick", 9) == 0 && n > 20);
    free(said);
    scratch_write(&s, "bytes.bin", "\xff\xfe\xfd", 3);
    check_refused(t, &s, program_run(&s, "train --model base --data bytes.bin --out x"), 2,
                  "text: expected UTF-8, got byte 0xff at 0");
    check_refused(t, &s, program_run(&s, "train --model '" ROOT "llama' --out x"), 2,
                  "vocab_size: expected at least 256, one for each byte, got 96");
    scratch_close(&s);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"refused", refused}, {"left_out", left_out}, {"no_such_form", no_such_form},
    {"weights", weights}, {"shards", shards},     {"dtypes", dtypes},
    {"damaged", damaged}, {"ends", ends},         {"fine_tuning", fine_tuning},
};
TEST_MAIN(rows)
