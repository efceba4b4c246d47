/* What the tests of safetensors share: a file of a header and data. */
#ifndef BOBBIN_TESTS_IO_SAFETENSORS_TEST_H
#define BOBBIN_TESTS_IO_SAFETENSORS_TEST_H

#include "tests/io/scratch.h"

/* Writes header length, header and `data` bytes of 1. */
static inline void put_file(const char *path, uint64_t length, const char *header,
                            size_t header_bytes, size_t data) {
    size_t bytes = 8 + header_bytes + data;
    char *file = malloc(bytes);
    for (int i = 0; i < 8; i++) file[i] = (char)(length >> 8 * i);
    memcpy(file + 8, header, header_bytes);
    memset(file + 8 + header_bytes, 1, data);
    put_bytes(path, file, bytes);
    free(file);
}

static inline bb_safetensors *open_header(bb_context *ctx, scratch *s, const char *header,
                                          size_t data) {
    put_file(scratch_path(s, "f"), strlen(header), header, strlen(header), data);
    return bb_safetensors_open(ctx, s->path);
}

#endif
