/* From text to numbers and back. See tools/tokenizer.h; the tokenizer is read in
 * tools/tokenizer_read.c. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/model.h"
#include "tools/tokenizer_parts.h"
#include "tools/unicode.h"

/* ---- Tables ---------------------------------------------------------------------------------- */

/* GPT-2's alphabet: printable characters of Latin-1 spell themselves, the other bytes are numbered
 * from 256 on. */
void bb_byte_alphabet(uint16_t character[256]) {
    int next = 256;
    for (int i = 0; i < 256; i++) {
        bool prints = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174;
        character[i] = (uint16_t)(prints ? i : next++);
    }
}

static uint64_t add_byte(uint64_t hash, unsigned char byte) {
    return (hash ^ byte) * 0x100000001b3u; /* FNV-1a */
}
#define HASH_START 0xcbf29ce484222325u
/* Two thirds of the table are in use: among millions of texts that nobody chose to collide, the
 * longest run of slots in use has some hundreds. Without a bound a file could ask for n^2 steps. */
enum { MOST_PROBES = 1024 };

static size_t slot_of(const bb_tokenizer *t, uint64_t hash) {
    return (size_t)((hash ^ hash >> 32) % t->key_slots);
}
static size_t next_slot(const bb_tokenizer *t, size_t slot) {
    return slot + 1 == t->key_slots ? 0 : slot + 1;
}

size_t bb_token_slot(const bb_tokenizer *t, const char *key, size_t bytes) {
    uint64_t hash = HASH_START;
    for (size_t i = 0; i < bytes; i++) hash = add_byte(hash, (unsigned char)key[i]);
    size_t slot = slot_of(t, hash);
    for (int i = 0; i < MOST_PROBES; i++, slot = next_slot(t, slot)) {
        if (t->by_key[slot] < 0) return slot;
        const bb_token *token = &t->token[t->by_key[slot]];
        if (token->bytes == bytes && memcmp(t->arena + token->at, key, bytes) == 0) return slot;
    }
    return t->key_slots;
}

const bb_merge *bb_find_merge(const bb_tokenizer *t, int32_t left, int32_t right) {
    uint32_t low = t->first_merge[left], end = t->first_merge[left + 1], high = end;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (t->merge[middle].right < right)
            low = middle + 1;
        else
            high = middle;
    }
    return low < end && t->merge[low].right == right ? &t->merge[low] : NULL;
}

static bool spells(const bb_tokenizer *t, const bb_token *token, const char *word, size_t bytes) {
    size_t at = 0;
    for (size_t i = 0; i < bytes; i++) {
        char spelled[4];
        size_t n = bb_utf8_write(t->alphabet[(unsigned char)word[i]], spelled);
        if (at + n > token->bytes || memcmp(t->arena + token->at + at, spelled, n) != 0)
            return false;
        at += n;
    }
    return at == token->bytes;
}

/* The token that spells a whole word; -1: none. */
static int32_t find_word(const bb_tokenizer *t, const char *word, size_t bytes) {
    uint64_t hash = HASH_START;
    for (size_t i = 0; i < bytes; i++) {
        char spelled[4];
        size_t n = bb_utf8_write(t->alphabet[(unsigned char)word[i]], spelled);
        for (size_t k = 0; k < n; k++) hash = add_byte(hash, (unsigned char)spelled[k]);
    }
    size_t slot = slot_of(t, hash);
    for (int i = 0; i < MOST_PROBES && t->by_key[slot] >= 0; i++, slot = next_slot(t, slot))
        if (spells(t, &t->token[t->by_key[slot]], word, bytes)) return t->by_key[slot];
    return -1;
}

/* ---- Merging --------------------------------------------------------------------------------- */

/* A piece of a word, in a list. */
typedef struct symbol {
    int32_t id, before, after; /* id -1: merged away */
} symbol;

typedef struct candidate {
    int32_t rank, at, result;
} candidate;

/* Work in progress: numbers so far, and scratch for one word. */
typedef struct encoder {
    const bb_tokenizer *t;
    bb_context *ctx;
    int32_t *ids;
    int64_t count, capacity;
    symbol *symbol;
    candidate *heap; /* least rank first, then leftmost */
    size_t room, heap_count;
} encoder;

static bool put(encoder *e, int32_t id) {
    if (e->count == e->capacity) {
        int64_t capacity = e->capacity ? 2 * e->capacity : 64;
        int32_t *grown = realloc(e->ids, (size_t)capacity * sizeof *grown);
        if (!grown) return bb_fail(e->ctx, BB_ERR_MEMORY, "tokenizer: out of memory"), false;
        e->ids = grown;
        e->capacity = capacity;
    }
    e->ids[e->count++] = id;
    return true;
}

