/* Bobbin ops: every built-in op as a C function. `bobbin ops` prints the same list with dtypes and
 * backends. Tensors are returned in the current step; NULL in gives NULL out (see core/core.h).
 *
 * Shapes broadcast and dtypes promote as in PyTorch: float over integer over bool, wider over
 * narrower, f16 with bf16 gives f32, and a rank-0 tensor does not widen others of its kind. Axes
 * may be negative. Ops on f16 and bf16 compute in f32 and round once, except where a formula says
 * otherwise. */
#ifndef BOBBIN_OPS_H
#define BOBBIN_OPS_H

#include "core/core.h"
#include "ops/attrs.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef bb_tensor *bb_t; /* a name short enough for the tables below */

/* ---- ops/create.c */
BB_API bb_t bb_full(bb_context *ctx, bb_dtype dtype, bb_shape shape, double value);
BB_API bb_t bb_zeros(bb_context *ctx, bb_dtype dtype, bb_shape shape); /* bb_full of 0 */
BB_API bb_t bb_ones(bb_context *ctx, bb_dtype dtype, bb_shape shape);  /* bb_full of 1 */
BB_API bb_t bb_zeros_like(bb_t x); /* of x's dtype, shape and device */
BB_API bb_t bb_ones_like(bb_t x);  /* likewise */
BB_API bb_t bb_arange(bb_context *ctx, bb_dtype dtype, double start, double stop, double step);
BB_API bb_t bb_rand(bb_context *ctx, bb_dtype dtype, bb_shape shape); /* uniform [0, 1) */
BB_API bb_t bb_randn(bb_context *ctx, bb_dtype dtype,
                     bb_shape shape);     /* normal(0, 1), Box-Muller */
BB_API bb_t bb_dropout(bb_t x, double p); /* zero with probability p, else x/(1-p) */

/* ---- ops/unary.c */
BB_API bb_t bb_neg(bb_t x);
BB_API bb_t bb_abs(bb_t x);
BB_API bb_t bb_sign(bb_t x);
BB_API bb_t bb_exp(bb_t x);
BB_API bb_t bb_log(bb_t x);
BB_API bb_t bb_sqrt(bb_t x);
BB_API bb_t bb_rsqrt(bb_t x);
BB_API bb_t bb_sin(bb_t x);
BB_API bb_t bb_cos(bb_t x);
BB_API bb_t bb_tanh(bb_t x);
BB_API bb_t bb_sigmoid(bb_t x);
BB_API bb_t bb_relu(bb_t x);
BB_API bb_t bb_erf(bb_t x);
BB_API bb_t bb_square(bb_t x);
BB_API bb_t bb_reciprocal(bb_t x);
BB_API bb_t bb_pow(bb_t x, double exponent);
BB_API bb_t bb_add_scalar(bb_t x, double value); /* x's dtype is kept */
BB_API bb_t bb_mul_scalar(bb_t x, double value);
BB_API bb_t bb_clamp(bb_t x, double min, double max);
BB_API bb_t bb_cast(bb_t x, bb_dtype dtype);
BB_API bb_t bb_contiguous(bb_t x); /* x itself where it is */

/* ---- ops/binary.c. Comparisons give bool. Ties of maximum and minimum share the gradient half and
 * half. */
BB_API bb_dtype bb_promote(const bb_tensor *a, const bb_tensor *b); /* the dtype of a + b */
BB_API bb_t bb_add(bb_t a, bb_t b);
BB_API bb_t bb_sub(bb_t a, bb_t b);
BB_API bb_t bb_mul(bb_t a, bb_t b);
BB_API bb_t bb_div(bb_t a, bb_t b); /* integers divide to f32 */
BB_API bb_t bb_maximum(bb_t a, bb_t b);
BB_API bb_t bb_minimum(bb_t a, bb_t b);
BB_API bb_t bb_eq(bb_t a, bb_t b);
BB_API bb_t bb_ne(bb_t a, bb_t b);
BB_API bb_t bb_lt(bb_t a, bb_t b);
BB_API bb_t bb_le(bb_t a, bb_t b);
BB_API bb_t bb_gt(bb_t a, bb_t b);
BB_API bb_t bb_ge(bb_t a, bb_t b);
BB_API bb_t bb_where(bb_t condition, bb_t a, bb_t b);

