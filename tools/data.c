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

static bb_status map_file(bb_context *ctx, const char *path, bb_corpus *corpus) {
    bb_status status = bb_file_map(ctx, path, &corpus->file);
    if (status != BB_OK) return status;
    corpus->bytes = (const uint8_t *)corpus->file.data;
    corpus->count = corpus->file.bytes;
    return BB_OK;
}

static bb_status tokenize(bb_context *ctx, const bb_tokenizer *tokenizer, bb_corpus *corpus) {
    int64_t count;
    bb_status status = bb_tokenizer_encode(tokenizer, ctx, (const char *)corpus->bytes,
                                           corpus->count, false, &corpus->ids, &count);
    corpus->count = (size_t)count;
    corpus->entropy = 0; /* of bytes */
    return status;
}

static bb_status check_length(bb_context *ctx, const char *path, int64_t window,
                              const bb_corpus *corpus) {
    /* The held-out tenth is rounded up, so this many bytes leave window + 1 for training. */
    size_t least = ((size_t)window + 1) * 10 / 9 + 10;
    if (corpus->count >= least) return BB_OK;
    char name[BB_QUOTE_BYTES];
    return bb_fail(ctx, BB_ERR_FORMAT, "%s: expected at least %zu %s for windows of %lld, got %zu",
                   bb_quote(path, strlen(path), name), least, corpus->ids ? "tokens" : "bytes",
                   (long long)window, corpus->count);
}

bb_status bb_corpus_open(bb_context *ctx, const char *path, int64_t window,
                         const bb_tokenizer *tokenizer, bb_corpus *corpus) {
    memset(corpus, 0, sizeof *corpus);
    bb_status status = path ? map_file(ctx, path, corpus) : make_stories(ctx, corpus);
    corpus->text_bytes = corpus->count;
    if (status == BB_OK && tokenizer) status = tokenize(ctx, tokenizer, corpus);
    if (status == BB_OK)
        status = check_length(ctx, path ? path : "the default text", window, corpus);
    if (status != BB_OK) {
        bb_corpus_close(corpus);
        return status;
    }
    corpus->train_count = corpus->count - (corpus->count + 9) / 10;
    corpus->fingerprint =
        corpus->ids ? fingerprint((const uint8_t *)corpus->ids, corpus->count * sizeof *corpus->ids)
                    : fingerprint(corpus->bytes, corpus->count);
    return BB_OK;
}

void bb_corpus_close(bb_corpus *corpus) {
    if (corpus->file.data) bb_file_unmap(&corpus->file);
    free(corpus->owned);
    free(corpus->ids);
    memset(corpus, 0, sizeof *corpus);
}

static void copy_window(const bb_corpus *corpus, size_t start, int64_t window, int64_t *inputs,
                        int64_t *targets) {
    for (int64_t i = 0; i <= window; i++) {
        size_t at = start + (size_t)i;
        int64_t token = corpus->ids ? corpus->ids[at] : corpus->bytes[at];
        if (i < window) inputs[i] = token;
        if (i > 0) targets[i - 1] = token;
    }
}

void bb_corpus_batch(const bb_corpus *corpus, uint64_t seed, int64_t position, int64_t batch,
                     int64_t window, int64_t *inputs, int64_t *targets) {
    uint64_t starts = corpus->train_count - (uint64_t)window;
    for (int64_t b = 0; b < batch; b++) {
        uint64_t start = bb_random_below(bb_random_bits(seed, (uint64_t)(position + b)), starts);
        copy_window(corpus, start, window, inputs + b * window, targets + b * window);
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
    copy_window(corpus, corpus->train_count + (size_t)(index * window), window, inputs, targets);
}
