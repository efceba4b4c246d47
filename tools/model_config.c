/* Reads the config.json of a model, in Hugging Face's keys. What a key means stands in the tables
 * of tools/model_keys.c; tools/model_config_write.c writes. A key that changes numbers in a way
 * that we do not compute is an error, and so is one that we do not know. The manual is
 * tools/model.h. */
#include "tools/model.h"

#include <math.h>
#include <string.h>

#include "tools/model_keys.h"

/* A reading in progress. */
typedef struct reading {
    bb_context *ctx;
    const char *name; /* what errors call the text */
    bb_json root;
    const bb_architecture *of;
    bb_nn_config *config;
} reading;

static bb_status wrong(const reading *r, const char *key, const char *expected, bb_json value) {
    char got[BB_QUOTE_BYTES];
    return bb_fail(r->ctx, BB_ERR_FORMAT, "%s: %s: expected %s, got %s", r->name, key, expected,
                   bb_quote(value.at, (size_t)(value.end - value.at), got));
}

/* ---- Which architecture ---------------------------------------------------------------------- */

static bb_status find_architecture(reading *r) {
    bb_json type, names;
    bool typed = bb_json_get(r->root, "model_type", &type) && bb_json_kind_of(type);
    bool named = bb_json_get(r->root, "architectures", &names) && bb_json_kind_of(names);
    bb_json_walk w = bb_json_begin(named ? names : r->root);
    if (named && (bb_json_kind_of(names) != BB_JSON_ARRAY || !bb_json_next(&w)))
        return wrong(r, "architectures", "a list of one name", names);
    for (int i = 0; i < BB_ARCHITECTURES; i++) {
        const bb_architecture *a = &bb_architectures[i];
        if (typed ? bb_json_equals(type, a->type) : !named || bb_json_equals(w.value, a->name)) {
            r->of = a;
            break;
        }
    }
    if (!r->of && typed)
        return wrong(r, "model_type", "\"llama\", \"mistral\", \"qwen3\" or \"gemma\"", type);
    if (named && (!r->of || !bb_json_equals(w.value, r->of->name))) {
        char expected[64];
        snprintf(expected, sizeof expected, "\"%s\"", r->of ? r->of->name : "LlamaForCausalLM");
        return wrong(r, "architectures", expected, w.value);
    }
    return BB_OK;
}

/* ---- Values ---------------------------------------------------------------------------------- */

static bool same_value(bb_json value, const char *only) {
    double a, b;
    if (bb_json_kind_of(value) == BB_JSON_NULL) return true;
    if (bb_json_number(value, &a)) return sscanf(only, "%lf", &b) == 1 && a == b;
    return strlen(only) == (size_t)(value.end - value.at) &&
           memcmp(only, value.at, strlen(only)) == 0;
}

/* The base may be named at the top and in the object; then they must agree. */
static bb_status read_base(reading *r, const char *key, bb_json value) {
    double base;
    bb_json top;
    if (!bb_json_number(value, &base) || !(base > 0))
        return wrong(r, key, "a rope_theta above 0", value);
    if (bb_json_get(r->root, "rope_theta", &top) && !same_value(top, "0") &&
        (!bb_json_number(top, &r->config->rope_base) || r->config->rope_base != base))
        return wrong(r, key, "the rope_theta of the top level", value);
    r->config->rope_base = base;
    return BB_OK;
}

/* Any other scaling of positions than none changes numbers. */
static bb_status read_rope(reading *r, const char *key, bb_json value) {
    bb_status status = BB_OK;
    char name[64];
    if (bb_json_kind_of(value) == BB_JSON_NULL) return BB_OK;
    if (bb_json_kind_of(value) != BB_JSON_OBJECT) return wrong(r, key, "an object or null", value);
    for (bb_json_walk w = bb_json_begin(value); bb_json_next(&w) && status == BB_OK;) {
        if (bb_json_equals(w.key, "rope_type") || bb_json_equals(w.key, "type")) {
            snprintf(name, sizeof name, "%s.rope_type", key);
            if (!bb_json_equals(w.value, "default"))
                status = wrong(r, name, "\"default\"", w.value);
        } else if (bb_json_equals(w.key, "rope_theta")) {
            snprintf(name, sizeof name, "%s.rope_theta", key);
            status = read_base(r, name, w.value);
        } else if (bb_json_equals(w.key, "partial_rotary_factor")) {
            snprintf(name, sizeof name, "%s.partial_rotary_factor", key);
            if (!same_value(w.value, "1.0")) status = wrong(r, name, "1.0", w.value);
        } else {
            status = wrong(r, key, "only rope_type \"default\" and rope_theta", w.key);
        }
    }
    return status;
}

