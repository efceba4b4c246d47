/* Reads tokenizer.json: every part and every key of a part is either understood or refused by name.
 * See tools/tokenizer.h; the parts that cut and frame a text are read in tools/tokenizer_parts.c.
 */
#include <stdlib.h>
#include <string.h>

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

/* ---- Texts ------------------------------------------------------------------------------------
 */

/* A string's content in the arena, which has room for all strings of the file twice. */
static const char *keep(bb_reading *r, bb_json string, size_t *bytes) {
    char *at = r->t->arena + r->used;
    *bytes = bb_json_string(string, at, r->room - r->used);
    r->used += *bytes;
    return at;
}

/* What a spelling stands for: a byte for each character, or itself where one is not of the
 * alphabet.
 */
static const char *spelled(bb_reading *r, const char *key, size_t bytes, uint32_t *count) {
    char *at = r->t->arena + r->used;
    size_t n = 0;
    for (size_t i = 0, step; i < bytes; i += step) {
        uint32_t c = 0;
        step = bb_utf8_read(key + i, bytes - i, &c);
        if (step == 0 || c >= 512 || r->byte_of[c] < 0) {
            *count = (uint32_t)bytes;
            return key;
        }
        at[n++] = (char)r->byte_of[c];
    }
    r->used += n;
    *count = (uint32_t)n;
    return at;
}

/* ---- Tokens -----------------------------------------------------------------------------------
 */

