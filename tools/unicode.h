/* UTF-8, the classes of characters that tokenizers split at, and the canonical composed form. */
#ifndef BOBBIN_TOOLS_UNICODE_H
#define BOBBIN_TOOLS_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads the character at text, which is no longer than `bytes` (> 0); how many bytes it has. 0: not
 * UTF-8. */
size_t bb_utf8_read(const char *text, size_t bytes, uint32_t *character);
/* Writes it; how many of the 4 bytes it took. */
size_t bb_utf8_write(uint32_t character, char text[4]);

typedef enum bb_class {
    BB_CLASS_OTHER = 0,
    BB_CLASS_LETTER,
    BB_CLASS_NUMBER,
    BB_CLASS_SPACE
} bb_class;
/* \p{L}, \p{N}, \s of regular expressions. */
bb_class bb_class_of(uint32_t character);

/* Normalization form C (Unicode Standard Annex 15). `out` has room for 3 times the bytes of text,
 * which is UTF-8. False: out of memory. */
bool bb_unicode_nfc(const char *text, size_t bytes, char *out, size_t *written);

#endif