static bb_status read_activation(reading *r, bb_json value) {
    for (int i = 0; i < BB_ACTIVATIONS; i++)
        if (bb_json_equals(value, bb_activation_names[i].name)) {
            r->config->activation = bb_activation_names[i].activation;
            return BB_OK;
        }
    return wrong(r, "hidden_act", "\"silu\", \"gelu\" or \"gelu_pytorch_tanh\"", value);
}

/* Sliding layers may only follow on full ones. */
static bb_status read_layers(reading *r, bb_json value) {
    bb_nn_config *c = r->config;
    int64_t count = 0, first = -1;
    if (bb_json_kind_of(value) == BB_JSON_NULL) return BB_OK;
    for (bb_json_walk w = bb_json_begin(value); bb_json_next(&w); count++) {
        bool slides = bb_json_equals(w.value, "sliding_attention");
        if (!slides && !bb_json_equals(w.value, "full_attention"))
            return wrong(r, "layer_types", "\"full_attention\" or \"sliding_attention\"", w.value);
        if (slides && first < 0) first = count;
        if (!slides && first >= 0)
            return wrong(r, "layer_types", "no full layer after a sliding one", value);
    }
    if (count != c->layers || bb_json_kind_of(value) != BB_JSON_ARRAY)
        return wrong(r, "layer_types", "one for each of num_hidden_layers", value);
    if (first >= 0 && c->window == 0)
        return wrong(r, "layer_types", "a sliding_window for \"sliding_attention\"", value);
    c->window_from = first < 0 ? 0 : first;
    if (first < 0) c->window = 0;
    return BB_OK;
}

static bb_status read_padding(reading *r, bb_json value) {
    bb_nn_config *c = r->config;
    if (bb_json_kind_of(value) == BB_JSON_NULL || same_value(value, "-1")) {
        c->has_padding = false;
        return BB_OK;
    }
    c->has_padding = true;
    return bb_json_int(value, 0, c->vocab - 1, &c->padding)
               ? BB_OK
               : wrong(r, "pad_token_id", "null or an id below vocab_size", value);
}

/* Mistral: a window in all layers. Qwen3: in those after max_window_layers, if it is to be used. */
static bb_status read_window(reading *r) {
    bb_nn_config *c = r->config;
    bb_json value;
    bool use = strcmp(r->of->type, "qwen3") != 0;
    if (bb_json_get(r->root, "use_sliding_window", &value) && !bb_json_bool(value, &use) &&
        bb_json_kind_of(value))
        return wrong(r, "use_sliding_window", "true or false", value);
    if (bb_json_get(r->root, "sliding_window", &value)) {
        c->window = 0;
        if (bb_json_kind_of(value) && !bb_json_int(value, 1, 1 << 24, &c->window))
            return wrong(r, "sliding_window", "null or an integer from 1 to 16777216", value);
    } else if (strcmp(r->of->type, "qwen3") == 0) {
        c->window = 4096;
    }
    if (!use) c->window = 0;
    if (!c->window || strcmp(r->of->type, "qwen3") != 0) return BB_OK;
    c->window_from = 28;
    if (bb_json_get(r->root, "max_window_layers", &value) &&
        !bb_json_int(value, 0, 1 << 24, &c->window_from))
        return wrong(r, "max_window_layers", "an integer from 0 to 16777216", value);
    if (c->window_from >= c->layers) c->window = c->window_from = 0;
    return BB_OK;
}

