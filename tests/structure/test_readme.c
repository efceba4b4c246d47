/* README.md tells the truth: its C is compiled, linked and run, its loop is the example's, its table is what
 * `bobbin ops` prints. (ARCHITECTURE.md and CONTRIBUTING.md: their C is compiled, the files they name exist.) */
#include <ctype.h>

#include "tests/support/files.h"
#include "tests/support/test.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZE "-fsanitize=address,undefined "
#else
#define SANITIZE ""
#endif

static char *document(const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", BOBBIN_SOURCE_DIR, name);
    return read_text(path);
}

/* The next fenced block that opens with ```language; its body, cut off by a NUL, or NULL. *at moves behind it. */
static char *next_block(char **at, const char *language) {
    char opening[32];
    size_t n = (size_t)snprintf(opening, sizeof opening, "\n```%s\n", language);
    char *start = strstr(*at, opening);
    if (!start) return NULL;
    start += n;
    char *end = strstr(start, "```\n");
    if (!end) return NULL;
    *end = 0;
    *at = end + 1;
    return start;
}

static bool is_part_of_example(const char *code) {
    char *example = document("examples/04_tiny_lm.c");
    bool found = example && strstr(example, code);
    free(example);
    return found;
}

/* A whole program is run. A part of one is put into a function. */
static void check_code(test *t, const char *folder, const char *code, const char *name) {
    char path[128], command[2048], out[2048], *source = malloc(strlen(code) + 512);
    bool program = strstr(code, "int main(") != NULL, definitions = strstr(code, "\n}\n") != NULL;
    if (!source) return;
    sprintf(source, program || definitions ? "%s%s" : "%sint main(void) { bb_context *ctx = bb_open(NULL);\n%s\nbb_close(ctx); return 0; }\n",
            program ? "" : "#include <math.h>\n#include <stdio.h>\n#include \"bobbin.h\"\n", code);
    snprintf(path, sizeof path, "%s/snippet.c", folder);
    CHECK(t, write_text(path, source));
    snprintf(command, sizeof command, "%s -std=c11 -Wall -Wextra " SANITIZE "-I '%s' %s -o %s/snippet %s '%s/libbobbin.a' -fopenmp -lm -ldl -pthread",
             BOBBIN_C_COMPILER, BOBBIN_SOURCE_DIR, definitions && !program ? "-c -w" : "", folder, path, BOBBIN_BINARY_DIR);
    int status = run_command(command, out, sizeof out);
    CHECK_MSG(t, status == 0, "%s: a snippet does not compile: %s\n%s", name, out, code);
    if (status == 0 && (program || !definitions)) {
        snprintf(command, sizeof command, "cd %s && ./snippet", folder);
        CHECK_MSG(t, run_command(command, out, sizeof out) == 0, "%s: a snippet fails: %s\n%s", name, out, code);
    }
    free(source);
}

static void check_document(test *t, const char *name, int at_least) {
    char *text = document(name), *at = text, *code, folder[64];
    CHECK_MSG(t, text != NULL, "%s is not there", name);
    if (!text || !make_folder(folder)) return;
    int count = 0;
    for (; (code = next_block(&at, "c")); count++)
        if (!is_part_of_example(code)) check_code(t, folder, code, name);
    CHECK_MSG(t, count >= at_least, "%s: %d snippets", name, count);
    remove_folder(folder);
    free(text);
}

static void test_snippets(test *t) { check_document(t, "README.md", 3); }
static void test_other_snippets(test *t) {
    check_document(t, "CONTRIBUTING.md", 1);
    check_document(t, "ARCHITECTURE.md", 0);
}

static void test_loop(test *t) {
    char *text = document("README.md"), *at = text, *code;
    bool found = false;
    while (text && (code = next_block(&at, "c"))) found |= strstr(code, "bb_adamw_step") && is_part_of_example(code);
    CHECK_MSG(t, found, "README.md does not show the training loop of examples/04_tiny_lm.c as it is there");
    free(text);
}

static void test_ops_table(test *t) {
    static char printed[60000];
    char *text = document("README.md"), *at = text ? strstr(text, "<!-- bobbin ops -->") : NULL;
    int status = run_command("'" BOBBIN_BIN "' ops", printed, sizeof printed);
    CHECK_MSG(t, status == 0, "bobbin ops: exit status %d: %s", status, printed);
    CHECK_MSG(t, at != NULL, "README.md has no line <!-- bobbin ops -->");
    char *table = at ? next_block(&at, "text") : NULL;
    CHECK_MSG(t, table && strcmp(table, printed) == 0,
              "README.md: the op table is not what `bobbin ops` prints; put its output between the fences after <!-- bobbin ops -->");
    free(text);
}

/* `core/x.c` and the like in the papers are files of the tree. */
static void check_paths(test *t, const char *name) {
    static const char *const folders[] = {"core/", "ops/", "autograd/", "backends/", "nn/", "io/", "tools/", "examples/", "tests/"};
    char *text = document(name);
    int count = 0;
    for (char *p = text; p && *p; p++) {
        if (p[-(p > text)] != '`' && p > text) continue;
        for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
            if (strncmp(p, folders[i], strlen(folders[i])) != 0) continue;
            size_t n = strcspn(p, "` \n,;:");
            char path[1200];
            snprintf(path, sizeof path, "%s/%.*s", BOBBIN_SOURCE_DIR, (int)n, p);
            if (strpbrk(path, "<*{")) continue; /* a pattern */
            FILE *file = fopen(path, "r");
            CHECK_MSG(t, file != NULL, "%s names %.*s, which is not there", name, (int)n, p);
            if (file) fclose(file);
            count++;
        }
    }
    CHECK_MSG(t, text && count > 0, "%s names no file", name);
    free(text);
}

static void test_paths(test *t) {
    check_paths(t, "README.md");
    check_paths(t, "ARCHITECTURE.md");
    check_paths(t, "CONTRIBUTING.md");
}

static const test_row rows[] = {
    {"snippets", test_snippets},   {"snippets of the other papers", test_other_snippets}, {"loop", test_loop},
    {"table of ops", test_ops_table}, {"named files", test_paths},
};
TEST_MAIN(rows)
