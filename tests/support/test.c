/* The test runner behind test.h. */
#include "tests/support/test.h"

#include <stdarg.h>

#include "core/impl.h"

/* More lines than this from one test say nothing new. */
enum { MAX_PRINTED = 12 };

bool test_check(test *t, bool ok, const char *file, int line, const char *format, ...) {
    t->checks++;
    if (ok) return true;
    t->failures++;
    if (t->failures > MAX_PRINTED) return false;
    fprintf(stderr, "%s:%d: %s: ", file, line, t->name);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return false;
}

bool test_check_int(test *t, int64_t got, int64_t expected, const char *what, const char *file,
                    int line) {
    return test_check(t, got == expected, file, line, "%s: got %lld, expected %lld", what,
                      (long long)got, (long long)expected);
}
bool test_check_near(test *t, double got, double expected, double tolerance, const char *what,
                     const char *file, int line) {
    bool ok = got == expected || fabs(got - expected) <= tolerance;
    return test_check(t, ok, file, line, "%s: got %.17g, expected %.17g within %g", what, got,
                      expected, tolerance);
}
bool test_check_text(test *t, const char *got, const char *expected, const char *what,
                     const char *file, int line) {
    bool ok = got && strcmp(got, expected) == 0;
    return test_check(t, ok, file, line, "%s: got \"%s\", expected \"%s\"", what,
                      got ? got : "(NULL)", expected);
}

void test_skip(test *t, const char *reason) {
    t->skipped = true;
    fprintf(stderr, "skipped: %s: %s\n", t->name, reason);
}

void test_error(test *t, bb_context *ctx, bb_status status, const char *part, const char *file,
                int line) {
    bb_status got = bb_error(ctx);
    test_check(t, got == status, file, line, "status: got %s (\"%s\"), expected %s",
               bb_status_name(got), bb_error_message(ctx), bb_status_name(status));
    test_check(t, strstr(bb_error_message(ctx), part) != NULL, file, line,
               "error message \"%s\" does not contain \"%s\"", bb_error_message(ctx), part);
    bb_clear_error(ctx);
}

int test_main(int argc, char **argv, const test_row *rows, int count) {
    const char *only = NULL;
    bool verbose = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-v") == 0)
            verbose = true;
        else
            only = argv[i];
    }
    int passed = 0, failed = 0, skipped = 0;
    for (int i = 0; i < count; i++) {
        if (only && !strstr(rows[i].name, only)) continue;
        test t = {.name = rows[i].name};
        rows[i].run(&t);
        if (t.checks == 0 && !t.skipped)
            test_check(&t, false, __FILE__, __LINE__, "the test checked nothing");
        if (t.failures > MAX_PRINTED)
            fprintf(stderr, "%s: %d more failures\n", t.name, t.failures - MAX_PRINTED);
        if (t.failures)
            failed++;
        else if (t.skipped)
            skipped++;
        else
            passed++;
        if (t.failures || verbose)
            fprintf(stderr, "%s: %s (%d checks)\n",
                    t.failures  ? "FAILED"
                    : t.skipped ? "skipped"
                                : "passed",
                    t.name, t.checks);
    }
    if (passed + failed + skipped == 0) {
        fprintf(stderr, "no test is named \"%s\"\n", only ? only : "");
        failed = 1;
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed ? 1 : 0;
}

bb_context *test_open_host(void) {
    bb_context *ctx = bb_open(NULL);
    if (!ctx) {
        fprintf(stderr, "bb_open failed\n");
        exit(1);
    }
    ctx->poison = true;
    return ctx;
}

bb_context *test_open(void) {
    bb_context *ctx = test_open_host();
    const char *device = getenv("BOBBIN_TEST_DEVICE");
    if (device && strcmp(device, "cuda") == 0 && bb_set_device(ctx, BB_CUDA)) {
        fprintf(stderr, "BOBBIN_TEST_DEVICE: %s\n", bb_error_message(ctx));
        exit(1);
    }
    return ctx;
}
