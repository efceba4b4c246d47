/* Writes the reference pages: reference FOLDER HEADER... reads the public headers, which are the
 * manual, and the op records, which know formula, inputs and attributes, and writes one page per
 * header and an index. A public function without a word about it is an error: then no page is
 * written. */
#include "tools/reference/header.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bobbin.h"

static const char style[] =
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 "
    "1em;color:#222}"
    "pre{background:#f4f4f2;padding:.7em 1em;overflow:auto;font-size:14px}"
    "dl{margin-left:1em}dt{font-weight:600}h2{margin-top:2em;border-bottom:1px solid #ddd}"
    "a{color:#14507a;text-decoration:none}td{padding:0 1.5em 0 0}";

typedef struct page {
    FILE *out;
    const char *header; /* "core/core.h" */
    bb_context *ctx;
} page;

static void put(FILE *out, const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        const char *entity = text[i] == '<' ? "&lt;" : text[i] == '>' ? "&gt;" : NULL;
        if (text[i] == '&') entity = "&amp;";
        if (entity)
            fputs(entity, out);
        else
            fputc(text[i], out);
    }
}

/* A comment as paragraphs. Lines set in by three spaces or more stay as they are. */
static void put_comment(FILE *out, const char *text, size_t bytes) {
    const char *end = text + bytes;
    if (bytes >= 4) text += 2, end -= 2;
    bool open = false, exact = false;
    while (text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        if (!stop) stop = end;
        while (text < stop && *text == ' ') text++;
        if (text < stop && *text == '*') text++;
        int set_in = 0;
        for (; text < stop && *text == ' '; text++) set_in++;
        bool empty = text == stop, as_is = !empty && set_in > 3;
        if (open && (empty || as_is != exact)) {
            fputs(exact ? "</pre>\n" : "</p>\n", out);
            open = false;
        }
        if (!empty && !open) fputs(as_is ? "<pre>" : "<p>", out);
        if (!empty) {
            open = true;
            exact = as_is;
            put(out, text, (size_t)(stop - text));
            fputc('\n', out);
        }
        text = stop + (stop < end);
    }
    if (open) fputs(exact ? "</pre>\n" : "</p>\n", out);
}

/* The heading in a line of dashes; what follows on further lines is a comment. */
static void put_section(FILE *out, const char *text, size_t bytes) {
    const char *end = text + bytes - 2;
    text += 2;
    while (text < end && (*text == ' ' || *text == '-')) text++;
    const char *line = memchr(text, '\n', (size_t)(end - text)), *stop = line ? line : end;
    while (stop > text && (stop[-1] == ' ' || stop[-1] == '-')) stop--;
    fputs("<h2>", out);
    put(out, text, (size_t)(stop - text));
    fputs("</h2>\n", out);
    if (line && line + 3 < end) put_comment(out, line - 2, (size_t)(end + 2 - (line - 2)));
}

/* ---- Ops */

/* "rms_norm" is RMSNormImpl's function: names are compared without case and underscores. */
static bool same_op(const char *function, size_t bytes, const char *op) {
    size_t i = 0;
    for (; *op; op++) {
        if (*op == '_') continue;
        while (i < bytes && function[i] == '_') i++;
        if (i == bytes) return strcmp(op, "Impl") == 0;
        if (tolower((unsigned char)*op) != tolower((unsigned char)function[i++])) return false;
    }
    while (i < bytes && function[i] == '_') i++;
    return i == bytes;
}

static const bb_op *op_of(const page *p, const item *i) {
    if (strcmp(p->header, "ops/ops.h") != 0 || i->name_bytes < 4) return NULL;
    for (int k = 0; k < bb_op_count(p->ctx); k++)
        if (same_op(i->name + 3, i->name_bytes - 3, bb_op_at(p->ctx, k)->name))
            return bb_op_at(p->ctx, k);
    return NULL;
}

