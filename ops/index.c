/* Picking elements by index, and adding to them. Indices are i64 or i32; one out of range is an
 * error that names its position, found before anything is written.
 *
 *   gather        y[i, j] = x[index[i, j], j]  (axis 0)     dx = scatter_add(0, index, dy)
 *   scatter_add   y = x; y[index[i, j], j] += source[i, j]  dx = dy, dsource = gather(dy, index)
 *   index_select  y[i, ...] = x[index[i], ...]              dx = scatter_add(0, spread, dy)
 *   embedding     y[..., :] = weight[index[...], :]         dweight = scatter_add(0, spread, dy)
 *
 * where spread is index, the same for all elements of a row.
 *
 * Sums run in the order of the index, whatever the number of threads. Kernels: backends. */
#include "ops/constant.h"
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

static bb_status axis_of(const bb_call *call, int *axis) {
    return bb_axis(call, "axis", ((const bb_axis_attrs *)call->attrs)->axis, bb_rank(call->in[0]),
                   axis);
}

/* Index (input 1) of gather and scatter_add: x's rank, no larger than x on the axes that are not
 * indexed. */
static bb_status check_index(const bb_call *call, int axis) {
    const bb_shape x = bb_shape_of(call->in[0]), index = bb_shape_of(call->in[1]);
    bb_status status = bb_want_index(call, 1);
    if (status) return status;
    bool fits = index.rank == x.rank;
    for (int i = 0; fits && i < x.rank; i++) fits = i == axis || index.size[i] <= x.size[i];
    if (fits) return BB_OK;
    char got[BB_SHAPE_TEXT], text[BB_SHAPE_TEXT];
    return bb_fail_input(call, 1, "expected a shape within %s but for axis %d, got %s",
                         bb_shape_text(&x, text), axis, bb_shape_text(&index, got));
}

/* ---- gather */

static bb_status infer_gather(bb_call *call) {
    int axis;
    bb_status status = axis_of(call, &axis);
    if (!status) status = check_index(call, axis);
    if (!status) bb_set_meta(call, 0, bb_dtype_of(call->in[0]), bb_shape_of(call->in[1]));
    return status;
}

/* Zeros of input 0's shape, of which only one is stored. */
static bb_t zeros_like_input(const bb_grad_call *grad, bb_dtype dtype) {
    const bb_call *call = grad->call;
    return bb_expand(bb_place(call, bb_scalar(call->ctx, dtype, 0)), bb_shape_of(call->in[0]));
}

static bb_status gradient_gather(const bb_grad_call *grad) {
    const int64_t axis = ((const bb_axis_attrs *)grad->call->attrs)->axis;
    bb_t g = grad->grad_out[0];
    if (grad->want[0])
        grad->grad_in[0] =
            bb_scatter_add(zeros_like_input(grad, bb_dtype_of(g)), axis, grad->call->in[1], g);
    return BB_OK;
}

const bb_op bb_op_gather = {
    .name = "gather",
    .doc = "the elements of an axis at `index`, which has the shape of the output",
    .inputs = {"input", "index"},
    .outputs = {"output"},
    .attrs = {{"axis", BB_ATTR_INT, offsetof(bb_axis_attrs, axis), .value = 0}},
    .attrs_bytes = sizeof(bb_axis_attrs),
    .saves_inputs = 2,
    .infer = infer_gather,
    .gradient = gradient_gather,
};

bb_t bb_gather(bb_t x, int64_t axis, bb_t index) {
    return bb_apply1(bb_context_of(x), &bb_op_gather, (bb_t[]){x, index}, 2,
                     &(bb_axis_attrs){axis});
}

/* ---- scatter_add */

static bb_status infer_scatter_add(bb_call *call) {
    int axis;
    if (bb_dtype_of(call->in[0]) == BB_BOOL)
        return bb_fail_input(call, 0, "expected a number dtype, got bool");
    bb_status status = axis_of(call, &axis);
    if (!status) status = check_index(call, axis);
    if (!status) status = bb_want_dtype(call, 2, bb_dtype_of(call->in[0]));
    if (!status) status = bb_want_shape(call, 2, bb_shape_of(call->in[1]));
    return status ? status : bb_infer_same(call);
}

static bb_status gradient_scatter_add(const bb_grad_call *grad) {
    const int64_t axis = ((const bb_axis_attrs *)grad->call->attrs)->axis;
    if (grad->want[0]) grad->grad_in[0] = grad->grad_out[0];
    if (grad->want[2]) grad->grad_in[2] = bb_gather(grad->grad_out[0], axis, grad->call->in[1]);
    return BB_OK;
}

