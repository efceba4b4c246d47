/* Reductions over axes (none named: all of them), and sums along an axis.
 *
 *   sum          y = sum_r x_r                     dx = dy, spread over the axes
 *   mean         y = sum / n                       dx = dy / n
 *   amax, amin   y = max_r x_r, min_r x_r          dx = dy where x = y, shared evenly by equals
 *   argmax       the first index of the largest    no gradient
 *   cumsum       y_i = sum_{j <= i} x_j            dx_i = sum_{j >= i} dy_j
 *   sum_squares  y = sum x^2                       dx = 2 x dy
 *
 * NaN is larger than everything for amax and argmax and smaller for amin: it is never hidden.
 * Kernels: backends. */
#include "ops/constant.h"
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

static bb_shape reduced_shape(const bb_shape *from, unsigned mask, bool keepdim) {
    bb_shape shape = {.rank = 0};
    for (int i = 0; i < from->rank; i++) {
        if (!(mask >> i & 1u))
            shape.size[shape.rank++] = from->size[i];
        else if (keepdim)
            shape.size[shape.rank++] = 1;
    }
    return shape;
}

static bb_status infer_reduce(bb_call *call, bb_dtype dtype) {
    const bb_reduce_attrs *a = call->attrs;
    const bb_shape from = bb_shape_of(call->in[0]);
    unsigned mask;
    bb_status status = bb_axes(call, "axes", &a->axes, from.rank, &mask);
    if (status) return status;
    bb_set_meta(call, 0, dtype, reduced_shape(&from, mask, a->keepdim));
    return BB_OK;
}

static bb_status infer_sum(bb_call *call) {
    const bb_dtype dtype = bb_dtype_of(call->in[0]);
    return infer_reduce(call, bb_dtype_is_float(dtype) ? dtype : BB_I64);
}

static bb_status infer_mean(bb_call *call) {
    bb_status status = bb_want_float(call, 0);
    return status ? status : infer_reduce(call, bb_dtype_of(call->in[0]));
}

static bb_status infer_extreme(bb_call *call) {
    const bb_shape from = bb_shape_of(call->in[0]);
    bb_status status = infer_reduce(call, bb_dtype_of(call->in[0]));
    unsigned mask;
    if (!status)
        status =
            bb_axes(call, "axes", &((const bb_reduce_attrs *)call->attrs)->axes, from.rank, &mask);
    for (int i = 0; !status && i < from.rank; i++) {
        if ((mask >> i & 1u) && from.size[i] == 0) {
            char text[BB_SHAPE_TEXT];
            return bb_fail_input(call, 0,
                                 "expected at least one element to choose from, got shape %s",
                                 bb_shape_text(&from, text));
        }
    }
    return status;
}

/* t, of the reduced shape, with the axes that went as axes of size 1. */
static bb_t restore_axes(const bb_grad_call *grad, bb_t t) {
    const bb_reduce_attrs *a = grad->call->attrs;
    const bb_shape from = bb_shape_of(grad->call->in[0]);
    unsigned mask;
    if (!t || bb_axes(grad->call, "axes", &a->axes, from.rank, &mask)) return NULL;
    return a->keepdim ? t : bb_reshape(t, reduced_shape(&from, mask, true));
}

static bb_status gradient_sum(const bb_grad_call *grad) {
    if (grad->want[0])
        grad->grad_in[0] =
            bb_expand(restore_axes(grad, grad->grad_out[0]), bb_shape_of(grad->call->in[0]));
    return BB_OK;
}

static bb_status gradient_mean(const bb_grad_call *grad) {
    const int64_t all = bb_count(grad->call->in[0]), kept = bb_count(grad->grad_out[0]);
    if (!grad->want[0]) return BB_OK;
    bb_t g = bb_mul_scalar(grad->grad_out[0], all > 0 ? (double)kept / (double)all : 0);
    grad->grad_in[0] = bb_expand(restore_axes(grad, g), bb_shape_of(grad->call->in[0]));
    return BB_OK;
}

