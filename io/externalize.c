/* Externalizing: which calls get a graph of their own, under which name, with which inputs, outputs
 * and attributes. declaration.c writes them as text, onnx_function.c as functions. */
#include <math.h>
#include <string.h>

#include "io/graph.h"
#include "io/internal.h"

typedef struct plan {
    bb_graph *g;
    const bb_externalize_spec *specs;
    int n;
    bb_warn_fn warn;
    void *user;
    int *spec_of;            /* by node: which spec; -1: none */
    bb_external_call *calls; /* filled so far; the graph takes them over */
    int count, capacity;
} plan;

static void tell(const plan *p, const char *format, const char *what) {
    char line[512];
    if (!p->warn) return;
    snprintf(line, sizeof line, format, what, what);
    p->warn(p->user, line);
}

/* ---- Matching */

static bb_status check_specs(const plan *p) {
    bb_context *ctx = p->g->ctx;
    for (int i = 0; i < p->n; i++) {
        const bb_externalize_spec *s = &p->specs[i];
        if (!s->target || !*s->target)
            return bb_fail(ctx, BB_ERR_ARGUMENT,
                           "externalize: spec %d: target: expected a name, got none", i);
        if (s->composite_attrs && !s->composite_op_name)
            return bb_fail(ctx, BB_ERR_ARGUMENT,
                           "ExternalizeSpec: ['composite_attrs'] can only be set when "
                           "composite_op_name is provided.");
    }
    return BB_OK;
}

static bool has_body(const bb_graph *g, const bb_node *n) {
    return !n->op || (n->n_out > 0 && g->value[n->out[0]].inner >= 0);
}

static void match(plan *p) {
    const bb_graph *g = p->g;
    for (int i = 0; i < g->node_count; i++) {
        p->spec_of[i] = -1;
        for (int k = 0; k < p->n && p->spec_of[i] < 0; k++)
            if (has_body(g, &g->node[i]) && strcmp(p->specs[k].target, g->node[i].type) == 0)
                p->spec_of[i] = k;
    }
    for (int k = 0; k < p->n; k++) {
        bool found = false;
        for (int i = 0; i < g->node_count; i++) found |= p->spec_of[i] == k;
        bool shadowed = false; /* an earlier spec has the same target */
        for (int j = 0; j < k; j++) shadowed |= strcmp(p->specs[j].target, p->specs[k].target) == 0;
        if (!found && !shadowed)
            tell(p,
                 "externalize: target %s matches nothing in the graph. If one list serves "
                 "several models, this is safe to ignore.",
                 p->specs[k].target);
    }
    for (int i = 0; i < g->node_count; i++) {
        const bb_node *n = &g->node[i];
        if (p->spec_of[i] < 0 || (!n->dead && !n->opened)) continue;
        tell(p,
             n->dead ? "externalize: No call sites found for externalized submodule '%s' in the "
                       "graph: no output needs it; skipping unused submodule '%s'"
                     : "externalize: '%s' stays in place: others read what is inside it",
             n->path);
        p->spec_of[i] = -1;
    }
}

/* ---- Attributes */

static bb_status refuse(const plan *p, const bb_node *n, const char *attr, const char *why) {
    return bb_fail(p->g->ctx, BB_ERR_ARGUMENT, "externalize: node %s (%s): attribute %s: %s",
                   n->name, n->type, attr, why);
}

static const char *choice(bb_graph *g, const bb_attr *a, int index) {
    const char *from = a->choices;
    while (index-- > 0 && strchr(from, '|')) from = strchr(from, '|') + 1;
    return bb_graph_text(g, "%.*s", (int)strcspn(from, "|"), from);
}

