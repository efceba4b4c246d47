/* What softmax and log_softmax share. For ops/softmax.c and ops/log_softmax.c only. */
#ifndef BOBBIN_OPS_SOFTMAX_H
#define BOBBIN_OPS_SOFTMAX_H

#include "ops/ops.h"

/* One floating input, one output like it, an axis in range. */
static inline bb_status bb_softmax_infer(bb_call *call) {
    const bb_axis_attrs *a = call->attrs;
    bb_dtype dtype = bb_dtype_of(call->in[0]);
    int rank = bb_rank(call->in[0]);
    if (!bb_dtype_is_float(dtype)) {
        return bb_fail_input(call, 0, "expected a floating dtype, got %s", bb_dtype_name(dtype));
    }
    if (rank == 0) return bb_fail_input(call, 0, "expected rank 1 or more, got a scalar");
    if (a->axis < -rank || a->axis >= rank) {
        return bb_fail_attr(call, "axis", "expected an axis in [%d, %d], got %lld", -rank, rank - 1,
                            (long long)a->axis);
    }
    call->meta[0].dtype = dtype;
    call->meta[0].shape = bb_shape_of(call->in[0]);
    return BB_OK;
}

/* x - max(x along axis) in f32 (f64 for f64). The result does not depend on the maximum, so no
 * gradient goes through it. */
static inline bb_t bb_softmax_shifted(bb_t input, int64_t axis) {
    bb_context *ctx = bb_context_of(input);
    bb_ints axes = BB_INTS(axis);
    bb_t x = bb_cast(input, bb_dtype_of(input) == BB_F64 ? BB_F64 : BB_F32);
    if (bb_count(input) == 0) return x; /* there is no maximum of nothing */
    bool grad = bb_set_grad_enabled(ctx, false);
    bb_t max = bb_amax(x, axes, true);
    bb_set_grad_enabled(ctx, grad);
    return bb_sub(x, max);
}

#endif
