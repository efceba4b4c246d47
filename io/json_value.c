/* Reading JSON, second half: the characters of strings, and values as places in a text that
 * io/json.c has found valid. The manual is io/io.h. */
#include "io/internal.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>

/* ---- Characters */

int bb_utf8(const char *p, const char *end, uint32_t *code) {
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000}; /* longer forms are refused */
    if (p >= end) return 0;
    unsigned char first = (unsigned char)*p;
    int n = first < 0x80                    ? 1
            : first >= 0xC2 && first < 0xE0 ? 2
            : first >= 0xE0 && first < 0xF0 ? 3
            : first >= 0xF0 && first < 0xF5 ? 4
                                            : 0;
    if (n == 0 || end - p < n) return 0;
    uint32_t value = n == 1 ? first : first & (0x7Fu >> n);
    for (int i = 1; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if ((c & 0xC0) != 0x80) return 0;
        value = value << 6 | (c & 0x3F);
    }
    if (value < smallest[n] || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) return 0;
    *code = value;
    return n;
}

static int hex4(const char *p, const char *end) {
    int value = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        const char *digits = "0123456789abcdef", *found;
        char c = p[i] >= 'A' && p[i] <= 'F' ? (char)(p[i] + 32) : p[i];
        if (c == '\0' || !(found = strchr(digits, c))) return -1;
        value = value * 16 + (int)(found - digits);
    }
    return value;
}

/* Length of the escape at p (a backslash), 0 if it is none; *code gets its code point. */
static int escape(const char *p, const char *end, uint32_t *code) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (end - p < 2) return 0;
    if (p[1] != 'u') {
        const char *found = p[1] ? strchr(names, p[1]) : NULL;
        if (!found) return 0;
        *code = (unsigned char)values[found - names];
        return 2;
    }
    int high = hex4(p + 2, end);
    if (high < 0 || (high >= 0xDC00 && high <= 0xDFFF)) return 0;
    if (high < 0xD800 || high > 0xDBFF) {
        *code = (uint32_t)high;
        return 6;
    }
    int low = end - p >= 12 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8, end) : -1;
    if (low < 0xDC00 || low > 0xDFFF) return 0;
    *code = 0x10000 + ((uint32_t)(high - 0xD800) << 10) + (uint32_t)(low - 0xDC00);
    return 12;
}

/* One character of a string's content, escaped or not. */
int bb_json_character(const char *p, const char *end, uint32_t *code) {
    return p < end && *p == '\\' ? escape(p, end, code) : bb_utf8(p, end, code);
}

/* strtod reads the decimal point of the program's locale; JSON has the point. */
double bb_json_to_double(const char *at, const char *end) {
    char text[BB_JSON_NUMBER_BYTES + 1];
    size_t n = (size_t)(end - at);
    memcpy(text, at, n);
    text[n] = '\0';
    char *point = strchr(text, '.');
    if (point) *point = localeconv()->decimal_point[0];
    return strtod(text, NULL);
}

const char *bb_json_skip_string(const char *p) {
    for (p++; *p != '"'; p++) p += *p == '\\';
    return p + 1;
}

/* ---- Values */

bb_json_kind bb_json_kind_of(bb_json value) {
    static const char first[] = "ntf\"[{";
    static const bb_json_kind kinds[] = {BB_JSON_NULL,   BB_JSON_BOOL,  BB_JSON_BOOL,
                                         BB_JSON_STRING, BB_JSON_ARRAY, BB_JSON_OBJECT};
    const char *found = value.at < value.end ? memchr(first, *value.at, sizeof first - 1) : first;
    return found ? kinds[found - first] : BB_JSON_NUMBER;
}

const char *bb_json_kind_name(bb_json_kind kind) {
    static const char *const names[] = {"null",     "true or false", "a number",
                                        "a string", "an array",      "an object"};
    return names[kind];
}

