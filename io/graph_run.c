/* Running a graph again: symbols are read off the inputs, then every node goes through bb_apply. */
#include <string.h>

#include "io/graph.h"
#include "ops/ops.h"

typedef struct run {
    bb_graph *g;
    int64_t size[BB_GRAPH_SYMBOLS];
    bb_tensor **at; /* by value */
    int *last;      /* by value: the last node that reads it */
    bool *ours;     /* by value: made here, and by nobody else's handle */
} run;

/* ---- Symbols and inputs */

static bb_status bind_input(run *r, int index, bb_tensor *t) {
    bb_graph *g = r->g;
    const bb_value *v = &g->value[g->input[index]];
    char expected[BB_DIMS_TEXT], got[BB_SHAPE_TEXT];
    if (!t || t->ctx != g->ctx)
        return bb_fail(g->ctx, BB_ERR_ARGUMENT,
                       "bb_graph_run: %s: expected a tensor of this context, got %s", v->name,
                       t ? "one of another" : "NULL");
    if (!bb_tensor_usable(t)) return g->ctx->status;
    bb_shape shape = bb_shape_of(t);
    bool fits = t->dtype == v->dtype && t->rank == v->rank;
    for (int i = 0; fits && i < v->rank; i++)
        for (int k = 0; k < g->symbol_count; k++)
            if (v->dim[i].c[1 << k] && r->size[k] < 0) r->size[k] = t->size[i];
    for (int i = 0; fits && i < v->rank; i++) fits = bb_dim_at(&v->dim[i], r->size) == t->size[i];
    if (!fits)
        return bb_fail(g->ctx, BB_ERR_ARGUMENT, "bb_graph_run: %s: expected %s%s, got %s%s",
                       v->name, bb_dtype_name(v->dtype), bb_dims_text(g, v, expected),
                       bb_dtype_name((bb_dtype)t->dtype), bb_shape_text(&shape, got));
    r->at[g->input[index]] = t;
    return BB_OK;
}

/* A constant that stands for any size is spread out. */
static bb_tensor *constant(run *r, const bb_value *v) {
    bb_shape shape = {.rank = v->rank};
    bool grows = false;
    for (int i = 0; i < v->rank; i++) {
        shape.size[i] = bb_dim_at(&v->dim[i], r->size);
        grows |= !bb_dim_constant(&v->dim[i]);
    }
    return grows ? bb_expand(v->tensor, shape) : v->tensor;
}

/* ---- Nodes */

static void find_last_uses(run *r) {
    const bb_graph *g = r->g;
    for (int i = 0; i < g->value_count; i++) r->last[i] = -1;
    for (int i = 0; i < g->node_count; i++) {
        const bb_node *n = &g->node[i];
        if (n->dead || !n->op || n->lowered) continue;
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] >= 0) r->last[bb_graph_resolve(g, n->in[k])] = i;
        i = n->end - 1; /* its body does not run */
    }
    for (int i = 0; i < g->output_count; i++)
        r->last[bb_graph_resolve(g, g->output[i])] = g->node_count;
}

static bb_status run_node(run *r, int at) {
    bb_graph *g = r->g;
    bb_context *ctx = g->ctx;
    const bb_node *n = &g->node[at];
    bb_tensor *small[BB_MAX_INPUTS] = {NULL}, **in = small, *out[BB_MAX_OUTPUTS] = {NULL};
    double attrs[1024 / sizeof(double)];
    if (n->n_in > BB_MAX_INPUTS) {
        in = bb_arena_allocate(ctx, &ctx->arena, (size_t)n->n_in * sizeof *in);
        if (!in) return ctx->status;
    }
    for (int i = 0; i < n->n_in; i++) {
        int v = bb_graph_resolve(g, n->in[i]);
        if (v >= 0 && !r->at[v]) r->at[v] = constant(r, &g->value[v]);
        in[i] = v < 0 ? NULL : r->at[v];
        if (v >= 0 && !in[i]) return ctx->status; /* bb_expand had no memory */
    }
    if (n->attrs) bb_node_attrs_at(n, r->size, attrs);
    if (bb_apply(ctx, n->op, in, n->n_in, n->attrs ? attrs : NULL, out)) return ctx->status;
    for (int i = 0; i < n->n_out; i++) {
        r->at[n->out[i]] = out[i];
        /* A composed op may give back its own input: then nobody may drop it. */
        bool ours = true;
        for (int k = 0; k < n->n_in; k++) ours &= in[k] != out[i];
        r->ours[n->out[i]] = ours;
    }
    for (int i = 0; i < n->n_in; i++) {
        int v = bb_graph_resolve(g, n->in[i]);
        bool given_back = false;
        for (int k = 0; k < n->n_out; k++) given_back |= v >= 0 && out[k] == r->at[v];
        if (v < 0 || r->last[v] != at || !r->ours[v] || given_back) continue;
        bb_drop(r->at[v]);
    }
    return BB_OK;
}

