/* Whole files: mapped for reading, replaced atomically for writing. The manual is io/io.h. */
#include "core/impl.h"
#include "io/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

const char *bb_quote(const char *text, size_t bytes, char quoted[BB_QUOTE_BYTES]) {
    size_t room = BB_QUOTE_BYTES - 6, n = 0; /* two quotes, three dots, the zero byte */
    quoted[n++] = '\'';
    size_t take = bytes < room ? bytes : room;
    /* Never end in the middle of a UTF-8 sequence. */
    while (take < bytes && take > 0 && ((unsigned char)text[take] & 0xC0) == 0x80) take--;
    for (size_t i = 0; i < take; i++) {
        unsigned char c = (unsigned char)text[i];
        quoted[n++] = c < 0x20 || c == 0x7F ? '?' : (char)c;
    }
    if (take < bytes) {
        memcpy(quoted + n, "...", 3);
        n += 3;
    }
    quoted[n++] = '\'';
    quoted[n] = '\0';
    return quoted;
}

static bb_status fail_system(bb_context *ctx, const char *path, const char *doing) {
    int reason = errno;
    return bb_fail(ctx, BB_ERR_IO, "%s: %s: %s", path, doing, strerror(reason));
}

/* ---- Reading */

static const char empty_file[1] = "";

bb_status bb_file_map(bb_context *ctx, const char *path, bb_file *file) {
    if (file) *file = (bb_file){empty_file, 0};
    if (bb_error(ctx)) return bb_error(ctx);
    if (!file) return bb_fail(ctx, BB_ERR_ARGUMENT, "bb_file_map: file: expected one, got NULL");
    if (!path) return bb_fail(ctx, BB_ERR_ARGUMENT, "open a file: path: expected a name, got NULL");
    /* Without O_NONBLOCK, opening a pipe would wait for its other end. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return fail_system(ctx, path, "cannot open");
    struct stat info;
    bb_status status = BB_OK;
    if (fstat(fd, &info) != 0) {
        status = fail_system(ctx, path, "cannot examine");
    } else if (!S_ISREG(info.st_mode)) {
        status = bb_fail(ctx, BB_ERR_IO, "%s: expected a regular file, got %s", path,
                         S_ISDIR(info.st_mode) ? "a folder" : "a device or pipe");
    } else if ((uintmax_t)info.st_size > (uintmax_t)(SIZE_MAX / 2)) {
        status = bb_fail(ctx, BB_ERR_UNSUPPORTED, "%s: too large for this machine", path);
    } else if (info.st_size > 0) {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            status = fail_system(ctx, path, "cannot map");
        else
            *file = (bb_file){data, (size_t)info.st_size};
    }
    close(fd);
    return status;
}

void bb_file_unmap(bb_file *file) {
    if (!file) return;
    if (file->bytes) munmap((void *)(uintptr_t)file->data, file->bytes);
    *file = (bb_file){empty_file, 0};
}

/* ---- Writing */

struct bb_writer {
    bb_context *ctx;
    bb_file_calls calls;
    bb_status status;
    int fd;
    bool direct;            /* the target is a device or a pipe: no temporary file */
    size_t folder_bytes;    /* of `target`, up to and with the last slash; 0: the working folder */
    char target[PATH_MAX];  /* with links resolved, so that a link stays a link */
    char scratch[PATH_MAX]; /* the temporary file */
};

static ptrdiff_t system_write(void *user, int file, const void *data, size_t bytes) {
    (void)user;
    return write(file, data, bytes);
}
static int system_fsync(void *user, int file) {
    (void)user;
    return fsync(file);
}
static int system_rename(void *user, const char *from, const char *to) {
    (void)user;
    return rename(from, to);
}

/* Remembers the first failure; later calls of the writer then do nothing. */
static bb_status writer_fail(bb_writer *w, const char *doing) {
    w->status = fail_system(w->ctx, w->target, doing);
    return w->status;
}

/* A name that no reader takes for a model or checkpoint. O_EXCL makes it ours alone: another thread
 * or a stale file of a killed process only costs a further try. */
static bb_status open_scratch(bb_writer *w, mode_t mode) {
    for (int i = 0; i < 1000; i++) {
        int n = snprintf(w->scratch, sizeof w->scratch, "%.*s.bobbin-%ld-%d.tmp",
                         (int)w->folder_bytes, w->target, (long)getpid(), i);
        if (n < 0 || (size_t)n >= sizeof w->scratch) {
            errno = ENAMETOOLONG;
            break;
        }
        w->fd = open(w->scratch, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
        if (w->fd >= 0 || errno != EEXIST) break;
    }
    return w->fd < 0 ? writer_fail(w, "cannot create a file beside it") : BB_OK;
}

/* The file that links lead to, which may not be there yet. */
static bool follow(char target[PATH_MAX]) {
    char link[PATH_MAX];
    for (int links = 0; links < 40; links++) {
        ssize_t n = readlink(target, link, sizeof link);
        if (n < 0) return true; /* no link */
        const char *slash = link[0] == '/' ? NULL : strrchr(target, '/');
        size_t folder = slash ? (size_t)(slash - target) + 1 : 0;
        if (folder + (size_t)n >= PATH_MAX) {
            errno = ENAMETOOLONG;
            return false;
        }
        memcpy(target + folder, link, (size_t)n);
        target[folder + (size_t)n] = '\0';
    }
    errno = ELOOP;
    return false;
}

static bb_status open_target(bb_writer *w, const char *path) {
    size_t bytes = strlen(path);
    if (bytes == 0 || bytes >= sizeof w->target) {
        errno = bytes ? ENAMETOOLONG : ENOENT;
        return writer_fail(w, "cannot write");
    }
    memcpy(w->target, path, bytes + 1);
    mode_t mode = 0666;
    struct stat info;
    if (stat(path, &info) == 0) {
        if (S_ISDIR(info.st_mode)) {
            errno = EISDIR;
            return writer_fail(w, "cannot write");
        }
        if (!S_ISREG(info.st_mode)) {
            w->direct = true;
            w->fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
            return w->fd < 0 ? writer_fail(w, "cannot write") : BB_OK;
        }
        mode = info.st_mode & 0777;
    }
    if (!follow(w->target)) return writer_fail(w, "cannot resolve");
    const char *slash = strrchr(w->target, '/');
    w->folder_bytes = slash ? (size_t)(slash - w->target) + 1 : 0;
    return open_scratch(w, mode);
}

bb_writer *bb_writer_open(bb_context *ctx, const char *path, const bb_file_calls *calls) {
    if (bb_error(ctx)) return NULL;
    if (!path) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "write a file: path: expected a name, got NULL");
        return NULL;
    }
    bb_writer *w = bb_host_allocate(ctx, sizeof *w);
    if (!w) return NULL;
    memset(w, 0, sizeof *w);
    w->ctx = ctx;
    w->fd = -1;
    w->calls = calls ? *calls : (bb_file_calls){system_write, system_fsync, system_rename, NULL};
    if (open_target(w, path) != BB_OK) {
        bb_host_release(ctx, w, sizeof *w);
        return NULL;
    }
    return w;
}