/* One attribute into *out; *present false: it has no value, which is how absent ones look. */
static bb_status encode(const plan *p, const bb_node *n, const char *name, bb_external_attr *out,
                        bool *present) {
    const bb_attr *a = n->op ? bb_find_attr(n->op, name) : NULL;
    if (!a || !n->attrs)
        return refuse(p, n, name, "expected one that it has, got none of this name");
    for (int i = 0; i < n->dynamic_count; i++)
        if (n->dynamic[i].attr == a) {
            char text[BB_DIM_TEXT], why[BB_DIM_TEXT + 64];
            snprintf(why, sizeof why, "expected a number, got %s",
                     bb_dim_text(p->g, &n->dynamic[i].dim, text));
            return refuse(p, n, name, why);
        }
    const char *field = (const char *)n->attrs + a->offset;
    double real;
    *present = true;
    *out = (bb_external_attr){.name = bb_graph_text(p->g, "%s", name)};
    if (!out->name) return p->g->ctx->status;
    switch (a->type) {
    case BB_ATTR_INT: memcpy(&out->number, field, sizeof out->number); return BB_OK;
    case BB_ATTR_BOOL:
        out->kind = BB_EXTERNAL_BOOL;
        out->number = *(const bool *)field;
        return BB_OK;
    case BB_ATTR_FLOAT:
        memcpy(&real, field, sizeof real);
        out->kind = BB_EXTERNAL_FLOAT;
        out->real = (float)real;
        if (isnan(real) || (isfinite(real) && !isfinite(out->real)))
            return refuse(p, n, name,
                          "Unsupported value provided in composite declaration: a number that f32 "
                          "cannot hold");
        return BB_OK;
    case BB_ATTR_CHOICE:
        out->kind = BB_EXTERNAL_STRING;
        out->text = choice(p->g, a, *(const int *)(const void *)field);
        return out->text ? BB_OK : p->g->ctx->status;
    case BB_ATTR_INTS:
        memcpy(&out->list, field, sizeof out->list);
        out->kind = out->list.n == 1 ? BB_EXTERNAL_INT : BB_EXTERNAL_LIST;
        out->number = out->list.n == 1 ? out->list.v[0] : 0;
        *present = out->list.n > 0;
        return BB_OK;
    }
    return refuse(p, n, name, "Unsupported value provided in composite declaration");
}

/* Attributes that are being gathered: of a call, or of a dictionary among them. */
typedef struct attr_list {
    bb_external_attr *at;
    int n, capacity;
} attr_list;

static void insert_sorted(attr_list *list, bb_external_attr attr) {
    int at = list->n++;
    for (; at > 0 && strcmp(list->at[at - 1].name, attr.name) > 0; at--)
        list->at[at] = list->at[at - 1];
    list->at[at] = attr;
}

/* Puts attr where its path says, "norm.eps" into the dictionary norm. Full names are for messages.
 */
static bb_status put_attr(const plan *p, const bb_node *n, attr_list *list, const char *full,
                          const char *path, bb_external_attr attr) {
    size_t length = strcspn(path, ".");
    const char *name = bb_graph_text(p->g, "%.*s", (int)length, path);
    bool dict = path[length] == '.';
    if (!name) return p->g->ctx->status;
    if (length == 0) return refuse(p, n, full, "expected a name before and after each dot");
    bb_external_attr *there = NULL;
    for (int i = 0; i < list->n; i++)
        if (strcmp(list->at[i].name, name) == 0) there = &list->at[i];
    if (there && dict != (there->kind == BB_EXTERNAL_DICT))
        return refuse(p, n, full, "expected a value or a dictionary of this name, got both");
    if (there && !dict) return BB_OK; /* named twice: the same path, so the same value */
    attr.name = name;
    if (!dict) {
        insert_sorted(list, attr);
        return BB_OK;
    }
    attr_list inside = {NULL, 0, list->capacity};
    inside.at = there ? (bb_external_attr *)(uintptr_t)there->items
                      : bb_graph_allocate(p->g, (size_t)inside.capacity * sizeof *inside.at);
    if (!inside.at) return p->g->ctx->status;
    if (there) inside.n = there->n_items;
    if (put_attr(p, n, &inside, full, path + length + 1, attr)) return p->g->ctx->status;
    if (there)
        there->n_items = inside.n;
    else
        insert_sorted(list, (bb_external_attr){.name = name,
                                               .kind = BB_EXTERNAL_DICT,
                                               .items = inside.at,
                                               .n_items = inside.n});
    return BB_OK;
}

static bb_status read_attrs(const plan *p, const bb_node *n, const bb_externalize_spec *s,
                            bb_external *e) {
    int names = 0;
    if (!s->composite_op_name) return BB_OK;
    while (s->composite_attrs && s->composite_attrs[names]) names++;
    attr_list list = {NULL, 0, names + 1};
    list.at = bb_graph_allocate(p->g, (size_t)list.capacity * sizeof *list.at);
    if (!list.at) return p->g->ctx->status;
    insert_sorted(&list, (bb_external_attr){.name = "version", .number = 1});
    for (int i = 0; i < names; i++) {
        bb_external_attr attr;
        bool present = false;
        const char *full = s->composite_attrs[i], *dot = strrchr(full, '.');
        if (strcmp(full, "version") == 0) continue;
        if (encode(p, n, dot ? dot + 1 : full, &attr, &present)) return p->g->ctx->status;
        if (present && put_attr(p, n, &list, full, full, attr)) return p->g->ctx->status;
    }
    e->attrs = list.at;
    e->n_attrs = list.n;
    return BB_OK;
}

