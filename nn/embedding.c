/* The layer around embedding (ops/index.c): rows of a table. */
#include "nn/internal.h"

bb_nn_embedding bb_nn_embedding_new(bb_params *params, const char *name, int64_t count, int64_t dim,
                                    double std) {
    if (std == 0) std = 1;
    return (bb_nn_embedding){
        bb_nn_add(params, name, "weight", BB_SHAPE(count, dim), BB_INIT_NORMAL, std),
        bb_nn_layer_name(params, name)};
}

bb_tensor *bb_nn_embedding_forward(const bb_nn_embedding *layer, bb_tensor *ids) {
    bb_context *ctx = bb_context_of(ids);
    if (!bb_nn_given(ctx, layer, "bb_nn_embedding_forward", "layer")) return NULL;
    bb_module here;
    bb_nn_enter(ctx, &here, "Embedding", layer->name);
    bb_tensor *rows = bb_embedding(layer->weight, ids);
    bb_module_leave(ctx, &here);
    return rows;
}
