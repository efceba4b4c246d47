/* cross_entropy: how badly logits (..., C) predict the class numbers in target (...).
 *
 *     logsumexp = log(sum(exp(logits)))          over the classes, in f32 (f64 for f64)
 *     loss      = logsumexp - logits[target]     0 where target is ignore_index
 *
 * "none" gives the losses, "sum" their sum, "mean" their sum over the number of targets not
 * ignored: NaN where all are. Any other target outside [0, C) is an error. With w the gradient of a
 * row's loss:
 *
 *     dlogits = w (exp(logits - logsumexp) - onehot(target))      0 in ignored rows
 *
 * Fused kernels: backends/cpu/cross_entropy.c, backends/cuda/cross_entropy.cu. */
#include "ops/constant.h"
#include "ops/ops.h"
#include "ops/table.h"

static bb_status infer(bb_call *call) {
    const bb_cross_entropy_attrs *a = call->attrs;
    bb_dtype dtype = bb_dtype_of(call->in[0]), index = bb_dtype_of(call->in[1]);
    bb_shape logits = bb_shape_of(call->in[0]), target = bb_shape_of(call->in[1]);
    char expected[BB_SHAPE_TEXT], got[BB_SHAPE_TEXT];
    if (!bb_dtype_is_float(dtype)) {
        return bb_fail_input(call, 0, "expected a floating dtype, got %s", bb_dtype_name(dtype));
    }
    if (logits.rank == 0)
        return bb_fail_input(call, 0, "expected shape (..., classes), got a scalar");
    if (index != BB_I64 && index != BB_I32) {
        return bb_fail_input(call, 1, "expected dtype i64 or i32, got %s", bb_dtype_name(index));
    }
    bb_shape rows = logits;
    rows.size[--rows.rank] = 0;
    if (!bb_shape_equal(&rows, &target)) {
        return bb_fail_input(call, 1, "expected shape %s (logits without the classes), got %s",
                             bb_shape_text(&rows, expected), bb_shape_text(&target, got));
    }
    call->meta[0].dtype = dtype;
    call->meta[0].shape = a->reduction == BB_REDUCE_NONE ? rows : BB_SCALAR;
    call->meta[1].dtype = dtype == BB_F64 ? BB_F64 : BB_F32;
    call->meta[1].shape = rows;
    return BB_OK;
}

static bb_status decompose(bb_call *call) {
    const bb_cross_entropy_attrs *a = call->attrs;
    bb_context *ctx = call->ctx;
    bb_t logits = call->in[0], target = call->in[1];
    bb_dtype dtype = bb_dtype_of(logits), wide = call->meta[1].dtype;

    bb_t ignore = bb_place(call, bb_scalar(ctx, bb_dtype_of(target), (double)a->ignore_index));
    bb_t valid = bb_ne(target, ignore);
    bb_t class_or_0 = bb_where(valid, target, bb_zeros_like(target));
    /* An ignored row counts as zeros, whatever it holds. */
    bb_t zero = bb_place(call, bb_scalar(ctx, wide, 0));
    bb_t counted = bb_where(bb_unsqueeze(valid, -1), bb_cast(logits, wide), zero);
    bb_t log_p = bb_log_softmax(counted, -1);
    bb_t picked = bb_squeeze(bb_gather(log_p, -1, bb_unsqueeze(class_or_0, -1)), -1);
    bb_t loss = bb_where(valid, bb_neg(picked), bb_zeros_like(picked));
    if (a->reduction != BB_REDUCE_NONE) loss = bb_sum_all(loss);
    if (a->reduction == BB_REDUCE_MEAN) loss = bb_div(loss, bb_sum_all(bb_cast(valid, wide)));
    call->out[0] = bb_cast(loss, dtype);
    return bb_error(ctx);
}

const bb_op bb_op_cross_entropy = {
    .name = "cross_entropy",
    .doc = "logsumexp(logits) - logits[target], reduced over all targets but ignore_index",
    .inputs = {"logits", "target"},
    .outputs = {"output", "logsumexp"},
    .attrs = {{"ignore_index", BB_ATTR_INT, offsetof(bb_cross_entropy_attrs, ignore_index),
               .value = -100},
              {"reduction", BB_ATTR_CHOICE, offsetof(bb_cross_entropy_attrs, reduction),
               .choices = "mean|sum|none"}},
    .attrs_bytes = sizeof(bb_cross_entropy_attrs),
    .hidden = 1,
    .saves_inputs = 1u << 0 | 1u << 1,
    .saves_outputs = 1u << 1,
    .overwrites = 1u << 0,
    .infer = infer,
    .decompose = decompose,
};

bb_t bb_cross_entropy(bb_t logits, bb_t target, int64_t ignore_index, bb_reduction reduction) {
    bb_cross_entropy_attrs attrs = {ignore_index, (int)reduction};
    bb_tensor *in[] = {logits, target};
    return bb_apply1(bb_context_of(logits ? logits : target), &bb_op_cross_entropy, in, 2, &attrs);
}