/* ---- Inputs and outputs */

static bool stands_in(const int *list, int n, int value) {
    for (int i = 0; i < n; i++)
        if (list[i] == value) return true;
    return false;
}

/* A parameter by its name within the layer; what was computed as input, input_0, input_1, ... */
static const char *outer_name(bb_graph *g, const bb_node *n, int value, int index, int computed) {
    const bb_value *v = &g->value[value];
    size_t prefix = strlen(n->path);
    if (v->kind == BB_VALUE_PARAM || v->kind == BB_VALUE_CONSTANT) {
        bool inside = strncmp(v->name, n->path, prefix) == 0 && v->name[prefix] == '.';
        return bb_graph_text(g, "%s", inside ? v->name + prefix + 1 : v->name);
    }
    return computed == 1 ? "input" : bb_graph_text(g, "input_%d", index);
}

static bool op_inputs(bb_graph *g, const bb_node *n, int *in, const char **names, int *count) {
    int listed = bb_op_input_count(n->op);
    for (int i = 0; i < n->n_in; i++) {
        if (n->in[i] < 0) continue;
        in[*count] = n->in[i];
        bool many = n->op->variadic && i >= listed - 1;
        names[*count] = many ? bb_graph_text(g, "%s_%d", n->op->inputs[listed - 1], i - listed + 1)
                             : n->op->inputs[i];
        if (!names[(*count)++]) return false;
    }
    return true;
}

static bb_status find_boundary(const plan *p, int node, bb_external_call *c) {
    bb_graph *g = p->g;
    const bb_node *n = &g->node[node];
    int *read, *made, n_read, n_made;
    if (bb_graph_boundary(g, node + 1, n->end, &read, &n_read, &made, &n_made))
        return g->ctx->status;
    int most = n_read + n->n_in, n_out = n->op ? n->n_out : n_made, computed = 0, index = 0;
    int *in = bb_graph_allocate(g, (size_t)most * sizeof *in);
    const char **names = bb_graph_allocate(g, (size_t)most * sizeof *names);
    const char **out_names = bb_graph_allocate(g, (size_t)n_out * sizeof *out_names);
    if (!in || !names || !out_names) return g->ctx->status;
    for (int i = 0; i < n_read; i++) {
        bb_value_kind kind = g->value[read[i]].kind;
        computed += kind == BB_VALUE_NODE || kind == BB_VALUE_INPUT;
    }
    for (int i = 0; i < n_read; i++) {
        if (n->op && stands_in(n->in, n->n_in, read[i])) continue;
        bb_value_kind kind = g->value[read[i]].kind;
        bool is_computed = kind == BB_VALUE_NODE || kind == BB_VALUE_INPUT;
        in[c->seen.n_inputs] = read[i];
        names[c->seen.n_inputs] = outer_name(g, n, read[i], index, computed);
        index += is_computed;
        if (!names[c->seen.n_inputs++]) return g->ctx->status;
    }
    if (n->op && !op_inputs(g, n, in, names, &c->seen.n_inputs)) return g->ctx->status;
    for (int i = 0; i < n_out; i++) {
        out_names[i] = n_out == 1 ? "output" : bb_graph_text(g, "output_%d", i);
        if (!out_names[i]) return g->ctx->status;
    }
    c->in = in, c->out = n->op ? n->out : made;
    c->seen.input_names = names, c->seen.output_names = out_names, c->seen.n_outputs = n_out;
    return BB_OK;
}

/* ---- The calls */

static bb_status add_call(plan *p, int node) {
    bb_graph *g = p->g;
    const bb_node *n = &g->node[node];
    const bb_externalize_spec *s = &p->specs[p->spec_of[node]];
    if (!bb_graph_grow(g, (void **)&p->calls, p->count, &p->capacity, sizeof *p->calls))
        return g->ctx->status;
    bb_external_call *c = &p->calls[p->count];
    memset(c, 0, sizeof *c);
    c->node = node;
    c->seen.path = n->path;
    c->seen.name = bb_graph_text(g, "%s_%08x", n->path,
                                 (unsigned)bb_hash(BB_HASH_START, n->name, strlen(n->name)));
    if (!c->seen.name) return g->ctx->status;
    if (s->composite_op_name) {
        c->seen.composite = bb_graph_text(g, "%s", s->composite_op_name);
        if (!c->seen.composite) return g->ctx->status;
    }
    p->count++;
    if (find_boundary(p, node, c)) return g->ctx->status;
    return read_attrs(p, n, s, &c->seen);
}

