/* The command line of a `bobbin` command as a table: one row a flag, with type, range, default and
 * help. Parsing fills the command's options struct; a wrong word is one line on stderr, such as
 *     bobbin train: --steps: expected an integer >= 1, got 'x'
 *
 *     typedef struct options { int64_t steps; int device; bool json; } options;
 *     static const bb_flag flags[] = {
 *         {"steps", BB_FLAG_INT, offsetof(options, steps), .min = 1, .fallback = "1000",
 *          .help = "optimizer steps"},
 *         {"device", BB_FLAG_CHOICE, offsetof(options, device), .choices = "cpu|cuda"},
 *         {.name = NULL}};
 *     static const bb_usage usage = {"train", "trains a transformer", flags};
 *     options o;
 *     int code = bb_args_parse(&usage, argc, argv, &o);
 *     if (code != BB_ARGS_GO) return code;
 */
#ifndef BOBBIN_TOOLS_ARGS_H
#define BOBBIN_TOOLS_ARGS_H

#include "core/core.h"

typedef enum bb_flag_type {
    BB_FLAG_TEXT,   /* const char *; NULL without a default */
    BB_FLAG_INT,    /* int64_t */
    BB_FLAG_NUMBER, /* double, finite */
    BB_FLAG_CHOICE, /* int: index into `choices` */
    BB_FLAG_SWITCH  /* bool: present or not, takes no value */
} bb_flag_type;

typedef struct bb_flag {
    const char *name; /* "steps" for --steps N and --steps=N; NULL ends the table */
    bb_flag_type type;
    size_t offset;        /* of the field in the options struct */
    const char *fallback; /* the default as the user would write it; NULL: zero, first, or NULL */
    double min, max;      /* inclusive, for INT and NUMBER; max 0 with min >= 0: no upper bound */
    bool any;             /* no bounds at all; for TEXT: it may be empty */
    const char *choices;  /* "cpu|cuda" */
    const char *value;    /* what help calls the value, "FILE"; NULL: N, X, TEXT, the choices */
    const char *help;
    bool positional; /* a word without dashes, in table order */
    bool required;
    size_t given; /* offset of a bool field told whether the user named this flag; 0: none */
} bb_flag;

typedef struct bb_usage {
    const char *command; /* "train" */
    const char *summary; /* one line */
    const bb_flag *flags;
} bb_usage;

enum { BB_ARGS_GO = -1 };

/* argv[0] is the command's name. BB_ARGS_GO: options is filled, go on. Otherwise the exit code to
 * return: 0 after --help (on stdout), 2 after wrong use (one line on stderr). */
int bb_args_parse(const bb_usage *usage, int argc, char **argv, void *options);

/* A word by the rule of a flag, for commands that read the same values elsewhere. False: *expected
 * says what. */
enum { BB_EXPECTED_BYTES = 160 };
bool bb_flag_parse(const bb_flag *flag, const char *word, void *field,
                   char expected[BB_EXPECTED_BYTES]);

#endif