static void put_attr(FILE *out, const bb_attr *a) {
    static const char *const types[] = {"int", "float", "bool", "ints", "choice"};
    fprintf(out, "<tr><td>%s</td><td>%s</td><td>", a->name,
            a->type == BB_ATTR_CHOICE ? a->choices : types[a->type]);
    if (a->required)
        fputs("required", out);
    else if (a->type == BB_ATTR_INTS && a->ints.n == 0)
        fputs("default none", out);
    else if (a->type == BB_ATTR_INTS)
        for (int i = 0; i < a->ints.n; i++)
            fprintf(out, "%s%lld", i ? ", " : "default ", (long long)a->ints.v[i]);
    else
        fprintf(out, "default %.17g", a->value);
    fputs("</td></tr>\n", out);
}

static void put_op(const page *p, const bb_op *op) {
    FILE *out = p->out;
    const char *kind = op->decompose ? "composite" : op->view ? "view" : "primitive";
    fprintf(out, "<dl><dt>%s, a %s op: ", op->name, kind);
    put(out, op->doc, strlen(op->doc));
    fputs("</dt>\n<dd>inputs", out);
    for (int i = 0; op->inputs[i]; i++)
        fprintf(out, "%s %s%s%s", i ? "," : "", op->inputs[i],
                op->optional >> i & 1 ? " (may be NULL)" : "",
                op->variadic && !op->inputs[i + 1] ? " (any number)" : "");
    if (!op->inputs[0]) fputs(": none", out);
    fputs("; outputs", out);
    for (int i = 0; op->outputs[i] && i < bb_op_output_count(op) - op->hidden; i++)
        fprintf(out, "%s %s", i ? "," : "", op->outputs[i]);
    fprintf(out, "; %s</dd>\n", op->gradient == bb_no_gradient ? "no gradient" : "differentiable");
    if (op->attrs[0].name) fputs("<dd><table>\n", out);
    for (const bb_attr *a = op->attrs; a->name; a++) put_attr(out, a);
    if (op->attrs[0].name) fputs("</table></dd>\n", out);
    fputs("</dl>\n", out);
}

/* ---- Pages */

/* A run of declarations with the comments behind them, and then what is known of each. */
static const item *put_code(const page *p, const item *i, const item *end) {
    const item *from = i;
    fputs("<pre>", p->out);
    for (; i < end && i->kind >= ITEM_TRAILING; i++) {
        if (i > from) fputs(i->kind == ITEM_TRAILING ? "  " : "\n", p->out);
        if (i->kind == ITEM_FUNCTION) {
            fprintf(p->out, "<a id=\"%.*s\"></a>", (int)i->name_bytes, i->name);
            put(p->out, i->text + 7, i->bytes - 7); /* without BB_API */
        } else {
            put(p->out, i->text, i->bytes);
        }
    }
    fputs("</pre>\n", p->out);
    for (; from < i; from++) {
        const bb_op *op = from->kind == ITEM_FUNCTION ? op_of(p, from) : NULL;
        if (op) put_op(p, op);
    }
    return i;
}

static void put_page(const page *p, const item *items, size_t count) {
    fprintf(p->out, "<!doctype html><meta charset=utf-8><title>%s</title><style>%s</style>\n",
            p->header, style);
    fprintf(p->out, "<p><a href=index.html>Bobbin %s</a></p><h1>%s</h1>\n", bb_version(),
            p->header);
    for (const item *i = items; i < items + count;) {
        if (i->kind >= ITEM_TRAILING) {
            i = put_code(p, i, items + count);
            continue;
        }
        if (i->kind == ITEM_SECTION) put_section(p->out, i->text, i->bytes);
        if (i->kind == ITEM_COMMENT) put_comment(p->out, i->text, i->bytes);
        i++;
    }
}

static char *read_all(const char *path) {
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    size_t bytes = 0;
    for (size_t room = 1 << 16; file; room *= 2) {
        char *more = realloc(text, room);
        if (!more) break;
        text = more;
        bytes += fread(text + bytes, 1, room - 1 - bytes, file);
        text[bytes] = '\0';
        if (bytes < room - 1) break;
    }
    if (file) fclose(file);
    return text;
}

