/* linear and LinearAdd on the CPU: matrix products of gemm.h, each written straight to its result.
 * The math: ops/linear.c, ops/linear_add.c. */
#include <string.h>

#include "backends/cpu/gemm.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/pack.h"

/* A tensor as one matrix of rows, of the compute dtype. */
typedef struct matrix {
    const bb_tensor *t;
    int64_t ld; /* elements between rows */
    bb_tensor *copy;
} matrix;

/* Leading axes that can be walked with one stride; BLAS wants it no less than a row. */
static bool one_stride(const bb_tensor *t, int64_t *ld) {
    const int64_t width = t->size[t->rank - 1];
    int64_t next = 0; /* stride that the next axis to the left must have; 0: any */
    *ld = width > 1 ? width : 1;
    for (int a = t->rank - 2; a >= 0; a--) {
        if (t->size[a] == 1) continue;
        if (next == 0) {
            if (t->stride[a] < *ld) return false;
            *ld = t->stride[a];
        } else if (t->stride[a] != next) {
            return false;
        }
        next = t->stride[a] * t->size[a];
    }
    return true;
}

static bool matrix_of(const bb_tensor *t, matrix *m) {
    const bb_dtype dtype = bb_cpu_compute_dtype(t);
    const bool ready = bb_cpu_rows_ready(t, dtype) && (t->count == 0 || one_stride(t, &m->ld));
    m->t = bb_cpu_pack(t, ready, dtype, &m->copy);
    if (m->copy || t->count == 0) m->ld = t->size[t->rank - 1] > 1 ? t->size[t->rank - 1] : 1;
    return m->t != NULL;
}

/* Where a result is computed: the tensor itself, or a wider one that is rounded into it. */
static bb_tensor *result_begin(bb_tensor *t) {
    return t->dtype == bb_cpu_compute_dtype(t) ? t : bb_cpu_like(t, BB_F32);
}
static bb_status result_end(bb_tensor *wide, bb_tensor *t) {
    if (wide == t) return BB_OK;
    bb_status status = bb_copy_into(wide, t);
    bb_drop(wide);
    return status;
}

/* c (m, n) = op(a) op(b) + beta c. */
static void product(const bb_context *ctx, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                    const matrix *a, const matrix *b, double beta, bb_tensor *c) {
    const bb_cpu *cpu = bb_cpu_of(ctx);
    const int64_t ldc = n > 1 ? n : 1;
    if (c->dtype == BB_F64)
        cpu->gemm->f64(cpu, ta, tb, m, n, k, 1, (const double *)a->t->data, a->ld,
                       (const double *)b->t->data, b->ld, beta, (double *)c->data, ldc);
    else
        cpu->gemm->f32(cpu, ta, tb, m, n, k, 1, (const float *)a->t->data, a->ld,
                       (const float *)b->t->data, b->ld, (float)beta, (float *)c->data, ldc);
}

typedef struct row_job {
    char *out;
    const char *bias;
    size_t bytes;
    int64_t width;
    bool wide; /* f64 */
} row_job;
static void fill_rows(void *user, int64_t begin, int64_t end) {
    const row_job *job = user;
    for (int64_t r = begin; r < end; r++)
        memcpy(job->out + (size_t)r * job->bytes, job->bias, job->bytes);
}
static void add_rows(void *user, int64_t begin, int64_t end) {
    const row_job *job = user;
    for (int64_t r = begin; r < end; r++) {
        void *row = job->out + (size_t)r * job->bytes;
        for (int64_t i = 0; i < job->width; i++) {
            if (job->wide)
                ((double *)row)[i] += ((const double *)(const void *)job->bias)[i];
            else
                ((float *)row)[i] += ((const float *)(const void *)job->bias)[i];
        }
    }
}

/* Writes the bias into each row of out, or adds it where out holds a residual. */
static bb_status start_from_bias(const bb_context *ctx, const bb_tensor *bias, bb_tensor *out,
                                 int64_t rows, bool add) {
    bb_tensor *copy;
    const bb_dtype dtype = (bb_dtype)out->dtype;
    const bb_tensor *b = bb_cpu_pack(bias, bb_cpu_rows_ready(bias, dtype), dtype, &copy);
    if (!b) return ctx->status;
    row_job job = {out->data, b->data, (size_t)b->count * bb_dtype_bytes(dtype), b->count,
                   dtype == BB_F64};
    if (b->count)
        bb_cpu_for(bb_cpu_of(ctx), rows, bb_cpu_grain(b->count, 65536), add ? add_rows : fill_rows,
                   &job);
    bb_drop(copy);
    return BB_OK;
}

