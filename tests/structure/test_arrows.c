/* The house: who may include whom. Reads the #include lines of all sources; an arrow that is not
 * drawn here fails.
 *
 *         examples   tools   tests            may use everything
 *              \       |      /
 *           nn            io
 *              \         /
 *         autograd     ops
 *              \       /
 *    backends ----> core                      backends may read ops/attrs.h, nothing else of ops */
#include "tests/support/files.h"
#include "tests/support/test.h"

static const char *const suffixes[] = {".c", ".h", ".cu", ".cuh", ".cpp", NULL};

/* Folder -> what its files may include: folders, or single headers. */
static const struct {
    const char *from, *to[8];
} arrows[] = {
    {"core", {"core/"}},
    {"backends", {"backends/", "core/", "ops/attrs.h"}},
    {"ops", {"ops/", "core/"}},
    {"autograd", {"autograd/", "ops/", "core/"}},
    {"nn", {"nn/", "autograd/", "ops/", "core/"}},
    {"io", {"io/", "autograd/", "ops/", "core/"}},
};
static const char *const anything_goes[] = {"tools", "examples", "tests"};

/* NULL: fine. */
static const char *problem_of(const char *path, const char *included) {
    size_t folder = strcspn(path, "/");
    if (!path[folder]) return NULL; /* bobbin.c and bobbin.h wire the house */
    for (int i = 0; i < COUNT(anything_goes); i++)
        if (strncmp(path, anything_goes[i], folder) == 0 && !anything_goes[i][folder])
            return strchr(included, '/') || strcmp(included, "bobbin.h") == 0
                       ? NULL
                       : "not written from the root";
    for (int i = 0; i < COUNT(arrows); i++) {
        if (strncmp(path, arrows[i].from, folder) != 0 || arrows[i].from[folder]) continue;
        for (const char *const *to = arrows[i].to; *to; to++) {
            size_t n = strlen(*to);
            bool whole_folder = (*to)[n - 1] == '/';
            if (whole_folder ? strncmp(included, *to, n) == 0 : strcmp(included, *to) == 0)
                return NULL;
        }
        return "an arrow that is not drawn";
    }
    return "a folder that is not in the house";
}

static int count_problems(test *t, const char *path, const char *text, bool tell) {
    int problems = 0;
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        char included[256];
        if (sscanf(line, " # include \"%255[^\"]\"", included) != 1) continue;
        const char *problem = problem_of(path, included);
        if (!problem) continue;
        problems++;
        if (tell) CHECK_MSG(t, false, "%s includes %s: %s", path, included, problem);
    }
    return problems;
}

static void check_file(void *user, const char *path, const char *text) {
    test *t = user;
    t->checks++;
    count_problems(t, path, text, true);
}

static void test_tree(test *t) {
    static const char *const folders[] = {"core", "backends", "ops",      "autograd", "nn",
                                          "io",   "tools",    "examples", "tests"};
    int files = 0;
    for (int i = 0; i < COUNT(folders); i++)
        files += each_source(BOBBIN_SOURCE_DIR, folders[i], suffixes, check_file, t);
    CHECK_MSG(t, files > 100, "only %d source files found", files);
}

/* It must be able to fail. */
static void test_planted(test *t) {
    CHECK_INT(
        t, count_problems(t, "core/op.c", "#include \"core/impl.h\"\n#include <string.h>\n", false),
        0);
    CHECK_INT(t, count_problems(t, "core/op.c", "/* x */\n#include \"ops/ops.h\"\n", false), 1);
    CHECK_INT(t, count_problems(t, "core/op.c", "  #  include \"bobbin.h\"\n", false), 1);
    CHECK_INT(t, count_problems(t, "core/op.c", "#include \"impl.h\"\n", false), 1);
    CHECK_INT(t,
              count_problems(t, "backends/cpu/norm.c",
                             "#include \"ops/attrs.h\"\n#include \"backends/cpu/cpu.h\"\n", false),
              0);
    CHECK_INT(t, count_problems(t, "backends/cpu/norm.c", "#include \"ops/ops.h\"\n", false), 1);
    CHECK_INT(t,
              count_problems(t, "backends/cpu/norm.c", "#include \"autograd/autograd.h\"\n", false),
              1);
    CHECK_INT(t,
              count_problems(t, "ops/add.c",
                             "#include \"autograd/autograd.h\"\n#include \"backends/cpu/cpu.h\"\n",
                             false),
              2);
    CHECK_INT(t, count_problems(t, "nn/linear.c", "#include \"io/io.h\"\n", false), 1);
    CHECK_INT(t, count_problems(t, "io/json.c", "#include \"nn/nn.h\"\n", false), 1);
    CHECK_INT(t, count_problems(t, "io/json.c", "#include \"tools/args.h\"\n", false), 1);
    CHECK_INT(t,
              count_problems(t, "tools/main.c", "#include \"bobbin.h\"\n#include \"core/impl.h\"\n",
                             false),
              0);
    CHECK_INT(t, count_problems(t, "tools/main.c", "#include \"args.h\"\n", false), 1);
    CHECK_INT(t, count_problems(t, "extra/x.c", "#include \"core/core.h\"\n", false), 1);
    CHECK_INT(t, count_problems(t, "bobbin.c", "#include \"nn/nn.h\"\n", false), 0);
}

static const test_row rows[] = {{"tree", test_tree}, {"planted", test_planted}};
TEST_MAIN(rows)
