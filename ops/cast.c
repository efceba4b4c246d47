/*   cast        y = x in another dtype, rounded once    dx = dy in x's dtype
 *   contiguous  y = x in row-major order                dx = dy
 *
 * Conversion rules: backends/cpu/loops/elementwise.h.
 * bb_cast to x's own dtype and bb_contiguous of a contiguous x return x itself and record nothing.
 * Kernels: backends/cpu/copy.c, backends/cuda/copy.cu. */
#include <stddef.h>

#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

static bb_status infer_cast(bb_call *call) {
    int dtype = ((const bb_cast_attrs *)call->attrs)->dtype;
    bb_set_meta(call, 0, (bb_dtype)dtype, bb_shape_of(call->in[0]));
    return BB_OK;
}

static bb_status cast_gradient(const bb_grad_call *grad) {
    grad->grad_in[0] = bb_cast(grad->grad_out[0], bb_dtype_of(grad->call->in[0]));
    return grad->grad_in[0] ? BB_OK : bb_error(grad->call->ctx);
}

static bb_status contiguous_gradient(const bb_grad_call *grad) {
    grad->grad_in[0] = grad->grad_out[0];
    return BB_OK;
}

const bb_op bb_op_cast = {
    .name = "cast",
    .doc = "input in another dtype, rounded once",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"dtype", BB_ATTR_CHOICE, offsetof(bb_cast_attrs, dtype), .choices = BB_DTYPE_CHOICES,
               .required = true}},
    .attrs_bytes = sizeof(bb_cast_attrs),
    .infer = infer_cast,
    .gradient = cast_gradient,
};
const bb_op bb_op_contiguous = {
    .name = "contiguous",
    .doc = "input in row-major order",
    .inputs = {"input"},
    .outputs = {"output"},
    .infer = bb_infer_same,
    .gradient = contiguous_gradient,
};

bb_t bb_cast(bb_t x, bb_dtype dtype) {
    if (x && bb_dtype_of(x) == dtype) return x;
    bb_cast_attrs attrs = {.dtype = (int)dtype};
    return bb_apply1(bb_context_of(x), &bb_op_cast, &x, 1, &attrs);
}
bb_t bb_contiguous(bb_t x) {
    if (x && bb_is_contiguous(x)) return x;
    return bb_apply1(bb_context_of(x), &bb_op_contiguous, &x, 1, NULL);
}
