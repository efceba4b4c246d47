/* SHA-256 (FIPS 180-4), to know that a committed file is the one that was written. */
#ifndef BOBBIN_TESTS_SHA256_H
#define BOBBIN_TESTS_SHA256_H

#include <stdbool.h>
#include <stddef.h>

enum { SHA256_TEXT = 65 };

/* The digest as 64 hexadecimal digits and a zero. */
void sha256_bytes(const void *data, size_t bytes, char text[SHA256_TEXT]);
/* Of a file; false: it cannot be read. */
bool sha256_file(const char *path, char text[SHA256_TEXT]);

#endif
