/* QuantizedLinear of fp8 with one scale each: a product of the bytes as they are (blas.h), where
 * the device has one. Everything else runs composed (ops/quantized_linear.c). */
#include "backends/cuda/blas.h"
#include "backends/cuda/kernels.h"

enum { X = 0, X_SCALE, W = 3, W_SCALE, BIAS = 6 };

static bool one_scale(int recipe) { return recipe == BB_FP8_DELAYED || recipe == BB_FP8_CURRENT; }

static const float *number(const bb_tensor *t) { return reinterpret_cast<const float *>(t->data); }

static bb_fp8_product product_of(const bb_call *call) {
    const bb_quantized_linear_attrs *a =
        static_cast<const bb_quantized_linear_attrs *>(call->attrs);
    const bb_tensor *x = call->in[X], *w = call->in[W];
    bb_fp8_product p = {};
    p.dtype = a->dtype;
    p.x_format = a->format;
    p.w_format = a->weight_format;
    p.k = x->size[x->rank - 1];
    p.m = 1;
    for (int i = 0; i < x->rank - 1; i++) p.m *= x->size[i];
    p.n = w->size[0];
    p.x = x->data;
    p.w = w->data;
    p.bias = call->in[BIAS] ? call->in[BIAS]->data : NULL;
    p.scale_x = number(call->in[X_SCALE]);
    p.scale_w = number(call->in[W_SCALE]);
    return p;
}

/* What a decomposition would refuse is left to it. */
bool bb_cuda_quantized_linear_supports(const bb_call *call) {
    const bb_quantized_linear_attrs *a =
        static_cast<const bb_quantized_linear_attrs *>(call->attrs);
    if (!one_scale(a->recipe) || !one_scale(a->weight_recipe)) return false;
    for (int i = 0; i <= BIAS; i++) {
        const bb_tensor *t = call->in[i];
        const bool scale = i == X_SCALE || i == W_SCALE, absent = i == 2 || i == 5;
        if (absent ? t != NULL : t && !t->contiguous) return false;
        if (scale && (t->dtype != BB_F32 || t->count != 1)) return false;
    }
    const bb_fp8_product p = product_of(call);
    return bb_blas_has_fp8(bb_cuda_of(call->ctx), &p);
}

bb_status bb_cuda_quantized_linear(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    bb_fp8_product p = product_of(call);
    p.y = call->out[0]->data;
    return bb_blas_fp8(cuda, &p);
}
