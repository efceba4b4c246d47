/* The `bobbin` program: commands, flags, exit codes, and one line on stderr for each wrong use. */
#include "ops/table.h"
#include "tests/tools/shell.h"
#include "tools/args.h"
#include "tools/commands.h"

static void helps(test *t) {
    static const char *const commands[] = {"train",     "sample", "ops",  "op",
                                           "gradcheck", "export", "bench"};
    scratch s = scratch_open();
    said r;
    run_bobbin(&s, &r, "--help");
    CHECK(t, r.code == 0 && r.err[0] == '\0' && strstr(r.out, "usage: bobbin COMMAND"));
    for (int i = 0; i < COUNT(commands); i++) {
        CHECK_MSG(t, strstr(r.out, commands[i]) != NULL, "%s is not in the help", commands[i]);
        said own;
        char expected[64];
        snprintf(expected, sizeof expected, "usage: bobbin %s", commands[i]);
        run_bobbin(&s, &own, "%s --help", commands[i]);
        CHECK_MSG(t, own.code == 0 && own.err[0] == '\0' && strstr(own.out, expected),
                  "%s --help: %d %s", commands[i], own.code, own.err);
    }
    run_bobbin(&s, &r, "--version");
    CHECK(t, r.code == 0);
    CHECK_TEXT(t, r.out, "bobbin " BOBBIN_VERSION "\n");
    scratch_close(&s);
}

/* A wish of the environment that cannot be met: every command says so. */
static void refuses_wrong_wishes(test *t) {
    static const char *const commands[] = {
        "ops",     "ops --json", "op add --output x", "gradcheck add", "train --steps 1 --out x",
        "bench op"};
    scratch s = scratch_open();
    said r;
    setenv("BOBBIN_ISA", "nonsense", 1);
    for (int i = 0; i < COUNT(commands); i++) {
        run_bobbin(&s, &r, "%s", commands[i]);
        CHECK_MSG(t, r.code != 0 && r.out[0] == '\0' && strstr(r.err, "BOBBIN_ISA: expected"),
                  "%s: %d %s%s", commands[i], r.code, r.out, r.err);
    }
    unsetenv("BOBBIN_ISA");
    scratch_close(&s);
}

static void refuses_wrong_use(test *t) {
    static const struct {
        const char *arguments, *expected;
    } rows[] = {
        {"", "bobbin: expected a command (see bobbin --help)"},
        {"nonsense", "bobbin: unknown command 'nonsense'"},
        {"--nonsense", "bobbin: unknown command '--nonsense'"},
        {"ops --nope", "bobbin ops: unknown flag '--nope' (see bobbin ops --help)"},
        {"ops -j", "bobbin ops: unknown flag '-j'"},
        {"ops extra", "bobbin ops: unexpected 'extra'"},
        {"ops --json=yes", "bobbin ops: --json: expected no value, got 'yes'"},
        {"op", "bobbin op: NAME: expected a value, got nothing"},
        {"op add", "bobbin op: --output: expected a value, got nothing"},
        {"op add --output", "bobbin op: --output: expected a value, got nothing"},
        {"op add --output x --device tpu",
         "bobbin op: --device: expected one of cpu|cuda|cuda-sim, got 'tpu'"},
        {"op add --output x --path fast",
         "bobbin op: --path: expected one of auto|fused|composed, got 'fast'"},
        {"op nonsense --output x",
         "bobbin op: NAME: expected an op (see bobbin ops), got 'nonsense'"},
        {"op add sub --output x", "bobbin op: unexpected 'sub'"},
        {"gradcheck nonsense",
         "bobbin gradcheck: OP: expected an op (see bobbin ops) or all, got 'nonsense'"},
        {"train --steps x", "bobbin train: --steps: expected an integer"},
        {"train --data ''", "bobbin train: --data: expected a text that is not empty, got ''"},
        {"train --resume=", "bobbin train: --resume: expected a text that is not empty, got ''"},
        {"train --model ''", "bobbin train: --model: expected a text that is not empty, got ''"},
        {"train --out ''", "bobbin train: --out: expected a text that is not empty, got ''"},
        {"op '' --output x", "bobbin op: NAME: expected a text that is not empty, got ''"},
        {"train --nonsense 1", "bobbin train: unknown flag '--nonsense'"},
        {"sample --tokens -3", "bobbin sample: --tokens: expected an integer"},
        {"bench --nonsense", "bobbin bench: unknown flag '--nonsense'"},
        {"\"$(printf 'a\\nb')\"", "bobbin: unknown command"},
    };
    scratch s = scratch_open();
    said r;
    for (int i = 0; i < COUNT(rows); i++) {
        run_bobbin(&s, &r, "%s", rows[i].arguments);
        CHECK_REFUSED(t, &r, 2, rows[i].expected);
    }
    scratch_close(&s);
}