static bb_status add_token(bb_reading *r, const char *part, bb_json string, int64_t id, bool raw) {
    bb_tokenizer *t = r->t;
    size_t bytes;
    const char *key = keep(r, string, &bytes);
    size_t slot = bb_token_slot(t, key, bytes);
    if (t->by_key[slot] == id) return BB_OK; /* an added token that the vocabulary has too */
    if (t->by_key[slot] >= 0 || t->token[id].used || bytes == 0)
        return bb_part_wrong(r, part, "texts and ids that come once", string);
    bb_token *token = &t->token[id];
    *token = (bb_token){.key = key,
                        .text = key,
                        .key_bytes = (uint32_t)bytes,
                        .bytes = (uint32_t)bytes,
                        .used = true};
    if (!raw) token->text = spelled(r, key, bytes, &token->bytes);
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

static bb_status read_merges(bb_reading *r, bb_json merges) {
    bb_tokenizer *t = r->t;
    int32_t rank = 0;
    for (bb_json_walk w = bb_json_begin(merges); bb_json_next(&w); rank++) {
        size_t left, bytes;
        if (!read_pair(r, w.value, &left, &bytes))
            return bb_part_wrong(r, "model.merges", "pairs of tokens", w.value);
        int32_t a = id_of(t, r->scratch, left), b = id_of(t, r->scratch + left, bytes - left),
                both = id_of(t, r->scratch, bytes);
        if (a < 0 || b < 0 || both < 0)
            return bb_part_wrong(r, "model.merges",
                                 "two tokens of the vocabulary that make a third", w.value);
        t->merge[bb_merge_slot(t, a, b)] = (bb_merge){a, b, rank, both};
    }
    return BB_OK;
}

static bool empty(bb_json object, const char *key) {
    bb_json value;
    return !bb_json_get(object, key, &value) || bb_json_kind_of(value) == BB_JSON_NULL ||
           bb_json_equals(value, "");
}

static bb_status read_model(bb_reading *r, bb_json model) {
    bb_json vocab, merges, value;
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

/* ---- Added tokens -----------------------------------------------------------------------------
 */

static bool flag_of(bb_json object, const char *key) {
    bb_json value;
    bool flag = false;
    return bb_json_get(object, key, &value) && bb_json_bool(value, &flag) && flag;
}

static int by_text(const void *left, const void *right) {
    const bb_added *a = left, *b = right;
    unsigned char x = (unsigned char)a->text[0], y = (unsigned char)b->text[0];
    if (x != y) return x < y ? -1 : 1;
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
        token->text = token->key; /* written as it is found */
        token->bytes = token->key_bytes;
        *a = (bb_added){token->key, token->key_bytes, (int32_t)number,
                        flag_of(w.value, "normalized")};
        for (size_t i = 0; t->nfc && a->normalized && i < a->bytes; i++)
            if ((unsigned char)a->text[i] >= 0x80)
                return bb_part_wrong(r, "added_tokens", "ASCII where normalized is true", content);
    }
    if (t->added_count) qsort(t->added, (size_t)t->added_count, sizeof *t->added, by_text);
    return BB_OK;
}

/* ---- All of it --------------------------------------------------------------------------------
 */

/* How many there are and the largest id; both are in proportion to the file, or refused. */
static bool survey(bb_json vocab, bb_json added, size_t *texts, int64_t *ids) {
    *texts = 0;
    *ids = 0;
    for (int pass = 0; pass < 2; pass++)
        for (bb_json_walk w = bb_json_begin(pass ? added : vocab); bb_json_next(&w); ++*texts) {
            bb_json value = w.value;
            int64_t id;
            if (pass && !bb_json_get(w.value, "id", &value)) return false;
            if (!bb_json_int(value, 0, MOST_IDS - 1, &id)) return false;
            if (id >= *ids) *ids = id + 1;
        }
    return true;
}

static size_t slots_for(size_t count) {
    size_t slots = 16;
    while (slots < 2 * count + 2) slots *= 2;
    return slots;
}

static bool allocate(bb_reading *r, size_t texts, int64_t ids, bb_json merges, size_t bytes) {
    bb_tokenizer *t = r->t;
    size_t pairs = 0;
    for (bb_json_walk w = bb_json_begin(merges); bb_json_next(&w);) pairs++;
    t->capacity = ids;
    t->key_slots = slots_for(texts);
    t->merge_slots = slots_for(pairs);
    r->room = 2 * bytes + 16;
    t->arena = malloc(r->room);
    r->scratch = malloc(r->room);
    t->token = calloc((size_t)ids + 1, sizeof *t->token);
    t->by_key = malloc(t->key_slots * sizeof *t->by_key);
    t->merge = malloc(t->merge_slots * sizeof *t->merge);
    t->added = malloc((texts + 1) * sizeof *t->added);
    if (!t->arena || !r->scratch || !t->token || !t->by_key || !t->merge || !t->added) return false;
    for (size_t i = 0; i < t->key_slots; i++) t->by_key[i] = -1;
    for (size_t i = 0; i < t->merge_slots; i++) t->merge[i].rank = -1;
    bb_byte_alphabet(t->alphabet);
    for (int i = 0; i < 512; i++) r->byte_of[i] = -1;
    for (int i = 0; i < 256; i++) r->byte_of[t->alphabet[i]] = (int16_t)i;
    return true;
}

static bb_status read_all(bb_reading *r, bb_json root, size_t bytes) {
    bb_json model, vocab = {0}, merges = {0}, added, part;
    size_t texts;
    int64_t ids;
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
    if (!survey(vocab, added, &texts, &ids))
        return bb_part_wrong(r, "model.vocab and added_tokens", "ids from 0 to 4194303", vocab);
    if (!allocate(r, texts, ids, merges, bytes))
        return bb_fail(r->ctx, BB_ERR_MEMORY, "%s: out of memory", r->path);
    if (bb_parts_read_form(r, root) || read_model(r, model) || read_added(r, added))
        return bb_error(r->ctx);
    return bb_parts_read_frame(r, root);
}

bb_tokenizer *bb_tokenizer_open(bb_context *ctx, const char *path) {
    bb_file file;
    bb_json root;
    bb_reading r = {.ctx = ctx, .path = path};
    if (bb_file_map(ctx, path, &file) != BB_OK) return NULL;
    r.t = calloc(1, sizeof *r.t);
    if (!r.t)
        bb_fail(ctx, BB_ERR_MEMORY, "%s: out of memory", path);
    else if (bb_json_parse(ctx, path, file.data, file.bytes, &root) == BB_OK)
        read_all(&r, root, file.bytes);
    bb_file_unmap(&file);
    free(r.scratch);
    if (bb_error(ctx) == BB_OK) return r.t;
    bb_tokenizer_close(r.t);
    return NULL;
}

void bb_tokenizer_close(bb_tokenizer *t) {
    if (!t) return;
    free(t->arena);
    free(t->token);
    free(t->by_key);
    free(t->merge);
    free(t->added);
    free(t);
}
