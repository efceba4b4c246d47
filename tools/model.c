/* Models as folders, and the bf16 view of an f32 model. See tools/model.h. */
#include "tools/model.h"

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
    if (config && weights && tensors &&
        bb_safetensors_save(ctx, weights, tensors, count, &format, 1, NULL) == BB_OK) {
        bb_json_writer w;
        bb_json_open(&w, ctx, 2);
        bb_model_config_write(&w, &model->config);
        bb_json_save(&w, config);
        bb_json_close(&w);
    }
    free(config);
    free(weights);
    return bb_error(ctx);
}

bb_nn_transformer *bb_model_load(bb_context *ctx, bb_device device, const char *folder) {
    bb_nn_config config;
    bb_nn_transformer *model = NULL;
    bool done = false;
    char *path = bb_path_join(ctx, folder, "config.json"),
         *weights = bb_path_join(ctx, folder, "model.safetensors");
    if (path && weights && bb_model_config_read(ctx, path, &config) == BB_OK) {
        model = bb_nn_transformer_new(ctx, device, &config);
    }
    bb_safetensors *file = model ? bb_safetensors_open(ctx, weights) : NULL;
    if (file && bb_params_build(model->params) == BB_OK) {
        int count = 0;
        const bb_named *tensors = bb_nn_transformer_named(model, &count);
        done = tensors && bb_safetensors_restore(file, tensors, count, true) == BB_OK;
    }
    bb_safetensors_close(file);
    free(path);
    free(weights);
    return done ? model : NULL;
}

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
        bb_nn_block *b = &blocks[i];
        *b = model->blocks[i];
        bb_tensor **weights[] = {&b->attn_norm.weight, &b->mlp_norm.weight, &b->attn.qkv.weight,
                                 &b->attn.out.weight,  &b->mlp.gate.weight, &b->mlp.up.weight,
                                 &b->mlp.down.weight};
        for (size_t k = 0; k < sizeof weights / sizeof weights[0]; k++)
            *weights[k] = bb_cast(*weights[k], dtype);
        if (b->attn.qk_norm.weight) b->attn.qk_norm.weight = bb_cast(b->attn.qk_norm.weight, dtype);
    }
    return bb_error(bb_context_of(model->embed.weight)) == BB_OK ? cast : NULL;
}
