/* Graphs as ONNX files: the model around the nodes (onnx_body.c), its parameters, and the file. The
 * wire format is protobuf.c's. A model is one message, so all lengths are known before the first
 * parameter is written, and parameters go from their tensors straight to the file. */
#include <string.h>

#include "io/onnx.h"

enum { ALIGN = 64, BEYOND = 0x7FFF0000 }; /* protobuf stops at 2 GiB */

/* ---- Types of inputs and outputs */

static void value_info(bb_onnx *o, bb_proto *graph, int field, const char *name,
                       const bb_value *v) {
    bb_proto info = {.ctx = o->ctx}, type = info, tensor = info, shape = info, dim = info;
    char text[BB_DIM_TEXT];
    for (int i = 0; i < v->rank; i++) {
        if (bb_dim_constant(&v->dim[i]))
            bb_proto_int(&dim, 1, v->dim[i].c[0]); /* dim_value */
        else
            bb_proto_text(&dim, 2, bb_dim_text(o->g, &v->dim[i], text)); /* dim_param */
        bb_proto_message(&shape, 1, &dim);
    }
    bb_proto_int(&tensor, 1, bb_onnx_dtype(v->dtype)); /* elem_type */
    bb_proto_message(&tensor, 2, &shape);
    bb_proto_message(&type, 1, &tensor); /* tensor_type */
    bb_proto_text(&info, 1, name);
    bb_proto_message(&info, 2, &type);
    bb_proto_message(graph, field, &info);
    bb_proto_free(&info), bb_proto_free(&type), bb_proto_free(&tensor);
    bb_proto_free(&shape), bb_proto_free(&dim);
}

/* ---- Parameters */

static size_t data_bytes(const bb_value *v) {
    return (size_t)v->tensor->count * bb_dtype_bytes(v->dtype);
}

/* Where the parameters' bytes go. */
typedef struct store {
    bool external;
    const char *location; /* the file's name, without a folder */
    size_t bytes;         /* of the external file so far, aligned */
} store;

static void entry(bb_proto *tensor, const char *key, const char *text) {
    bb_proto pair = {.ctx = tensor->ctx};
    bb_proto_text(&pair, 1, key);
    bb_proto_text(&pair, 2, text);
    bb_proto_message(tensor, BB_ONNX_TENSOR_EXTERNAL, &pair);
    bb_proto_free(&pair);
}

/* The initializer but for its bytes, whose tag and length end it if they are to follow. */
static void tensor_head(bb_proto *tensor, const bb_value *v, store *s) {
    char number[32];
    size_t n = data_bytes(v);
    for (int i = 0; i < v->tensor->rank; i++)
        bb_proto_int(tensor, BB_ONNX_TENSOR_DIM, v->tensor->size[i]);
    bb_proto_int(tensor, BB_ONNX_TENSOR_DTYPE, bb_onnx_dtype(v->dtype));
    bb_proto_text(tensor, BB_ONNX_TENSOR_NAME, v->name);
    if (!s->external) {
        bb_proto_head(tensor, BB_ONNX_TENSOR_RAW, n);
        return;
    }
    entry(tensor, "location", s->location);
    snprintf(number, sizeof number, "%zu", s->bytes);
    entry(tensor, "offset", number);
    snprintf(number, sizeof number, "%zu", n);
    entry(tensor, "length", number);
    bb_proto_int(tensor, BB_ONNX_TENSOR_LOCATION, 1); /* EXTERNAL */
    s->bytes += (n + ALIGN - 1) / ALIGN * ALIGN;
}

static bb_status write_bytes(bb_onnx *o, bb_writer *w, const bb_value *v) {
    bb_tensor *t = v->tensor;
    size_t n = data_bytes(v);
    if (n == 0) return BB_OK;
    if (!bb_tensor_usable(t)) return o->ctx->status;
    if (t->device == BB_CPU && t->contiguous) return bb_writer_add(w, t->data, n);
    void *copy = bb_host_allocate(o->ctx, n);
    if (!copy) return o->ctx->status;
    bb_status status = bb_read(t, copy, n);
    if (!status) status = bb_writer_add(w, copy, n);
    bb_host_release(o->ctx, copy, n);
    return status;
}

/* All initializers: measured (w NULL; *total grows) or written. Those that are stored outside have
 * no bytes of their own here. */