bb_status bb_cpu_linear(bb_call *call) {
    const int64_t in = call->in[1]->size[1], width = call->in[1]->size[0];
    int64_t rows = 1;
    for (int a = 0; a < call->in[0]->rank - 1; a++) rows *= call->in[0]->size[a];
    if (call->out[0]->count == 0) return BB_OK;
    matrix x = {NULL, 0, NULL}, w = {NULL, 0, NULL};
    const bb_tensor *bias = call->in[2], *residual = call->n_in > 3 ? call->in[3] : NULL;
    bb_tensor *out = result_begin(call->out[0]);
    if (out && matrix_of(call->in[0], &x) && matrix_of(call->in[1], &w) &&
        (!residual || bb_copy_into(residual, out) == BB_OK) &&
        (!bias || start_from_bias(call->ctx, bias, out, rows, residual) == BB_OK))
        product(call->ctx, false, true, rows, width, in, &x, &w, bias || residual ? 1 : 0, out);
    bb_drop(x.copy);
    bb_drop(w.copy);
    if (out && !call->ctx->status) return result_end(out, call->out[0]);
    if (out != call->out[0]) bb_drop(out);
    return call->ctx->status;
}

typedef struct column_job {
    const matrix *dy;
    bb_tensor *out;
    int64_t rows;
} column_job;
enum { COLUMNS = 128 };

/* Sums of up to COLUMNS columns a piece, in double. */
static void sum_columns(void *user, int64_t begin, int64_t end) {
    const column_job *job = user;
    double sum[COLUMNS] = {0};
    const int64_t n = end - begin;
    for (int64_t r = 0; r < job->rows; r++) {
        const int64_t at = r * job->dy->ld + begin;
        if (job->out->dtype == BB_F64)
            for (int64_t i = 0; i < n; i++) sum[i] += ((const double *)job->dy->t->data)[at + i];
        else
            for (int64_t i = 0; i < n; i++)
                sum[i] += (double)((const float *)job->dy->t->data)[at + i];
    }
    for (int64_t i = 0; i < n; i++) {
        if (job->out->dtype == BB_F64)
            ((double *)job->out->data)[begin + i] = sum[i];
        else
            ((float *)job->out->data)[begin + i] = (float)sum[i];
    }
}

/* Gradient of input i from dy. */
static bb_status gradient(const bb_grad_call *grad, int i, const matrix *dy, int64_t rows) {
    const bb_call *call = grad->call;
    const int64_t in = call->in[1]->size[1], width = call->in[1]->size[0];
    bb_tensor *out = result_begin(grad->grad_in[i]);
    matrix other = {NULL, 0, NULL};
    bool ok = out && (i == 2 || matrix_of(call->in[1 - i], &other));
    if (ok && i == 0) product(call->ctx, false, false, rows, in, width, dy, &other, 0, out);
    if (ok && i == 1) product(call->ctx, true, false, width, in, rows, dy, &other, 0, out);
    if (ok && i == 2) {
        column_job job = {dy, out, rows};
        bb_cpu_for(bb_cpu_of(call->ctx), width, COLUMNS, sum_columns, &job);
    }
    bb_drop(other.copy);
    if (ok) return result_end(out, grad->grad_in[i]);
    if (out != grad->grad_in[i]) bb_drop(out);
    return call->ctx->status;
}

bb_status bb_cpu_linear_backward(const bb_grad_call *grad) {
    const bb_tensor *dout = grad->grad_out[0];
    int64_t rows = 1;
    for (int a = 0; a < dout->rank - 1; a++) rows *= dout->size[a];
    matrix dy = {NULL, 0, NULL};
    bb_status status = matrix_of(dout, &dy) ? BB_OK : grad->call->ctx->status;
    for (int i = 0; i < 3 && !status; i++)
        if (grad->want[i] && grad->grad_in[i] && grad->grad_in[i]->count)
            status = gradient(grad, i, &dy, rows);
    if (!status && grad->call->n_in > 3 && grad->want[3] && grad->grad_in[3])
        status = bb_copy_into(dout, grad->grad_in[3]);
    bb_drop(dy.copy);
    return status;
}
