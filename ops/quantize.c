/* Quantize and Dequantize: values as fp8 or fp4 with scales. A tensor is seen as a matrix (R, C) of
 * its last size C. Elements are e4m3 (to 448), e5m2 (to 57344) or e2m1 (to 6): most, below. They
 * are rounded to nearest even and saturate (backends/fp8.h); |x| is measured in f32 and amax is NaN
 * if an element is. All arithmetic below is in f32.
 *
 *     fp8_delayed  data = fp8(x scale), scale_inv = 1 / scale, amax = max |x|
 *     fp8_current  amax = max |x|, a = max(amax, amax_floor), scale = most / a
 *                  a 0, inf or NaN: scale = 1; most / a inf: the largest f32
 *                  power_of_two: scale with its mantissa cut off
 *     fp8_block    the same in each run of 128 elements, or square of 128 x 128; amax is not kept.
 *                  Blocks at the edges may be smaller
 *     mxfp8        in each run of 32: e = the least power of two >= amax (1 / most), as e8m0;
 *                  data = fp8(x / 2^e). amax 0: the least e; inf: the largest; NaN: NaN
 *     nvfp4        S = 6 448 / amax; amax 0, inf or NaN: S = 1; inf: the largest f32
 *                  in each run of 16: s = e4m3(amax_16 S / 6), data = e2m1(x S / s); s 0: x 0
 *                  value = data (s (amax / (6 448))), or data s where S = 1 was taken
 *
 * A run of mxfp8 or nvfp4 that holds a NaN has a NaN for its scale; its data are its elements, not
 * multiplied.
 *
 * By rows, a run lies along the last axis, and the data have x's shape (nvfp4: half of it, two
 * elements a byte). By columns it lies along the first axis of the matrix, and the data are its
 * transpose (C, R), so that a product that sums over R finds them as it finds rows; but those of
 * mxfp8 keep x's shape. Scales are one per run or square:
 *
 *                  scale_inv                     columns_scale_inv
 *     one scale    (1) f32                       (1) f32, the same number
 *     mxfp8        x's shape, C / 32, u8         (R / 32, C), u8
 *     fp8_block    x's shape, ceil(C / 128), f32     (C, ceil(R / 128)), f32
 *       square     (ceil(R / 128), ceil(C / 128))    (ceil(C / 128), ceil(R / 128)), f32
 *     nvfp4        x's shape, C / 16, u8         (C, R / 16), u8
 *
 * update_scale_ ends a step of delayed scaling:
 *
 *     history <- amax, history without its last      a = max(history), or amax (most_recent)
 *     scale   <- (most / 2^margin) / a               inf: the largest f32; a = 0: unchanged
 *
 * and does nothing where amax is inf or NaN: as an optimizer skips such a step.
 *
 * Kernels: backends/cpu/quantize.c, backends/cuda/quantize.cu. From a norm:
 * ops/rms_norm_quantize.c. Objects: nn/quantize.h. */
#include "ops/quantize.h"

#include <math.h>

#include "ops/infer.h"
#include "ops/table.h"

enum { DATA = 0, SCALE_INV, COLUMNS, COLUMNS_SCALE_INV, AMAX };

static bb_status check_one(const bb_call *call, int input) {
    bb_status status = bb_want_dtype(call, input, BB_F32);
    if (!status && bb_count(call->in[input]) != 1)
        status = bb_fail_input(call, input, "expected one element, got %lld",
                               (long long)bb_count(call->in[input]));
    return status;
}

/* Input `input` must be there, one f32, exactly where `needed`. */
static bb_status check_number(const bb_call *call, int input, bool needed, int recipe) {
    static const char *const names[BB_RECIPE_COUNT] = {"fp8_delayed", "fp8_current", "mxfp8",
                                                       "fp8_block", "nvfp4"};
    if (!needed && call->in[input])
        return bb_fail_input(call, input, "expected none with recipe %s, got a tensor",
                             names[recipe]);
    if (needed && !call->in[input])
        return bb_fail_input(call, input, "expected a tensor with recipe %s, got NULL",
                             names[recipe]);
    return needed ? check_one(call, input) : BB_OK;
}

