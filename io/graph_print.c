/* A graph as text: one line a node, what is inside a composite or a layer indented below it. */
#include <string.h>

#include "io/graph.h"

static const char *type_text(const bb_graph *g, const bb_value *v, char text[BB_DIMS_TEXT]) {
    char dims[BB_DIMS_TEXT - 16];
    bb_dims_text(g, v, text);
    snprintf(dims, sizeof dims, "%.*s", (int)sizeof dims - 1, text);
    snprintf(text, BB_DIMS_TEXT, "%s%s", bb_dtype_name(v->dtype), dims);
    return text;
}

static const char *choice_text(const bb_attr *a, int index, char text[64]) {
    const char *p = a->choices;
    while (index-- > 0 && strchr(p, '|')) p = strchr(p, '|') + 1;
    snprintf(text, 64, "%.*s", (int)strcspn(p, "|"), p);
    return text;
}

static void print_attr(const bb_graph *g, const bb_node *n, const bb_attr *a, FILE *f) {
    const char *field = (const char *)n->attrs + a->offset;
    char text[BB_DIM_TEXT];
    bool dynamic = false;
    for (int i = 0; i < n->dynamic_count; i++) dynamic |= n->dynamic[i].attr == a;
    fprintf(f, " %s=", a->name);
    if (a->type == BB_ATTR_INTS) {
        fputc('[', f);
        for (int i = 0; i < bb_attr_elements(a, n->attrs); i++) {
            bb_dim d = bb_node_attr(n, a->name, i);
            fprintf(f, "%s%s", i ? ", " : "", bb_dim_text(g, &d, text));
        }
        fputc(']', f);
    } else if (a->type == BB_ATTR_FLOAT && !dynamic) {
        fprintf(f, "%.9g", *(const double *)(const void *)field);
    } else if (a->type == BB_ATTR_CHOICE) {
        fputs(choice_text(a, *(const int *)(const void *)field, text), f);
    } else if (a->type == BB_ATTR_BOOL) {
        fputs(*(const bool *)field ? "true" : "false", f);
    } else {
        bb_dim d = bb_node_attr(n, a->name, 0);
        fputs(bb_dim_text(g, &d, text), f);
    }
}

static void print_node(const bb_graph *g, const bb_node *n, int depth, FILE *f) {
    char text[BB_DIMS_TEXT];
    fprintf(f, "%*s", 2 * depth, "");
    for (int i = 0; i < n->n_out; i++) {
        const bb_value *v = &g->value[n->out[i]];
        fprintf(f, "%s%s: %s", i ? ", " : "", v->name, type_text(g, v, text));
    }
    fprintf(f, "%s%s(", n->n_out ? " = " : "", n->type);
    for (int i = 0; i < n->n_in; i++) {
        int v = bb_graph_resolve(g, n->in[i]);
        fprintf(f, "%s%s", i ? ", " : "", v < 0 ? "-" : g->value[v].name);
    }
    fputc(')', f);
    for (const bb_attr *a = n->op->attrs; n->attrs && a->name; a++) print_attr(g, n, a, f);
    if (n->external >= 0) fprintf(f, " @%s", g->external[n->external].seen.name);
    fputc('\n', f);
}

static void print_values(const bb_graph *g, const char *what, const int *list, int n, FILE *f) {
    char text[BB_DIMS_TEXT];
    for (int i = 0; i < n; i++)
        fprintf(f, "%s %s: %s\n", what, g->value[list[i]].name,
                type_text(g, &g->value[list[i]], text));
}

void bb_graph_print(const bb_graph *g, FILE *f) {
    if (!g || !f || g->recording || g->failed) return;
    fprintf(f, "graph");
    for (int k = 0; k < g->symbol_count; k++) fprintf(f, " %s", g->symbol[k]);
    fputc('\n', f);
    print_values(g, "input", g->input, g->input_count, f);
    print_values(g, "param", g->param, g->param_count, f);
    for (int i = 0; i < g->node_count; i++) {
        const bb_node *n = &g->node[i];
        if (n->dead || !n->op || n->lowered) continue;
        int depth = 0;
        for (int p = n->parent; p >= 0; p = g->node[p].parent)
            depth += g->node[p].op && !g->node[p].lowered;
        print_node(g, n, depth, f);
    }
    for (int i = 0; i < g->output_count; i++)
        fprintf(f, "output %s = %s\n", g->output_name[i],
                g->value[bb_graph_resolve(g, g->output[i])].name);
}
