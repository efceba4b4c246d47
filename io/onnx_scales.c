/* The nodes of Quantize and Dequantize in ONNX: blocks, scales, QuantizeLinear and
 * DequantizeLinear. The rules: ops/quantize.c; why they are written so: onnx_quantize.c. */
#include <float.h>
#include <math.h>

#include "io/onnx_quantize.h"

typedef bb_onnx_quantizing job;
enum { E4M3 = 17, E5M2 = 19 }; /* TensorProto.DataType */

/* ---- Nodes */

static const char *one(const job *j, const char *type, const char *x) {
    return bb_onnx_emit1(j->b, type, x, bb_onnx_temporary(j->b));
}
static const char *two(const job *j, const char *type, const char *x, const char *y) {
    return bb_onnx_emit2(j->b, type, x, y, bb_onnx_temporary(j->b));
}
static const char *where(const job *j, const char *condition, const char *x, const char *y) {
    const char *in[] = {condition, x, y};
    return bb_onnx_emit(j->b, "Where", in, 3, bb_onnx_temporary(j->b), NULL);
}
static const char *number(const job *j, double value) {
    return bb_onnx_scalar(j->b, BB_F32, value);
}
static const char *cast(const job *j, const char *x, bb_dtype dtype) {
    return bb_onnx_cast(j->b, x, dtype, bb_onnx_temporary(j->b));
}
static const char *clip(const job *j, const char *x, bb_dtype dtype, double least, double most) {
    const char *in[] = {x, bb_onnx_scalar(j->b, dtype, least), bb_onnx_scalar(j->b, dtype, most)};
    return bb_onnx_emit(j->b, "Clip", in, 3, bb_onnx_temporary(j->b), NULL);
}
static const char *at_axes(const job *j, const char *type, const char *x, const int64_t *axes,
                           int n) {
    return n ? two(j, type, x, bb_onnx_ints(j->b, axes, n)) : one(j, type, x);
}
static const char *reduce(const job *j, const char *type, const char *x, const int64_t *axes,
                          int n) {
    bb_proto attrs = {.ctx = j->b->o->ctx};
    const char *in[] = {x, n ? bb_onnx_ints(j->b, axes, n) : ""};
    bb_onnx_attr_int(&attrs, "keepdims", n > 0);
    return bb_onnx_emit(j->b, type, in, n ? 2 : 1, bb_onnx_temporary(j->b), &attrs);
}
static const char *cast_e4m3(const job *j, const char *x, const char *out) {
    bb_proto attrs = {.ctx = j->b->o->ctx};
    bb_onnx_attr_int(&attrs, "to", E4M3);
    return bb_onnx_emit(j->b, "Cast", &x, 1, out, &attrs);
}

/* QuantizeLinear or DequantizeLinear; blocks of the last axis where block > 0. */
static const char *linear(const job *j, const char *type, const char *x, const char *scale,
                          int64_t block, const char *out) {
    bb_proto attrs = {.ctx = j->b->o->ctx};
    const char *in[] = {x, scale};
    bool e5m2 = j->a->format == BB_E5M2;
    if (block > 0) {
        bb_onnx_attr_int(&attrs, "axis", -1);
        bb_onnx_attr_int(&attrs, "block_size", block);
    }
    if (type[0] == 'Q') bb_onnx_attr_int(&attrs, "output_dtype", e5m2 ? E5M2 : E4M3);
    return bb_onnx_emit(j->b, type, in, 2, out, &attrs);
}

/* ---- Shapes. Blocks of a row are an axis of their own; of a square, so are those of a column. */

static const char *reshape(const job *j, const char *x, const int64_t *sizes, int n) {
    return two(j, "Reshape", x, bb_onnx_ints(j->b, sizes, n));
}

/* The first `size` of the last axis, or of the first. */
static const char *first_of(const job *j, const char *x, int64_t axis, int64_t size) {
    const int64_t zero = 0;
    const char *in[] = {x, bb_onnx_ints(j->b, &zero, 1), bb_onnx_ints(j->b, &size, 1),
                        bb_onnx_ints(j->b, &axis, 1)};
    return bb_onnx_emit(j->b, "Slice", in, 4, bb_onnx_temporary(j->b), NULL);
}

