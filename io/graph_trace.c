/* Graphs whose sizes may change. The function is recorded with each symbol at 2 and at 3, in all
 * combinations: enough to know a sum of products exactly. One more recording, with sizes far away,
 * proves it. Whatever does not fit was specialised, and the error says which node did it. */
#include <math.h>
#include <string.h>

#include "io/graph.h"

enum { RECORDINGS = BB_DIM_TERMS + 1 };
static const int64_t far_size[BB_GRAPH_SYMBOLS] = {5, 7, 11};

typedef struct trace {
    bb_context *ctx;
    const bb_graph_signature *signature;
    bb_graph_fn fn;
    void *user;
    const char *symbol[BB_GRAPH_SYMBOLS];
    int symbols, count; /* count: recordings; the last one is the proof */
    bb_graph *graph[RECORDINGS];
} trace;

/* ---- The signature */

static int symbol_of(trace *t, const char *name) {
    for (int k = 0; k < t->symbols; k++)
        if (strcmp(t->symbol[k], name) == 0) return k;
    if (t->symbols == BB_GRAPH_SYMBOLS) return -1;
    t->symbol[t->symbols] = name;
    return t->symbols++;
}

static bb_status check_signature(trace *t) {
    const bb_graph_signature *s = t->signature;
    if (s->n_inputs < 0 || s->n_outputs < 1 || s->n_params < 0)
        return bb_fail(t->ctx, BB_ERR_ARGUMENT,
                       "bb_graph_trace: signature: expected at least one output, got %d",
                       s->n_outputs);
    const struct {
        const char *name;
        const void *list;
        int64_t n;
    } lists[] = {{"inputs", s->inputs, s->n_inputs},
                 {"params", s->params, s->n_params},
                 {"outputs", s->outputs, s->n_outputs}};
    for (int i = 0; i < 3; i++)
        if (lists[i].n > 0 && !lists[i].list)
            return bb_fail(t->ctx, BB_ERR_ARGUMENT,
                           "bb_graph_trace: signature: %s: expected a list of %lld, got NULL",
                           lists[i].name, (long long)lists[i].n);
    for (int i = 0; i < s->n_inputs; i++) {
        const bb_graph_arg *a = &s->inputs[i];
        if (!a->name || a->rank < 0 || a->rank > BB_MAX_RANK)
            return bb_fail(t->ctx, BB_ERR_ARGUMENT,
                           "bb_graph_trace: input %d: expected a name and 0 to %d axes, got %s "
                           "with %d",
                           i, BB_MAX_RANK, a->name ? a->name : "no name", a->rank);
        for (int k = 0; k < a->rank; k++) {
            if (a->axis[k].symbol && symbol_of(t, a->axis[k].symbol) < 0)
                return bb_fail(t->ctx, BB_ERR_UNSUPPORTED,
                               "bb_graph_trace: input %s: expected at most %d symbols in all, got "
                               "'%s' as well",
                               a->name, BB_GRAPH_SYMBOLS, a->axis[k].symbol);
        }
    }
    t->count = (1 << t->symbols) + (t->symbols > 0);
    return BB_OK;
}

static int64_t size_in(const trace *t, int recording, int symbol) {
    bool proof = recording == 1 << t->symbols;
    return proof ? far_size[symbol] : 2 + (recording >> symbol & 1);
}

/* "batch=2, time=3" */
static const char *sizes_text(const trace *t, int recording, char text[BB_DIM_TEXT]) {
    size_t n = 0;
    text[0] = 0;
    for (int k = 0; k < t->symbols && n < BB_DIM_TEXT; k++)
        n += (size_t)snprintf(text + n, BB_DIM_TEXT - n, "%s%s=%lld", k ? ", " : "", t->symbol[k],
                              (long long)size_in(t, recording, k));
    return text;
}

/* ---- One recording */

/* Integers are zeros, so that they are valid as indices; floats differ from recording to recording,
 * so that what was computed from them outside of ops is noticed. */
static bb_tensor *example(trace *t, const bb_graph_arg *a, int recording) {
    bb_shape shape = {.rank = a->rank};
    int64_t count;
    for (int i = 0; i < a->rank; i++)
        shape.size[i] = a->axis[i].symbol ? size_in(t, recording, symbol_of(t, a->axis[i].symbol))
                                          : a->axis[i].size;
    bb_tensor *x = bb_empty_on(t->ctx, t->signature->device, a->dtype, shape);
    if (!x || !bb_shape_count(&shape, &count) || count == 0) return x;
    double *values = bb_graph_allocate(t->graph[recording], (size_t)count * sizeof *values);
    if (!values) return NULL;
    for (int64_t i = 0; i < count && bb_dtype_is_float(a->dtype); i++) {
        uint32_t bits[4];
        bb_philox((uint64_t)recording + 1, (uint64_t)i, bits);
        values[i] = 0.5 + (bits[0] >> 8) * 0x1p-24;
    }
    bb_tensor *host = bb_from_f64(t->ctx, a->dtype, shape, values);
    return host && bb_copy_into(host, x) == BB_OK ? x : NULL;
}