static bb_status read_value(reading *r, const bb_config_key *key, bb_json value) {
    char *field = (char *)r->config + key->offset;
    const bool null = bb_json_kind_of(value) == BB_JSON_NULL;
    const char *expected = NULL;
    double number = 0;
    bool flag = false;
    unsigned bit = 1u << (r->of - bb_architectures);
    if (!(key->where & bit)) {
        char text[80];
        snprintf(text, sizeof text, "none in a model of type %s", r->of->type);
        return null || (bb_json_bool(value, &flag) && !flag) ? BB_OK
                                                             : wrong(r, key->name, text, value);
    }
    switch (key->use) {
    case KEY_INT:
        if (null && !key->required)
            memset(field, 0, sizeof(int64_t));
        else if (!bb_json_int(value, 1, 1 << 24, (int64_t *)(void *)field))
            expected = "an integer from 1 to 16777216";
        break;
    case KEY_NUMBER:
        if (null) break;
        if (!bb_json_number(value, &number) || !(number > 0)) expected = "a number above 0";
        memcpy(field, &number, sizeof number);
        break;
    case KEY_BOOL:
        if (!null && !bb_json_bool(value, (bool *)(void *)field)) expected = "true or false";
        break;
    case KEY_BIAS:
        if (!null && !bb_json_bool(value, &flag)) expected = "true or false";
        r->config->qkv_bias = r->config->out_bias = flag;
        break;
    case KEY_ONLY:
        if (!same_value(value, key->only)) expected = key->only;
        break;
    case KEY_ACTIVATION: return null ? BB_OK : read_activation(r, value);
    case KEY_ROPE: return read_rope(r, key->name, value);
    case KEY_PADDING:
    case KEY_LAYERS: /* after the counts that bound them */
    case KEY_LATER:
    case KEY_HARMLESS: break;
    }
    return expected ? wrong(r, key->name, expected, value) : BB_OK;
}

/* ---- All of it ------------------------------------------------------------------------------- */

static bb_status read_keys(reading *r) {
    bool seen[BB_MOST_KEYS] = {false};
    for (bb_json_walk w = bb_json_begin(r->root); bb_json_next(&w);) {
        int i = 0;
        while (i < bb_config_key_count && !bb_json_equals(w.key, bb_config_keys[i].name)) i++;
        if (i == bb_config_key_count) {
            char quoted[BB_QUOTE_BYTES];
            return bb_fail(r->ctx, BB_ERR_FORMAT, "%s: expected keys of a %s configuration, got %s",
                           r->name, r->of->type,
                           bb_quote(w.key.at, (size_t)(w.key.end - w.key.at), quoted));
        }
        seen[i] = true;
        if (read_value(r, &bb_config_keys[i], w.value) != BB_OK) return bb_error(r->ctx);
    }
    for (int i = 0; i < bb_config_key_count; i++) {
        if (bb_config_keys[i].required && !seen[i])
            return bb_fail(r->ctx, BB_ERR_FORMAT, "%s: %s is missing", r->name,
                           bb_config_keys[i].name);
    }
    return BB_OK;
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
    reading r = {.ctx = ctx, .name = name, .config = config};
    bb_json value;
    if (bb_json_parse(ctx, name, text, bytes, &r.root) != BB_OK) return bb_error(ctx);
    if (bb_json_kind_of(r.root) != BB_JSON_OBJECT) {
        return bb_fail(ctx, BB_ERR_FORMAT, "%s: expected an object, got %s", name,
                       bb_json_kind_name(bb_json_kind_of(r.root)));
    }
    if (find_architecture(&r) != BB_OK) return bb_error(ctx);
    *config = r.of->defaults;
    config->dtype = BB_F32;
    if (read_keys(&r) != BB_OK || read_window(&r) != BB_OK) return bb_error(ctx);
    if (bb_json_get(r.root, "pad_token_id", &value) && read_padding(&r, value) != BB_OK)
        return bb_error(ctx);
    if (strcmp(r.of->type, "qwen3") == 0 && bb_json_get(r.root, "layer_types", &value) &&
        read_layers(&r, value) != BB_OK)
        return bb_error(ctx);
    if (config->zero_centered_norm) config->embed_scale = sqrt((double)config->dim);
    return check_config(ctx, name, config);
}

bb_status bb_model_config_read(bb_context *ctx, const char *path, bb_nn_config *config) {
    bb_file file;
    if (bb_file_map(ctx, path, &file) != BB_OK) return bb_error(ctx);
    bb_status status = bb_model_config_parse(ctx, path, file.data, file.bytes, config);
    bb_file_unmap(&file);
    return status;
}
