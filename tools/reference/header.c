/* The scanner behind tools/reference/header.h. It knows as much of C as clang-formatted headers
 * need: comments, braces, and where a declaration ends. */
#include "tools/reference/header.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

typedef struct scan {
    const char *at;
    item *items;
    size_t count, room;
    bool same_line; /* nothing but spaces since the last declaration */
    bool failed;
} scan;

static item *add(scan *s, item_kind kind, const char *from) {
    static item none;
    if (s->count + 1 >= s->room) {
        s->room = 2 * s->room + 64;
        item *more = realloc(s->items, s->room * sizeof *more);
        s->failed = s->failed || !more;
        if (!more) return &none;
        s->items = more;
    }
    item *i = &s->items[s->count++];
    *i = (item){.kind = kind, .text = from, .bytes = (size_t)(s->at - from)};
    s->items[s->count] = (item){.kind = ITEM_BLANK};
    return i;
}

static bool begins(const char *at, const char *word) {
    return strncmp(at, word, strlen(word)) == 0;
}

static const char *line_end(const char *at) {
    for (; *at && *at != '\n'; at++) /* a line goes on after a backslash */
        if (*at == '\\' && at[1] == '\n') at++;
    return at;
}

static const char *comment_end(const char *at) {
    const char *end = strstr(at, "*/");
    return end ? end + 2 : at + strlen(at);
}

/* Past a preprocessor line; what only C++ sees is skipped whole. */
static void skip_directive(scan *s) {
    bool cpp = begins(s->at, "#ifdef __cplusplus");
    s->at = line_end(s->at);
    while (cpp && *s->at && !begins(s->at, "\n#else") && !begins(s->at, "\n#endif"))
        s->at = line_end(s->at + 1);
    if (cpp && *s->at) s->at = line_end(s->at + 1);
}

static void skip_spaces(scan *s) {
    int lines = 0;
    for (; isspace((unsigned char)*s->at); s->at++) lines += *s->at == '\n';
    if (lines) s->same_line = false;
    if (lines > 1) add(s, ITEM_BLANK, s->at);
}

static void scan_comment(scan *s) {
    const char *from = s->at;
    s->at = comment_end(from);
    add(s,
        begins(from, "/* ---") ? ITEM_SECTION
        : s->same_line         ? ITEM_TRAILING
                               : ITEM_COMMENT,
        from);
}

/* Up to the semicolon outside of braces and comments. */
static void scan_declaration(scan *s) {
    const char *from = s->at;
    int depth = 0;
    bool comment = false;
    while (*s->at && !(*s->at == ';' && depth == 0)) {
        if (begins(s->at, "/*")) {
            s->at = comment_end(s->at);
            comment = true;
            continue;
        }
        depth += (*s->at == '{' || *s->at == '(') - (*s->at == '}' || *s->at == ')');
        s->at++;
    }
    if (*s->at) s->at++;
    bool function = begins(from, "BB_API");
    item *i = add(s, function ? ITEM_FUNCTION : ITEM_DECLARATION, from);
    i->documented = comment;
    s->same_line = true;
    if (!function) return;
    const char *end = memchr(from, '(', i->bytes), *name = end;
    while (name && name > from && (isalnum((unsigned char)name[-1]) || name[-1] == '_')) name--;
    i->name = name;
    i->name_bytes = name ? (size_t)(end - name) : 0;
}

/* A comment before speaks of all functions up to the next comment or blank line; one behind, of
 * one. */
static void find_documented(scan *s) {
    bool before = false;
    for (size_t k = 0; k < s->count; k++) {
        item *i = &s->items[k];
        if (i->kind == ITEM_BLANK || i->kind == ITEM_SECTION) before = false;
        if (i->kind == ITEM_COMMENT) before = true;
        if (i->kind == ITEM_TRAILING && k > 0) i[-1].documented = true;
        if (i->kind == ITEM_FUNCTION) i->documented = i->documented || before;
    }
}

item *read_header(const char *text, size_t *count) {
    scan s = {.at = text};
    while (*s.at && !s.failed) {
        skip_spaces(&s);
        if (*s.at == '#')
            skip_directive(&s);
        else if (begins(s.at, "/*"))
            scan_comment(&s);
        else if (*s.at)
            scan_declaration(&s);
    }
    if (!s.failed && s.count == 0) add(&s, ITEM_BLANK, s.at);
    if (s.failed) {
        free(s.items);
        return NULL;
    }
    find_documented(&s);
    *count = s.count;
    return s.items;
}
