/* Writing JSON into memory. Read by io/json.c; the manual is io/io.h. */
#include "core/impl.h"
#include "io/internal.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void bb_json_open(bb_json_writer *w, bb_context *ctx, int indent) {
    memset(w, 0, sizeof *w);
    w->ctx = ctx;
    w->indent = indent;
    w->empty[0] = true;
    w->failed = bb_error(ctx) != BB_OK;
}

void bb_json_close(bb_json_writer *w) {
    if (w->text) bb_host_release(w->ctx, w->text, w->capacity);
    w->text = NULL;
    w->bytes = w->capacity = 0;
}

static void fail(bb_json_writer *w, const char *what) {
    bb_fail(w->ctx, BB_ERR_ARGUMENT, "JSON: expected %s", what);
    w->failed = true;
}

static void put(bb_json_writer *w, const char *text, size_t n) {
    if (w->failed) return;
    if (n >= w->capacity - w->bytes) {
        size_t capacity = 0;
        if (!bb_checked_add(w->bytes, n, &capacity) || !bb_checked_mul(capacity, 2, &capacity) ||
            !bb_checked_add(capacity, 256, &capacity)) {
            fail(w, "a text that fits into memory");
            return;
        }
        char *larger = bb_host_allocate(w->ctx, capacity);
        if (!larger) {
            w->failed = true;
            return;
        }
        if (w->text) {
            memcpy(larger, w->text, w->bytes);
            bb_host_release(w->ctx, w->text, w->capacity);
        }
        w->text = larger;
        w->capacity = capacity;
    }
    memcpy(w->text + w->bytes, text, n);
    w->bytes += n;
    w->text[w->bytes] = '\0';
}

static void new_line(bb_json_writer *w) {
    if (w->indent == 0) return;
    put(w, "\n", 1);
    for (int i = 0; i < w->depth * w->indent; i++) put(w, " ", 1);
}

/* What stands between the last thing and the next. */
static void separate(bb_json_writer *w) {
    bool follows_key = w->after_key;
    w->after_key = false;
    if (follows_key || w->depth == 0) return;
    if (!w->empty[w->depth]) put(w, ",", 1);
    w->empty[w->depth] = false;
    new_line(w);
}

static void begin(bb_json_writer *w, const char *bracket) {
    if (w->depth == BB_JSON_DEPTH) fail(w, "at most 64 levels of nesting");
    if (w->failed) return;
    separate(w);
    put(w, bracket, 1);
    w->empty[++w->depth] = true;
}

static void end(bb_json_writer *w, const char *bracket) {
    if (w->depth == 0 && !w->failed) fail(w, "an open object or array to end");
    if (w->failed) return;
    w->depth--;
    if (!w->empty[w->depth + 1]) new_line(w);
    put(w, bracket, 1);
}

void bb_json_begin_object(bb_json_writer *w) { begin(w, "{"); }
void bb_json_end_object(bb_json_writer *w) { end(w, "}"); }
void bb_json_begin_array(bb_json_writer *w) { begin(w, "["); }
void bb_json_end_array(bb_json_writer *w) { end(w, "]"); }

static void put_quoted(bb_json_writer *w, const char *text) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (!text && !w->failed) fail(w, "a string, got NULL");
    if (w->failed) return;
    const char *stop = text + strlen(text);
    put(w, "\"", 1);
    for (const char *p = text; p < stop && !w->failed;) {
        uint32_t code = 0;
        int n = bb_utf8(p, stop, &code);
        const char *special = code == '/' ? NULL : strchr(values, (int)(code < 0x80 ? code : 'x'));
        if (n == 0) {
            fail(w, "strings in UTF-8");
        } else if (special) {
            char escape[2] = {'\\', names[special - values]};
            put(w, escape, 2);
        } else if (code < 0x20) {
            char escape[7];
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)code);
            put(w, escape, 6);
        } else {
            put(w, p, (size_t)n);
        }
        p += n;
    }
    put(w, "\"", 1);
}

void bb_json_key(bb_json_writer *w, const char *key) {
    separate(w);
    put_quoted(w, key);
    put(w, w->indent ? ": " : ":", w->indent ? 2 : 1);
    w->after_key = true;
}

void bb_json_put_string(bb_json_writer *w, const char *text) {
    separate(w);
    put_quoted(w, text);
}

static void put_word(bb_json_writer *w, const char *word) {
    separate(w);
    put(w, word, strlen(word));
}

void bb_json_put_int(bb_json_writer *w, int64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    put_word(w, text);
}

void bb_json_put_number(bb_json_writer *w, double value) {
    char text[40];
    if (!isfinite(value)) {
        if (!w->failed) fail(w, "finite numbers");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    char *point = strchr(text, localeconv()->decimal_point[0]);
    if (point) *point = '.';
    put_word(w, text);
}

void bb_json_put_bool(bb_json_writer *w, bool value) { put_word(w, value ? "true" : "false"); }
void bb_json_put_null(bb_json_writer *w) { put_word(w, "null"); }

bb_status bb_json_save(bb_json_writer *w, const char *path) {
    if (w->failed) return bb_error(w->ctx);
    bb_writer *file = bb_writer_open(w->ctx, path, NULL);
    if (!file) return bb_error(w->ctx);
    bb_writer_add(file, w->text, w->bytes);
    bb_writer_add(file, "\n", 1);
    return bb_writer_commit(file);
}
