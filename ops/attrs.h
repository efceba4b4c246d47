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
/* In-place optimizer steps over flat blocks; see nn/. `hyper` inputs live on the device. */
typedef struct bb_adamw_attrs {
    double beta1, beta2, eps, weight_decay;
} bb_adamw_attrs;
typedef struct bb_sgd_attrs {
    double momentum, weight_decay;
    bool nesterov;
} bb_sgd_attrs;

#endif
