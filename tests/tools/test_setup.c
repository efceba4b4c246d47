/* tools/setup.sh: what it says where it cannot install. The shell gets a PATH with nothing but the
 * few programs it needs and a stand-in for one package manager, so that everything else is missing.
 */
#include "tests/tools/program.h"

/* Runs bobbin_setup with these stand-ins on the PATH; its exit code. Output goes to out.txt,
 * err.txt. */
static int set_up(const scratch_folder *f, const char *programs) {
    char command[2048];
    snprintf(command, sizeof command,
             "cd '%s' && rm -rf bin && mkdir bin && for p in %s; do printf '#!/bin/sh\\nexit 0\\n' "
             ">bin/$p; chmod +x bin/$p; done && for p in tr id sed cat; do ln -sf \"$(command -v "
             "$p)\" bin/$p; done && PATH=$PWD/bin /bin/sh -c '. \"%s/tools/setup.sh\"; "
             "bobbin_has_openblas() { return 1; }; bobbin_setup' >out.txt 2>err.txt",
             f->path, programs, BOBBIN_SOURCE_DIR);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void check_says(test *t, const scratch_folder *f, const char *programs, const char *part) {
    int code = set_up(f, programs);
    char *said = scratch_read(f, "err.txt", NULL);
    CHECK_INT(t, code, 1);
    CHECK_MSG(t, said && strstr(said, part), "with %s: expected \"%s\", got: %s", programs, part,
              said ? said : "nothing");
    free(said);
}

static void test_managers(test *t) {
    static const char *const expected[][2] = {
        {"dnf", "dnf install git gcc gcc-c++ cmake ninja-build openblas-openmp"},
        {"pacman", "pacman -S --needed git gcc cmake ninja openblas"},
        {"zypper", "zypper install git gcc gcc-c++ cmake ninja libopenblas_openmp0"},
        {"apk", "apk add git build-base cmake samurai openblas"},
        {"brew", ": brew install git gcc cmake ninja openblas"},
        {"true", "(Debian's names): git build-essential cmake ninja-build libopenblas0-openmp"},
    };
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        check_says(t, &f, expected[i][0], expected[i][1]);
    /* Only what is missing. */
    check_says(t, &f, "dnf git cc c++", "dnf install cmake ninja-build openblas-openmp\n");
    scratch_close(&f);
}

/* Without OpenBLAS the library uses its own matrix product: no reason to stop. */
static void test_enough(test *t) {
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    CHECK_INT(t, set_up(&f, "dnf git cc c++ cmake ninja"), 0);
    char *out = scratch_read(&f, "out.txt", NULL), *err = scratch_read(&f, "err.txt", NULL);
    CHECK_TEXT(t, out, "");
    CHECK_TEXT(t, err, "");
    free(out);
    free(err);
    scratch_close(&f);
}

static const test_row rows[] = {
    {"package managers", test_managers},
    {"nothing to install", test_enough},
};
TEST_MAIN(rows)
