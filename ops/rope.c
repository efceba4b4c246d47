/* RoPE: rotary position embedding of (..., T, D). Pairs of the first `dims` elements of row t turn
 * by an angle:
 *
 *     angle(t, i) = scale (offset + t) base^(-2i / dims),  0 <= i < dims/2
 *     y1 = x1 cos(angle) - x2 sin(angle)
 *     y2 = x2 cos(angle) + x1 sin(angle)
 *
 * where (x1, x2) are elements (i, i + dims/2), or (2i, 2i + 1) when interleaved. The rest of the
 * row passes through. Angles and their sines are f64, rounded to f32 for all inputs but f64; f16
 * and bf16 round once at the end. The gradient is the rotation by the negative angle.
 *
 * Fused kernels: backends/cpu/rope.c, backends/cuda/rope.cu. */
#include <math.h>

#include "ops/constant.h"
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

static bb_status infer(bb_call *call) {
    const bb_rope_attrs *a = call->attrs;
    bb_status status = bb_infer_float(call);
    if (!status) status = bb_want_rank(call, 0, 2);
    if (status) return status;
    int64_t width = bb_size(call->in[0], -1), dims = a->dims ? a->dims : width;
    if (!(a->base > 0) || !isfinite(a->base))
        return bb_fail_attr(call, "base", "expected a finite number > 0, got %g", a->base);
    if (!isfinite(a->scale))
        return bb_fail_attr(call, "scale", "expected a finite number, got %g", a->scale);
    const int64_t most = INT64_C(1) << 53; /* positions are doubles */
    if (a->offset < -most || a->offset > most)
        return bb_fail_attr(call, "offset", "expected a number within 2^53, got %lld",
                            (long long)a->offset);
    if (dims < 0 || dims > width || dims % 2)
        return bb_fail_attr(call, "dims", "expected an even number from 0 to %lld, got %lld",
                            (long long)width, (long long)dims);
    return BB_OK;
}

/* cos and sin of shape (T, dims/2), of the type in which x is rotated. */
static void tables(const bb_call *call, int64_t rows, int64_t half, bb_dtype dtype, bb_t *cosine,
                   bb_t *sine) {
    const bb_rope_attrs *a = call->attrs;
    bb_t position =
        bb_add_scalar(bb_arange(call->ctx, BB_F64, 0, (double)rows, 1), (double)a->offset);
    bb_t pair = bb_arange(call->ctx, BB_F64, 0, (double)half, 1);
    bb_t frequency = bb_exp(bb_mul_scalar(pair, -log(a->base) / (double)half));
    bb_t angle = bb_mul(bb_unsqueeze(bb_mul_scalar(position, a->scale), 1), frequency);
    *cosine = bb_place(call, bb_cast(bb_cos(angle), dtype));
    *sine = bb_place(call, bb_cast(bb_sin(angle), dtype));
}

static bb_status decompose(bb_call *call) {
    const bb_rope_attrs *a = call->attrs;
    bb_dtype dtype = bb_dtype_of(call->in[0]), wide = dtype == BB_F64 ? BB_F64 : BB_F32;
    bb_shape shape = bb_shape_of(call->in[0]);
    int64_t rows = bb_size(call->in[0], -2), width = bb_size(call->in[0], -1),
            dims = a->dims ? a->dims : width;
    int64_t half = dims / 2, batch = 1;
    for (int i = 0; i < shape.rank - 2; i++) batch *= shape.size[i];

    bb_t cosine, sine;
    tables(call, rows, half, wide, &cosine, &sine);
    /* Three axes, so that pairing needs no fifth or ninth. */
    bb_t x = bb_reshape(bb_cast(call->in[0], wide), BB_SHAPE(batch, rows, width));
    bb_t x1 = a->interleaved ? bb_slice(x, 2, 0, dims, 2) : bb_narrow(x, 2, 0, half);
    bb_t x2 = a->interleaved ? bb_slice(x, 2, 1, dims, 2) : bb_narrow(x, 2, half, half);
    bb_t y1 = bb_sub(bb_mul(x1, cosine), bb_mul(x2, sine));
    bb_t y2 = bb_add(bb_mul(x2, cosine), bb_mul(x1, sine));
    bb_t pairs[] = {y1, y2};
    bb_t y = a->interleaved ? bb_reshape(bb_stack(pairs, 2, 3), BB_SHAPE(batch, rows, dims))
                            : bb_cat(pairs, 2, 2);
    if (dims < width) {
        bb_t parts[] = {y, bb_narrow(x, 2, dims, width - dims)};
        y = bb_cat(parts, 2, 2);
    }
    call->out[0] = bb_reshape(bb_cast(y, dtype), shape);
    return bb_error(call->ctx);
}

const bb_op bb_op_rope = {
    .name = "RoPE",
    .doc = "rotates pairs of the last axis by scale * (offset + t) * base^(-2i/dims)",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"base", BB_ATTR_FLOAT, offsetof(bb_rope_attrs, base), .value = 1e4},
              {"scale", BB_ATTR_FLOAT, offsetof(bb_rope_attrs, scale), .value = 1},
              {"dims", BB_ATTR_INT, offsetof(bb_rope_attrs, dims), .value = 0},
              {"offset", BB_ATTR_INT, offsetof(bb_rope_attrs, offset), .value = 0},
              {"interleaved", BB_ATTR_BOOL, offsetof(bb_rope_attrs, interleaved), .value = 0}},
    .attrs_bytes = sizeof(bb_rope_attrs),
    .infer = infer,
    .decompose = decompose,
};

bb_t bb_rope(bb_t input, const bb_rope_attrs *attrs) {
    return bb_apply1(bb_context_of(input), &bb_op_rope, &input, 1, attrs);
}
