/* Views: other readings of the same storage.
 *
 *   reshape    y[i'] = x[i], same row-major position
 *   permute    y[i_p0, i_p1, ...] = x[i_0, i_1, ...]
 *   transpose  a permute of two axes
 *   expand     y[..., i, ...] = x[..., 0, ...], stride 0
 *   alias      y = x
 *
 * Parts of a tensor: window.c. Gradients are views too; the tape sums that of expand. No kernels:
 * dispatch calls `view`. Only reshape may need a copy: bb_reshape then takes bb_contiguous first,
 * which the tape sees; the record itself copies as well, for those who apply it directly. */
#include "core/impl.h"
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

static bb_status finish(bb_call *call, bb_tensor *base, const int64_t *stride, int64_t offset) {
    call->out[0] = bb_tensor_view(base, &call->meta[0].shape, stride, offset);
    return call->out[0] ? BB_OK : bb_error(call->ctx);
}

static bb_ints ints_of(const bb_shape *shape) {
    bb_ints ints = {.n = shape->rank};
    for (int i = 0; i < shape->rank; i++) ints.v[i] = shape->size[i];
    return ints;
}

/* A shape with a bad rank would not fit the attributes; false after setting the error. */
static bool rank_fits(bb_t x, const char *op, int rank) {
    if (rank >= 0 && rank <= BB_MAX_RANK) return true;
    if (x)
        bb_fail(bb_context_of(x), BB_ERR_ARGUMENT, "%s: shape: expected rank 0 to %d, got %d", op,
                BB_MAX_RANK, rank);
    return false;
}

/* ---- reshape */

static bb_status infer_reshape(bb_call *call) {
    const bb_ints *want = &((const bb_sizes_attrs *)call->attrs)->shape;
    const bb_tensor *x = call->in[0];
    bb_shape shape = {.rank = want->n}, from = bb_shape_of(x);
    int64_t known = 1, count;
    int open = -1;
    if (want->n > BB_MAX_RANK)
        return bb_fail_attr(call, "shape", "expected at most %d sizes, got %d", BB_MAX_RANK,
                            want->n);
    for (int i = 0; i < want->n; i++) {
        shape.size[i] = want->v[i];
        if (want->v[i] >= 0) continue;
        if (want->v[i] != -1 || open >= 0)
            return bb_fail_attr(call, "shape",
                                "expected sizes >= 0 and at most one -1, got %lld at %d",
                                (long long)want->v[i], i);
        open = i;
        shape.size[i] = 1;
    }
    bool fits = bb_shape_count(&shape, &known);
    if (fits && open >= 0) {
        fits = known > 0 && bb_count(x) % known == 0;
        if (fits) shape.size[open] = bb_count(x) / known;
    }
    if (!fits || !bb_shape_count(&shape, &count) || count != bb_count(x)) {
        char got[BB_SHAPE_TEXT], text[BB_SHAPE_TEXT];
        for (int i = 0; i < want->n; i++) shape.size[i] = want->v[i];
        return bb_fail_attr(call, "shape", "expected a shape of the %lld elements of %s, got %s",
                            (long long)bb_count(x), bb_shape_text(&from, text),
                            bb_shape_text(&shape, got));
    }
    bb_set_meta(call, 0, bb_dtype_of(x), shape);
    return BB_OK;
}

/* Strides that read x in the new shape without a copy. Axes of x that lie densely together form a
 * chunk, and each chunk must be cut into whole axes of the new shape. */
static bool reshape_strides(const bb_tensor *x, const bb_shape *to, int64_t *stride) {
    int at = to->rank - 1;
    if (x->rank == 0 || x->count == 0) {
        for (int64_t step = 1; at >= 0; at--) {
            stride[at] = step;
            step *= to->size[at] > 1 ? to->size[at] : 1;
        }
        return true;
    }
    int64_t base = x->stride[x->rank - 1], chunk = 1, covered = 1;
    for (int i = x->rank - 1; i >= 0; i--) {
        chunk *= x->size[i];
        if (i > 0 && (x->size[i - 1] == 1 || x->stride[i - 1] == chunk * base)) continue;
        for (; at >= 0 && (covered < chunk || to->size[at] == 1); at--) {
            stride[at] = covered * base;
            covered *= to->size[at];
        }
        if (covered != chunk) return false;
        if (i > 0) base = x->stride[i - 1], chunk = covered = 1;
    }
    return at < 0;
}

