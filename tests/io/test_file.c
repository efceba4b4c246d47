/* io/file.c: mapping whole files, and replacing them so that no failure at any step loses the old
 * one. */
#include "tests/io/scratch.h"
#include "tests/support/alloc.h"

#include <signal.h>
#include <sys/wait.h>

static void maps_bytes(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    bb_file file;
    put_bytes(scratch_path(&s, "a"), "a\0b", 3);
    CHECK(t, bb_file_map(ctx, s.path, &file) == BB_OK);
    CHECK(t, file.bytes == 3 && memcmp(file.data, "a\0b", 3) == 0);
    bb_file_unmap(&file);
    put_bytes(s.path, "", 0);
    CHECK(t, bb_file_map(ctx, s.path, &file) == BB_OK);
    CHECK(t, file.bytes == 0 && file.data != NULL);
    bb_file_unmap(&file);
    scratch_close(&s);
    bb_close(ctx);
}

static void refuses_what_is_no_file(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    bb_file file;
    bb_file_map(ctx, scratch_path(&s, "missing"), &file);
    CHECK_ERROR(t, ctx, BB_ERR_IO, "missing: cannot open: No such file");
    bb_file_map(ctx, s.folder, &file);
    CHECK_ERROR(t, ctx, BB_ERR_IO, "expected a regular file, got a folder");
    CHECK(t, mkfifo(scratch_path(&s, "pipe"), 0600) == 0);
    bb_file_map(ctx, s.path, &file); /* must not wait for a writer */
    CHECK_ERROR(t, ctx, BB_ERR_IO, "expected a regular file, got a device or pipe");
    bb_file_map(ctx, NULL, &file);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "got NULL");
    bb_fail(ctx, BB_ERR_STATE, "an earlier error");
    CHECK(t, bb_file_map(ctx, s.path, &file) == BB_ERR_STATE);
    CHECK(t, bb_writer_open(ctx, s.path, NULL) == NULL);
    scratch_close(&s);
    bb_close(ctx);
}

static void writes_and_replaces(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    const char *path = scratch_path(&s, "f");
    CHECK(t, bb_file_write(ctx, path, "first", 5) == BB_OK);
    CHECK(t, holds(path, "first"));
    chmod(path, 0640);
    CHECK(t, bb_file_write(ctx, path, "second", 6) == BB_OK);
    struct stat info;
    CHECK(t, holds(path, "second") && stat(path, &info) == 0 && (info.st_mode & 0777) == 0640);
    bb_writer *w = bb_writer_open(ctx, path, NULL);
    bb_writer_add(w, "lost", 4);
    CHECK_INT(t, scratch_count(&s), 2);
    bb_writer_abandon(w);
    CHECK(t, holds(path, "second"));
    CHECK_INT(t, scratch_count(&s), 1);
    CHECK(t, bb_file_write(ctx, path, NULL, 0) == BB_OK);
    CHECK(t, holds(path, ""));
    CHECK_OK(t, ctx);
    scratch_close(&s);
    bb_close(ctx);
}

static void keeps_a_link_a_link(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    char target[512];
    snprintf(target, sizeof target, "%s", scratch_path(&s, "target"));
    put_bytes(target, "old", 3);
    CHECK(t, symlink("target", scratch_path(&s, "link")) == 0);
    CHECK(t, bb_file_write(ctx, s.path, "new", 3) == BB_OK);
    struct stat info;
    CHECK(t, lstat(s.path, &info) == 0 && S_ISLNK(info.st_mode));
    CHECK(t, holds(target, "new"));
    /* One whose file is not there yet, through a second one with a path. */
    char deep[512];
    CHECK(t, remove(target) == 0 && symlink("link", scratch_path(&s, "to link")) == 0);
    snprintf(deep, sizeof deep, "%s", s.path);
    CHECK(t, symlink(deep, scratch_path(&s, "absolute")) == 0);
    snprintf(deep, sizeof deep, "%s", s.path);
    CHECK(t, bb_file_write(ctx, deep, "first", 5) == BB_OK);
    CHECK(t, lstat(deep, &info) == 0 && S_ISLNK(info.st_mode));
    CHECK(t, holds(target, "first"));
    CHECK_INT(t, scratch_count(&s), 4);
    CHECK(t, symlink("circle", scratch_path(&s, "circle")) == 0);
    bb_file_write(ctx, s.path, "x", 1);
    CHECK_ERROR(t, ctx, BB_ERR_IO, "cannot resolve");
    scratch_close(&s);
    bb_close(ctx);
}

static void names_what_it_cannot_write(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    bb_file_write(ctx, scratch_path(&s, "no/such/folder"), "x", 1);
    CHECK_ERROR(t, ctx, BB_ERR_IO, "No such file");
    bb_file_write(ctx, s.folder, "x", 1);
    CHECK_ERROR(t, ctx, BB_ERR_IO, "Is a directory");
    bb_file_write(ctx, "", "x", 1);
    CHECK_ERROR(t, ctx, BB_ERR_IO, "cannot write");
    char name[8192];
    memset(name, 'a', sizeof name);
    name[sizeof name - 1] = '\0';
    bb_file_write(ctx, name, "x", 1);
    CHECK_ERROR(t, ctx, BB_ERR_IO, "File name too long");
    CHECK_INT(t, scratch_count(&s), 0);
    scratch_close(&s);
    bb_close(ctx);
}

