/* How commands end: error lines and exit codes (tools/commands.h). */
#include "tools/commands.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

int bb_exit_code(bb_status status) {
    if (status == BB_OK) return BB_EXIT_OK;
    bool system = status == BB_ERR_MEMORY || status == BB_ERR_IO || status == BB_ERR_DEVICE;
    return system ? BB_EXIT_SYSTEM : BB_EXIT_USAGE;
}

/* One line, whatever a file or an argument put into it. */
static void print_line(const char *command, const char *message) {
    fprintf(stderr, command ? "bobbin %s: " : "bobbin: ", command);
    for (const char *p = message; *p; p++) fputc((unsigned char)*p < 0x20 ? ' ' : *p, stderr);
    fputc('\n', stderr);
}

int bb_report(const bb_context *ctx, const char *command) {
    print_line(command, bb_error_message(ctx));
    return bb_exit_code(bb_error(ctx));
}

int bb_report_input(const bb_context *ctx, const char *command) {
    int code = bb_report(ctx, command);
    return bb_error(ctx) == BB_ERR_IO ? BB_EXIT_USAGE : code;
}

int bb_usage_error(const char *command, const char *format, ...) {
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    print_line(command, line);
    return BB_EXIT_USAGE;
}

int bb_flush_stdout(const char *command, int code) {
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    fprintf(stderr, "bobbin %s: standard output: %s\n", command,
            errno ? strerror(errno) : "cannot write");
    return code == BB_EXIT_OK ? BB_EXIT_SYSTEM : code;
}