/* ---- ops/reduce.c. Integers and bool sum to i64; mean wants floats; amax and amin of no elements
 * are errors. Ties of amax and amin share the gradient evenly. */
BB_API bb_t bb_sum(bb_t x, bb_ints axes, bool keepdim);
BB_API bb_t bb_mean(bb_t x, bb_ints axes, bool keepdim);
BB_API bb_t bb_amax(bb_t x, bb_ints axes, bool keepdim);
BB_API bb_t bb_amin(bb_t x, bb_ints axes, bool keepdim);
BB_API bb_t bb_argmax(bb_t x, int64_t axis, bool keepdim); /* i64; the first of equals */
BB_API bb_t bb_cumsum(bb_t x, int64_t axis);
BB_API bb_t bb_sum_all(bb_t x);                /* rank 0 */
BB_API bb_t bb_mean_all(bb_t x);               /* rank 0 */
BB_API bb_t bb_sum_to(bb_t x, bb_shape shape); /* undoes a broadcast from shape */

/* ---- ops/matmul.c */
BB_API bb_t bb_matmul(bb_t a, bb_t b); /* vector, matrix, batched, broadcast: PyTorch's matmul */

/* ---- ops/view.c (no copies but where reshape must) */
BB_API bb_t bb_reshape(bb_t x, bb_shape shape); /* one size may be -1 */
BB_API bb_t bb_permute(bb_t x, bb_ints axes);
BB_API bb_t bb_transpose(bb_t x, int64_t axis0, int64_t axis1);
BB_API bb_t bb_expand(bb_t x, bb_shape shape);
BB_API bb_t bb_slice(bb_t x, int64_t axis, int64_t start, int64_t stop,
                     int64_t step); /* Python's start:stop:step */
BB_API bb_t bb_narrow(bb_t x, int64_t axis, int64_t start, int64_t length); /* start:start+length */
BB_API bb_t bb_select(bb_t x, int64_t axis, int64_t index);
BB_API bb_t bb_unsqueeze(bb_t x, int64_t axis); /* a new axis of size 1 */
BB_API bb_t bb_squeeze(bb_t x, int64_t axis);   /* without that axis of size 1 */
BB_API bb_t bb_alias(bb_t x); /* another handle on the same value, with gradient */

/* ---- ops/join.c */
BB_API bb_t bb_cat(bb_tensor *const *x, int n, int64_t axis);
BB_API bb_t bb_stack(bb_tensor *const *x, int n, int64_t axis);
BB_API bb_t bb_pad(bb_t x, bb_ints before, bb_ints after, double value);

/* ---- ops/index.c. Indices are i64 or i32, within range or an error. */
BB_API bb_t bb_gather(bb_t x, int64_t axis, bb_t index);
BB_API bb_t bb_index_select(bb_t x, int64_t axis, bb_t index);
BB_API bb_t bb_scatter_add(bb_t x, int64_t axis, bb_t index,
                           bb_t source); /* x + source at index; order of adding is fixed */
BB_API bb_t bb_embedding(bb_t weight, bb_t index); /* (V, D), (...) -> (..., D) */

/* ---- Composite ops, one file each */
BB_API bb_t bb_rms_norm(bb_t input, bb_t scale, double eps); /* ops/rms_norm.c: RMSNormImpl */
BB_API bb_t bb_rms_norm_with(bb_t input, bb_t scale,
                             const bb_rms_norm_attrs *attrs); /* with all its attributes */
/* The norm of input + residual, and that sum in *sum, which may be NULL (ops/add_rms_norm.c:
 * AddRMSNorm). */
BB_API bb_t bb_add_rms_norm(bb_t input, bb_t residual, bb_t scale, double eps, bb_t *sum);
BB_API bb_t bb_layer_norm(bb_t input, bb_t weight, bb_t bias,
                          double eps); /* weight, bias may be NULL */
BB_API bb_t bb_softmax(bb_t x, int64_t axis);
BB_API bb_t bb_log_softmax(bb_t x, int64_t axis);
BB_API bb_t bb_cross_entropy(bb_t logits, bb_t target, int64_t ignore_index,
                             bb_reduction reduction); /* (..., C), (...) */