static void lists_ops(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    said r;
    run_bobbin(&s, &r, "ops");
    CHECK(t, r.code == 0 && r.err[0] == '\0');
    size_t lines = 0;
    for (const char *p = r.out; (p = strchr(p, '\n')); p++) lines++;
    CHECK_INT(t, lines, bb_op_count(ctx) + 1);
    run_bobbin(&s, &r, "ops --json");
    CHECK(t, r.code == 0 && r.err[0] == '\0');
    bb_json root, name, value;
    CHECK(t, bb_json_parse(ctx, "ops", r.out, strlen(r.out), &root) == BB_OK);
    int i = 0;
    for (bb_json_walk w = bb_json_begin(root); bb_json_next(&w); i++) {
        const bb_op *op = bb_op_at(ctx, i);
        CHECK(t, op && bb_json_get(w.value, "name", &name) && bb_json_equals(name, op->name));
        int inputs = 0, dtypes = 0, attributes = 0, expected = 0;
        CHECK(t, bb_json_get(w.value, "inputs", &value));
        for (bb_json_walk k = bb_json_begin(value); bb_json_next(&k);) inputs++;
        CHECK(t, inputs == bb_op_input_count(op));
        CHECK(t, bb_json_get(w.value, "attributes", &value));
        for (bb_json_walk k = bb_json_begin(value); bb_json_next(&k);) attributes++;
        while (op->attrs[expected].name) expected++;
        CHECK(t, attributes == expected);
        CHECK(t, bb_json_get(w.value, "dtypes", &value));
        for (bb_json_walk k = bb_json_begin(value); bb_json_next(&k);) dtypes++;
        CHECK_MSG(t, dtypes > 0, "%s: no dtype works", op->name);
        if (op == &bb_op_update_scale)
            CHECK_INT(t, dtypes, 1); /* f32: no other input is given it */
        CHECK(t, bb_json_get(w.value, "gradient", &value));
        CHECK(t, bb_json_equals(value, "no") == (op->gradient == bb_no_gradient));
    }
    CHECK_INT(t, i, bb_op_count(ctx));
    scratch_close(&s);
    bb_close(ctx);
}

/* What an op becomes in each mode of `bobbin export`. */
static void lists_export_forms(test *t) {
    static const struct {
        const char *op, *cell, *form[3]; /* composite, native, decomposed; NULL: none */
    } known[] = {
        {"RMSNormImpl",
         "function or RMSNormalization ",
         {"function", "RMSNormalization", "decomposition"}},
        {"RoPE", "function or RotaryEmbedding ", {"function", "RotaryEmbedding", "decomposition"}},
        {"SDPA", "function or Attention ", {"function", "Attention", "decomposition"}},
        {"swiglu", "function  ", {"function", "function", "decomposition"}},
        {"add", "Add ", {"Add", "Add", "Add"}},
        {"rand", "- ", {NULL, NULL, NULL}},
    };
    static const char *const modes[] = {"composite", "native", "decomposed"};
    enum { KNOWN = sizeof known / sizeof known[0] };
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    said r;
    int found = 0;
    run_bobbin(&s, &r, "ops");
    const char *head = strstr(r.out, "export ");
    for (int k = 0; CHECK(t, head) && k < KNOWN; k++) {
        char begin[64];
        snprintf(begin, sizeof begin, "\n%s ", known[k].op);
        const char *line = strstr(r.out, begin);
        CHECK_MSG(t,
                  line &&
                      strncmp(line + 1 + (head - r.out), known[k].cell, strlen(known[k].cell)) == 0,
                  "%s", known[k].op);
    }
    run_bobbin(&s, &r, "ops --json");
    bb_json root, name, forms, form;
    CHECK(t, bb_json_parse(ctx, "ops", r.out, strlen(r.out), &root) == BB_OK);
    for (bb_json_walk w = bb_json_begin(root); bb_json_next(&w);)
        for (int k = 0; k < KNOWN; k++) {
            if (!bb_json_get(w.value, "name", &name) || !bb_json_equals(name, known[k].op))
                continue;
            CHECK(t, bb_json_get(w.value, "export", &forms));
            for (int m = 0; m < 3; m++) {
                bool has = bb_json_get(forms, modes[m], &form);
                CHECK_MSG(t,
                          has ? known[k].form[m] && bb_json_equals(form, known[k].form[m])
                              : !known[k].form[m],
                          "%s, %s", known[k].op, modes[m]);
            }
            found++;
        }
    CHECK_INT(t, found, KNOWN);
    scratch_close(&s);
    bb_close(ctx);
}

