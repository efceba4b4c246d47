/* Runs the `bobbin` program and catches what it says. */
#ifndef BOBBIN_TESTS_TOOLS_SHELL_H
#define BOBBIN_TESTS_TOOLS_SHELL_H

#include <stdarg.h>
#include <sys/wait.h>

#include "tests/io/scratch.h"

typedef struct said {
    int code; /* exit code; 128 + n: killed by signal n */
    char out[1 << 17], err[8192];
} said;

/* `format` makes the arguments, for a shell. */
__attribute__((format(printf, 3, 4))) static inline void run_bobbin(scratch *s, said *r,
                                                                    const char *format, ...) {
    char arguments[4096], command[8192], path[600];
    const char *program = getenv("BOBBIN_BIN");
    va_list list;
    va_start(list, format);
    vsnprintf(arguments, sizeof arguments, format, list);
    va_end(list);
    snprintf(command, sizeof command, "'%s' %s >'%s/.out' 2>'%s/.err' </dev/null",
             program ? program : BOBBIN_BIN, arguments, s->folder, s->folder);
    int status = system(command);
    r->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    snprintf(path, sizeof path, "%s/.out", s->folder);
    long n = get_bytes(path, r->out, sizeof r->out - 1);
    r->out[n < 0 ? 0 : n] = '\0';
    snprintf(path, sizeof path, "%s/.err", s->folder);
    n = get_bytes(path, r->err, sizeof r->err - 1);
    r->err[n < 0 ? 0 : n] = '\0';
}

/* A refusal: this exit code, one line on stderr that contains `part`, nothing on stdout. */
#define CHECK_REFUSED(t, r, expected_code, part)                                                   \
    check_refused(t, r, expected_code, part, __FILE__, __LINE__)
static inline void check_refused(test *t, const said *r, int code, const char *part,
                                 const char *file, int line) {
    const char *end = strchr(r->err, '\n');
    test_check(t, r->code == code, file, line, "exit code: got %d, expected %d (%s)", r->code, code,
               r->err);
    test_check(t, strstr(r->err, part) != NULL, file, line, "stderr \"%s\" does not contain \"%s\"",
               r->err, part);
    test_check(t, end && end[1] == '\0' && strncmp(r->err, "bobbin", 6) == 0, file, line,
               "not one line of ours: \"%s\"", r->err);
    test_check(t, r->out[0] == '\0', file, line, "stdout is not empty: \"%.80s\"", r->out);
}

#endif
