/* One case table per op, three uses: run_op_cases takes a table and
 *
 *   1. compares forward with the table's independent double-precision reference, for each dtype of
 *      the case, fused and composed, for each layout (contiguous, transposed, sliced with offset,
 *      broadcast by stride 0);
 *   2. gradchecks it in f64 on both paths with a random cotangent (and second order where asked),
 *      and compares f32/f16/bf16 gradients with the f64 ones; each combination of requires_grad;
 *      fused against composed;
 *   3. makes each allocation of the op's smallest case fail in turn, forward and backward, on both
 *      paths (check_memory.c).
 *
 * Inputs are drawn from a fixed seed printed on failure. New buffers are NaN-filled. */
#ifndef BOBBIN_TESTS_CASES_H
#define BOBBIN_TESTS_CASES_H

#include "tests/support/test.h"

typedef enum fill_kind {
    FILL_NORMAL = 0, /* normal(0, 1) */
    FILL_POSITIVE,   /* uniform [0.5, 2) */
    FILL_UNIT,       /* uniform (-0.95, 0.95) */
    FILL_APART,      /* normal, but at least 0.1 away from zero: for abs, sign, relu, reciprocal */
    FILL_DISTINCT,   /* a shuffled ramp: no ties, for max and min */
    FILL_INDEX,      /* integers in [0, limit): i64 whatever the dtype of the case */
    FILL_BOOL        /* bool tensor, both values */
} fill_kind;

enum { CASE_MAX_INPUTS = 6 };

typedef struct case_input {
    fill_kind fill;
    bb_shape shape;
    int64_t limit; /* of FILL_INDEX */
    bool absent;   /* an optional input left out */
    bool no_grad;  /* never ask for its gradient */
} case_input;

typedef struct op_case {
    const char *name;
    const void *attrs; /* NULL: the op's defaults */
    case_input in[CASE_MAX_INPUTS];
    int n_in;
    double tolerance; /* scales the bound of f32/f16/bf16, which is in ulps of the largest
                         |reference|; 0: 4 */
    bool no_grad;     /* op has no gradient here */
    bool no_second;   /* skip gradgradcheck, with reason in `why` */
    const char *why;
} op_case;

/* Independent reference: double in, double out, row-major contiguous. `out` has the element count
 * of the op's first output (as infer says); out_shape is its shape. Index inputs arrive as doubles
 * too; absent ones as NULL. */
typedef void (*case_reference)(const op_case *c, const double *const *in, const bb_shape *out_shape,
                               double *out);

void run_op_cases(test *t, const char *op, const op_case *cases, int count,
                  case_reference reference);

/* Index arithmetic for references. */
int64_t ref_offset(const bb_shape *shape, const int64_t *index); /* row-major */
void ref_unravel(const bb_shape *shape, int64_t flat, int64_t *index);
int64_t ref_broadcast_offset(const bb_shape *from, const bb_shape *to,
                             const int64_t *to_index); /* of `from` seen as `to` */

#endif
