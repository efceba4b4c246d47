/* The values of a graph that is being recorded: which one a tensor's handle stands for, what comes
 * from outside, and that nothing but ops changes them. The recorder is graph.c. */
#include <string.h>

#include "io/graph.h"

static size_t slot_at(const bb_graph *g, const bb_tensor *t) {
    size_t mask = (size_t)g->slot_capacity - 1;
    size_t i = (size_t)(((uintptr_t)t >> 4) * (uintptr_t)0x9E3779B97F4A7C15u >> 20) & mask;
    while (g->slot[i].key && g->slot[i].key != t) i = (i + 1) & mask;
    return i;
}

static bool bind(bb_graph *g, const bb_tensor *t, int value) {
    if (2 * (g->slot_count + 1) > g->slot_capacity) {
        bb_slot *before = g->slot;
        int n = g->slot_capacity, more = n ? 2 * n : 256;
        bb_slot *fresh = bb_host_allocate(g->ctx, (size_t)more * sizeof *fresh);
        if (!fresh) return false;
        memset(fresh, 0, (size_t)more * sizeof *fresh);
        g->slot = fresh;
        g->slot_capacity = more;
        for (int i = 0; i < n; i++)
            if (before[i].key) g->slot[slot_at(g, before[i].key)] = before[i];
        bb_host_release(g->ctx, before, (size_t)n * sizeof *before);
    }
    size_t i = slot_at(g, t);
    if (!g->slot[i].key) g->slot_count++;
    bb_value_kind kind = g->value[value].kind;
    bool has_value = kind == BB_VALUE_NODE || kind == BB_VALUE_CONSTANT;
    g->slot[i] = (bb_slot){t, value, t->storage->version, has_value};
    return true;
}

int bb_graph_find(const bb_graph *g, const bb_tensor *t) {
    if (!g->slot_capacity) return -1;
    size_t i = slot_at(g, t);
    return g->slot[i].key ? g->slot[i].value : -1;
}

int bb_graph_new_value(bb_graph *g, bb_value_kind kind, const bb_tensor *t) {
    if (!bb_graph_grow(g, (void **)&g->value, g->value_count, &g->value_capacity, sizeof *g->value))
        return -1;
    bb_value *v = &g->value[g->value_count];
    memset(v, 0, sizeof *v);
    v->kind = kind;
    v->dtype = (bb_dtype)t->dtype;
    v->rank = t->rank;
    for (int i = 0; i < t->rank; i++) v->dim[i] = bb_dim_of(t->size[i]);
    v->node = v->inner = -1;
    return bind(g, t, g->value_count) ? g->value_count++ : -1;
}

/* Whether the bytes of t belong to a tensor of the context, of which it is a view. */
static bool views_context(const bb_tensor *t) {
    for (const bb_tensor *c = t->ctx->context_tensors; c; c = c->next)
        if (c->storage == t->storage) return true;
    return false;
}

/* A handle of the context's lifetime on the same elements. */
static bb_tensor *same_elements(const bb_tensor *t) {
    bb_shape shape = bb_shape_of_tensor(t);
    bb_tensor *view = bb_tensor_header(t->ctx, (bb_dtype)t->dtype, &shape, BB_LIFE_CONTEXT);
    if (!view) return NULL;
    memcpy(view->stride, t->stride, sizeof t->stride);
    view->contiguous = t->contiguous;
    bb_tensor_attach(view, bb_storage_ref(t->storage),
                     (size_t)(t->data - (char *)t->storage->data));
    return view;
}

static bool same_view(const bb_tensor *a, const bb_tensor *b) {
    bool same = a->data == b->data && a->dtype == b->dtype && a->rank == b->rank;
    for (int i = 0; same && i < a->rank; i++)
        same = a->size[i] == b->size[i] && a->stride[i] == b->stride[i];
    return same;
}

/* A handle that no op made, on elements that one did: bb_detach makes such. -1: none; -2: after
 * the error that it is another view of them. */
static int alias_of(const bb_graph *g, const bb_tensor *t) {
    int found = -1;
    for (int i = 0; i < g->slot_capacity; i++) {
        const bb_tensor *key = g->slot[i].key;
        if (!key || key->storage != t->storage) continue;
        bb_value_kind kind = g->value[g->slot[i].value].kind;
        if (kind != BB_VALUE_NODE && kind != BB_VALUE_INPUT) continue;
        if (same_view(key, t)) return g->slot[i].value;
        found = -2;
    }
    if (found == -2)
        bb_fail(g->ctx, BB_ERR_STATE,
                "graph: expected tensors that ops made, got a view of a recorded one that none "
                "made");
    return found;
}

/* A run knows of no change but those that ops make. `changes` of them belong to the op that is
 * being recorded and has run; a view does not read. */
static bool still_the_same(bb_graph *g, const bb_tensor *t, uint32_t changes, bool reads) {
    bb_slot *slot = &g->slot[slot_at(g, t)];
    uint32_t version = t->storage->version;
    if (slot->read && slot->version + changes != version) {
        const char *name = g->value[slot->value].name;
        bb_fail(g->ctx, BB_ERR_STATE,
                "graph: %s: expected changes by recorded ops alone, got another (bb_write, say) "
                "since an op read or made it",
                name ? name : "a tensor");
        return false;
    }
    slot->read |= reads;
    slot->version = version;
    return true;
}

void bb_graph_note_change(bb_graph *g, const bb_storage *changed) {
    for (int i = 0; i < g->slot_capacity; i++)
        if (g->slot[i].key && g->slot[i].key->storage == changed)
            g->slot[i].version = changed->version;
}

int bb_graph_value_of(bb_graph *g, bb_tensor *t, uint32_t changes, bool reads) {
    int value = bb_graph_find(g, t);
    if (value >= 0) return still_the_same(g, t, changes, reads) ? value : -1;
    value = t->life == BB_LIFE_CONTEXT ? -1 : alias_of(g, t);
    if (value != -1) return value;
    bool of_context = t->life == BB_LIFE_CONTEXT, view = !of_context && views_context(t);
    bb_tensor *kept = of_context ? t : view ? same_elements(t) : bb_keep_value(t);
    if (!kept) return -1;
    value = bb_graph_new_value(g, BB_VALUE_CONSTANT, t);
    if (value < 0) {
        if (!of_context) bb_tensor_free(kept);
        return -1;
    }
    g->value[value].tensor = kept;
    g->value[value].owned = !of_context;
    g->value[value].copied = !of_context && !view;
    return value;
}

void bb_graph_same_bytes(bb_graph *g, const bb_tensor *base, const bb_tensor *view) {
    g->slot[slot_at(g, view)].read = g->slot[slot_at(g, base)].read;
}
