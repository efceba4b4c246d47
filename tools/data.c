/* Reads or makes the training text and cuts windows out of it. See tools/data.h. */
#include "tools/data.h"

#include <stdlib.h>
#include <string.h>

#include "tools/random.h"
#include "tools/stories.h"

/* About as many bytes as the default run reads, so that it hardly sees a story twice. The seed is
 * fixed: the default text is the same for everyone. */
enum { STORY_BYTES = 4 << 20, STORY_SEED = 1 };

static uint64_t fingerprint(const uint8_t *bytes, size_t count) {
    uint64_t hash = bb_random_mix(count + 1), word;
    for (size_t i = 0; i < count; i += sizeof word) {
        word = 0;
        memcpy(&word, bytes + i, count - i < sizeof word ? count - i : sizeof word);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    return bb_random_mix(hash);
}

static bb_status make_stories(bb_context *ctx, bb_corpus *corpus) {
    bb_stories stories;
    const char *why;
    if (!bb_stories_open(&stories, NULL, &why))
        return bb_fail(ctx, BB_ERR_MEMORY, "default text: %s", why);
    corpus->owned = bb_stories_text(&stories, STORY_SEED, STORY_BYTES, &corpus->count);
    corpus->bytes = corpus->owned;
    corpus->entropy = bb_stories_entropy(&stories);
    bb_stories_close(&stories);
    return corpus->owned ? BB_OK : bb_fail(ctx, BB_ERR_MEMORY, "default text: out of memory");
}

static bb_status map_file(bb_context *ctx, const char *path, int64_t window, bb_corpus *corpus) {
    bb_status status = bb_file_map(ctx, path, &corpus->file);
    if (status != BB_OK) return status;
    corpus->bytes = (const uint8_t *)corpus->file.data;
    corpus->count = corpus->file.bytes;
    /* The held-out tenth is rounded up, so this many bytes leave window + 1 for training. */
    size_t least = ((size_t)window + 1) * 10 / 9 + 10;
    if (corpus->count >= least) return BB_OK;
    char name[BB_QUOTE_BYTES];
    return bb_fail(ctx, BB_ERR_FORMAT,
                   "%s: expected at least %zu bytes for windows of %lld, got %zu",
                   bb_quote(path, strlen(path), name), least, (long long)window, corpus->count);
}

bb_status bb_corpus_open(bb_context *ctx, const char *path, int64_t window, bb_corpus *corpus) {
    memset(corpus, 0, sizeof *corpus);
    bb_status status = path ? map_file(ctx, path, window, corpus) : make_stories(ctx, corpus);
    if (status != BB_OK) {
        bb_corpus_close(corpus);
        return status;
    }
    corpus->train_count = corpus->count - (corpus->count + 9) / 10;
    corpus->fingerprint = fingerprint(corpus->bytes, corpus->count);
    return BB_OK;
}

void bb_corpus_close(bb_corpus *corpus) {
    if (corpus->file.data) bb_file_unmap(&corpus->file);
    free(corpus->owned);
    memset(corpus, 0, sizeof *corpus);
}

static void copy_window(const uint8_t *bytes, int64_t window, int64_t *inputs, int64_t *targets) {
    for (int64_t i = 0; i < window; i++) {
        inputs[i] = bytes[i];
        targets[i] = bytes[i + 1];
    }
}

void bb_corpus_batch(const bb_corpus *corpus, uint64_t seed, int64_t position, int64_t batch,
                     int64_t window, int64_t *inputs, int64_t *targets) {
    uint64_t starts = corpus->train_count - (uint64_t)window;
    for (int64_t b = 0; b < batch; b++) {
        uint64_t start = bb_random_below(bb_random_bits(seed, (uint64_t)(position + b)), starts);
        copy_window(corpus->bytes + start, window, inputs + b * window, targets + b * window);
    }
}

int64_t bb_corpus_validation_window(const bb_corpus *corpus, int64_t window) {
    int64_t held_out = (int64_t)(corpus->count - corpus->train_count) - 1;
    return held_out < window ? held_out : window;
}

int64_t bb_corpus_validation_count(const bb_corpus *corpus, int64_t window) {
    return ((int64_t)(corpus->count - corpus->train_count) - 1) /
           bb_corpus_validation_window(corpus, window);
}

void bb_corpus_validation(const bb_corpus *corpus, int64_t index, int64_t window, int64_t *inputs,
                          int64_t *targets) {
    copy_window(corpus->bytes + corpus->train_count + index * window, window, inputs, targets);
}
