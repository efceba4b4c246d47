/* Bobbin nn: quantizers, which turn a tensor into few bits and scales, and quantized tensors.
 *
 *     bb_quantizer *q = bb_quantizer_new(ctx, BB_CPU, &(bb_quantizer_options){.recipe = BB_MXFP8});
 *     bb_quantized *x8 = bb_rms_norm_quantize(q, x, weight, 1e-5, 1, NULL);
 *     bb_tensor *y = bb_linear_quantized(x8, w8, bias, BB_BF16);
 *
 * A quantizer belongs to the context, a quantized tensor to the step in which it was made, like a
 * tensor. Formulas, rounding and layouts of the five recipes: ops/quantize.c. fp8 and fp4 bytes are
 * u8 tensors. No gradient goes through quantizing: a layer that quantizes has a backward of its
 * own.
 *
 * What is quantized is f32, f16 or bf16, of rank 1 or more and any strides, and is seen as a matrix
 * (R, C) of its last size C. mxfp8 wants R and C divisible by 32, nvfp4 by 16; the rest takes any
 * size, also none.
 *
 * Errors are sticky, as everywhere (core/core.h): NULL in gives NULL out. */
#ifndef BOBBIN_NN_QUANTIZE_H
#define BOBBIN_NN_QUANTIZE_H

#include "core/core.h"
#include "ops/attrs.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Quantizers ------------------------------------------------------------------------------ */

/* All zero means the defaults: delayed scaling, e4m3, rows and columns. */
typedef struct bb_quantizer_options {
    bb_recipe recipe;
    bb_fp8_format format; /* BB_NVFP4: e4m3, of its scales */
    bool no_rows, no_columns;
    int margin;           /* delayed: the scale leaves a factor of 2^margin of room */
    int history;          /* delayed: how many maxima are remembered; 0: 1024 */
    bool most_recent;     /* delayed: goes by the newest amax instead of the largest */
    bb_scale_kind scales; /* current: any unless BB_SCALES_POWER_OF_TWO; block: powers of two
                             unless BB_SCALES_ANY */
    double amax_floor;    /* current, block: a smaller amax counts as this */
    bool square_blocks;   /* block: 128x128 (weights) instead of 1x128 (activations) */
} bb_quantizer_options;

typedef struct bb_quantizer bb_quantizer;
typedef struct bb_quantized bb_quantized;

/* A quantizer of the context's lifetime; its state, if it has any, lies on `device`. The scale of
 * delayed scaling is 1 and its history 0 at first. NULL and a sticky error on failure. */
BB_API bb_quantizer *bb_quantizer_new(bb_context *ctx, bb_device device,
                                      const bb_quantizer_options *options);

/* Which copies the next quantized tensors have. At least one. */
BB_API bb_status bb_quantizer_set_usage(bb_quantizer *q, bool rows, bool columns);
/* The usage as it is now. */
BB_API bool bb_quantizer_uses_rows(const bb_quantizer *q);
BB_API bool bb_quantizer_uses_columns(const bb_quantizer *q); /* likewise */

/* The end of a step, for delayed scaling (nothing happens for others): what was measured since the
 * last call goes into the history and the scale is set for the next step. Nothing measured, or an
 * amax that is not finite: nothing changes. On the device, so it may stand in a captured step. */
BB_API bb_status bb_quantizer_update(bb_quantizer *q);

/* What a checkpoint must hold: "scale", "history" and "amax" of delayed scaling, nothing of others.
 * The list lives until the end of the step, its tensors as long as the context. */
BB_API const bb_named *bb_quantizer_state(bb_quantizer *q, int *count);

/* What it is: one of the recipes' names ("fp8_delayed", ...) or that of a kind of your own. */
BB_API const char *bb_quantizer_name(const bb_quantizer *q);
/* The options it was made with, usage as it is now; NULL for a kind of your own. */
BB_API const bb_quantizer_options *bb_quantizer_get_options(const bb_quantizer *q);

/* ---- Quantized tensors ----------------------------------------------------------------------- */

/* Made by quantizers, to be read by anyone. `inner` is the C of the matrix (R, C); it differs
 * from the last of `shape` where a norm goes over several axes. */