static bb_status initializers(bb_onnx *o, bb_writer *w, store s, size_t *total) {
    bb_proto head = {.ctx = o->ctx}, tensor = {.ctx = o->ctx};
    bb_status status = BB_OK;
    for (int i = 0; i < o->g->value_count && !status; i++) {
        const bb_value *v = &o->g->value[i];
        if (!o->stored[i]) continue;
        head.n = tensor.n = 0;
        tensor_head(&tensor, v, &s);
        size_t inside = s.external ? 0 : data_bytes(v);
        bb_proto_head(&head, BB_ONNX_GRAPH_INITIALIZER, tensor.n + inside);
        status = o->ctx->status;
        if (total) *total += head.n + tensor.n + inside;
        if (!w || status) continue;
        bb_writer_add(w, head.at, head.n);
        status = bb_writer_add(w, tensor.at, tensor.n);
        if (!status && !s.external) status = write_bytes(o, w, v);
    }
    bb_proto_free(&head);
    bb_proto_free(&tensor);
    return status;
}

static bb_status write_external(bb_onnx *o, const char *path) {
    static const char zeros[ALIGN];
    bb_writer *w = bb_writer_open(o->ctx, path, o->options.calls);
    bb_status status = w ? BB_OK : o->ctx->status;
    for (int i = 0; i < o->g->value_count && !status; i++) {
        if (!o->stored[i]) continue;
        size_t n = data_bytes(&o->g->value[i]);
        status = write_bytes(o, w, &o->g->value[i]);
        if (!status && n % ALIGN) status = bb_writer_add(w, zeros, ALIGN - n % ALIGN);
    }
    if (!status) return bb_writer_commit(w);
    bb_writer_abandon(w);
    return status;
}

/* ---- The model */

/* What stands before and behind the graph. */
static void model_head(bb_onnx *o, bb_proto *p) {
    bb_proto_int(p, BB_ONNX_MODEL_IR, o->opset >= 23 ? 11 : o->opset >= 21 ? 10 : 8);
    bb_proto_text(p, BB_ONNX_MODEL_PRODUCER, "bobbin");
    bb_onnx_opset(p, BB_ONNX_MODEL_OPSET, "", o->opset);
    if (o->function_count) bb_onnx_opset(p, BB_ONNX_MODEL_OPSET, "bobbin", 1);
    for (int i = 0; i < o->function_count; i++) {
        bb_onnx_function *f = &o->function[i];
        bb_proto named = {.ctx = o->ctx};
        bb_proto_text(&named, BB_ONNX_FUNCTION_NAME, f->name);
        bb_proto_append(&named, f->content.at, f->content.n);
        bb_proto_message(p, BB_ONNX_MODEL_FUNCTION, &named);
        bb_proto_free(&named);
    }
}

static bb_status graph_body(bb_onnx *o, bb_proto *graph) {
    bb_graph *g = o->g;
    bb_onnx_body b = {.o = o, .nodes = {.ctx = o->ctx}, .field = BB_ONNX_GRAPH_NODE};
    size_t bytes = (size_t)g->value_count * sizeof(bool);
    b.made = bb_host_allocate(o->ctx, bytes);
    if (!b.made) return o->ctx->status;
    memset(b.made, 0, bytes);
    bb_status status = bb_onnx_range(&b, 0, g->node_count);
    b.node = NULL;
    for (int i = 0; i < g->output_count && !status; i++) {
        const char *name = bb_onnx_name(&b, g->output[i]);
        if (strcmp(name, g->output_name[i]) != 0)
            bb_onnx_emit1(&b, "Identity", name, g->output_name[i]);
        status = o->ctx->status;
    }
    bb_proto_append(graph, b.nodes.at, b.nodes.n);
    bb_proto_text(graph, BB_ONNX_GRAPH_NAME, "main");
    for (int i = 0; i < g->input_count; i++)
        value_info(o, graph, BB_ONNX_GRAPH_INPUT, g->value[g->input[i]].name,
                   &g->value[g->input[i]]);
    for (int i = 0; i < g->output_count; i++)
        value_info(o, graph, BB_ONNX_GRAPH_OUTPUT, g->output_name[i], &g->value[g->output[i]]);
    bb_proto_free(&b.nodes);
    bb_host_release(o->ctx, b.made, bytes);
    return o->ctx->status;
}

