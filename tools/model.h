/* Models as folders in the form of Hugging Face's transformers: config.json, model.safetensors. The
 * architectures are Llama, Mistral, Qwen3 and Gemma. Shared by the commands that make, train,
 * sample and time models. */
#ifndef BOBBIN_TOOLS_MODEL_H
#define BOBBIN_TOOLS_MODEL_H

#include "bobbin.h"

/* Reads a configuration. Keys that would change numbers in a way we do not compute are errors, and
 * so are unknown ones; keys left out mean what transformers takes them for. */
bb_status bb_model_config_read(bb_context *ctx, const char *path, bb_nn_config *config);
/* The same from text; `name` is what errors call it. */
bb_status bb_model_config_parse(bb_context *ctx, const char *name, const char *text, size_t bytes,
                                bb_nn_config *config);
/* One object. An error if no architecture computes all that the configuration says. */
void bb_model_config_write(bb_json_writer *w, const bb_nn_config *config);

/* config.json and model.safetensors in `folder`, which must be there. */
bb_status bb_model_save(bb_nn_transformer *model, const char *folder);
/* NULL and an error if anything is missing, left over or does not fit. Parameters become f32 (_as:
 * dtype), whatever floating dtype the files have: model.safetensors, or the shards that
 * model.safetensors.index.json lists (tools/model_weights.c). */
bb_nn_transformer *bb_model_load(bb_context *ctx, bb_device device, const char *folder);
bb_nn_transformer *bb_model_load_as(bb_context *ctx, bb_device device, const char *folder,
                                    bb_dtype dtype);

/* model.safetensors.index.json (tools/model_index.c): the files that its weight_map names, each
 * once, none outside the folder; `map`, from tensor to file, lives as long as the index is open.
 * Close it after an error too. */
enum { BB_MOST_SHARDS = 512, BB_SHARD_NAME_BYTES = 256 };
typedef struct bb_model_index {
    bb_file file;
    bb_json map;
    char (*shard)[BB_SHARD_NAME_BYTES];
    int count;
} bb_model_index;
bb_status bb_model_index_read(bb_context *ctx, const char *path, bb_model_index *index);
int bb_model_index_find(const bb_model_index *index, const char *shard); /* count: no such file */
void bb_model_index_close(bb_model_index *index);

/* The tokens that end a text: eos_token_id (a number or a list) of the folder's
 * generation_config.json, or else of its config.json. */
bb_ints bb_model_end_tokens(bb_context *ctx, const char *folder);
/* Copies what belongs to a model beside its weights and config.json: the files of its tokenizer and
 * of its way of sampling, as far as they are there. */
bb_status bb_model_copy_papers(bb_context *ctx, const char *from, const char *to);

/* folder/name in a new string; free() it. NULL and an error: out of memory. */
char *bb_path_join(bb_context *ctx, const char *folder, const char *name);

/* A model that computes in bf16 with the f32 parameters of `model` as master weights: same struct,
 * its handles are casts that live in the current step, so gradients arrive in f32 at the masters.
 * Make one each step. NULL after an error. */
bb_nn_transformer *bb_model_cast(bb_nn_transformer *model, bb_nn_transformer *cast,
                                 bb_nn_block *blocks, bb_dtype dtype);

#endif