/* "core/core.h" as a file's name: "core.core.html". */
static void page_name(const char *folder, const char *header, char *name, size_t room) {
    int n = snprintf(name, room, "%s%s%s", folder ? folder : "", folder ? "/" : "", header);
    size_t begin = folder ? strlen(folder) + 1 : 0;
    if (n < 2 || (size_t)n + 5 >= room) return;
    strcpy(name + n - 1, "html");
    for (char *c = name + begin; *c; c++)
        if (*c == '/') *c = '.';
}

typedef struct entry {
    const char *header;
    const item *item;
} entry;

static int by_name(const void *a, const void *b) {
    const item *x = ((const entry *)a)->item, *y = ((const entry *)b)->item;
    size_t n = x->name_bytes < y->name_bytes ? x->name_bytes : y->name_bytes;
    int order = memcmp(x->name, y->name, n);
    return order ? order : (x->name_bytes > y->name_bytes) - (x->name_bytes < y->name_bytes);
}

static bool put_index(const char *folder, entry *entries, size_t count, char **headers, int n) {
    char name[4096];
    snprintf(name, sizeof name, "%s/index.html", folder);
    FILE *out = fopen(name, "w");
    if (!out) return false;
    fprintf(out, "<!doctype html><meta charset=utf-8><title>Bobbin</title><style>%s</style>\n",
            style);
    fprintf(out, "<h1>Bobbin %s: reference</h1>\n<ul>\n", bb_version());
    for (int i = 0; i < n; i++) {
        page_name(NULL, headers[i], name, sizeof name);
        fprintf(out, "<li><a href=\"%s\">%s</a></li>\n", name, headers[i]);
    }
    fputs("</ul>\n<h2>Functions</h2>\n<p>\n", out);
    qsort(entries, count, sizeof *entries, by_name);
    for (size_t i = 0; i < count; i++) {
        page_name(NULL, entries[i].header, name, sizeof name);
        fprintf(out, "<a href=\"%s#%.*s\">%.*s</a><br>\n", name, (int)entries[i].item->name_bytes,
                entries[i].item->name, (int)entries[i].item->name_bytes, entries[i].item->name);
    }
    fputs("</p>\n", out);
    return fclose(out) == 0;
}

static int fail(const char *what, const char *why) {
    fprintf(stderr, "reference: %s: %s\n", what, why);
    return 1;
}

enum { MANY = 4096, HEADERS = 32 };

int main(int argc, char **argv) {
    static entry entries[MANY];
    item *items[HEADERS];
    char *texts[HEADERS];
    size_t counts[HEADERS], functions = 0;
    int undocumented = 0, n = argc - 2;
    page p = {.ctx = bb_open(NULL)};
    if (n < 1 || n > HEADERS || !p.ctx) return fail("usage", "reference FOLDER HEADER...");
    for (int h = 0; h < n; h++) {
        p.header = argv[h + 2];
        texts[h] = read_all(p.header);
        items[h] = texts[h] ? read_header(texts[h], &counts[h]) : NULL;
        if (!items[h]) return fail(p.header, strerror(errno));
        for (size_t k = 0; k < counts[h] && functions < MANY; k++) {
            const item *i = &items[h][k];
            if (i->kind != ITEM_FUNCTION) continue;
            entries[functions++] = (entry){p.header, i};
            if (i->documented || op_of(&p, i)) continue;
            fprintf(stderr, "%s: %.*s: expected a comment before or behind it, got none\n",
                    p.header, (int)i->name_bytes, i->name);
            undocumented++;
        }
    }
    if (undocumented) return 1;
    for (int h = 0; h < n; h++) {
        char name[4096];
        p.header = argv[h + 2];
        page_name(argv[1], p.header, name, sizeof name);
        p.out = fopen(name, "w");
        if (!p.out) return fail(name, strerror(errno));
        put_page(&p, items[h], counts[h]);
        if (fclose(p.out) != 0) return fail(name, strerror(errno));
    }
    if (!put_index(argv[1], entries, functions, argv + 2, n)) return fail(argv[1], strerror(errno));
    for (int h = 0; h < n; h++) {
        free(items[h]);
        free(texts[h]);
    }
    bb_close(p.ctx);
    printf("%zu functions\n", functions);
    return 0;
}