static bb_status check_format(const bb_call *call, int recipe, int format) {
    if (recipe == BB_NVFP4 && format != BB_E4M3)
        return bb_fail_attr(call, "format", "expected e4m3, that of nvfp4's scales, got e5m2");
    return BB_OK;
}

static int64_t blocks_of(int64_t n, int64_t block) { return n / block + (n % block != 0); }

/* shape with its last size replaced. */
static bb_shape with_last(bb_shape shape, int64_t last) {
    shape.size[shape.rank - 1] = last;
    return shape;
}

/* R of the matrix (R, C). */
static int64_t row_count(const bb_shape *shape) {
    int64_t rows = 1;
    for (int i = 0; i < shape->rank - 1; i++) rows *= shape->size[i];
    return rows;
}

static bb_status check_sizes(const bb_call *call, const bb_recipe_form *form,
                             const bb_shape *shape) {
    int64_t c = shape->size[shape->rank - 1], r = row_count(shape);
    if (c % form->divides == 0 && r % form->divides == 0) return BB_OK;
    char text[BB_SHAPE_TEXT];
    return bb_fail_input(call, 0,
                         "expected a last size and a number of rows that are divisible by %lld, "
                         "got shape %s",
                         (long long)form->divides, bb_shape_text(shape, text));
}

static void describe(bb_call *call, const bb_quantize_attrs *a, const bb_shape *shape) {
    const bb_recipe_form *form = &bb_recipe_forms[a->recipe];
    const bb_shape none = BB_SHAPE(0), one = BB_SHAPE(1);
    int64_t c = shape->size[shape->rank - 1], r = row_count(shape), pack = form->packed ? 2 : 1;
    bb_shape scales = one, column_scales = one;
    if (form->block && a->square && a->recipe == BB_FP8_BLOCK) {
        scales = BB_SHAPE(blocks_of(r, form->block), blocks_of(c, form->block));
        column_scales = BB_SHAPE(scales.size[1], scales.size[0]);
    } else if (form->block) {
        int64_t down = blocks_of(r, form->block);
        scales = with_last(*shape, blocks_of(c, form->block));
        column_scales = form->transposed ? BB_SHAPE(c, down) : BB_SHAPE(down, c);
    }
    bb_dtype scale_dtype = (bb_dtype)form->scale_dtype;
    bb_set_meta(call, DATA, BB_U8, a->rows ? with_last(*shape, c / pack) : none);
    bb_set_meta(call, SCALE_INV, scale_dtype, a->rows ? scales : none);
    bb_set_meta(call, COLUMNS, BB_U8,
                !a->columns        ? none
                : form->transposed ? BB_SHAPE(c, r / pack)
                                   : *shape);
    bb_set_meta(call, COLUMNS_SCALE_INV, scale_dtype, a->columns ? column_scales : none);
    bb_set_meta(call, AMAX, BB_F32, form->measures ? one : none);
}

bb_status bb_quantize_infer(bb_call *call, const bb_quantize_attrs *a, int scale) {
    bb_dtype dtype = bb_dtype_of(call->in[0]);
    if (dtype != BB_F32 && dtype != BB_F16 && dtype != BB_BF16)
        return bb_fail_input(call, 0, "expected dtype f32, f16 or bf16, got %s",
                             bb_dtype_name(dtype));
    bb_status status = bb_want_rank(call, 0, 1);
    if (!status) status = check_format(call, a->recipe, a->format);
    if (!status) status = check_number(call, scale, a->recipe == BB_FP8_DELAYED, a->recipe);
    if (status) return status;
    if (!a->rows && !a->columns)
        return bb_fail_attr(call, "rows", "expected rows, columns or both, got neither");
    if (!(a->amax_floor >= 0) || isinf(a->amax_floor))
        return bb_fail_attr(call, "amax_floor", "expected a finite number >= 0, got %g",
                            a->amax_floor);
    bb_shape shape = bb_shape_of(call->in[0]);
    status = check_sizes(call, &bb_recipe_forms[a->recipe], &shape);
    if (!status) describe(call, a, &shape);
    return status;
}

