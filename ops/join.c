/* Joining and padding.
 *
 *   cat    tensors one after another along an axis      d(x_k) = the slice of dy where x_k stands
 *   stack  the same along a new axis                     d(x_k) = dy at index k of the axis
 *   pad    a border of `value`                           dx = dy without the border
 */
#include "core/impl.h"
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

/* ---- cat */

static bb_status infer_cat(bb_call *call) {
    bb_shape shape = bb_shape_of(call->in[0]);
    int axis;
    bb_status status =
        bb_axis(call, "axis", ((const bb_axis_attrs *)call->attrs)->axis, shape.rank, &axis);
    for (int i = 1; !status && i < call->n_in; i++) {
        const bb_shape next = bb_shape_of(call->in[i]);
        bb_shape expected = shape;
        if (next.rank == shape.rank) expected.size[axis] = next.size[axis];
        if ((status = bb_want_dtype(call, i, bb_dtype_of(call->in[0])))) return status;
        if (!bb_shape_equal(&expected, &next)) {
            char got[BB_SHAPE_TEXT], text[BB_SHAPE_TEXT];
            expected = bb_shape_of(call->in[0]);
            return bb_fail_input(call, i,
                                 "expected the shape of the first, %s, but for axis %d, got %s",
                                 bb_shape_text(&expected, text), axis, bb_shape_text(&next, got));
        }
        if (next.size[axis] > INT64_MAX - shape.size[axis])
            return bb_fail_input(call, i, "expected sizes whose sum fits, got an overflow");
        shape.size[axis] += next.size[axis];
    }
    if (!status) bb_set_meta(call, 0, bb_dtype_of(call->in[0]), shape);
    return status;
}

static bb_status gradient_cat(const bb_grad_call *grad) {
    const int rank = bb_rank(grad->grad_out[0]);
    int axis;
    bb_status status =
        bb_axis(grad->call, "axis", ((const bb_axis_attrs *)grad->call->attrs)->axis, rank, &axis);
    int64_t start = 0;
    for (int i = 0; !status && i < grad->call->n_in; i++) {
        const int64_t size = bb_size(grad->call->in[i], axis);
        if (grad->want[i]) grad->grad_in[i] = bb_narrow(grad->grad_out[0], axis, start, size);
        start += size;
    }
    return status;
}

const bb_op bb_op_cat = {
    .name = "cat",
    .doc = "tensors one after another along an axis",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"axis", BB_ATTR_INT, offsetof(bb_axis_attrs, axis), .value = 0}},
    .attrs_bytes = sizeof(bb_axis_attrs),
    .variadic = true,
    .infer = infer_cat,
    .gradient = gradient_cat,
};

/* The context of the first tensor that is there. */
static bb_context *context_of_all(bb_tensor *const *x, int n) {
    for (int i = 0; x && i < n; i++)
        if (x[i]) return bb_context_of(x[i]);
    return NULL;
}

bb_t bb_cat(bb_tensor *const *x, int n, int64_t axis) {
    return bb_apply1(context_of_all(x, n), &bb_op_cat, x, n, &(bb_axis_attrs){axis});
}

/* ---- stack */

/* The new axis, among the rank + 1 of the result. */
static bb_status stack_axis(const bb_call *call, int *axis) {
    return bb_axis(call, "axis", ((const bb_axis_attrs *)call->attrs)->axis,
                   bb_rank(call->in[0]) + 1, axis);
}

static bb_status infer_stack(bb_call *call) {
    const bb_shape first = bb_shape_of(call->in[0]);
    int axis;
    bb_status status = stack_axis(call, &axis);
    if (status) return status;
    if (first.rank == BB_MAX_RANK)
        return bb_fail_input(call, 0, "expected rank below %d, got %d", BB_MAX_RANK, first.rank);
    for (int i = 1; i < call->n_in; i++) {
        if ((status = bb_want_dtype(call, i, bb_dtype_of(call->in[0])))) return status;
        if ((status = bb_want_shape(call, i, first))) return status;
    }
    bb_shape shape = {.rank = first.rank + 1};
    for (int i = 0; i < shape.rank; i++)
        shape.size[i] = i < axis ? first.size[i] : i == axis ? call->n_in : first.size[i - 1];
    bb_set_meta(call, 0, bb_dtype_of(call->in[0]), shape);
    return BB_OK;
}

