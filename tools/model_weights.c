/* The weights of a model folder: model.safetensors, or the shards that model.safetensors.index.json
 * lists. Any floating dtype is read and converted to that of the model. See tools/model.h. */
#include "tools/model.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/impl.h"

enum { MOST_SHARDS = 512, SHARD_NAME_BYTES = 256 };

typedef struct weights {
    bb_context *ctx;
    bb_safetensors *file[MOST_SHARDS];
    char (*name)[SHARD_NAME_BYTES]; /* of the shards; NULL: one file */
    int count;
    bb_file index;
    bb_json map; /* from tensor to shard */
} weights;

static bb_status wrong(const bb_safetensors *file, bb_context *ctx, const char *name,
                       const char *expected, const char *got) {
    char quoted[BB_QUOTE_BYTES];
    return bb_fail(ctx, BB_ERR_FORMAT, "%s: tensor %s: expected %s, got %s",
                   bb_safetensors_path(file), bb_quote(name, strlen(name), quoted), expected, got);
}

/* ---- Opening ----------------------------------------------------------------------------------
 */

static int find_shard(const weights *w, const char *name) {
    int i = 0;
    while (i < w->count && strcmp(w->name[i], name) != 0) i++;
    return i;
}

/* Opens every file that the index names, once. */
static bb_status open_shards(weights *w, const char *folder, const char *path) {
    bb_json root;
    char quoted[BB_QUOTE_BYTES];
    if (bb_file_map(w->ctx, path, &w->index)) return bb_error(w->ctx);
    if (bb_json_parse(w->ctx, path, w->index.data, w->index.bytes, &root)) return bb_error(w->ctx);
    if (!bb_json_get(root, "weight_map", &w->map) || bb_json_kind_of(w->map) != BB_JSON_OBJECT)
        return bb_fail(w->ctx, BB_ERR_FORMAT, "%s: weight_map: expected an object, got none", path);
    w->name = malloc(MOST_SHARDS * sizeof *w->name);
    if (!w->name) return bb_fail(w->ctx, BB_ERR_MEMORY, "%s: out of memory", path);
    for (bb_json_walk walk = bb_json_begin(w->map); bb_json_next(&walk);) {
        char name[SHARD_NAME_BYTES];
        size_t bytes = bb_json_string(walk.value, name, sizeof name);
        if (bytes == 0 || bytes >= sizeof name || strlen(name) != bytes || strchr(name, '/'))
            return bb_fail(
                w->ctx, BB_ERR_FORMAT, "%s: weight_map: expected names of files, got %s", path,
                bb_quote(walk.value.at, (size_t)(walk.value.end - walk.value.at), quoted));
        int shard = find_shard(w, name);
        if (shard < w->count) continue;
        if (shard == MOST_SHARDS)
            return bb_fail(w->ctx, BB_ERR_FORMAT,
                           "%s: weight_map: expected at most %d files, got one more", path,
                           MOST_SHARDS);
        char *full = bb_path_join(w->ctx, folder, name);
        w->file[shard] = full ? bb_safetensors_open(w->ctx, full) : NULL;
        free(full);
        if (!w->file[shard]) return bb_error(w->ctx);
        memcpy(w->name[w->count++], name, bytes + 1);
    }
    return w->count ? BB_OK
                    : bb_fail(w->ctx, BB_ERR_FORMAT,
                              "%s: weight_map: expected at least one tensor, got none", path);
}

static bb_status open_weights(weights *w, const char *folder) {
    char *one = bb_path_join(w->ctx, folder, "model.safetensors"),
         *index = bb_path_join(w->ctx, folder, "model.safetensors.index.json");
    if (one && index && access(one, F_OK) != 0 && access(index, F_OK) == 0) {
        open_shards(w, folder, index);
    } else if (one && index) {
        w->file[0] = bb_safetensors_open(w->ctx, one);
        w->count = w->file[0] ? 1 : 0;
    }
    free(one);
    free(index);
    return bb_error(w->ctx);
}

static void close_weights(weights *w) {
    for (int i = 0; i < w->count; i++) bb_safetensors_close(w->file[i]);
    if (w->index.data) bb_file_unmap(&w->index);
    free(w->name);
}

/* ---- Checking ---------------------------------------------------------------------------------
 */

static bb_safetensors *file_of(const weights *w, const char *name) {
    bb_json value;
    char shard[SHARD_NAME_BYTES] = "";
    if (!w->name) return w->file[0];
    if (bb_json_get(w->map, name, &value)) bb_json_string(value, shard, sizeof shard);
    int i = find_shard(w, shard);
    return i < w->count ? w->file[i] : w->file[0];
}

static bb_status check(const weights *w, const bb_named *named) {
    bb_safetensors *file = file_of(w, named->name);
    bb_stored stored;
    if (!bb_safetensors_find(file, named->name, &stored))
        return wrong(file, w->ctx, named->name, "to find it in the file", "no such tensor");
    bb_shape shape = bb_shape_of(named->tensor);
    char expected[BB_SHAPE_TEXT], got[BB_SHAPE_TEXT];
    if (!bb_shape_equal(&stored.shape, &shape))
        return wrong(file, w->ctx, named->name, bb_shape_text(&shape, expected),
                     bb_shape_text(&stored.shape, got));
    if (!bb_dtype_is_float(stored.dtype))
        return wrong(file, w->ctx, named->name, "f64, f32, f16 or bf16",
                     bb_dtype_name(stored.dtype));
    return BB_OK;
}

