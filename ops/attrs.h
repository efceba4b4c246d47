/* Attribute structs of the built-in ops: what ops/<family>.c packs and kernels read. Plain data;
 * each field is described by the op's bb_attr table. An op that is not here has no attributes. */
#ifndef BOBBIN_OPS_ATTRS_H
#define BOBBIN_OPS_ATTRS_H

#include "core/core.h"

typedef struct bb_scalar_attrs {
    double value;
} bb_scalar_attrs; /* add_scalar, mul_scalar, pow (the exponent) */
typedef struct bb_clamp_attrs {
    double min, max;
} bb_clamp_attrs; /* -inf / inf: no bound */
typedef struct bb_reduce_attrs {
    bb_ints axes;
    bool keepdim;
} bb_reduce_attrs; /* sum, mean, amax, amin; no axes: all */
typedef struct bb_arg_attrs {
    int64_t axis;
    bool keepdim;
} bb_arg_attrs; /* argmax */
typedef struct bb_axis_attrs {
    int64_t axis;
} bb_axis_attrs; /* cumsum, cat, stack, gather, index_select, scatter_add, softmax, log_softmax */
typedef struct bb_sizes_attrs {
    bb_ints shape;
} bb_sizes_attrs; /* reshape (one -1 allowed), expand (-1 keeps) */
typedef struct bb_permute_attrs {
    bb_ints axes;
} bb_permute_attrs;
typedef struct bb_transpose_attrs {
    int64_t axis0, axis1;
} bb_transpose_attrs;
typedef struct bb_slice_attrs {
    int64_t axis, start, stop, step;
} bb_slice_attrs; /* step >= 1; stop INT64_MAX: to the end */
typedef struct bb_select_attrs {
    int64_t axis, index;
} bb_select_attrs;
typedef struct bb_pad_attrs {
    bb_ints before, after;
    double value;
} bb_pad_attrs; /* one entry per axis */
typedef struct bb_cast_attrs {
    int dtype;
} bb_cast_attrs;
/* Random ops carry where their numbers come from, so that a replay gives the same ones. */
typedef struct bb_dropout_attrs {
    double p;
    int64_t seed, offset;
} bb_dropout_attrs;
typedef struct bb_full_attrs {
    bb_ints shape;
    double value;
    int dtype;
} bb_full_attrs;
typedef struct bb_arange_attrs {
    double start, stop, step;
    int dtype;
} bb_arange_attrs;
typedef struct bb_random_attrs {
    bb_ints shape;
    int dtype;
    int64_t seed, offset;
} bb_random_attrs; /* rand, randn */

/* RMSNormImpl. The rounding order, as in coreai-torch's RMSNormImpl: AUTO goes by the dtypes
 * (ops/rms_norm.c has the rule); the other two force one order. */
typedef enum bb_rounding {
    BB_ROUND_AUTO = 0,
    BB_ROUND_THEN_SCALE,
    BB_SCALE_THEN_ROUND
} bb_rounding;
typedef struct bb_rms_norm_attrs {
    bb_ints axes;
    double eps;
    int rounding;
} bb_rms_norm_attrs;
typedef struct bb_layer_norm_attrs {
    bb_ints axes;
    double eps;
} bb_layer_norm_attrs;
typedef enum bb_reduction { BB_REDUCE_MEAN = 0, BB_REDUCE_SUM, BB_REDUCE_NONE } bb_reduction;
typedef struct bb_cross_entropy_attrs {
    int64_t ignore_index;
    int reduction;
} bb_cross_entropy_attrs;
typedef enum bb_gelu_form { BB_GELU_ERF = 0, BB_GELU_TANH } bb_gelu_form;
typedef struct bb_gelu_attrs {
    int approximate;
} bb_gelu_attrs; /* "none|tanh" as in PyTorch */
typedef enum bb_linear_activation_kind {
    BB_LINEAR_RELU = 0,
    BB_LINEAR_GELU, /* tanh form */
    BB_LINEAR_SILU,
    BB_LINEAR_SIGMOID,
    BB_LINEAR_TANH
} bb_linear_activation_kind;
typedef struct bb_linear_activation_attrs {
    int activation;
} bb_linear_activation_attrs;
typedef struct bb_rope_attrs {
    double base, scale; /* angle(t, i) = scale * (offset + t) * base^(-2i/dims) */
    int64_t dims;       /* how many leading elements of the last axis rotate; 0: all; even */
    int64_t offset;     /* position of the first row */
    bool interleaved;   /* pairs (2i, 2i+1) instead of (i, i + dims/2) */
} bb_rope_attrs;
typedef struct bb_sdpa_attrs {
    double scale;        /* 0: 1/sqrt(D) */
    bool is_causal;      /* lower-right: query t sees keys s <= t + S - T */
    int64_t window_size; /* 0: none; w: also s > t + S - T - w */
} bb_sdpa_attrs;
/* In-place optimizer steps over flat blocks; see nn/. Their numbers that change from step to step
 * (lr, step, grad_scale) are inputs, which live on the device; step counts from 1. */