static bb_status gradient_extreme(const bb_grad_call *grad) {
    bb_t x = grad->call->in[0];
    if (!grad->want[0]) return BB_OK;
    bb_dtype dtype = bb_dtype_of(x), wide = dtype == BB_F64 ? BB_F64 : BB_F32;
    bb_t same = bb_eq(x, restore_axes(grad, grad->call->out[0]));
    /* How many share the gradient: more than f16 can count. */
    bb_t equals =
        bb_sum(bb_cast(same, wide), ((const bb_reduce_attrs *)grad->call->attrs)->axes, true);
    bb_t part = bb_div(bb_cast(restore_axes(grad, grad->grad_out[0]), wide), equals);
    grad->grad_in[0] = bb_mul(bb_cast(same, dtype), bb_cast(part, dtype));
    return BB_OK;
}

#define REDUCE_ATTRS                                                                               \
    .attrs = {{"axes", BB_ATTR_INTS, offsetof(bb_reduce_attrs, axes), .ints = {0, {0}}},           \
              {"keepdim", BB_ATTR_BOOL, offsetof(bb_reduce_attrs, keepdim), .value = 0}},          \
    .attrs_bytes = sizeof(bb_reduce_attrs)

const bb_op bb_op_sum = {
    .name = "sum",
    .doc = "sum over axes (none: all); integers and bool sum to i64",
    .inputs = {"input"},
    .outputs = {"output"},
    REDUCE_ATTRS,
    .infer = infer_sum,
    .gradient = gradient_sum,
};

const bb_op bb_op_mean = {
    .name = "mean",
    .doc = "mean over axes (none: all)",
    .inputs = {"input"},
    .outputs = {"output"},
    REDUCE_ATTRS,
    .infer = infer_mean,
    .gradient = gradient_mean,
};

const bb_op bb_op_amax = {
    .name = "amax",
    .doc = "largest over axes (none: all)",
    .inputs = {"input"},
    .outputs = {"output"},
    REDUCE_ATTRS,
    .saves_inputs = 1,
    .saves_outputs = 1,
    .infer = infer_extreme,
    .gradient = gradient_extreme,
};

const bb_op bb_op_amin = {
    .name = "amin",
    .doc = "smallest over axes (none: all)",
    .inputs = {"input"},
    .outputs = {"output"},
    REDUCE_ATTRS,
    .saves_inputs = 1,
    .saves_outputs = 1,
    .infer = infer_extreme,
    .gradient = gradient_extreme,
};

static bb_t reduce(const bb_op *op, bb_t x, bb_ints axes, bool keepdim) {
    return bb_apply1(bb_context_of(x), op, &x, 1, &(bb_reduce_attrs){axes, keepdim});
}
bb_t bb_sum(bb_t x, bb_ints axes, bool keepdim) { return reduce(&bb_op_sum, x, axes, keepdim); }
bb_t bb_mean(bb_t x, bb_ints axes, bool keepdim) { return reduce(&bb_op_mean, x, axes, keepdim); }
bb_t bb_amax(bb_t x, bb_ints axes, bool keepdim) { return reduce(&bb_op_amax, x, axes, keepdim); }
bb_t bb_amin(bb_t x, bb_ints axes, bool keepdim) { return reduce(&bb_op_amin, x, axes, keepdim); }
bb_t bb_sum_all(bb_t x) { return bb_sum(x, (bb_ints){.n = 0}, false); }
bb_t bb_mean_all(bb_t x) { return bb_mean(x, (bb_ints){.n = 0}, false); }

bb_t bb_sum_to(bb_t x, bb_shape shape) {
    bb_shape from = bb_shape_of(x), joined;
    bb_ints axes = {.n = 0};
    if (!x) return NULL;
    if (shape.rank > from.rank || !bb_shape_broadcast(&shape, &from, &joined) ||
        !bb_shape_equal(&joined, &from)) {
        char got[BB_SHAPE_TEXT], text[BB_SHAPE_TEXT];
        bb_fail(bb_context_of(x), BB_ERR_ARGUMENT,
                "sum_to: shape: expected one that broadcasts to %s, got %s",
                bb_shape_text(&from, text), bb_shape_text(&shape, got));
        return NULL;
    }
    const int lead = from.rank - shape.rank;
    for (int i = 0; i < from.rank; i++)
        if (i < lead || shape.size[i - lead] != from.size[i]) axes.v[axes.n++] = i;
    return axes.n == 0 ? x : bb_reshape(bb_sum(x, axes, true), shape);
}

/* ---- argmax */

