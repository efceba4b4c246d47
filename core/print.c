/* bb_print: a tensor as a person would want to read it. At most six entries an axis (three at each
 * end), one number format for the whole tensor. */
#include <math.h>
#include <string.h>

#include "core/impl.h"

enum { EDGE = 3, SHOWN = 2 * EDGE };

typedef struct printer {
    bb_tensor *t;
    FILE *file;
    double *values;    /* all of them, row-major; or */
    int64_t *integers; /* those of an i64 tensor, of which a double does not hold all */
    int width, decimals;
    bool scientific;
} printer;

static void format_value(const printer *p, int64_t at, char text[64]) {
    bb_dtype dtype = (bb_dtype)p->t->dtype;
    const double v = p->integers ? 0 : p->values[at];
    if (p->integers)
        snprintf(text, 64, "%lld", (long long)p->integers[at]);
    else if (dtype == BB_BOOL)
        snprintf(text, 64, "%s", v != 0 ? "true" : "false");
    else if (!bb_dtype_is_float(dtype))
        snprintf(text, 64, "%.0f", v);
    else if (isnan(v))
        snprintf(text, 64, "nan");
    else if (isinf(v))
        snprintf(text, 64, v < 0 ? "-inf" : "inf");
    else if (p->scientific)
        snprintf(text, 64, "%.4e", v);
    else
        snprintf(text, 64, "%.*f", p->decimals, v);
}

static bool shown(int64_t i, int64_t n) { return n <= SHOWN || i < EDGE || i >= n - EDGE; }

/* Visits every value that will be shown. */
static void measure(printer *p, int axis, int64_t at) {
    if (axis == p->t->rank) {
        char text[64];
        format_value(p, at, text);
        int n = (int)strlen(text);
        if (n > p->width) p->width = n;
        return;
    }
    for (int64_t i = 0; i < p->t->size[axis]; i++) {
        if (!shown(i, p->t->size[axis])) i = p->t->size[axis] - EDGE;
        measure(p, axis + 1, at * p->t->size[axis] + i);
    }
}

/* Reads all values. Both kinds have 8 bytes. */
static bb_status read_values(printer *p, void *values, size_t bytes) {
    if (!values) return p->t->ctx->status;
    if (p->t->dtype == BB_I64) {
        p->integers = values;
        return bb_read(p->t, values, bytes);
    }
    p->values = values;
    return bb_read_f64(p->t, values, p->t->count);
}

static void choose_format(printer *p) {
    double high = 0, low = INFINITY;
    bool whole = true;
    for (int64_t i = 0; i < p->t->count; i++) {
        double a = fabs(p->values[i]);
        if (!isfinite(a)) continue;
        if (a != floor(a)) whole = false;
        if (a > high) high = a;
        if (a > 0 && a < low) low = a;
    }
    p->scientific = high >= 1e8 || (high > 0 && (high < 1e-4 || (!whole && low < high * 1e-6)));
    p->decimals = whole ? 1 : 4;
}

static void print_axis(const printer *p, int axis, int64_t at, int indent) {
    const bb_tensor *t = p->t;
    if (axis == t->rank) {
        char text[64];
        format_value(p, at, text);
        fprintf(p->file, "%*s", p->width, text);
        return;
    }
    fputc('[', p->file);
    for (int64_t i = 0, n = t->size[axis]; i < n; i++) {
        bool last_axis = axis == t->rank - 1;
        if (i) {
            fputs(last_axis ? ", " : ",\n", p->file);
            for (int k = 0; !last_axis && k < t->rank - axis - 2; k++) fputc('\n', p->file);
            if (!last_axis) fprintf(p->file, "%*s", indent + 1, "");
        }
        if (!shown(i, n)) {
            fputs(last_axis ? "..., " : "...,\n", p->file);
            if (!last_axis) fprintf(p->file, "%*s", indent + 1, "");
            i = n - EDGE;
        }
        print_axis(p, axis + 1, at * n + i, indent + 1);
    }
    fputc(']', p->file);
}

void bb_print(bb_tensor *t, FILE *file) {
    if (!file) return;
    if (!t) {
        fprintf(file, "NULL\n");
        return;
    }
    if (t->ctx->status || !bb_tensor_usable(t)) {
        fprintf(file, "(no values: %s)\n", t->ctx->message);
        return;
    }
    char text[BB_SHAPE_TEXT];
    bb_shape shape = bb_shape_of_tensor(t);
    fprintf(file, "%s%s%s", bb_dtype_name((bb_dtype)t->dtype), bb_shape_text(&shape, text),
            t->requires_grad ? " with gradient" : "");
    printer p = {.t = t, .file = file};
    size_t bytes;
    void *values = NULL;
    if (bb_checked_mul((size_t)t->count, sizeof *p.values, &bytes))
        values = bb_host_allocate(t->ctx, bytes);
    else
        bb_fail(t->ctx, BB_ERR_MEMORY, "bb_print: tensor: expected room for its values, got %lld",
                (long long)t->count);
    if (read_values(&p, values, bytes)) {
        fprintf(file, " (no values: %s)\n", t->ctx->message);
    } else {
        if (bb_dtype_is_float((bb_dtype)t->dtype)) choose_format(&p);
        if (t->count) measure(&p, 0, 0);
        fputs(t->rank > 1 ? "\n" : " ", file);
        print_axis(&p, 0, 0, 0);
        fputc('\n', file);
    }
    bb_host_release(t->ctx, values, bytes);
}
