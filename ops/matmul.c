/* matmul: PyTorch's. Y = A B over the last two axes, leading axes broadcast; a vector on the left
 * is a row, on the right a column, and the axis it lent goes again.
 *
 *   dA = dY B^T,  dB = A^T dY  (summed over broadcast batches)
 *
 * The record multiplies whatever shapes it gets; bb_matmul only brings the dtypes together. Where a
 * stack of matrices meets one matrix, the gradient of that matrix is a single product of all rows.
 * Kernel: backends. */
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

static bb_status infer_matmul(bb_call *call) {
    const bb_shape a = bb_shape_of(call->in[0]), b = bb_shape_of(call->in[1]);
    const bb_dtype dtype = bb_dtype_of(call->in[0]);
    char text_a[BB_SHAPE_TEXT], text_b[BB_SHAPE_TEXT];
    if (dtype == BB_BOOL) return bb_fail_input(call, 0, "expected a number dtype, got bool");
    bb_status status = bb_want_rank(call, 0, 1);
    if (!status) status = bb_want_rank(call, 1, 1);
    if (!status) status = bb_want_dtype(call, 1, dtype);
    if (status) return status;
    const int64_t inner_a = a.size[a.rank - 1], inner_b = b.size[b.rank == 1 ? 0 : b.rank - 2];
    if (inner_a != inner_b)
        return bb_fail_input(call, 1, "expected inner size %lld, got %lld (shapes %s and %s)",
                             (long long)inner_a, (long long)inner_b, bb_shape_text(&a, text_a),
                             bb_shape_text(&b, text_b));
    bb_shape batch_a = {.rank = a.rank > 2 ? a.rank - 2 : 0},
             batch_b = {.rank = b.rank > 2 ? b.rank - 2 : 0}, shape;
    for (int i = 0; i < batch_a.rank; i++) batch_a.size[i] = a.size[i];
    for (int i = 0; i < batch_b.rank; i++) batch_b.size[i] = b.size[i];
    if (!bb_shape_broadcast(&batch_a, &batch_b, &shape))
        return bb_fail_input(call, 1, "expected batch axes that broadcast with %s, got %s",
                             bb_shape_text(&a, text_a), bb_shape_text(&b, text_b));
    if (a.rank > 1) shape.size[shape.rank++] = a.size[a.rank - 2];
    if (b.rank > 1) shape.size[shape.rank++] = b.size[b.rank - 1];
    bb_set_meta(call, 0, dtype, shape);
    return BB_OK;
}

/* (..., R, C) as one matrix of all rows. */
static bb_t rows_of(bb_t t) {
    const bb_shape shape = bb_shape_of(t);
    int64_t rows = 1;
    if (shape.rank == 2) return t;
    for (int i = 0; i + 1 < shape.rank; i++) rows *= shape.size[i];
    return bb_reshape(t, BB_SHAPE(rows, shape.size[shape.rank - 1]));
}

static bb_status gradient_matmul(const bb_grad_call *grad) {
    bb_t a = grad->call->in[0], b = grad->call->in[1], g = grad->grad_out[0];
    const int rank_a = bb_rank(a), rank_b = bb_rank(b);
    /* Vectors as matrices; g gets back the axis that went. */
    bb_t g2 = rank_b == 1 ? bb_unsqueeze(g, -1) : g;
    if (rank_a == 1) g2 = bb_unsqueeze(g2, -2);
    if (grad->want[0]) {
        bb_t d = rank_b == 1 ? bb_matmul(g2, bb_unsqueeze(b, 0))
                             : bb_matmul(g2, bb_transpose(b, -1, -2));
        grad->grad_in[0] = rank_a == 1 ? bb_squeeze(d, -2) : d;
    }
    if (!grad->want[1]) return BB_OK;
    bb_t a2 = rank_a == 1 ? bb_unsqueeze(a, 0) : a;
    if (rank_b <= 2) {
        bb_t d = bb_matmul(bb_transpose(rows_of(a2), 0, 1), rows_of(g2));
        grad->grad_in[1] = rank_b == 1 ? bb_squeeze(d, -1) : d;
    } else {
        grad->grad_in[1] = bb_matmul(bb_transpose(a2, -1, -2), g2);
    }
    return BB_OK;
}

const bb_op bb_op_matmul = {
    .name = "matmul",
    .doc = "matrix product over the last two axes; vectors as rows and columns, batches broadcast",
    .inputs = {"input", "other"},
    .outputs = {"output"},
    .saves_inputs = 3,
    .infer = infer_matmul,
    .gradient = gradient_matmul,
};

bb_t bb_matmul(bb_t a, bb_t b) {
    if (a && b && bb_dtype_of(a) != bb_dtype_of(b)) {
        const bb_dtype dtype = bb_promote(a, b);
        a = bb_cast(a, dtype);
        b = bb_cast(b, dtype);
    }
    return bb_apply1(bb_context_of(a), &bb_op_matmul, (bb_t[]){a, b}, 2, NULL);
}