static bb_status record_into(trace *t, bb_graph *g, int recording) {
    const bb_graph_signature *s = t->signature;
    bb_context *ctx = t->ctx;
    bb_tensor **in = bb_graph_allocate(g, (size_t)s->n_inputs * sizeof(bb_tensor *));
    bb_tensor **out = bb_graph_allocate(g, (size_t)s->n_outputs * sizeof(bb_tensor *));
    if (!in || !out) return ctx->status;
    for (int i = 0; i < s->n_inputs; i++) {
        in[i] = example(t, &s->inputs[i], recording);
        if (!in[i] || bb_graph_input(g, s->inputs[i].name, in[i])) return ctx->status;
    }
    for (int64_t i = 0; i < s->n_params; i++)
        if (bb_graph_param(g, s->params[i].name, s->params[i].tensor)) return ctx->status;
    bb_status status = t->fn(t->user, in, out);
    if (ctx->status) return ctx->status;
    if (status)
        return bb_fail(ctx, status, "bb_graph_trace: the function failed without a message");
    for (int i = 0; i < s->n_outputs; i++)
        if (bb_graph_output(g, s->outputs[i], out[i])) return ctx->status;
    return bb_graph_end(g);
}

/* An op that refuses sizes which others before it took has been given a number that was a size. */
static void blame_node(trace *t, const bb_graph *failed, int recording) {
    bb_context *ctx = t->ctx;
    char text[BB_DIM_TEXT], message[BB_MESSAGE_BYTES];
    const bb_graph *base = t->graph[0];
    int at = failed->node_count;
    while (at < base->node_count && !base->node[at].op) at++;
    if (ctx->status == BB_ERR_MEMORY || at >= base->node_count) return;
    snprintf(message, sizeof message, "%s", ctx->message);
    bb_status status = ctx->status;
    ctx->status = BB_OK;
    bb_fail(ctx, status, "graph: node %s (%s): a size was specialised: it cannot run at %s: %.600s",
            base->node[at].name, base->node[at].type, sizes_text(t, recording, text), message);
}

static bb_status record_once(trace *t, int recording) {
    bb_context *ctx = t->ctx;
    bb_rng rng = bb_get_rng(ctx);
    bb_scope scope = bb_scope_begin(ctx);
    bb_graph *g = t->graph[recording] = bb_graph_begin(ctx);
    if (!g) return ctx->status;
    g->symbol_count = t->symbols;
    for (int k = 0; k < t->symbols; k++) g->size[k] = size_in(t, recording, k);
    bb_status status = record_into(t, g, recording);
    if (g->recording) bb_graph_end(g);
    if (status && recording > 0) blame_node(t, g, recording);
    bb_scope_end(ctx, scope, NULL);
    bb_set_rng(ctx, rng);
    return ctx->status;
}

/* ---- Comparing */

static bb_status specialised(trace *t, const bb_node *n, const char *what) {
    return bb_fail(t->ctx, BB_ERR_UNSUPPORTED, "graph: node %s (%s): a size was specialised: %s",
                   n ? n->name : "(inputs)", n ? n->type : "", what);
}

/* Numbers of all recordings as a polynomial; false: they are none. */
static bool fit(const trace *t, const int64_t *at, bb_dim *d) {
    bool same = true;
    for (int r = 1; r < t->count; r++) same &= at[r] == at[0];
    *d = bb_dim_of(at[0]);
    if (same) return true;
    for (int r = 0; r < t->count; r++)
        if (at[r] > (int64_t)1 << 52 || at[r] < -((int64_t)1 << 52)) return false;
    *d = bb_dim_fit(at, t->symbols);
    int64_t size[BB_GRAPH_SYMBOLS] = {0};
    for (int k = 0; k < t->symbols; k++) size[k] = far_size[k];
    return bb_dim_at(d, size) == at[t->count - 1];
}