/* A word of n bytes has n symbols and makes at most n - 1 candidates and 2 for each merge. */
static bool make_room(encoder *e, size_t bytes) {
    if (bytes <= e->room) return true;
    size_t room = bytes < 256 ? 256 : bytes + bytes / 2;
    free(e->symbol);
    free(e->heap);
    e->symbol = malloc(room * sizeof *e->symbol);
    e->heap = malloc(3 * room * sizeof *e->heap);
    e->room = e->symbol && e->heap ? room : 0;
    if (!e->room) bb_fail(e->ctx, BB_ERR_MEMORY, "tokenizer: out of memory");
    return e->room > 0;
}

static bool earlier(candidate a, candidate b) {
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void push(encoder *e, int32_t at) {
    int32_t after = at < 0 ? -1 : e->symbol[at].after;
    if (after < 0) return;
    const bb_merge *m = bb_find_merge(e->t, e->symbol[at].id, e->symbol[after].id);
    if (!m) return;
    candidate one = {m->rank, at, m->result};
    size_t i = e->heap_count++;
    for (; i > 0 && earlier(one, e->heap[(i - 1) / 2]); i = (i - 1) / 2)
        e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[i] = one;
}

static candidate pop(encoder *e) {
    candidate top = e->heap[0], last = e->heap[--e->heap_count];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < e->heap_count) {
        if (child + 1 < e->heap_count && earlier(e->heap[child + 1], e->heap[child])) child++;
        if (!earlier(e->heap[child], last)) break;
        e->heap[i] = e->heap[child];
        i = child;
    }
    e->heap[i] = last;
    return top;
}

/* The pair of least rank becomes one, the leftmost of equals, until no pair has a rank. */
static bool encode_word(encoder *e, const char *word, size_t bytes) {
    const bb_tokenizer *t = e->t;
    int32_t whole = t->ignore_merges ? find_word(t, word, bytes) : -1;
    if (whole >= 0) return put(e, whole);
    if (!make_room(e, bytes)) return false;
    symbol *s = e->symbol;
    int32_t n = (int32_t)bytes;
    for (int32_t i = 0; i < n; i++)
        s[i] = (symbol){t->byte_id[(unsigned char)word[i]], i - 1, i + 1 < n ? i + 1 : -1};
    e->heap_count = 0;
    for (int32_t i = 0; i < n; i++) push(e, i);
    while (e->heap_count > 0) {
        candidate c = pop(e);
        int32_t after = s[c.at].after;
        if (s[c.at].id < 0 || after < 0) continue;
        const bb_merge *m = bb_find_merge(t, s[c.at].id, s[after].id);
        if (!m || m->result != c.result) continue; /* its pair is no more */
        s[c.at].id = c.result;
        s[c.at].after = s[after].after;
        s[after].id = -1;
        if (s[c.at].after >= 0) s[s[c.at].after].before = c.at;
        push(e, s[c.at].before);
        push(e, c.at);
    }
    for (int32_t i = 0; i >= 0; i = s[i].after)
        if (!put(e, s[i].id)) return false;
    return true;
}

/* ---- Cutting --------------------------------------------------------------------------------- */

static bool split(encoder *e, int level, const char *text, size_t bytes) {
    if (level == e->t->splitters) {
        if (bytes < (size_t)1 << 30) return encode_word(e, text, bytes);
        bb_fail(e->ctx, BB_ERR_UNSUPPORTED,
                "tokenizer: expected words below 1 GiB, got a longer one");
        return false;
    }
    for (size_t n; bytes > 0; text += n, bytes -= n) {
        n = bb_split_next(e->t->splitter[level], text, bytes);
        if (!split(e, level + 1, text, n)) return false;
    }
    return true;
}

/* The longest added token of this pass that stands at text; NULL: none. */
static const bb_added *added_at(const bb_tokenizer *t, bool normalized, const char *text,
                                size_t bytes) {
    int low = 0, high = t->added_count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (t->added[middle].first < (unsigned char)text[0])
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < t->added_count && t->added[low].first == (unsigned char)text[0]; low++) {
        const bb_added *a = &t->added[low];
        if (a->normalized == normalized && a->bytes <= bytes &&
            memcmp(t->arena + a->at, text, a->bytes) == 0)
            return a;
    }
    return NULL;
}

