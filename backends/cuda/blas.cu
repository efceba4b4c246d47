/* blas.h by cuBLAS. Row-major products are column-major products of the transposes with the
 * operands exchanged: C = A B is C^T = B^T A^T, and a row-major matrix is its transpose by columns.
 *
 * One handle per context, made at the first product and bound to the context's stream. Its
 * workspace is ours, so that nothing is allocated while a step is captured and products give the
 * same bits every time (one stream, no atomics). */
#include "backends/cuda/blas.h"

#include <stdio.h>

#include <cublasLt.h>
#include <cublas_v2.h>

struct bb_blas {
    cublasHandle_t handle;
    void *workspace;
    size_t workspace_bytes;
    int sms; /* the count that the handle plans for; 0: all */
};

static bb_status fail(bb_cuda *cuda, const char *what, cublasStatus_t status) {
    return bb_cuda_fail(cuda, what, cublasGetStatusString(status));
}

/* What cuBLAS itself would take: NVIDIA's figures for Hopper and for what was before. */
static size_t workspace_of(const bb_cuda *cuda) {
    return cuda->info.major >= 9 ? (size_t)32 << 20 : (size_t)4 << 20;
}

/* A stream that captures refuses what opening a handle does, unless asked to be relaxed. */
static cublasStatus_t make_handle(cublasHandle_t *handle) {
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaThreadExchangeStreamCaptureMode(&mode);
    const cublasStatus_t status = cublasCreate(handle);
    cudaThreadExchangeStreamCaptureMode(&mode);
    return status;
}

