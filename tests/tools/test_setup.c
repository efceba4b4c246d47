/* tools/setup.sh: what it says where it cannot install. The shell gets a PATH with nothing but the
 * few programs it needs and a stand-in for one package manager, so that everything else is missing.
 */
#include "tests/tools/program.h"

/* Runs bobbin_setup with these stand-ins on the PATH and, in the shell, `tweak`; its exit code.
 * Output goes to out.txt, err.txt. */
static int set_up_with(const scratch_folder *f, const char *programs, const char *tweak) {
    char command[2048];
    snprintf(command, sizeof command,
             "cd '%s' && rm -rf bin && mkdir bin && for p in %s; do printf '#!/bin/sh\\nexit 0\\n' "
             ">bin/$p; chmod +x bin/$p; done && for p in tr id sed cat; do ln -sf \"$(command -v "
             "$p)\" bin/$p; done && PATH=$PWD/bin /bin/sh -c '. \"%s/tools/setup.sh\"; "
             "bobbin_has_openblas() { return 1; }; %s; bobbin_setup' >out.txt 2>err.txt",
             f->path, programs, BOBBIN_SOURCE_DIR, tweak);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int set_up(const scratch_folder *f, const char *programs) {
    return set_up_with(f, programs, ":");
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
    for (int i = 0; i < COUNT(expected); i++) check_says(t, &f, expected[i][0], expected[i][1]);
    /* Only what is missing. */
    check_says(t, &f, "dnf git cc c++", "dnf install cmake ninja-build openblas-openmp\n");
    scratch_close(&f);
}

/* Without OpenBLAS the library uses its own matrix product: no reason to stop, whatever keeps it
 * from being installed. */
static void test_enough(test *t) {
    static const struct {
        const char *programs, *tweak, *out;
    } cases[] = {
        {"dnf", "id() { echo 0; }", ""},        /* another manager */
        {"apt-get", "id() { echo 1000; }", ""}, /* no root and no sudo */
        {"apt-get",
         "echo exit 100 >bin/apt-get; id() { echo 0; }; mktemp() { echo log; }; "
         "tail() { :; }; rm() { :; }",
         "Installing: libopenblas0-openmp\n"}, /* no network */
    };
    scratch_folder f;
    char programs[64];
    if (!scratch_open(t, &f)) return;
    for (int i = 0; i < COUNT(cases); i++) {
        snprintf(programs, sizeof programs, "%s git cc c++ cmake ninja", cases[i].programs);
        CHECK_INT(t, set_up_with(&f, programs, cases[i].tweak), 0);
        char *out = scratch_read(&f, "out.txt", NULL), *err = scratch_read(&f, "err.txt", NULL);
        CHECK_TEXT(t, out, cases[i].out);
        CHECK_TEXT(t, err,
                   "Without OpenBLAS (Debian's libopenblas0-openmp): going on with "
                   "Bobbin's own matrix product.\n");
        free(out);
        free(err);
    }
    /* With something else missing, those are reasons. */
    CHECK_INT(t, set_up_with(&f, "apt-get cc c++ cmake ninja", "id() { echo 1000; }"), 1);
    scratch_close(&f);
}

static const test_row rows[] = {
    {"package managers", test_managers},
    {"nothing to install", test_enough},
};
TEST_MAIN(rows)
