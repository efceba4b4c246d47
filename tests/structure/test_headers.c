/* Each header compiles alone, as C11; the public ones as C++ too, without a warning. */
#include "tests/support/files.h"
#include "tests/support/test.h"

static const char *const public_headers[] = {"bobbin.h",      "core/core.h",         "ops/ops.h",
                                             "ops/attrs.h",   "autograd/autograd.h", "nn/nn.h",
                                             "nn/quantize.h", "nn/fusible.h",        "io/io.h"};
static const char warnings[] = "-Wall -Wextra -Wpedantic -Werror";

typedef struct compiler {
    test *t;
    char folder[64];
    const char *command; /* without the source's name */
    const char *suffix;
} compiler;

/* True if `#include "header"` and what follows it compile. */
static bool compiles(const compiler *c, const char *header, const char *more, char *out,
                     size_t size) {
    char path[128], source[512], command[1024];
    snprintf(path, sizeof path, "%s/header%s", c->folder, c->suffix);
    snprintf(source, sizeof source, "#include \"%s\"\n%s\n", header, more);
    snprintf(command, sizeof command, "%s -I '%s' -fsyntax-only '%s'", c->command,
             BOBBIN_SOURCE_DIR, path);
    return write_text(path, source) && run_command(command, out, size) == 0;
}

static void check_header(const compiler *c, const char *header, const char *more) {
    char out[1024];
    bool ok = compiles(c, header, more, out, sizeof out);
    CHECK_MSG(c->t, ok, "%s: %s", header, out);
}

static bool is_cuda(const char *path) { return strstr(path, "backends/cuda/") != NULL; }

static void check_internal(void *user, const char *path, const char *text) {
    (void)text;
    /* Templates, compiled with definitions that their includer makes. */
    if (strstr(path, "/loops/") || strstr(path, "_kernel.h") || is_cuda(path)) return;
    check_header(user, path, "extern int nothing;");
}

static void check_cuda(void *user, const char *path, const char *text) {
    (void)text;
    if (is_cuda(path)) check_header(user, path, "extern int nothing;");
}

static void test_c(test *t) {
    compiler c = {.t = t,
                  .command = BOBBIN_C_COMPILER
                  " -std=c11 -Wstrict-prototypes -Wall -Wextra -Wpedantic -Werror",
                  .suffix = ".c"};
    if (!make_folder(c.folder)) return;
    const char *use = "bb_shape shape(void); bb_shape shape(void) { return BB_SHAPE(2, 3); }";
    for (int i = 0; i < COUNT(public_headers); i++) check_header(&c, public_headers[i], use);
    char out[1024];
    CHECK(t, !compiles(&c, "core/core.h", "bb_shape shape() { return 1; }", out,
                       sizeof out)); /* it can fail */
    remove_folder(c.folder);
}

static void test_internal(test *t) {
    static const char *const folders[] = {"core", "ops", "autograd", "backends",
                                          "nn",   "io",  "tools",    "tests"};
    static const char *const suffixes[] = {".h", NULL};
    compiler c = {.t = t,
                  .command = BOBBIN_C_COMPILER
                  " -std=c11 -D_GNU_SOURCE -Wall -Wextra "
                  "-DBOBBIN_BIN='\"\"' -DBOBBIN_SOURCE_DIR='\"\"' -DBOBBIN_BINARY_DIR='\"\"'",
                  .suffix = ".c"};
    if (!make_folder(c.folder)) return;
    for (int i = 0; i < COUNT(folders); i++)
        each_source(BOBBIN_SOURCE_DIR, folders[i], suffixes, check_internal, &c);
    remove_folder(c.folder);
}

/* As C++ in the host simulation, which every machine can compile. */
static void test_cuda(test *t) {
    static const char *const suffixes[] = {".h", NULL};
    compiler c = {.t = t,
                  .command = "c++ -std=c++17 -D_GNU_SOURCE -DBOBBIN_CUDA_SIM -Wall -Wextra",
                  .suffix = ".cpp"};
    if (!make_folder(c.folder)) return;
    each_source(BOBBIN_SOURCE_DIR, "backends", suffixes, check_cuda, &c);
    remove_folder(c.folder);
}

static void test_cpp(test *t) {
    char out[1024], command[256];
    if (run_command("c++ --version", out, sizeof out) != 0) {
        test_skip(t, "no C++ compiler here");
        return;
    }
    snprintf(command, sizeof command, "c++ -std=c++17 %s", warnings);
    compiler c = {.t = t, .command = command, .suffix = ".cpp"};
    if (!make_folder(c.folder)) return;
    const char *use = "bb_shape shape(); bb_shape shape() { return BB_SHAPE(2, 3); }";
    for (int i = 0; i < COUNT(public_headers); i++) check_header(&c, public_headers[i], use);
    check_header(&c, "bobbin.h",
                 "bb_tensor *f(bb_context *ctx); bb_tensor *f(bb_context *ctx) { bb_tensor *x = "
                 "bb_full(ctx, BB_F32, BB_SCALAR, 1);"
                 " return bb_sum(x, BB_INTS(0, 1), false); }");
    remove_folder(c.folder);
}

static const test_row rows[] = {
    {"C11", test_c}, {"internal", test_internal}, {"cuda", test_cuda}, {"C++", test_cpp}};
TEST_MAIN(rows)
