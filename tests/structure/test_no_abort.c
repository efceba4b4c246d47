/* The library never aborts, exits, jumps or prints, asks its context for memory, and waits for a
 * device only where it says so. Looks for the names of the calls that would, outside comments and
 * strings. */
#include <ctype.h>

#include "tests/support/files.h"
#include "tests/support/test.h"

static const char *const folders[] = {"core", "ops", "autograd", "backends", "nn", "io"};
static const char *const suffixes[] = {".c", ".h", ".cu", ".cpp", NULL};

/* A trailing '(' means: as a call. The last ones wait for a GPU, cudaMemcpy and cudaMemset unasked.
 */
static const char *const banned[] = {
    "abort(",
    "exit(",
    "_exit(",
    "_Exit(",
    "quick_exit(",
    "longjmp(",
    "setjmp(",
    "raise(",
    "printf(",
    "vprintf(",
    "puts(",
    "putchar(",
    "perror(",
    "stdout",
    "stderr",
    "malloc(",
    "calloc(",
    "realloc(",
    "free(",
    "strdup(",
    "asprintf(",
    "alloca(",
    "system(",
    "strtok(",
    "strcpy(",
    "aligned_alloc(",
    "posix_memalign(",
    "sprintf(",
    "gets(",
    "strcat(",
    "cudaDeviceSynchronize(",
    "cudaStreamSynchronize(",
    "cudaEventSynchronize(",
    "cudaMemcpy(",
    "cudaMemset(",
    "bb_runtime_synchronize(",
};

/* The default allocator, the trace that a user asked for by BOBBIN_TRACE, and the one place for
 * waiting: bb_backend.synchronize, what closes or frees, and staged copies that find no room. */
static const struct {
    const char *path, *what;
} allowed[] = {
    {"core/context.c", "aligned_alloc("},
    {"core/context.c", "free("},
    {"core/context.c", "stderr"},
    {"backends/cuda/runtime.cu", "cudaStreamSynchronize("},
    {"backends/cuda/runtime.cu", "cudaEventSynchronize("},
    {"backends/cuda/runtime.cu", "bb_runtime_synchronize("},
    {"backends/cuda/runtime.h", "bb_runtime_synchronize("},
    {"backends/cuda/backend.cu", "bb_runtime_synchronize("},
    {"backends/cuda/sim/runtime.cpp", "bb_runtime_synchronize("},
};

/* The simulation is for tests, outside the library, and stands in for a device's own memory. */
static bool is_simulated_memory(const char *path, const char *what) {
    return strstr(path, "backends/cuda/sim/") &&
           (strcmp(what, "calloc(") == 0 || strcmp(what, "malloc(") == 0 ||
            strcmp(what, "free(") == 0 || strcmp(what, "aligned_alloc(") == 0);
}

static bool is_allowed(const char *path, const char *what) {
    if (is_simulated_memory(path, what)) return true;
    for (int i = 0; i < COUNT(allowed); i++)
        if (strcmp(path, allowed[i].path) == 0 && strcmp(what, allowed[i].what) == 0) return true;
    return false;
}

static bool name_char(char c) { return isalnum((unsigned char)c) || c == '_'; }

static int count_problems(test *t, const char *path, const char *source, bool tell) {
    char *text = strdup(source);
    if (!text) return -1;
    int problems = 0;
    blank_comments(text, true);
    for (int i = 0; i < COUNT(banned); i++) {
        size_t n = strlen(banned[i]);
        bool call = banned[i][n - 1] == '(';
        n -= call;
        for (const char *p = text; *p; p++) {
            if (strncmp(p, banned[i], n) != 0 || name_char(p[n]) || (p > text && name_char(p[-1])))
                continue;
            if (p > text && (p[-1] == '.' || (p[-1] == '>' && p > text + 1 && p[-2] == '-')))
                continue; /* a field */
            if (call && p[n] != '(') continue;
            if (is_allowed(path, banned[i])) continue;
            problems++;
            int line = 1;
            for (const char *q = text; q < p; q++) line += *q == '\n';
            if (tell) CHECK_MSG(t, false, "%s:%d: %s)", path, line, banned[i]);
        }
    }
    free(text);
    return problems;
}

static void check_file(void *user, const char *path, const char *text) {
    test *t = user;
    t->checks++;
    count_problems(t, path, text, true);
}

static void test_library(test *t) {
    int files = 0;
    for (int i = 0; i < COUNT(folders); i++)
        files += each_source(BOBBIN_SOURCE_DIR, folders[i], suffixes, check_file, t);
    CHECK_MSG(t, files > 80, "only %d source files found", files);
}

static void test_planted(test *t) {
    CHECK_INT(t, count_problems(t, "ops/x.c", "void f(void) { abort(); }", false), 1);
    CHECK_INT(t,
              count_problems(t, "ops/x.c",
                             "if (x) exit(1); printf(\"%d\", 1); fputs(\"\", stderr);", false),
              3);
    CHECK_INT(t, count_problems(t, "ops/x.c", "void *p = malloc(3); free(p);", false), 2);
    CHECK_INT(t, count_problems(t, "backends/cuda/x.cu", "cudaStreamSynchronize(s);", false), 1);
    CHECK_INT(t,
              count_problems(t, "ops/x.c",
                             "/* abort() */ // exit(1)\nconst char *s = \"printf(\\\" exit(\";",
                             false),
              0);
    CHECK_INT(t,
              count_problems(
                  t, "ops/x.c",
                  "snprintf(a, 3, b); fprintf(f, c); bb_free(x); tape->free(y); on_exit_code(1);",
                  false),
              0);
    CHECK_INT(t, count_problems(t, "core/context.c", "free(block);", false), 0);
    CHECK_INT(t, count_problems(t, "core/op.c", "free(block);", false), 1);
}

static const test_row rows[] = {{"library", test_library}, {"planted", test_planted}};
TEST_MAIN(rows)
