/* What happens to a graph when its recording ends: nodes that no output needs are marked dead,
 * layers learn what goes in and out, everything gets a unique name. */
#include <string.h>

#include "io/graph.h"
#include "io/internal.h"

/* ---- Dead nodes. Nodes are visited backwards; a composite is decided where its body ends, before
 * the body: its outputs are used only after it. */

static void need_inputs(const bb_node *n, bool *needed) {
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] >= 0) needed[n->in[i]] = true;
}

static void decide(bb_graph *g, int at, bool *needed) {
    bb_node *n = &g->node[at];
    if (!n->op) return; /* a layer: alive if anything in it is */
    n->dead = !n->op->mutates;
    for (int i = 0; i < n->n_out; i++) n->dead &= !needed[n->out[i]];
    if (n->dead) return;
    need_inputs(n, needed);
    for (int i = 0; i < n->n_out; i++)
        if (g->value[n->out[i]].inner >= 0) needed[g->value[n->out[i]].inner] = true;
}

/* All nodes whose range ends behind `at`, the outermost first. */
static void decide_ending(bb_graph *g, int at, int node, bool *needed) {
    int parent = g->node[node].parent;
    if (parent >= 0 && g->node[parent].end == at + 1) decide_ending(g, at, parent, needed);
    decide(g, node, needed);
}

static bb_status mark_dead(bb_graph *g) {
    size_t bytes = (size_t)g->value_count * sizeof(bool);
    bool *needed = bb_host_allocate(g->ctx, bytes);
    if (!needed) return g->ctx->status;
    memset(needed, 0, bytes);
    for (int i = 0; i < g->output_count; i++) needed[g->output[i]] = true;
    for (int i = g->node_count - 1; i >= 0; i--)
        if (g->node[i].end == i + 1) decide_ending(g, i, i, needed);
    for (int i = 0; i < g->node_count; i++)
        if (!g->node[i].op) g->node[i].dead = true;
    for (int i = 0; i < g->node_count; i++) {
        if (!g->node[i].op || g->node[i].dead) continue;
        for (int p = g->node[i].parent; p >= 0 && !g->node[p].op; p = g->node[p].parent)
            g->node[p].dead = false;
    }
    bb_host_release(g->ctx, needed, bytes);
    return BB_OK;
}

/* A composite can only stand for its body if nobody else looks into that. */
static void open_composites(bb_graph *g) {
    for (int i = 0; i < g->node_count; i++) {
        const bb_node *n = &g->node[i];
        for (int k = 0; !n->dead && n->op && k < n->n_in; k++) {
            int maker = n->in[k] >= 0 ? g->value[n->in[k]].node : -1;
            for (int p = maker >= 0 ? g->node[maker].parent : -1; p >= 0; p = g->node[p].parent)
                if (g->node[p].op && (i < p || i >= g->node[p].end))
                    g->node[p].opened = g->node[p].lowered = true;
        }
    }
}

/* ---- Boundaries */

static void add_once(int *list, int *n, int value) {
    for (int i = 0; i < *n; i++)
        if (list[i] == value) return;
    list[(*n)++] = value;
}

bb_status bb_graph_boundary(bb_graph *g, int first, int end, int **in, int *n_in, int **out,
                            int *n_out) {
    size_t reads = 0, writes = 0;
    *n_in = *n_out = 0;
    for (int i = first; i < end; i++) {
        reads += (size_t)g->node[i].n_in;
        writes += (size_t)g->node[i].n_out;
    }
    *in = bb_graph_allocate(g, reads * sizeof **in);
    *out = bb_graph_allocate(g, writes * sizeof **out);
    if (!*in || !*out) return g->ctx->status;
    /* Parameters first, then what was computed. */
    for (int pass = 0; pass < 2; pass++)
        for (int i = first; i < end; i++) {
            const bb_node *n = &g->node[i];
            for (int k = 0; !n->dead && n->op && k < n->n_in; k++) {
                const bb_value *v = n->in[k] >= 0 ? &g->value[n->in[k]] : NULL;
                if (!v || (v->node >= first && v->node < end)) continue;
                if (v->kind == BB_VALUE_CONSTANT && v->copied) continue; /* part of the body */
                bool param = v->kind == BB_VALUE_PARAM || v->kind == BB_VALUE_CONSTANT;
                if (param == (pass == 0)) add_once(*in, n_in, n->in[k]);
            }
        }
    for (int i = 0; i < g->node_count; i++) {
        const bb_node *n = &g->node[i];
        if (n->dead || !n->op || (i >= first && i < end)) continue;
        for (int k = 0; k < n->n_in; k++) {
            int node = n->in[k] >= 0 ? g->value[n->in[k]].node : -1;
            if (node >= first && node < end) add_once(*out, n_out, n->in[k]);
        }
    }
    for (int i = 0; i < g->output_count; i++) {
        int node = g->value[g->output[i]].node;
        if (node >= first && node < end) add_once(*out, n_out, g->output[i]);
    }
    return BB_OK;
}

