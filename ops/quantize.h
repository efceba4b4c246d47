/* What the ops that quantize check and describe alike. For ops/quantize.c and
 * ops/rms_norm_quantize.c only. */
#ifndef BOBBIN_OPS_QUANTIZE_H
#define BOBBIN_OPS_QUANTIZE_H

#include "core/core.h"
#include "ops/ops.h"

enum { BB_QUANTIZED_OUTPUTS = 5 }; /* data to amax, outputs 0 to 4 */

/* The rows of an op's table of attributes that describe how to quantize; `owner` is the attribute
 * struct and `field` the bb_quantize_attrs in it. */
#define BB_QUANTIZE_ATTRS(owner, field)                                                            \
    {"recipe", BB_ATTR_CHOICE, offsetof(owner, field recipe), .choices = BB_RECIPE_CHOICES},       \
        {"format", BB_ATTR_CHOICE, offsetof(owner, field format), .choices = "e4m3|e5m2"},         \
        {"rows", BB_ATTR_BOOL, offsetof(owner, field rows), .value = 1},                           \
        {"columns", BB_ATTR_BOOL, offsetof(owner, field columns), .value = 0},                     \
        {"square", BB_ATTR_BOOL, offsetof(owner, field square), .value = 0},                       \
        {"scales", BB_ATTR_CHOICE, offsetof(owner, field scales),                                  \
         .choices = "auto|any|power_of_two"},                                                      \
    {                                                                                              \
        "amax_floor", BB_ATTR_FLOAT, offsetof(owner, field amax_floor), .value = 0                 \
    }

/* Checks input 0, the attributes and input `scale`, and fills meta[0..5). */
bb_status bb_quantize_infer(bb_call *call, const bb_quantize_attrs *a, int scale);

/* Outputs 0 to 4 as parts: what was not asked for is NULL. */
/* What the functions that fill `parts` must be given; the error begins with `op`. Empties *parts.
 */
bb_status bb_want_parts(bb_context *ctx, const char *op, const void *attrs,
                        bb_quantized_parts *parts);
bb_quantized_parts bb_parts_of(bb_tensor *const *out, const bb_quantize_attrs *a);

#endif