static bb_status gradient_stack(const bb_grad_call *grad) {
    int axis;
    bb_status status = stack_axis(grad->call, &axis);
    for (int i = 0; !status && i < grad->call->n_in; i++)
        if (grad->want[i]) grad->grad_in[i] = bb_select(grad->grad_out[0], axis, i);
    return status;
}

const bb_op bb_op_stack = {
    .name = "stack",
    .doc = "tensors of one shape along a new axis",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"axis", BB_ATTR_INT, offsetof(bb_axis_attrs, axis), .value = 0}},
    .attrs_bytes = sizeof(bb_axis_attrs),
    .variadic = true,
    .infer = infer_stack,
    .gradient = gradient_stack,
};

bb_t bb_stack(bb_tensor *const *x, int n, int64_t axis) {
    return bb_apply1(context_of_all(x, n), &bb_op_stack, x, n, &(bb_axis_attrs){axis});
}

/* ---- pad */

static bb_status infer_pad(bb_call *call) {
    const bb_pad_attrs *a = call->attrs;
    bb_shape shape = bb_shape_of(call->in[0]);
    if (a->before.n != shape.rank)
        return bb_fail_attr(call, "before", "expected %d sizes, got %d", shape.rank, a->before.n);
    if (a->after.n != shape.rank)
        return bb_fail_attr(call, "after", "expected %d sizes, got %d", shape.rank, a->after.n);
    for (int i = 0; i < shape.rank; i++) {
        if (a->before.v[i] < 0)
            return bb_fail_attr(call, "before", "expected sizes >= 0, got %lld at %d",
                                (long long)a->before.v[i], i);
        if (a->after.v[i] < 0)
            return bb_fail_attr(call, "after", "expected sizes >= 0, got %lld at %d",
                                (long long)a->after.v[i], i);
        if (a->before.v[i] > INT64_MAX - shape.size[i] ||
            a->after.v[i] > INT64_MAX - shape.size[i] - a->before.v[i])
            return bb_fail_attr(call, "after", "expected a size that fits, got an overflow at %d",
                                i);
        shape.size[i] += a->before.v[i] + a->after.v[i];
    }
    bb_set_meta(call, 0, bb_dtype_of(call->in[0]), shape);
    return BB_OK;
}

static bb_status gradient_pad(const bb_grad_call *grad) {
    const bb_pad_attrs *a = grad->call->attrs;
    const bb_tensor *x = grad->call->in[0];
    if (!grad->want[0]) return BB_OK;
    bb_t g = grad->grad_out[0];
    for (int i = 0; i < a->before.n; i++)
        if (a->before.v[i] || a->after.v[i]) g = bb_narrow(g, i, a->before.v[i], bb_size(x, i));
    grad->grad_in[0] = g;
    return BB_OK;
}

const bb_op bb_op_pad = {
    .name = "pad",
    .doc = "a border of before[i] and after[i] elements of `value` around axis i",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"before", BB_ATTR_INTS, offsetof(bb_pad_attrs, before), .required = true},
              {"after", BB_ATTR_INTS, offsetof(bb_pad_attrs, after), .required = true},
              {"value", BB_ATTR_FLOAT, offsetof(bb_pad_attrs, value), .value = 0}},
    .attrs_bytes = sizeof(bb_pad_attrs),
    .infer = infer_pad,
    .gradient = gradient_pad,
};

bb_t bb_pad(bb_t x, bb_ints before, bb_ints after, double value) {
    return bb_apply1(bb_context_of(x), &bb_op_pad, &x, 1, &(bb_pad_attrs){before, after, value});
}
