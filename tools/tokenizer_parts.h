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
enum { BB_MOST_SPLITTERS = 8, BB_MOST_AROUND = 16 /* on each side of a text */ };

/* The tables are as small as they are so that all of a tokenizer takes less than twice its file and
 * 1 MiB. A token is known by its spelling in the file, where a character stands for each byte. */
typedef struct bb_token {
    uint32_t at; /* of its spelling in the arena */
    uint32_t bytes : 30;
    uint32_t raw : 1; /* stands for its spelling itself: an added token */
    uint32_t used : 1;
} bb_token;

/* A pair of tokens that become one. All with the same left one lie together, by the right one. */
typedef struct bb_merge {
    int32_t right, rank, result;
} bb_merge;

/* A token that is looked for in the text before anything else. */
typedef struct bb_added {
    uint32_t at, bytes; /* of its text in the arena */
    int32_t id;
    uint8_t first;   /* byte of it */
    bool normalized; /* looked for after normalization, and after the others */
} bb_added;

struct bb_tokenizer {
    bb_context *ctx; /* whose memory it is */
    void *block;     /* all tables in one */
    size_t block_bytes;
    char *arena; /* all spellings, without a zero byte at the end of each */
    bb_token *token;
    int64_t size, capacity;
    bb_merge *merge;
    uint32_t *first_merge; /* by left token, and one more */
    int32_t *by_key;       /* hash table from a spelling to its id; -1: empty */
    size_t key_slots;      /* and one that stays empty */
    int32_t byte_id[256];
    uint16_t alphabet[256]; /* the character that spells a byte */
    int16_t byte_of[512];   /* the other way; -1: none */
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

/* tools/tokenizer.c: the spelling of each byte as a character, the slot where a spelling stands or
 * would stand (key_slots, which is always empty: too many others are in its way), and what becomes
 * of a pair. */
void bb_byte_alphabet(uint16_t character[256]);
size_t bb_token_slot(const bb_tokenizer *t, const char *key, size_t bytes);
const bb_merge *bb_find_merge(const bb_tokenizer *t, int32_t left, int32_t right); /* NULL: none */

/* A tokenizer.json in reading (tools/tokenizer_read.c). */
typedef struct bb_reading {
    bb_context *ctx;
    const char *path;
    bb_tokenizer *t;
    size_t arena_room, used;
    char *scratch; /* for the texts of one merge */
    size_t room;
    bool byte_level; /* seen that pre-tokenizer */
} bb_reading;

/* Errors name the part. bb_part_keys: an object that holds no other keys than those in `keys`. */
bb_status bb_part_wrong(const bb_reading *r, const char *part, const char *expected, bb_json value);
bb_status bb_part_keys(const bb_reading *r, const char *part, bb_json object, const char *keys);

/* tools/tokenizer_parts.c: what shapes a text before the model, and what stands around its ids. */
bb_status bb_parts_read_form(bb_reading *r, bb_json root);
bb_status bb_parts_read_frame(bb_reading *r, bb_json root);

#endif
