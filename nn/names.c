/* The transformer's parameters under the names and shapes of Hugging Face's Llama: views of the
 * fused weights, to save from and to load into. */
#include <stdarg.h>
#include <stdio.h>

#include "nn/internal.h"

typedef struct name_list {
    bb_context *ctx;
    bb_named *row;
    int count;
} name_list;

/* Rows [begin, begin + rows) of a matrix (rows 0: all of any tensor). Without rows of its own it is
 * left out. */
static void add(name_list *list, bb_tensor *t, int64_t begin, int64_t rows, const char *format, ...)
    BB_PRINTF(5, 6);
static void add(name_list *list, bb_tensor *t, int64_t begin, int64_t rows, const char *format,
                ...) {
    bb_context *ctx = list->ctx;
    char *name = bb_arena_allocate(ctx, &ctx->arena, BB_NAME_BYTES);
    if (!name || !t || ctx->status) return;
    va_list args;
    va_start(args, format);
    vsnprintf(name, BB_NAME_BYTES, format, args);
    va_end(args);
    bb_shape shape = bb_shape_of_tensor(t);
    if (rows) shape.size[0] = rows;
    bb_tensor *view = bb_tensor_view(t, &shape, t->stride, begin * t->stride[0]);
    if (view) list->row[list->count++] = (bb_named){name, view};
}

static void add_block(name_list *list, const bb_nn_block *b, int64_t index) {
    const bb_nn_attention *a = &b->attn;
    int64_t q = a->heads * a->head_dim, kv = a->kv_heads * a->head_dim;
    char p[48];
    snprintf(p, sizeof p, "model.layers.%lld", (long long)index);
    add(list, b->attn_norm.weight, 0, 0, "%s.input_layernorm.weight", p);
    add(list, a->qkv.weight, 0, q, "%s.self_attn.q_proj.weight", p);
    add(list, a->qkv.weight, q, kv, "%s.self_attn.k_proj.weight", p);
    add(list, a->qkv.weight, q + kv, kv, "%s.self_attn.v_proj.weight", p);
    if (a->qk_norm.weight) add(list, a->qk_norm.weight, 0, 0, "%s.self_attn.qk_norm.weight", p);
    add(list, a->out.weight, 0, 0, "%s.self_attn.o_proj.weight", p);
    add(list, b->mlp_norm.weight, 0, 0, "%s.post_attention_layernorm.weight", p);
    add(list, b->mlp.gate.weight, 0, 0, "%s.mlp.gate_proj.weight", p);
    add(list, b->mlp.up.weight, 0, 0, "%s.mlp.up_proj.weight", p);
    add(list, b->mlp.down.weight, 0, 0, "%s.mlp.down_proj.weight", p);
}

const bb_named *bb_nn_transformer_named(bb_nn_transformer *model, int *count) {
    if (count) *count = 0;
    if (!model) return NULL;
    bb_context *ctx = model->params->ctx;
    if (ctx->status) return NULL;
    size_t most = 3 + 10 * (size_t)model->config.layers;
    name_list list = {ctx, bb_arena_allocate(ctx, &ctx->arena, most * sizeof *list.row), 0};
    if (!list.row) return NULL;
    add(&list, model->embed.weight, 0, 0, "model.embed_tokens.weight");
    for (int64_t i = 0; i < model->config.layers; i++) add_block(&list, &model->blocks[i], i);
    add(&list, model->norm.weight, 0, 0, "model.norm.weight");
    if (!model->config.tie_embeddings) add(&list, model->head.weight, 0, 0, "lm_head.weight");
    if (ctx->status) return NULL;
    if (count) *count = list.count;
    return list.row;
}
