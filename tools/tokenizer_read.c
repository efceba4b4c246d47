/* Reads tokenizer.json: every part and every key of a part is either understood or refused by name.
 * See tools/tokenizer.h; the parts that cut and frame a text are read in tools/tokenizer_parts.c.
 */
#include <string.h>

#include "core/impl.h"
#include "io/internal.h"
#include "tools/tokenizer_parts.h"
#include "tools/unicode.h"

enum { MOST_IDS = 1 << 22 };

bb_status bb_part_wrong(const bb_reading *r, const char *part, const char *expected,
                        bb_json value) {
    char got[BB_QUOTE_BYTES];
    return bb_fail(r->ctx, BB_ERR_FORMAT, "%s: %s: expected %s, got %s", r->path, part, expected,
                   bb_quote(value.at, (size_t)(value.end - value.at), got));
}

bb_status bb_part_keys(const bb_reading *r, const char *part, bb_json object, const char *keys) {
    char known[64], expected[256];
    if (bb_json_kind_of(object) != BB_JSON_OBJECT)
        return bb_part_wrong(r, part, "an object", object);
    for (bb_json_walk w = bb_json_begin(object); bb_json_next(&w);) {
        bool found = false;
        for (const char *p = keys; *p && !found;) {
            size_t n = strcspn(p, "|");
            snprintf(known, sizeof known, "%.*s", (int)n, p);
            found = bb_json_equals(w.key, known);
            p += n + (p[n] == '|');
        }
        if (found) continue;
        snprintf(expected, sizeof expected, "only the keys %s", keys);
        return bb_part_wrong(r, part, expected, w.key);
    }
    return BB_OK;
}

/* ---- Texts ----------------------------------------------------------------------------------- */

