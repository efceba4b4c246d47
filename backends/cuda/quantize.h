/* What the kernels of quantizing share: their arguments, elements, scales. Adapters and the choice
 * of kernels: quantize.cu. */
#ifndef BOBBIN_BACKENDS_CUDA_QUANTIZE_H
#define BOBBIN_BACKENDS_CUDA_QUANTIZE_H

#include "backends/cuda/cuda.h"
#include "backends/cuda/fp8.h"
#include "backends/cuda/lines.h"
#include "backends/cuda/norm.h"

struct bb_quantize_args {
    const void *x;
    bb_lines lines;      /* the rows of x */
    const float *weight; /* of a norm in front; NULL: none */
    float *rstd;         /* a number a row */
    double eps;
    bool round;   /* the norm's result to x's type */
    bool sum;     /* this launch finds rstd; otherwise it reads it */
    bool measure; /* nothing but rstd, and amax if wanted */

    int recipe, kind;
    bb_recipe_form form;
    bb_scale_rule rule;
    bool square;
    const float *scale;                                   /* fp8_delayed's */
    int *amax;                                            /* as bits, 0 before; NULL: not wanted */
    void *data, *scale_inv, *columns, *columns_scale_inv; /* NULL: not wanted */
    int64_t rows, width;                                  /* R, C */
    int team;                                             /* threads of a row */
    template <typename F> void each_pointer(F &&f) const {
        const void *const pointers[] = {
            x, weight, rstd, scale, amax, data, scale_inv, columns, columns_scale_inv};
        for (const void *p : pointers) f(p);
    }
};

/* The scale of a block whose amax has these bits. */
static __device__ inline bb_block_scale bb_quantize_scale(const bb_quantize_args &a,
                                                          const bb_scale_rule &rule, int amax) {
    const float most = bb_fp8_float(amax);
    if (a.recipe == BB_MXFP8) return bb_scale_e8m0(&rule, most);
    return a.recipe == BB_NVFP4 ? bb_scale_nvfp4(&rule, most) : bb_scale_f32(&rule, most);
}

/* The rule with what the whole tensor's amax says. */
static __device__ inline bb_scale_rule bb_quantize_rule(const bb_quantize_args &a) {
    bb_scale_rule rule = a.rule;
    if (a.recipe == BB_NVFP4 && !a.measure) rule.whole = bb_nvfp4_whole(bb_fp8_float(*a.amax));
    return rule;
}

/* Recipes with one scale: what elements are multiplied by. One thread of the grid stores its
 * reciprocal. */
static __device__ inline float bb_quantize_multiplier(const bb_quantize_args &a) {
    if (a.form.block || a.measure) return 1;
    bb_block_scale s;
    if (a.recipe == BB_FP8_DELAYED) {
        s.multiplier = *a.scale;
        s.stored = (uint32_t)bb_fp8_bits(1.0f / s.multiplier);
    } else {
        s = bb_scale_f32(&a.rule, bb_fp8_float(*a.amax));
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        if (a.scale_inv) *static_cast<uint32_t *>(a.scale_inv) = s.stored;
        if (a.columns_scale_inv) *static_cast<uint32_t *>(a.columns_scale_inv) = s.stored;
    }
    return s.multiplier;
}

static __device__ inline void bb_put_scale(const bb_quantize_args &a, void *to, int64_t i,
                                           bb_block_scale s) {
    if (a.form.scale_dtype == BB_F32)
        static_cast<uint32_t *>(to)[i] = s.stored;
    else
        static_cast<uint8_t *>(to)[i] = (uint8_t)s.stored;
}

static __device__ inline int bb_warp_most(int x, int lanes = BB_WARP) {
    for (int d = lanes / 2; d > 0; d /= 2) x = max(x, __shfl_xor_sync(BB_ALL_LANES, x, d));
    return x;
}

/* An element of the norm from one of x. */
template <typename X>
static __device__ inline float bb_quantize_value(const bb_quantize_args &a, float x, float rstd,
                                                 float weight) {
    const float z = x * rstd * weight;
    return a.round ? widen(narrow<X>(z)) : z;
}

/* Element (row, column) of what is quantized; at: x's first element of the row. */
template <typename X>
static __device__ inline float bb_quantize_at(const bb_quantize_args &a, const X *at, int64_t row,
                                              int64_t column) {
    const float x = widen(at[column * a.lines.step]);
    return a.weight ? bb_quantize_value<X>(a, x, a.rstd[row], a.weight[column]) : x;
}

#endif
