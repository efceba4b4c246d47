/* The parser behind args.h. */
#include "tools/args.h"
#include "tools/commands.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Values */

static bool parse_int(const bb_flag *flag, const char *word, void *field, char *expected) {
    char *end;
    errno = 0;
    long long value = strtoll(word, &end, 10);
    bool number =
        end != word && *end == '\0' && errno == 0 && strchr("-0123456789", *word) && *word;
    bool bounded = flag->max > 0 || flag->min < 0;
    if (number &&
        (flag->any || ((double)value >= flag->min && (!bounded || (double)value <= flag->max)))) {
        *(int64_t *)field = value;
        return true;
    }
    if (flag->any)
        snprintf(expected, BB_EXPECTED_BYTES, "an integer");
    else if (bounded)
        snprintf(expected, BB_EXPECTED_BYTES, "an integer from %.0f to %.0f", flag->min, flag->max);
    else
        snprintf(expected, BB_EXPECTED_BYTES, "an integer >= %.0f", flag->min);
    return false;
}

static bool parse_number(const bb_flag *flag, const char *word, void *field, char *expected) {
    char *end;
    double value = strtod(word, &end);
    bool number =
        end != word && *end == '\0' && isfinite(value) && strchr("-.0123456789", *word) && *word;
    bool bounded = flag->max > 0 || flag->min < 0;
    if (number && (flag->any || (value >= flag->min && (!bounded || value <= flag->max)))) {
        *(double *)field = value;
        return true;
    }
    if (flag->any)
        snprintf(expected, BB_EXPECTED_BYTES, "a number");
    else if (bounded)
        snprintf(expected, BB_EXPECTED_BYTES, "a number from %g to %g", flag->min, flag->max);
    else
        snprintf(expected, BB_EXPECTED_BYTES, "a number >= %g", flag->min);
    return false;
}

static bool parse_choice(const bb_flag *flag, const char *word, void *field, char *expected) {
    size_t n = strlen(word);
    int index = 0;
    for (const char *p = flag->choices; p; index++) {
        size_t length = strcspn(p, "|");
        if (length == n && memcmp(p, word, n) == 0) {
            *(int *)field = index;
            return true;
        }
        p = p[length] ? p + length + 1 : NULL;
    }
    snprintf(expected, BB_EXPECTED_BYTES, "one of %s", flag->choices);
    return false;
}

static bool parse_text(const bb_flag *flag, const char *word, void *field, char *expected) {
    *(const char **)field = word;
    if (*word || flag->any) return true;
    snprintf(expected, BB_EXPECTED_BYTES, "a text that is not empty");
    return false;
}

static bool parse_switch(const bb_flag *flag, const char *word, void *field, char *expected) {
    (void)flag;
    (void)word;
    (void)expected;
    *(bool *)field = true;
    return true;
}

/* By bb_flag_type. */
typedef struct value_kind {
    bool (*parse)(const bb_flag *flag, const char *word, void *field, char *expected);
    size_t bytes;
    const char *shown; /* in the help */
} value_kind;
static const value_kind kinds[] = {
    [BB_FLAG_TEXT] = {parse_text, sizeof(const char *), "TEXT"},
    [BB_FLAG_INT] = {parse_int, sizeof(int64_t), "N"},
    [BB_FLAG_NUMBER] = {parse_number, sizeof(double), "X"},
    [BB_FLAG_CHOICE] = {parse_choice, sizeof(int), NULL},
    [BB_FLAG_SWITCH] = {parse_switch, sizeof(bool), NULL},
};

bool bb_flag_parse(const bb_flag *flag, const char *word, void *field,
                   char expected[BB_EXPECTED_BYTES]) {
    return kinds[flag->type].parse(flag, word, field, expected);
}

/* ---- Help */

static const char *value_name(const bb_flag *flag) {
    if (flag->value) return flag->value;
    return flag->type == BB_FLAG_CHOICE ? flag->choices : kinds[flag->type].shown;
}

static void print_help(const bb_usage *usage) {
    printf("usage: bobbin %s", usage->command);
    for (const bb_flag *f = usage->flags; f->name; f++)
        if (f->positional) printf(f->required ? " %s" : " [%s]", f->name);
    for (const bb_flag *f = usage->flags; f->name; f++)
        if (!f->positional && f->required) printf(" --%s %s", f->name, value_name(f));
    printf(" [flags]\n%s\n\n", usage->summary);
    for (const bb_flag *f = usage->flags; f->name; f++) {
        char left[80];
        const char *value = f->positional || f->type == BB_FLAG_SWITCH ? NULL : value_name(f);
        snprintf(left, sizeof left, "%s%s%s%s", f->positional ? "" : "--", f->name,
                 value ? " " : "", value ? value : "");
        printf("  %-28s %s%s", left, strlen(left) > 28 ? "\n                               " : "",
               f->help ? f->help : "");
        if (f->fallback) printf(" (default %s)", f->fallback);
        if (f->required) printf(" (required)");
        printf("\n");
    }
    printf("  %-28s this text\n", "--help");
}

