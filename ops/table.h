/* The records of the built-in ops, one name per row; ops/table.c lists them. A record is defined in
 * the file that holds the op's C function. */
#ifndef BOBBIN_OPS_TABLE_H
#define BOBBIN_OPS_TABLE_H

#include "core/core.h"

/* create.c */
extern const bb_op bb_op_full, bb_op_arange, bb_op_rand, bb_op_randn, bb_op_dropout;
/* unary.c */
extern const bb_op bb_op_neg, bb_op_abs, bb_op_sign, bb_op_exp, bb_op_log, bb_op_sqrt, bb_op_rsqrt,
    bb_op_sin, bb_op_cos, bb_op_tanh, bb_op_sigmoid, bb_op_relu, bb_op_erf, bb_op_square,
    bb_op_reciprocal;
/* scalar.c */
extern const bb_op bb_op_pow, bb_op_add_scalar, bb_op_mul_scalar, bb_op_clamp;
/* cast.c */
extern const bb_op bb_op_cast, bb_op_contiguous;
/* binary.c */
extern const bb_op bb_op_add, bb_op_sub, bb_op_mul, bb_op_div, bb_op_maximum, bb_op_minimum;
/* compare.c */
extern const bb_op bb_op_eq, bb_op_ne, bb_op_lt, bb_op_le, bb_op_gt, bb_op_ge, bb_op_where;
/* reduce.c */
extern const bb_op bb_op_sum, bb_op_mean, bb_op_amax, bb_op_amin, bb_op_argmax, bb_op_cumsum,
    bb_op_sum_squares;
/* matmul.c */
extern const bb_op bb_op_matmul;
/* view.c */
extern const bb_op bb_op_reshape, bb_op_permute, bb_op_transpose, bb_op_expand, bb_op_slice,
    bb_op_select, bb_op_alias;
/* join.c */
extern const bb_op bb_op_cat, bb_op_stack, bb_op_pad;
/* index.c */
extern const bb_op bb_op_gather, bb_op_index_select, bb_op_scatter_add, bb_op_embedding;
/* composites, one file each */
extern const bb_op bb_op_rms_norm, bb_op_add_rms_norm, bb_op_layer_norm, bb_op_softmax,
    bb_op_log_softmax, bb_op_cross_entropy, bb_op_silu, bb_op_gelu, bb_op_swiglu, bb_op_rope,
    bb_op_sdpa, bb_op_linear, bb_op_linear_add, bb_op_linear_activation;
/* quantize.c, rms_norm_quantize.c, quantized_linear.c */
extern const bb_op bb_op_quantize, bb_op_dequantize, bb_op_update_scale, bb_op_rms_norm_quantize,
    bb_op_quantized_linear;
/* optimize.c */
extern const bb_op bb_op_adamw, bb_op_sgd;

#endif
