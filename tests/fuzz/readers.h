/* Every reader of files from outside, as one function of a path, for the fuzz targets (fuzz.c) and
 * for the test that replays tests/corpus (tests/io/test_corpus.c). A new reader is one row here, a
 * folder tests/corpus/<name> and its name in the BOBBIN_FUZZ part of CMakeLists.txt. */
#ifndef BOBBIN_TESTS_FUZZ_READERS_H
#define BOBBIN_TESTS_FUZZ_READERS_H

#include "bobbin.h"

typedef struct reader {
    const char *name;
    /* Opens the file, uses all of it, closes it. Leaves an error behind if the file is wrong. */
    void (*read)(bb_context *ctx, const char *path);
} reader;

extern const reader readers[];
extern const int reader_count;
const reader *find_reader(const char *name); /* NULL: none */

/* What every reader promises about memory, in bytes, for a file of so many bytes. */
static inline size_t reader_memory(size_t file_bytes) { return 2 * file_bytes + (1 << 20); }

#endif
