/* config.json of a model: the keys of Hugging Face's Llama configuration, as a table. The manual is
 * tools/model.h. */
#include "tools/model.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* What a key means to us. */
typedef enum key_use {
    KEY_INT,    /* a positive integer of the configuration */
    KEY_NUMBER, /* a positive number of it */
    KEY_BOOL,
    KEY_ONLY,   /* changes numbers; the JSON text in `only` (or null) is all that we compute */
    KEY_IGNORED /* does not change the numbers of a byte model */
} key_use;

typedef struct config_key {
    const char *name;
    key_use use;
    size_t offset;
    bool required;
    const char *only;
} config_key;

#define FIELD(field) offsetof(bb_nn_config, field)
/* clang-format off */
static const config_key keys[] = {
    {"vocab_size", KEY_INT, FIELD(vocab), true, NULL},
    {"hidden_size", KEY_INT, FIELD(dim), true, NULL},
    {"num_hidden_layers", KEY_INT, FIELD(layers), true, NULL},
    {"num_attention_heads", KEY_INT, FIELD(heads), true, NULL},
    {"num_key_value_heads", KEY_INT, FIELD(kv_heads), false, NULL},
    {"head_dim", KEY_INT, FIELD(head_dim), false, NULL},
    {"intermediate_size", KEY_INT, FIELD(hidden), true, NULL},
    {"max_position_embeddings", KEY_INT, FIELD(max_seq), true, NULL},
    {"rope_theta", KEY_NUMBER, FIELD(rope_base), false, NULL},
    {"rms_norm_eps", KEY_NUMBER, FIELD(norm_eps), false, NULL},
    {"tie_word_embeddings", KEY_BOOL, FIELD(tie_embeddings), false, NULL},
    {"qk_norm", KEY_BOOL, FIELD(qk_norm), false, NULL}, /* ours: see bb_nn_transformer_named */
    {"model_type", KEY_ONLY, 0, false, "\"llama\""},
    {"hidden_act", KEY_ONLY, 0, false, "\"silu\""},
    {"attention_bias", KEY_ONLY, 0, false, "false"},
    {"mlp_bias", KEY_ONLY, 0, false, "false"},
    {"attention_dropout", KEY_ONLY, 0, false, "0.0"},
    {"rope_scaling", KEY_ONLY, 0, false, "null"},
    {"sliding_window", KEY_ONLY, 0, false, "null"},
    {"architectures", KEY_IGNORED, 0, false, NULL},
    {"torch_dtype", KEY_IGNORED, 0, false, NULL}, /* the file of weights says it for each */
    {"dtype", KEY_IGNORED, 0, false, NULL},
    {"initializer_range", KEY_IGNORED, 0, false, NULL},
    {"pretraining_tp", KEY_IGNORED, 0, false, NULL},
    {"use_cache", KEY_IGNORED, 0, false, NULL},
    {"bos_token_id", KEY_IGNORED, 0, false, NULL},
    {"eos_token_id", KEY_IGNORED, 0, false, NULL},
    {"pad_token_id", KEY_IGNORED, 0, false, NULL},
    {"transformers_version", KEY_IGNORED, 0, false, NULL},
    {"_name_or_path", KEY_IGNORED, 0, false, NULL},
};
/* clang-format on */
enum { KEY_COUNT = sizeof keys / sizeof keys[0] };

static const config_key *find_key(bb_json name, int *index) {
    for (int i = 0; i < KEY_COUNT; i++) {
        *index = i;
        if (bb_json_equals(name, keys[i].name)) return &keys[i];
    }
    return NULL;
}

static bool same_value(bb_json value, const char *only) {
    double a, b;
    if (bb_json_kind_of(value) == BB_JSON_NULL) return true;
    if (bb_json_number(value, &a)) return sscanf(only, "%lf", &b) == 1 && a == b;
    return strlen(only) == (size_t)(value.end - value.at) &&
           memcmp(only, value.at, strlen(only)) == 0;
}

