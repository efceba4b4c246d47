/* A folder of its own for a test of files, and the writer calls that fail on demand. */
#ifndef BOBBIN_TESTS_IO_SCRATCH_H
#define BOBBIN_TESTS_IO_SCRATCH_H

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/test.h"

typedef struct scratch {
    char folder[256];
    char path[512]; /* of the name last asked for */
} scratch;

static inline scratch scratch_open(void) {
    scratch s;
    snprintf(s.folder, sizeof s.folder, "%s/scratch-XXXXXX", BOBBIN_BINARY_DIR);
    if (!mkdtemp(s.folder)) {
        perror(s.folder);
        exit(1);
    }
    return s;
}

static inline const char *scratch_path(scratch *s, const char *name) {
    snprintf(s->path, sizeof s->path, "%s/%s", s->folder, name);
    return s->path;
}

/* How many files there are; `remove_all` deletes them. */
static inline int scratch_walk(scratch *s, bool remove_all) {
    DIR *folder = opendir(s->folder);
    int n = 0;
    if (!folder) return 0;
    for (struct dirent *e; (e = readdir(folder));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        n++;
        char path[600];
        snprintf(path, sizeof path, "%s/%.255s", s->folder, e->d_name);
        if (remove_all) remove(path);
    }
    closedir(folder);
    return n;
}
static inline int scratch_count(scratch *s) { return scratch_walk(s, false); }
static inline void scratch_close(scratch *s) {
    scratch_walk(s, true);
    rmdir(s->folder);
}

static inline void put_bytes(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f) != 0) {
        perror(path);
        exit(1);
    }
}

/* Reads up to `room` bytes; returns how many; -1: no such file. */
static inline long get_bytes(const char *path, void *bytes, size_t room) {
    FILE *f = fopen(path, "rb");
    if (!f) return -1;
    size_t n = fread(bytes, 1, room, f);
    fclose(f);
    return (long)n;
}

static inline bool holds(const char *path, const char *text) {
    char got[4096];
    long n = get_bytes(path, got, sizeof got);
    return n == (long)strlen(text) && memcmp(got, text, (size_t)n) == 0;
}

/* The Nth call of write, fsync or rename fails with `error`; EINTR once, others for good. Writes
 * are cut to `piece`. */
typedef struct fault {
    bb_file_calls calls;
    int count, fail_at, error;
    size_t piece;
    bool renamed, failed;
} fault;

static inline bool fault_now(fault *f) {
    f->count++;
    if (f->count < f->fail_at || f->fail_at == 0 || (f->failed && f->error == EINTR)) return false;
    f->failed = true;
    errno = f->error;
    return true;
}
static inline ptrdiff_t fault_write(void *user, int file, const void *data, size_t bytes) {
    fault *f = user;
    if (fault_now(f)) return f->error ? -1 : 0;
    return write(file, data, f->piece && bytes > f->piece ? f->piece : bytes);
}
static inline int fault_fsync(void *user, int file) { return fault_now(user) ? -1 : fsync(file); }
static inline int fault_rename(void *user, const char *from, const char *to) {
    fault *f = user;
    if (fault_now(f)) return -1;
    int result = rename(from, to);
    f->renamed = result == 0;
    return result;
}
static inline void fault_init(fault *f, int fail_at, int error, size_t piece) {
    *f = (fault){.fail_at = fail_at, .error = error, .piece = piece};
    f->calls = (bb_file_calls){fault_write, fault_fsync, fault_rename, f};
}

#endif