static bb_status infer_argmax(bb_call *call) {
    const bb_arg_attrs *a = call->attrs;
    const bb_shape from = bb_shape_of(call->in[0]);
    int axis;
    bb_status status = bb_axis(call, "axis", a->axis, from.rank, &axis);
    if (status) return status;
    if (from.size[axis] == 0)
        return bb_fail_input(
            call, 0, "expected at least one element to choose from, got size 0 of axis %d", axis);
    bb_set_meta(call, 0, BB_I64, reduced_shape(&from, 1u << axis, a->keepdim));
    return BB_OK;
}

const bb_op bb_op_argmax = {
    .name = "argmax",
    .doc = "index of the first largest element of an axis",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"axis", BB_ATTR_INT, offsetof(bb_arg_attrs, axis), .value = -1},
              {"keepdim", BB_ATTR_BOOL, offsetof(bb_arg_attrs, keepdim), .value = 0}},
    .attrs_bytes = sizeof(bb_arg_attrs),
    .infer = infer_argmax,
    .gradient = bb_no_gradient,
};

bb_t bb_argmax(bb_t x, int64_t axis, bool keepdim) {
    return bb_apply1(bb_context_of(x), &bb_op_argmax, &x, 1, &(bb_arg_attrs){axis, keepdim});
}

/* ---- cumsum */

static bb_status infer_cumsum(bb_call *call) {
    const bb_dtype dtype = bb_dtype_of(call->in[0]);
    const bb_shape shape = bb_shape_of(call->in[0]);
    int axis;
    bb_status status =
        bb_axis(call, "axis", ((const bb_axis_attrs *)call->attrs)->axis, shape.rank, &axis);
    if (status) return status;
    bb_set_meta(call, 0, bb_dtype_is_float(dtype) ? dtype : BB_I64, shape);
    return BB_OK;
}

/* Summed from the end. The whole sum less what came before would lose the digits of a small rest.
 */
static bb_status gradient_cumsum(const bb_grad_call *grad) {
    const int64_t axis = ((const bb_axis_attrs *)grad->call->attrs)->axis;
    bb_t g = grad->grad_out[0];
    double n = (double)bb_size(g, (int)axis);
    if (!grad->want[0]) return BB_OK;
    bb_t backwards = bb_place(grad->call, bb_arange(grad->call->ctx, BB_I64, n - 1, -1, -1));
    g = bb_cumsum(bb_index_select(g, axis, backwards), axis);
    grad->grad_in[0] = bb_index_select(g, axis, backwards);
    return bb_error(grad->call->ctx);
}

const bb_op bb_op_cumsum = {
    .name = "cumsum",
    .doc = "running sum along an axis; integers and bool sum to i64",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"axis", BB_ATTR_INT, offsetof(bb_axis_attrs, axis), .value = -1}},
    .attrs_bytes = sizeof(bb_axis_attrs),
    .infer = infer_cumsum,
    .gradient = gradient_cumsum,
};

bb_t bb_cumsum(bb_t x, int64_t axis) {
    return bb_apply1(bb_context_of(x), &bb_op_cumsum, &x, 1, &(bb_axis_attrs){axis});
}

/* ---- sum_squares */

static bb_status infer_sum_squares(bb_call *call) {
    bb_status status = bb_want_float(call, 0);
    if (status) return status;
    bb_set_meta(call, 0, bb_dtype_of(call->in[0]) == BB_F64 ? BB_F64 : BB_F32, BB_SCALAR);
    return BB_OK;
}

static bb_status gradient_sum_squares(const bb_grad_call *grad) {
    bb_t x = grad->call->in[0];
    if (!grad->want[0]) return BB_OK;
    bb_t g =
        bb_mul(bb_mul_scalar(grad->grad_out[0], 2), bb_cast(x, bb_dtype_of(grad->grad_out[0])));
    grad->grad_in[0] = bb_cast(g, bb_dtype_of(x));
    return BB_OK;
}

const bb_op bb_op_sum_squares = {
    .name = "sum_squares",
    .doc = "sum of the squares of all elements, rank 0, f32 (f64 of f64)",
    .inputs = {"input"},
    .outputs = {"output"},
    .saves_inputs = 1,
    .infer = infer_sum_squares,
    .gradient = gradient_sum_squares,
};

bb_t bb_sum_squares(bb_t x) { return bb_apply1(bb_context_of(x), &bb_op_sum_squares, &x, 1, NULL); }