/* The inner before the outer: in the order in which nodes end. */
static bb_status add_calls(plan *p) {
    const bb_graph *g = p->g;
    for (int end = 1; end <= g->node_count; end++)
        for (int i = end - 1; i >= 0; i = g->node[i].parent) {
            if (g->node[i].end != end) break;
            if (p->spec_of[i] >= 0 && add_call(p, i)) return g->ctx->status;
        }
    return BB_OK;
}

static void commit(plan *p) {
    bb_graph *g = p->g;
    bb_host_release(g->ctx, g->external, (size_t)g->external_capacity * sizeof *g->external);
    g->external = p->calls;
    g->external_count = p->count;
    g->external_capacity = p->capacity;
    g->externalized = true;
    for (int i = 0; i < g->node_count; i++) {
        bb_node *n = &g->node[i];
        n->external = -1;
        n->lowered = n->opened || (n->op && has_body(g, n) && p->spec_of[i] < 0);
    }
    for (int i = 0; i < g->external_count; i++) g->node[g->external[i].node].external = i;
}

bb_status bb_externalize(bb_graph *g, const bb_externalize_spec *specs, int n, bb_warn_fn warn,
                         void *user) {
    if (!g) return BB_ERR_ARGUMENT;
    bb_context *ctx = g->ctx;
    if (bb_graph_complete(g, "bb_externalize")) return ctx->status;
    if (g->externalized)
        return bb_fail(ctx, BB_ERR_STATE,
                       "bb_externalize: the graph is externalized already (bb_externalize_undo)");
    if (n < 0 || (n > 0 && !specs))
        return bb_fail(ctx, BB_ERR_ARGUMENT, "bb_externalize: specs: expected %d, got NULL", n);
    plan p = {.g = g, .specs = specs, .n = n, .warn = warn, .user = user};
    p.spec_of = bb_graph_allocate(g, (size_t)g->node_count * sizeof *p.spec_of);
    bb_status status = p.spec_of ? check_specs(&p) : ctx->status;
    if (!status) {
        match(&p);
        status = add_calls(&p);
    }
    if (!status)
        commit(&p);
    else
        bb_host_release(ctx, p.calls, (size_t)p.capacity * sizeof *p.calls);
    return status;
}

void bb_externalize_undo(bb_graph *g) {
    if (!g || !g->externalized) return;
    g->externalized = false;
    g->external_count = 0;
    for (int i = 0; i < g->node_count; i++) g->node[i].external = -1;
    bb_graph_lower_all(g);
}

int bb_external_count(const bb_graph *g) { return g ? g->external_count : 0; }
const bb_external *bb_external_at(const bb_graph *g, int index) {
    return g && index >= 0 && index < g->external_count ? &g->external[index].seen : NULL;
}

/* ---- Defaults */

static const char *const norm_attrs[] = {"axes", "eps", NULL};
static const char *const rope_attrs[] = {"base", "dims", "interleaved", "offset", "scale", NULL};
static const char *const sdpa_attrs[] = {"is_causal", "scale", "window_size", NULL};
static const char *const axis_attrs[] = {"axis", NULL};
static const char *const gelu_attrs[] = {"approximate", NULL};
static const char *const no_attrs[] = {NULL};
static const bb_externalize_spec defaults[] = {
    {"RMSNormImpl", "rms_norm", norm_attrs},
    {"LayerNorm", "layer_norm", norm_attrs},
    {"RoPE", "rope", rope_attrs},
    {"SDPA", "scaled_dot_product_attention", sdpa_attrs},
    {"log_softmax", "log_softmax", axis_attrs},
    {"gelu", "gelu", gelu_attrs},
    {"silu", "silu", no_attrs},
    {"swiglu", "swiglu", no_attrs},
};

const bb_externalize_spec *bb_externalize_defaults(int *n) {
    if (n) *n = (int)(sizeof defaults / sizeof defaults[0]);
    return defaults;
}
