/* Reading JSON, first half: one strict check of the whole text. It does not recurse. The values in
 * a checked text are io/json_value.c, writing is io/json_write.c; the manual is io/io.h. */
#include "core/impl.h"
#include "io/internal.h"

#include <math.h>
#include <string.h>

/* ---- The check */

typedef struct scan {
    const char *start, *at, *end;
    const char *expected; /* what should have stood at `at`; NULL: all is well */
    size_t keys;
} scan;

static bool stop(scan *s, const char *expected) {
    s->expected = expected;
    return false;
}

static void skip_space(scan *s) {
    while (s->at < s->end && bb_json_is_space(*s->at)) s->at++;
}

static bool scan_string(scan *s) {
    s->at++;
    for (uint32_t code;;) {
        if (s->at == s->end) return stop(s, "the end of a string");
        unsigned char c = (unsigned char)*s->at;
        if (c == '"') break;
        if (c < 0x20) return stop(s, "an escape for a control character");
        int n = c < 0x80 && c != '\\' ? 1 : bb_json_character(s->at, s->end, &code);
        if (n == 0) return stop(s, c == '\\' ? "a valid escape" : "valid UTF-8");
        s->at += n;
    }
    s->at++;
    return true;
}

static bool scan_digits(scan *s) {
    if (s->at == s->end || !bb_json_is_digit(*s->at)) return stop(s, "a digit");
    while (s->at < s->end && bb_json_is_digit(*s->at)) s->at++;
    return true;
}

static bool scan_number(scan *s) {
    const char *start = s->at;
    bool huge = false; /* without an exponent, 128 characters stay below the largest double */
    if (*s->at == '-') s->at++;
    if (s->at < s->end && *s->at == '0')
        s->at++;
    else if (!scan_digits(s))
        return false;
    if (s->at < s->end && *s->at == '.') {
        s->at++;
        if (!scan_digits(s)) return false;
    }
    if (s->at < s->end && (*s->at == 'e' || *s->at == 'E')) {
        huge = true;
        s->at++;
        if (s->at < s->end && (*s->at == '+' || *s->at == '-')) s->at++;
        if (!scan_digits(s)) return false;
    }
    bool fits = s->at - start <= BB_JSON_NUMBER_BYTES;
    if (fits && (!huge || isfinite(bb_json_to_double(start, s->at)))) return true;
    s->at = start;
    return stop(s, fits ? "a number within the range of a double"
                        : "a number of at most 128 characters");
}

static bool scan_word(scan *s) {
    static const char *const words[] = {"true", "false", "null"};
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if ((size_t)(s->end - s->at) >= n && memcmp(s->at, words[i], n) == 0) {
            s->at += n;
            return true;
        }
    }
    return stop(s, "a value");
}

static bool scan_key(scan *s) {
    if (s->at == s->end || *s->at != '"') return stop(s, "a key in quotes");
    if (!scan_string(s)) return false;
    s->keys++;
    skip_space(s);
    if (s->at == s->end || *s->at != ':') return stop(s, "':'");
    s->at++;
    skip_space(s);
    return true;
}

/* After a value: closes what ends here, up to the next value. *done: the root has ended. */
static bool scan_after(scan *s, char *open, int *depth, bool *done) {
    for (;;) {
        skip_space(s);
        if (*depth == 0) {
            *done = true;
            return s->at == s->end || stop(s, "the end of the text");
        }
        bool object = open[*depth - 1] == '{';
        if (s->at == s->end) return stop(s, object ? "',' or '}'" : "',' or ']'");
        if (*s->at == ',') {
            s->at++;
            skip_space(s);
            return !object || scan_key(s);
        }
        if (*s->at != (object ? '}' : ']')) return stop(s, object ? "',' or '}'" : "',' or ']'");
        s->at++;
        --*depth;
    }
}

static bool scan_text(scan *s) {
    char open[BB_JSON_DEPTH]; /* the brackets we are in */
    int depth = 0;
    skip_space(s);
    for (bool done = false; !done;) {
        if (s->at == s->end) return stop(s, "a value");
        char c = *s->at;
        if (c == '{' || c == '[') {
            if (depth == BB_JSON_DEPTH) return stop(s, "at most 64 levels of nesting");
            open[depth++] = c;
            s->at++;
            skip_space(s);
            bool closes = s->at < s->end && *s->at == (c == '{' ? '}' : ']');
            if (!closes && c == '{' && !scan_key(s)) return false;
            if (!closes) continue; /* the first value follows */
        } else if (!(c == '"'                          ? scan_string(s)
                     : c == '-' || bb_json_is_digit(c) ? scan_number(s)
                                                       : scan_word(s))) {
            return false;
        }
        if (!scan_after(s, open, &depth, &done)) return false;
    }
    return true;
}