/* ---- Names. A table of the names given so far, by hash. */

typedef struct name_table {
    bb_graph *g;
    const char **at;
    size_t capacity;
} name_table;

static bool take_name(name_table *t, const char *name) {
    size_t mask = t->capacity - 1, i = bb_hash(BB_HASH_START, name, strlen(name)) & mask;
    for (; t->at[i]; i = (i + 1) & mask)
        if (strcmp(t->at[i], name) == 0) return false;
    t->at[i] = name;
    return true;
}

static const char *unique(name_table *t, const char *name) {
    const char *candidate = name;
    for (int i = 2; candidate && !take_name(t, candidate); i++)
        candidate = bb_graph_text(t->g, "%s_%d", name, i);
    return candidate;
}

static bb_status give_names(bb_graph *g, name_table *t) {
    bb_context *ctx = g->ctx;
    for (int i = 0; i < g->value_count; i++) {
        const char *name = g->value[i].name;
        if (name && !take_name(t, name))
            return bb_fail(ctx, BB_ERR_ARGUMENT,
                           "graph: expected different names for inputs and parameters, got %s "
                           "twice",
                           name);
    }
    for (int i = 0; i < g->output_count; i++) {
        bb_value *v = &g->value[g->output[i]];
        if (!take_name(t, g->output_name[i]))
            return bb_fail(ctx, BB_ERR_ARGUMENT,
                           "graph: output %s: expected a name that nothing else has",
                           g->output_name[i]);
        if (!v->name) v->name = g->output_name[i];
    }
    for (int i = 0; i < g->node_count; i++) {
        bb_node *n = &g->node[i];
        n->name = unique(t, n->path);
        if (!n->name) return ctx->status;
        for (int k = 0; k < n->n_out; k++) {
            bb_value *v = &g->value[n->out[k]];
            if (v->name) continue;
            v->name = n->n_out == 1
                          ? n->name
                          : unique(t, bb_graph_text(g, "%s.%s", n->name, n->op->outputs[k]));
            if (!v->name) return ctx->status;
        }
    }
    for (int i = 0; i < g->value_count; i++)
        if (!g->value[i].name) {
            g->value[i].name = unique(t, "constant");
            if (!g->value[i].name) return ctx->status;
        }
    return BB_OK;
}

static bb_status name_all(bb_graph *g) {
    name_table t = {g, NULL, 64};
    while (t.capacity < 4 * ((size_t)g->node_count + (size_t)g->value_count + 1)) t.capacity *= 2;
    size_t bytes = t.capacity * sizeof *t.at;
    t.at = bb_host_allocate(g->ctx, bytes);
    if (!t.at) return g->ctx->status;
    memset(t.at, 0, bytes);
    bb_status status = give_names(g, &t);
    bb_host_release(g->ctx, t.at, bytes);
    return status;
}

bb_status bb_graph_finish(bb_graph *g) {
    if (g->output_count == 0 && g->ctx->status == BB_OK) {
        bool effect = false;
        for (int i = 0; i < g->node_count; i++) effect |= g->node[i].op && g->node[i].op->mutates;
        if (!effect) return bb_fail(g->ctx, BB_ERR_ARGUMENT, "graph: expected an output, got none");
    }
    bb_status status = mark_dead(g);
    if (status) return status;
    open_composites(g);
    return name_all(g);
}
