/* The layer around embedding (ops/index.c): rows of a table. */
#include "nn/internal.h"

bb_nn_embedding bb_nn_embedding_new(bb_params *params, const char *name, int64_t count, int64_t dim,
                                    double std) {
    if (std <= 0) std = 1;
    return (bb_nn_embedding){
        bb_nn_add(params, name, "weight", BB_SHAPE(count, dim), BB_INIT_NORMAL, std)};
}

bb_tensor *bb_nn_embedding_forward(const bb_nn_embedding *layer, bb_tensor *ids) {
    return bb_embedding(layer->weight, ids);
}