/* A string's content in the arena, which has room for all strings as the file writes them. */
static const char *keep(bb_reading *r, bb_json string, size_t *bytes) {
    char *at = r->t->arena + r->used;
    *bytes = bb_json_string(string, at, r->arena_room - r->used);
    r->used += *bytes;
    return at;
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

static bb_status add_token(bb_reading *r, const char *part, bb_json string, int64_t id, bool raw) {
    bb_tokenizer *t = r->t;
    size_t bytes;
    const char *key = keep(r, string, &bytes);
    size_t slot = bb_token_slot(t, key, bytes);
    if (slot == t->key_slots)
        return bb_part_wrong(r, part, "texts that were not chosen to collide", string);
    if (t->by_key[slot] == id) return BB_OK; /* an added token that the vocabulary has too */
    if (t->by_key[slot] >= 0 || t->token[id].used || bytes == 0)
        return bb_part_wrong(r, part, "texts and ids that come once", string);
    t->token[id] = (bb_token){.at = (uint32_t)(key - t->arena),
                              .bytes = (uint32_t)bytes & ((1u << 30) - 1),
                              .raw = raw,
                              .used = true};
    t->by_key[slot] = (int32_t)id;
    if (id >= t->size) t->size = id + 1;
    return BB_OK;
}

static bb_status read_vocab(bb_reading *r, bb_json vocab) {
    for (bb_json_walk w = bb_json_begin(vocab); bb_json_next(&w);) {
        int64_t id = 0;
        bb_json_int(w.value, 0, MOST_IDS - 1, &id);
        if (add_token(r, "model.vocab", w.key, id, false) != BB_OK) return bb_error(r->ctx);
    }
    for (int i = 0; i < 256; i++) {
        char key[4];
        size_t n = bb_utf8_write(r->t->alphabet[i], key);
        r->t->byte_id[i] = r->t->by_key[bb_token_slot(r->t, key, n)];
        if (r->t->byte_id[i] < 0)
            return bb_fail(r->ctx, BB_ERR_FORMAT,
                           "%s: model.vocab: expected a token for each byte, got none for 0x%02x",
                           r->path, i);
    }
    return BB_OK;
}

/* One merge, "left right" or ["left", "right"], as two ends in scratch without anything between. */
static bool read_pair(bb_reading *r, bb_json merge, size_t *left, size_t *bytes) {
    if (bb_json_kind_of(merge) == BB_JSON_STRING) {
        size_t n = bb_json_string(merge, r->scratch, r->room);
        char *space = memchr(r->scratch, ' ', n);
        if (!space) return false;
        *left = (size_t)(space - r->scratch);
        memmove(space, space + 1, n - *left - 1);
        *bytes = n - 1;
        return true;
    }
    bb_json_walk w = bb_json_begin(merge);
    if (bb_json_kind_of(merge) != BB_JSON_ARRAY || !bb_json_next(&w) ||
        bb_json_kind_of(w.value) != BB_JSON_STRING)
        return false;
    *left = bb_json_string(w.value, r->scratch, r->room);
    if (!bb_json_next(&w) || bb_json_kind_of(w.value) != BB_JSON_STRING) return false;
    *bytes = *left + bb_json_string(w.value, r->scratch + *left, r->room - *left);
    return !bb_json_next(&w);
}

static int32_t id_of(const bb_tokenizer *t, const char *key, size_t bytes) {
    return t->by_key[bb_token_slot(t, key, bytes)];
}

typedef struct pair {
    int32_t left;
    bb_merge merge;
} pair;

static bool read_merge(bb_reading *r, bb_json value, pair *p) {
    size_t left, bytes;
    if (!read_pair(r, value, &left, &bytes)) {
        bb_part_wrong(r, "model.merges", "pairs of tokens", value);
        return false;
    }
    p->left = id_of(r->t, r->scratch, left);
    p->merge.right = id_of(r->t, r->scratch + left, bytes - left);
    p->merge.result = id_of(r->t, r->scratch, bytes);
    if (p->left >= 0 && p->merge.right >= 0 && p->merge.result >= 0) return true;
    bb_part_wrong(r, "model.merges", "two tokens of the vocabulary that make a third", value);
    return false;
}

/* By the right token; of a pair that comes twice the later one counts, and so stands first. */
static int by_right(const void *left, const void *right) {
    const bb_merge *a = left, *b = right;
    if (a->right != b->right) return a->right < b->right ? -1 : 1;
    return a->rank > b->rank ? -1 : a->rank < b->rank;
}

/* Twice through the list: how many there are of each left token, then each to its place. */
static bb_status read_merges(bb_reading *r, bb_json merges) {
    bb_tokenizer *t = r->t;
    uint32_t *first = t->first_merge;
    pair p;
    for (bb_json_walk w = bb_json_begin(merges); bb_json_next(&w);) {
        if (!read_merge(r, w.value, &p)) return bb_error(r->ctx);
        first[p.left]++;
    }
    for (int64_t i = 0, sum = 0; i <= t->capacity; i++) {
        sum += first[i];
        first[i] = (uint32_t)sum; /* the end of its own; filled from there down */
    }
    int32_t rank = 0;
    for (bb_json_walk w = bb_json_begin(merges); bb_json_next(&w); rank++) {
        if (!read_merge(r, w.value, &p)) return bb_error(r->ctx);
        p.merge.rank = rank;
        t->merge[--first[p.left]] = p.merge;
    }
    for (int64_t i = 0; i < t->capacity; i++)
        if (first[i + 1] - first[i] > 1)
            bb_heap_sort_items(t->merge + first[i], first[i + 1] - first[i], sizeof *t->merge,
                               by_right);
    return BB_OK;
}

static bool empty(bb_json object, const char *key) {
    bb_json value;
    return !bb_json_get(object, key, &value) || bb_json_kind_of(value) == BB_JSON_NULL ||
           bb_json_equals(value, "");
}

static bb_status read_model(bb_reading *r, bb_json model) {
    bb_json vocab, merges, value = {NULL, NULL};
    double dropout = 0;
    static const char *const none[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    if (bb_part_keys(r, "model", model,
                     "type|dropout|unk_token|continuing_subword_prefix|end_of_word_suffix|fuse_unk|"
                     "byte_fallback|ignore_merges|vocab|merges"))
        return bb_error(r->ctx);
    if (!bb_json_get(model, "type", &value) || !bb_json_equals(value, "BPE"))
        return bb_part_wrong(r, "model.type", "\"BPE\"", value.at ? value : model);
    for (int i = 0; i < 2; i++)
        if (!empty(model, none[i]) && bb_json_get(model, none[i], &value))
            return bb_part_wrong(r, none[i], "null (model)", value);
    if (!empty(model, "dropout") && bb_json_get(model, "dropout", &value) &&
        (!bb_json_number(value, &dropout) || dropout != 0))
        return bb_part_wrong(r, "model.dropout", "null", value);
    if (bb_json_get(model, "ignore_merges", &value)) bb_json_bool(value, &r->t->ignore_merges);
    if (!bb_json_get(model, "vocab", &vocab) || !bb_json_get(model, "merges", &merges) ||
        bb_json_kind_of(merges) != BB_JSON_ARRAY)
        return bb_part_wrong(r, "model", "vocab and merges", model);
    if (read_vocab(r, vocab) != BB_OK) return bb_error(r->ctx);
    return read_merges(r, merges);
}

/* ---- Added tokens ---------------------------------------------------------------------------- */

static bool flag_of(bb_json object, const char *key) {
    bb_json value;
    bool flag = false;
    return bb_json_get(object, key, &value) && bb_json_bool(value, &flag) && flag;
}

static int by_text(const void *left, const void *right) {
    const bb_added *a = left, *b = right;
    if (a->first != b->first) return a->first < b->first ? -1 : 1;
    return a->bytes > b->bytes ? -1 : a->bytes < b->bytes;
}

static bb_status read_added(bb_reading *r, bb_json list) {
    static const char *const none[] = {"single_word", "lstrip", "rstrip"};
    bb_tokenizer *t = r->t;
    for (bb_json_walk w = bb_json_begin(list); bb_json_next(&w);) {
        bb_json content = w.value, id;
        int64_t number = 0;
        if (bb_part_keys(r, "added_tokens", w.value,
                         "id|content|single_word|lstrip|rstrip|normalized|special"))
            return bb_error(r->ctx);
        for (int i = 0; i < 3; i++)
            if (flag_of(w.value, none[i]))
                return bb_part_wrong(r, none[i], "false (added_tokens)", w.value);
        if (!bb_json_get(w.value, "content", &content) || !bb_json_get(w.value, "id", &id) ||
            bb_json_kind_of(content) != BB_JSON_STRING ||
            !bb_json_int(id, 0, MOST_IDS - 1, &number))
            return bb_part_wrong(r, "added_tokens", "a content and an id", w.value);
        if (add_token(r, "added_tokens", content, number, true) != BB_OK) return bb_error(r->ctx);
        bb_token *token = &t->token[number];
        bb_added *a = &t->added[t->added_count++];
        const char *text = t->arena + token->at;
        token->raw = true; /* written as it is found */
        *a = (bb_added){token->at, token->bytes, (int32_t)number, (uint8_t)text[0],
                        flag_of(w.value, "normalized")};
        for (size_t i = 0; t->nfc && a->normalized && i < a->bytes; i++)
            if ((unsigned char)text[i] >= 0x80)
                return bb_part_wrong(r, "added_tokens", "ASCII where normalized is true", content);
    }
    bb_heap_sort_items(t->added, (size_t)t->added_count, sizeof *t->added, by_text);
    return BB_OK;
}

/* ---- All of it ------------------------------------------------------------------------------- */

/* How much there is of everything. */
typedef struct amounts {
    size_t texts, added, pairs;
    size_t arena, longest; /* bytes of all spellings, of the longest merge */
    int64_t ids;           /* the largest and one */
} amounts;

static size_t bytes_of(bb_json value) { return (size_t)(value.end - value.at); }

static bool survey(bb_json vocab, bb_json added, bb_json merges, amounts *n) {
    *n = (amounts){.texts = 0};
    for (int pass = 0; pass < 2; pass++)
        for (bb_json_walk w = bb_json_begin(pass ? added : vocab); bb_json_next(&w); n->texts++) {
            bb_json value = w.value, text = w.key;
            int64_t id;
            if (pass &&
                (!bb_json_get(w.value, "id", &value) || !bb_json_get(w.value, "content", &text)))
                return false;
            if (!bb_json_int(value, 0, MOST_IDS - 1, &id)) return false;
            if (id >= n->ids) n->ids = id + 1;
            n->arena += bytes_of(text);
            n->added += pass;
        }
    for (bb_json_walk w = bb_json_begin(merges); bb_json_next(&w); n->pairs++)
        if (bytes_of(w.value) > n->longest) n->longest = bytes_of(w.value);
    return true;
}

static void *next_table(char *block, size_t *at, size_t bytes) {
    void *table = block ? block + *at : NULL;
    *at += bytes;
    return table;
}

/* Tables of so much, in one block, none of which needs more than 4-byte alignment. block NULL: how
 * many bytes it needs. */
static size_t lay_out(bb_tokenizer *t, const amounts *n, void *block) {
    size_t at = 0, ids = (size_t)n->ids + 1;
    t->capacity = n->ids;
    t->key_slots = n->texts + n->texts / 2 + 16;
    t->token = next_table(block, &at, ids * sizeof *t->token);
    t->merge = next_table(block, &at, n->pairs * sizeof *t->merge);
    t->added = next_table(block, &at, n->added * sizeof *t->added);
    t->first_merge = next_table(block, &at, ids * sizeof *t->first_merge);
    t->by_key = next_table(block, &at, (t->key_slots + 1) * sizeof *t->by_key);
    t->arena = next_table(block, &at, n->arena + 1);
    return at;
}

/* Twice the file and 1 MiB hold the tables of any tokenizer whose ids have no large gaps and whose
 * merges are all different. */
static bool allocate(bb_reading *r, const amounts *n, size_t bytes) {
    enum { SLACK = 1 << 20, OTHER = 16 << 10 };
    bb_tokenizer *t = r->t;
    size_t need = lay_out(t, n, NULL);
    r->room = n->longest + 1;
    r->arena_room = n->arena + 1;
    if (need + r->room > 2 * bytes + SLACK - OTHER) {
        bb_fail(r->ctx, BB_ERR_FORMAT,
                "%s: model: expected ids and merges in proportion to a file of %zu bytes, got ids "
                "to %lld and %zu merges",
                r->path, bytes, (long long)n->ids - 1, n->pairs);
        return false;
    }
    t->block = bb_host_allocate(r->ctx, need);
    r->scratch = t->block ? bb_host_allocate(r->ctx, r->room) : NULL;
    if (!r->scratch) return false;
    t->block_bytes = need;
    lay_out(t, n, t->block);
    memset(t->token, 0, ((size_t)n->ids + 1) * sizeof *t->token);
    memset(t->first_merge, 0, ((size_t)n->ids + 1) * sizeof *t->first_merge);
    for (size_t i = 0; i <= t->key_slots; i++) t->by_key[i] = -1;
    bb_byte_alphabet(t->alphabet);
    for (int i = 0; i < 512; i++) t->byte_of[i] = -1;
    for (int i = 0; i < 256; i++) t->byte_of[t->alphabet[i]] = (int16_t)i;
    return true;
}

static bb_status read_all(bb_reading *r, bb_json root, size_t bytes) {
    bb_json model, vocab = {0}, merges = {0}, added, part;
    amounts n;
    static const char empty[] = "[]";
    static const char *const none[] = {"truncation", "padding"};
    if (bb_part_keys(r, "tokenizer", root,
                     "version|truncation|padding|added_tokens|normalizer|pre_tokenizer|"
                     "post_processor|decoder|model"))
        return bb_error(r->ctx);
    for (int i = 0; i < 2; i++)
        if (bb_json_get(root, none[i], &part) && bb_json_kind_of(part) != BB_JSON_NULL)
            return bb_part_wrong(r, none[i], "null", part);
    if (!bb_json_get(root, "added_tokens", &added)) added = (bb_json){empty, empty + 2};
    if (!bb_json_get(root, "model", &model)) return bb_part_wrong(r, "model", "an object", root);
    bb_json_get(model, "vocab", &vocab);
    bb_json_get(model, "merges", &merges);
    if (!vocab.at || bb_json_kind_of(vocab) != BB_JSON_OBJECT || !merges.at ||
        bb_json_kind_of(added) != BB_JSON_ARRAY)
        return bb_part_wrong(r, "model", "vocab, merges and a list of added_tokens", model);
    if (!survey(vocab, added, merges, &n))
        return bb_part_wrong(r, "model.vocab and added_tokens", "ids from 0 to 4194303", vocab);
    if (!allocate(r, &n, bytes)) return bb_error(r->ctx);
    if (bb_parts_read_form(r, root) || read_model(r, model) || read_added(r, added))
        return bb_error(r->ctx);
    return bb_parts_read_frame(r, root);
}

bb_tokenizer *bb_tokenizer_open(bb_context *ctx, const char *path) {
    bb_file file;
    bb_json root;
    bb_reading r = {.ctx = ctx, .path = path};
    if (bb_file_map(ctx, path, &file) != BB_OK) return NULL;
    if (file.bytes >= (size_t)1 << 30)
        bb_fail(ctx, BB_ERR_UNSUPPORTED, "%s: expected less than 1 GiB, got %zu bytes", path,
                file.bytes);
    else
        r.t = bb_host_allocate(ctx, sizeof *r.t);
    if (r.t) {
        memset(r.t, 0, sizeof *r.t);
        r.t->ctx = ctx;
        if (bb_json_parse(ctx, path, file.data, file.bytes, &root) == BB_OK)
            read_all(&r, root, file.bytes);
    }
    bb_file_unmap(&file);
    bb_host_release(ctx, r.scratch, r.room);
    if (bb_error(ctx) == BB_OK) return r.t;
    bb_tokenizer_close(r.t);
    return NULL;
}

void bb_tokenizer_close(bb_tokenizer *t) {
    if (!t) return;
    bb_host_release(t->ctx, t->block, t->block_bytes);
    bb_host_release(t->ctx, t, sizeof *t);
}