static int64_t whole(int64_t n, int64_t block) { return (n + block - 1) / block * block; }

/* x in blocks, zeros where they end beyond it: (..., blocks, block), or (R / block, block, blocks,
 * block) of squares. */
static const char *in_blocks(const job *j, const char *x) {
    int64_t block = j->form->block, pads[2 * BB_MAX_RANK] = {0}, sizes[BB_MAX_RANK + 1] = {0};
    int rank = j->square ? 2 : j->x->rank;
    if (j->square) {
        const int64_t matrix[] = {j->rows, j->c};
        x = reshape(j, x, matrix, 2);
        pads[rank] = whole(j->rows, block) - j->rows;
    }
    pads[2 * rank - 1] = j->blocks * block - j->c;
    if (pads[2 * rank - 1] || pads[rank]) x = two(j, "Pad", x, bb_onnx_ints(j->b, pads, 2 * rank));
    if (j->square) {
        const int64_t squares[] = {whole(j->rows, block) / block, block, j->blocks, block};
        return reshape(j, x, squares, 4);
    }
    sizes[rank - 1] = j->blocks; /* 0: as it was */
    sizes[rank] = block;
    return reshape(j, x, sizes, rank + 1);
}

/* A matrix (R or more, n) in the shape of x, whose last size is then n. */
static const char *in_shape(const job *j, const char *matrix, int64_t n) {
    int64_t sizes[BB_MAX_RANK];
    if (whole(j->rows, j->form->block) != j->rows) matrix = first_of(j, matrix, 0, j->rows);
    for (int i = 0; i < j->x->rank - 1; i++) sizes[i] = j->x->dim[i].c[0];
    sizes[j->x->rank - 1] = n;
    return reshape(j, matrix, sizes, j->x->rank);
}

/* Back from in_blocks. */
static const char *from_blocks(const job *j, const char *x) {
    int64_t sizes[BB_MAX_RANK] = {0}, block = j->form->block, c = j->blocks * block;
    sizes[j->x->rank - 1] = c;
    const int64_t matrix[] = {whole(j->rows, block), c};
    x = j->square ? reshape(j, x, matrix, 2) : reshape(j, x, sizes, j->x->rank);
    if (c != j->c) x = first_of(j, x, -1, j->c);
    return j->square ? in_shape(j, x, j->c) : x;
}

/* Scales of squares (R / block, blocks), once for each row: (..., blocks). */
static const char *for_rows(const job *j, const char *scale) {
    const int64_t axis = 1, block = j->form->block;
    const int64_t spread[] = {whole(j->rows, block) / block, block, j->blocks};
    const int64_t matrix[] = {whole(j->rows, block), j->blocks};
    scale = at_axes(j, "Unsqueeze", scale, &axis, 1);
    scale = two(j, "Expand", scale, bb_onnx_ints(j->b, spread, 3));
    return in_shape(j, reshape(j, scale, matrix, 2), j->blocks);
}

/* ---- Scales */

/* max |x|, NaN if an element is, as one number or for each block with axes kept. */
static const char *amax_of(const job *j, const char *x, const int64_t *axes, int n) {
    const char *zero = number(j, 0), *nan = one(j, "IsNaN", x);
    const char *most = reduce(j, "ReduceMax", where(j, nan, zero, one(j, "Abs", x)), axes, n);
    if (!n) most = two(j, "Max", most, zero); /* of nothing: -inf */
    return two(j, "Add", most, reduce(j, "ReduceSum", where(j, nan, x, zero), axes, n));
}

/* The largest power of two that is not above |x|, finite: the leading bit, from rounding twice
 * (Rump's ufp). In f64 neither step leaves the range of f32 numbers. Not as q (1 - 2^-53), which a
 * runtime may take for q. */
