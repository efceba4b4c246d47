/* Reads a public header as a manual: comments, declarations and the blank lines that group them. */
#ifndef BOBBIN_TOOLS_REFERENCE_HEADER_H
#define BOBBIN_TOOLS_REFERENCE_HEADER_H

#include <stdbool.h>
#include <stddef.h>

typedef enum item_kind {
    ITEM_BLANK,       /* ends a paragraph */
    ITEM_SECTION,     /* a comment that begins with dashes: a heading */
    ITEM_COMMENT,     /* on lines of its own: it speaks of what follows in its paragraph */
    ITEM_TRAILING,    /* behind a declaration, of which it speaks */
    ITEM_DECLARATION, /* types, enums, variables */
    ITEM_FUNCTION     /* a declaration with BB_API */
} item_kind;

typedef struct item {
    item_kind kind;
    const char *text; /* into the header's text, not ended by a zero */
    size_t bytes;
    const char *name; /* of a function, likewise */
    size_t name_bytes;
    bool documented; /* of a function: by a comment before, behind or inside it */
} item;

/* What is between the include guard and its end; C++ parts and preprocessor lines are left out.
 * Returns a list to be freed, ended by an item without text; NULL: no memory. */
item *read_header(const char *text, size_t *count);

#endif
