/* The weights of a model folder: model.safetensors, or the shards that model.safetensors.index.json
 * lists (model_index.c). Any floating dtype is read and converted to that of the model. See
 * tools/model.h. */
#include "tools/model.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/impl.h"

typedef struct weights {
    bb_context *ctx;
    bb_safetensors *file[BB_MOST_SHARDS];
    int count;
    bb_model_index index; /* no files in it: model.safetensors is all */
} weights;

/* A tensor of the model, and the file that is to hold it. */
typedef struct place {
    const char *name;
    bb_tensor *tensor;
    bb_safetensors *file;
} place;

static bb_status wrong(const bb_safetensors *file, bb_context *ctx, const char *name,
                       const char *expected, const char *got) {
    char quoted[BB_QUOTE_BYTES];
    return bb_fail(ctx, BB_ERR_FORMAT, "%s: tensor %s: expected %s, got %s",
                   bb_safetensors_path(file), bb_quote(name, strlen(name), quoted), expected, got);
}

/* ---- Opening --------------------------------------------------------------------------------- */

static bb_status open_shards(weights *w, const char *folder, const char *path) {
    if (bb_model_index_read(w->ctx, path, &w->index)) return bb_error(w->ctx);
    for (int i = 0; i < w->index.count; i++) {
        char *full = bb_path_join(w->ctx, folder, w->index.shard[i]);
        w->file[i] = full ? bb_safetensors_open(w->ctx, full) : NULL;
        free(full);
        if (!w->file[i]) return bb_error(w->ctx);
        w->count++;
    }
    return BB_OK;
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
    bb_model_index_close(&w->index);
}

/* ---- Checking -------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b) {
    return strcmp(((const place *)a)->name, ((const place *)b)->name);
}
static place *find(place *sorted, int count, const char *name) {
    const place key = {name, NULL, NULL};
    return bsearch(&key, sorted, (size_t)count, sizeof *sorted, by_name);
}

/* What the index does not name is looked for in the first file, whose error then says so. */
static void find_files(const weights *w, place *sorted, int count) {
    for (int i = 0; i < count; i++) sorted[i].file = w->file[0];
    if (!w->index.count) return;
    for (bb_json_walk walk = bb_json_begin(w->index.map); bb_json_next(&walk);) {
        char name[BB_NAME_BYTES + 64], shard[BB_SHARD_NAME_BYTES];
        if (bb_json_string(walk.key, name, sizeof name) >= sizeof name) continue;
        place *p = find(sorted, count, name);
        if (!p) continue;
        bb_json_string(walk.value, shard, sizeof shard);
        p->file = w->file[bb_model_index_find(&w->index, shard)];
    }
}

static bb_status check(const weights *w, const place *p) {
    bb_stored stored;
    if (!bb_safetensors_find(p->file, p->name, &stored))
        return wrong(p->file, w->ctx, p->name, "to find it in the file", "no such tensor");
    bb_shape shape = bb_shape_of(p->tensor);
    char expected[BB_SHAPE_TEXT], got[BB_SHAPE_TEXT];
    if (!bb_shape_equal(&stored.shape, &shape))
        return wrong(p->file, w->ctx, p->name, bb_shape_text(&shape, expected),
                     bb_shape_text(&stored.shape, got));
    if (!bb_dtype_is_float(stored.dtype))
        return wrong(p->file, w->ctx, p->name, "f64, f32, f16 or bf16",
                     bb_dtype_name(stored.dtype));
    return BB_OK;
}

static bool ends(const char *text, const char *end) {
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

/* A further tensor passes if it says nothing: a table of angles that old files carry, or the copy
 * of tied embeddings. */
static bb_status check_further(const weights *w, place *sorted, int count, bb_safetensors *file,
                               const bb_stored *stored, bool tied) {
    bb_stored embed;
    if (ends(stored->name, ".rotary_emb.inv_freq")) return BB_OK;
    if (tied && strcmp(stored->name, "lm_head.weight") == 0) {
        const place *p = find(sorted, count, "model.embed_tokens.weight");
        if (p && bb_safetensors_find(p->file, p->name, &embed) && embed.dtype == stored->dtype &&
            embed.bytes == stored->bytes && memcmp(embed.data, stored->data, embed.bytes) == 0)
            return BB_OK;
        return wrong(file, w->ctx, stored->name,
                     "the values of model.embed_tokens.weight (tie_word_embeddings)", "others");
    }
    return wrong(file, w->ctx, stored->name, "only tensors that config.json calls for", "one more");
}

static bb_status check_all(const weights *w, place *sorted, int count, bool tied) {
    for (int f = 0; f < w->count; f++)
        for (int64_t i = 0; i < bb_safetensors_count(w->file[f]); i++) {
            bb_stored stored = bb_safetensors_at(w->file[f], i);
            if (find(sorted, count, stored.name)) continue;
            if (check_further(w, sorted, count, w->file[f], &stored, tied)) return bb_error(w->ctx);
        }
    return BB_OK;
}

/* ---- Reading --------------------------------------------------------------------------------- */

static bb_status fill(const weights *w, const place *p) {
    bb_context *ctx = w->ctx;
    bb_scope scope = bb_scope_begin(ctx);
    bb_tensor *stored = bb_safetensors_load(p->file, p->name, bb_device_of(p->tensor));
    bb_status status = stored ? bb_copy_into(stored, p->tensor) : bb_error(ctx);
    if (status == BB_OK) bb_tensor_changed(p->tensor);
    bb_scope_end(ctx, scope, NULL);
    return status;
}

static bb_status read_weights(const weights *w, bb_nn_transformer *model) {
    int count = 0;
    const bb_named *tensors = bb_nn_transformer_named(model, &count);
    place *sorted = tensors ? malloc((size_t)count * sizeof *sorted) : NULL;
    bb_status status = BB_OK;
    if (!sorted) return bb_fail(w->ctx, BB_ERR_MEMORY, "model: out of memory");
    for (int i = 0; i < count; i++) sorted[i] = (place){tensors[i].name, tensors[i].tensor, NULL};
    qsort(sorted, (size_t)count, sizeof *sorted, by_name);
    find_files(w, sorted, count);
    /* In the model's order, so that the first that is missing is named. */
    for (int i = 0; i < count && status == BB_OK; i++)
        status = check(w, find(sorted, count, tensors[i].name));
    if (status == BB_OK) status = check_all(w, sorted, count, model->config.tie_embeddings);
    for (int i = 0; i < count && status == BB_OK; i++) status = fill(w, &sorted[i]);
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
