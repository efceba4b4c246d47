/* Attributes of an op as JSON, by the op's own table: for `bobbin op --attrs`, `bobbin ops --json`
 * and the cases of `bobbin gradcheck`. */
#ifndef BOBBIN_TOOLS_ATTRS_H
#define BOBBIN_TOOLS_ATTRS_H

#include "io/io.h"

/* Room for the attribute struct of any op. */
typedef union bb_any_attrs {
    max_align_t align;
    char bytes[1024];
} bb_any_attrs;

/* Defaults, overwritten by the members of `text`, a JSON object (NULL: {}). Infinite floats are
 * "inf" and "-inf". An error names the key, what was expected and what came. */
bb_status bb_attrs_parse(bb_context *ctx, const bb_op *op, const char *text, bb_any_attrs *attrs);

/* The value of one attribute. */
void bb_attr_put(bb_json_writer *w, const bb_attr *attr, const void *attrs);

#endif
