/* The recorder of graphs: what bb_graph_begin attaches to the context. It keeps each op that runs
 * as a node and knows tensors by their handles, which are not used twice within a step. Dead nodes
 * and names are graph_finish.c's business, values graph_value.c's, sizes that change
 * graph_trace.c's. */
#include <ctype.h>
#include <stdarg.h>
#include <string.h>

#include "io/graph.h"

enum { LAYERS_MAX = 64 };

void *bb_graph_allocate(bb_graph *g, size_t bytes) {
    void *block = bb_arena_allocate(g->ctx, &g->arena, bytes ? bytes : 1);
    return block ? memset(block, 0, bytes) : NULL;
}

const char *bb_graph_text(bb_graph *g, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int n = vsnprintf(NULL, 0, format, arguments);
    char *text = n < 0 ? NULL : bb_graph_allocate(g, (size_t)n + 1);
    if (text) vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    va_end(arguments);
    return text;
}

bool bb_graph_grow(bb_graph *g, void **array, int count, int *capacity, size_t bytes) {
    if (count < *capacity) return true;
    int more = *capacity ? *capacity * 2 : 64;
    size_t total;
    if (more < 0 || !bb_checked_mul((size_t)more, bytes, &total)) {
        bb_fail(g->ctx, BB_ERR_MEMORY, "graph: expected fewer than 2^30 nodes, got more");
        return false;
    }
    void *fresh = bb_host_allocate(g->ctx, total);
    if (!fresh) return false;
    if (count) memcpy(fresh, *array, (size_t)count * bytes);
    bb_host_release(g->ctx, *array, (size_t)*capacity * bytes);
    *array = fresh;
    *capacity = more;
    return true;
}

/* A new word begins at a capital between two small letters. */
void bb_graph_op_name(const char *op, char *out, size_t bytes) {
    size_t n = 0;
    for (const char *p = op; *p && n + 2 < bytes; p++) {
        bool word = p > op && islower((unsigned char)p[-1]) && isupper((unsigned char)p[0]) &&
                    islower((unsigned char)p[1]);
        if (word) out[n++] = '_';
        out[n++] = (char)tolower((unsigned char)*p);
    }
    out[n] = 0;
}

/* ---- Nodes */

static int open_node(bb_graph *g, const bb_op *op, const char *type, const char *path) {
    if (!path ||
        !bb_graph_grow(g, (void **)&g->node, g->node_count, &g->node_capacity, sizeof *g->node))
        return -1;
    bb_node *n = &g->node[g->node_count];
    memset(n, 0, sizeof *n);
    n->op = op;
    n->type = type;
    n->path = path;
    n->parent = g->open;
    n->external = -1;
    g->open = g->node_count;
    return g->node_count++;
}

static void close_node(bb_graph *g) {
    bb_node *n = &g->node[g->open];
    n->end = g->node_count;
    g->open = n->parent;
}

static const char *path_of(bb_graph *g, const char *name) {
    return g->open < 0 ? bb_graph_text(g, "%s", name)
                       : bb_graph_text(g, "%s.%s", g->node[g->open].path, name);
}

/* Closes the layers that have returned and opens those that have begun since the last op. */
static bool follow_layers(bb_graph *g) {
    const bb_module *frame[LAYERS_MAX];
    int open[LAYERS_MAX], frames = 0, opened = 0, same = 0;
    if (g->open >= 0 && g->node[g->open].op) return true; /* ops have no layers inside */
    for (const bb_module *m = g->ctx->module; m && m != g->outermost; m = m->outer) frames++;
    int depth = frames < LAYERS_MAX ? frames : LAYERS_MAX, skip = frames - depth;
    for (const bb_module *m = g->ctx->module; m && m != g->outermost; m = m->outer)
        if (skip-- <= 0) frame[--frames] = m;
    for (int n = g->open; n >= 0; n = g->node[n].parent) opened++;
    for (int n = g->open, i = opened; n >= 0; n = g->node[n].parent) open[--i] = n;
    while (same < depth && same < opened && g->node[open[same]].serial == frame[same]->serial)
        same++;
    for (int i = opened; i > same; i--) close_node(g);
    for (int i = same; i < depth; i++) {
        const bb_module *m = frame[i];
        const char *name =
            m->index >= 0 ? bb_graph_text(g, "%s.%lld", m->name, (long long)m->index) : m->name;
        int n = name ? open_node(g, NULL, m->type, path_of(g, name)) : -1;
        if (n < 0) return false;
        g->node[n].serial = m->serial;
    }
    return true;
}

/* How often the op has changed the bytes of t. */
static uint32_t changes_of(const bb_call *call, const bb_tensor *t) {
    uint32_t n = 0;
    for (int i = 0; i < call->n_in && call->op->mutates >> i; i++)
        n += call->op->mutates >> i & 1 && call->in[i] && call->in[i]->storage == t->storage;
    return n;
}

