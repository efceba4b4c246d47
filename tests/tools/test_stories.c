/* The default text: stories parse back to exactly one derivation, whose probability is the one they
 * were drawn with, and their average information content is the entropy that tools/stories.c
 * computes from the grammar. */
#include "tests/support/test.h"
#include "tools/stories.h"

/* A backtracking parser: all derivations of a text, each with its -log p. It knows the grammar only
 * through the compiled tables and works on a stack of what is still to be matched. */
enum { STACK = 256 };
typedef struct pending {
    const bb_story_alternative *alternative;
    int item, form;
} pending;
typedef struct parser {
    const bb_stories *s;
    const char *text, *end;
    const bb_story_alternative *remembered[BB_STORY_NAMES];
    int derivations;
    double nats; /* of the last derivation found */
} parser;

static bool starts_with(const parser *p, const char *at, const char *text, size_t bytes) {
    return (size_t)(p->end - at) >= bytes && memcmp(at, text, bytes) == 0;
}

static void parse(parser *p, const char *at, pending *stack, int depth, double nats);

static void parse_draw(parser *p, const char *at, const bb_story_item *item, pending *stack,
                       int depth, double nats) {
    const bb_story_rule *rule = &p->s->rules[item->rule];
    const bb_story_alternative *former = item->name >= 0 ? p->remembered[item->name] : NULL;
    for (int i = 0; i < rule->count; i++) {
        const bb_story_alternative *a = &p->s->alternatives[rule->first + i];
        pending copy[STACK];
        memcpy(copy, stack, (size_t)depth * sizeof *stack);
        copy[depth] = (pending){a, 0, item->form};
        if (item->name >= 0) p->remembered[item->name] = a;
        parse(p, at, copy, depth + 1, nats - log(a->p));
    }
    if (item->name >= 0) p->remembered[item->name] = former;
}

static void parse(parser *p, const char *at, pending *stack, int depth, double nats) {
    while (depth > 0) {
        pending *top = &stack[depth - 1];
        if (top->form > 0 || top->item == top->alternative->count) {
            const char *word = top->alternative->form[top->form];
            size_t bytes = top->alternative->form_bytes[top->form];
            if (top->form > 0) {
                if (!starts_with(p, at, word, bytes)) return;
                at += bytes;
            }
            depth--;
            continue;
        }
        const bb_story_item *item = &p->s->items[top->alternative->first + top->item++];
        if (item->kind == BB_STORY_TEXT) {
            if (!starts_with(p, at, item->text, item->bytes)) return;
            at += item->bytes;
        } else if (item->kind == BB_STORY_RECALL) {
            stack[depth++] = (pending){p->remembered[item->name], 0, item->form};
        } else {
            parse_draw(p, at, item, stack, depth, nats);
            return;
        }
    }
    if (at != p->end) return;
    p->derivations++;
    p->nats = nats;
}

/* Number of derivations of text; *nats gets -log p of the last one. */
static int parse_story(const bb_stories *s, const char *text, size_t bytes, double *nats) {
    parser p = {.s = s, .text = text, .end = text + bytes};
    pending stack[STACK];
    const bb_story_item start = {.kind = BB_STORY_DRAW, .rule = 0, .name = -1};
    parse_draw(&p, text, &start, stack, 0, 0);
    *nats = p.nats;
    return p.derivations;
}

static void check_parses(test *t, const bb_stories *s, uint64_t seed, int count) {
    char text[BB_STORY_MAX_BYTES];
    uint64_t counter = 0;
    for (int i = 0; i < count; i++) {
        double drawn = 0, parsed = 0;
        size_t bytes = bb_stories_write(s, seed, &counter, text, &drawn);
        if (!CHECK_MSG(t, bytes < BB_STORY_MAX_BYTES, "story %d fills its room", i)) return;
        int derivations = parse_story(s, text, bytes, &parsed);
        if (!CHECK_MSG(t, derivations == 1, "%d derivations of: %.*s", derivations, (int)bytes,
                       text))
            return;
        if (!CHECK_NEAR(t, parsed, drawn, 1e-9)) return;
    }
}

