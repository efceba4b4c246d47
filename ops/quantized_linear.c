/* QuantizedLinear: output = Dequantize(input) Dequantize(weight)^T + bias, from row-wise quantized
 * input (..., in) and weight (out, in), in f32, rounded once to dtype.
 *
 * A kernel may multiply the bytes and apply the scales afterwards: that rounds less. On the CPU it
 * runs composed, as dequantizing and a product of matrices. Kernel:
 * backends/cuda/quantized_linear.cu (fp8 with one scale each). Formats: ops/quantize.c. */
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

enum { X = 0, X_SCALE, X_AMAX, W, W_SCALE, W_AMAX, BIAS };

/* Elements of a row of data. */
static int64_t inner(const bb_tensor *data, int recipe) {
    return bb_size(data, -1) * (bb_recipe_forms[recipe].packed ? 2 : 1);
}

/* Scales are checked by Dequantize's rule or by the kernel's supports(). */
static bb_status infer(bb_call *call) {
    const bb_quantized_linear_attrs *a = call->attrs;
    bb_status status = BB_OK;
    for (int i = X; i <= W && !status; i += W) {
        status = bb_want_dtype(call, i, BB_U8);
        if (!status) status = bb_want_rank(call, i, 1);
    }
    if (status) return status;
    if (a->dtype != BB_F32 && a->dtype != BB_F16 && a->dtype != BB_BF16)
        return bb_fail_attr(call, "dtype", "expected f32, f16 or bf16, got %s",
                            bb_dtype_name((bb_dtype)a->dtype));
    int64_t in = inner(call->in[X], a->recipe);
    if (bb_rank(call->in[W]) != 2 || inner(call->in[W], a->weight_recipe) != in) {
        char text[BB_SHAPE_TEXT];
        bb_shape shape = bb_shape_of(call->in[W]);
        return bb_fail_input(call, W, "expected rows of %lld elements, got shape %s", (long long)in,
                             bb_shape_text(&shape, text));
    }
    int64_t out = bb_size(call->in[W], 0);
    bb_shape shape = bb_shape_of(call->in[X]);
    shape.size[shape.rank - 1] = out;
    bb_set_meta(call, 0, (bb_dtype)a->dtype, shape);
    if (!call->in[BIAS]) return BB_OK;
    status = bb_want_dtype(call, BIAS, (bb_dtype)a->dtype);
    return status ? status : bb_want_shape(call, BIAS, BB_SHAPE(out));
}

static bb_status decompose(bb_call *call) {
    const bb_quantized_linear_attrs *a = call->attrs;
    const bb_dequantize_attrs x = {a->recipe, a->format, a->square, false, BB_F32},
                              w = {a->weight_recipe, a->weight_format, a->weight_square, false,
                                   BB_F32};
    bb_t bias = call->in[BIAS] ? bb_cast(call->in[BIAS], BB_F32) : NULL;
    bb_t y =
        bb_linear(bb_dequantize_parts(call->in[X], call->in[X_SCALE], call->in[X_AMAX], &x),
                  bb_dequantize_parts(call->in[W], call->in[W_SCALE], call->in[W_AMAX], &w), bias);
    call->out[0] = bb_cast(y, (bb_dtype)a->dtype);
    return bb_error(call->ctx);
}

const bb_op bb_op_quantized_linear = {
    .name = "QuantizedLinear",
    .doc = "Dequantize(input) @ Dequantize(weight)^T + bias",
    .inputs = {"input", "input_scale_inv", "input_amax", "weight", "weight_scale_inv",
               "weight_amax", "bias"},
    .outputs = {"output"},
    .attrs = {{"recipe", BB_ATTR_CHOICE, offsetof(bb_quantized_linear_attrs, recipe),
               .choices = BB_RECIPE_CHOICES},
              {"format", BB_ATTR_CHOICE, offsetof(bb_quantized_linear_attrs, format),
               .choices = "e4m3|e5m2"},
              {"weight_recipe", BB_ATTR_CHOICE, offsetof(bb_quantized_linear_attrs, weight_recipe),
               .choices = BB_RECIPE_CHOICES},
              {"weight_format", BB_ATTR_CHOICE, offsetof(bb_quantized_linear_attrs, weight_format),
               .choices = "e4m3|e5m2"},
              {"square", BB_ATTR_BOOL, offsetof(bb_quantized_linear_attrs, square), .value = 0},
              {"weight_square", BB_ATTR_BOOL, offsetof(bb_quantized_linear_attrs, weight_square),
               .value = 0},
              {"dtype", BB_ATTR_CHOICE, offsetof(bb_quantized_linear_attrs, dtype), .value = BB_F32,
               .choices = BB_DTYPE_CHOICES}},
    .attrs_bytes = sizeof(bb_quantized_linear_attrs),
    .optional = 1u << X_AMAX | 1u << W_AMAX | 1u << BIAS,
    .infer = infer,
    .gradient = bb_no_gradient,
    .decompose = decompose,
};

bb_t bb_quantized_linear(const bb_quantized_parts *x, const bb_quantized_parts *weight, bb_t bias,
                         const bb_quantized_linear_attrs *attrs) {
    if (!x || !weight || !attrs) {
        const bb_quantized_parts *one = x ? x : weight;
        if (one && one->data)
            bb_fail(bb_context_of(one->data), BB_ERR_ARGUMENT,
                    "QuantizedLinear: %s: expected one, got NULL",
                    !x        ? "x"
                    : !weight ? "weight"
                              : "attrs");
        return NULL;
    }
    bb_tensor *in[] = {
        x->data,      x->scale_inv,      attrs->recipe == BB_NVFP4 ? x->amax : NULL,
        weight->data, weight->scale_inv, attrs->weight_recipe == BB_NVFP4 ? weight->amax : NULL,
        bias};
    bb_context *ctx = bb_context_of(x->data ? x->data : weight->data);
    return bb_apply1(ctx, &bb_op_quantized_linear, in, 7, attrs);
}