static bool take_call(bb_graph *g, const bb_call *call) {
    char name[64];
    if (g->ctx->step != g->step) {
        bb_fail(g->ctx, BB_ERR_STATE, "graph: the step ended while it was recording");
        return false;
    }
    if (!follow_layers(g)) return false;
    bb_graph_op_name(call->op->name, name, sizeof name);
    int *in = bb_graph_allocate(g, (size_t)call->n_in * sizeof *in);
    int *out = bb_graph_allocate(g, BB_MAX_OUTPUTS * sizeof *out);
    void *attrs = call->attrs ? bb_graph_allocate(g, call->op->attrs_bytes) : NULL;
    if (!in || !out || (call->attrs && !attrs)) return false;
    if (attrs) memcpy(attrs, call->attrs, call->op->attrs_bytes);
    for (int i = 0; i < call->n_in; i++) {
        in[i] = call->in[i] ? bb_graph_value_of(g, call->in[i], changes_of(call, call->in[i]),
                                                !call->op->view)
                            : -1;
        if (call->in[i] && in[i] < 0) return false;
        bool changes = call->op->mutates >> i & 1 && in[i] >= 0;
        if (changes && g->value[in[i]].kind == BB_VALUE_CONSTANT && g->value[in[i]].copied) {
            bb_fail_input(call, i,
                          "a graph that records cannot follow the change of a tensor of "
                          "the step: expected one of the context");
            return false;
        }
    }
    for (int i = 0; i < call->n_in; i++)
        if (call->op->mutates >> i & 1 && call->in[i])
            bb_graph_note_change(g, call->in[i]->storage);
    int at = open_node(g, call->op, call->op->name, path_of(g, name));
    if (at < 0) return false;
    bb_node *n = &g->node[at];
    n->in = in, n->n_in = call->n_in, n->out = out, n->attrs = attrs, n->device = call->device;
    return true;
}

static bool take_outputs(bb_graph *g, int at, const bb_call *call, bool composed) {
    int visible = call->n_out - call->op->hidden;
    for (int i = 0; i < visible; i++) {
        int inner = composed ? bb_graph_value_of(g, call->out[i], 0, true) : -1;
        int v = composed && inner < 0 ? -1 : bb_graph_new_value(g, BB_VALUE_NODE, call->out[i]);
        if (v < 0) return false;
        if (call->op->view) /* the values are its input's */
            bb_graph_same_bytes(g, call->in[0], call->out[i]);
        g->value[v].node = at;
        g->value[v].output = i;
        g->value[v].inner = inner;
        g->node[at].out[i] = v;
        g->node[at].n_out = i + 1;
    }
    return true;
}

static bb_status record(bb_recorder *self, const bb_call *call) {
    bb_graph *g = (bb_graph *)self;
    if (g->failed) return g->ctx->status;
    g->failed = !take_call(g, call);
    if (!g->failed) {
        g->failed = !take_outputs(g, g->open, call, false);
        close_node(g);
    }
    return g->failed ? g->ctx->status : BB_OK;
}

static void enter(bb_recorder *self, const bb_call *call) {
    bb_graph *g = (bb_graph *)self;
    if (!g->failed) g->failed = !take_call(g, call);
}

static void leave(bb_recorder *self, const bb_call *call) {
    bb_graph *g = (bb_graph *)self;
    g->failed |= g->ctx->status != BB_OK;
    if (g->failed) return;
    g->failed = !take_outputs(g, g->open, call, true);
    close_node(g);
}

/* ---- Beginning and end */

static void stop(bb_graph *g) {
    if (!g->recording) return;
    g->recording = false;
    g->ctx->path = g->path_before;
    bb_detach_recorder(g->ctx, &g->recorder);
}

static void closed_context(bb_recorder *self) { ((bb_graph *)self)->recording = false; }

bb_graph *bb_graph_begin(bb_context *ctx) {
    if (!ctx || ctx->status) return NULL;
    for (int i = 0; i < ctx->recorder_count; i++)
        if (ctx->recorder[i]->record == record) {
            bb_fail(ctx, BB_ERR_STATE, "bb_graph_begin: a graph is being recorded already");
            return NULL;
        }
    bb_graph *g = bb_host_allocate(ctx, sizeof *g);
    if (!g) return NULL;
    memset(g, 0, sizeof *g);
    g->recorder =
        (bb_recorder){.record = record, .enter = enter, .leave = leave, .close = closed_context};
    g->ctx = ctx;
    g->open = -1;
    g->step = ctx->step;
    g->outermost = ctx->module;
    g->path_before = ctx->path;
    if (bb_attach_recorder(ctx, &g->recorder)) {
        bb_host_release(ctx, g, sizeof *g);
        return NULL;
    }
    g->recording = true;
    ctx->path = BB_PATH_COMPOSED;
    return g;
}

static bb_status check(bb_graph *g, const char *call, const char *name, const bb_tensor *t) {
    if (!g) return BB_ERR_ARGUMENT;
    bb_context *ctx = g->ctx;
    if (ctx->status) return ctx->status;
    if (!g->recording) return bb_fail(ctx, BB_ERR_STATE, "%s: the graph has ended", call);
    if (!name || !*name)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: name: expected a text, got none", call);
    if (!t || t->ctx != ctx)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: %s: expected a tensor of this context, got %s",
                       call, name, t ? "one of another" : "NULL");
    return bb_tensor_usable(t) ? BB_OK : ctx->status;
}

