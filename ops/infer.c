/* Shape rules and checks shared by the op files (ops/infer.h). */
#include "ops/infer.h"

void bb_set_meta(bb_call *call, int output, bb_dtype dtype, bb_shape shape) {
    call->meta[output].dtype = dtype;
    call->meta[output].shape = shape;
}

bb_status bb_want_float(const bb_call *call, int input) {
    bb_dtype dtype = bb_dtype_of(call->in[input]);
    if (bb_dtype_is_float(dtype)) return BB_OK;
    return bb_fail_input(call, input, "expected a float dtype, got %s", bb_dtype_name(dtype));
}

bb_status bb_want_dtype(const bb_call *call, int input, bb_dtype dtype) {
    bb_dtype got = bb_dtype_of(call->in[input]);
    if (got == dtype) return BB_OK;
    return bb_fail_input(call, input, "expected dtype %s, got %s", bb_dtype_name(dtype),
                         bb_dtype_name(got));
}

bb_status bb_want_index(const bb_call *call, int input) {
    bb_dtype dtype = bb_dtype_of(call->in[input]);
    if (dtype == BB_I64 || dtype == BB_I32) return BB_OK;
    return bb_fail_input(call, input, "expected dtype i64 or i32, got %s", bb_dtype_name(dtype));
}

bb_status bb_want_rank(const bb_call *call, int input, int least) {
    int rank = bb_rank(call->in[input]);
    if (rank >= least) return BB_OK;
    return bb_fail_input(call, input, "expected at least %d axes, got %d", least, rank);
}

bb_status bb_want_shape(const bb_call *call, int input, bb_shape shape) {
    bb_shape got = bb_shape_of(call->in[input]);
    if (bb_shape_equal(&got, &shape)) return BB_OK;
    char expected_text[BB_SHAPE_TEXT], got_text[BB_SHAPE_TEXT];
    return bb_fail_input(call, input, "expected shape %s, got %s",
                         bb_shape_text(&shape, expected_text), bb_shape_text(&got, got_text));
}

bb_status bb_axis(const bb_call *call, const char *name, int64_t axis, int rank, int *out) {
    if (axis < -(int64_t)rank || axis >= rank) {
        if (rank == 0)
            return bb_fail_attr(call, name, "expected an input with axes, got one of rank 0");
        return bb_fail_attr(call, name, "expected %d to %d, got %lld", -rank, rank - 1,
                            (long long)axis);
    }
    *out = (int)(axis < 0 ? axis + rank : axis);
    return BB_OK;
}

bb_status bb_axes(const bb_call *call, const char *name, const bb_ints *axes, int rank,
                  unsigned *mask) {
    *mask = axes->n == 0 ? (1u << rank) - 1u : 0u;
    if (rank > 0 && axes->n > rank)
        return bb_fail_attr(call, name, "expected at most %d, got %d", rank, axes->n);
    for (int i = 0; i < axes->n; i++) {
        int axis = 0;
        bb_status status = bb_axis(call, name, axes->v[i], rank, &axis);
        if (status) return status;
        if (*mask >> axis & 1u)
            return bb_fail_attr(call, name, "expected different axes, got axis %d twice", axis);
        *mask |= 1u << axis;
    }
    return BB_OK;
}

bb_status bb_infer_same(bb_call *call) {
    bb_set_meta(call, 0, bb_dtype_of(call->in[0]), bb_shape_of(call->in[0]));
    return BB_OK;
}

bb_status bb_infer_number(bb_call *call) {
    if (bb_dtype_of(call->in[0]) == BB_BOOL)
        return bb_fail_input(call, 0, "expected a number dtype, got bool");
    return bb_infer_same(call);
}

bb_status bb_infer_float(bb_call *call) {
    bb_status status = bb_want_float(call, 0);
    return status ? status : bb_infer_same(call);
}

bb_status bb_infer_broadcast(bb_call *call) {
    for (int i = 1; i < call->n_in; i++) {
        bb_status status = bb_want_dtype(call, i, bb_dtype_of(call->in[0]));
        if (status) return status;
    }
    return bb_infer_shapes(call, bb_dtype_of(call->in[0]));
}

bb_status bb_infer_shapes(bb_call *call, bb_dtype dtype) {
    bb_shape shape = bb_shape_of(call->in[0]);
    for (int i = 1; i < call->n_in; i++) {
        bb_shape next = bb_shape_of(call->in[i]), joined;
        if (!bb_shape_broadcast(&shape, &next, &joined)) {
            char next_text[BB_SHAPE_TEXT], text[BB_SHAPE_TEXT];
            return bb_fail_input(call, i, "expected a shape that broadcasts with %s, got %s",
                                 bb_shape_text(&shape, text), bb_shape_text(&next, next_text));
        }
        shape = joined;
    }
    bb_set_meta(call, 0, dtype, shape);
    return BB_OK;
}
