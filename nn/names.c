/* The transformer's parameters under the names and shapes of Hugging Face's Llama family: views of
 * the fused weights, to save from and to load into, and the same views of their gradients. */
#include <stddef.h>
#include <stdio.h>

#include "nn/internal.h"

/* Which rows of our tensor a name stands for. */
typedef enum name_rows { ALL, QUERIES, KEYS, VALUES } name_rows;

typedef struct name_row {
    const char *name;
    size_t offset; /* of the handle, in the struct that owns it; a NULL handle has no name */
    name_rows rows;
} name_row;

#define AT(field) offsetof(bb_nn_block, field)
static const name_row block_names[] = {
    {"input_layernorm.weight", AT(attn_norm.weight), ALL},
    {"self_attn.q_proj.weight", AT(attn.qkv.weight), QUERIES},
    {"self_attn.k_proj.weight", AT(attn.qkv.weight), KEYS},
    {"self_attn.v_proj.weight", AT(attn.qkv.weight), VALUES},
    {"self_attn.q_proj.bias", AT(attn.qkv.bias), QUERIES},
    {"self_attn.k_proj.bias", AT(attn.qkv.bias), KEYS},
    {"self_attn.v_proj.bias", AT(attn.qkv.bias), VALUES},
    {"self_attn.qk_norm.weight", AT(attn.qk_norm.weight), ALL},
    {"self_attn.q_norm.weight", AT(attn.q_norm.weight), ALL},
    {"self_attn.k_norm.weight", AT(attn.k_norm.weight), ALL},
    {"self_attn.o_proj.weight", AT(attn.out.weight), ALL},
    {"self_attn.o_proj.bias", AT(attn.out.bias), ALL},
    {"post_attention_layernorm.weight", AT(mlp_norm.weight), ALL},
    {"mlp.gate_proj.weight", AT(mlp.gate.weight), ALL},
    {"mlp.gate_proj.bias", AT(mlp.gate.bias), ALL},
    {"mlp.up_proj.weight", AT(mlp.up.weight), ALL},
    {"mlp.up_proj.bias", AT(mlp.up.bias), ALL},
    {"mlp.down_proj.weight", AT(mlp.down.weight), ALL},
    {"mlp.down_proj.bias", AT(mlp.down.bias), ALL},
};
enum { BLOCK_NAMES = sizeof block_names / sizeof block_names[0] };

typedef struct name_list {
    bb_context *ctx;
    bool grads;
    bb_named *row;
    int count;
} name_list;

static void add(name_list *list, bb_tensor *t, int64_t begin, int64_t rows, const char *prefix,
                const char *name) {
    bb_context *ctx = list->ctx;
    if (!t || ctx->status) return;
    char *full = bb_arena_allocate(ctx, &ctx->arena, BB_NAME_BYTES);
    if (!full) return;
    snprintf(full, BB_NAME_BYTES, "%s%s", prefix, name);
    bb_shape shape = bb_shape_of_tensor(t);
    shape.size[0] = rows;
    bb_tensor *whole = list->grads ? t->grad : t,
              *view = bb_tensor_view(whole, &shape, t->stride, begin * t->stride[0]);
    if (view) list->row[list->count++] = (bb_named){full, view};
}

static void add_block(name_list *list, const bb_nn_block *b, int64_t index) {
    int64_t q = b->attn.heads * b->attn.head_dim, kv = b->attn.kv_heads * b->attn.head_dim;
    char prefix[48];
    snprintf(prefix, sizeof prefix, "model.layers.%lld.", (long long)index);
    for (int i = 0; i < BLOCK_NAMES; i++) {
        const name_row *row = &block_names[i];
        bb_tensor *t = *(bb_tensor *const *)(const void *)((const char *)b + row->offset);
        int64_t begin = row->rows == KEYS ? q : row->rows == VALUES ? q + kv : 0;
        int64_t count = row->rows == QUERIES ? q : row->rows == ALL ? (t ? t->size[0] : 0) : kv;
        add(list, t, begin, count, prefix, row->name);
    }
}

static const bb_named *names(bb_nn_transformer *model, bool grads, int *count) {
    if (count) *count = 0;
    if (!model) return NULL;
    bb_context *ctx = model->params->ctx;
    if (ctx->status) return NULL;
    size_t most = 3 + BLOCK_NAMES * (size_t)model->config.layers;
    name_list list = {ctx, grads, bb_arena_allocate(ctx, &ctx->arena, most * sizeof *list.row), 0};
    if (!list.row) return NULL;
    const bb_nn_config *c = &model->config;
    add(&list, model->embed.weight, 0, c->vocab, "model.", "embed_tokens.weight");
    for (int64_t i = 0; i < c->layers; i++) add_block(&list, &model->blocks[i], i);
    add(&list, model->norm.weight, 0, c->dim, "model.", "norm.weight");
    if (!c->tie_embeddings) add(&list, model->head.weight, 0, c->vocab, "", "lm_head.weight");
    if (ctx->status) return NULL;
    if (count) *count = list.count;
    return list.row;
}

const bb_named *bb_nn_transformer_named(bb_nn_transformer *model, int *count) {
    return names(model, false, count);
}

const bb_named *bb_nn_transformer_grads(bb_nn_transformer *model, int *count) {
    if (count) *count = 0;
    if (!model || bb_params_settle(model->params, "bb_nn_transformer_grads")) return NULL;
    return names(model, true, count);
}
