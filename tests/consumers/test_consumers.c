/* Those who build on the library: each consumer of this folder, built and run against an installed
 * copy (add_subdirectory: against the sources). */
#include "tests/support/files.h"
#include "tests/tools/program.h"

enum { SAID = 16384 };

/* Runs a command by the shell; all it says must hold `part`. */
static bool runs(test *t, const char *part, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static bool runs(test *t, const char *part, const char *format, ...) {
    char command[4096], said[SAID];
    va_list list;
    va_start(list, format);
    vsnprintf(command, sizeof command, format, list);
    va_end(list);
    int code = run_command(command, said, sizeof said);
    return CHECK_MSG(t, code == 0 && strstr(said, part), "%s\nexit %d, expected '%s' in: %s",
                     command, code, part, said);
}

static bool has(const char *command) {
    char said[SAID];
    return run_command(command, said, sizeof said) == 0;
}

/* A prefix with the library in it. Sanitized libraries want a sanitized program: what a consumer
 * sees is the same, so the normal build alone tests it. */
static bool install(test *t, scratch_folder *f) {
    if (*BOBBIN_SANITIZE) {
        test_skip(t, "sanitizer build: consumers are tested in the normal one");
        return false;
    }
    return scratch_open(t, f) && runs(t, "bobbin.h", "cmake --install '%s' --prefix '%s/prefix'",
                                      BOBBIN_BINARY_DIR, f->path);
}

static void test_installed(test *t) {
    static const char *const files[] = {"include/bobbin/bobbin.h",
                                        "include/bobbin/core/core.h",
                                        "include/bobbin/ops/attrs.h",
                                        BOBBIN_LIBDIR "/libbobbin.so",
                                        BOBBIN_LIBDIR "/libbobbin.a",
                                        BOBBIN_LIBDIR "/pkgconfig/bobbin.pc",
                                        BOBBIN_LIBDIR "/cmake/Bobbin/BobbinConfigVersion.cmake",
                                        "share/bobbin/bobbin.py",
                                        "share/man/man1/bobbin.1"};
    scratch_folder f;
    if (!install(t, &f)) return;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/prefix/%s", f.path, files[i]);
        CHECK_MSG(t, access(path, R_OK) == 0, "%s is not installed", files[i]);
    }
    runs(t, "bobbin " BOBBIN_VERSION, "'%s/prefix/bin/bobbin' --version", f.path);
    /* Nothing of the inside, and no path of this machine's build. */
    runs(t, "0", "find '%s/prefix/include' -name impl.h | wc -l", f.path);
    runs(t, "none",
         "grep -rlF '%s' '%s/prefix/include' '%s/prefix/" BOBBIN_LIBDIR
         "/cmake' '%s/prefix/" BOBBIN_LIBDIR "/pkgconfig' || echo none",
         BOBBIN_SOURCE_DIR, f.path, f.path, f.path);
    scratch_close(&f);
}

static void test_find_package(test *t) {
    scratch_folder f;
    if (!has("c++ --version")) {
        test_skip(t, "no C++ compiler here");
        return;
    }
    if (!install(t, &f)) return;
    if (runs(t, "Generating done",
             "cmake -S '%s/tests/consumers/find_package' -B '%s/build' "
             "-DCMAKE_PREFIX_PATH='%s/prefix' 2>&1",
             BOBBIN_SOURCE_DIR, f.path, f.path) &&
        runs(t, "Built target", "cmake --build '%s/build' 2>&1", f.path)) {
        runs(t, "C++ fine", "'%s/build/shared' 2>&1", f.path);
        runs(t, "C++ fine", "'%s/build/static' 2>&1", f.path);
        runs(t, "libbobbin.so.0.1", "readelf -d '%s/build/shared'", f.path);
    }
    /* A version that this is not. */
    runs(t, "refused",
         "sed 's/Bobbin 0.1 /Bobbin 0.2 /' '%s/tests/consumers/find_package/CMakeLists.txt' "
         ">'%s/CMakeLists.txt' && "
         "if cmake -S '%s' -B '%s/later' -DCMAKE_PREFIX_PATH='%s/prefix' >/dev/null 2>&1; then "
         "echo found; else "
         "echo refused; fi",
         BOBBIN_SOURCE_DIR, f.path, f.path, f.path, f.path);
    scratch_close(&f);
}