static bool ends(const char *text, const char *end) {
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

/* A further tensor passes if it says nothing: a table of angles that old files carry, or the copy
 * of tied embeddings. */
static bb_status check_further(const weights *w, bb_safetensors *file, const bb_stored *stored,
                               bool tied) {
    bb_stored embed;
    if (ends(stored->name, ".rotary_emb.inv_freq")) return BB_OK;
    if (tied && strcmp(stored->name, "lm_head.weight") == 0) {
        bb_safetensors *other = file_of(w, "model.embed_tokens.weight");
        if (bb_safetensors_find(other, "model.embed_tokens.weight", &embed) &&
            embed.dtype == stored->dtype && embed.bytes == stored->bytes &&
            memcmp(embed.data, stored->data, embed.bytes) == 0)
            return BB_OK;
        return wrong(file, w->ctx, stored->name,
                     "the values of model.embed_tokens.weight (tie_word_embeddings)", "others");
    }
    return wrong(file, w->ctx, stored->name, "only tensors that config.json calls for", "one more");
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const bb_named *)a)->name, ((const bb_named *)b)->name);
}

static bb_status check_all(const weights *w, bb_named *sorted, int count, bool tied) {
    for (int i = 0; i < count; i++)
        if (check(w, &sorted[i])) return bb_error(w->ctx);
    qsort(sorted, (size_t)count, sizeof *sorted, by_name);
    for (int f = 0; f < w->count; f++)
        for (int64_t i = 0; i < bb_safetensors_count(w->file[f]); i++) {
            bb_stored stored = bb_safetensors_at(w->file[f], i);
            const bb_named key = {stored.name, NULL};
            if (bsearch(&key, sorted, (size_t)count, sizeof *sorted, by_name)) continue;
            if (check_further(w, w->file[f], &stored, tied)) return bb_error(w->ctx);
        }
    return BB_OK;
}

/* ---- Reading ----------------------------------------------------------------------------------
 */

static bb_status fill(const weights *w, const bb_named *named) {
    bb_context *ctx = w->ctx;
    bb_scope scope = bb_scope_begin(ctx);
    bb_tensor *target = named->tensor;
    bb_tensor *stored =
        bb_safetensors_load(file_of(w, named->name), named->name, bb_device_of(target));
    bb_status status = stored ? bb_copy_into(stored, target) : bb_error(ctx);
    if (status == BB_OK) bb_tensor_changed(target);
    bb_scope_end(ctx, scope, NULL);
    return status;
}

static bb_status read_weights(const weights *w, bb_nn_transformer *model) {
    int count = 0;
    const bb_named *tensors = bb_nn_transformer_named(model, &count);
    bb_named *sorted = tensors ? malloc((size_t)count * sizeof *sorted) : NULL;
    if (!sorted) return bb_fail(w->ctx, BB_ERR_MEMORY, "model: out of memory");
    memcpy(sorted, tensors, (size_t)count * sizeof *sorted);
    bb_status status = check_all(w, sorted, count, model->config.tie_embeddings);
    for (int i = 0; i < count && status == BB_OK; i++) status = fill(w, &tensors[i]);
    free(sorted);
    return status;
}

/* A model is only made if there are enough weights for one of its size. Each count of the
 * configuration is at most 2^24, so doubles hold the sum well enough. */
static bb_status check_size(const weights *w, const bb_nn_config *c, const char *folder) {
    double heads = (double)(2 * c->heads + 2 * c->kv_heads) * (double)c->head_dim;
    double least = (double)c->vocab * (double)c->dim +
                   (double)c->layers * (double)c->dim * (heads + 3 * (double)c->hidden);
    double stored = 0;
    for (int f = 0; f < w->count; f++)
        for (int64_t i = 0; i < bb_safetensors_count(w->file[f]); i++) {
            bb_stored one = bb_safetensors_at(w->file[f], i);
            stored += (double)one.bytes / (double)bb_dtype_bytes(one.dtype);
        }
    if (stored >= least / 16) return BB_OK; /* what exactly is missing is said better below */
    return bb_fail(w->ctx, BB_ERR_FORMAT,
                   "%s: expected at least %.0f weights for its config.json, got %.0f", folder,
                   least, stored);
}

bb_nn_transformer *bb_model_load_as(bb_context *ctx, bb_device device, const char *folder,
                                    bb_dtype dtype) {
    bb_nn_config config;
    bb_nn_transformer *model = NULL;
    weights w = {.ctx = ctx};
    char *path = bb_path_join(ctx, folder, "config.json");
    if (path && bb_model_config_read(ctx, path, &config) == BB_OK &&
        open_weights(&w, folder) == BB_OK && check_size(&w, &config, folder) == BB_OK) {
        config.dtype = dtype;
        model = bb_nn_transformer_new(ctx, device, &config);
        if (model) read_weights(&w, model);
    }
    close_weights(&w);
    free(path);
    return bb_error(ctx) == BB_OK ? model : NULL;
}
