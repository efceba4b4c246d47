/* linear and LinearAdd on the CPU: matrix products of gemm.h, each written straight to its result.
 * The math: ops/linear.c, ops/linear_add.c. */
#include "backends/cpu/gemm.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/pack.h"

/* A tensor as one matrix of rows, of the dtype that is multiplied. */
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

static bool matrix_of(const bb_tensor *t, bb_dtype dtype, matrix *m) {
    const bool ready = bb_cpu_rows_ready(t, dtype) && (t->count == 0 || one_stride(t, &m->ld));
    m->t = bb_cpu_pack(t, ready, dtype, &m->copy);
    if (m->copy || t->count == 0) m->ld = t->size[t->rank - 1] > 1 ? t->size[t->rank - 1] : 1;
    return m->t != NULL;
}

/* Where a result is computed: the tensor itself, or one of `dtype` that is rounded into it. */
static bb_tensor *result_begin(bb_tensor *t, bb_dtype dtype) {
    return (bb_dtype)t->dtype == dtype ? t : bb_cpu_like(t, dtype);
}
static bb_status result_end(bb_tensor *wide, bb_tensor *t) {
    if (wide == t) return BB_OK;
    bb_status status = bb_copy_into(wide, t);
    bb_drop(wide);
    return status;
}

static int64_t rows_of(const bb_tensor *t) {
    int64_t rows = 1;
    for (int a = 0; a < t->rank - 1; a++) rows *= t->size[a];
    return rows;
}

static void multiply(const bb_context *ctx, bb_product *p, const matrix *a, const matrix *b,
                     bb_tensor *c) {
    bb_cpu *cpu = bb_cpu_of(ctx);
    p->a = a->t->data, p->lda = a->ld;
    p->b = b->t->data, p->ldb = b->ld;
    p->c = c->data, p->ldc = p->n > 1 ? p->n : 1;
    cpu->gemm->run(cpu, (bb_dtype)c->dtype, p);
}

bb_status bb_cpu_linear(bb_call *call) {
    const bb_tensor *residual = call->n_in > 3 ? call->in[3] : NULL, *bias = call->in[2];
    const bb_dtype dtype = bb_gemm_dtype(bb_cpu_of(call->ctx), (bb_dtype)call->out[0]->dtype);
    if (call->out[0]->count == 0) return BB_OK;
    matrix x = {NULL, 0, NULL}, w = {NULL, 0, NULL}, start = {NULL, 0, NULL};
    bb_tensor *row = NULL;
    bb_tensor *out = result_begin(call->out[0], dtype);
    if (out && matrix_of(call->in[0], dtype, &x) && matrix_of(call->in[1], dtype, &w) &&
        (!residual || matrix_of(residual, dtype, &start)) &&
        (!bias || (bias = bb_cpu_pack(bias, bb_cpu_rows_ready(bias, dtype), dtype, &row)))) {
        bb_product p = {.tb = true,
                        .m = rows_of(call->in[0]),
                        .n = call->in[1]->size[0],
                        .k = call->in[1]->size[1],
                        .start = residual ? start.t->data : NULL,
                        .start_ld = start.ld,
                        .bias = bias ? bias->data : NULL};
        multiply(call->ctx, &p, &x, &w, out);
    }
    bb_drop(x.copy);
    bb_drop(w.copy);
    bb_drop(start.copy);
    bb_drop(row);
    if (out && !call->ctx->status) return result_end(out, call->out[0]);
    if (out != call->out[0]) bb_drop(out);
    return call->ctx->status;
}

typedef struct column_job {
    const bb_elementwise_loops *loops;
    const matrix *dy;
    bb_tensor *out;
    int64_t rows;
} column_job;
enum { COLUMNS = 128 };

/* Sums of up to COLUMNS columns a piece, in double. */
static void sum_columns(void *user, int64_t begin, int64_t end) {
    const column_job *job = user;
    const bb_tensor *dy = job->dy->t;
    double sum[COLUMNS] = {0}, wide[COLUMNS];
    const int64_t n = end - begin;
    for (int64_t r = 0; r < job->rows; r++) {
        const size_t at = (size_t)(r * job->dy->ld + begin) * bb_dtype_bytes((bb_dtype)dy->dtype);
        job->loops->load_f64(dy->dtype, n, dy->data + at, 1, wide);
        for (int64_t i = 0; i < n; i++) sum[i] += wide[i];
    }
    job->loops->store_f64(job->out->dtype, n, sum,
                          job->out->data +
                              (size_t)begin * bb_dtype_bytes((bb_dtype)job->out->dtype));
}

/* Gradient of input i from dy. */
static bb_status gradient(const bb_grad_call *grad, int i, const matrix *dy, int64_t rows) {
    const bb_call *call = grad->call;
    const bb_dtype dtype = (bb_dtype)dy->t->dtype;
    const int64_t in = call->in[1]->size[1], width = call->in[1]->size[0];
    bb_tensor *out = result_begin(grad->grad_in[i], dtype);
    matrix other = {NULL, 0, NULL};
    const bool ok = out && (i == 2 || matrix_of(call->in[1 - i], dtype, &other));
    if (ok && i == 2) {
        const bb_cpu *cpu = bb_cpu_of(call->ctx);
        column_job job = {cpu->loops->elementwise, dy, out, rows};
        bb_cpu_for(cpu, width, COLUMNS, sum_columns, &job);
    } else if (ok) { /* dx = dy w, dw = dy^T x */
        bb_product dx = {.m = rows, .n = in, .k = width},
                   dw = {.ta = true, .m = width, .n = in, .k = rows};
        multiply(call->ctx, i == 0 ? &dx : &dw, dy, &other, out);
    }
    bb_drop(other.copy);
    if (ok && !call->ctx->status) return result_end(out, grad->grad_in[i]);
    if (out != grad->grad_in[i]) bb_drop(out);
    return call->ctx->status;
}

bb_status bb_cpu_linear_backward(const bb_grad_call *grad) {
    const bb_tensor *dout = grad->grad_out[0];
    const bb_dtype dtype = bb_gemm_dtype(bb_cpu_of(grad->call->ctx), (bb_dtype)dout->dtype);
    const int64_t rows = rows_of(dout);
    matrix dy = {NULL, 0, NULL};
    bb_status status = matrix_of(dout, dtype, &dy) ? BB_OK : grad->call->ctx->status;
    for (int i = 0; i < 3 && !status; i++)
        if (grad->want[i] && grad->grad_in[i] && grad->grad_in[i]->count)
            status = gradient(grad, i, &dy, rows);
    if (!status && grad->call->n_in > 3 && grad->want[3] && grad->grad_in[3])
        status = bb_copy_into(dout, grad->grad_in[3]);
    bb_drop(dy.copy);
    return status;
}
