/* Runs the built program in tests: a scratch folder, a command line, and what came of it. */
#ifndef BOBBIN_TESTS_PROGRAM_H
#define BOBBIN_TESTS_PROGRAM_H

#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/test.h"

typedef struct scratch_folder {
    char path[128];
} scratch_folder;

static inline bool scratch_open(test *t, scratch_folder *f) {
    const char *base = getenv("TMPDIR");
    snprintf(f->path, sizeof f->path, "%.90s/bobbin-test-XXXXXX", base && *base ? base : "/tmp");
    return CHECK(t, mkdtemp(f->path) != NULL);
}

static inline int scratch_remove_one(const char *path, const struct stat *info, int kind,
                                     struct FTW *walk) {
    (void)info;
    (void)kind;
    (void)walk;
    return remove(path);
}

static inline void scratch_close(const scratch_folder *f) {
    nftw(f->path, scratch_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* All bytes of folder/name, with a zero byte after them; free() it. NULL: no such file. */
static inline char *scratch_read(const scratch_folder *f, const char *name, size_t *bytes) {
    char path[512], *text = NULL;
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    if (size >= 0) text = calloc((size_t)size + 1, 1);
    size_t got = text ? fread(text, 1, (size_t)size, file) : 0;
    if (bytes) *bytes = got;
    fclose(file);
    return text;
}

static inline void scratch_write(const scratch_folder *f, const char *name, const void *data,
                                 size_t bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    FILE *file = fopen(path, "wb");
    if (!file) return;
    fwrite(data, 1, bytes, file);
    fclose(file);
}

/* Runs `bobbin ARGS` by the shell in the folder, with stdout in out.txt and stderr in err.txt
 * there; its exit code, or 128 + the signal that ended it. */
static inline int program_run(const scratch_folder *f, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static inline int program_run(const scratch_folder *f, const char *format, ...) {
    char arguments[1024], command[2048];
    va_list list;
    va_start(list, format);
    vsnprintf(arguments, sizeof arguments, format, list);
    va_end(list);
    snprintf(command, sizeof command, "cd '%s' && exec '%s' %s >out.txt 2>err.txt", f->path,
             BOBBIN_BIN, arguments);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Wrong use: exit code `code` and one line on stderr that holds `part`, nothing on stdout. */
static inline void check_refused(test *t, const scratch_folder *f, int got, int code,
                                 const char *part) {
    size_t bytes = 0, shown = 0;
    char *line = scratch_read(f, "err.txt", &bytes), *out = scratch_read(f, "out.txt", &shown);
    if (!CHECK(t, line && out)) return;
    CHECK_MSG(t, got == code, "exit %d, expected %d: %s", got, code, line);
    CHECK_MSG(t, bytes > 0 && strchr(line, '\n') == line + bytes - 1, "expected one line, got: %s",
              line);
    CHECK_MSG(t, strstr(line, part), "expected '%s' in: %s", part, line);
    CHECK_INT(t, shown, 0);
    free(line);
    free(out);
}

#endif
