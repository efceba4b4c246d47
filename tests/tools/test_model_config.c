/* What the config.json of a model may and may not say (tools/model_config.c, model_keys.c,
 * model_config_write.c). */
#include "tests/tools/model_test.h"

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
    for (int i = 0; i < COUNT(wrong); i++) {
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

static const test_row rows[] = {
    {"refused", refused}, {"left_out", left_out}, {"no_such_form", no_such_form}};
TEST_MAIN(rows)
