/* The commands of the `bobbin` program; tools/main.c has the table. Each is one file,
 * tools/cmd_<name>.c, and returns the exit code: 0 on success, 2 on wrong use or bad input with one
 * line on stderr, 1 when the system fails. */
#ifndef BOBBIN_TOOLS_COMMANDS_H
#define BOBBIN_TOOLS_COMMANDS_H

#include "core/core.h"

int bb_cmd_train(int argc, char **argv);
int bb_cmd_sample(int argc, char **argv);
int bb_cmd_ops(int argc, char **argv);
int bb_cmd_op(int argc, char **argv);
int bb_cmd_gradcheck(int argc, char **argv);
int bb_cmd_export(int argc, char **argv);
int bb_cmd_bench(int argc, char **argv);

enum { BB_EXIT_OK = 0, BB_EXIT_SYSTEM = 1, BB_EXIT_USAGE = 2 };

/* Memory, io and device failures are the system's (1); all else is the caller's (2). */
int bb_exit_code(bb_status status);

/* Prints "bobbin COMMAND: message" on stderr, as one line, and returns the exit code of the
 * context's error. A NULL context means that opening it failed. */
int bb_report(const bb_context *ctx, const char *command);

/* The same for an error that came up while opening what the command line names: a file that is
 * missing or unreadable is bad input there (2). */
int bb_report_input(const bb_context *ctx, const char *command);

/* The same for a message of the command's own; returns BB_EXIT_USAGE. A NULL command: of the
 * program itself. */
int bb_usage_error(const char *command, const char *format, ...) BB_PRINTF(2, 3);

/* Closes stdout and reports what did not reach it (a full disk); returns `code`, or BB_EXIT_SYSTEM.
 * main calls it. */
int bb_flush_stdout(const char *command, int code);

#endif