static bb_status view_reshape(bb_call *call) {
    int64_t stride[BB_MAX_RANK];
    bb_tensor *x = call->in[0];
    if (!reshape_strides(x, &call->meta[0].shape, stride)) {
        const bb_shape from = bb_shape_of(x);
        bb_tensor *fresh = bb_tensor_new(call->ctx, call->device, bb_dtype_of(x), &from);
        if (!fresh) return bb_error(call->ctx);
        bb_status status = bb_copy_into(x, fresh);
        if (status) return status;
        reshape_strides(fresh, &call->meta[0].shape, stride);
        x = fresh;
    }
    return finish(call, x, stride, 0);
}

static bb_status gradient_reshape(const bb_grad_call *grad) {
    if (grad->want[0])
        grad->grad_in[0] = bb_reshape(grad->grad_out[0], bb_shape_of(grad->call->in[0]));
    return BB_OK;
}

const bb_op bb_op_reshape = {
    .name = "reshape",
    .doc = "the same elements in row-major order; one size may be -1",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"shape", BB_ATTR_INTS, offsetof(bb_sizes_attrs, shape), .required = true}},
    .attrs_bytes = sizeof(bb_sizes_attrs),
    .infer = infer_reshape,
    .view = view_reshape,
    .gradient = gradient_reshape,
};

bb_t bb_reshape(bb_t x, bb_shape shape) {
    if (!rank_fits(x, "reshape", shape.rank)) return NULL;
    const bb_sizes_attrs attrs = {ints_of(&shape)};
    if (x && x->storage && !x->contiguous) {
        /* -1 does not change whether a view will do, but is easier resolved by the rule itself. */
        bb_call call = {
            .ctx = x->ctx, .op = &bb_op_reshape, .attrs = &attrs, .n_in = 1, .n_out = 1, .in = &x};
        int64_t stride[BB_MAX_RANK];
        if (bb_error(x->ctx) || infer_reshape(&call)) return NULL;
        if (!reshape_strides(x, &call.meta[0].shape, stride)) x = bb_contiguous(x);
    }
    return bb_apply1(bb_context_of(x), &bb_op_reshape, &x, 1, &attrs);
}

bb_t bb_unsqueeze(bb_t x, int64_t axis) {
    if (!x) return NULL;
    bb_shape shape = bb_shape_of(x);
    const int64_t rank = shape.rank;
    if (axis < -rank - 1 || axis > rank || rank == BB_MAX_RANK) {
        if (rank == BB_MAX_RANK)
            bb_fail(bb_context_of(x), BB_ERR_ARGUMENT,
                    "unsqueeze: input: expected rank below %d, got %d", BB_MAX_RANK, (int)rank);
        else
            bb_fail(bb_context_of(x), BB_ERR_ARGUMENT,
                    "unsqueeze: axis: expected %d to %d, got %lld", (int)-rank - 1, (int)rank,
                    (long long)axis);
        return NULL;
    }
    if (axis < 0) axis += rank + 1;
    for (int64_t i = rank; i > axis; i--) shape.size[i] = shape.size[i - 1];
    shape.size[axis] = 1;
    shape.rank++;
    return bb_reshape(x, shape);
}

bb_t bb_squeeze(bb_t x, int64_t axis) {
    if (!x) return NULL;
    bb_shape shape = bb_shape_of(x);
    const int64_t rank = shape.rank;
    if (axis < -rank || axis >= rank) {
        bb_fail(bb_context_of(x), BB_ERR_ARGUMENT, "squeeze: axis: expected %d to %d, got %lld",
                (int)-rank, (int)rank - 1, (long long)axis);
        return NULL;
    }
    if (axis < 0) axis += rank;
    if (shape.size[axis] != 1) {
        bb_fail(bb_context_of(x), BB_ERR_ARGUMENT, "squeeze: axis %lld: expected size 1, got %lld",
                (long long)axis, (long long)shape.size[axis]);
        return NULL;
    }
    for (int64_t i = axis; i + 1 < rank; i++) shape.size[i] = shape.size[i + 1];
    shape.rank--;
    return bb_reshape(x, shape);
}