static bb_status run_all(run *r, bb_tensor *const *inputs, bb_tensor **outputs) {
    bb_graph *g = r->g;
    for (int i = 0; i < g->input_count; i++)
        if (bind_input(r, i, inputs[i])) return g->ctx->status;
    for (int i = 0; i < g->value_count; i++)
        if (g->value[i].kind == BB_VALUE_PARAM) r->at[i] = g->value[i].tensor;
    find_last_uses(r);
    for (int i = 0; i < g->node_count; i++) {
        const bb_node *n = &g->node[i];
        if (n->dead || !n->op || n->lowered) continue;
        if (run_node(r, i)) return g->ctx->status;
        i = n->end - 1;
    }
    for (int i = 0; i < g->output_count; i++) {
        int v = bb_graph_resolve(g, g->output[i]);
        if (!r->at[v]) r->at[v] = constant(r, &g->value[v]);
        outputs[i] = r->at[v];
    }
    return g->ctx->status;
}

bb_status bb_graph_run(bb_graph *g, bb_tensor *const *inputs, int n_inputs, bb_tensor **outputs) {
    if (!g) return BB_ERR_ARGUMENT;
    bb_context *ctx = g->ctx;
    for (int i = 0; outputs && i < g->output_count; i++) outputs[i] = NULL;
    if (bb_graph_complete(g, "bb_graph_run")) return ctx->status;
    if (n_inputs != g->input_count)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "bb_graph_run: inputs: expected %d, got %d",
                       g->input_count, n_inputs);
    if ((n_inputs && !inputs) || (g->output_count && !outputs))
        return bb_fail(ctx, BB_ERR_ARGUMENT, "bb_graph_run: %s: expected an array of %d, got NULL",
                       n_inputs && !inputs ? "inputs" : "outputs",
                       n_inputs && !inputs ? n_inputs : g->output_count);
    size_t n = (size_t)g->value_count + 1;
    run r = {.g = g};
    for (int k = 0; k < BB_GRAPH_SYMBOLS; k++) r.size[k] = -1;
    r.at = bb_arena_allocate(ctx, &ctx->arena, n * sizeof *r.at);
    r.last = bb_arena_allocate(ctx, &ctx->arena, n * sizeof *r.last);
    r.ours = bb_arena_allocate(ctx, &ctx->arena, n * sizeof *r.ours);
    if (!r.at || !r.last || !r.ours) return ctx->status;
    memset(r.at, 0, n * sizeof *r.at);
    memset(r.ours, 0, n * sizeof *r.ours);
    bb_scope scope = bb_scope_begin(ctx);
    bb_status status = run_all(&r, inputs, outputs);
    for (int i = 0; status && i < g->output_count; i++) outputs[i] = NULL;
    bb_scope_end_many(ctx, scope, outputs, g->output_count);
    return status;
}

void bb_graph_lower_all(bb_graph *g) {
    for (int i = 0; i < g->node_count; i++) {
        bb_node *n = &g->node[i];
        bool composite = n->op && n->n_out > 0 && g->value[n->out[0]].inner >= 0;
        n->lowered = n->opened || (g->lowered && composite);
    }
}

bb_status bb_graph_lower(bb_graph *g, bool on) {
    if (!g) return BB_ERR_ARGUMENT;
    if (bb_graph_complete(g, "bb_graph_lower")) return g->ctx->status;
    if (g->externalized)
        return bb_fail(g->ctx, BB_ERR_STATE,
                       "bb_graph_lower: the graph is externalized (bb_externalize_undo)");
    g->lowered = on;
    bb_graph_lower_all(g);
    return BB_OK;
}

int bb_graph_input_count(const bb_graph *g) { return g ? g->input_count : 0; }
int bb_graph_output_count(const bb_graph *g) { return g ? g->output_count : 0; }
int bb_graph_node_count(const bb_graph *g, const char *op) {
    int count = 0;
    for (int i = 0; g && i < g->node_count; i++) {
        const bb_node *n = &g->node[i];
        if (n->dead || !n->op || n->lowered) continue;
        count += !op || strcmp(n->op->name, op) == 0;
        i = n->end - 1;
    }
    return count;
}
