/* linear and LinearAdd on CUDA: matrix products of blas.h, each written straight to its result; f16
 * and bf16 are summed in f32 and rounded once. The bias or the residual is what the product is
 * added to: one more pass of writes over the result, and no second rounding. With both, their sum
 * is, in f32 and f64; narrow types would round it, and run composed. The math: ops/linear.c,
 * ops/linear_add.c.
 *
 * dbias sums the columns of dy: a block takes 32 columns and SUM_ROWS rows, 8 threads a column, and
 * leaves one f32 (f64) partial sum a column; the partial sums are rows again, summed the same way
 * until one is left. The partition depends on the number of rows alone. It reads dy once, 64 bytes
 * of a row at a time for 16-bit types, 128 for f32. */
#include "backends/cuda/copy.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/matrix.h"

namespace {

enum { COLUMNS = 32, LINES = 8, SUM_ROWS = 256 };

int64_t rows_of(const bb_tensor *t) {
    int64_t n = 1;
    for (int a = 0; a < t->rank - 1; a++) n *= t->size[a];
    return n;
}

/* Leading axes that can be walked with one stride, which is *row. */
bool one_stride(const bb_tensor *t, int64_t *row) {
    int64_t next = -1; /* stride that the next axis to the left must have; -1: any */
    *row = t->size[t->rank - 1];
    for (int a = t->rank - 2; a >= 0; a--) {
        if (t->size[a] == 1) continue;
        if (next < 0)
            *row = t->stride[a];
        else if (t->stride[a] != next)
            return false;
        next = t->stride[a] * t->size[a];
    }
    return true;
}

/* t as one matrix of rows; a copy where blas.h cannot read it. */
bool matrix_of(bb_cuda *cuda, const bb_tensor *t, bb_matrix *m) {
    const int64_t width = t->size[t->rank - 1];
    int64_t row;
    *m = {t->data, false, width > 1 ? width : 1, NULL};
    if (t->count == 0) return true;
    if (one_stride(t, &row) && bb_matrix_lies(m, rows_of(t), width, row, t->stride[t->rank - 1]))
        return true;
    m->data = static_cast<const char *>(bb_cuda_contiguous_data(cuda, t, &m->held));
    return m->data && bb_matrix_lies(m, rows_of(t), width, width, 1);
}

/* c (m, n) = op(a) op(b) + beta c, where op turns what ta and tb say. */
bb_status product(bb_cuda *cuda, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                  const bb_matrix &a, const bb_matrix &b, double beta, bb_tensor *c) {
    if (k == 0) return beta == 0 ? bb_cuda_zero(cuda, c) : BB_OK;
    const bb_gemm_shape shape = {ta != a.trans, tb != b.trans, m, n, k, a.ld, b.ld, n, 1, 0, 0, 0};
    return bb_blas_gemm(cuda, c->dtype, &shape, 1, a.data, b.data, beta, c->data);
}

/* ---- Bias */

/* Each row of out: the bias, or the bias more. */
template <typename T, bool ADD>
__global__ void bias_rows(const T *bias, int64_t stride, T *out, int64_t width, int64_t count) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < count;
         i += (int64_t)gridDim.x * blockDim.x) {
        const T b = bias[i % width * stride];
        out[i] = ADD ? narrow<T>(widen(out[i]) + widen(b)) : b;
    }
}

/* Column sums of rows [SUM_ROWS y, SUM_ROWS (y + 1)) to row y of out. */
template <typename In, typename Out>
__global__ void sum_columns(const In *x, int64_t row, int64_t column, int64_t rows, int64_t width,
                            Out *out, int64_t blocks_across) {
    BB_SHARED(bb_real<In>, partial, LINES * COLUMNS);
    const int lane = threadIdx.x % COLUMNS, line = threadIdx.x / COLUMNS;
    const int64_t c = blockIdx.x % blocks_across * COLUMNS + lane, y = blockIdx.x / blocks_across;
    const int64_t end = min((y + 1) * SUM_ROWS, rows);
    bb_real<In> sum = 0;
    if (c < width)
        for (int64_t r = y * SUM_ROWS + line; r < end; r += LINES)
            sum += widen(x[r * row + c * column]);
    partial[line * COLUMNS + lane] = sum;
    __syncthreads();
    if (line != 0 || c >= width) return;
    for (int l = 1; l < LINES; l++) sum += partial[l * COLUMNS + lane];
    out[y * width + c] = narrow<Out>(sum);
}

template <typename In, typename Out>
bb_status sum_pass(bb_cuda *cuda, const In *x, int64_t row, int64_t column, int64_t rows,
                   int64_t width, Out *out) {
    const int64_t across = (width + COLUMNS - 1) / COLUMNS, down = (rows + SUM_ROWS - 1) / SUM_ROWS;
    return BB_LAUNCH(cuda, (sum_columns<In, Out>), (unsigned)(across * down), COLUMNS * LINES, 0, x,
                     row, column, rows, width, out, across);
}

