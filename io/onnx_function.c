/* Functions inside a model: an externalized call becomes a call of one, written from its recorded
 * body. Calls that do the same share a function. */
#include <string.h>

#include "io/onnx.h"

/* What output i of a call is, inside. */
int bb_onnx_inner(const bb_graph *g, const bb_external_call *c, int i) {
    int value = c->out[i];
    if (g->value[value].inner >= 0 && g->value[value].node == c->node)
        value = g->value[value].inner;
    return bb_graph_resolve(g, value);
}

/* ---- Attributes by reference */

static const struct {
    const char *composite, *attr, *op, *inner;
} references[] = {{"RMSNormImpl", "axes", "mean", "axes"},
                  {"RMSNormImpl", "eps", "add_scalar", "value"},
                  {"LayerNorm", "axes", "mean", "axes"},
                  {"LayerNorm", "eps", "add_scalar", "value"}};

const char *bb_onnx_reference(const bb_onnx_body *b, const char *attr) {
    const bb_op *outer = b->call ? b->o->g->node[b->call->node].op : NULL;
    if (!outer || b->node->parent != b->call->node) return NULL;
    for (size_t i = 0; i < sizeof references / sizeof references[0]; i++) {
        if (strcmp(references[i].composite, outer->name) != 0 ||
            strcmp(references[i].op, b->node->op->name) != 0 ||
            strcmp(references[i].inner, attr) != 0)
            continue;
        for (int k = 0; k < b->call->seen.n_attrs; k++)
            if (strcmp(b->call->seen.attrs[k].name, references[i].attr) == 0)
                return references[i].attr;
    }
    return NULL;
}

/* ---- Functions */

void bb_onnx_opset(bb_proto *p, int field, const char *domain, int version) {
    bb_proto one = {.ctx = p->ctx};
    bb_proto_text(&one, BB_ONNX_OPSET_DOMAIN, domain);
    bb_proto_int(&one, BB_ONNX_OPSET_VERSION, version);
    bb_proto_message(p, field, &one);
    bb_proto_free(&one);
}

static bb_status write_content(bb_onnx_body *b, bb_proto *content) {
    const bb_graph *g = b->o->g;
    const bb_external_call *c = b->call;
    const bb_external *e = &c->seen;
    for (int i = 0; i < e->n_inputs; i++)
        bb_proto_text(content, BB_ONNX_FUNCTION_INPUT, e->input_names[i]);
    for (int i = 0; i < e->n_outputs; i++)
        bb_proto_text(content, BB_ONNX_FUNCTION_OUTPUT, e->output_names[i]);
    for (int i = 0; i < e->n_attrs; i++)
        bb_proto_text(content, BB_ONNX_FUNCTION_ATTRIBUTE, e->attrs[i].name);
    if (bb_onnx_range(b, c->node + 1, g->node[c->node].end)) return b->o->ctx->status;
    for (int i = 0; i < e->n_outputs; i++) {
        const char *inside = bb_onnx_name(b, bb_onnx_inner(g, c, i));
        if (strcmp(inside, e->output_names[i]) != 0)
            bb_onnx_emit1(b, "Identity", inside, e->output_names[i]);
    }
    bb_proto_append(content, b->nodes.at, b->nodes.n);
    bb_onnx_opset(content, BB_ONNX_FUNCTION_OPSET, "", b->o->opset);
    bb_onnx_opset(content, BB_ONNX_FUNCTION_OPSET, "bobbin", 1);
    bb_proto_text(content, BB_ONNX_FUNCTION_DOMAIN, "bobbin");
    return b->o->ctx->status;
}

/* The function of this content: one that is there, or a new one. */
static const char *place_function(bb_onnx *o, const char *base, bb_proto *content) {
    int same_base = 0;
    for (int i = 0; i < o->function_count; i++) {
        const bb_onnx_function *f = &o->function[i];
        if (strcmp(f->base, base) != 0) continue;
        if (f->content.n == content->n && memcmp(f->content.at, content->at, content->n) == 0) {
            bb_proto_free(content);
            return f->name;
        }
        same_base++;
    }
    if (!bb_graph_grow(o->g, (void **)&o->function, o->function_count, &o->function_capacity,
                       sizeof *o->function))
        return "";
    bb_onnx_function *f = &o->function[o->function_count++];
    *f = (bb_onnx_function){base, base, *content};
    content->at = NULL;
    content->n = content->capacity = 0;
    if (same_base) f->name = bb_onnx_text(o, "%s_%d", base, same_base + 1);
    return f->name;
}

const char *bb_onnx_plain_function(bb_onnx_body *b, const char *base, const char *const *in,
                                   const char *const *out, const char *const *attrs) {
    bb_proto content = {.ctx = b->o->ctx};
    for (; *in; in++) bb_proto_text(&content, BB_ONNX_FUNCTION_INPUT, *in);
    for (; *out; out++) bb_proto_text(&content, BB_ONNX_FUNCTION_OUTPUT, *out);
    for (; *attrs; attrs++) bb_proto_text(&content, BB_ONNX_FUNCTION_ATTRIBUTE, *attrs);
    bb_proto_append(&content, b->nodes.at, b->nodes.n);
    bb_onnx_opset(&content, BB_ONNX_FUNCTION_OPSET, "", b->o->opset);
    bb_proto_text(&content, BB_ONNX_FUNCTION_DOMAIN, "bobbin");
    const char *name = b->o->ctx->status ? "" : place_function(b->o, base, &content);
    bb_proto_free(&content);
    bb_proto_free(&b->nodes);
    return name;
}

