/* `bobbin train` in a folder that has a run already: it keeps what is there until it has something
 * better, shares it with nobody, and believes a checkpoint no more than flags. And signals that
 * come at bad moments. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <time.h>

#include "tests/tools/program.h"

static const char quick[] = "--data text --model tiny --batch 4 --seq 32 --eval-every 0";

static bool open_run(test *t, scratch_folder *f) {
    char text[8192];
    if (!scratch_open(t, f)) return false;
    for (size_t i = 0; i < sizeof text; i++) text[i] = "the cat sat on the mat. "[i % 24];
    scratch_write(f, "text", text, sizeof text);
    int code =
        program_run(f, "train %s --steps 3 --clip 10 --lr 0.001 --min-lr 0.0005 --out run", quick);
    if (CHECK_INT(t, code, 0)) return true;
    scratch_close(f);
    return false;
}

static int count_files(const scratch_folder *f, const char *folder) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", f->path, folder);
    DIR *d = opendir(path);
    int n = 0;
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

static void a_failed_run_changes_nothing(test *t) {
    scratch_folder f;
    if (!open_run(t, &f)) return;
    size_t bytes = 0;
    char *before = scratch_read(&f, "run/metrics.csv", &bytes);
    int files = count_files(&f, "run");
    /* A rate that no step can take. */
    CHECK_INT(t, program_run(&f, "train %s --steps 9 --warmup 0 --lr 1e300 --out run", quick), 1);
    char *after = scratch_read(&f, "run/metrics.csv", NULL);
    CHECK_TEXT(t, after, before);
    CHECK_INT(t, count_files(&f, "run"), files);
    CHECK_INT(t, program_run(&f, "train --resume run --steps 4"), 0);
    free(before);
    free(after);
    /* One that goes well takes its place. */
    CHECK_INT(t, program_run(&f, "train %s --steps 2 --out run", quick), 0);
    after = scratch_read(&f, "run/metrics.csv", NULL);
    CHECK(t, after && strstr(after, "\n2,train,") && !strstr(after, "\n3,train,"));
    CHECK_INT(t, program_run(&f, "train --resume run --steps 3"), 0);
    free(after);
    scratch_close(&f);
}

static void one_run_at_a_time(test *t) {
    scratch_folder f;
    char path[256];
    if (!open_run(t, &f)) return;
    snprintf(path, sizeof path, "%s/run", f.path);
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (CHECK(t, folder >= 0 && flock(folder, LOCK_EX | LOCK_NB) == 0)) {
        check_refused(t, &f, program_run(&f, "train %s --steps 2 --out run", quick), 1,
                      "run: another bobbin train is writing there");
        check_refused(t, &f, program_run(&f, "train --resume run --steps 9"), 1,
                      "run: another bobbin train is writing there");
    }
    close(folder);
    CHECK_INT(t, program_run(&f, "train --resume run --steps 4"), 0);
    scratch_close(&f);
}

static void metrics_are_gone(test *t) {
    scratch_folder f;
    char path[256];
    if (!open_run(t, &f)) return;
    snprintf(path, sizeof path, "%s/run/metrics.csv", f.path);
    CHECK(t, unlink(path) == 0);
    CHECK_INT(t, program_run(&f, "train --resume run --steps 5"), 0);
    char *err = scratch_read(&f, "err.txt", NULL), *csv = scratch_read(&f, "run/metrics.csv", NULL);
    CHECK(t, err && strstr(err, "metrics.csv is not there: a new one begins after step 3"));
    CHECK(t, csv && strncmp(csv, "step,split,", 11) == 0 && strstr(csv, "\n4,train,") &&
                 strstr(csv, "\n5,train,") && !strstr(csv, "\n3,train,"));
    free(err);
    free(csv);
    scratch_close(&f);
}

/* Overwrites the value of a setting in the checkpoint with another of the same length: `text`, then
 * zeros. */
static bool edit(const scratch_folder *f, const char *from, const char *to, const char *key,
                 const char *text) {
    size_t bytes = 0, wanted = strlen(text);
    char *file = scratch_read(f, from, &bytes), quoted[64];
    int n = snprintf(quoted, sizeof quoted, "\\\"%s\\\":", key);
    char *at = file ? memmem(file, bytes, quoted, (size_t)n) : NULL;
    if (at) {
        at += n;
        size_t length = strcspn(at, ",}");
        for (size_t i = 0; i < length; i++) at[i] = i < wanted ? text[i] : '0';
        scratch_write(f, to, file, bytes);
    }
    free(file);
    return at != NULL;
}

