/* The tables themselves. What they mean: tools/model_keys.h. */
#include "tools/model_keys.h"

#include <stddef.h>

/* clang-format off */
const bb_architecture bb_architectures[BB_ARCHITECTURES] = {
    {"llama", "LlamaForCausalLM", {.rope_base = 1e4, .norm_eps = 1e-6}},
    {"mistral", "MistralForCausalLM",
     {.kv_heads = 8, .rope_base = 1e4, .norm_eps = 1e-6, .window = 4096}},
    {"qwen3", "Qwen3ForCausalLM",
     {.kv_heads = 32, .head_dim = 128, .rope_base = 1e4, .norm_eps = 1e-6, .qk_norm_shared = true}},
    {"gemma", "GemmaForCausalLM",
     {.kv_heads = 16, .head_dim = 256, .rope_base = 1e4, .norm_eps = 1e-6, .tie_embeddings = true,
      .zero_centered_norm = true, .activation = BB_NN_GELU_TANH, .has_padding = true}},
};

#define FIELD(field) offsetof(bb_nn_config, field)
const bb_config_key bb_config_keys[] = {
    {"vocab_size", KEY_INT, FIELD(vocab), BB_EACH, true, NULL},
    {"hidden_size", KEY_INT, FIELD(dim), BB_EACH, true, NULL},
    {"num_hidden_layers", KEY_INT, FIELD(layers), BB_EACH, true, NULL},
    {"num_attention_heads", KEY_INT, FIELD(heads), BB_EACH, true, NULL},
    {"num_key_value_heads", KEY_INT, FIELD(kv_heads), BB_EACH, false, NULL},
    {"head_dim", KEY_INT, FIELD(head_dim), BB_EACH, false, NULL},
    {"intermediate_size", KEY_INT, FIELD(hidden), BB_EACH, true, NULL},
    {"max_position_embeddings", KEY_INT, FIELD(max_seq), BB_EACH, true, NULL},
    {"rope_theta", KEY_NUMBER, FIELD(rope_base), BB_EACH, false, NULL},
    {"rms_norm_eps", KEY_NUMBER, FIELD(norm_eps), BB_EACH, false, NULL},
    {"tie_word_embeddings", KEY_BOOL, FIELD(tie_embeddings), BB_EACH, false, NULL},
    {"qk_norm", KEY_BOOL, FIELD(qk_norm), BB_LLAMA, false, NULL}, /* ours: bb_nn_transformer_named */
    {"mlp_bias", KEY_BOOL, FIELD(mlp_bias), BB_LLAMA, false, NULL},
    {"attention_bias", KEY_BIAS, 0, BB_LLAMA | BB_QWEN3 | BB_GEMMA, false, NULL},
    {"hidden_act", KEY_ACTIVATION, FIELD(activation), BB_EACH, false, NULL},
    {"pad_token_id", KEY_PADDING, 0, BB_EACH, false, NULL},
    {"rope_parameters", KEY_ROPE, 0, BB_EACH, false, NULL},
    {"rope_scaling", KEY_ROPE, 0, BB_EACH, false, NULL},
    {"sliding_window", KEY_LATER, 0, BB_MISTRAL | BB_QWEN3, false, NULL},
    {"use_sliding_window", KEY_LATER, 0, BB_QWEN3, false, NULL},
    {"max_window_layers", KEY_LATER, 0, BB_EACH, false, NULL},
    {"layer_types", KEY_LAYERS, 0, BB_QWEN3, false, NULL},
    {"attention_dropout", KEY_ONLY, 0, BB_EACH, false, "0.0"},
    {"partial_rotary_factor", KEY_ONLY, 0, BB_EACH, false, "1.0"},
    {"rope_interleaved", KEY_ONLY, 0, BB_EACH, false, "false"},
    {"hidden_activation", KEY_ONLY, 0, BB_EACH, false, "\"gelu_pytorch_tanh\""},
    {"use_bidirectional_attention", KEY_ONLY, 0, BB_EACH, false, "false"},
    {"quantization_config", KEY_ONLY, 0, BB_EACH, false, "null"},
    {"is_encoder_decoder", KEY_ONLY, 0, BB_EACH, false, "false"},
    {"add_cross_attention", KEY_ONLY, 0, BB_EACH, false, "false"},
    {"auto_map", KEY_ONLY, 0, BB_EACH, false, "null"},
    {"model_type", KEY_HARMLESS, 0, BB_EACH, false, NULL},    /* read by find_architecture */
    {"architectures", KEY_HARMLESS, 0, BB_EACH, false, NULL}, /* the same */
    {"torch_dtype", KEY_HARMLESS, 0, BB_EACH, false, NULL}, /* the file of weights says it for each */
    {"dtype", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"initializer_range", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"pretraining_tp", KEY_HARMLESS, 0, BB_EACH, false, NULL}, /* how to cut products, not which */
    {"use_cache", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"bos_token_id", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"eos_token_id", KEY_HARMLESS, 0, BB_EACH, false, NULL}, /* read by tools/sampler.c */
    {"transformers_version", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"transformers.js_config", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"is_llama_config", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"_name_or_path", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"_attn_implementation_autoset", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"unsloth_version", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"unsloth_fixed", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"tokenizer_class", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"output_attentions", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"output_hidden_states", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"return_dict", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"id2label", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"label2id", KEY_HARMLESS, 0, BB_EACH, false, NULL},
    {"problem_type", KEY_HARMLESS, 0, BB_EACH, false, NULL},
};
const int bb_config_key_count = sizeof bb_config_keys / sizeof bb_config_keys[0];
_Static_assert(sizeof bb_config_keys / sizeof bb_config_keys[0] <= BB_MOST_KEYS, "more keys");

const bb_activation_name bb_activation_names[BB_ACTIVATIONS] = {
    {"silu", BB_NN_SILU},
    {"swish", BB_NN_SILU},
    {"gelu", BB_NN_GELU},
    {"gelu_pytorch_tanh", BB_NN_GELU_TANH},
    {"gelu_new", BB_NN_GELU_TANH},
};
/* clang-format on */