bb_status bb_want_parts(bb_context *ctx, const char *op, const void *attrs,
                        bb_quantized_parts *parts) {
    if (parts) *parts = (bb_quantized_parts){NULL, NULL, NULL, NULL, NULL};
    if (attrs && parts) return BB_OK;
    return ctx ? bb_fail(ctx, BB_ERR_ARGUMENT, "%s: %s: expected one, got NULL", op,
                         parts ? "attrs" : "parts")
               : BB_ERR_ARGUMENT;
}

bb_quantized_parts bb_parts_of(bb_tensor *const *out, const bb_quantize_attrs *a) {
    bb_quantized_parts parts = {NULL, NULL, NULL, NULL, NULL};
    if (a->rows) {
        parts.data = out[DATA];
        parts.scale_inv = out[SCALE_INV];
    }
    if (a->columns) {
        parts.columns = out[COLUMNS];
        parts.columns_scale_inv = out[COLUMNS_SCALE_INV];
    }
    if (bb_recipe_forms[a->recipe].measures) parts.amax = out[AMAX];
    return parts;
}

static bb_status quantize_infer(bb_call *call) { return bb_quantize_infer(call, call->attrs, 1); }

const bb_op bb_op_quantize = {
    .name = "Quantize",
    .doc = "input as fp8 or fp4 bytes with scales, by rows and by columns",
    .inputs = {"input", "scale"},
    .outputs = {"data", "scale_inv", "columns", "columns_scale_inv", "amax"},
    .attrs = {BB_QUANTIZE_ATTRS(bb_quantize_attrs, )},
    .attrs_bytes = sizeof(bb_quantize_attrs),
    .optional = 1u << 1,
    .infer = quantize_infer,
    .gradient = bb_no_gradient,
};

bb_status bb_quantize_parts(bb_t x, bb_t scale, const bb_quantize_attrs *attrs,
                            bb_quantized_parts *parts) {
    bb_tensor *in[] = {x, scale}, *out[BB_MAX_OUTPUTS] = {NULL};
    bb_status status = bb_want_parts(bb_context_of(x), "Quantize", attrs, parts);
    if (status) return status;
    status = bb_apply(bb_context_of(x), &bb_op_quantize, in, 2, attrs, out);
    *parts = status ? (bb_quantized_parts){NULL, NULL, NULL, NULL, NULL} : bb_parts_of(out, attrs);
    return status;
}

/* ---- Dequantize */

/* What data and scale_inv must be: Quantize's outputs for the shape that comes out. */
static bb_status check_data(bb_call *call, const bb_dequantize_attrs *a, bb_shape *shape) {
    const bb_recipe_form *form = &bb_recipe_forms[a->recipe];
    bb_shape data = bb_shape_of(call->in[0]);
    bb_status status = bb_want_dtype(call, 0, BB_U8);
    if (!status) status = bb_want_rank(call, 0, 1);
    if (!status) status = bb_want_dtype(call, 1, (bb_dtype)form->scale_dtype);
    if (status) return status;
    bool turned = a->columns && form->transposed;
    if (turned && data.rank != 2)
        return bb_fail_input(call, 0, "expected columns (C, R), got rank %d", data.rank);
    int64_t *last = &data.size[data.rank - 1];
    if (form->packed) {
        if (*last > INT64_MAX / 2) return bb_fail_input(call, 0, "is too large");
        *last *= 2;
    }
    *shape = turned ? BB_SHAPE(data.size[1], data.size[0]) : data;
    status = check_sizes(call, form, shape);
    if (status) return status;
    const bb_quantize_attrs made = {
        .recipe = a->recipe, .rows = !a->columns, .columns = a->columns, .square = a->square};
    describe(call, &made, shape);
    return bb_want_shape(call, 1, call->meta[a->columns ? COLUMNS_SCALE_INV : SCALE_INV].shape);
}