bool bb_json_int(bb_json value, int64_t min, int64_t max, int64_t *number) {
    const char *p = value.at;
    if (bb_json_kind_of(value) != BB_JSON_NUMBER) return false;
    bool negative = *p == '-';
    uint64_t limit = negative ? (uint64_t)INT64_MAX + 1 : INT64_MAX, n = 0;
    for (p += negative; p < value.end; p++) {
        if (!bb_json_is_digit(*p)) return false;
        uint64_t digit = (uint64_t)(*p - '0');
        if (n > (limit - digit) / 10) return false;
        n = n * 10 + digit;
    }
    int64_t result = negative ? -(int64_t)(n - (n > 0)) - (n > 0) : (int64_t)n;
    if (result < min || result > max) return false;
    *number = result;
    return true;
}

bool bb_json_number(bb_json value, double *number) {
    if (bb_json_kind_of(value) != BB_JSON_NUMBER) return false;
    *number = bb_json_to_double(value.at, value.end);
    return true;
}

bool bb_json_bool(bb_json value, bool *flag) {
    if (bb_json_kind_of(value) != BB_JSON_BOOL) return false;
    *flag = *value.at == 't';
    return true;
}

static int put_utf8(uint32_t code, char out[4]) {
    int n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (int i = n - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)(lead[n] | code);
    return n;
}

size_t bb_json_string(bb_json value, char *text, size_t capacity) {
    size_t n = 0;
    if (!text) capacity = 0;
    if (bb_json_kind_of(value) == BB_JSON_STRING) {
        const char *end = value.end - 1;
        for (const char *p = value.at + 1; p < end;) {
            uint32_t code = 0;
            char bytes[4];
            p += bb_json_character(p, end, &code);
            int length = put_utf8(code, bytes);
            for (int i = 0; i < length; i++, n++)
                if (n + 1 < capacity) text[n] = bytes[i];
        }
    }
    if (capacity) text[n < capacity ? n : capacity - 1] = '\0';
    return n;
}

bool bb_json_equals(bb_json value, const char *text) {
    if (!text || bb_json_kind_of(value) != BB_JSON_STRING) return false;
    const char *end = value.end - 1, *p = value.at + 1;
    size_t n = (size_t)(end - p);
    if (!memchr(p, '\\', n)) return strlen(text) == n && memcmp(p, text, n) == 0;
    while (p < end) {
        uint32_t code = 0;
        char bytes[4];
        p += bb_json_character(p, end, &code);
        int length = put_utf8(code, bytes);
        if (strncmp(text, bytes, (size_t)length) != 0 || code == 0) return false;
        text += length;
    }
    return *text == '\0';
}

/* ---- Walks */

/* The end of the value at p. */
static const char *skip_value(const char *p, const char *end) {
    int depth = 0;
    do {
        if (*p == '"') {
            p = bb_json_skip_string(p);
            continue;
        }
        depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
        p++;
    } while (p < end && (depth > 0 || !strchr(",]} \n\r\t", *p)));
    return p;
}

static const char *skip_between(const char *p, const char *end) {
    while (p < end && (bb_json_is_space(*p) || *p == ',' || *p == ':')) p++;
    return p;
}

bb_json_walk bb_json_begin(bb_json value) {
    bb_json_kind kind = bb_json_kind_of(value);
    bb_json_walk walk = {{value.end, value.end},
                         {value.end, value.end},
                         value.end,
                         value.end,
                         kind == BB_JSON_OBJECT};
    if (kind == BB_JSON_OBJECT || kind == BB_JSON_ARRAY) {
        walk.end = value.end - 1;
        walk.next = skip_between(value.at + 1, walk.end);
    }
    return walk;
}

bool bb_json_next(bb_json_walk *walk) {
    const char *p = walk->next;
    if (p >= walk->end) return false;
    if (walk->object) {
        walk->key = (bb_json){p, bb_json_skip_string(p)};
        p = skip_between(walk->key.end, walk->end);
    }
    walk->value = (bb_json){p, skip_value(p, walk->end)};
    walk->next = skip_between(walk->value.end, walk->end);
    return true;
}

bool bb_json_get(bb_json object, const char *key, bb_json *value) {
    if (bb_json_kind_of(object) != BB_JSON_OBJECT) return false;
    for (bb_json_walk w = bb_json_begin(object); bb_json_next(&w);) {
        if (!bb_json_equals(w.key, key)) continue;
        if (value) *value = w.value;
        return true;
    }
    return false;
}