template <typename T>
bb_status sum_rows(bb_cuda *cuda, const bb_matrix &dy, int64_t rows, int64_t width, T *out) {
    typedef bb_real<T> R;
    const T *x = reinterpret_cast<const T *>(dy.data);
    const int64_t row = dy.trans ? 1 : dy.ld, column = dy.trans ? dy.ld : 1;
    int64_t left = (rows + SUM_ROWS - 1) / SUM_ROWS;
    if (left == 1) return sum_pass(cuda, x, row, column, rows, width, out);
    /* Two places that take turns. */
    const int64_t after = (left + SUM_ROWS - 1) / SUM_ROWS;
    bb_storage *held = bb_cuda_scratch(cuda, (size_t)((left + after) * width) * sizeof(R));
    if (!held) return cuda->base.ctx->status;
    R *from = static_cast<R *>(held->data), *to = from + left * width;
    bb_status status = sum_pass(cuda, x, row, column, rows, width, from);
    for (; left > SUM_ROWS && !status; left = (left + SUM_ROWS - 1) / SUM_ROWS) {
        status = sum_pass(cuda, from, width, 1, left, width, to);
        R *swap = from;
        from = to;
        to = swap;
    }
    if (!status) status = sum_pass(cuda, from, width, 1, left, width, out);
    bb_cuda_release(cuda, held);
    return status;
}

template <bool ADD> bb_status put_bias(bb_cuda *cuda, const bb_tensor *bias, bb_tensor *out) {
    bb_status status = BB_OK;
    bb_float_dtype(out->dtype, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        status = BB_LAUNCH(cuda, (bias_rows<T, ADD>), bb_cuda_grid(cuda, out->count, 1024), 256, 0,
                           reinterpret_cast<const T *>(bias->data), bias->stride[0],
                           reinterpret_cast<T *>(out->data), bias->size[0], out->count);
    });
    return status;
}

/* What the product is added to; both NULL: nothing. */
bb_status start_from(bb_cuda *cuda, const bb_tensor *bias, const bb_tensor *residual,
                     bb_tensor *out) {
    bb_status status = residual ? bb_cuda_copy_elements(cuda, residual, out) : BB_OK;
    if (status || !bias) return status;
    return residual ? put_bias<true>(cuda, bias, out) : put_bias<false>(cuda, bias, out);
}

/* Gradient of input i from dy. */
bb_status gradient(bb_cuda *cuda, const bb_grad_call *grad, int i, const bb_matrix &dy,
                   int64_t rows) {
    const bb_call *call = grad->call;
    const int64_t in = call->in[1]->size[1], width = call->in[1]->size[0];
    bb_tensor *out = grad->grad_in[i];
    bb_status status = BB_OK;
    if (i == 2) {
        if (rows == 0) return bb_cuda_zero(cuda, out);
        bb_float_dtype(out->dtype, [&](auto tag) {
            typedef typename decltype(tag)::type T;
            status = sum_rows(cuda, dy, rows, width, reinterpret_cast<T *>(out->data));
        });
        return status;
    }
    bb_matrix other;
    if (!matrix_of(cuda, call->in[1 - i], &other)) return cuda->base.ctx->status;
    status = i == 0 ? product(cuda, false, false, rows, in, width, dy, other, 0, out)
                    : product(cuda, true, false, width, in, rows, dy, other, 0, out);
    bb_cuda_release(cuda, other.held);
    return status;
}

} // namespace

bool bb_cuda_linear_add_supports(const bb_call *call) {
    return !call->in[2] || call->in[0]->dtype == BB_F32 || call->in[0]->dtype == BB_F64;
}

bb_status bb_cuda_linear(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    const bb_tensor *bias = call->in[2], *residual = call->n_in > 3 ? call->in[3] : NULL;
    bb_tensor *out = call->out[0];
    if (out->count == 0) return BB_OK;
    const int64_t in = call->in[1]->size[1], width = call->in[1]->size[0];
    bb_matrix x = {NULL, false, 1, NULL}, w = {NULL, false, 1, NULL};
    bb_status status = matrix_of(cuda, call->in[0], &x) && matrix_of(cuda, call->in[1], &w)
                           ? BB_OK
                           : cuda->base.ctx->status;
    if (!status) status = start_from(cuda, bias, residual, out);
    if (!status)
        status = product(cuda, false, true, rows_of(call->in[0]), width, in, x, w,
                         bias || residual ? 1 : 0, out);
    bb_cuda_release(cuda, x.held);
    bb_cuda_release(cuda, w.held);
    return status;
}

bb_status bb_cuda_linear_backward(const bb_grad_call *grad) {
    bb_cuda *cuda = bb_cuda_begin(grad->call);
    const bb_tensor *dout = grad->grad_out[0];
    const int64_t rows = rows_of(dout);
    bb_matrix dy;
    bb_status status = matrix_of(cuda, dout, &dy) ? BB_OK : cuda->base.ctx->status;
    for (int i = 0; i < 3 && !status; i++)
        if (grad->want[i] && grad->grad_in[i] && grad->grad_in[i]->count)
            status = gradient(cuda, grad, i, dy, rows);
    if (!status && grad->call->n_in > 3 && grad->want[3] && dout->count)
        status = bb_cuda_copy_elements(cuda, dout, grad->grad_in[3]);
    bb_cuda_release(cuda, dy.held);
    return status;
}