/* ---- Keys that come twice. Each open object has its keys on one stack; when it closes they are
 * sorted, by hash first. A key is hash << 32 | its place in the text. The text is already known to
 * be valid. */

/* Order of two strings' contents. Equal stretches go byte by byte; only escapes need decoding. */
static int compare_strings(const char *a, const char *b, const char *end) {
    a++, b++;
    while (*a == *b && *a != '"' && *a != '\\') a++, b++;
    while (*a != '"' && *b != '"') {
        uint32_t x = 0, y = 0;
        a += bb_json_character(a, end, &x);
        b += bb_json_character(b, end, &y);
        if (x != y) return x < y ? -1 : 1;
    }
    return (*a != '"') - (*b != '"');
}

static uint32_t hash_string(const char *p, const char *end) {
    uint32_t hash = BB_HASH_START, code = 0;
    for (p++; *p != '"'; p += bb_json_character(p, end, &code),
                         hash = bb_hash(hash, (const char *)&code, sizeof code)) {}
    return hash;
}

static bool key_less(const void *user, uint64_t a, uint64_t b) {
    const scan *s = user;
    if (a >> 32 != b >> 32) return a < b;
    return compare_strings(s->start + (uint32_t)a, s->start + (uint32_t)b, s->end) < 0;
}

/* The place of a key that its object has had before; NULL: none. */
static const char *find_duplicate(const scan *s, uint64_t *keys) {
    size_t first[BB_JSON_DEPTH], n = 0; /* where the keys of each open object begin */
    int depth = 0;
    for (const char *p = s->start; p < s->end;) {
        if (*p == '"') {
            const char *key = p;
            p = bb_json_skip_string(p);
            while (p < s->end && bb_json_is_space(*p)) p++;
            if (p < s->end && *p == ':')
                keys[n++] = (uint64_t)hash_string(key, s->end) << 32 | (uint32_t)(key - s->start);
            continue;
        }
        if (*p == '{') first[depth++] = n;
        if (*p == '}') {
            size_t from = first[--depth];
            bb_heap_sort(keys + from, n - from, key_less, s);
            for (size_t i = from + 1; i < n; i++)
                if (!key_less(s, keys[i - 1], keys[i])) return s->start + (uint32_t)keys[i];
            n = from;
        }
        p++;
    }
    return NULL;
}

static bb_status check_keys(bb_context *ctx, const char *name, const scan *s) {
    if (s->keys < 2) return BB_OK;
    size_t bytes =
        s->keys * sizeof(uint64_t); /* cannot wrap: a key takes four bytes of text or more */
    uint64_t *keys = bb_host_allocate(ctx, bytes);
    if (!keys) return bb_error(ctx);
    const char *twice = find_duplicate(s, keys);
    bb_host_release(ctx, keys, bytes);
    if (!twice) return BB_OK;
    char quoted[BB_QUOTE_BYTES];
    return bb_fail(ctx, BB_ERR_FORMAT, "%s: expected each key once in an object, got %s twice",
                   name,
                   bb_quote(twice + 1, (size_t)(bb_json_skip_string(twice) - twice) - 2, quoted));
}

bb_status bb_json_parse(bb_context *ctx, const char *name, const char *text, size_t bytes,
                        bb_json *root) {
    if (root) *root = (bb_json){text, text};
    if (bb_error(ctx)) return bb_error(ctx);
    if (!root || (!text && bytes))
        return bb_fail(ctx, BB_ERR_ARGUMENT, "bb_json_parse: %s: expected one, got NULL",
                       root ? "text" : "root");
    if (bytes > UINT32_MAX)
        return bb_fail(ctx, BB_ERR_UNSUPPORTED, "%s: expected at most 4 GiB of JSON, got %zu bytes",
                       name, bytes);
    scan s = {text, text, text + bytes, NULL, 0};
    if (!scan_text(&s)) {
        char quoted[BB_QUOTE_BYTES];
        size_t left = (size_t)(s.end - s.at), shown = left < 12 ? left : 12;
        return bb_fail(ctx, BB_ERR_FORMAT, "%s: byte %zu: expected %s, got %s", name,
                       (size_t)(s.at - text), s.expected,
                       left ? bb_quote(s.at, shown, quoted) : "the end of the text");
    }
    while (bb_json_is_space(*root->at)) root->at++;
    root->end = s.end;
    while (bb_json_is_space(root->end[-1])) root->end--;
    return check_keys(ctx, name, &s);
}
