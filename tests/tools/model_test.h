/* What the tests of model folders share: the fixtures of tests/reference/models. */
#ifndef BOBBIN_TESTS_TOOLS_MODEL_TEST_H
#define BOBBIN_TESTS_TOOLS_MODEL_TEST_H

#include "tests/tools/program.h"
#include "tools/model.h"

#define ROOT BOBBIN_SOURCE_DIR "/tests/reference/models/"

static inline char *slurp(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    char *text = calloc(1 << 20, 1);
    *bytes = file && text ? fread(text, 1, 1 << 20, file) : 0;
    if (file) fclose(file);
    return text;
}

/* The configuration of fixture `kind` with one text in place of another; free() it. */
static inline char *changed(test *t, const char *kind, const char *from, const char *to) {
    char path[512];
    size_t n;
    snprintf(path, sizeof path, ROOT "%s/config.json", kind);
    char *good = slurp(path, &n), *at = strstr(good, from), *bad = calloc(n + 400, 1);
    CHECK_MSG(t, at != NULL, "no %s in %s", from, kind);
    if (at) sprintf(bad, "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
    free(good);
    return bad;
}

#endif
