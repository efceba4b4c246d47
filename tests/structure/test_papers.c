/* The papers made by the build: the manual page has every command and flag, the reference has every
 * exported function, and a function without a word about it stops the reference. */
#include "tests/support/files.h"
#include "tests/support/test.h"

static const char man[] = BOBBIN_BINARY_DIR "/papers/bobbin.1";
static const char pages[] = BOBBIN_BINARY_DIR "/papers/reference";

/* `--steps N  text` becomes `\-\-steps N`, as it stands in the page. */
static void check_flag(test *t, const char *page, const char *command, const char *line) {
    char flag[256] = "\n.B ";
    size_t n = strlen(flag);
    for (; *line && strncmp(line, "  ", 2) != 0 && n < sizeof flag - 4; line++) {
        if (*line == '-') flag[n++] = '\\';
        flag[n++] = *line;
    }
    if (flag[n - 1] == ' ') n--; /* where the text is on the next line */
    flag[n] = '\0';
    CHECK_MSG(t, strstr(page, flag), "bobbin %s: %s is not in the manual page", command, flag + 4);
}

static void check_command(test *t, const char *page, const char *command) {
    char shell[512], help[16384], heading[128];
    int flags = 0;
    snprintf(shell, sizeof shell, "'%s' %s --help", BOBBIN_BIN, command);
    if (!CHECK_INT(t, run_command(shell, help, sizeof help), 0)) return;
    snprintf(heading, sizeof heading, "\n.SS \"bobbin %s ", command);
    CHECK_MSG(t, strstr(page, heading), "no section of bobbin %s", command);
    for (char *line = strtok(help, "\n"); line; line = strtok(NULL, "\n")) {
        bool flag = strncmp(line, "  --", 4) == 0;
        if (flag) check_flag(t, page, command, line + 2);
        flags += flag;
    }
    CHECK(t, flags > 0);
}

static void test_man(test *t) {
    char help[4096], said[4096], *page = read_text(man);
    if (!CHECK(t, page) ||
        !CHECK_INT(t, run_command("'" BOBBIN_BIN "' --help", help, sizeof help), 0))
        return;
    int commands = 0;
    for (char *line = help; (line = strstr(line, "\n  ")); line++) {
        char command[64];
        if (sscanf(line, "\n  %63s", command) != 1) continue;
        check_command(t, page, command);
        commands++;
    }
    CHECK(t, commands >= 6);
    free(page);
    if (run_command("groff --version", said, sizeof said) != 0) return;
    run_command("groff -man -Tascii -ww -z '" BOBBIN_BINARY_DIR "/papers/bobbin.1' 2>&1", said,
                sizeof said);
    CHECK_TEXT(t, said, "");
}

static void test_reference(test *t) {
    char *names = read_text(BOBBIN_SOURCE_DIR "/tests/structure/exports.txt"), name[256], link[300];
    char path[512];
    int used, missing = 0;
    snprintf(path, sizeof path, "%s/index.html", pages);
    char *index = read_text(path);
    if (!CHECK(t, names && index)) return;
    for (const char *p = names; sscanf(p, "%200s%n", name, &used) == 1; p += used) {
        snprintf(link, sizeof link, "#%s\">", name);
        missing += !CHECK_MSG(t, strstr(index, link), "%s is not in the reference", name);
    }
    CHECK_INT(t, missing, 0);
    free(names);
    free(index);
    /* A page knows the op behind a function: formula, attribute, default. */
    snprintf(path, sizeof path, "%s/ops.ops.html", pages);
    char *ops = read_text(path);
    CHECK(t, ops && strstr(ops, "<a id=\"bb_rms_norm\"></a>"));
    CHECK(t, ops && strstr(ops, "RMSNormImpl, a composite op: "));
    CHECK(t, ops && strstr(ops, "<tr><td>eps</td><td>float</td><td>default 1"));
    CHECK(t, ops && strstr(ops, "adamw_, a primitive op: "));
    free(ops);
}

/* What the tool says of a header with this text. */
static void check_header(test *t, const char *text, int code, const char *part) {
    char folder[64], path[256], command[1024], said[4096];
    if (!CHECK(t, make_folder(folder))) return;
    snprintf(path, sizeof path, "%s/x.h", folder);
    write_text(path, text);
    snprintf(command, sizeof command, "cd '%s' && '%s' . x.h", folder, BOBBIN_REFERENCE);
    CHECK_INT(t, run_command(command, said, sizeof said), code);
    CHECK_MSG(t, strstr(said, part), "expected '%s' in: %s", part, said);
    snprintf(path, sizeof path, "%s/x.html", folder);
    char *page = read_text(path);
    CHECK_MSG(t, (page != NULL) == (code == 0), "%s: a page although it failed, or none", text);
    free(page);
    remove_folder(folder);
}

static void test_undocumented(test *t) {
    check_header(t, "/* x */\nBB_API int f(void);\nBB_API int g(int a);\n", 0, "2 functions");
    check_header(t, "BB_API int f(void); /* one */\nBB_API int g(int a); /* two */\n", 0,
                 "2 functions");
    check_header(t, "BB_API int f(int a /* in m */);\n", 0, "1 functions");
    check_header(t, "/* x */\n\nBB_API int f(void);\n", 1, "x.h: f: expected a comment");
    check_header(t, "BB_API int f(void); /* one */\nBB_API int g(int a);\n", 1, "x.h: g: expected");
    check_header(t, "/* ---- Title */\nBB_API int f(void);\n", 1, "x.h: f: expected a comment");
    check_header(t, "/* open", 0, "0 functions");
    check_header(t, "BB_API int f(void", 1, "x.h: f: expected");
    check_header(t, "", 0, "0 functions");
}

static const test_row rows[] = {{"manual page", test_man},
                                {"reference", test_reference},
                                {"a function without a word", test_undocumented}};
TEST_MAIN(rows)
