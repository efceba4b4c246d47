/* SHA-256 (FIPS 180-4), to know that a committed file is the one that was written. */
#ifndef BOBBIN_TESTS_SHA256_H
#define BOBBIN_TESTS_SHA256_H

#include <stdbool.h>
#include <stddef.h>

#include "tests/support/test.h"

enum { SHA256_TEXT = 65 };

/* The digest as 64 hexadecimal digits and a zero. */
void sha256_bytes(const void *data, size_t bytes, char text[SHA256_TEXT]);
/* Checks every file that `folder`/SHA256SUMS lists. Returns how many it lists; *bytes is their
 * size.
 */
int sha256_check_folder(test *t, const char *folder, int64_t *bytes);

#endif
