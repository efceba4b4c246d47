/* A recipe for a chain: the quantizers of its Linears, and their update after a step. */
#include "nn/fusible/internal.h"

static bb_linear_quantizers make(bb_context *ctx, bb_device device, const bb_chain_recipe *r) {
    bb_quantizer_options o = {.recipe = r->recipe, .margin = r->margin, .history = r->history};
    bb_linear_quantizers q = {.input = bb_quantizer_new(ctx, device, &o)};
    o.square_blocks = r->recipe == BB_FP8_BLOCK;
    q.weight = bb_quantizer_new(ctx, device, &o);
    o.square_blocks = false;
    bool per_tensor = r->recipe == BB_FP8_DELAYED || r->recipe == BB_FP8_CURRENT;
    if (per_tensor && !r->e4m3_gradients) o.format = BB_E5M2;
    if (!r->plain_gradients) q.grad_output = bb_quantizer_new(ctx, device, &o);
    return q;
}

bb_status bb_chain_set_recipe(bb_chain *chain, bb_device device, const bb_chain_recipe *recipe) {
    if (!chain) return BB_ERR_ARGUMENT;
    for (int i = 0; i < bb_chain_length(chain); i++) {
        bb_fusible_op *op = bb_chain_get(chain, i);
        if (!op || op->kind != &bb_kind_linear) continue;
        if (op->ctx->status) return op->ctx->status;
        bb_linear_quantizers q = {NULL, NULL, NULL};
        if (recipe && bb_fusible_get_quantizers(op).weight) continue;
        if (recipe) q = make(op->ctx, device, recipe);
        if (op->ctx->status || bb_fusible_set_quantizers(op, &q)) return op->ctx->status;
    }
    return BB_OK;
}

bb_status bb_chain_update_quantizers(bb_chain *chain) {
    if (!chain) return BB_ERR_ARGUMENT;
    for (int i = 0; i < bb_chain_length(chain); i++) {
        bb_linear_quantizers q = bb_fusible_get_quantizers(bb_chain_get(chain, i));
        bb_quantizer *all[] = {q.input, q.weight, q.grad_output};
        for (int k = 0; k < 3; k++)
            if (all[k] && bb_quantizer_update(all[k])) return BB_ERR_STATE;
    }
    return BB_OK;
}