static bool encode_rest(encoder *e, const char *text, size_t bytes, bool normalized);

/* Between added tokens: first what is not normalized, then the rest, normalized. */
static bool encode_between(encoder *e, const char *text, size_t bytes, bool normalized) {
    if (bytes == 0) return true;
    if (normalized) return split(e, 0, text, bytes);
    if (!e->t->nfc) return encode_rest(e, text, bytes, true);
    char *form = malloc(3 * bytes);
    size_t written = 0;
    bool done = form && bb_unicode_nfc(text, bytes, form, &written);
    if (!done) bb_fail(e->ctx, BB_ERR_MEMORY, "tokenizer: out of memory");
    done = done && encode_rest(e, form, written, true);
    free(form);
    return done;
}

static bool encode_rest(encoder *e, const char *text, size_t bytes, bool normalized) {
    size_t begin = 0;
    for (size_t i = 0; i < bytes;) {
        const bb_added *a = added_at(e->t, normalized, text + i, bytes - i);
        if (!a) {
            i++;
            continue;
        }
        if (!encode_between(e, text + begin, i - begin, normalized) || !put(e, a->id)) return false;
        begin = i += a->bytes;
    }
    return encode_between(e, text + begin, bytes - begin, normalized);
}

/* ---- Outside --------------------------------------------------------------------------------- */

static bool check_text(bb_context *ctx, const char *text, size_t bytes) {
    uint32_t character;
    for (size_t i = 0, n; i < bytes; i += n) {
        n = bb_utf8_read(text + i, bytes - i, &character);
        if (n) continue;
        bb_fail(ctx, BB_ERR_FORMAT, "tokenizer: text: expected UTF-8, got byte 0x%02x at %zu",
                (unsigned char)text[i], i);
        return false;
    }
    return true;
}

bb_status bb_tokenizer_encode(const bb_tokenizer *t, bb_context *ctx, const char *text,
                              size_t bytes, bool whole, int32_t **ids, int64_t *count) {
    encoder e = {.t = t, .ctx = ctx};
    bool done = !t || check_text(ctx, text, bytes);
    for (int i = 0; done && t && whole && i < t->before_count; i++) done = put(&e, t->before[i]);
    for (size_t i = 0; done && !t && i < bytes; i++) done = put(&e, (unsigned char)text[i]);
    if (done && t) done = encode_rest(&e, text, bytes, false);
    for (int i = 0; done && t && whole && i < t->after_count; i++) done = put(&e, t->after[i]);
    free(e.symbol);
    free(e.heap);
    if (!done) {
        free(e.ids);
        e.ids = NULL;
    }
    *ids = e.ids;
    *count = done ? e.count : 0;
    return bb_error(ctx);
}

int64_t bb_tokenizer_size(const bb_tokenizer *t) { return t ? t->size : 256; }

static void write_byte(unsigned char c, FILE *file, bool plain) {
    bool control = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f;
    fputc(plain && control ? '?' : c, file);
}

/* The byte that the character at *at spells, and moves on; -1: it is not of the alphabet. */
static int spelled_byte(const bb_tokenizer *t, const char **at, const char *end) {
    uint32_t c = 0;
    size_t n = bb_utf8_read(*at, (size_t)(end - *at), &c);
    if (n == 0 || c >= sizeof t->byte_of / sizeof t->byte_of[0]) return -1;
    *at += n;
    return t->byte_of[c];
}

size_t bb_tokenizer_write(const bb_tokenizer *t, int64_t id, FILE *file, bool plain) {
    size_t written = 0;
    if (id < 0 || id >= bb_tokenizer_size(t)) return 0;
    if (!t) {
        write_byte((unsigned char)id, file, plain);
        return 1;
    }
    const bb_token *token = &t->token[id];
    const char *text = t->arena + token->at, *end = text + token->bytes;
    bool raw = token->raw; /* and so is what is not all of the alphabet */
    for (const char *at = text; !raw && at < end;) raw = spelled_byte(t, &at, end) < 0;
    for (const char *at = text; at < end; written++)
        write_byte((unsigned char)(raw ? *at++ : spelled_byte(t, &at, end)), file, plain);
    return written;
}

bb_tokenizer *bb_tokenizer_of_folder(bb_context *ctx, const char *folder) {
    char *path = bb_path_join(ctx, folder, "tokenizer.json");
    bb_tokenizer *t = path && access(path, F_OK) == 0 ? bb_tokenizer_open(ctx, path) : NULL;
    free(path);
    return t;
}
