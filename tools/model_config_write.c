/* Writes the config.json of a model. See tools/model.h; reading is in tools/model_config.c. */
#include <math.h>
#include <string.h>

#include "tools/model.h"
#include "tools/model_keys.h"

/* The first architecture that computes what the configuration says. */
static const bb_architecture *architecture_for(const bb_nn_config *c) {
    if (c->zero_centered_norm) return &bb_architectures[3];
    if (c->qk_norm_shared) return &bb_architectures[2];
    return &bb_architectures[c->window > 0 ? 1 : 0];
}

static void put(bb_json_writer *w, const bb_nn_config *config, const bb_config_key *key) {
    const char *field = (const char *)config + key->offset;
    bool flag;
    int64_t integer;
    double number;
    bb_json_key(w, key->name);
    if (key->use == KEY_INT) {
        memcpy(&integer, field, sizeof integer);
        bb_json_put_int(w, integer);
    } else if (key->use == KEY_NUMBER) {
        memcpy(&number, field, sizeof number);
        bb_json_put_number(w, number);
    } else if (key->use == KEY_BOOL) {
        memcpy(&flag, field, sizeof flag);
        bb_json_put_bool(w, flag);
    } else if (key->use == KEY_BIAS) {
        bb_json_put_bool(w, config->qkv_bias);
    } else if (key->use == KEY_PADDING && config->has_padding) {
        bb_json_put_int(w, config->padding);
    } else if (key->use == KEY_ACTIVATION) {
        int i = 0;
        while (bb_activation_names[i].activation != config->activation) i++;
        bb_json_put_string(w, bb_activation_names[i].name);
    } else {
        bb_json_put_null(w);
    }
}

/* Keys whose value depends on others: the window, and null for the ids that end a text, which a
 * reader would otherwise make up. */
static void put_rest(bb_json_writer *w, const bb_nn_config *c, bool mistral, bool qwen3) {
    bb_json_key(w, "bos_token_id");
    bb_json_put_null(w);
    bb_json_key(w, "eos_token_id");
    bb_json_put_null(w);
    if (mistral || qwen3) {
        bb_json_key(w, "sliding_window");
        if (c->window)
            bb_json_put_int(w, c->window);
        else
            bb_json_put_null(w);
    }
    if (!qwen3) return;
    bb_json_key(w, "use_sliding_window");
    bb_json_put_bool(w, c->window > 0);
    bb_json_key(w, "max_window_layers");
    bb_json_put_int(w, c->window ? c->window_from : c->layers);
}

void bb_model_config_write(bb_json_writer *w, const bb_nn_config *c) {
    const bb_architecture *a = architecture_for(c);
    unsigned bit = 1u << (a - bb_architectures);
    bool biased = c->qkv_bias || c->out_bias, gemma = bit == BB_GEMMA;
    if (c->qkv_bias != c->out_bias || (biased && bit == BB_MISTRAL) ||
        (c->mlp_bias && bit != BB_LLAMA) || (c->qk_norm && bit != BB_LLAMA) ||
        (c->window && bit == BB_GEMMA) || (c->window_from && bit != BB_QWEN3) ||
        (gemma && c->qk_norm_shared) || c->embed_scale != (gemma ? sqrt((double)c->dim) : 0)) {
        bb_fail(w->ctx, BB_ERR_UNSUPPORTED,
                "config.json: expected a llama, mistral, qwen3 or gemma model, got a mixture of "
                "their options");
        return;
    }
    bb_json_begin_object(w);
    bb_json_key(w, "architectures");
    bb_json_begin_array(w);
    bb_json_put_string(w, a->name);
    bb_json_end_array(w);
    bb_json_key(w, "model_type");
    bb_json_put_string(w, a->type);
    bb_json_key(w, "torch_dtype");
    bb_json_put_string(w, c->dtype == BB_BF16  ? "bfloat16"
                          : c->dtype == BB_F16 ? "float16"
                          : c->dtype == BB_F64 ? "float64"
                                               : "float32");
    for (int i = 0; i < bb_config_key_count; i++) {
        bool ours = strcmp(bb_config_keys[i].name, "qk_norm") == 0;
        if (bb_config_keys[i].use <= KEY_PADDING && (bb_config_keys[i].where & bit) &&
            (!ours || c->qk_norm))
            put(w, c, &bb_config_keys[i]);
    }
    put_rest(w, c, bit == BB_MISTRAL, bit == BB_QWEN3);
    bb_json_end_object(w);
}
