/* model.safetensors.index.json: which file of a model folder holds which tensor. The tensors are
 * looked up by model_weights.c, in one pass over the map. */
#include <stdlib.h>
#include <string.h>

#include "tools/model.h"

int bb_model_index_find(const bb_model_index *index, const char *shard) {
    int i = 0;
    while (i < index->count && strcmp(index->shard[i], shard) != 0) i++;
    return i;
}

/* A plain name: a file of this folder and no other. */
static bool shard_name(bb_json value, char name[BB_SHARD_NAME_BYTES]) {
    size_t bytes = bb_json_string(value, name, BB_SHARD_NAME_BYTES);
    return bytes > 0 && bytes < BB_SHARD_NAME_BYTES && strlen(name) == bytes &&
           !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static bb_status list_shards(bb_context *ctx, const char *path, bb_model_index *index) {
    int last = 0; /* neighbours in the map mostly lie in one file */
    for (bb_json_walk walk = bb_json_begin(index->map); bb_json_next(&walk);) {
        char name[BB_SHARD_NAME_BYTES], quoted[BB_QUOTE_BYTES];
        if (!shard_name(walk.value, name))
            return bb_fail(
                ctx, BB_ERR_FORMAT, "%s: weight_map: expected names of files, got %s", path,
                bb_quote(walk.value.at, (size_t)(walk.value.end - walk.value.at), quoted));
        if (last < index->count && strcmp(index->shard[last], name) == 0) continue;
        last = bb_model_index_find(index, name);
        if (last < index->count) continue;
        if (last == BB_MOST_SHARDS)
            return bb_fail(ctx, BB_ERR_FORMAT,
                           "%s: weight_map: expected at most %d files, got one more", path,
                           BB_MOST_SHARDS);
        memcpy(index->shard[index->count++], name, sizeof name);
    }
    if (index->count) return BB_OK;
    return bb_fail(ctx, BB_ERR_FORMAT, "%s: weight_map: expected at least one tensor, got none",
                   path);
}

bb_status bb_model_index_read(bb_context *ctx, const char *path, bb_model_index *index) {
    bb_json root;
    *index = (bb_model_index){.count = 0};
    if (bb_file_map(ctx, path, &index->file)) return bb_error(ctx);
    if (bb_json_parse(ctx, path, index->file.data, index->file.bytes, &root)) return bb_error(ctx);
    if (!bb_json_get(root, "weight_map", &index->map) ||
        bb_json_kind_of(index->map) != BB_JSON_OBJECT)
        return bb_fail(ctx, BB_ERR_FORMAT, "%s: weight_map: expected an object, got none", path);
    index->shard = malloc(BB_MOST_SHARDS * sizeof *index->shard);
    if (!index->shard) return bb_fail(ctx, BB_ERR_MEMORY, "%s: out of memory", path);
    return list_shards(ctx, path, index);
}

void bb_model_index_close(bb_model_index *index) {
    if (index->file.data) bb_file_unmap(&index->file);
    free(index->shard);
    *index = (bb_model_index){.count = 0};
}