const bb_op bb_op_scatter_add = {
    .name = "scatter_add",
    .doc = "input, plus each element of source at its index along an axis",
    .inputs = {"input", "index", "source"},
    .outputs = {"output"},
    .attrs = {{"axis", BB_ATTR_INT, offsetof(bb_axis_attrs, axis), .value = 0}},
    .attrs_bytes = sizeof(bb_axis_attrs),
    .saves_inputs = 2,
    .infer = infer_scatter_add,
    .gradient = gradient_scatter_add,
};

bb_t bb_scatter_add(bb_t x, int64_t axis, bb_t index, bb_t source) {
    return bb_apply1(bb_context_of(x), &bb_op_scatter_add, (bb_t[]){x, index, source}, 3,
                     &(bb_axis_attrs){axis});
}

/* ---- index_select */

static bb_status infer_index_select(bb_call *call) {
    bb_shape shape = bb_shape_of(call->in[0]);
    const bb_shape index = bb_shape_of(call->in[1]);
    int axis;
    bb_status status = axis_of(call, &axis);
    if (!status) status = bb_want_index(call, 1);
    if (status) return status;
    if (index.rank != 1) return bb_fail_input(call, 1, "expected one axis, got %d", index.rank);
    shape.size[axis] = index.size[0];
    bb_set_meta(call, 0, bb_dtype_of(call->in[0]), shape);
    return BB_OK;
}

/* Adds g into zeros: the index, a list along `axis`, is spread over the other axes of g. */
static bb_t scatter_list(const bb_grad_call *grad, int axis, bb_t index, bb_t g) {
    const bb_shape shape = bb_shape_of(g);
    bb_shape list = shape;
    for (int i = 0; i < shape.rank; i++) list.size[i] = i == axis ? shape.size[i] : 1;
    return bb_scatter_add(zeros_like_input(grad, bb_dtype_of(g)), axis,
                          bb_expand(bb_reshape(index, list), shape), g);
}

static bb_status gradient_index_select(const bb_grad_call *grad) {
    int axis;
    bb_status status = axis_of(grad->call, &axis);
    if (!status && grad->want[0])
        grad->grad_in[0] = scatter_list(grad, axis, grad->call->in[1], grad->grad_out[0]);
    return status;
}

const bb_op bb_op_index_select = {
    .name = "index_select",
    .doc = "the slices of an axis listed by `index`",
    .inputs = {"input", "index"},
    .outputs = {"output"},
    .attrs = {{"axis", BB_ATTR_INT, offsetof(bb_axis_attrs, axis), .value = 0}},
    .attrs_bytes = sizeof(bb_axis_attrs),
    .saves_inputs = 2,
    .infer = infer_index_select,
    .gradient = gradient_index_select,
};

bb_t bb_index_select(bb_t x, int64_t axis, bb_t index) {
    return bb_apply1(bb_context_of(x), &bb_op_index_select, (bb_t[]){x, index}, 2,
                     &(bb_axis_attrs){axis});
}

/* ---- embedding */

static bb_status infer_embedding(bb_call *call) {
    const bb_shape weight = bb_shape_of(call->in[0]);
    bb_shape shape = bb_shape_of(call->in[1]);
    bb_status status = bb_want_index(call, 1);
    if (status) return status;
    if (weight.rank != 2) return bb_fail_input(call, 0, "expected two axes, got %d", weight.rank);
    if (shape.rank == BB_MAX_RANK)
        return bb_fail_input(call, 1, "expected rank below %d, got %d", BB_MAX_RANK, shape.rank);
    shape.size[shape.rank++] = weight.size[1];
    bb_set_meta(call, 0, bb_dtype_of(call->in[0]), shape);
    return BB_OK;
}

static bb_status gradient_embedding(const bb_grad_call *grad) {
    bb_t index = grad->call->in[1];
    const int64_t rows = bb_count(index), columns = bb_size(grad->call->in[0], 1);
    if (!grad->want[0]) return BB_OK;
    bb_t g = bb_reshape(grad->grad_out[0], BB_SHAPE(rows, columns));
    grad->grad_in[0] = scatter_list(grad, 0, bb_reshape(index, BB_SHAPE(rows)), g);
    return BB_OK;
}

const bb_op bb_op_embedding = {
    .name = "embedding",
    .doc = "row index[...] of weight (V, D) for each index: (..., D)",
    .inputs = {"weight", "index"},
    .outputs = {"output"},
    .saves_inputs = 2,
    .infer = infer_embedding,
    .gradient = gradient_embedding,
};

bb_t bb_embedding(bb_t weight, bb_t index) {
    return bb_apply1(bb_context_of(weight), &bb_op_embedding, (bb_t[]){weight, index}, 2, NULL);
}