BB_API bb_t bb_silu(bb_t x);
BB_API bb_t bb_gelu(bb_t x, bb_gelu_form form);
BB_API bb_t bb_swiglu(bb_t gate, bb_t up);                   /* silu(gate) * up */
BB_API bb_t bb_rope(bb_t input, const bb_rope_attrs *attrs); /* (..., T, D); NULL: defaults */
BB_API bb_t bb_sdpa(bb_t query, bb_t key, bb_t value, bb_t attn_mask, const bb_sdpa_attrs *attrs);
BB_API bb_t bb_linear(bb_t input, bb_t weight,
                      bb_t bias); /* input weight^T + bias; bias may be NULL */
BB_API bb_t bb_linear_add(bb_t input, bb_t weight, bb_t bias,
                          bb_t residual); /* the same + residual, rounded once (LinearAdd) */
/* activation(linear), and in *sum (may be NULL) what it is of (LinearActivation). */
BB_API bb_t bb_linear_activation(bb_t input, bb_t weight, bb_t bias,
                                 bb_linear_activation_kind activation, bb_t *sum);

/* ---- Values in few bits: ops/quantize.c has the rules of the recipes. fp8 and fp4 bytes are u8.
 * nn/quantize.h makes objects of these; use those. No gradient goes through any of them. */
/* What quantizing gives: bytes and the scales to multiply by when they are read, by rows and by
 * columns. NULL where not asked for; amax NULL where the recipe has none. */
typedef struct bb_quantized_parts {
    bb_tensor *data, *scale_inv, *columns, *columns_scale_inv, *amax;
} bb_quantized_parts;
/* x is f32, f16 or bf16. scale: f32, one element, for BB_FP8_DELAYED; NULL for the others. */
BB_API bb_status bb_quantize_parts(bb_t x, bb_t scale, const bb_quantize_attrs *attrs,
                                   bb_quantized_parts *parts);
/* The values again. data with its scale_inv, or columns with theirs and attrs->columns; amax for
 * BB_NVFP4, NULL for the others. From transposed columns (C, R) comes (R, C). */
BB_API bb_t bb_dequantize_parts(bb_t data, bb_t scale_inv, bb_t amax,
                                const bb_dequantize_attrs *attrs);
/* Quantizes rms_norm(x) * weight without writing it; weight: f32, of x's last size. *rstd: f32, one
 * number a row, of x's shape with a last size of 1 (ops/rms_norm_quantize.c). */
BB_API bb_status bb_rms_norm_quantize_parts(bb_t x, bb_t weight, bb_t scale,
                                            const bb_rms_norm_quantize_attrs *attrs,
                                            bb_quantized_parts *parts, bb_t *rstd);
/* x weight^T + bias from row-wise data of both; bias of attrs->dtype, or NULL. */
BB_API bb_t bb_quantized_linear(const bb_quantized_parts *x, const bb_quantized_parts *weight,
                                bb_t bias, const bb_quantized_linear_attrs *attrs);
/* The end of a step of delayed scaling, in place: takes amax into the history and sets the scale.
 * All f32: scale and amax of one element, history of any number. */
BB_API bb_status bb_update_scale_(bb_t scale, bb_t history, bb_t amax,
                                  const bb_update_scale_attrs *attrs);

/* ---- Optimizer steps in place (ops/optimize.c); nn/ wraps them. No outputs, no gradient.
 * lr, step, grad_scale: f32 tensors of one element on the same device, or f64 ones where param is
 * f64; grad_scale may be NULL. */
BB_API bb_status bb_adamw_(bb_t param, bb_t grad, bb_t m, bb_t v, bb_t lr, bb_t step,
                           bb_t grad_scale, const bb_adamw_attrs *attrs);
BB_API bb_status bb_sgd_(bb_t param, bb_t grad, bb_t velocity, bb_t lr, bb_t grad_scale,
                         const bb_sgd_attrs *attrs);
BB_API bb_t bb_sum_squares(bb_t x); /* rank 0, in f32 (f64 for f64); for clipping by norm */

/* The table of built-in ops (ops/table.c), for bobbin.c. */
extern const bb_op *const bb_builtin_ops[];
extern const int bb_builtin_op_count;

#ifdef __cplusplus
}
#endif
#endif