/* ---- permute and transpose */

static bb_status permute_axes(const bb_call *call, int axes[BB_MAX_RANK]) {
    const bb_ints *want = &((const bb_permute_attrs *)call->attrs)->axes;
    const int rank = bb_rank(call->in[0]);
    unsigned seen = 0;
    if (want->n != rank)
        return bb_fail_attr(call, "axes", "expected %d axes, got %d", rank, want->n);
    for (int i = 0; i < rank; i++) {
        bb_status status = bb_axis(call, "axes", want->v[i], rank, &axes[i]);
        if (status) return status;
        if (seen >> axes[i] & 1)
            return bb_fail_attr(call, "axes", "expected different axes, got axis %d twice",
                                axes[i]);
        seen |= 1u << axes[i];
    }
    return BB_OK;
}

static bb_status infer_permute(bb_call *call) {
    int axes[BB_MAX_RANK];
    const bb_shape from = bb_shape_of(call->in[0]);
    bb_status status = permute_axes(call, axes);
    if (status) return status;
    bb_shape shape = {.rank = from.rank};
    for (int i = 0; i < from.rank; i++) shape.size[i] = from.size[axes[i]];
    bb_set_meta(call, 0, bb_dtype_of(call->in[0]), shape);
    return BB_OK;
}

static bb_status view_permute(bb_call *call) {
    int axes[BB_MAX_RANK];
    int64_t stride[BB_MAX_RANK];
    bb_tensor *x = call->in[0];
    bb_status status = permute_axes(call, axes);
    if (status) return status;
    for (int i = 0; i < x->rank; i++) stride[i] = x->stride[axes[i]];
    return finish(call, x, stride, 0);
}

static bb_status gradient_permute(const bb_grad_call *grad) {
    int axes[BB_MAX_RANK];
    bb_ints back = {.n = bb_rank(grad->call->in[0])};
    bb_status status = permute_axes(grad->call, axes);
    if (status) return status;
    for (int i = 0; i < back.n; i++) back.v[axes[i]] = i;
    if (grad->want[0]) grad->grad_in[0] = bb_permute(grad->grad_out[0], back);
    return BB_OK;
}

const bb_op bb_op_permute = {
    .name = "permute",
    .doc = "axis i of the output is axis axes[i] of the input",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"axes", BB_ATTR_INTS, offsetof(bb_permute_attrs, axes), .required = true}},
    .attrs_bytes = sizeof(bb_permute_attrs),
    .infer = infer_permute,
    .view = view_permute,
    .gradient = gradient_permute,
};

bb_t bb_permute(bb_t x, bb_ints axes) {
    return bb_apply1(bb_context_of(x), &bb_op_permute, &x, 1, &(bb_permute_attrs){axes});
}

static bb_status transpose_axes(const bb_call *call, int *axis0, int *axis1) {
    const bb_transpose_attrs *a = call->attrs;
    const int rank = bb_rank(call->in[0]);
    bb_status status = bb_axis(call, "axis0", a->axis0, rank, axis0);
    return status ? status : bb_axis(call, "axis1", a->axis1, rank, axis1);
}

static bb_status infer_transpose(bb_call *call) {
    int axis0, axis1;
    bb_shape shape = bb_shape_of(call->in[0]);
    bb_status status = transpose_axes(call, &axis0, &axis1);
    if (status) return status;
    const int64_t size = shape.size[axis0];
    shape.size[axis0] = shape.size[axis1];
    shape.size[axis1] = size;
    bb_set_meta(call, 0, bb_dtype_of(call->in[0]), shape);
    return BB_OK;
}

static bb_status view_transpose(bb_call *call) {
    int axis0, axis1;
    int64_t stride[BB_MAX_RANK];
    bb_tensor *x = call->in[0];
    bb_status status = transpose_axes(call, &axis0, &axis1);
    if (status) return status;
    for (int i = 0; i < x->rank; i++)
        stride[i] = x->stride[i == axis0 ? axis1 : i == axis1 ? axis0 : i];
    return finish(call, x, stride, 0);
}

static bb_status gradient_transpose(const bb_grad_call *grad) {
    const bb_transpose_attrs *a = grad->call->attrs;
    if (grad->want[0]) grad->grad_in[0] = bb_transpose(grad->grad_out[0], a->axis0, a->axis1);
    return BB_OK;
}