static void full_disk(test *t) {
    struct stat before, after;
    if (stat("/dev/full", &before) != 0) {
        test_skip(t, "no /dev/full here");
        return;
    }
    bb_context *ctx = test_open();
    CHECK(t, bb_file_write(ctx, "/dev/full", "x", 1) == BB_ERR_IO);
    CHECK_ERROR(t, ctx, BB_ERR_IO, "No space left on device");
    CHECK(t, stat("/dev/full", &after) == 0 && S_ISCHR(after.st_mode) &&
                 after.st_ino == before.st_ino);
    bb_close(ctx);
}

/* Each call of write, fsync and rename fails once, until all succeed. */
static void fails_at_each_step(test *t) {
    static const int errors[] = {ENOSPC, EIO, EDQUOT, 0};
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    const char *path = scratch_path(&s, "f");
    for (int e = 0; e < COUNT(errors); e++) {
        for (int at = 1;; at++) {
            put_bytes(path, "old and precious", 16);
            fault f;
            fault_init(&f, at, errors[e], 3);
            bb_writer *w = bb_writer_open(ctx, path, &f.calls);
            bb_writer_add(w, "brand new", 9);
            bb_status status = bb_writer_commit(w);
            CHECK_INT(t, scratch_count(&s), 1);
            CHECK(t, holds(path, f.renamed ? "brand new" : "old and precious"));
            if (!f.failed) {
                CHECK(t, status == BB_OK &&
                             at == 7); /* 3 writes, fsync, rename, fsync of the folder */
                break;
            }
            if (errors[e] == 0 && at > 3) { /* only write can do nothing without an error */
                bb_clear_error(ctx);
                break;
            }
            CHECK(t, status == BB_ERR_IO);
            CHECK_ERROR(t, ctx, BB_ERR_IO,
                        f.renamed          ? "written, but"
                        : errors[e] == EIO ? "Input/output error"
                                           : "f: cannot");
        }
    }
    scratch_close(&s);
    bb_close(ctx);
}

static void goes_on_after_a_signal(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    const char *path = scratch_path(&s, "f");
    for (int at = 1; at <= 4; at++) {
        fault f;
        fault_init(&f, at, EINTR, 4);
        bb_writer *w = bb_writer_open(ctx, path, &f.calls);
        bb_writer_add(w, "brand new", 9);
        CHECK(t, bb_writer_commit(w) == BB_OK && f.failed);
        CHECK(t, holds(path, "brand new"));
        CHECK_OK(t, ctx);
    }
    scratch_close(&s);
    bb_close(ctx);
}

/* Killed at any moment, the writer leaves the one version or the other. */
static void survives_a_kill(test *t) {
    enum { BYTES = 200000 };
    scratch s = scratch_open();
    char path[512], *data = malloc(BYTES), *got = malloc(BYTES + 1);
    snprintf(path, sizeof path, "%s", scratch_path(&s, "f"));
    memset(data, 'a', BYTES);
    put_bytes(path, data, BYTES);
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            bb_context *ctx = bb_open(NULL);
            for (char c = 'a';; c = c == 'z' ? 'a' : (char)(c + 1)) {
                memset(data, c, BYTES);
                if (bb_file_write(ctx, path, data, BYTES) != BB_OK) _exit(1);
            }
        }
        usleep((useconds_t)(3000 + 1700 * (i % 7)));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        long n = get_bytes(path, got, BYTES + 1);
        bool same = n == BYTES;
        for (long k = 1; k < n && same; k++) same = got[k] == got[0];
        CHECK_MSG(t, same, "kill %d: %ld bytes, mixed", i, n);
    }
    free(data);
    free(got);
    scratch_close(&s);
}

static void quotes_strangers(test *t) {
    char quoted[BB_QUOTE_BYTES], longer[300];
    CHECK_TEXT(t, bb_quote("a\nb\x1b[0m", 7, quoted), "'a?b?[0m'");
    for (int i = 0; i < 299; i += 3) memcpy(longer + i, "\xE2\x82\xAC", 3);
    bb_quote(longer, 297, quoted);
    size_t n = strlen(quoted);
    CHECK(t, n < BB_QUOTE_BYTES && strcmp(quoted + n - 4, "...'") == 0);
    CHECK_INT(t, (n - 5) % 3, 0); /* whole characters only */
}

static void write_something(bb_context *ctx) {
    char path[300];
    snprintf(path, sizeof path, "%s/scratch-alloc-file", BOBBIN_BINARY_DIR);
    bb_file_write(ctx, path, "x", 1);
    remove(path);
}
static void survives_no_memory(test *t) { alloc_failure_loop(t, write_something); }

static const test_row rows[] = {
    {"maps_bytes", maps_bytes},
    {"refuses_what_is_no_file", refuses_what_is_no_file},
    {"writes_and_replaces", writes_and_replaces},
    {"keeps_a_link_a_link", keeps_a_link_a_link},
    {"names_what_it_cannot_write", names_what_it_cannot_write},
    {"full_disk", full_disk},
    {"fails_at_each_step", fails_at_each_step},
    {"goes_on_after_a_signal", goes_on_after_a_signal},
    {"survives_a_kill", survives_a_kill},
    {"quotes_strangers", quotes_strangers},
    {"survives_no_memory", survives_no_memory},
};
TEST_MAIN(rows)
