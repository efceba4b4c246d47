/* A few representative calls of every built-in op: `bobbin gradcheck` differentiates them, `bobbin
 * ops` runs them to find out which dtypes work. A new op needs a row here, or gradcheck fails for
 * want of one. */
#ifndef BOBBIN_TOOLS_OP_CASES_H
#define BOBBIN_TOOLS_OP_CASES_H

#include "core/core.h"

/* How an input is drawn. */
typedef enum bb_draw {
    BB_DRAW_NORMAL = 0, /* normal(0, 1) */
    BB_DRAW_POSITIVE,   /* uniform [0.5, 2) */
    BB_DRAW_APART,      /* normal, 0.1 or more away from zero: kinks and poles */
    BB_DRAW_DISTINCT,   /* a shuffled ramp: no ties for max and min */
    BB_DRAW_INDEX,      /* i64 in [0, limit) */
    BB_DRAW_BOOL,       /* bool, both values */
    BB_DRAW_STATE,      /* uniform [0.5, 2), in f32 at least: optimizer moments */
    BB_DRAW_ONE,        /* one, in f32: learning rates and step counts */
    BB_DRAW_BYTE,       /* fp8 codes, only as u8 */
    BB_DRAW_ABSENT      /* an optional input left out */
} bb_draw;

typedef struct bb_op_case_input {
    bb_draw draw;
    bb_shape shape;
    int64_t limit;
} bb_op_case_input;

typedef struct bb_op_case {
    const char *op;
    const char *attrs; /* JSON; NULL: defaults */
    int n;
    bb_op_case_input in[BB_MAX_INPUTS];
} bb_op_case;

extern const bb_op_case bb_op_cases[];
extern const int bb_op_case_count;

/* Input i of a case in `dtype` (which INDEX, BOOL, STATE and ONE have their own opinion on); NULL
 * and no error: absent. The same numbers for the same case, input and dtype. */
bb_tensor *bb_op_case_input_tensor(bb_context *ctx, const bb_op_case *c, int i, bb_dtype dtype);
bool bb_draw_is_float(bb_draw draw); /* follows `dtype` */

#endif