static bb_status write_model(bb_onnx *o, const char *path, const store *s, const bb_proto *graph,
                             size_t graph_bytes) {
    bb_proto head = {.ctx = o->ctx};
    model_head(o, &head);
    bb_proto_head(&head, BB_ONNX_MODEL_GRAPH, graph_bytes);
    bb_writer *w = o->ctx->status ? NULL : bb_writer_open(o->ctx, path, o->options.calls);
    bb_status status = w ? bb_writer_add(w, head.at, head.n) : o->ctx->status;
    if (!status) status = bb_writer_add(w, graph->at, graph->n);
    if (!status) status = initializers(o, w, *s, NULL);
    if (!status)
        status = bb_writer_commit(w);
    else
        bb_writer_abandon(w);
    bb_proto_free(&head);
    return status;
}

/* The data beside a model is replaced first: until the model is there, too, an old model of the
 * same name reads new parameters, which only fits if nothing but their values has changed. */
static bb_status save(bb_onnx *o, const char *path) {
    bb_proto graph = {.ctx = o->ctx};
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    store s = {o->options.external_data, bb_onnx_text(o, "%s.data", name), 0};
    const char *data = bb_onnx_text(o, "%s.data", path);
    size_t bytes = 0;
    bb_status status = graph_body(o, &graph);
    if (!status) status = initializers(o, NULL, s, &bytes);
    if (!status && !s.external && bytes + graph.n > BEYOND) {
        s.external = true;
        bytes = 0;
        status = initializers(o, NULL, s, &bytes);
    }
    if (!status) status = s.external ? write_external(o, data) : BB_OK;
    if (!status) {
        status = write_model(o, path, &s, &graph, graph.n + bytes);
        if (status && s.external) remove(data);
    }
    bb_proto_free(&graph);
    return status;
}

/* What changes its input has no form; fp8 needs a later opset than the rest. */
static bb_status check_ops(bb_onnx *o) {
    for (int i = 0; i < o->g->node_count; i++) {
        const bb_node *n = &o->g->node[i];
        if (!n->dead && n->op && o->opset < 21 && strcmp(n->op->name, "Quantize") == 0)
            o->opset = 21;
        if (!n->dead && n->op && n->op->mutates)
            return bb_fail(o->ctx, BB_ERR_UNSUPPORTED,
                           "onnx: node %s (%s): ONNX has no form for this op: it changes its input",
                           n->name, n->type);
    }
    return BB_OK;
}

static void close_model(bb_onnx *o) {
    for (int i = 0; i < o->function_count; i++) bb_proto_free(&o->function[i].content);
    bb_host_release(o->ctx, o->function, (size_t)o->function_capacity * sizeof *o->function);
    bb_host_release(o->ctx, o->stored, (size_t)o->g->value_count * sizeof *o->stored);
    bb_arena_free(o->ctx, &o->arena);
}

/* Decides what is behind a boundary; *undo: by us. */
static bb_status externalize(bb_onnx *o, bool *undo) {
    const bb_onnx_options *a = &o->options;
    *undo = false;
    if (o->g->externalized) {
        if (a->mode == BB_ONNX_DECOMPOSED || a->specs)
            return bb_fail(o->ctx, BB_ERR_STATE,
                           "bb_onnx_save: the graph is externalized already "
                           "(bb_externalize_undo)");
        return BB_OK;
    }
    *undo = true;
    int n = a->n_specs;
    const bb_externalize_spec *specs = a->specs ? a->specs : bb_externalize_defaults(&n);
    return bb_externalize(o->g, specs, a->mode == BB_ONNX_DECOMPOSED ? 0 : n, NULL, NULL);
}

bb_status bb_onnx_save(bb_graph *g, const char *path, const bb_onnx_options *options) {
    if (!g) return BB_ERR_ARGUMENT;
    bb_context *ctx = g->ctx;
    if (bb_graph_complete(g, "bb_onnx_save")) return ctx->status;
    if (!path)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "bb_onnx_save: path: expected a name, got NULL");
    bb_onnx o = {.g = g, .ctx = ctx, .opset = 18};
    if (options) o.options = *options;
    if ((unsigned)o.options.mode > BB_ONNX_DECOMPOSED)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "bb_onnx_save: mode: expected composite, native or decomposed, got %d",
                       (int)o.options.mode);
    if (o.options.mode == BB_ONNX_NATIVE) o.opset = 23;
    size_t bytes = (size_t)g->value_count * sizeof *o.stored;
    o.stored = bb_host_allocate(ctx, bytes);
    if (!o.stored) return ctx->status;
    memset(o.stored, 0, bytes);
    bool undo;
    bb_status status = check_ops(&o);
    if (!status) {
        status = externalize(&o, &undo);
        if (!status) status = save(&o, path);
        if (undo) bb_externalize_undo(g);
    }
    close_model(&o);
    return status ? status : ctx->status;
}