/* ---- Parsing */

typedef struct parse {
    const bb_usage *usage;
    char *options;
} parse;

static int set(const parse *p, const bb_flag *flag, const char *word) {
    char expected[BB_EXPECTED_BYTES] = "", named[64];
    if (flag->given) p->options[flag->given] = 1;
    if (bb_flag_parse(flag, word, p->options + flag->offset, expected)) return BB_ARGS_GO;
    snprintf(named, sizeof named, "%s%s", flag->positional ? "" : "--", flag->name);
    return bb_usage_error(p->usage->command, "%s: expected %s, got '%s'", named, expected, word);
}

static void set_defaults(const parse *p) {
    for (const bb_flag *f = p->usage->flags; f->name; f++) {
        memset(p->options + f->offset, 0, kinds[f->type].bytes);
        if (f->given) p->options[f->given] = 0;
        char expected[BB_EXPECTED_BYTES];
        if (f->fallback && f->type != BB_FLAG_SWITCH)
            bb_flag_parse(f, f->fallback, p->options + f->offset, expected);
    }
}

static const bb_flag *find(const bb_usage *usage, const char *name, size_t n) {
    for (const bb_flag *f = usage->flags; f->name; f++)
        if (!f->positional && strlen(f->name) == n && memcmp(f->name, name, n) == 0) return f;
    return NULL;
}

static int check_required(const parse *p, const bool *given) {
    for (int i = 0; p->usage->flags[i].name; i++) {
        const bb_flag *f = &p->usage->flags[i];
        if (f->required && !given[i])
            return bb_usage_error(p->usage->command, "%s%s: expected a value, got nothing",
                                  f->positional ? "" : "--", f->name);
    }
    return BB_ARGS_GO;
}

/* The flag that the word at argv[*i] is for, with its value, taking the next word where it needs
 * one. NULL: refused. */
static const bb_flag *take_flag(const parse *p, int argc, char **argv, int *i, const char **value) {
    const char *word = argv[*i], *command = p->usage->command;
    size_t n = strcspn(word, "=");
    const bb_flag *flag = n > 2 && word[1] == '-' ? find(p->usage, word + 2, n - 2) : NULL;
    *value = word[n] ? word + n + 1 : NULL;
    if (!flag) {
        bb_usage_error(command, "unknown flag '%s' (see bobbin %s --help)", word, command);
        return NULL;
    }
    if (flag->type == BB_FLAG_SWITCH && *value) {
        bb_usage_error(command, "--%s: expected no value, got '%s'", flag->name, *value);
        return NULL;
    }
    if (flag->type != BB_FLAG_SWITCH && !*value && *i + 1 < argc) *value = argv[++*i];
    if (flag->type != BB_FLAG_SWITCH && !*value) {
        bb_usage_error(command, "--%s: expected a value, got nothing", flag->name);
        return NULL;
    }
    return flag;
}

/* The flag that the `seen`th word without dashes is for. NULL: refused. */
static const bb_flag *take_positional(const parse *p, const char *word, int seen) {
    for (const bb_flag *f = p->usage->flags; f->name; f++)
        if (f->positional && seen-- == 0) return f;
    bb_usage_error(p->usage->command, "unexpected '%s' (see bobbin %s --help)", word,
                   p->usage->command);
    return NULL;
}

static int parse_words(const parse *p, int argc, char **argv, bool *given) {
    int seen = 0;
    bool flags_end = false;
    for (int i = 1; i < argc; i++) {
        const char *value = argv[i];
        if (!flags_end && strcmp(value, "--") == 0) {
            flags_end = true;
            continue;
        }
        bool word = flags_end || value[0] != '-' || value[1] == '\0';
        const bb_flag *flag =
            word ? take_positional(p, value, seen++) : take_flag(p, argc, argv, &i, &value);
        if (!flag) return BB_EXIT_USAGE;
        given[flag - p->usage->flags] = true;
        int code = set(p, flag, value);
        if (code != BB_ARGS_GO) return code;
    }
    return BB_ARGS_GO;
}

enum { MAX_FLAGS = 64 };

int bb_args_parse(const bb_usage *usage, int argc, char **argv, void *options) {
    parse p = {usage, options};
    bool given[MAX_FLAGS] = {false};
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") != 0 && strcmp(argv[i], "-h") != 0) continue;
        print_help(usage);
        return 0;
    }
    set_defaults(&p);
    int code = parse_words(&p, argc, argv, given);
    return code == BB_ARGS_GO ? check_required(&p, given) : code;
}