struct bb_quantized {
    bb_quantizer *quantizer;
    bb_dtype dtype;                         /* logical: of what was quantized */
    bb_shape shape;                         /* logical */
    int64_t inner;                          /* C, the size of a row */
    bb_tensor *data, *scale_inv;            /* by rows; NULL without that usage */
    bb_tensor *columns, *columns_scale_inv; /* by columns; NULL without that usage */
    bb_tensor *amax;                        /* (1) f32, or NULL where the recipe has none */
};

/* x as q makes it, with the copies that q's usage asks for. While a graph is recorded, delayed
 * scaling measures nothing: its runs quantize by q's scale as it then is. */
BB_API bb_quantized *bb_quantize(bb_quantizer *q, bb_tensor *x);
/* The same without columns, if q makes rows: for a forward pass without a backward. */
BB_API bb_quantized *bb_quantize_rows(bb_quantizer *q, bb_tensor *x);

/* The values again, of the logical dtype and shape: from the rows if they are there, otherwise from
 * the columns. */
BB_API bb_tensor *bb_dequantize(const bb_quantized *x);
/* From the columns. Their values differ from the rows' where blocks have scales of their own. */
BB_API bb_tensor *bb_dequantize_columns(const bb_quantized *x);

/* Quantizes rms_norm(x) * weight over x's last `axes` axes, without writing the norm: one pass over
 * memory (fp8_current and nvfp4 read x twice). weight is f32, of those axes' shape; 1 + gamma is
 * the caller's. fp8_delayed quantizes and measures the norm in f32; the others round it to x's
 * dtype first (ops/rms_norm_quantize.c). *rstd (may be NULL): f32, one number a row, for a later
 * backward. A kind of your own that has no norm: NULL without an error, and the caller
 * norms and quantizes. */
BB_API bb_quantized *bb_rms_norm_quantize(bb_quantizer *q, bb_tensor *x, bb_tensor *weight,
                                          double eps, int axes, bb_tensor **rstd);
/* Whether bb_rms_norm_quantize takes q: all recipes, and kinds of your own with a norm. */
BB_API bool bb_quantizer_in_norm(const bb_quantizer *q);

/* x weight^T + bias from row-wise copies: x (..., in), weight (out, in), bias (out) of `dtype` or
 * NULL; the result is of `dtype`. On CUDA devices from compute capability 8.9 on, fp8 with one
 * scale each is multiplied as it is; everything else is dequantized first. */
BB_API bb_tensor *bb_linear_quantized(const bb_quantized *x, const bb_quantized *weight,
                                      bb_tensor *bias, bb_dtype dtype);

/* x^T (C, R) as a quantized tensor whose rows are x's columns, without copying: with it the two
 * products of a linear's backward are bb_linear_quantized too. NULL without an error where columns
 * are not transposed (mxfp8); an error where there are none. */
BB_API bb_quantized *bb_quantized_transpose(const bb_quantized *x);

/* ---- Kinds of your own ----------------------------------------------------------------------- */

/* What the recipes are too. Functions return NULL after an error, which they leave in the context.
 */
typedef struct bb_quantizer_kind {
    const char *name;
    bb_quantized *(*quantize)(bb_quantizer *q, bb_tensor *x);
    /* columns: of the column-wise copy, which is there */
    bb_tensor *(*dequantize)(const bb_quantized *x, bool columns);
    /* As bb_rms_norm_quantize; NULL: a norm in front gives its result in x's dtype instead. */
    bb_quantized *(*rms_norm)(bb_quantizer *q, bb_tensor *x, bb_tensor *weight, double eps,
                              int axes, bb_tensor **rstd);
    bb_status (*update)(bb_quantizer *q); /* may be NULL */
} bb_quantizer_kind;

/* kind and user must outlive the context. */
BB_API bb_quantizer *bb_quantizer_of_kind(bb_context *ctx, bb_device device,
                                          const bb_quantizer_kind *kind, void *user);
BB_API void *bb_quantizer_user(const bb_quantizer *q); /* NULL for the recipes */
/* An empty quantized tensor of the step, for a kind to fill: dtype, shape and inner are set. */
BB_API bb_quantized *bb_quantized_new(bb_quantizer *q, bb_dtype dtype, bb_shape shape);

#ifdef __cplusplus
}
#endif
#endif
