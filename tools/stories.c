/* Compiles the story grammar, draws stories and computes their entropy. The idea and the notation
 * are in tools/stories.h, the grammar in tools/stories_grammar.c. */
#include "tools/stories.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/random.h"

static int find_rule(const bb_stories *s, const char *name, size_t bytes) {
    for (int i = 0; i < s->rule_count; i++) {
        if (strlen(s->rules[i].name) == bytes && memcmp(s->rules[i].name, name, bytes) == 0)
            return i;
    }
    return -1;
}

/* The slot of a remembered name; a new one is added if `rule` is not -1. */
static int find_name(bb_stories *s, const char *name, size_t bytes, int rule) {
    for (int i = 0; i < s->name_count; i++) {
        if ((size_t)s->name_bytes[i] == bytes && memcmp(s->name[i], name, bytes) == 0) return i;
    }
    if (rule < 0 || s->name_count == BB_STORY_NAMES) return -1;
    int slot = s->name_count++;
    s->name[slot] = name;
    s->name_bytes[slot] = (int)bytes;
    s->name_rule[slot] = rule;
    return slot;
}

/* Compiles what stands between two braces. */
static const char *compile_reference(bb_stories *s, const char *text, const char *end,
                                     bb_story_item *item) {
    *item = (bb_story_item){.kind = BB_STORY_DRAW, .name = -1};
    const char *dot = memchr(text, '.', (size_t)(end - text));
    if (dot) {
        item->form = dot[1] - '0';
        end = dot;
    }
    if (item->form < 0 || item->form >= BB_STORY_FORMS) return "a form that is not 0 to 3";
    if (*text == '=') {
        item->kind = BB_STORY_RECALL;
        item->name = find_name(s, text + 1, (size_t)(end - text - 1), -1);
        if (item->name < 0) return "a name is recalled that nothing before it binds";
        item->rule = s->name_rule[item->name];
        return NULL;
    }
    const char *colon = memchr(text, ':', (size_t)(end - text));
    const char *rule = colon ? colon + 1 : text;
    item->rule = find_rule(s, rule, (size_t)(end - rule));
    if (item->rule < 0) return "a rule that is not there";
    if (!colon) return NULL;
    item->name = find_name(s, text, (size_t)(colon - text), item->rule);
    if (item->name < 0) return "too many names";
    return s->name_rule[item->name] == item->rule ? NULL : "a name bound to two rules";
}

/* Compiles one alternative, text[0..end). A slash outside braces separates forms, which are plain
 * words. */
static const char *compile_alternative(bb_stories *s, const char *text, const char *end) {
    bb_story_alternative *a = &s->alternatives[s->alternative_count++];
    *a = (bb_story_alternative){.first = s->item_count, .weight = 1, .forms = 1};
    if (end - text > 2 && text[1] == '*') {
        a->weight = text[0] - '0';
        text += 2;
    }
    a->form[0] = text;
    while (text < end) {
        bb_story_item *item = &s->items[s->item_count++];
        if (*text == '{') {
            const char *close = memchr(text, '}', (size_t)(end - text));
            const char *why =
                close ? compile_reference(s, text + 1, close, item) : "a brace is not closed";
            if (why) return why;
            text = close + 1;
        } else if (*text == '/') {
            if (a->forms == BB_STORY_FORMS || s->item_count - 1 != a->first + 1)
                return "forms of what is no word";
            s->item_count--;
            a->form[a->forms++] = ++text;
            while (text < end && *text != '/') text++;
            a->form_bytes[a->forms - 1] = (size_t)(text - a->form[a->forms - 1]);
        } else {
            size_t bytes = 0;
            while (text + bytes < end && !strchr("{/", text[bytes])) bytes++;
            *item = (bb_story_item){.kind = BB_STORY_TEXT, .text = text, .bytes = bytes};
            text += bytes;
        }
    }
    a->count = s->item_count - a->first;
    a->form_bytes[0] = a->count ? s->items[a->first].bytes : 0;
    return NULL;
}

static const char *compile_rule(bb_stories *s, bb_story_rule *rule, const char *text) {
    rule->first = s->alternative_count;
    for (;;) {
        const char *end = text + strcspn(text, "|");
        const char *why = compile_alternative(s, text, end);
        if (why) return why;
        const bb_story_alternative *a = &s->alternatives[rule->first + rule->count++];
        if (a->forms != s->alternatives[rule->first].forms)
            return "a word lacks a form that its neighbours have";
        rule->weight += a->weight;
        if (*end == '\0') break;
        text = end + 1;
    }
    for (int i = 0; i < rule->count; i++) {
        bb_story_alternative *a = &s->alternatives[rule->first + i];
        a->p = (double)a->weight / rule->weight;
    }
    return NULL;
}

/* Expected nats and bytes of one draw from a rule, by recursion. Choices are independent of one
 * another, so the length of a recalled word is its mean over the rule that it was drawn from,
 * wherever it is repeated. depth guards against a cycle. */
