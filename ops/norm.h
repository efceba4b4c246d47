/* What the norms check alike. For the ops of norms only. */
#ifndef BOBBIN_OPS_NORM_H
#define BOBBIN_OPS_NORM_H

#include "core/core.h"
#include "ops/infer.h"
#include "ops/ops.h"

/* The type in which statistics of x are computed: narrower floats would overflow when squared. */
static inline bb_dtype bb_statistic_dtype(bb_dtype x) { return x == BB_F64 ? BB_F64 : BB_F32; }

/* eps as the statistics see it. */
static inline double bb_statistic_eps(bb_dtype x, double eps) {
    return x == BB_F64 ? eps : (double)(float)eps;
}

/* Checks input 0, axes and eps, and describes a statistic: input's shape with ones for the axes. */
static inline bb_status bb_norm_infer(bb_call *call, const bb_ints *axes, double eps,
                                      bb_meta *statistic) {
    bb_dtype dtype = bb_dtype_of(call->in[0]);
    int rank = bb_rank(call->in[0]);
    if (!bb_dtype_is_float(dtype)) {
        return bb_fail_input(call, 0, "expected a floating dtype, got %s", bb_dtype_name(dtype));
    }
    if (rank == 0) return bb_fail_input(call, 0, "expected rank 1 or more, got a scalar");
    if (axes->n < 1) return bb_fail_attr(call, "axes", "expected at least one axis, got none");
    /* Written so that NaN fails as well. */
    if (!(eps >= 0)) return bb_fail_attr(call, "eps", "expected a number >= 0, got %g", eps);

    statistic->dtype = bb_statistic_dtype(dtype);
    statistic->shape = bb_shape_of(call->in[0]);
    unsigned mask;
    bb_status status = bb_axes(call, "axes", axes, rank, &mask);
    for (int i = 0; i < rank; i++)
        if (mask >> i & 1) statistic->shape.size[i] = 1;
    return status;
}

/* The rule for "auto" is in ops/rms_norm.c. */
static inline bool bb_rms_norm_rounds_last(const bb_rms_norm_attrs *a, bb_dtype input,
                                           bb_dtype scale) {
    bool narrow = input == BB_F16 || input == BB_BF16;
    if (a->rounding == BB_ROUND_AUTO) return narrow && scale == BB_F32;
    return a->rounding == BB_SCALE_THEN_ROUND;
}

/* Checks input 0, the attributes and the scale, which is input number `which`, and describes output
 * and rstd. */
static inline bb_status bb_rms_norm_infer(bb_call *call, const bb_rms_norm_attrs *a, int which,
                                          bb_meta *output, bb_meta *rstd) {
    const bb_tensor *input = call->in[0], *scale = call->in[which];
    bb_status status = bb_norm_infer(call, &a->axes, a->eps, rstd);
    if (status != BB_OK) return status;
    bb_dtype x = bb_dtype_of(input), s = bb_dtype_of(scale);
    if (!bb_dtype_is_float(s)) {
        return bb_fail_input(call, which, "expected a floating dtype, got %s", bb_dtype_name(s));
    }
    bb_shape input_shape = bb_shape_of(input), scale_shape = bb_shape_of(scale);
    if (!bb_shape_broadcast(&input_shape, &scale_shape, &output->shape)) {
        char expected[BB_SHAPE_TEXT], got[BB_SHAPE_TEXT];
        return bb_fail_input(call, which, "expected a shape that broadcasts with input %s, got %s",
                             bb_shape_text(&input_shape, expected),
                             bb_shape_text(&scale_shape, got));
    }
    output->dtype = bb_rms_norm_rounds_last(a, x, s) ? x : bb_promote(input, scale);
    return BB_OK;
}

#endif