static void settings_of_a_checkpoint(test *t) {
    static const char *const cases[][2] = {{"lr", "-1"},
                                           {"min-lr", "9"},
                                           {"clip", "-1"},
                                           {"elapsed_s", "-1"},
                                           {"seq", "-1"},
                                           {"seq", "99"},
                                           {"batch", "0"},
                                           {"steps", "0"},
                                           {"dtype", "\\\"f16\\\""},
                                           {"dtype", "\\\"f64\\\""},
                                           {"dtype", "\\\"i64\\\""},
                                           {"weight-decay", "-1"}};
    scratch_folder f;
    char folder[256], part[64];
    if (!open_run(t, &f)) return;
    snprintf(folder, sizeof folder, "%s/bad", f.path);
    CHECK(t, mkdir(folder, 0777) == 0);
    for (int i = 0; i < COUNT(cases); i++) {
        if (!CHECK(t, edit(&f, "run/checkpoint.safetensors", "bad/checkpoint.safetensors",
                           cases[i][0], cases[i][1])))
            continue;
        snprintf(part, sizeof part, "a wrong '%s'", cases[i][0]);
        check_refused(t, &f, program_run(&f, "train --resume bad --steps 9"), 2, part);
    }
    scratch_close(&f);
}

/* ---- Signals */

static pid_t start(const scratch_folder *f, bool ignore_hangup) {
    scratch_write(f, "err.txt", "", 0); /* what an earlier run said is no line of this one */
    fflush(NULL);
    pid_t child = fork();
    if (child != 0) return child;
    if (ignore_hangup) signal(SIGHUP, SIG_IGN);
    if (chdir(f->path) != 0 || !freopen("out.txt", "w", stdout) || !freopen("err.txt", "w", stderr))
        _exit(99);
    execl(BOBBIN_BIN, "bobbin", "train", "--data", "text", "--model", "tiny", "--batch", "4",
          "--seq", "32", "--steps", "1000000", "--eval-every", "0", "--save-every", "0", "--out",
          "again", (char *)NULL);
    _exit(98);
}

/* How many lines of progress have come, one every 50 steps; waits for one more than `seen`. */
static int wait_for_line(const scratch_folder *f, int seen) {
    int lines = 0;
    for (int i = 0; i < 3000 && lines <= seen; i++) {
        char *err = scratch_read(f, "err.txt", NULL);
        lines = 0;
        for (char *at = err; at && (at = strstr(at, "  loss ")); at++) lines++;
        free(err);
        nanosleep(&(struct timespec){0, 20000000}, NULL);
    }
    return lines;
}

/* The checkpoint goes to a pipe that nobody reads yet, so the save lasts until we let it end. */
static void second_signal_while_saving(test *t) {
    scratch_folder f;
    char path[256], piece[65536];
    int status = 0;
    if (!open_run(t, &f)) return;
    snprintf(path, sizeof path, "%s/again", f.path);
    CHECK(t, mkdir(path, 0777) == 0);
    snprintf(path, sizeof path, "%s/again/checkpoint.safetensors", f.path);
    CHECK(t, mkfifo(path, 0600) == 0);
    pid_t child = start(&f, false);
    wait_for_line(&f, 0);
    kill(child, SIGINT);
    int pipe = open(path, O_RDONLY); /* returns once the save has begun */
    kill(child, SIGINT);
    while (read(pipe, piece, sizeof piece) > 0) continue;
    close(pipe);
    waitpid(child, &status, 0);
    CHECK_MSG(t, WIFEXITED(status) && WEXITSTATUS(status) == 130, "status %d", status);
    char *model = scratch_read(&f, "again/model.safetensors", NULL);
    CHECK(t, model != NULL);
    free(model);
    scratch_close(&f);
}

/* As nohup starts programs. */
static void ignored_hangup(test *t) {
    scratch_folder f;
    int status = 0;
    if (!open_run(t, &f)) return;
    pid_t child = start(&f, true);
    int lines = wait_for_line(&f, 0);
    kill(child, SIGHUP);
    CHECK(t, wait_for_line(&f, lines) > lines);
    kill(child, SIGTERM);
    waitpid(child, &status, 0);
    CHECK_MSG(t, WIFEXITED(status) && WEXITSTATUS(status) == 143, "status %d", status);
    scratch_close(&f);
}

static const test_row rows[] = {
    {"a failed run changes nothing", a_failed_run_changes_nothing},
    {"one run at a time", one_run_at_a_time},
    {"metrics are gone", metrics_are_gone},
    {"settings of a checkpoint", settings_of_a_checkpoint},
    {"second signal while saving", second_signal_while_saving},
    {"ignored hangup", ignored_hangup},
};
TEST_MAIN(rows)
