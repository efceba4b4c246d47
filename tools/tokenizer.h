/* From text to the numbers that a model reads, and back. A NULL tokenizer is that of bytes: each
 * byte is its own number. Otherwise it is a byte-level BPE (Sennrich et al., "Neural machine
 * translation of rare words with subword units", ACL 2016, over bytes as in GPT-2), read from the
 * tokenizer.json of Hugging Face's `tokenizers`, and gives the same numbers as that.
 *
 * What is read: model BPE; pre-tokenizers ByteLevel, Digits, and Split by the patterns of Llama 3
 * and Qwen; normalizer NFC or none; added tokens; post-processors ByteLevel and TemplateProcessing;
 * decoder ByteLevel. Anything else is an error that names the part. Reading:
 * tools/tokenizer_read.c; splitting text: tools/tokenizer_split.c; the rest: tools/tokenizer.c. */
#ifndef BOBBIN_TOOLS_TOKENIZER_H
#define BOBBIN_TOOLS_TOKENIZER_H

#include "io/io.h"

typedef struct bb_tokenizer bb_tokenizer;

/* NULL and an error: no such file, or it is not such a tokenizer. */
bb_tokenizer *bb_tokenizer_open(bb_context *ctx, const char *path);
/* The one of a model's folder; NULL without error where it has none. */
bb_tokenizer *bb_tokenizer_of_folder(bb_context *ctx, const char *folder);
void bb_tokenizer_close(bb_tokenizer *tokenizer); /* NULL is ignored */

/* One more than the largest number it gives; 256 for bytes. */
int64_t bb_tokenizer_size(const bb_tokenizer *tokenizer);

/* The numbers of a text, in *ids; free() them. `whole`: with those that the tokenizer puts before
 * and after a whole text. A text that is no UTF-8 is an error, except for bytes. */
bb_status bb_tokenizer_encode(const bb_tokenizer *tokenizer, bb_context *ctx, const char *text,
                              size_t bytes, bool whole, int32_t **ids, int64_t *count);

/* Writes the bytes that a number stands for, none for one that is not used; how many. plain: '?'
 * for control characters, which could disturb a terminal. */
size_t bb_tokenizer_write(const bb_tokenizer *tokenizer, int64_t id, FILE *file, bool plain);

#endif