static bb_status same_structure(trace *t) {
    const bb_graph *base = t->graph[0];
    for (int r = 1; r < t->count; r++) {
        const bb_graph *g = t->graph[r];
        for (int i = 0; i < base->node_count && i < g->node_count; i++) {
            const bb_node *a = &base->node[i], *b = &g->node[i];
            bool same = a->op == b->op && a->end == b->end && a->n_in == b->n_in &&
                        a->n_out == b->n_out && strcmp(a->path, b->path) == 0;
            for (int k = 0; same && k < a->n_in; k++) same = a->in[k] == b->in[k];
            for (int k = 0; same && k < a->n_out; k++)
                same = a->out[k] == b->out[k] &&
                       base->value[a->out[k]].rank == g->value[b->out[k]].rank &&
                       base->value[a->out[k]].dtype == g->value[b->out[k]].dtype;
            if (!same) {
                char text[BB_DIM_TEXT], what[BB_DIM_TEXT + 200];
                snprintf(what, sizeof what, "at %s another op or other inputs stand there (%.100s)",
                         sizes_text(t, r, text), b->path);
                return specialised(t, a, what);
            }
        }
        if (base->node_count != g->node_count || base->value_count != g->value_count ||
            base->output_count != g->output_count)
            return specialised(t, base->node_count ? &base->node[base->node_count - 1] : NULL,
                               "the number of nodes depends on it");
    }
    return BB_OK;
}

static const bb_node *user_of(const bb_graph *g, int value) {
    for (int i = 0; i < g->node_count; i++)
        for (int k = 0; !g->node[i].dead && k < g->node[i].n_in; k++)
            if (g->node[i].in[k] == value) return &g->node[i];
    return NULL;
}

static size_t constant_bytes(const bb_tensor *c) {
    return (size_t)c->count * bb_dtype_bytes((bb_dtype)c->dtype);
}

static bool read_constant(bb_graph *g, bb_tensor *c, char **bytes) {
    *bytes = bb_graph_allocate(g, constant_bytes(c));
    return *bytes && bb_read(c, *bytes, constant_bytes(c)) == BB_OK;
}

/* A constant must be the same at all sizes, or hold one number throughout: then one element stands
 * for all of it. */
static bb_status merge_constant(trace *t, int value) {
    bb_graph *base = t->graph[0];
    bb_value *v = &base->value[value];
    const bb_node *user = user_of(base, value);
    bool grows = false;
    char *first, *bytes;
    if (!user || v->kind != BB_VALUE_CONSTANT || t->count == 1) return BB_OK;
    for (int i = 0; i < v->rank; i++) grows |= !bb_dim_constant(&v->dim[i]);
    for (int r = 1; r < t->count && !v->copied; r++) {
        const bb_tensor *c = t->graph[r]->value[value].tensor;
        if (grows || c->storage != v->tensor->storage || c->data != v->tensor->data)
            return specialised(t, user, "a constant that it reads is not always the same tensor");
    }
    if (!v->copied) return BB_OK;
    if (!read_constant(base, v->tensor, &first)) return t->ctx->status;
    size_t one = bb_dtype_bytes(v->dtype), n = constant_bytes(v->tensor);
    for (int r = 0; r < t->count; r++) {
        bb_tensor *c = t->graph[r]->value[value].tensor;
        if (!read_constant(t->graph[r], c, &bytes)) return t->ctx->status;
        bool same = grows || memcmp(first, bytes, n) == 0;
        for (size_t i = 0; grows && same && i < constant_bytes(c); i += one)
            same = memcmp(first, bytes + i, one) == 0;
        if (!same)
            return specialised(t, user,
                               "the elements of a constant that it reads are not always the same "
                               "(compute them with ops, or pass them)");
    }
    if (!grows || v->tensor->count == 0) return BB_OK;
    bb_shape scalar = {0, {0}};
    bb_tensor *stand_in =
        bb_tensor_context(t->ctx, (bb_device)v->tensor->device, v->dtype, &scalar);
    if (!stand_in) return t->ctx->status;
    bb_tensor_free(v->tensor);
    v->tensor = stand_in;
    return bb_write(stand_in, first, one);
}

static bb_status merge_values(trace *t) {
    bb_graph *base = t->graph[0];
    int64_t at[RECORDINGS];
    for (int i = 0; i < base->value_count; i++) {
        bb_value *v = &base->value[i];
        if (v->kind == BB_VALUE_NODE && base->node[v->node].dead) continue;
        for (int k = 0; k < v->rank; k++) {
            for (int r = 0; r < t->count; r++) {
                const bb_value *other = &t->graph[r]->value[i];
                if (other->kind != v->kind || other->rank != v->rank || other->dtype != v->dtype)
                    return specialised(t, user_of(base, i), "a constant it reads is another");
                at[r] = other->dim[k].c[0];
            }
            if (!fit(t, at, &v->dim[k]))
                return specialised(t, v->kind == BB_VALUE_NODE ? &base->node[v->node] : NULL,
                                   "a size of its output is no sum of products of symbols");
        }
    }
    for (int i = 0; i < base->value_count; i++)
        if (merge_constant(t, i)) return t->ctx->status;
    return BB_OK;
}