/* The stream first: setting it takes a workspace away. */
static cublasStatus_t set_up(bb_cuda *cuda, bb_blas *blas) {
    cublasStatus_t status = cublasSetStream(blas->handle, bb_runtime_stream(cuda->runtime));
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasSetWorkspace(blas->handle, blas->workspace, blas->workspace_bytes);
    /* Otherwise f16 and bf16 may be summed in their own type where k is split. */
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasSetMathMode(blas->handle, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    return status;
}

static bb_blas *open_blas(bb_cuda *cuda) {
    if (cuda->blas) return cuda->blas;
    bb_blas *blas = static_cast<bb_blas *>(cuda->host->allocate(cuda->base.ctx, sizeof *blas));
    if (!blas) return NULL;
    *blas = bb_blas();
    cuda->blas = blas;
    blas->workspace_bytes = workspace_of(cuda);
    blas->workspace = cuda->base.allocate(&cuda->base, blas->workspace_bytes);
    if (!blas->workspace) {
        cuda->host->fail(cuda->base.ctx, BB_ERR_MEMORY,
                         "%s: cuda: no memory for cuBLAS's workspace", cuda->op);
        bb_blas_close(cuda);
        return NULL;
    }
    cublasStatus_t status = make_handle(&blas->handle);
    if (status == CUBLAS_STATUS_SUCCESS) status = set_up(cuda, blas);
    if (status == CUBLAS_STATUS_SUCCESS) return blas;
    fail(cuda, "opening cuBLAS", status);
    bb_blas_close(cuda);
    return NULL;
}

void bb_blas_close(bb_cuda *cuda) {
    bb_blas *blas = cuda->blas;
    if (!blas) return;
    if (blas->handle) cublasDestroy(blas->handle);
    if (blas->workspace) cuda->base.release(&cuda->base, blas->workspace, blas->workspace_bytes);
    cuda->host->release(cuda->base.ctx, blas, sizeof *blas);
    cuda->blas = NULL;
}

/* Leaves the context's sm_margin to others. */
static cublasStatus_t set_margin(bb_cuda *cuda, bb_blas *blas) {
    const int sms = cuda->base.ctx->sm_margin > 0 ? bb_cuda_sms(cuda) : 0;
    if (sms == blas->sms) return CUBLAS_STATUS_SUCCESS;
    const cublasStatus_t status = cublasSetSmCountTarget(blas->handle, sms);
    if (status == CUBLAS_STATUS_SUCCESS) blas->sms = sms;
    return status;
}

/* By bb_compute_type. Pedantic: not even NVIDIA_TF32_OVERRIDE in the environment makes f32 less. */
static const cublasComputeType_t f32_compute[] = {
    CUBLAS_COMPUTE_32F_PEDANTIC, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_32F_FAST_16BF,
    CUBLAS_COMPUTE_32F_FAST_16F};

struct kind {
    cudaDataType type;
    cublasComputeType_t compute;
};
static bool kind_of(const bb_cuda *cuda, int dtype, kind *k) {
    switch (dtype) {
    case BB_F64: *k = {CUDA_R_64F, CUBLAS_COMPUTE_64F}; return true;
    case BB_F32: *k = {CUDA_R_32F, f32_compute[cuda->base.ctx->f32_compute]}; return true;
    case BB_F16: *k = {CUDA_R_16F, CUBLAS_COMPUTE_32F}; return true;
    case BB_BF16: *k = {CUDA_R_16BF, CUBLAS_COMPUTE_32F}; return true;
    default: return false;
    }
}

static bb_status failed_product(bb_cuda *cuda, const bb_gemm_shape *s, cublasStatus_t status) {
    char what[128];
    snprintf(what, sizeof what, "%lld product(s) of (%lld, %lld) and (%lld, %lld)",
             (long long)s->batch, (long long)s->m, (long long)s->k, (long long)s->k,
             (long long)s->n);
    return fail(cuda, what, status);
}

bb_status bb_blas_gemm(bb_cuda *cuda, int dtype, const bb_gemm_shape *s, double alpha,
                       const void *a, const void *b, double beta, void *c) {
    if (s->m <= 0 || s->n <= 0 || s->batch <= 0) return BB_OK;
    kind k;
    if (!kind_of(cuda, dtype, &k)) return failed_product(cuda, s, CUBLAS_STATUS_NOT_SUPPORTED);
    bb_blas *blas = open_blas(cuda);
    if (!blas) return cuda->base.ctx->status;
    const float narrow_alpha = (float)alpha, narrow_beta = (float)beta;
    const void *scale_ab = dtype == BB_F64 ? (const void *)&alpha : &narrow_alpha;
    const void *scale_c = dtype == BB_F64 ? (const void *)&beta : &narrow_beta;
    const cublasOperation_t op_a = s->ta ? CUBLAS_OP_T : CUBLAS_OP_N,
                            op_b = s->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasStatus_t status = set_margin(cuda, blas);
    if (status != CUBLAS_STATUS_SUCCESS) return failed_product(cuda, s, status);
    if (s->batch == 1)
        status = cublasGemmEx_64(blas->handle, op_b, op_a, s->n, s->m, s->k, scale_ab, b, k.type,
                                 s->ldb, a, k.type, s->lda, scale_c, c, k.type, s->ldc, k.compute,
                                 CUBLAS_GEMM_DEFAULT);
    else
        status = cublasGemmStridedBatchedEx_64(blas->handle, op_b, op_a, s->n, s->m, s->k, scale_ab,
                                               b, k.type, s->ldb, s->stride_b, a, k.type, s->lda,
                                               s->stride_a, scale_c, c, k.type, s->ldc, s->stride_c,
                                               s->batch, k.compute, CUBLAS_GEMM_DEFAULT);
    return status == CUBLAS_STATUS_SUCCESS ? BB_OK : failed_product(cuda, s, status);
}

/* ---- fp8 by cuBLASLt: by columns, y^T (n, m) = (w^T)^T x^T, the one layout that every device with
 * fp8 takes. A cuBLAS handle is one of cuBLASLt too. */

static bool aligned16(const void *p) { return (uintptr_t)p % 16 == 0; }

bool bb_blas_has_fp8(const bb_cuda *cuda, const bb_fp8_product *p) {
    const bool device = cuda->info.major * 10 + cuda->info.minor >= 89;
    const bool formats = p->x_format == BB_E4M3 || p->w_format == BB_E4M3;
    const bool sizes = p->m % 16 == 0 && p->n % 16 == 0 && p->k % 16 == 0 && p->k > 0;
    return device && formats && sizes && (!p->bias || p->dtype != BB_F32) && aligned16(p->x) &&
           aligned16(p->w) && (!p->bias || aligned16(p->bias));
}

struct fp8_plan {
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulPreference_t preference;
};

static cublasStatus_t fp8_describe(const bb_fp8_product *p, size_t workspace, fp8_plan *plan) {
    const cudaDataType formats[] = {CUDA_R_8F_E4M3, CUDA_R_8F_E5M2};
    const cudaDataType y = p->dtype == BB_F32   ? CUDA_R_32F
                           : p->dtype == BB_F16 ? CUDA_R_16F
                                                : CUDA_R_16BF;
    const cublasOperation_t turned = CUBLAS_OP_T;
    const cublasLtEpilogue_t with_bias = CUBLASLT_EPILOGUE_BIAS;
    cublasStatus_t s = cublasLtMatmulDescCreate(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const struct {
        cublasLtMatmulDescAttributes_t name;
        const void *value;
        size_t bytes;
    } rows[] = {{CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned},
                {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &p->scale_w, sizeof p->scale_w},
                {CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &p->scale_x, sizeof p->scale_x},
                {CUBLASLT_MATMUL_DESC_EPILOGUE, &with_bias, sizeof with_bias},
                {CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->bias, sizeof p->bias}};
    for (int i = 0; i < (p->bias ? 5 : 3) && s == CUBLAS_STATUS_SUCCESS; i++)
        s = cublasLtMatmulDescSetAttribute(plan->product, rows[i].name, rows[i].value,
                                           rows[i].bytes);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatrixLayoutCreate(&plan->w, formats[p->w_format], p->k, p->n, p->k);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatrixLayoutCreate(&plan->x, formats[p->x_format], p->k, p->m, p->k);
    if (s == CUBLAS_STATUS_SUCCESS) s = cublasLtMatrixLayoutCreate(&plan->y, y, p->n, p->m, p->n);
    if (s == CUBLAS_STATUS_SUCCESS) s = cublasLtMatmulPreferenceCreate(&plan->preference);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceSetAttribute(plan->preference,
                                                 CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &workspace, sizeof workspace);
    return s;
}

static void fp8_forget(fp8_plan *plan) {
    if (plan->preference) cublasLtMatmulPreferenceDestroy(plan->preference);
    if (plan->y) cublasLtMatrixLayoutDestroy(plan->y);
    if (plan->x) cublasLtMatrixLayoutDestroy(plan->x);
    if (plan->w) cublasLtMatrixLayoutDestroy(plan->w);
    if (plan->product) cublasLtMatmulDescDestroy(plan->product);
}

bb_status bb_blas_fp8(bb_cuda *cuda, const bb_fp8_product *p) {
    if (p->m <= 0 || p->n <= 0) return BB_OK;
    bb_blas *blas = open_blas(cuda);
    if (!blas) return cuda->base.ctx->status;
    const cublasLtHandle_t handle = reinterpret_cast<cublasLtHandle_t>(blas->handle);
    const float one = 1, zero = 0;
    cublasLtMatmulHeuristicResult_t best = {};
    int found = 0;
    fp8_plan plan = {};
    cublasStatus_t status = fp8_describe(p, blas->workspace_bytes, &plan);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulAlgoGetHeuristic(handle, plan.product, plan.w, plan.x, plan.y,
                                                plan.y, plan.preference, 1, &best, &found);
    if (status == CUBLAS_STATUS_SUCCESS && found == 0) status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmul(handle, plan.product, &one, p->w, plan.w, p->x, plan.x, &zero, p->y,
                                plan.y, p->y, plan.y, &best.algo, blas->workspace,
                                blas->workspace_bytes, bb_runtime_stream(cuda->runtime));
    fp8_forget(&plan);
    return status == CUBLAS_STATUS_SUCCESS ? BB_OK : fail(cuda, "an fp8 product", status);
}
