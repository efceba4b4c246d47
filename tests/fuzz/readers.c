/* The table of tests/fuzz/readers.h. What is read goes into a sum, so that a sanitizer sees each
 * byte used and no compiler leaves the reading out. */
#include "tests/fuzz/readers.h"

#include <stdlib.h>
#include <string.h>

#include "tools/model.h"
#include "tools/tokenizer.h"

static volatile unsigned sink;

static void use(const void *data, size_t bytes) {
    unsigned sum = 0;
    for (size_t i = 0; i < bytes; i++) sum += ((const unsigned char *)data)[i];
    sink += sum;
}

/* ---- JSON */

static void use_json(bb_json value, int depth) {
    int64_t integer = 0;
    double number = 0;
    bool flag = false;
    char text[64];
    bb_json member;
    bb_json_int(value, -5, INT64_MAX, &integer);
    bb_json_number(value, &number);
    bb_json_bool(value, &flag);
    size_t n = bb_json_string(value, text, sizeof text);
    use(text, n < sizeof text ? n + 1 : sizeof text);
    use(value.at, (size_t)(value.end - value.at));
    bb_json_get(value, "dtype", &member);
    sink += bb_json_equals(value, "dtype") + flag + (unsigned)integer + (number > 1);
    if (depth == 3) return; /* each level is read once more by its parents */
    for (bb_json_walk w = bb_json_begin(value); bb_json_next(&w);) {
        if (w.object) use_json(w.key, 3);
        use_json(w.value, depth + 1);
    }
}

static void read_json(bb_context *ctx, const char *path) {
    bb_file file;
    bb_json root;
    if (bb_file_map(ctx, path, &file) != BB_OK) return;
    if (bb_json_parse(ctx, path, file.data, file.bytes, &root) == BB_OK) use_json(root, 0);
    bb_file_unmap(&file);
}

/* ---- Tensors */

static void use_tensors(bb_context *ctx, bb_safetensors *file) {
    for (int i = 0; i < bb_safetensors_metadata_count(file); i++) {
        bb_text text = bb_safetensors_metadata_at(file, i);
        use(text.value, strlen(text.value));
        if (i < 64) bb_safetensors_metadata(file, text.key);
    }
    for (int64_t i = 0; i < bb_safetensors_count(file) && bb_error(ctx) == BB_OK; i++) {
        bb_stored stored = bb_safetensors_at(file, i), found;
        use(stored.data, stored.bytes);
        if (!bb_safetensors_find(file, stored.name, &found) || found.data != stored.data)
            bb_fail(ctx, BB_ERR_STATE, "a tensor is not found under its name");
        bb_drop(bb_safetensors_load(file, stored.name, BB_CPU));
        bb_end_step(ctx);
    }
    bb_safetensors_close(file);
}

static void read_safetensors(bb_context *ctx, const char *path) {
    bb_safetensors *file = bb_safetensors_open(ctx, path);
    if (file) use_tensors(ctx, file);
}

static void read_checkpoint(bb_context *ctx, const char *path) {
    bb_checkpoint state;
    bb_safetensors *file = bb_checkpoint_open(ctx, path, &state);
    if (!file) return;
    if (state.step < 0 || state.data_position < 0)
        bb_fail(ctx, BB_ERR_STATE, "a negative step was believed");
    use(&state, sizeof state);
    use_tensors(ctx, file);
}

static void read_npy(bb_context *ctx, const char *path) {
    bb_tensor *t = bb_npy_load(ctx, path, BB_CPU);
    if (!t) return;
    use(bb_data(t), (size_t)bb_count(t) * bb_dtype_bytes(bb_dtype_of(t)));
    bb_drop(t);
}

/* ---- config.json of a model */

static void read_config(bb_context *ctx, const char *path) {
    bb_nn_config config;
    if (bb_model_config_read(ctx, path, &config) == BB_OK) use(&config.dim, sizeof config.dim);
}

/* ---- model.safetensors.index.json of a model in several files */

static void read_index(bb_context *ctx, const char *path) {
    bb_model_index index;
    if (bb_model_index_read(ctx, path, &index) == BB_OK)
        for (int i = 0; i < index.count; i++) {
            use(index.shard[i], strlen(index.shard[i]));
            if (bb_model_index_find(&index, index.shard[i]) != i || strchr(index.shard[i], '/'))
                bb_fail(ctx, BB_ERR_STATE, "a file is listed twice, or lies elsewhere");
        }
    bb_model_index_close(&index);
}

/* ---- tokenizer.json of a model: read, then used on letters, numbers, spaces and accents */

static void read_tokenizer(bb_context *ctx, const char *path) {
    static const char text[] = "Hello  w\xC3\xB6rld, 1234567's\n\n\tend\xF0\x9F\x99\x82";
    bb_tokenizer *tokenizer = bb_tokenizer_open(ctx, path);
    int32_t *ids = NULL;
    int64_t count = 0;
    if (!tokenizer) return;
    if (bb_tokenizer_encode(tokenizer, ctx, text, sizeof text - 1, true, &ids, &count) == BB_OK)
        for (int64_t i = 0; i < count; i++)
            if (ids[i] < 0 || ids[i] >= bb_tokenizer_size(tokenizer))
                bb_fail(ctx, BB_ERR_STATE, "a number beyond the tokenizer's size");
    free(ids);
    bb_tokenizer_close(tokenizer);
}

const reader readers[] = {
    {"json", read_json},
    {"safetensors", read_safetensors},
    {"checkpoint", read_checkpoint},
    {"npy", read_npy},
    {"config", read_config},
    {"index", read_index},
    {"tokenizer", read_tokenizer},
};
const int reader_count = sizeof readers / sizeof readers[0];

const reader *find_reader(const char *name) {
    for (int i = 0; i < reader_count; i++)
        if (strcmp(readers[i].name, name) == 0) return &readers[i];
    return NULL;
}