static void says_when_the_disk_is_full(test *t) {
    scratch s = scratch_open();
    said r;
    if (access("/dev/full", W_OK) != 0) {
        test_skip(t, "no /dev/full here");
    } else {
        run_bobbin(&s, &r, "op arange --attrs '{\"stop\": 4}' --output /dev/full");
        CHECK_REFUSED(t, &r, 1, "No space left on device");
        char command[1024];
        snprintf(command, sizeof command, "'%s' ops >/dev/full 2>'%s/.err'", BOBBIN_BIN, s.folder);
        int status = system(command);
        CHECK(t, WIFEXITED(status) && WEXITSTATUS(status) == 1);
    }
    scratch_close(&s);
}

static void checks_gradients(test *t) {
    scratch s = scratch_open();
    said r;
    run_bobbin(&s, &r, "gradcheck RMSNormImpl");
    CHECK_MSG(t, r.code == 0 && strstr(r.out, "PASS") && !strstr(r.out, "FAIL"), "%s%s", r.out,
              r.err);
    CHECK(t, strstr(r.out, "composed") && strstr(r.out, "fused"));
    run_bobbin(&s, &r, "gradcheck argmax");
    CHECK(t, r.code == 0 && strstr(r.out, "no gradient"));
    run_bobbin(&s, &r, "gradcheck");
    CHECK_MSG(t, r.code == 0 && !strstr(r.out, "FAIL"), "%s%s", r.out, r.err);
    scratch_close(&s);
}

/* ---- The parser itself */

typedef struct options {
    int64_t n;
    double x;
    const char *text, *word;
    int choice;
    bool on, n_given;
} options;

static const bb_flag flags[] = {
    {.name = "n",
     .type = BB_FLAG_INT,
     .offset = offsetof(options, n),
     .min = 1,
     .fallback = "7",
     .given = offsetof(options, n_given)},
    {.name = "x",
     .type = BB_FLAG_NUMBER,
     .offset = offsetof(options, x),
     .min = 0,
     .max = 1,
     .fallback = "0.5"},
    {.name = "text", .type = BB_FLAG_TEXT, .offset = offsetof(options, text)},
    {.name = "choice",
     .type = BB_FLAG_CHOICE,
     .offset = offsetof(options, choice),
     .choices = "red|green|blue",
     .fallback = "green"},
    {.name = "on", .type = BB_FLAG_SWITCH, .offset = offsetof(options, on)},
    {.name = "WORD", .type = BB_FLAG_TEXT, .offset = offsetof(options, word), .positional = true},
    {.name = NULL},
};
static const bb_usage usage = {"test", "a test", flags};

static void parses_flags(test *t) {
    options o;
    char *none[] = {"test"};
    CHECK(t, bb_args_parse(&usage, 1, none, &o) == BB_ARGS_GO);
    CHECK(t, o.n == 7 && o.x == 0.5 && !o.text && !o.word && o.choice == 1 && !o.on && !o.n_given);
    char *all[] = {"test", "--n",      "12",   "--x=0.25", "--text",
                   "--n",  "--choice", "blue", "word",     "--on"};
    CHECK(t, bb_args_parse(&usage, 10, all, &o) == BB_ARGS_GO);
    CHECK(t, o.n == 12 && o.x == 0.25 && o.choice == 2 && o.on && o.n_given);
    CHECK_TEXT(t, o.text, "--n");
    CHECK_TEXT(t, o.word, "word");
    char *dashes[] = {"test", "--", "--help"};
    CHECK(t, bb_args_parse(&usage, 3, dashes, &o) == BB_ARGS_GO);
    CHECK_TEXT(t, o.word, "--help");
    char *minus[] = {"test", "-"};
    CHECK(t, bb_args_parse(&usage, 2, minus, &o) == BB_ARGS_GO);
    CHECK_TEXT(t, o.word, "-");
}

