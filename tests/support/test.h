/* The test runner. A test file is one program: static test functions, a table of them, TEST_MAIN.
 * It prints a line per failed or skipped test and closes with "N passed, N failed, N skipped"; exit
 * status 1 if one failed. Run one with a name (or part of it) as argument; -v names the passing
 * ones too. */
#ifndef BOBBIN_TESTS_TEST_H
#define BOBBIN_TESTS_TEST_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bobbin.h"

typedef struct test {
    const char *name;
    int failures, checks;
    bool skipped;
} test;
typedef struct test_row {
    const char *name;
    void (*run)(test *t);
} test_row;

/* A failed check prints file, line and message, and the test goes on. A test without any check
 * fails. */
bool test_check(test *t, bool ok, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
void test_skip(test *t, const char *reason);
int test_main(int argc, char **argv, const test_row *rows, int count);

#define CHECK(t, ok) test_check(t, ok, __FILE__, __LINE__, "%s", #ok)
#define CHECK_MSG(t, ok, ...) test_check(t, ok, __FILE__, __LINE__, __VA_ARGS__)
/* The arguments are evaluated once. */
#define CHECK_INT(t, got, expected)                                                                \
    test_check_int(t, (int64_t)(got), (int64_t)(expected), #got, __FILE__, __LINE__)
#define CHECK_NEAR(t, got, expected, tolerance)                                                    \
    test_check_near(t, (double)(got), (double)(expected), (double)(tolerance), #got, __FILE__,     \
                    __LINE__)
#define CHECK_TEXT(t, got, expected) test_check_text(t, got, expected, #got, __FILE__, __LINE__)
bool test_check_int(test *t, int64_t got, int64_t expected, const char *what, const char *file,
                    int line);
bool test_check_near(test *t, double got, double expected, double tolerance, const char *what,
                     const char *file, int line);
bool test_check_text(test *t, const char *got, const char *expected, const char *what,
                     const char *file, int line);
/* The context must hold an error of this status whose message contains `part`; clears it. */
#define CHECK_ERROR(t, ctx, status, part) test_error(t, ctx, status, part, __FILE__, __LINE__)
void test_error(test *t, bb_context *ctx, bb_status status, const char *part, const char *file,
                int line);
/* The context must hold no error. */
#define CHECK_OK(t, ctx)                                                                           \
    test_check(t, bb_error(ctx) == BB_OK, __FILE__, __LINE__, "unexpected error: %s",              \
               bb_error_message(ctx))

/* Rows of a table; a shape, which tables name often. */
#define COUNT(table) ((int)(sizeof(table) / sizeof((table)[0])))
#define SH(...) BB_SHAPE(__VA_ARGS__)

#define TEST_MAIN(rows)                                                                            \
    int main(int argc, char **argv) { return test_main(argc, argv, rows, COUNT(rows)); }

/* A context for tests: new buffers NaN-filled, errors silent, and tensors on the device that
 * BOBBIN_TEST_DEVICE names ("cuda"; the CPU otherwise). */
bb_context *test_open(void);
/* The same on the CPU whatever the variable says, for tests that look at bytes or bring host code
 * of their own. */
bb_context *test_open_host(void);

#endif