/* The value of an element in recording r as an integer; false: it is none. */
static bool number_of(const trace *t, int r, int node, const bb_attr *a, int element,
                      int64_t *number) {
    const char *field = (const char *)t->graph[r]->node[node].attrs + a->offset;
    double real;
    if (a->type == BB_ATTR_INT)
        memcpy(number, field, sizeof *number);
    else if (a->type == BB_ATTR_INTS)
        *number = ((const bb_ints *)(const void *)field)->v[element];
    else if (a->type == BB_ATTR_FLOAT) {
        memcpy(&real, field, sizeof real);
        if (!(fabs(real) < 0x1p+52) || real != floor(real)) return false;
        *number = (int64_t)real;
    } else
        return false;
    return true;
}

static size_t attr_bytes(bb_attr_type type) {
    return type == BB_ATTR_INT     ? sizeof(int64_t)
           : type == BB_ATTR_FLOAT ? sizeof(double)
           : type == BB_ATTR_BOOL  ? sizeof(bool)
                                   : sizeof(int);
}

static bb_status merge_attr(trace *t, int node, const bb_attr *a) {
    bb_graph *base = t->graph[0];
    bb_node *n = &base->node[node];
    char what[160];
    snprintf(what, sizeof what, "its attribute %s is no sum of products of symbols", a->name);
    int elements = bb_attr_elements(a, n->attrs);
    for (int r = 1; r < t->count; r++)
        if (bb_attr_elements(a, t->graph[r]->node[node].attrs) != elements)
            return specialised(t, n, what);
    for (int e = 0; e < elements; e++) {
        int64_t at[RECORDINGS];
        bool integers = true, same = a->type != BB_ATTR_INTS;
        for (int r = 0; r < t->count; r++) {
            same = same && memcmp((const char *)n->attrs + a->offset,
                                  (const char *)t->graph[r]->node[node].attrs + a->offset,
                                  attr_bytes(a->type)) == 0;
            integers = integers && number_of(t, r, node, a, e, &at[r]);
        }
        if (same) continue;
        bb_dim d;
        if (!integers || !fit(t, at, &d)) return specialised(t, n, what);
        if (!bb_dim_constant(&d)) n->dynamic[n->dynamic_count++] = (bb_dynamic){a, e, d};
    }
    return BB_OK;
}

static bb_status merge_attrs(trace *t) {
    bb_graph *base = t->graph[0];
    for (int i = 0; i < base->node_count; i++) {
        bb_node *n = &base->node[i];
        int most = 0;
        if (n->dead || !n->op || !n->attrs) continue;
        for (const bb_attr *a = n->op->attrs; a->name; a++) most += bb_attr_elements(a, n->attrs);
        n->dynamic = bb_graph_allocate(base, (size_t)most * sizeof *n->dynamic);
        if (!n->dynamic) return t->ctx->status;
        for (const bb_attr *a = n->op->attrs; a->name; a++)
            if (merge_attr(t, i, a)) return t->ctx->status;
    }
    return BB_OK;
}

bb_graph *bb_graph_trace(bb_context *ctx, bb_graph_fn fn, void *user,
                         const bb_graph_signature *signature) {
    if (!ctx || ctx->status) return NULL;
    if (!fn || !signature) {
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "bb_graph_trace: expected a function and a signature, got NULL");
        return NULL;
    }
    trace t = {.ctx = ctx, .signature = signature, .fn = fn, .user = user};
    bb_status status = check_signature(&t);
    for (int r = 0; r < t.count && !status; r++) status = record_once(&t, r);
    bb_graph *base = t.graph[0];
    for (int k = 0; k < t.symbols && !status; k++) {
        base->symbol[k] = bb_graph_text(base, "%s", t.symbol[k]);
        if (!base->symbol[k]) status = ctx->status;
    }
    if (!status) status = same_structure(&t);
    if (!status) status = merge_values(&t);
    if (!status) status = merge_attrs(&t);
    for (int r = status ? 0 : 1; r < t.count; r++) bb_graph_free(t.graph[r]);
    return status ? NULL : base;
}