static void test_pkg_config(test *t) {
    scratch_folder f;
    if (!has("pkg-config --version")) {
        test_skip(t, "no pkg-config here");
        return;
    }
    if (!install(t, &f)) return;
    for (int fixed = 0; fixed < 2; fixed++) { /* the shared library, then the static one */
        bool built = runs(
            t, "",
            "cd '%s' && export PKG_CONFIG_PATH='%s/prefix/" BOBBIN_LIBDIR "/pkgconfig' && "
            "%s -std=c11 -Wall -Wextra -Wpedantic -Werror $(pkg-config --cflags bobbin) -o c%d "
            "'%s/tests/consumers/pkg_config/main.c' $(pkg-config --libs %s bobbin | sed '%s') 2>&1",
            f.path, f.path, BOBBIN_C_COMPILER, fixed, BOBBIN_SOURCE_DIR, fixed ? "--static" : "",
            fixed ? "s/-lbobbin/-l:libbobbin.a/" : "");
        if (built)
            runs(t, "C fine", "LD_LIBRARY_PATH='%s/prefix/" BOBBIN_LIBDIR "' '%s/c%d' 2>&1", f.path,
                 f.path, fixed);
    }
    runs(t, BOBBIN_VERSION,
         "PKG_CONFIG_PATH='%s/prefix/" BOBBIN_LIBDIR "/pkgconfig' pkg-config --modversion bobbin",
         f.path);
    scratch_close(&f);
}

/* Builds the whole library once more, without optimization. */
static void test_add_subdirectory(test *t) {
    scratch_folder f;
    if (*BOBBIN_SANITIZE) {
        test_skip(t, "sanitizer build: consumers are tested in the normal one");
        return;
    }
    if (!scratch_open(t, &f)) return;
    if (runs(t, "Generating done",
             "cmake -S '%s/tests/consumers/add_subdirectory' -B '%s/build' -G Ninja -DBOBBIN='%s' "
             "-DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG=-O0 -DBOBBIN_LOOPS_LEVEL=-O0 2>&1",
             BOBBIN_SOURCE_DIR, f.path, BOBBIN_SOURCE_DIR) &&
        runs(t, "", "cmake --build '%s/build' --target consumer 2>&1", f.path))
        runs(t, "C fine", "'%s/build/consumer' 2>&1", f.path);
    scratch_close(&f);
}

/* Builds the programs of `module`: with either library by CMake, with the static one by pkg-config.
 */
static bool build_module(test *t, const scratch_folder *f) {
    return runs(t, "Generating done",
                "cmake -S '%s/tests/consumers/module' -B '%s/build' "
                "-DCMAKE_PREFIX_PATH='%s/prefix' 2>&1",
                BOBBIN_SOURCE_DIR, f->path, f->path) &&
           runs(t, "Built target", "cmake --build '%s/build' 2>&1", f->path) &&
           (!has("pkg-config --version") ||
            runs(t, "",
                 "cd '%s' && export PKG_CONFIG_PATH='%s/prefix/" BOBBIN_LIBDIR "/pkgconfig' && "
                 "%s -std=c11 $(pkg-config --cflags bobbin) -o build/static-too "
                 "'%s/tests/consumers/module/main.c' $(pkg-config --libs --static bobbin | sed "
                 "'s/-lbobbin/-l:libbobbin.a/') 2>&1",
                 f->path, f->path, BOBBIN_C_COMPILER, BOBBIN_SOURCE_DIR));
}

/* A device's module is installed beside the library, and both the program and the library look for
 * it there. The simulated one stands in for the real one, which has the same name. A program with
 * the static library in it is told where that is, but only if there is a module: CMake looks when
 * the program is configured, bobbin.pc knows whether this build has one. */
