/* The default text of `bobbin train`: little stories from a probabilistic grammar whose entropy is
 * known exactly.
 *
 * tools/stories_grammar.c holds the grammar in a small notation, tools/stories.c compiles it, draws
 * stories from it and computes its entropy; tests/tools/test_stories.c parses stories back and
 * holds all of this to account.
 *
 * Why the entropy is exact. A story is made by independent choices between alternatives. At every
 * choice no alternative's opening words are a prefix of another's, so the text tells each choice:
 * it has exactly one derivation, and the entropy of the text is the entropy of the choices. Names
 * and things chosen once are repeated later by reference, which costs bytes but no choice: that is
 * what a model can learn to copy. Stories follow one another independently, so the entropy rate is
 * E[nats of a story] / E[bytes of a story]; both expectations are linear and come from one
 * recursion over the grammar, which has no cycles. */
#ifndef BOBBIN_TOOLS_STORIES_H
#define BOBBIN_TOOLS_STORIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The grammar as text. Alternatives are separated by '|'; "3*" before one gives it weight 3 instead
 * of 1.
 *
 *   {rule} {rule.f}              draws an alternative of a rule and writes its form f (else form 0)
 *   {name:rule} {name:rule.f}    the same, and remembers the choice for the rest of the story
 *   {=name} {=name.f}            writes form f of what was remembered
 *
 * Forms of a word are separated by '/': "owl/an owl". The first rule is the story. */
typedef struct bb_story_source {
    const char *rule, *alternatives; /* rule NULL ends the table */
} bb_story_source;
extern const bb_story_source bb_story_grammar[];

enum { BB_STORY_NAMES = 24, BB_STORY_FORMS = 4, BB_STORY_MAX_BYTES = 4096 };

typedef enum bb_story_kind { BB_STORY_TEXT, BB_STORY_DRAW, BB_STORY_RECALL } bb_story_kind;

typedef struct bb_story_item {
    bb_story_kind kind;
    int rule; /* DRAW: which; RECALL: the rule its name is drawn from */
    int name; /* DRAW: where to remember the choice, -1: nowhere; RECALL: what to repeat */
    int form;
    const char *text; /* TEXT */
    size_t bytes;
} bb_story_item;

typedef struct bb_story_alternative {
    int first, count; /* items; words have one, a text, for form 0 */
    int weight;
    double p;  /* weight / sum of the rule's weights */
    int forms; /* words: form f is form[f]; sentences have one form, the items */
    const char *form[BB_STORY_FORMS];
    size_t form_bytes[BB_STORY_FORMS];
} bb_story_alternative;

typedef struct bb_story_rule {
    const char *name;
    int first, count;             /* alternatives */
    int weight;                   /* sum of their weights */
    double nats;                  /* expected -log p of one draw, with everything drawn inside */
    double bytes[BB_STORY_FORMS]; /* expected length of each form */
} bb_story_rule;

/* Compiled; open to the eyes of the test. */
typedef struct bb_stories {
    bb_story_rule *rules;
    bb_story_alternative *alternatives;
    bb_story_item *items;
    int rule_count, alternative_count, item_count, name_count;
    const char *name[BB_STORY_NAMES];
    int name_bytes[BB_STORY_NAMES], name_rule[BB_STORY_NAMES];
} bb_stories;

/* Compiles a grammar (NULL: the default one). False: out of memory or a mistake in the grammar;
 * *why says which. */
bool bb_stories_open(bb_stories *stories, const bb_story_source *source, const char **why);
void bb_stories_close(bb_stories *stories);

/* Entropy of the text in nats per byte. */
double bb_stories_entropy(const bb_stories *stories);

/* Writes the story that starts at *counter of the random stream `seed` into text
 * (BB_STORY_MAX_BYTES of room), moves the counter, and adds -log of its probability to *nats (may
 * be NULL). Returns its length in bytes. */
size_t bb_stories_write(const bb_stories *stories, uint64_t seed, uint64_t *counter, char *text,
                        double *nats);

/* Fills a new block with whole stories, at least `bytes` of them in all; free() it. NULL: out of
 * memory. */
uint8_t *bb_stories_text(const bb_stories *stories, uint64_t seed, size_t bytes, size_t *length);

#endif
