/* The declaration of an externalized call as text, in the notation of MLIR attributes. */
#include <stdarg.h>
#include <string.h>

#include "io/graph.h"

typedef struct line {
    char *text;
    size_t bytes, n;
} line;

static void put(line *l, const char *format, ...) BB_PRINTF(2, 3);
static void put(line *l, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    bool room = l->n < l->bytes;
    int n = vsnprintf(room ? l->text + l->n : NULL, room ? l->bytes - l->n : 0, format, arguments);
    va_end(arguments);
    l->n += n > 0 ? (size_t)n : 0;
}

static void put_names(line *l, const char *what, const char *const *names, int n) {
    put(l, "%s = [", what);
    for (int i = 0; i < n; i++) put(l, "%s\"%s\"", i ? ", " : "", names[i]);
    put(l, "]");
}

/* Nine digits, not rounded, tell every f32 apart; the exponent without zeros in front. */
static void put_float(line *l, float value) {
    char text[64];
    snprintf(text, sizeof text, "%.30E", (double)value);
    char *e = strchr(text, 'E');
    if (!e) {
        put(l, "%s", text);
        return;
    }
    const char *digits = e + 2 + strspn(e + 2, "0");
    int shown = (int)strcspn(text, ".") + 9;
    put(l, "%.*sE%s%s", shown, text, e[1] == '-' ? "-" : "+", *digits ? digits : "0");
}

static void put_attrs(line *l, const bb_external_attr *list, int n);
static void put_attr(line *l, const bb_external_attr *a) {
    put(l, "%s = ", a->name);
    switch (a->kind) {
    case BB_EXTERNAL_INT: put(l, "%lld : si64", (long long)a->number); break;
    case BB_EXTERNAL_BOOL: put(l, "%s", a->number ? "true" : "false"); break;
    case BB_EXTERNAL_STRING: put(l, "\"%s\"", a->text); break;
    case BB_EXTERNAL_FLOAT:
        put_float(l, a->real);
        put(l, " : f32");
        break;
    case BB_EXTERNAL_LIST:
        put(l, "[");
        for (int i = 0; i < a->list.n; i++)
            put(l, "%s%lld : si64", i ? ", " : "", (long long)a->list.v[i]);
        put(l, "]");
        break;
    case BB_EXTERNAL_DICT: put_attrs(l, a->items, a->n_items); break;
    }
}

static void put_attrs(line *l, const bb_external_attr *list, int n) {
    put(l, "{");
    for (int i = 0; i < n; i++) {
        if (i) put(l, ", ");
        put_attr(l, &list[i]);
    }
    put(l, "}");
}

size_t bb_external_declaration(const bb_external *e, char *text, size_t bytes) {
    line l = {text, text ? bytes : 0, 0};
    if (l.bytes) text[0] = 0;
    if (!e || !e->composite) return 0;
    put(&l, "composite_declaration<\"%s\" = {", e->composite);
    put_names(&l, "input_names", e->input_names, e->n_inputs);
    put(&l, ", op_attrs = ");
    put_attrs(&l, e->attrs, e->n_attrs);
    put(&l, ", ");
    put_names(&l, "output_names", e->output_names, e->n_outputs);
    put(&l, "}>");
    return l.n;
}