static bb_status read_value(bb_context *ctx, const char *name, const config_key *key, bb_json value,
                            bb_nn_config *config) {
    char *field = (char *)config + key->offset, got[BB_QUOTE_BYTES];
    const char *expected = NULL;
    double number = 0;
    bool null = bb_json_kind_of(value) == BB_JSON_NULL && !key->required;
    if (null) return BB_OK;
    if (key->use == KEY_INT && !bb_json_int(value, 1, 1 << 24, (int64_t *)(void *)field)) {
        expected = "an integer from 1 to 16777216";
    } else if (key->use == KEY_NUMBER) {
        if (!bb_json_number(value, &number) || !(number > 0))
            expected = "a number above 0";
        else
            memcpy(field, &number, sizeof number);
    } else if (key->use == KEY_BOOL && !bb_json_bool(value, (bool *)(void *)field)) {
        expected = "true or false";
    } else if (key->use == KEY_ONLY && !same_value(value, key->only)) {
        expected = key->only;
    }
    if (!expected) return BB_OK;
    return bb_fail(ctx, BB_ERR_FORMAT, "%s: %s: expected %s, got %s", name, key->name, expected,
                   bb_quote(value.at, (size_t)(value.end - value.at), got));
}

/* nn's own check, with the file's name before its words. */
static bb_status check_config(bb_context *ctx, const char *name, bb_nn_config *config) {
    char problem[BB_QUOTE_BYTES * 4];
    if (bb_nn_config_check(ctx, config) == BB_OK) return BB_OK;
    snprintf(problem, sizeof problem, "%s", bb_error_message(ctx));
    bb_clear_error(ctx);
    return bb_fail(ctx, BB_ERR_FORMAT, "%s: %s", name, problem);
}

bb_status bb_model_config_parse(bb_context *ctx, const char *name, const char *text, size_t bytes,
                                bb_nn_config *config) {
    bb_json root;
    bool seen[KEY_COUNT] = {false};
    memset(config, 0, sizeof *config);
    config->dtype = BB_F32;
    if (bb_json_parse(ctx, name, text, bytes, &root) != BB_OK) return bb_error(ctx);
    if (bb_json_kind_of(root) != BB_JSON_OBJECT) {
        return bb_fail(ctx, BB_ERR_FORMAT, "%s: expected an object, got %s", name,
                       bb_json_kind_name(bb_json_kind_of(root)));
    }
    for (bb_json_walk w = bb_json_begin(root); bb_json_next(&w);) {
        int index;
        char quoted[BB_QUOTE_BYTES];
        const config_key *key = find_key(w.key, &index);
        if (!key) {
            return bb_fail(ctx, BB_ERR_FORMAT, "%s: expected keys of a Llama configuration, got %s",
                           name, bb_quote(w.key.at, (size_t)(w.key.end - w.key.at), quoted));
        }
        seen[index] = true;
        if (read_value(ctx, name, key, w.value, config) != BB_OK) return bb_error(ctx);
    }
    for (int i = 0; i < KEY_COUNT; i++) {
        if (keys[i].required && !seen[i])
            return bb_fail(ctx, BB_ERR_FORMAT, "%s: %s is missing", name, keys[i].name);
    }
    return check_config(ctx, name, config);
}

bb_status bb_model_config_read(bb_context *ctx, const char *path, bb_nn_config *config) {
    bb_file file;
    if (bb_file_map(ctx, path, &file) != BB_OK) return bb_error(ctx);
    bb_status status = bb_model_config_parse(ctx, path, file.data, file.bytes, config);
    bb_file_unmap(&file);
    return status;
}

void bb_model_config_write(bb_json_writer *w, const bb_nn_config *config) {
    bb_json_begin_object(w);
    bb_json_key(w, "architectures");
    bb_json_begin_array(w);
    bb_json_put_string(w, "LlamaForCausalLM");
    bb_json_end_array(w);
    bb_json_key(w, "model_type");
    bb_json_put_string(w, "llama");
    bb_json_key(w, "torch_dtype");
    bb_json_put_string(w, config->dtype == BB_BF16 ? "bfloat16" : "float32");
    bb_json_key(w, "hidden_act");
    bb_json_put_string(w, "silu");
    for (int i = 0; i < KEY_COUNT; i++) {
        const char *field = (const char *)config + keys[i].offset;
        bool flag = false;
        int64_t integer;
        double number;
        if (keys[i].use == KEY_BOOL) memcpy(&flag, field, sizeof flag);
        if (keys[i].use > KEY_BOOL || (keys[i].offset == FIELD(qk_norm) && !flag))
            continue; /* not a Llama key */
        bb_json_key(w, keys[i].name);
        if (keys[i].use == KEY_INT) {
            memcpy(&integer, field, sizeof integer);
            bb_json_put_int(w, integer);
        } else if (keys[i].use == KEY_NUMBER) {
            memcpy(&number, field, sizeof number);
            bb_json_put_number(w, number);
        } else {
            bb_json_put_bool(w, flag);
        }
    }
    bb_json_end_object(w);
}