static void parses_values(test *t) {
    static const bb_flag below = {.name = "b", .type = BB_FLAG_INT, .min = -2, .max = 5},
                         any = {.name = "a", .type = BB_FLAG_INT, .any = true};
    static const struct {
        const bb_flag *flag;
        const char *word, *expected; /* NULL: accepted */
    } rows[] = {
        {&flags[0], "1", NULL},
        {&flags[0], "9223372036854775807", NULL},
        {&flags[0], "0", "an integer >= 1"},
        {&flags[0], "-1", "an integer >= 1"},
        {&flags[0], "", "an integer >= 1"},
        {&flags[0], "1.5", "an integer >= 1"},
        {&flags[0], " 1", "an integer >= 1"},
        {&flags[0], "1e3", "an integer >= 1"},
        {&flags[0], "+1", "an integer >= 1"},
        {&flags[0], "9223372036854775808", "an integer >= 1"},
        {&flags[1], "1", NULL},
        {&flags[1], "1e-3", NULL},
        {&flags[1], "1.01", "a number from 0 to 1"},
        {&flags[1], "nan", "a number from 0 to 1"},
        {&flags[1], "inf", "a number from 0 to 1"},
        {&flags[1], "", "a number from 0 to 1"},
        {&flags[1], "0.5x", "a number from 0 to 1"},
        {&flags[3], "red", NULL},
        {&flags[3], "re", "one of red|green|blue"},
        {&flags[3], "", "one of red|green|blue"},
        {&flags[3], "red|green", "one of red|green|blue"},
        {&below, "-2", NULL},
        {&below, "-3", "an integer from -2 to 5"},
        {&below, "6", "an integer from -2 to 5"},
        {&any, "-9223372036854775808", NULL},
        {&any, "x", "an integer"},
    };
    for (int i = 0; i < COUNT(rows); i++) {
        union {
            int64_t n;
            double x;
            int choice;
            const char *text;
        } field;
        char expected[BB_EXPECTED_BYTES] = "";
        bool ok = bb_flag_parse(rows[i].flag, rows[i].word, &field, expected);
        CHECK_MSG(t, ok == (rows[i].expected == NULL), "--%s %s", rows[i].flag->name, rows[i].word);
        if (rows[i].expected) CHECK_TEXT(t, expected, rows[i].expected);
    }
}

static void maps_exit_codes(test *t) {
    CHECK_INT(t, bb_exit_code(BB_OK), 0);
    CHECK_INT(t, bb_exit_code(BB_ERR_MEMORY), 1);
    CHECK_INT(t, bb_exit_code(BB_ERR_IO), 1);
    CHECK_INT(t, bb_exit_code(BB_ERR_DEVICE), 1);
    CHECK_INT(t, bb_exit_code(BB_ERR_ARGUMENT), 2);
    CHECK_INT(t, bb_exit_code(BB_ERR_STATE), 2);
    CHECK_INT(t, bb_exit_code(BB_ERR_FORMAT), 2);
    CHECK_INT(t, bb_exit_code(BB_ERR_UNSUPPORTED), 2);
}

static const test_row rows[] = {
    {"helps", helps},
    {"refuses_wrong_use", refuses_wrong_use},
    {"refuses_wrong_wishes", refuses_wrong_wishes},
    {"lists_ops", lists_ops},
    {"lists_export_forms", lists_export_forms},
    {"says_when_the_disk_is_full", says_when_the_disk_is_full},
    {"checks_gradients", checks_gradients},
    {"parses_flags", parses_flags},
    {"parses_values", parses_values},
    {"maps_exit_codes", maps_exit_codes},
};
TEST_MAIN(rows)