static bb_status dequantize_infer(bb_call *call) {
    const bb_dequantize_attrs *a = call->attrs;
    bb_shape shape;
    bb_status status = check_format(call, a->recipe, a->format);
    if (!status) status = check_number(call, 2, a->recipe == BB_NVFP4, a->recipe);
    if (!status) status = check_data(call, a, &shape);
    if (status) return status;
    if (a->dtype != BB_F32 && a->dtype != BB_F16 && a->dtype != BB_BF16)
        return bb_fail_attr(call, "dtype", "expected f32, f16 or bf16, got %s",
                            bb_dtype_name((bb_dtype)a->dtype));
    bb_set_meta(call, 0, (bb_dtype)a->dtype, shape);
    return BB_OK;
}

const bb_op bb_op_dequantize = {
    .name = "Dequantize",
    .doc = "data * scale_inv: the values that Quantize's bytes stand for",
    .inputs = {"data", "scale_inv", "amax"},
    .outputs = {"output"},
    .attrs = {{"recipe", BB_ATTR_CHOICE, offsetof(bb_dequantize_attrs, recipe),
               .choices = BB_RECIPE_CHOICES},
              {"format", BB_ATTR_CHOICE, offsetof(bb_dequantize_attrs, format),
               .choices = "e4m3|e5m2"},
              {"square", BB_ATTR_BOOL, offsetof(bb_dequantize_attrs, square), .value = 0},
              {"columns", BB_ATTR_BOOL, offsetof(bb_dequantize_attrs, columns), .value = 0},
              {"dtype", BB_ATTR_CHOICE, offsetof(bb_dequantize_attrs, dtype), .value = BB_F32,
               .choices = BB_DTYPE_CHOICES}},
    .attrs_bytes = sizeof(bb_dequantize_attrs),
    .optional = 1u << 2,
    .infer = dequantize_infer,
    .gradient = bb_no_gradient,
};

bb_t bb_dequantize_parts(bb_t data, bb_t scale_inv, bb_t amax, const bb_dequantize_attrs *attrs) {
    bb_tensor *in[] = {data, scale_inv, amax};
    return bb_apply1(bb_context_of(data ? data : scale_inv), &bb_op_dequantize, in, 3, attrs);
}

/* ---- update_scale_ */

static bb_status update_scale_infer(bb_call *call) {
    const bb_update_scale_attrs *a = call->attrs;
    bb_status status = check_one(call, 0);
    if (!status) status = bb_want_dtype(call, 1, BB_F32);
    if (!status) status = check_one(call, 2);
    if (status) return status;
    if (bb_rank(call->in[1]) != 1 || bb_count(call->in[1]) < 1 || !bb_is_contiguous(call->in[1]))
        return bb_fail_input(call, 1, "expected rank 1, contiguous, at least one element");
    if (a->margin < -100 || a->margin > 100)
        return bb_fail_attr(call, "margin", "expected -100 to 100, got %lld", (long long)a->margin);
    return BB_OK;
}

const bb_op bb_op_update_scale = {
    .name = "update_scale_",
    .doc = "end of a step of delayed scaling, in place: scale and history change",
    .inputs = {"scale", "history", "amax"},
    .attrs = {{"format", BB_ATTR_CHOICE, offsetof(bb_update_scale_attrs, format),
               .choices = "e4m3|e5m2"},
              {"margin", BB_ATTR_INT, offsetof(bb_update_scale_attrs, margin), .value = 0},
              {"most_recent", BB_ATTR_BOOL, offsetof(bb_update_scale_attrs, most_recent),
               .value = 0}},
    .attrs_bytes = sizeof(bb_update_scale_attrs),
    .mutates = 1u << 0 | 1u << 1,
    .infer = update_scale_infer,
    .gradient = bb_no_gradient,
};

bb_status bb_update_scale_(bb_t scale, bb_t history, bb_t amax,
                           const bb_update_scale_attrs *attrs) {
    bb_tensor *in[] = {scale, history, amax};
    return bb_apply(bb_context_of(scale), &bb_op_update_scale, in, 3, attrs, NULL);
}
