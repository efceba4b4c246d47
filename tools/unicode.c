/* Characters. See tools/unicode.h; the tables are tools/unicode_table.h. */
#include "tools/unicode.h"

#include <stdlib.h>
#include <string.h>

#include "tools/unicode_table.h"

#define COUNT(table) ((int)(sizeof(table) / sizeof(table)[0]))

/* ---- UTF-8 ----------------------------------------------------------------------------------- */

size_t bb_utf8_read(const char *text, size_t bytes, uint32_t *character) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *p = (const unsigned char *)text;
    uint32_t c = p[0];
    size_t n = c < 0x80 ? 1 : c >> 5 == 6 ? 2 : c >> 4 == 14 ? 3 : c >> 3 == 30 ? 4 : 0;
    if (n == 0 || n > bytes) return 0;
    if (n > 1) c &= 0x7fu >> n;
    for (size_t i = 1; i < n; i++) {
        if (p[i] >> 6 != 2) return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return 0;
    *character = c;
    return n;
}

size_t bb_utf8_write(uint32_t c, char text[4]) {
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char mark[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; c >>= 6) text[i] = (char)(0x80 | (c & 0x3f));
    text[0] = (char)(mark[n] | c);
    return n;
}

/* ---- Classes --------------------------------------------------------------------------------- */

/* A character and a row that begins with the first and the last of a range. */
static int by_range(const void *character, const void *row) {
    const uint32_t c = *(const uint32_t *)character, *range = row;
    return c < range[0] ? -1 : c > range[1];
}
#define FIND(c, table, by) bsearch(&(c), table, COUNT(table), sizeof(table)[0], by)

bb_class bb_class_of(uint32_t c) {
    if (FIND(c, letters, by_range)) return BB_CLASS_LETTER;
    if (FIND(c, spaces, by_range)) return BB_CLASS_SPACE;
    return FIND(c, numbers, by_range) ? BB_CLASS_NUMBER : BB_CLASS_OTHER;
}

/* ---- Normalization form C -------------------------------------------------------------------- */

/* Hangul syllables are computed (Unicode, chapter 3.12). */
enum { S = 0xac00, L = 0x1100, V = 0x1161, TAIL = 0x11a7, LS = 19, VS = 21, TS = 28 };

static uint32_t class_of(uint32_t c) {
    const uint32_t *row = FIND(c, combining, by_range);
    return row ? row[2] : 0;
}

static int by_first(const void *character, const void *row) {
    const uint32_t c = *(const uint32_t *)character, first = *(const uint32_t *)row;
    return c < first ? -1 : c > first;
}
static const uint32_t *decomposition(uint32_t c) { return FIND(c, decompositions, by_first); }

/* The full canonical decomposition, at most 4 characters. */
static int decompose(uint32_t c, uint32_t out[4]) {
    if (c >= S && c < S + LS * VS * TS) {
        uint32_t i = c - S;
        out[0] = L + i / (VS * TS);
        out[1] = V + i % (VS * TS) / TS;
        out[2] = TAIL + i % TS;
        return i % TS ? 3 : 2;
    }
    uint32_t last[4];
    int tail = 0, n = 0;
    for (const uint32_t *d; (d = decomposition(c)) && tail < 3; c = d[1])
        if (d[2]) last[tail++] = d[2];
    out[n++] = c;
    while (tail > 0) out[n++] = last[--tail];
    return n;
}

/* The character that a and b compose to; 0: none. A linear search, for few pairs ever get here. */
static uint32_t compose(uint32_t a, uint32_t b) {
    if (a >= L && a < L + LS && b >= V && b < V + VS) return S + ((a - L) * VS + (b - V)) * TS;
    if (a >= S && a < S + LS * VS * TS && (a - S) % TS == 0 && b > TAIL && b < TAIL + TS)
        return a + (b - TAIL);
    for (int i = 0; i < COUNT(decompositions); i++)
        if (decompositions[i][1] == a && decompositions[i][2] == b && decompositions[i][3])
            return decompositions[i][0];
    return 0;
}

/* Marks between two starters, by class, equal ones as they came. Insertion, since runs are short;
 * one of n marks costs n^2. */
static void order(uint32_t *c, uint8_t *k, size_t n) {
    for (size_t i = 1; i < n; i++) {
        uint32_t one = c[i];
        uint8_t mark = k[i];
        size_t at = i;
        for (; mark && at > 0 && k[at - 1] > mark; at--) {
            c[at] = c[at - 1];
            k[at] = k[at - 1];
        }
        c[at] = one;
        k[at] = mark;
    }
}

static size_t compose_all(uint32_t *c, const uint8_t *k, size_t n) {
    size_t out = 0, starter = SIZE_MAX;
    uint8_t before = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t both = 0;
        /* Not blocked: nothing between, or only marks of lower classes. */
        if (starter != SIZE_MAX && (out == starter + 1 || (before < k[i] && before)))
            both = compose(c[starter], c[i]);
        if (both) {
            c[starter] = both;
            continue;
        }
        if (k[i] == 0) starter = out;
        before = k[i];
        c[out++] = c[i];
    }
    return out;
}

static bool ascii(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)text[i] >= 0x80) return false;
    return true;
}

static size_t normalize(const char *text, size_t bytes, uint32_t *c, uint8_t *k, char *out) {
    size_t n = 0, used = 0;
    for (size_t i = 0, step; i < bytes; i += step) {
        uint32_t one = 0, parts[4];
        step = bb_utf8_read(text + i, bytes - i, &one);
        if (step == 0) break; /* callers check the text first */
        int count = decompose(one, parts);
        for (int p = 0; p < count; p++, n++) {
            c[n] = parts[p];
            k[n] = (uint8_t)class_of(parts[p]);
        }
    }
    order(c, k, n);
    n = compose_all(c, k, n);
    for (size_t i = 0; i < n; i++) used += bb_utf8_write(c[i], out + used);
    return used;
}

/* In parts of some PART bytes that end before an ASCII character, which never joins what is before
 * it. */
bool bb_unicode_nfc(const char *text, size_t bytes, char *out, size_t *written) {
    enum { PART = 1 << 16 };
    size_t room = 0, used = 0, end;
    uint32_t *c = NULL;
    uint8_t *k = NULL;
    bool done = true;
    for (size_t begin = 0; begin < bytes && done; begin = end) {
        end = bytes - begin > PART ? begin + PART : bytes;
        while (end < bytes && (unsigned char)text[end] >= 0x80) end++;
        if (ascii(text + begin, end - begin)) {
            memcpy(out + used, text + begin, end - begin);
            used += end - begin;
            continue;
        }
        if (4 * (end - begin) > room) {
            room = 4 * (end - begin);
            free(c);
            free(k);
            c = malloc(room * sizeof *c);
            k = malloc(room);
            done = c && k;
        }
        if (done) used += normalize(text + begin, end - begin, c, k, out + used);
    }
    free(c);
    free(k);
    *written = used;
    return done;
}