static const char *power_below(const job *j, const char *x) {
    const char *q = two(j, "Mul", x, bb_onnx_scalar(j->b, BB_F64, 0x1p52 + 1));
    const char *unit = two(j, "Mul", q, bb_onnx_scalar(j->b, BB_F64, 0x1p-53));
    return two(j, "Sub", q, two(j, "Sub", q, unit));
}

/* Whether an amax gives a scale: a finite number that is not 0. */
static const char *usable(const job *j, const char *amax) {
    return two(j, "And", two(j, "Greater", amax, number(j, 0)),
               two(j, "LessOrEqual", amax, number(j, FLT_MAX)));
}

/* fp8_current, fp8_block: most / amax. */
static const char *scale_of(const job *j, const char *amax) {
    const char *floor = number(j, j->a->amax_floor);
    if (j->a->amax_floor > 0) amax = where(j, two(j, "Less", amax, floor), floor, amax);
    const char *most = number(j, j->a->format == BB_E5M2 ? 57344 : 448);
    const char *scale = two(j, "Min", two(j, "Div", most, amax), number(j, FLT_MAX));
    if (j->power_of_two) scale = cast(j, power_below(j, cast(j, scale, BB_F64)), BB_F32);
    return where(j, usable(j, amax), scale, number(j, 1));
}

/* 1 / scale, rounded once: that of an f64 quotient is. A runtime may turn y (1 / scale) in f32 into
 * y / scale. */
static const char *reciprocal(const job *j, const char *scale, const char *out) {
    const char *unit = bb_onnx_scalar(j->b, BB_F64, 1);
    return bb_onnx_cast(j->b, two(j, "Div", unit, cast(j, scale, BB_F64)), BB_F32, out);
}

/* mxfp8: the least power of two that is not below amax / most, of those that e8m0 has. */
static const char *scale_inv_e8m0(const job *j, const char *amax) {
    const char *most_inv = number(j, 1.0f / (j->a->format == BB_E5M2 ? 57344.0f : 448.0f));
    const char *x = clip(j, two(j, "Mul", amax, most_inv), BB_F32, 0, FLT_MAX);
    x = cast(j, x, BB_F64);
    const char *below = power_below(j, x), *twice = two(j, "Add", below, below);
    const char *above = where(j, two(j, "Less", below, x), twice, below);
    above = cast(j, clip(j, above, BB_F64, 0x1p-127, 0x1p127), BB_F32);
    return where(j, one(j, "IsNaN", amax), amax, above);
}

/* Rounded to nearest even on e2m1's numbers: 0 to 2 in halves, to 4 in ones, to 6 in twos. */
static const char *round_e2m1(const job *j, const char *x) {
    const char *half = number(j, 0.5), *double_ = number(j, 2), *size = one(j, "Abs", x);
    const char *fine = two(j, "Mul", one(j, "Round", two(j, "Mul", x, double_)), half);
    const char *coarse = two(j, "Mul", one(j, "Round", two(j, "Mul", x, half)), double_);
    const char *above = where(j, two(j, "Less", size, number(j, 4)), one(j, "Round", x), coarse);
    return clip(j, where(j, two(j, "Less", size, double_), fine, above), BB_F32, -6, 6);
}

/* ---- Quantize */

static void delayed(const job *j, const char *x, const char *scale, const char *const *out) {
    const char *flat = one(j, "Squeeze", scale);
    linear(j, "QuantizeLinear", two(j, "Mul", x, flat), number(j, 1), 0, out[0]);
    reciprocal(j, flat, out[1]);
}

static void current(const job *j, const char *x, const char *amax, const char *const *out) {
    const char *scale = scale_of(j, amax);
    reciprocal(j, scale, out[1]);
    if (j->power_of_two)
        linear(j, "QuantizeLinear", x, out[1], 0, out[0]);
    else
        linear(j, "QuantizeLinear", two(j, "Mul", x, scale), number(j, 1), 0, out[0]);
}

