/* The pre-tokenizers: where the regular expressions of GPT-2, Llama 3 and Qwen cut a text, written
 * as one look ahead each. See tools/tokenizer_parts.h.
 *
 *   GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?L+| ?N+| ?O+|\s+(?!\S)|\s+
 *   Llama 3  (the same, any case)|[^\r\nLN]?L+|N{1,3}| ?O+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *   Qwen     the same with N in place of N{1,3}
 *
 * L letters, N numbers, O what is neither these nor \s. */
#include "tools/tokenizer_parts.h"
#include "tools/unicode.h"

typedef struct cursor {
    const char *text;
    size_t bytes;
} cursor;

/* The character at `at` and its class; its bytes, 0 at the end. */
static size_t look(const cursor *c, size_t at, uint32_t *character, bb_class *class) {
    if (at >= c->bytes) return 0;
    size_t n = bb_utf8_read(c->text + at, c->bytes - at, character);
    if (n == 0) { /* callers check the text first */
        *character = 0xfffd;
        n = 1;
    }
    *class = bb_class_of(*character);
    return n;
}

/* Where the run of `class` that may begin at `at` ends, after at most `most` characters. */
static size_t run(const cursor *c, size_t at, bb_class class, int64_t most) {
    uint32_t character;
    bb_class got;
    for (size_t n; most-- > 0 && (n = look(c, at, &character, &got)) && got == class;) at += n;
    return at;
}

/* ſ, the long s, is an s in any case but its own. */
static bool is_letter(uint32_t got, char lower, bool any_case) {
    return got == (uint32_t)lower ||
           (any_case && (got == (uint32_t)(lower - 32) || (lower == 's' && got == 0x17f)));
}

/* 's 't 're 've 'm 'll 'd after the apostrophe at 0; 0: none. */
static size_t contraction(const cursor *c, bool any_case) {
    static const char forms[][3] = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (c->text[0] != '\'') return 0;
    for (int i = 0; i < 7; i++) {
        size_t at = 1;
        const char *p = forms[i];
        for (; *p; p++) {
            uint32_t character;
            bb_class class;
            size_t n = look(c, at, &character, &class);
            if (n == 0 || !is_letter(character, *p, any_case)) break;
            at += n;
        }
        if (!*p) return at;
    }
    return 0;
}

/* White space at 0: all of a run that ends the text, else all but its last character, which goes
 * with what follows; a single one stands alone. */
static size_t space(const cursor *c) {
    uint32_t character;
    bb_class class;
    size_t at = 0, last = 0;
    for (size_t n; (n = look(c, at, &character, &class)) && class == BB_CLASS_SPACE; at += n)
        last = at;
    return at == c->bytes || last == 0 ? at : last;
}

static size_t gpt2(const cursor *c) {
    size_t end = contraction(c, false), skip = c->text[0] == ' ' ? 1 : 0;
    if (end) return end;
    uint32_t character;
    bb_class class;
    if (look(c, skip, &character, &class) && class != BB_CLASS_SPACE)
        return run(c, skip, class, INT64_MAX);
    return space(c);
}

static bool is_break(char c) { return c == '\r' || c == '\n'; }

/* \s*[\r\n]+ at 0: up to the last line break of the run of white space; 0: none in it. */
static size_t breaks(const cursor *c) {
    size_t end = run(c, 0, BB_CLASS_SPACE, INT64_MAX);
    while (end > 0 && !is_break(c->text[end - 1])) end--;
    return end;
}

static size_t llama3(const cursor *c, int64_t digits) {
    size_t end = contraction(c, true);
    if (end) return end;
    uint32_t character = 0, next;
    bb_class class = BB_CLASS_OTHER, next_class = BB_CLASS_OTHER;
    size_t n = look(c, 0, &character, &class), m = look(c, n, &next, &next_class);
    if (class == BB_CLASS_LETTER) return run(c, 0, class, INT64_MAX);
    if (class == BB_CLASS_NUMBER) return run(c, 0, class, digits);
    if (m && next_class == BB_CLASS_LETTER && !is_break(c->text[0]))
        return run(c, n, BB_CLASS_LETTER, INT64_MAX);
    size_t skip = character == ' ' ? 1 : 0;
    end = run(c, skip, BB_CLASS_OTHER, INT64_MAX);
    if (end > skip) {
        while (end < c->bytes && is_break(c->text[end])) end++;
        return end;
    }
    end = breaks(c);
    return end ? end : space(c);
}

/* Numbers, one or a run, and what is between them. */
static size_t digits(const cursor *c, bool each) {
    size_t at = run(c, 0, BB_CLASS_NUMBER, each ? 1 : INT64_MAX);
    uint32_t character;
    bb_class class;
    if (at) return at;
    for (size_t n; (n = look(c, at, &character, &class)) && class != BB_CLASS_NUMBER;) at += n;
    return at;
}

size_t bb_split_next(bb_splitter splitter, const char *text, size_t bytes) {
    const cursor c = {text, bytes};
    switch (splitter) {
    case BB_SPLIT_GPT2: return gpt2(&c);
    case BB_SPLIT_LLAMA3: return llama3(&c, 3);
    case BB_SPLIT_QWEN: return llama3(&c, 1);
    case BB_SPLIT_DIGITS: return digits(&c, false);
    case BB_SPLIT_EACH_DIGIT: return digits(&c, true);
    }
    return bytes;
}
