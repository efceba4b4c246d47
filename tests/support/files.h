/* Files and commands, for the tests that read the source tree. POSIX only. */
#ifndef BOBBIN_TESTS_FILES_H
#define BOBBIN_TESTS_FILES_H

#include <stdbool.h>
#include <stddef.h>

/* The whole file as text, to be freed; NULL if it cannot be read. */
char *read_text(const char *path);
bool write_text(const char *path, const char *text);

/* Calls fn for each regular file below root/folder whose name ends in one of the suffixes (".c",
 * ...; NULL ends), with its path relative to root and its text. Hidden folders are left out.
 * Returns the number of files. */
int each_source(const char *root, const char *folder, const char *const *suffixes,
                void (*fn)(void *user, const char *path, const char *text), void *user);

/* Replaces what lies in comments and string literals by spaces; keeps line ends. */
void blank_comments(char *text, bool strings_too);

/* Runs a shell command; its output (both streams) goes to out, cut at size. Returns the exit
 * status, or -1. */
int run_command(const char *command, char *out, size_t size);

/* A fresh empty folder; returns its path in `path`. */
bool make_folder(char path[64]);
void remove_folder(const char *path);

#endif
