/* What shape rules have in common. Each returns BB_OK or the sticky error it has set. Definitions:
 * ops/infer.c. */
#ifndef BOBBIN_OPS_INFER_H
#define BOBBIN_OPS_INFER_H

#include "core/core.h"

/* Whole rules: output 0 is like input 0 ... */
bb_status bb_infer_same(bb_call *call);      /* of any dtype */
bb_status bb_infer_number(bb_call *call);    /* of any dtype but bool */
bb_status bb_infer_float(bb_call *call);     /* of a float dtype */
bb_status bb_infer_broadcast(bb_call *call); /* inputs of one dtype, shapes broadcast */
bb_status bb_infer_shapes(bb_call *call, bb_dtype dtype); /* shapes broadcast, the dtype is given */

/* Checks of one input or attribute. */
bb_status bb_want_float(const bb_call *call, int input);
bb_status bb_want_dtype(const bb_call *call, int input, bb_dtype dtype);
bb_status bb_want_index(const bb_call *call, int input); /* i64 or i32 */
bb_status bb_want_rank(const bb_call *call, int input, int least);
bb_status bb_want_shape(const bb_call *call, int input, bb_shape shape);

/* Axis `axis` of a tensor of this rank, negative from the end, into *out (0 <= *out < rank). `name`
 * is the attribute's. */
bb_status bb_axis(const bb_call *call, const char *name, int64_t axis, int rank, int *out);
/* The same for a list without repetitions: *mask gets bit k for axis k; an empty list means all
 * axes. */
bb_status bb_axes(const bb_call *call, const char *name, const bb_ints *axes, int rank,
                  unsigned *mask);

/* Not rules, but just as common inside ops: a constant of like's dtype on its device (create.c),
 * and the casts that bring two inputs to bb_promote's dtype (binary.c; either may be NULL). */
bb_tensor *bb_constant(const bb_tensor *like, bb_shape shape, double value);
void bb_promote_pair(bb_tensor **a, bb_tensor **b);

/* Sets meta[output]. */
void bb_set_meta(bb_call *call, int output, bb_dtype dtype, bb_shape shape);

#endif
