/* Views of a part: slice (y[.., i, ..] = x[.., start + i step, ..]) and select (one index, the axis
 * goes). As windows they read no element twice, so the tape adds their gradient in place through
 * the same view; the rules below, pads with zeros, serve gradients of gradients. The other views
 * are view.c. */
#include "core/impl.h"
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

/* Zeros around g along one axis. */
static bb_t pad_axis(bb_t g, int axis, int64_t before, int64_t after) {
    bb_ints b = {.n = bb_rank(g)}, a = {.n = bb_rank(g)};
    if (!g) return NULL;
    b.v[axis] = before;
    a.v[axis] = after;
    return bb_pad(g, b, a, 0);
}

/* Python's start:stop:step on an axis of `size` elements. */
static bb_status slice_range(const bb_call *call, int *axis, int64_t *start, int64_t *length) {
    const bb_slice_attrs *a = call->attrs;
    bb_status status = bb_axis(call, "axis", a->axis, bb_rank(call->in[0]), axis);
    if (status) return status;
    if (a->step < 1)
        return bb_fail_attr(call, "step", "expected at least 1, got %lld", (long long)a->step);
    const int64_t size = bb_size(call->in[0], *axis);
    int64_t from = a->start < 0 ? a->start + size : a->start,
            to = a->stop < 0 ? a->stop + size : a->stop;
    from = from < 0 ? 0 : from > size ? size : from;
    to = to < from ? from : to > size ? size : to;
    *start = from;
    *length = (to - from) / a->step + ((to - from) % a->step != 0);
    return BB_OK;
}

static bb_status infer_slice(bb_call *call) {
    int axis = 0;
    int64_t start = 0, length = 0;
    bb_shape shape = bb_shape_of(call->in[0]);
    bb_status status = slice_range(call, &axis, &start, &length);
    if (status) return status;
    shape.size[axis] = length;
    bb_set_meta(call, 0, bb_dtype_of(call->in[0]), shape);
    return BB_OK;
}

static bb_status view_slice(bb_call *call) {
    const bb_slice_attrs *a = call->attrs;
    int axis = 0;
    int64_t start = 0, length = 0, stride[BB_MAX_RANK];
    bb_tensor *x = call->in[0];
    bb_status status = slice_range(call, &axis, &start, &length);
    if (status) return status;
    for (int i = 0; i < x->rank; i++) stride[i] = x->stride[i];
    if (length > 1) stride[axis] *= a->step;
    call->out[0] =
        bb_tensor_view(x, &call->meta[0].shape, stride, length ? start * x->stride[axis] : 0);
    return call->out[0] ? BB_OK : bb_error(call->ctx);
}

/* With a step, each element of g first gets step - 1 zeros behind it. */
static bb_status gradient_slice(const bb_grad_call *grad) {
    const bb_slice_attrs *a = grad->call->attrs;
    int axis = 0;
    int64_t start = 0, length = 0;
    bb_status status = slice_range(grad->call, &axis, &start, &length);
    if (status || !grad->want[0]) return status;
    bb_t g = grad->grad_out[0];
    if (a->step > 1 && length > 1) {
        bb_shape shape = bb_shape_of(g);
        shape.size[axis] = length * a->step;
        g = bb_reshape(pad_axis(bb_unsqueeze(g, axis + 1), axis + 1, 0, a->step - 1), shape);
        length = (length - 1) * a->step + 1;
        g = bb_narrow(g, axis, 0, length);
    }
    grad->grad_in[0] = pad_axis(g, axis, start, bb_size(grad->call->in[0], axis) - start - length);
    return BB_OK;
}

const bb_op bb_op_slice = {
    .name = "slice",
    .doc = "start:stop:step of one axis, as in Python; step >= 1",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"axis", BB_ATTR_INT, offsetof(bb_slice_attrs, axis), .value = 0},
              {"start", BB_ATTR_INT, offsetof(bb_slice_attrs, start), .value = 0},
              {"stop", BB_ATTR_INT, offsetof(bb_slice_attrs, stop),
               .value = 0x1p62}, /* to the end */
              {"step", BB_ATTR_INT, offsetof(bb_slice_attrs, step), .value = 1}},
    .attrs_bytes = sizeof(bb_slice_attrs),
    .window = true,
    .infer = infer_slice,
    .view = view_slice,
    .gradient = gradient_slice,
};

