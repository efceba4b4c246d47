/* What the files of the tokenizer share. tools/tokenizer.h is the manual. */
#ifndef BOBBIN_TOOLS_TOKENIZER_PARTS_H
#define BOBBIN_TOOLS_TOKENIZER_PARTS_H

#include "tools/tokenizer.h"

/* Ways to cut a text; each cuts what the one before it left. */
typedef enum bb_splitter {
    BB_SPLIT_GPT2,
    BB_SPLIT_LLAMA3,
    BB_SPLIT_QWEN,
    BB_SPLIT_DIGITS,     /* runs of digits apart from the rest */
    BB_SPLIT_EACH_DIGIT, /* every digit alone */
} bb_splitter;
enum { BB_MOST_SPLITTERS = 8, BB_MOST_AROUND = 16 };

/* One number's token, in the file's spelling (a character for each byte) and as the bytes it stands
 * for. Both lie in the arena, without a zero byte at the end. */
typedef struct bb_token {
    const char *key, *text;
    uint32_t key_bytes, bytes;
    bool used;
} bb_token;

/* A pair of tokens that become one. Rows of a hash table; rank -1: empty. */
typedef struct bb_merge {
    int32_t left, right, rank, result;
} bb_merge;

/* A token that is looked for in the text before anything else. */
typedef struct bb_added {
    const char *text;
    size_t bytes;
    int32_t id;
    bool normalized; /* looked for after normalization, and after the others */
} bb_added;

struct bb_tokenizer {
    char *arena; /* all texts */
    bb_token *token;
    int64_t size, capacity;
    bb_merge *merge;
    size_t merge_slots; /* a power of two */
    int32_t *by_key;    /* hash table from a spelling to its id; -1: empty */
    size_t key_slots;   /* a power of two */
    int32_t byte_id[256];
    uint16_t alphabet[256]; /* the character that spells a byte */
    bb_added *added;        /* by first byte, longer ones first */
    int added_count;
    bb_splitter splitter[BB_MOST_SPLITTERS];
    int splitters;
    int32_t before[BB_MOST_AROUND], after[BB_MOST_AROUND];
    int before_count, after_count;
    bool nfc, ignore_merges;
};

/* tools/tokenizer_split.c: how many bytes the first piece of a text has; bytes > 0. */
size_t bb_split_next(bb_splitter splitter, const char *text, size_t bytes);

/* tools/tokenizer.c: the spelling of each byte as a character, and the slots where a spelling and a
 * pair stand or would stand. */
void bb_byte_alphabet(uint16_t character[256]);
size_t bb_token_slot(const bb_tokenizer *t, const char *key, size_t bytes);
size_t bb_merge_slot(const bb_tokenizer *t, int32_t left, int32_t right);

/* A tokenizer.json in reading (tools/tokenizer_read.c). */
typedef struct bb_reading {
    bb_context *ctx;
    const char *path;
    bb_tokenizer *t;
    size_t room, used; /* of the arena; scratch has room too */
    char *scratch;
    int16_t byte_of[512]; /* from a character of the alphabet; -1: none */
    bool byte_level;      /* seen that pre-tokenizer */
} bb_reading;

/* Errors name the part. bb_part_keys: an object that holds no other keys than those in `keys`. */
bb_status bb_part_wrong(const bb_reading *r, const char *part, const char *expected, bb_json value);
bb_status bb_part_keys(const bb_reading *r, const char *part, bb_json object, const char *keys);

/* tools/tokenizer_parts.c: what shapes a text before the model, and what stands around its ids. */
bb_status bb_parts_read_form(bb_reading *r, bb_json root);
bb_status bb_parts_read_frame(bb_reading *r, bb_json root);

#endif
