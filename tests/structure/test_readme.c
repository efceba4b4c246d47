/* README.md tells the truth: its C is compiled, linked and run, its loop is the example's, its
 * table is what `bobbin ops` prints. (ARCHITECTURE.md and CONTRIBUTING.md: their C is compiled, the
 * files they name exist.) */
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

/* The next fenced block that opens with ```language; its body, cut off by a NUL, or NULL. *at moves
 * behind it. */
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
    sprintf(source,
            program || definitions ? "%s%s"
                                   : "%sint main(void) { bb_context *ctx = "
                                     "bb_open(NULL);\n%s\nbb_close(ctx); return 0; }\n",
            program ? "" : "#include <math.h>\n#include <stdio.h>\n#include \"bobbin.h\"\n", code);
    snprintf(path, sizeof path, "%s/snippet.c", folder);
    CHECK(t, write_text(path, source));
    snprintf(command, sizeof command,
             "%s -std=c11 -Wall -Wextra " SANITIZE
             "-I '%s' %s -o %s/snippet %s '%s/libbobbin.a' -fopenmp -lm -ldl -pthread",
             BOBBIN_C_COMPILER, BOBBIN_SOURCE_DIR, definitions && !program ? "-c -w" : "", folder,
             path, BOBBIN_BINARY_DIR);
    int status = run_command(command, out, sizeof out);
    CHECK_MSG(t, status == 0, "%s: a snippet does not compile: %s\n%s", name, out, code);
    if (status == 0 && (program || !definitions)) {
        snprintf(command, sizeof command, "cd %s && ./snippet", folder);
        CHECK_MSG(t, run_command(command, out, sizeof out) == 0, "%s: a snippet fails: %s\n%s",
                  name, out, code);
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
    while (text && (code = next_block(&at, "c")))
        found |= strstr(code, "bb_adamw_step") && is_part_of_example(code);
    CHECK_MSG(t, found,
              "README.md does not show the training loop of examples/04_tiny_lm.c as it is there");
    free(text);
}

/* BOBBIN_UPDATE=1: writes what was printed between the fences, instead of complaining. */
static bool update(const char *marker, const char *printed) {
    char path[1024], *text = document("README.md");
    char *at = text ? strstr(text, marker) : NULL, *fence = at ? strchr(at, '`') : NULL;
    char *start = fence ? strchr(fence, '\n') : NULL, *end = start ? strstr(start, "\n```") : NULL;
    size_t size = text ? strlen(text) + strlen(printed) + 2 : 0;
    char *whole = end ? malloc(size) : NULL;
    bool ok = false;
    if (whole) {
        snprintf(whole, size, "%.*s%s%s", (int)(start + 1 - text), text, printed, end + 1);
        snprintf(path, sizeof path, "%s/README.md", BOBBIN_SOURCE_DIR);
        ok = write_text(path, whole);
    }
    free(whole);
    free(text);
    return ok;
}

/* What `bobbin ARGUMENTS` prints stands in the block after <!-- bobbin ARGUMENTS -->. */
static void check_output(test *t, const char *arguments) {
    static char printed[60000];
    char command[1200], marker[64];
    snprintf(marker, sizeof marker, "<!-- bobbin %s -->", arguments);
    snprintf(command, sizeof command, "'%s' %s", BOBBIN_BIN, arguments);
    int status = run_command(command, printed, sizeof printed);
    CHECK_MSG(t, status == 0, "bobbin %s: exit status %d: %s", arguments, status, printed);
    if (status == 0 && getenv("BOBBIN_UPDATE")) CHECK(t, update(marker, printed));
    char *text = document("README.md"), *at = text ? strstr(text, marker) : NULL;
    char *block = at ? next_block(&at, "text") : NULL;
    CHECK_MSG(t, block && strcmp(block, printed) == 0,
              "README.md: the block after %s is not what it prints; this test with "
              "BOBBIN_UPDATE=1 in the environment writes it",
              marker);
    free(text);
}

static void test_output(test *t) {
    check_output(t, "ops");
    check_output(t, "--help");
}

/* `core/x.c` and the like in the papers are files of the tree. */
static void check_paths(test *t, const char *name) {
    static const char *const folders[] = {"core/", "ops/",   "autograd/", "backends/", "nn/",
                                          "io/",   "tools/", "examples/", "tests/"};
    char *text = document(name);
    int count = 0;
    for (char *p = text; p && *p; p++) {
        if (p[-(p > text)] != '`' && p > text) continue;
        for (int i = 0; i < COUNT(folders); i++) {
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
    {"snippets", test_snippets}, {"snippets of the other papers", test_other_snippets},
    {"loop", test_loop},         {"output", test_output},
    {"named files", test_paths},
};
TEST_MAIN(rows)
