/* What the shared library gives to the world: exactly the functions of tests/structure/exports.txt,
 * each declared in a public header. BOBBIN_UPDATE=1 writes the list anew; look at the difference
 * before you commit it, since a name that goes or changes breaks programs. */
#include "tests/support/files.h"
#include "tests/support/test.h"

static const char list[] = BOBBIN_SOURCE_DIR "/tests/structure/exports.txt";
enum { ROOM = 1 << 17 };

/* Every name between two line ends of `text` must be one in `other`. */
static void check_in(test *t, const char *text, const char *other, const char *complaint) {
    char name[256];
    int used;
    for (; sscanf(text, "%200s%n", name + 1, &used) == 1; text += used) {
        size_t n = strlen(name + 1);
        name[0] = name[n + 1] = '\n';
        name[n + 2] = '\0';
        bool found = strstr(other, name) != NULL;
        name[n + 1] = '\0';
        CHECK_MSG(t, found, "%s: %s", name + 1, complaint);
    }
}

static char *exported(void) {
    char *names = malloc(ROOM);
    /* Sanitizers export names of their own. */
    int code = names ? run_command("{ echo; nm -D --defined-only '" BOBBIN_SHARED
                                   "' | awk '{print $3}' | grep -v '^__' | LC_ALL=C sort; }",
                                   names, ROOM)
                     : 1;
    if (code == 0) return names;
    free(names);
    return NULL;
}

static void test_list(test *t) {
    char *got = exported();
    if (!got) {
        test_skip(t, "no nm here");
        return;
    }
    CHECK(t, strlen(got) < ROOM - 1000);
    if (getenv("BOBBIN_UPDATE")) CHECK(t, write_text(list, got + 1));
    char *expected = read_text(list), *lines = malloc(ROOM + 1);
    if (CHECK(t, expected && lines && strlen(expected) < ROOM - 2)) {
        snprintf(lines, ROOM, "\n%s", expected);
        check_in(t, expected, got, "in exports.txt, but the library does not export it");
        check_in(t, got, lines,
                 "exported, but not in exports.txt (BOBBIN_UPDATE=1 ./test.sh exports)");
    }
    free(expected);
    free(lines);
    free(got);
}

static void collect(void *user, const char *path, const char *text) {
    (void)path;
    char *all = user;
    size_t n = strlen(all), more = strlen(text);
    if (n + more < 4 * ROOM) memcpy(all + n, text, more + 1);
}

/* Whether BB_API stands before some `call`, in the same statement. */
static bool is_declared(const char *headers, const char *call) {
    for (const char *at = headers; (at = strstr(at, call)); at++) {
        const char *line = at, *api;
        while (line > headers && line[-1] != ';' && line[-1] != '}') line--;
        if ((api = strstr(line, "BB_API")) && api < at) return true;
    }
    return false;
}

/* Nothing that only the inside knows. */
static void test_declared(test *t) {
    static const char *const folders[] = {"core", "ops", "autograd", "nn", "io"};
    static const char *const suffixes[] = {".h", NULL};
    char *headers = calloc(1, 4 * ROOM + 1), *expected = read_text(list), name[256], call[260];
    int used;
    if (!CHECK(t, headers && expected)) return;
    for (int i = 0; i < COUNT(folders); i++)
        each_source(BOBBIN_SOURCE_DIR, folders[i], suffixes, collect, headers);
    char *umbrella = read_text(BOBBIN_SOURCE_DIR "/bobbin.h");
    if (umbrella) collect(headers, "", umbrella);
    blank_comments(headers, true);
    for (const char *p = expected; sscanf(p, "%200s%n", name, &used) == 1; p += used) {
        snprintf(call, sizeof call, "%s(", name);
        CHECK_MSG(t, is_declared(headers, call),
                  "%s is not declared with BB_API in a public header", name);
        CHECK_MSG(t, strncmp(name, "bb_", 3) == 0, "%s does not begin with bb_", name);
    }
    free(headers);
    free(expected);
    free(umbrella);
}

static void test_name(test *t) {
    char said[4096];
    if (run_command("readelf -d '" BOBBIN_SHARED "'", said, sizeof said) != 0) {
        test_skip(t, "no readelf here");
        return;
    }
    CHECK_MSG(t, strstr(said, "soname: [libbobbin.so.0.1]"), "%s", said);
}

static const test_row rows[] = {
    {"list", test_list}, {"declared", test_declared}, {"SONAME", test_name}};
TEST_MAIN(rows)