typedef struct bb_adamw_attrs {
    double beta1, beta2, eps, weight_decay;
    int64_t undecayed; /* weight decay leaves so many elements alone, the last ones; 0: none */
} bb_adamw_attrs;
typedef struct bb_sgd_attrs {
    double momentum, weight_decay;
    bool nesterov;
} bb_sgd_attrs;

/* Quantize, Dequantize, RMSNormQuantize, QuantizedLinear, update_scale_: ops/quantize.c has the
 * rule of every recipe. */
typedef enum bb_recipe {
    BB_FP8_DELAYED = 0, /* one scale, from the maxima of former steps */
    BB_FP8_CURRENT,     /* one scale, from this tensor's maximum */
    BB_MXFP8,           /* a power of two per 32 elements (OCP Microscaling) */
    BB_FP8_BLOCK,       /* an f32 scale per 1x128 or 128x128 elements */
    BB_NVFP4,           /* e2m1 elements, an e4m3 scale per 16 of them, one f32 scale over all */
    BB_RECIPE_COUNT
} bb_recipe;
#define BB_RECIPE_CHOICES "fp8_delayed|fp8_current|mxfp8|fp8_block|nvfp4"
typedef enum bb_fp8_format { BB_E4M3 = 0, BB_E5M2 } bb_fp8_format;
/* Which scales are allowed where a recipe leaves it open (fp8_current, fp8_block): the recipe's own
 * habit (any for fp8_current, powers of two for fp8_block), any number, or powers of two only. */
typedef enum bb_scale_kind {
    BB_SCALES_AUTO = 0,
    BB_SCALES_ANY,
    BB_SCALES_POWER_OF_TWO
} bb_scale_kind;

/* What the data of a recipe look like. A tensor is seen as a matrix (R, C): C is its last size, R
 * the product of the others. */
typedef struct bb_recipe_form {
    int64_t block;   /* elements that share a scale; 0: the whole tensor */
    int64_t divides; /* what R and C must be multiples of */
    bool transposed; /* the column-wise copy is (C, R); otherwise it is laid out as the data are */
    bool packed;     /* two elements a byte, the first in the low half */
    bool measures;   /* has an amax */
    int scale_dtype; /* of scale_inv: f32, or u8 for e8m0 and e4m3 */
} bb_recipe_form;
static const bb_recipe_form bb_recipe_forms[BB_RECIPE_COUNT] = {
    {0, 1, true, false, true, BB_F32},    /* fp8_delayed */
    {0, 1, true, false, true, BB_F32},    /* fp8_current */
    {32, 32, false, false, false, BB_U8}, /* mxfp8 */
    {128, 1, true, false, false, BB_F32}, /* fp8_block */
    {16, 16, true, true, true, BB_U8},    /* nvfp4 */
};

typedef struct bb_quantize_attrs {
    int recipe, format;
    bool rows, columns; /* which copies are made */
    bool square;        /* fp8_block: 128x128 instead of 1x128 */
    int scales;
    double amax_floor; /* fp8_current, fp8_block: an amax below it counts as this */
} bb_quantize_attrs;
typedef struct bb_rms_norm_quantize_attrs {
    bb_quantize_attrs quantize;
    double eps;
} bb_rms_norm_quantize_attrs;
typedef struct bb_dequantize_attrs {
    int recipe, format;
    bool square;
    bool columns; /* data is a column-wise copy */
    int dtype;    /* of the result */
} bb_dequantize_attrs;
typedef struct bb_quantized_linear_attrs {
    int recipe, format, weight_recipe, weight_format;
    bool square, weight_square;
    int dtype; /* of the result */
} bb_quantized_linear_attrs;
typedef struct bb_update_scale_attrs {
    int format;
    int64_t margin;
    bool most_recent;
} bb_update_scale_attrs;

#endif
