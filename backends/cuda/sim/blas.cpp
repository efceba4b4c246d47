/* blas.h for the simulation: the product as its definition, summed in the order of k in f32 (f64
 * for f64). The inputs of f32 products are rounded to what bb_set_f32_compute asks for. */
#include "backends/cuda/blas.h"

#include <stdlib.h>

#include "backends/cuda/fp8.h"

namespace {

/* TF32 keeps 10 bits of mantissa; ties go away from zero, as the GPU's own conversion does. */
float round_to_tf32(float x) {
    const uint32_t bits = bb_float_bits(x);
    return (bits & 0x7f800000u) == 0x7f800000u ? x : bb_bits_float((bits + 0x1000u) & ~0x1fffu);
}

template <typename T> bb_real<T> input(T x, bb_compute_type) { return widen(x); }
template <> float input<float>(float x, bb_compute_type compute) {
    switch (compute) {
    case BB_COMPUTE_TF32: return round_to_tf32(x);
    case BB_COMPUTE_BF16: return widen(narrow<bb_bfloat>(x));
    case BB_COMPUTE_F16: return widen(narrow<bb_half>(x));
    default: return x;
    }
}

template <typename T>
void product(const bb_gemm_shape &s, bb_compute_type compute, bb_real<T> alpha, const T *a,
             const T *b, bb_real<T> beta, T *c, bb_real<T> *row) {
    for (int64_t i = 0; i < s.m; i++) {
        for (int64_t j = 0; j < s.n; j++) row[j] = 0;
        for (int64_t p = 0; p < s.k; p++) {
            const bb_real<T> x = input(a[s.ta ? p * s.lda + i : i * s.lda + p], compute);
            for (int64_t j = 0; j < s.n; j++)
                row[j] += x * input(b[s.tb ? j * s.ldb + p : p * s.ldb + j], compute);
        }
        for (int64_t j = 0; j < s.n; j++) {
            T *at = c + i * s.ldc + j;
            *at = narrow<T>(alpha * row[j] + (beta == 0 ? 0 : beta * widen(*at)));
        }
    }
}

template <typename T>
const char *products(const bb_gemm_shape &s, bb_compute_type compute, double alpha, const void *a,
                     const void *b, double beta, void *c) {
    bb_real<T> *row = static_cast<bb_real<T> *>(malloc((size_t)s.n * sizeof *row));
    if (!row) return "out of memory";
    for (int64_t i = 0; i < s.batch; i++)
        product<T>(s, compute, (bb_real<T>)alpha, static_cast<const T *>(a) + i * s.stride_a,
                   static_cast<const T *>(b) + i * s.stride_b, (bb_real<T>)beta,
                   static_cast<T *>(c) + i * s.stride_c, row);
    free(row);
    return nullptr;
}

} // namespace

bb_status bb_blas_gemm(bb_cuda *cuda, int dtype, const bb_gemm_shape *shape, double alpha,
                       const void *a, const void *b, double beta, void *c) {
    const bb_gemm_shape s = *shape;
    if (s.m <= 0 || s.n <= 0 || s.batch <= 0) return BB_OK;
    const bb_compute_type compute = cuda->base.ctx->f32_compute;
    const void *operands[] = {s.k > 0 ? a : c, s.k > 0 ? b : c, c};
    for (int i = 0; i < 3; i++)
        if (const char *why = bb_sim_pointer_fault(operands[i]))
            return bb_sim_refuse(cuda, "gemm", i, why);
    return bb_sim_enqueue(cuda, "gemm", [=]() -> const char * {
        bb_sim_access open;
        for (const void *p : operands) open(p);
        const char *error = "a dtype that it has no product for";
        bb_float_dtype(dtype, [&](auto tag) {
            error = products<typename decltype(tag)::type>(s, compute, alpha, a, b, beta, c);
        });
        return error;
    });
}

/* The rules of a device with fp8 units, so that tests meet both ways. */
bool bb_blas_has_fp8(const bb_cuda *, const bb_fp8_product *p) {
    const bool formats = p->x_format == BB_E4M3 || p->w_format == BB_E4M3;
    const bool sizes = p->m % 16 == 0 && p->n % 16 == 0 && p->k % 16 == 0 && p->k > 0;
    return formats && sizes && (!p->bias || p->dtype != BB_F32);
}

namespace {

template <typename T> void fp8_product(const bb_fp8_product &p) {
    const uint8_t *x = static_cast<const uint8_t *>(p.x), *w = static_cast<const uint8_t *>(p.w);
    for (int64_t i = 0; i < p.m; i++)
        for (int64_t j = 0; j < p.n; j++) {
            float sum = 0;
            for (int64_t q = 0; q < p.k; q++)
                sum +=
                    bb_decode(p.x_format, x[i * p.k + q]) * bb_decode(p.w_format, w[j * p.k + q]);
            sum *= *p.scale_x * *p.scale_w;
            if (p.bias) sum += widen(static_cast<const T *>(p.bias)[j]);
            static_cast<T *>(p.y)[i * p.n + j] = narrow<T>(sum);
        }
}

} // namespace

bb_status bb_blas_fp8(bb_cuda *cuda, const bb_fp8_product *product) {
    const bb_fp8_product p = *product;
    if (p.m <= 0 || p.n <= 0) return BB_OK;
    const void *operands[] = {p.x, p.w, p.scale_x, p.scale_w, p.y, p.bias ? p.bias : p.y};
    for (int i = 0; i < 6; i++)
        if (const char *why = bb_sim_pointer_fault(operands[i]))
            return bb_sim_refuse(cuda, "fp8 gemm", i, why);
    return bb_sim_enqueue(cuda, "fp8 gemm", [=]() -> const char * {
        bb_sim_access open;
        for (const void *operand : operands) open(operand);
        if (p.dtype == BB_F32)
            fp8_product<float>(p);
        else if (p.dtype == BB_F16)
            fp8_product<bb_half>(p);
        else
            fp8_product<bb_bfloat>(p);
        return nullptr;
    });
}

void bb_blas_close(bb_cuda *cuda) { (void)cuda; }
