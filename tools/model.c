/* Models as folders, and the bf16 view of an f32 model. See tools/model.h. */
#include "tools/model.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

char *bb_path_join(bb_context *ctx, const char *folder, const char *name) {
    size_t a = strlen(folder), b = strlen(name);
    char *path = malloc(a + b + 2);
    if (!path) {
        bb_fail(ctx, BB_ERR_MEMORY, "%s: out of memory", folder);
        return NULL;
    }
    memcpy(path, folder, a);
    path[a] = '/';
    memcpy(path + a + 1, name, b + 1);
    return path;
}

bb_status bb_model_save(bb_nn_transformer *model, const char *folder) {
    bb_context *ctx = bb_context_of(model->embed.weight);
    char *config = bb_path_join(ctx, folder, "config.json"),
         *weights = bb_path_join(ctx, folder, "model.safetensors");
    int count = 0;
    const bb_named *tensors = bb_nn_transformer_named(model, &count);
    const bb_text format = {"format", "pt"}; /* what readers in the Hugging Face family expect */
    bb_json_writer w; /* made first: a model that has no such form leaves no file behind */
    bb_json_open(&w, ctx, 2);
    bb_model_config_write(&w, &model->config);
    if (config && weights && tensors && bb_error(ctx) == BB_OK &&
        bb_safetensors_save(ctx, weights, tensors, count, &format, 1, NULL) == BB_OK)
        bb_json_save(&w, config);
    bb_json_close(&w);
    free(config);
    free(weights);
    return bb_error(ctx);
}

bb_nn_transformer *bb_model_load(bb_context *ctx, bb_device device, const char *folder) {
    return bb_model_load_as(ctx, device, folder, BB_F32);
}

#define AT(field) offsetof(bb_nn_block, field)
static const size_t block_handles[] = {
    AT(attn_norm.weight),   AT(mlp_norm.weight), AT(attn.qkv.weight),     AT(attn.qkv.bias),
    AT(attn.out.weight),    AT(attn.out.bias),   AT(attn.qk_norm.weight), AT(attn.q_norm.weight),
    AT(attn.k_norm.weight), AT(mlp.gate.weight), AT(mlp.gate.bias),       AT(mlp.up.weight),
    AT(mlp.up.bias),        AT(mlp.down.weight), AT(mlp.down.bias)};

bb_nn_transformer *bb_model_cast(bb_nn_transformer *model, bb_nn_transformer *cast,
                                 bb_nn_block *blocks, bb_dtype dtype) {
    *cast = *model;
    cast->config.dtype = dtype;
    cast->blocks = blocks;
    cast->embed.weight = bb_cast(model->embed.weight, dtype);
    cast->norm.weight = bb_cast(model->norm.weight, dtype);
    cast->head.weight =
        model->config.tie_embeddings ? cast->embed.weight : bb_cast(model->head.weight, dtype);
    for (int64_t i = 0; i < model->config.layers; i++) {
        blocks[i] = model->blocks[i];
        for (size_t k = 0; k < sizeof block_handles / sizeof block_handles[0]; k++) {
            void *at = (char *)&blocks[i] + block_handles[k];
            bb_tensor **handle = at;
            if (*handle) *handle = bb_cast(*handle, dtype);
        }
    }
    return bb_error(bb_context_of(model->embed.weight)) == BB_OK ? cast : NULL;
}
