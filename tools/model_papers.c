/* What a model's folder holds beside weights and config.json. See tools/model.h. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/model.h"

/* False: no such file, no such key, or null. */
static bool read_ends(bb_context *ctx, const char *folder, const char *name, bb_ints *ends) {
    char *path = bb_path_join(ctx, folder, name);
    bb_file file;
    bb_json root, value;
    bool found = false;
    if (path && access(path, F_OK) == 0 && bb_file_map(ctx, path, &file) == BB_OK) {
        if (bb_json_parse(ctx, path, file.data, file.bytes, &root) == BB_OK &&
            bb_json_get(root, "eos_token_id", &value) && bb_json_kind_of(value) != BB_JSON_NULL) {
            bool list = bb_json_kind_of(value) == BB_JSON_ARRAY,
                 good = list || bb_json_int(value, 0, 1 << 24, &ends->v[ends->n++]);
            for (bb_json_walk w = bb_json_begin(value); list && good && bb_json_next(&w);)
                good =
                    ends->n < BB_MAX_INTS && bb_json_int(w.value, 0, 1 << 24, &ends->v[ends->n++]);
            found = true;
            if (!good)
                bb_fail(ctx, BB_ERR_FORMAT, "%s: eos_token_id: expected an id or up to %d ids",
                        path, BB_MAX_INTS);
        }
        bb_file_unmap(&file);
    }
    free(path);
    return found;
}

bb_ints bb_model_end_tokens(bb_context *ctx, const char *folder) {
    bb_ints ends = {0};
    if (!read_ends(ctx, folder, "generation_config.json", &ends))
        read_ends(ctx, folder, "config.json", &ends);
    return ends;
}

static bb_status copy(bb_context *ctx, const char *from, const char *to, const char *name) {
    char *source = bb_path_join(ctx, from, name), *target = bb_path_join(ctx, to, name);
    bb_file file;
    if (source && target && access(source, F_OK) == 0 && bb_file_map(ctx, source, &file) == BB_OK) {
        bb_file_write(ctx, target, file.data, file.bytes);
        bb_file_unmap(&file);
    }
    free(source);
    free(target);
    return bb_error(ctx);
}

/* Our config.json does not hold the tokens that end a text; where only the other one did, they go
 * where every reader looks first. */
static bb_status keep_ends(bb_context *ctx, const char *from, const char *to) {
    char *source = bb_path_join(ctx, from, "generation_config.json"),
         *target = bb_path_join(ctx, to, "generation_config.json");
    if (source && target && access(source, F_OK) != 0) {
        bb_ints ends = bb_model_end_tokens(ctx, from);
        bb_json_writer w;
        bb_json_open(&w, ctx, 2);
        bb_json_begin_object(&w);
        bb_json_key(&w, "eos_token_id");
        bb_json_begin_array(&w);
        for (int i = 0; i < ends.n; i++) bb_json_put_int(&w, ends.v[i]);
        bb_json_end_array(&w);
        bb_json_end_object(&w);
        if (ends.n) bb_json_save(&w, target);
        bb_json_close(&w);
    }
    free(source);
    free(target);
    return bb_error(ctx);
}

bb_status bb_model_copy_papers(bb_context *ctx, const char *from, const char *to) {
    static const char *const papers[] = {"tokenizer.json", "tokenizer_config.json",
                                         "special_tokens_map.json", "generation_config.json"};
    if (strcmp(from, to) == 0) return BB_OK;
    for (size_t i = 0; i < sizeof papers / sizeof papers[0]; i++)
        if (copy(ctx, from, to, papers[i]) != BB_OK) return bb_error(ctx);
    return keep_ends(ctx, from, to);
}
