/* Shared by the files of io/, not for users: sorting and hashing of names. */
#ifndef BOBBIN_IO_INTERNAL_H
#define BOBBIN_IO_INTERNAL_H

#include "io/io.h"

/* Heapsort: no allocation, no recursion, n log n for any input. less(user, a, b) is a strict order.
 * io/sort.c */
typedef bool (*bb_less_fn)(const void *user, uint64_t a, uint64_t b);
void bb_heap_sort(uint64_t *items, size_t n, bb_less_fn less, const void *user);
/* The same of items of `bytes` each, at most BB_SORT_MOST; compare is that of qsort. */
enum { BB_SORT_MOST = 32 };
typedef int (*bb_compare_fn)(const void *a, const void *b);
void bb_heap_sort_items(void *items, size_t n, size_t bytes, bb_compare_fn compare);

/* Whether bytes [at, at + bytes) are in the file: what a file says about itself is believed only so
 * far. Cannot wrap. */
static inline bool bb_file_has(const bb_file *file, size_t at, size_t bytes) {
    return at <= file->bytes && bytes <= file->bytes - at;
}

/* FNV-1a of n bytes, to be continued from `hash`. */
enum { BB_HASH_START = 17 };
static inline uint32_t bb_hash(uint32_t hash, const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) hash = (hash ^ (unsigned char)bytes[i]) * 16777619u;
    return hash;
}

/* Length of the valid UTF-8 sequence at p (before end), 0 if there is none; *code gets its code
 * point. io/json_value.c */
int bb_utf8(const char *p, const char *end, uint32_t *code);

/* The letters of JSON; io/json_value.c. */
int bb_json_character(const char *p, const char *end,
                      uint32_t *code);          /* as bb_utf8, in a string: escapes, too */
const char *bb_json_skip_string(const char *p); /* past a valid string, from its first quote */
double bb_json_to_double(const char *at, const char *end); /* a valid number */
static inline bool bb_json_is_space(char c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}
static inline bool bb_json_is_digit(char c) { return c >= '0' && c <= '9'; }

/* "F32"; io/safetensors.c */
const char *bb_safetensors_dtype(bb_dtype dtype);
bb_context *bb_safetensors_context(const bb_safetensors *file);

/* Tensors that are there and alive, under different names in UTF-8; io/safetensors_write.c. `call`
 * begins the error. */
bb_status bb_check_named(bb_context *ctx, const char *call, const bb_named *tensors, int64_t count);

/* A tensor's elements, row-major, whatever its layout and device; io/safetensors_write.c. */
bb_status bb_writer_put_tensor(bb_writer *w, bb_tensor *t);

#endif
