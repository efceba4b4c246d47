/* Sizes and attributes as polynomials of a graph's symbols (io/graph.h). */
#include <stdio.h>
#include <string.h>

#include "io/graph.h"

bool bb_dim_constant(const bb_dim *d) {
    for (int i = 1; i < BB_DIM_TERMS; i++)
        if (d->c[i]) return false;
    return true;
}

bool bb_dim_equal(const bb_dim *a, const bb_dim *b) { return memcmp(a, b, sizeof *a) == 0; }

/* Modulo 2^64: what overflows is no size, and the ops check sizes. */
int64_t bb_dim_at(const bb_dim *d, const int64_t *size) {
    uint64_t sum = 0;
    for (int i = 0; i < BB_DIM_TERMS; i++) {
        uint64_t term = (uint64_t)d->c[i];
        for (int k = 0; term && k < BB_GRAPH_SYMBOLS; k++)
            if (i >> k & 1) term *= (uint64_t)size[k];
        sum += term;
    }
    return (int64_t)sum;
}

const char *bb_dim_text(const bb_graph *g, const bb_dim *d, char text[BB_DIM_TEXT]) {
    size_t n = 0;
    text[0] = 0;
    for (int i = BB_DIM_TERMS - 1; i >= 0; i--) {
        int64_t c = d->c[i];
        if (!c || n >= BB_DIM_TEXT) continue;
        uint64_t size = c < 0 ? 0 - (uint64_t)c : (uint64_t)c;
        const char *sign = c < 0 ? (n ? " - " : "-") : n ? " + " : "";
        n += (size_t)snprintf(text + n, BB_DIM_TEXT - n, "%s", sign);
        if ((i == 0 || size != 1) && n < BB_DIM_TEXT)
            n += (size_t)snprintf(text + n, BB_DIM_TEXT - n, "%llu%s", (unsigned long long)size,
                                  i ? "*" : "");
        const char *times = "";
        for (int k = 0; k < BB_GRAPH_SYMBOLS && n < BB_DIM_TEXT; k++) {
            if (!(i >> k & 1)) continue;
            n += (size_t)snprintf(text + n, BB_DIM_TEXT - n, "%s%s", times, g->symbol[k]);
            times = "*";
        }
    }
    if (n == 0) snprintf(text, BB_DIM_TEXT, "0");
    return text;
}

const char *bb_dims_text(const bb_graph *g, const bb_value *v, char text[BB_DIMS_TEXT]) {
    char dim[BB_DIM_TEXT];
    size_t n = (size_t)snprintf(text, BB_DIMS_TEXT, "(");
    for (int i = 0; i < v->rank && n < BB_DIMS_TEXT; i++)
        n += (size_t)snprintf(text + n, BB_DIMS_TEXT - n, "%s%s", i ? ", " : "",
                              bb_dim_text(g, &v->dim[i], dim));
    if (n < BB_DIMS_TEXT) snprintf(text + n, BB_DIMS_TEXT - n, ")");
    return text;
}

/* With s = 2 + u, u in {0, 1}: Moebius sums over subsets give the coefficients in u; putting
 * u = s - 2 back in gives those in s. */
bb_dim bb_dim_fit(const int64_t *at, int symbols) {
    bb_dim d = bb_dim_of(0);
    int terms = 1 << symbols;
    for (int i = 0; i < terms; i++) d.c[i] = at[i];
    for (int k = 0; k < symbols; k++)
        for (int i = 0; i < terms; i++)
            if (i >> k & 1) d.c[i] -= d.c[i ^ (1 << k)];
    for (int k = 0; k < symbols; k++)
        for (int i = 0; i < terms; i++)
            if (i >> k & 1) d.c[i ^ (1 << k)] -= 2 * d.c[i];
    return d;
}

/* ---- Attributes */

const bb_attr *bb_find_attr(const bb_op *op, const char *name) {
    for (const bb_attr *a = op->attrs; a->name; a++)
        if (strcmp(a->name, name) == 0) return a;
    return NULL;
}

int bb_attr_elements(const bb_attr *a, const void *attrs) {
    return a->type == BB_ATTR_INTS
               ? ((const bb_ints *)(const void *)((const char *)attrs + a->offset))->n
               : 1;
}

bb_dim bb_node_attr(const bb_node *n, const char *attr, int element) {
    const bb_attr *a = bb_find_attr(n->op, attr);
    const char *field = (const char *)n->attrs + a->offset;
    for (int i = 0; i < n->dynamic_count; i++)
        if (n->dynamic[i].attr == a && n->dynamic[i].element == element) return n->dynamic[i].dim;
    switch (a->type) {
    case BB_ATTR_INT: return bb_dim_of(*(const int64_t *)(const void *)field);
    case BB_ATTR_FLOAT: return bb_dim_of((int64_t) * (const double *)(const void *)field);
    case BB_ATTR_BOOL: return bb_dim_of(*(const bool *)field);
    case BB_ATTR_INTS: return bb_dim_of(((const bb_ints *)(const void *)field)->v[element]);
    case BB_ATTR_CHOICE: return bb_dim_of(*(const int *)(const void *)field);
    }
    return bb_dim_of(0);
}

void bb_node_attrs_at(const bb_node *n, const int64_t *size, void *out) {
    memcpy(out, n->attrs, n->op->attrs_bytes);
    for (int i = 0; i < n->dynamic_count; i++) {
        const bb_dynamic *d = &n->dynamic[i];
        char *field = (char *)out + d->attr->offset;
        int64_t number = bb_dim_at(&d->dim, size);
        if (d->attr->type == BB_ATTR_INT)
            memcpy(field, &number, sizeof number);
        else if (d->attr->type == BB_ATTR_FLOAT)
            memcpy(field, &(double){(double)number}, sizeof(double));
        else
            ((bb_ints *)(void *)field)->v[d->element] = number;
    }
}