static const char *write_function(bb_onnx *o, const bb_external_call *c) {
    bb_onnx_body b = {.o = o, .nodes = {.ctx = o->ctx}, .field = BB_ONNX_FUNCTION_NODE, .call = c};
    bb_proto content = {.ctx = o->ctx};
    size_t bytes = (size_t)o->g->value_count * sizeof(bool);
    b.made = bb_host_allocate(o->ctx, bytes);
    if (!b.made) return "";
    memset(b.made, 0, bytes);
    b.first = o->g->value_count;
    for (int i = c->node + 1; i < o->g->node[c->node].end; i++) {
        const bb_node *n = &o->g->node[i];
        for (int k = 0; n->op && k < n->n_out; k++)
            if (n->out[k] < b.first) b.first = n->out[k];
        for (int k = 0; n->op && k < n->n_in; k++)
            if (n->in[k] >= 0 && n->in[k] < b.first &&
                o->g->value[n->in[k]].kind == BB_VALUE_CONSTANT && o->g->value[n->in[k]].copied)
                b.first = n->in[k];
    }
    const char *name = "";
    if (write_content(&b, &content) == BB_OK)
        name = place_function(o, c->seen.composite ? c->seen.composite : c->seen.name, &content);
    bb_proto_free(&content);
    bb_proto_free(&b.nodes);
    bb_host_release(o->ctx, b.made, bytes);
    return name;
}

static bb_status call_attrs(bb_context *ctx, bb_proto *attrs, const bb_external *e) {
    for (int i = 0; i < e->n_attrs; i++) {
        const bb_external_attr *a = &e->attrs[i];
        if (a->kind == BB_EXTERNAL_DICT)
            return bb_fail(ctx, BB_ERR_UNSUPPORTED,
                           "onnx: node %s: attribute %s: a dictionary, which ONNX cannot hold",
                           e->path, a->name);
        if (a->kind == BB_EXTERNAL_FLOAT)
            bb_onnx_attr_float(attrs, a->name, a->real);
        else if (a->kind == BB_EXTERNAL_STRING)
            bb_onnx_attr_text(attrs, a->name, a->text);
        else if (a->list.n > 0)
            bb_onnx_attr_ints(attrs, a->name, a->list.v, a->list.n);
        else
            bb_onnx_attr_int(attrs, a->name, a->number);
    }
    return BB_OK;
}

static bb_status write_call(bb_onnx_body *b, const bb_external_call *c) {
    const bb_external *e = &c->seen;
    const char **in = bb_arena_allocate(b->o->ctx, &b->o->arena,
                                        (size_t)(e->n_inputs + e->n_outputs + 1) * sizeof *in);
    const char *name = in ? write_function(b->o, c) : "";
    if (b->o->ctx->status) return b->o->ctx->status;
    const char **out = in + e->n_inputs;
    for (int i = 0; i < e->n_inputs; i++) in[i] = bb_onnx_name(b, c->in[i]);
    for (int i = 0; i < e->n_outputs; i++) out[i] = bb_onnx_name(b, c->out[i]);
    bb_proto attrs = {.ctx = b->o->ctx};
    if (call_attrs(b->o->ctx, &attrs, e) == BB_OK)
        bb_onnx_emit_many(b, name, "bobbin", in, e->n_inputs, out, e->n_outputs, &attrs);
    else
        bb_proto_free(&attrs);
    return b->o->ctx->status;
}

/* ---- All nodes */

static bb_status write_node(bb_onnx_body *b, int at, bool *inside) {
    const bb_node *n = &b->o->g->node[at];
    bool done = false;
    *inside = false;
    b->node = n;
    if (n->op && !n->lowered && b->o->options.mode == BB_ONNX_NATIVE) {
        bb_status status = bb_onnx_native(b, &done);
        if (status || done) return status;
    }
    if (n->external >= 0) return write_call(b, &b->o->g->external[n->external]);
    if (!n->op || n->lowered) {
        *inside = true;
        return BB_OK;
    }
    return bb_onnx_op(b);
}

bb_status bb_onnx_range(bb_onnx_body *b, int first, int end) {
    const bb_graph *g = b->o->g;
    for (int i = first; i < end; i++) {
        bool inside;
        /* What is dead may still hold what an opened composite's readers need. */
        if (g->node[i].dead) {
            if (g->node[i].op && !g->node[i].opened) i = g->node[i].end - 1;
            continue;
        }
        if (write_node(b, i, &inside)) return b->o->ctx->status;
        if (!inside) i = g->node[i].end - 1;
    }
    return b->o->ctx->status;
}
