/* The parts of tokenizer.json around its model: normalizer, pre-tokenizer, post-processor, decoder.
 * See tools/tokenizer_parts.h. */
#include "tools/tokenizer_parts.h"

#include <string.h>

static const struct {
    const char *pattern;
    bb_splitter splitter;
} patterns[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
     BB_SPLIT_GPT2},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     BB_SPLIT_LLAMA3},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     BB_SPLIT_QWEN},
};
enum { PATTERNS = sizeof patterns / sizeof patterns[0] };

static bool is_null(bb_json object, const char *key, bb_json *value) {
    *value = (bb_json){NULL, NULL};
    return !bb_json_get(object, key, value) || bb_json_kind_of(*value) == BB_JSON_NULL;
}

static bool typed(bb_json part, const char *type) {
    bb_json value;
    return bb_json_get(part, "type", &value) && bb_json_equals(value, type);
}

static bool flag_of(bb_json object, const char *key, bool otherwise) {
    bb_json value;
    bool flag = otherwise;
    if (bb_json_get(object, key, &value)) bb_json_bool(value, &flag);
    return flag;
}

/* ---- Normalizer and pre-tokenizer ------------------------------------------------------------ */

static bb_status read_normalizer(bb_reading *r, bb_json part) {
    bb_json list;
    if (typed(part, "NFC")) {
        r->t->nfc = true;
        return bb_part_keys(r, "normalizer", part, "type");
    }
    if (!typed(part, "Sequence") || !bb_json_get(part, "normalizers", &list))
        return bb_part_wrong(r, "normalizer", "null or NFC", part);
    for (bb_json_walk w = bb_json_begin(list); bb_json_next(&w);)
        if (read_normalizer(r, w.value)) break;
    return bb_error(r->ctx);
}

static bb_status add_splitter(bb_reading *r, bb_json part, bb_splitter splitter) {
    bb_tokenizer *t = r->t;
    if (t->splitters == BB_MOST_SPLITTERS)
        return bb_part_wrong(r, "pre_tokenizer", "at most 8 parts", part);
    t->splitter[t->splitters++] = splitter;
    return BB_OK;
}

static bb_status read_split(bb_reading *r, bb_json part) {
    bb_json pattern, regex, behavior;
    if (bb_part_keys(r, "pre_tokenizer Split", part, "type|pattern|behavior|invert"))
        return bb_error(r->ctx);
    if (!bb_json_get(part, "behavior", &behavior) || !bb_json_equals(behavior, "Isolated") ||
        flag_of(part, "invert", false))
        return bb_part_wrong(r, "pre_tokenizer Split", "behavior \"Isolated\" and invert false",
                             part);
    if (!bb_json_get(part, "pattern", &pattern) || !bb_json_get(pattern, "Regex", &regex))
        return bb_part_wrong(r, "pre_tokenizer Split.pattern", "a Regex", part);
    for (int i = 0; i < PATTERNS; i++)
        if (bb_json_equals(regex, patterns[i].pattern))
            return add_splitter(r, part, patterns[i].splitter);
    return bb_part_wrong(r, "pre_tokenizer Split.pattern.Regex",
                         "the pattern of GPT-2, Llama 3 or Qwen", regex);
}

static bb_status read_pre_tokenizer(bb_reading *r, bb_json part) {
    bb_json list;
    if (r->byte_level) return bb_part_wrong(r, "pre_tokenizer", "nothing after ByteLevel", part);
    if (typed(part, "Split")) return read_split(r, part);
    if (typed(part, "Digits")) {
        if (bb_part_keys(r, "pre_tokenizer Digits", part, "type|individual_digits"))
            return bb_error(r->ctx);
        return add_splitter(r, part,
                            flag_of(part, "individual_digits", false) ? BB_SPLIT_EACH_DIGIT
                                                                      : BB_SPLIT_DIGITS);
    }
    if (typed(part, "ByteLevel")) {
        if (bb_part_keys(r, "pre_tokenizer ByteLevel", part,
                         "type|add_prefix_space|trim_offsets|use_regex"))
            return bb_error(r->ctx);
        if (flag_of(part, "add_prefix_space", true))
            return bb_part_wrong(r, "pre_tokenizer ByteLevel", "add_prefix_space false", part);
        r->byte_level = true;
        return flag_of(part, "use_regex", true) ? add_splitter(r, part, BB_SPLIT_GPT2) : BB_OK;
    }
    if (!typed(part, "Sequence") || !bb_json_get(part, "pretokenizers", &list))
        return bb_part_wrong(r, "pre_tokenizer", "ByteLevel, Split, Digits or a Sequence of them",
                             part);
    for (bb_json_walk w = bb_json_begin(list); bb_json_next(&w);)
        if (read_pre_tokenizer(r, w.value)) break;
    return bb_error(r->ctx);
}