const bb_op bb_op_transpose = {
    .name = "transpose",
    .doc = "axis0 and axis1 exchanged",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"axis0", BB_ATTR_INT, offsetof(bb_transpose_attrs, axis0), .value = -2},
              {"axis1", BB_ATTR_INT, offsetof(bb_transpose_attrs, axis1), .value = -1}},
    .attrs_bytes = sizeof(bb_transpose_attrs),
    .infer = infer_transpose,
    .view = view_transpose,
    .gradient = gradient_transpose,
};

bb_t bb_transpose(bb_t x, int64_t axis0, int64_t axis1) {
    return bb_apply1(bb_context_of(x), &bb_op_transpose, &x, 1,
                     &(bb_transpose_attrs){axis0, axis1});
}

/* ---- expand and alias */

static bb_status infer_expand(bb_call *call) {
    const bb_ints *want = &((const bb_sizes_attrs *)call->attrs)->shape;
    const bb_shape from = bb_shape_of(call->in[0]);
    const int lead = want->n - from.rank;
    bb_shape shape = {.rank = want->n};
    if (lead < 0 || want->n > BB_MAX_RANK)
        return bb_fail_attr(call, "shape", "expected %d to %d sizes, got %d", from.rank,
                            BB_MAX_RANK, want->n);
    for (int i = 0; i < want->n; i++) {
        const bool keep = want->v[i] == -1 && i >= lead;
        shape.size[i] = keep ? from.size[i - lead] : want->v[i];
        if (keep || (want->v[i] >= 0 &&
                     (i < lead || from.size[i - lead] == 1 || from.size[i - lead] == want->v[i])))
            continue;
        if (i < lead || want->v[i] < 0)
            return bb_fail_attr(call, "shape", "expected a size >= 0%s at %d, got %lld",
                                i < lead ? "" : " or -1", i, (long long)want->v[i]);
        return bb_fail_attr(call, "shape", "expected %lld at %d (only size 1 expands), got %lld",
                            (long long)from.size[i - lead], i, (long long)want->v[i]);
    }
    bb_set_meta(call, 0, bb_dtype_of(call->in[0]), shape);
    return BB_OK;
}

static bb_status view_expand(bb_call *call) {
    const bb_shape *shape = &call->meta[0].shape;
    int64_t stride[BB_MAX_RANK];
    bb_tensor *x = call->in[0];
    const int lead = shape->rank - x->rank;
    for (int i = 0; i < shape->rank; i++)
        stride[i] = i < lead || x->size[i - lead] != shape->size[i] ? 0 : x->stride[i - lead];
    return finish(call, x, stride, 0);
}

/* expand: the tape sums the gradient down to the input's shape, as for every broadcast. */
static bb_status gradient_same(const bb_grad_call *grad) {
    if (grad->want[0]) grad->grad_in[0] = grad->grad_out[0];
    return BB_OK;
}

const bb_op bb_op_expand = {
    .name = "expand",
    .doc = "axes of size 1 repeated to `shape`; -1 keeps a size; new axes come first",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"shape", BB_ATTR_INTS, offsetof(bb_sizes_attrs, shape), .required = true}},
    .attrs_bytes = sizeof(bb_sizes_attrs),
    .infer = infer_expand,
    .view = view_expand,
    .gradient = gradient_same,
};

bb_t bb_expand(bb_t x, bb_shape shape) {
    if (!rank_fits(x, "expand", shape.rank)) return NULL;
    return bb_apply1(bb_context_of(x), &bb_op_expand, &x, 1, &(bb_sizes_attrs){ints_of(&shape)});
}

static bb_status view_alias(bb_call *call) {
    return finish(call, call->in[0], call->in[0]->stride, 0);
}

const bb_op bb_op_alias = {
    .name = "alias",
    .doc = "another handle on the same value",
    .inputs = {"input"},
    .outputs = {"output"},
    .infer = bb_infer_same,
    .view = view_alias,
    .gradient = gradient_same,
};

bb_t bb_alias(bb_t x) { return bb_apply1(bb_context_of(x), &bb_op_alias, &x, 1, NULL); }
