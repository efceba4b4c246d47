/* The text that a model is trained on: any file, or the default text (tools/stories.h), as bytes or
 * as the tokens of a tokenizer. The last tenth is held out for validation. Batches are addressed by
 * a counter, so a position in the stream of batches is just that counter. */
#ifndef BOBBIN_TOOLS_DATA_H
#define BOBBIN_TOOLS_DATA_H

#include "tools/tokenizer.h"

typedef struct bb_corpus {
    const uint8_t *bytes;
    int32_t *ids;              /* of the tokens; NULL: the tokens are the bytes */
    size_t count, train_count; /* tokens; those in [train_count, count) are held out */
    size_t text_bytes;
    double entropy;       /* of the source in nats per byte; 0: not known */
    uint64_t fingerprint; /* of all tokens: a resumed run must see the same text */
    uint8_t *owned;
    bb_file file;
} bb_corpus;

/* path NULL: the default text. tokenizer NULL: bytes. A file must be long enough for one window of
 * `window` tokens and the one that follows it in training, and two tokens held out. On failure the
 * context's error says what is wrong; BB_ERR_FORMAT for all that is wrong with the file. */
bb_status bb_corpus_open(bb_context *ctx, const char *path, int64_t window,
                         const bb_tokenizer *tokenizer, bb_corpus *corpus);
void bb_corpus_close(bb_corpus *corpus);

/* Writes `batch` training windows drawn at random: row b is number position + b of the stream
 * `seed`. Inputs are `window` tokens, targets the same one token later. */
void bb_corpus_batch(const bb_corpus *corpus, uint64_t seed, int64_t position, int64_t batch,
                     int64_t window, int64_t *inputs, int64_t *targets);

/* Validation windows follow one another without overlap; how long they are (`window`, less where
 * the held-out text is shorter) and how many. */
int64_t bb_corpus_validation_window(const bb_corpus *corpus, int64_t window);
int64_t bb_corpus_validation_count(const bb_corpus *corpus, int64_t window);
void bb_corpus_validation(const bb_corpus *corpus, int64_t index, int64_t window, int64_t *inputs,
                          int64_t *targets);

#endif