static void nvfp4(const job *j, const char *x, const char *amax, const char *const *out) {
    const int64_t last = -1;
    const char *unit = number(j, 1), *most = number(j, FLT_MAX), *zero = number(j, 0);
    const char *all = two(j, "Min", two(j, "Div", number(j, 2688), amax), most);
    all = where(j, usable(j, amax), all, unit);
    const char *runs = in_blocks(j, x), *a = amax_of(j, runs, &last, 1);
    const char *want = two(j, "Div", two(j, "Mul", a, all), number(j, 6));
    const char *s = cast(j, cast_e4m3(j, want, bb_onnx_temporary(j->b)), BB_F32);
    const char *multiplier =
        where(j, two(j, "Equal", s, zero), zero, two(j, "Min", two(j, "Div", all, s), most));
    x = round_e2m1(j, from_blocks(j, two(j, "Mul", runs, multiplier)));
    linear(j, "QuantizeLinear", x, unit, 0, out[0]);
    cast_e4m3(j, at_axes(j, "Squeeze", want, &last, 1), out[1]);
}

/* mxfp8, fp8_block */
static void blocks(const job *j, const char *x, const char *const *out) {
    const int64_t inner[] = {-1}, squares[] = {1, 3};
    const int64_t *axes = j->square ? squares : inner;
    int n = j->square ? 2 : 1;
    const char *runs = in_blocks(j, x), *amax = amax_of(j, runs, axes, n), *inv, *scale = NULL;
    if (j->a->recipe == BB_MXFP8) {
        inv = scale_inv_e8m0(j, amax);
    } else {
        scale = scale_of(j, amax);
        inv = reciprocal(j, scale, bb_onnx_temporary(j->b));
    }
    bb_onnx_emit2(j->b, "Squeeze", inv, bb_onnx_ints(j->b, axes, n), out[1]);
    if (!j->power_of_two)
        linear(j, "QuantizeLinear", from_blocks(j, two(j, "Mul", runs, scale)), number(j, 1), 0,
               out[0]);
    else
        linear(j, "QuantizeLinear", x, j->square ? for_rows(j, out[1]) : out[1], j->form->block,
               out[0]);
}

void bb_onnx_quantize_nodes(const job *j, const char *const *in, const char *const *out) {
    int recipe = j->a->recipe;
    const char *x = j->x->dtype == BB_F32 ? in[0] : cast(j, in[0], BB_F32), *amax = NULL;
    if (recipe == BB_FP8_CURRENT || recipe == BB_NVFP4 || out[2]) amax = amax_of(j, x, NULL, 0);
    if (out[2]) bb_onnx_emit2(j->b, "Reshape", amax, bb_onnx_ints(j->b, &(int64_t){1}, 1), out[2]);
    if (recipe == BB_FP8_DELAYED)
        delayed(j, x, in[1], out);
    else if (recipe == BB_FP8_CURRENT)
        current(j, x, amax, out);
    else if (recipe == BB_NVFP4)
        nvfp4(j, x, amax, out);
    else
        blocks(j, x, out);
}

void bb_onnx_dequantize_nodes(const job *j, const char *const *in, const char *const *out) {
    const bb_dequantize_attrs *a = j->b->node->attrs;
    const char *scale = in[1];
    if (a->recipe == BB_NVFP4) {
        const char *part = two(j, "Div", in[2], number(j, 2688));
        part = where(j, usable(j, in[2]), part, number(j, 1));
        scale = two(j, "Mul", cast(j, scale, BB_F32), part);
    }
    if (j->square) scale = for_rows(j, scale);
    bool wide = a->dtype == BB_F32, unit = !j->form->block && !j->power_of_two;
    const char *y = wide && !unit ? out[0] : bb_onnx_temporary(j->b);
    linear(j, "DequantizeLinear", in[0], unit ? number(j, 1) : scale, j->form->block, y);
    if (unit) y = bb_onnx_emit2(j->b, "Mul", y, scale, wide ? out[0] : bb_onnx_temporary(j->b));
    if (!wide) bb_onnx_cast(j->b, y, (bb_dtype)a->dtype, out[0]);
}