static void test_module(test *t) {
    scratch_folder f;
    if (!install(t, &f)) return;
    char path[512];
    snprintf(path, sizeof path, "%s/prefix/" BOBBIN_LIBDIR "/libbobbin_cuda.so", f.path);
    bool real = access(path, R_OK) == 0; /* of a build with BOBBIN_CUDA */
    for (int there = real; there < 2; there++) {
        if (there)
            runs(t, "", "cp '" BOBBIN_BINARY_DIR "/cuda-sim/libbobbin_cuda.so' '%s' 2>&1", path);
        if (!build_module(t, &f)) break;
        for (int pc = 0; pc < (has("pkg-config --version") ? 2 : 1); pc++)
            runs(t, (pc ? real : there) ? "told" : "untold",
                 "if readelf -d '%s/build/%s' | grep -q 'R.*PATH.*%s/prefix'; then echo told; else "
                 "echo untold; fi",
                 f.path, pc ? "static-too" : "static", f.path);
        runs(t, there ? "arange cuda primitive" : "its module could not be loaded",
             "cd '%s' && env -u BOBBIN_BACKEND_PATH -u LD_LIBRARY_PATH BOBBIN_TRACE=1 "
             "prefix/bin/bobbin op "
             "arange --attrs '{\"start\": 0, \"stop\": 4}' --device cuda --output a.safetensors "
             "2>&1; "
             "true",
             f.path);
        for (int i = 0; i < (real && has("pkg-config --version") ? 3 : 2); i++)
            runs(t, there ? "available 1" : "available 0: its module could not be loaded",
                 "cd '%s/build' && env -u BOBBIN_BACKEND_PATH -u LD_LIBRARY_PATH ./%s 2>&1", f.path,
                 ((const char *[]){"shared", "static", "static-too"})[i]);
    }
    scratch_close(&f);
}

/* The first Python with NumPy: BOBBIN_PYTHON, the environment that test.sh makes, the system's. */
static bool find_python(char python[1024]) {
    const char *chosen = getenv("BOBBIN_PYTHON");
    const char *const candidates[] = {chosen ? chosen : "python3",
                                      BOBBIN_SOURCE_DIR "/build-onnx/bin/python", "python3"};
    for (int i = 0; i < 3; i++) {
        char command[1200];
        snprintf(python, 1024, "%s", candidates[i]);
        snprintf(command, sizeof command, "'%s' -c 'import numpy; numpy.from_dlpack' 2>&1", python);
        if (has(command)) return true;
    }
    return false;
}

static void test_python(test *t) {
    scratch_folder f;
    char python[1024];
    if (!find_python(python)) {
        test_skip(t, "no python3 with numpy 1.22 or newer here (BOBBIN_PYTHON names one)");
        return;
    }
    if (!install(t, &f)) return;
    runs(t, "Python fine",
         "env -u BOBBIN_LIBRARY PYTHONPATH='%s/prefix/share/bobbin' PYTHONDONTWRITEBYTECODE=1 '%s' "
         "'%s/tests/consumers/python/consumer.py' '%s/prefix/include/bobbin' %s 2>&1",
         f.path, python, BOBBIN_SOURCE_DIR, f.path, BOBBIN_C_COMPILER);
    scratch_close(&f);
}

/* README.md's Python program, run by README.md's command, where a build is in build/. */
static void test_readme(test *t) {
    scratch_folder f;
    char python[1024];
    if (*BOBBIN_SANITIZE || !find_python(python)) {
        test_skip(t, "sanitizer build, or no python3 with numpy 1.22 or newer (BOBBIN_PYTHON)");
        return;
    }
    if (!scratch_open(t, &f)) return;
    runs(t, "[[",
         "cd '%s' && mkdir examples bin && cp '%s/examples/bobbin.py' examples && ln -s '%s' build "
         "&& "
         "printf '#!/bin/sh\nexec \"%s\" \"$@\"\n' >bin/python3 && chmod +x bin/python3 && "
         "sed -n '/^```python/,/^```/{/^```/!p}' '%s/README.md' >first.py && "
         "command=$(grep 'python3 first.py' '%s/README.md') && unset BOBBIN_LIBRARY && "
         "PYTHONDONTWRITEBYTECODE=1 PATH=\"$PWD/bin:$PATH\" sh -c \"$command\" 2>&1",
         f.path, BOBBIN_SOURCE_DIR, BOBBIN_BINARY_DIR, python, BOBBIN_SOURCE_DIR,
         BOBBIN_SOURCE_DIR);
    scratch_close(&f);
}

static const test_row rows[] = {
    {"what is installed", test_installed}, {"find_package, C++", test_find_package},
    {"pkg-config, C", test_pkg_config},    {"add_subdirectory, C", test_add_subdirectory},
    {"a device's module", test_module},    {"Python", test_python},
    {"README.md's Python", test_readme},
};
TEST_MAIN(rows)