static void stories_have_one_derivation(test *t) {
    bb_stories s;
    if (!CHECK(t, bb_stories_open(&s, NULL, NULL))) return;
    check_parses(t, &s, 11, 2000);
    bb_stories_close(&s);
}

/* What the text of an alternative can begin with: its first words, or those of the rule it begins
 * with. */
typedef struct opening {
    const char *text;
    size_t bytes;
} opening;
enum { OPENINGS = 512 };

static int add_openings(const bb_stories *s, const bb_story_alternative *a, int form, opening *list,
                        int count) {
    const bb_story_item *first = &s->items[a->first];
    if (form > 0 || first->kind == BB_STORY_TEXT) {
        list[count++] = (opening){a->form[form], a->form_bytes[form]};
        return count;
    }
    const bb_story_rule *rule = &s->rules[first->rule];
    for (int i = 0; i < rule->count && count < OPENINGS; i++) {
        count = add_openings(s, &s->alternatives[rule->first + i], first->form, list, count);
    }
    return count;
}

static void check_choice(test *t, const bb_stories *s, int rule_index, int form) {
    const bb_story_rule *rule = &s->rules[rule_index];
    opening list[OPENINGS + 1];
    int owner[OPENINGS + 1], count = 0;
    for (int i = 0; i < rule->count; i++) {
        int before = count;
        count = add_openings(s, &s->alternatives[rule->first + i], form, list, count);
        if (!CHECK(t, count < OPENINGS)) return;
        for (int k = before; k < count; k++) owner[k] = i;
    }
    for (int i = 0; i < count; i++) {
        for (int j = 0; j < count; j++) {
            if (owner[i] == owner[j] || list[i].bytes > list[j].bytes) continue;
            CHECK_MSG(t, memcmp(list[i].text, list[j].text, list[i].bytes) != 0,
                      "%s: '%.*s' begins '%.*s'", rule->name, (int)list[i].bytes, list[i].text,
                      (int)list[j].bytes, list[j].text);
        }
    }
}

/* Stronger than parsing samples: at every choice, in every form used to tell it, no alternative's
 * opening begins another's. So reading from the left, the text tells each choice in turn, and the
 * derivation is unique. */
static void openings_are_prefix_free(test *t) {
    bb_stories s;
    if (!CHECK(t, bb_stories_open(&s, NULL, NULL))) return;
    check_choice(t, &s, 0, 0);
    for (int k = 0; k < s.item_count; k++) {
        if (s.items[k].kind == BB_STORY_DRAW) check_choice(t, &s, s.items[k].rule, s.items[k].form);
    }
    bb_stories_close(&s);
}

/* The ratio of sums over n stories against E[nats]/E[bytes]: its standard error is that of nats -
 * rate * bytes. */
static void entropy_is_the_average(test *t) {
    enum { STORIES = 20000 };
    bb_stories s;
    char text[BB_STORY_MAX_BYTES];
    if (!CHECK(t, bb_stories_open(&s, NULL, NULL))) return;
    double rate = bb_stories_entropy(&s), nats = 0, bytes = 0, squares = 0;
    uint64_t counter = 0;
    for (int i = 0; i < STORIES; i++) {
        double n = 0, b = (double)bb_stories_write(&s, 5, &counter, text, &n);
        nats += n;
        bytes += b;
        squares += (n - rate * b) * (n - rate * b);
    }
    double error = sqrt(squares) / bytes;
    CHECK_MSG(t, error < 0.005 * rate, "standard error %g is too large to tell anything about %g",
              error, rate);
    CHECK_NEAR(t, nats / bytes, rate, 4 * error);
    CHECK_NEAR(t, nats / STORIES, s.rules[0].nats, 0.02 * s.rules[0].nats);
    CHECK_NEAR(t, bytes / STORIES, s.rules[0].bytes[0], 0.02 * s.rules[0].bytes[0]);
    bb_stories_close(&s);
}

/* A grammar small enough to do by hand: "a AA" or "b B" three times in four, else two words and
 * punctuation. */
