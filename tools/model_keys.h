/* The tables behind tools/model_config.c and tools/model_config_write.c: the architectures that we
 * compute, the keys of their configurations, and what each key means. */
#ifndef BOBBIN_TOOLS_MODEL_KEYS_H
#define BOBBIN_TOOLS_MODEL_KEYS_H

#include "nn/nn.h"

/* The architectures, with the defaults of their configuration classes for keys that are left out. A
 * count of 0 follows from the other keys. */
typedef struct bb_architecture {
    const char *type, *name;
    bb_nn_config defaults;
} bb_architecture;

/* Bits for sets of them, in the order of the table. */
enum { BB_LLAMA = 1, BB_MISTRAL = 2, BB_QWEN3 = 4, BB_GEMMA = 8, BB_EACH = 15 };
enum { BB_ARCHITECTURES = 4 };
extern const bb_architecture bb_architectures[BB_ARCHITECTURES];

/* What a key means to us. */
typedef enum bb_key_use {
    KEY_INT,    /* a positive integer of the configuration; null: it follows from other keys */
    KEY_NUMBER, /* a positive number of it */
    KEY_BOOL,
    KEY_ACTIVATION,
    KEY_BIAS,    /* of all four projections of attention */
    KEY_PADDING, /* an id or null */
    KEY_ROPE,    /* an object: {"rope_type": "default", "rope_theta": N} or less */
    KEY_LAYERS,  /* "full_attention" or "sliding_attention" for each layer */
    KEY_LATER,   /* read by read_window: what it means depends on another key */
    KEY_ONLY,    /* changes numbers; the JSON text in `only` (or null) is all that we compute */
    KEY_HARMLESS /* does not change what we compute */
} bb_key_use;

typedef struct bb_config_key {
    const char *name;
    bb_key_use use;
    size_t offset;
    unsigned where; /* the architectures that know it; elsewhere only null and false pass */
    bool required;
    const char *only;
} bb_config_key;

extern const bb_config_key bb_config_keys[];
extern const int bb_config_key_count; /* at most BB_MOST_KEYS */
enum { BB_MOST_KEYS = 64 };

/* The names of activations; of two for one, the first is written. */
typedef struct bb_activation_name {
    const char *name;
    bb_nn_activation activation;
} bb_activation_name;
enum { BB_ACTIVATIONS = 5 };
extern const bb_activation_name bb_activation_names[BB_ACTIVATIONS];

#endif