static bb_status append(bb_graph *g, int **list, int *count, int *capacity, int value) {
    if (value < 0 || !bb_graph_grow(g, (void **)list, *count, capacity, sizeof **list))
        return g->ctx->status;
    (*list)[(*count)++] = value;
    return BB_OK;
}

static bb_status named(bb_graph *g, const char *call, bb_value_kind kind, const char *name,
                       bb_tensor *t) {
    bb_status status = check(g, call, name, t);
    if (status) return status;
    if (kind == BB_VALUE_PARAM && t->life != BB_LIFE_CONTEXT)
        return bb_fail(g->ctx, BB_ERR_ARGUMENT,
                       "%s: %s: expected a tensor of the context, got one of the step", call, name);
    if (bb_graph_find(g, t) >= 0)
        return bb_fail(g->ctx, BB_ERR_ARGUMENT,
                       "%s: %s: expected a tensor that is new to the graph, got one that is in it",
                       call, name);
    int v = bb_graph_new_value(g, kind, t);
    if (v < 0) return g->ctx->status;
    g->value[v].name = bb_graph_text(g, "%s", name);
    if (!g->value[v].name) return g->ctx->status;
    if (kind == BB_VALUE_INPUT) return append(g, &g->input, &g->input_count, &g->input_capacity, v);
    g->value[v].tensor = t;
    return append(g, &g->param, &g->param_count, &g->param_capacity, v);
}

bb_status bb_graph_input(bb_graph *g, const char *name, bb_tensor *t) {
    return named(g, "bb_graph_input", BB_VALUE_INPUT, name, t);
}
bb_status bb_graph_param(bb_graph *g, const char *name, bb_tensor *t) {
    return named(g, "bb_graph_param", BB_VALUE_PARAM, name, t);
}

bb_status bb_graph_output(bb_graph *g, const char *name, bb_tensor *t) {
    bb_status status = check(g, "bb_graph_output", name, t);
    if (status) return status;
    const char *text = bb_graph_text(g, "%s", name);
    if (!text || !bb_graph_grow(g, (void **)&g->output_name, g->output_count,
                                &g->output_name_capacity, sizeof *g->output_name))
        return g->ctx->status;
    g->output_name[g->output_count] = text;
    return append(g, &g->output, &g->output_count, &g->output_capacity,
                  bb_graph_value_of(g, t, 0, true));
}

bb_status bb_graph_end(bb_graph *g) {
    if (!g) return BB_ERR_ARGUMENT;
    if (!g->recording)
        return g->ctx->status ? g->ctx->status
                              : bb_fail(g->ctx, BB_ERR_STATE, "bb_graph_end: it has ended before");
    stop(g);
    while (g->open >= 0) close_node(g);
    bb_host_release(g->ctx, g->slot, (size_t)g->slot_capacity * sizeof *g->slot);
    g->slot = NULL;
    g->slot_count = g->slot_capacity = 0;
    bb_status status = g->ctx->status;
    if (!status && g->failed)
        status = bb_fail(g->ctx, BB_ERR_STATE, "bb_graph_end: an op that it recorded has failed");
    if (!status) status = bb_graph_finish(g);
    g->failed = status != BB_OK;
    return status;
}

bb_status bb_graph_complete(bb_graph *g, const char *call) {
    if (g->ctx->status) return g->ctx->status;
    if (!g->recording && !g->failed) return BB_OK;
    return bb_fail(g->ctx, BB_ERR_STATE, "%s: the graph %s", call,
                   g->recording ? "is still recording" : "failed to end: it is no whole graph");
}

void bb_graph_free(bb_graph *g) {
    if (!g) return;
    bb_context *ctx = g->ctx;
    stop(g);
    for (int i = 0; i < g->value_count; i++)
        if (g->value[i].owned) bb_tensor_free(g->value[i].tensor);
    bb_host_release(ctx, g->node, (size_t)g->node_capacity * sizeof *g->node);
    bb_host_release(ctx, g->value, (size_t)g->value_capacity * sizeof *g->value);
    bb_host_release(ctx, g->input, (size_t)g->input_capacity * sizeof *g->input);
    bb_host_release(ctx, g->output, (size_t)g->output_capacity * sizeof *g->output);
    bb_host_release(ctx, g->param, (size_t)g->param_capacity * sizeof *g->param);
    bb_host_release(ctx, g->output_name, (size_t)g->output_name_capacity * sizeof *g->output_name);
    bb_host_release(ctx, g->slot, (size_t)g->slot_capacity * sizeof *g->slot);
    bb_host_release(ctx, g->external, (size_t)g->external_capacity * sizeof *g->external);
    bb_arena_free(ctx, &g->arena);
    bb_host_release(ctx, g, sizeof *g);
}