static const char *measure(bb_stories *s, int index, int depth) {
    bb_story_rule *rule = &s->rules[index];
    if (rule->bytes[0] > 0) return NULL;
    if (depth > s->rule_count) return "a rule that contains itself";
    double nats = 0, bytes = 0;
    for (int i = 0; i < rule->count; i++) {
        const bb_story_alternative *a = &s->alternatives[rule->first + i];
        double inner_nats = 0, inner_bytes = 0;
        for (int k = 0; k < a->count; k++) {
            const bb_story_item *item = &s->items[a->first + k];
            if (item->kind == BB_STORY_TEXT) {
                inner_bytes += (double)item->bytes;
                continue;
            }
            const char *why = measure(s, item->rule, depth + 1);
            if (why) return why;
            if (item->form >= s->alternatives[s->rules[item->rule].first].forms)
                return "a form that its rule lacks";
            inner_bytes += s->rules[item->rule].bytes[item->form];
            if (item->kind == BB_STORY_DRAW) inner_nats += s->rules[item->rule].nats;
        }
        nats += a->p * (inner_nats - log(a->p));
        bytes += a->p * inner_bytes;
        for (int f = 1; f < a->forms; f++) rule->bytes[f] += a->p * (double)a->form_bytes[f];
    }
    rule->nats = nats;
    rule->bytes[0] = bytes;
    return NULL;
}

static const char *compile(bb_stories *s, const bb_story_source *source) {
    size_t alternatives = 0, items = 0;
    for (const bb_story_source *row = source; row->rule; row++) {
        s->rule_count++;
        alternatives++;
        items += 2;
        for (const char *c = row->alternatives; *c; c++) {
            alternatives += *c == '|';
            items += *c == '|' ? 2 : *c == '{' ? 2 : *c == '/';
        }
    }
    s->rules = calloc((size_t)s->rule_count, sizeof *s->rules);
    s->alternatives = calloc(alternatives, sizeof *s->alternatives);
    s->items = calloc(items, sizeof *s->items);
    if (!s->rules || !s->alternatives || !s->items) return "out of memory";
    for (int i = 0; i < s->rule_count; i++) s->rules[i].name = source[i].rule;
    for (int i = 0; i < s->rule_count; i++) {
        const char *why = compile_rule(s, &s->rules[i], source[i].alternatives);
        if (why) return why;
    }
    return measure(s, 0, 0);
}

bool bb_stories_open(bb_stories *stories, const bb_story_source *source, const char **why) {
    memset(stories, 0, sizeof *stories);
    const char *mistake = compile(stories, source ? source : bb_story_grammar);
    if (!mistake) return true;
    if (why) *why = mistake;
    bb_stories_close(stories);
    return false;
}

void bb_stories_close(bb_stories *stories) {
    free(stories->rules);
    free(stories->alternatives);
    free(stories->items);
    memset(stories, 0, sizeof *stories);
}

double bb_stories_entropy(const bb_stories *stories) {
    return stories->rules[0].nats / stories->rules[0].bytes[0];
}

typedef struct story_writer {
    const bb_stories *stories;
    uint64_t seed, *counter;
    char *text;
    size_t bytes;
    double nats;
    const bb_story_alternative *remembered[BB_STORY_NAMES];
} story_writer;

static void append(story_writer *w, const char *text, size_t bytes) {
    if (bytes > BB_STORY_MAX_BYTES - w->bytes) bytes = BB_STORY_MAX_BYTES - w->bytes;
    memcpy(w->text + w->bytes, text, bytes);
    w->bytes += bytes;
}

static const bb_story_alternative *draw(story_writer *w, const bb_story_rule *rule) {
    uint64_t bits = bb_random_bits(w->seed, (*w->counter)++);
    int ticket = (int)bb_random_below(bits, (uint64_t)rule->weight);
    const bb_story_alternative *a = &w->stories->alternatives[rule->first];
    while (ticket >= a->weight) ticket -= (a++)->weight;
    w->nats -= log(a->p);
    return a;
}

static void write_alternative(story_writer *w, const bb_story_alternative *a, int form) {
    if (form > 0) {
        append(w, a->form[form], a->form_bytes[form]);
        return;
    }
    for (int i = 0; i < a->count; i++) {
        const bb_story_item *item = &w->stories->items[a->first + i];
        if (item->kind == BB_STORY_TEXT) {
            append(w, item->text, item->bytes);
        } else if (item->kind == BB_STORY_RECALL) {
            write_alternative(w, w->remembered[item->name], item->form);
        } else {
            const bb_story_alternative *choice = draw(w, &w->stories->rules[item->rule]);
            if (item->name >= 0) w->remembered[item->name] = choice;
            write_alternative(w, choice, item->form);
        }
    }
}

size_t bb_stories_write(const bb_stories *stories, uint64_t seed, uint64_t *counter, char *text,
                        double *nats) {
    story_writer w = {.stories = stories, .seed = seed, .counter = counter, .text = text};
    write_alternative(&w, draw(&w, &stories->rules[0]), 0);
    if (nats) *nats += w.nats;
    return w.bytes;
}

uint8_t *bb_stories_text(const bb_stories *stories, uint64_t seed, size_t bytes, size_t *length) {
    char *text = malloc(bytes + BB_STORY_MAX_BYTES);
    uint64_t counter = 0;
    *length = 0;
    while (text && *length < bytes)
        *length += bb_stories_write(stories, seed, &counter, text + *length, NULL);
    return (uint8_t *)text;
}