bb_t bb_slice(bb_t x, int64_t axis, int64_t start, int64_t stop, int64_t step) {
    return bb_apply1(bb_context_of(x), &bb_op_slice, &x, 1,
                     &(bb_slice_attrs){axis, start, stop, step});
}

bb_t bb_narrow(bb_t x, int64_t axis, int64_t start, int64_t length) {
    const int64_t rank = bb_rank(x),
                  size = axis >= -rank && axis < rank ? bb_size(x, (int)axis) : 0;
    if (x && axis >= -rank && axis < rank &&
        (start < 0 || length < 0 || start > size || length > size - start)) {
        bb_fail(bb_context_of(x), BB_ERR_ARGUMENT,
                "narrow: expected start and length within size %lld, got start %lld length %lld",
                (long long)size, (long long)start, (long long)length);
        return NULL;
    }
    return bb_slice(x, axis, start, start + length, 1);
}

static bb_status select_index(const bb_call *call, int *axis, int64_t *index) {
    const bb_select_attrs *a = call->attrs;
    bb_status status = bb_axis(call, "axis", a->axis, bb_rank(call->in[0]), axis);
    if (status) return status;
    const int64_t size = bb_size(call->in[0], *axis);
    if (a->index < -size || a->index >= size)
        return bb_fail_attr(call, "index", "expected %lld to %lld, got %lld", (long long)-size,
                            (long long)size - 1, (long long)a->index);
    *index = a->index < 0 ? a->index + size : a->index;
    return BB_OK;
}

static bb_status infer_select(bb_call *call) {
    int axis = 0;
    int64_t index = 0;
    bb_shape shape = bb_shape_of(call->in[0]);
    bb_status status = select_index(call, &axis, &index);
    if (status) return status;
    shape.rank--;
    for (int i = axis; i < shape.rank; i++) shape.size[i] = shape.size[i + 1];
    bb_set_meta(call, 0, bb_dtype_of(call->in[0]), shape);
    return BB_OK;
}

static bb_status view_select(bb_call *call) {
    int axis = 0;
    int64_t index = 0, stride[BB_MAX_RANK];
    bb_tensor *x = call->in[0];
    bb_status status = select_index(call, &axis, &index);
    if (status) return status;
    for (int i = 0, k = 0; i < x->rank; i++)
        if (i != axis) stride[k++] = x->stride[i];
    call->out[0] =
        bb_tensor_view(x, &call->meta[0].shape, stride, x->count ? index * x->stride[axis] : 0);
    return call->out[0] ? BB_OK : bb_error(call->ctx);
}

static bb_status gradient_select(const bb_grad_call *grad) {
    int axis = 0;
    int64_t index = 0;
    bb_status status = select_index(grad->call, &axis, &index);
    if (status || !grad->want[0]) return status;
    const int64_t size = bb_size(grad->call->in[0], axis);
    grad->grad_in[0] =
        pad_axis(bb_unsqueeze(grad->grad_out[0], axis), axis, index, size - 1 - index);
    return BB_OK;
}

const bb_op bb_op_select = {
    .name = "select",
    .doc = "one index of an axis; the axis goes",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"axis", BB_ATTR_INT, offsetof(bb_select_attrs, axis), .value = 0},
              {"index", BB_ATTR_INT, offsetof(bb_select_attrs, index), .required = true}},
    .attrs_bytes = sizeof(bb_select_attrs),
    .window = true,
    .infer = infer_select,
    .view = view_select,
    .gradient = gradient_select,
};

bb_t bb_select(bb_t x, int64_t axis, int64_t index) {
    return bb_apply1(bb_context_of(x), &bb_op_select, &x, 1, &(bb_select_attrs){axis, index});
}