bb_status bb_parts_read_form(bb_reading *r, bb_json root) {
    bb_json part;
    if (!is_null(root, "normalizer", &part) && read_normalizer(r, part)) return bb_error(r->ctx);
    if (!is_null(root, "pre_tokenizer", &part) && read_pre_tokenizer(r, part))
        return bb_error(r->ctx);
    if (!r->byte_level) return bb_part_wrong(r, "pre_tokenizer", "ByteLevel at its end", root);
    if (is_null(root, "decoder", &part) || !typed(part, "ByteLevel"))
        return bb_part_wrong(r, "decoder", "ByteLevel", part.at ? part : root);
    return BB_OK;
}

/* ---- Post-processor -------------------------------------------------------------------------- */

/* The ids that a template's special token stands for, added to one of the two lists. */
static bb_status add_special(bb_reading *r, bb_json part, bb_json id, int32_t *list, int *count) {
    bb_json specials, special, ids;
    char name[256];
    int64_t number;
    if (bb_json_string(id, name, sizeof name) >= sizeof name ||
        !bb_json_get(part, "special_tokens", &specials) || !bb_json_get(specials, name, &special) ||
        !bb_json_get(special, "ids", &ids))
        return bb_part_wrong(r, "post_processor TemplateProcessing",
                             "its special_tokens to hold it", id);
    for (bb_json_walk w = bb_json_begin(ids); bb_json_next(&w);) {
        if (!bb_json_int(w.value, 0, r->t->size - 1, &number) || *count == BB_MOST_AROUND)
            return bb_part_wrong(r, "post_processor TemplateProcessing",
                                 "few ids of the vocabulary", w.value);
        list[(*count)++] = (int32_t)number;
    }
    return BB_OK;
}

static bb_status read_template(bb_reading *r, bb_json part) {
    bb_tokenizer *t = r->t;
    bb_json single = part, item, id;
    int texts = 0, items = 0;
    bool good = true;
    if (bb_part_keys(r, "post_processor TemplateProcessing", part,
                     "type|single|pair|special_tokens"))
        return bb_error(r->ctx);
    if (!bb_json_get(part, "single", &single) || bb_json_kind_of(single) != BB_JSON_ARRAY ||
        t->before_count || t->after_count)
        return bb_part_wrong(r, "post_processor TemplateProcessing", "one, with a list 'single'",
                             part);
    /* Each is looked for among all special_tokens: a long list would be n^2 steps. */
    for (bb_json_walk w = bb_json_begin(single); good && bb_json_next(&w);) {
        bool text = bb_json_get(w.value, "Sequence", &item);
        good = (text || bb_json_get(w.value, "SpecialToken", &item)) &&
               bb_json_get(item, "id", &id) && items++ <= 2 * BB_MOST_AROUND;
        texts += text;
        if (good && !text &&
            add_special(r, part, id, texts ? t->after : t->before,
                        texts ? &t->after_count : &t->before_count))
            return bb_error(r->ctx);
    }
    return good && texts == 1 ? BB_OK
                              : bb_part_wrong(r, "post_processor TemplateProcessing.single",
                                              "one Sequence among few SpecialTokens", single);
}

static bb_status read_post_processor(bb_reading *r, bb_json part) {
    bb_json list;
    if (typed(part, "TemplateProcessing")) return read_template(r, part);
    if (typed(part, "ByteLevel")) /* only offsets, which we do not give */
        return bb_part_keys(r, "post_processor ByteLevel", part,
                            "type|add_prefix_space|trim_offsets|use_regex");
    if (!typed(part, "Sequence") || !bb_json_get(part, "processors", &list))
        return bb_part_wrong(r, "post_processor", "ByteLevel or TemplateProcessing", part);
    for (bb_json_walk w = bb_json_begin(list); bb_json_next(&w);)
        if (read_post_processor(r, w.value)) break;
    return bb_error(r->ctx);
}

bb_status bb_parts_read_frame(bb_reading *r, bb_json root) {
    bb_json part;
    return is_null(root, "post_processor", &part) ? BB_OK : read_post_processor(r, part);
}