static void small_grammar_by_hand(test *t) {
    static const bb_story_source source[] = {
        {"s", "3*{x:word} {=x.1}|?{word}{word}."}, {"word", "a/AA|b/B"}, {0, 0}};
    bb_stories s;
    if (!CHECK(t, bb_stories_open(&s, source, NULL))) return;
    double choice = -0.75 * log(0.75) - 0.25 * log(0.25), word = log(2);
    double expected_nats = choice + 0.75 * word + 0.25 * 2 * word,
           expected_bytes = 0.75 * (1 + 1 + 1.5) + 0.25 * 4;
    CHECK_NEAR(t, bb_stories_entropy(&s), expected_nats / expected_bytes, 1e-12);
    check_parses(t, &s, 3, 200);
    bb_stories_close(&s);
}

/* The parser above can fail: it sees both derivations of an ambiguous text, and none of a wrong
 * one. */
static void ambiguity_is_seen(test *t) {
    static const bb_story_source source[] = {{"s", "{w}{w}"}, {"w", "a|aa|b"}, {0, 0}};
    bb_stories s;
    double nats;
    if (!CHECK(t, bb_stories_open(&s, source, NULL))) return;
    CHECK_INT(t, parse_story(&s, "aaa", 3, &nats), 2);
    CHECK_INT(t, parse_story(&s, "aab", 3, &nats), 1);
    CHECK_INT(t, parse_story(&s, "ba", 2, &nats), 1);
    CHECK_INT(t, parse_story(&s, "bc", 2, &nats), 0);
    bb_stories_close(&s);
}

static void mistakes_in_a_grammar(test *t) {
    static const bb_story_source rows[][3] = {{{"s", "{missing}"}, {0, 0}},
                                              {{"s", "{=x}"}, {0, 0}},
                                              {{"s", "{w"}, {0, 0}},
                                              {{"s", "{w}"}, {"w", "a/b|c"}, {0, 0}},
                                              {{"s", "a{t}"}, {"t", "b{s}"}, {0, 0}},
                                              {{"s", "{w.1}"}, {"w", "a|b"}, {0, 0}},
                                              {{"s", "{x:w}{x:s}"}, {"w", "a"}, {0, 0}}};
    for (int i = 0; i < COUNT(rows); i++) {
        bb_stories s;
        const char *why = NULL;
        CHECK_MSG(t, !bb_stories_open(&s, rows[i], &why) && why, "grammar %d was taken", (int)i);
    }
}

static void text_is_the_same_for_a_seed(test *t) {
    bb_stories s;
    size_t a_bytes = 0, b_bytes = 0, c_bytes = 0;
    if (!CHECK(t, bb_stories_open(&s, NULL, NULL))) return;
    uint8_t *a = bb_stories_text(&s, 1, 50000, &a_bytes),
            *b = bb_stories_text(&s, 1, 10000, &b_bytes);
    uint8_t *c = bb_stories_text(&s, 2, 10000, &c_bytes);
    if (CHECK(t, a && b && c)) {
        CHECK(t, a_bytes >= 50000 && b_bytes >= 10000 && b_bytes < 10000 + BB_STORY_MAX_BYTES);
        CHECK(t, memcmp(a, b, b_bytes) == 0);
        CHECK(t, memcmp(b, c, 1000) != 0);
        CHECK(t, a[a_bytes - 1] == '\n');
        for (size_t i = 0; i < a_bytes; i++) {
            if (!CHECK_MSG(t, a[i] == '\n' || (a[i] >= ' ' && a[i] < 127 && !strchr("{}|/*", a[i])),
                           "byte %d", a[i]))
                break;
        }
    }
    free(a);
    free(b);
    free(c);
    bb_stories_close(&s);
}

static const test_row rows[] = {
    {"stories_have_one_derivation", stories_have_one_derivation},
    {"openings_are_prefix_free", openings_are_prefix_free},
    {"entropy_is_the_average", entropy_is_the_average},
    {"small_grammar_by_hand", small_grammar_by_hand},
    {"ambiguity_is_seen", ambiguity_is_seen},
    {"mistakes_in_a_grammar", mistakes_in_a_grammar},
    {"text_is_the_same_for_a_seed", text_is_the_same_for_a_seed},
};
TEST_MAIN(rows)