bb_status bb_writer_add(bb_writer *w, const void *data, size_t bytes) {
    if (!w) return BB_ERR_STATE;
    const char *at = data;
    while (w->status == BB_OK && bytes > 0) {
        size_t piece = bytes < (size_t)1 << 30 ? bytes : (size_t)1 << 30;
        ptrdiff_t done = w->calls.write(w->calls.user, w->fd, at, piece);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) {
            if (done == 0) errno = ENOSPC; /* a write of nothing would otherwise repeat for ever */
            return writer_fail(w, "cannot write");
        }
        at += done;
        bytes -= (size_t)done;
    }
    return w->status;
}

static int flush(bb_writer *w, int fd) {
    int result;
    do result = w->calls.fsync(w->calls.user, fd);
    while (result != 0 && errno == EINTR);
    return result;
}

/* A rename is only safe from a power cut once its folder is on disk. */
static bb_status flush_folder(bb_writer *w) {
    char folder[PATH_MAX] = ".";
    if (w->folder_bytes) {
        memcpy(folder, w->target, w->folder_bytes);
        folder[w->folder_bytes] = '\0';
    }
    int fd = open(folder, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (fd < 0)
        return errno == EACCES ? BB_OK : writer_fail(w, "written, but cannot open its folder");
    if (flush(w, fd) != 0 && errno != EINVAL) /* EINVAL: a file system that cannot and need not */
        writer_fail(w, "written, but cannot flush its folder");
    close(fd);
    return w->status;
}

static bb_status finish(bb_writer *w) {
    if (w->direct) {
        int result = close(w->fd);
        w->fd = -1;
        return result != 0 ? writer_fail(w, "cannot close") : BB_OK;
    }
    if (flush(w, w->fd) != 0) return writer_fail(w, "cannot flush");
    int result = close(w->fd);
    w->fd = -1;
    if (result != 0 && errno != EINTR) return writer_fail(w, "cannot close");
    if (w->calls.rename(w->calls.user, w->scratch, w->target) != 0)
        return writer_fail(w, "cannot replace");
    w->scratch[0] = '\0'; /* it now is the target */
    return flush_folder(w);
}

bb_status bb_writer_commit(bb_writer *w) {
    if (!w) return BB_ERR_STATE;
    bb_status status = w->status == BB_OK ? finish(w) : w->status;
    bb_writer_abandon(w);
    return status;
}

void bb_writer_abandon(bb_writer *w) {
    if (!w) return;
    if (w->fd >= 0) close(w->fd);
    if (w->scratch[0]) unlink(w->scratch);
    bb_host_release(w->ctx, w, sizeof *w);
}

bb_status bb_file_write(bb_context *ctx, const char *path, const void *data, size_t bytes) {
    bb_writer *w = bb_writer_open(ctx, path, NULL);
    if (!w) return bb_error(ctx);
    bb_writer_add(w, data, bytes);
    return bb_writer_commit(w);
}
