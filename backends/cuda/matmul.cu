/* matmul on CUDA: finds for each operand how its matrices lie (by rows or by columns; only other
 * layouts are copied) and hands them to blas.h. A stack of matrices times one matrix is one product
 * of all rows. Other stacks become strided batches: batch axes that lie evenly in both operands are
 * one axis, the largest that remains is the batch, and the rest is walked here, one launch each.
 * Integers, which cuBLAS does not multiply, take a plain kernel. The math: ops/matmul.c. */
#include "backends/cuda/kernels.h"
#include "backends/cuda/matrix.h"

namespace {

/* One operand: where its matrices are. */
struct operand {
    bb_matrix m;
    int64_t row, column;        /* strides inside a matrix */
    int64_t batch[BB_MAX_RANK]; /* of the result's batch axes; 0 where broadcast */
};

struct batch_axes {
    int rank;
    int64_t size[BB_MAX_RANK], a[BB_MAX_RANK], b[BB_MAX_RANK], c[BB_MAX_RANK];
};

struct job {
    operand a, b;
    batch_axes batch;
    int64_t batches, m, n, k;
};

void set_operand(operand *o, const bb_tensor *t, const int64_t *stride, bool left, int batch_rank) {
    const int last = t->rank - 1, own = t->rank > 2 ? t->rank - 2 : 0;
    o->m.data = t->data;
    o->row = t->rank > 1 ? stride[last - 1] : left ? 0 : stride[0];
    o->column = t->rank > 1 || left ? stride[last] : 0;
    for (int i = 0; i < batch_rank; i++) {
        const int at = i - (batch_rank - own);
        o->batch[i] = at < 0 || t->size[at] == 1 ? 0 : stride[at];
    }
}

/* Copies t where blas.h cannot read its matrices. */
bb_status prepare(bb_cuda *cuda, operand *o, const bb_tensor *t, bool left, int batch_rank,
                  int64_t rows, int64_t columns) {
    set_operand(o, t, t->stride, left, batch_rank);
    if (bb_matrix_lies(&o->m, rows, columns, o->row, o->column)) return BB_OK;
    const void *data = bb_cuda_contiguous_data(cuda, t, &o->m.held);
    if (!data) return cuda->base.ctx->status;
    int64_t stride[BB_MAX_RANK], next = 1;
    for (int a = t->rank - 1; a >= 0; a--) {
        stride[a] = next;
        next *= t->size[a];
    }
    set_operand(o, t, stride, left, batch_rank);
    o->m.data = static_cast<const char *>(data);
    bb_matrix_lies(&o->m, rows, columns, o->row, o->column);
    return BB_OK;
}

/* The batch axes, those that one stride can walk in both operands taken together. */
batch_axes merge(const job &j, int rank, const int64_t *size) {
    batch_axes axes;
    int64_t c = j.m * j.n;
    axes.rank = 0;
    for (int i = rank - 1; i >= 0; i--) {
        const int64_t a = j.a.batch[i], b = j.b.batch[i];
        const int at = axes.rank - 1;
        if (size[i] != 1 && at >= 0 && a == axes.a[at] * axes.size[at] &&
            b == axes.b[at] * axes.size[at]) {
            axes.size[at] *= size[i];
        } else if (size[i] != 1) {
            axes.size[axes.rank] = size[i];
            axes.a[axes.rank] = a;
            axes.b[axes.rank] = b;
            axes.c[axes.rank++] = c;
        }
        c *= size[i];
    }
    return axes;
}

/* Whether the rows of all of A's matrices follow each other at one distance, and B is one matrix:
 * then it is one product. */
bool one_product(job *j) {
    if (j->batch.rank == 0) return true;
    if (j->batch.rank > 1 || j->batch.b[0] != 0 || j->a.m.trans) return false;
    if (j->m == 1 && j->batch.a[0] >= j->k) j->a.m.ld = j->batch.a[0];
    if (j->batch.a[0] != j->a.m.ld * j->m) return false;
    j->m *= j->batch.size[0];
    return true;
}

bb_status multiply(bb_cuda *cuda, job *j, int dtype, char *out) {
    const bool one = one_product(j);
    const batch_axes &axes = j->batch;
    const int64_t bytes = bb_dtype_size(dtype);
    int wide = 0;
    int64_t products = 1;
    for (int i = 0; i < axes.rank && !one; i++) {
        products *= axes.size[i];
        if (axes.size[i] > axes.size[wide]) wide = i;
    }
    bb_gemm_shape shape = {j->a.m.trans, j->b.m.trans, j->m, j->n, j->k, j->a.m.ld,
                           j->b.m.ld,    j->n,         1,    0,    0,    0};
    if (products > 1) {
        shape.batch = axes.size[wide];
        shape.stride_a = axes.a[wide], shape.stride_b = axes.b[wide], shape.stride_c = axes.c[wide];
        products /= shape.batch;
    }
    bb_status status = BB_OK;
    for (int64_t p = 0; p < products && !status; p++) {
        int64_t a = 0, b = 0, c = 0, rest = p;
        for (int i = 0; i < axes.rank && products > 1; i++) {
            if (i == wide) continue;
            const int64_t at = rest % axes.size[i];
            a += at * axes.a[i], b += at * axes.b[i], c += at * axes.c[i];
            rest /= axes.size[i];
        }
        status = bb_blas_gemm(cuda, dtype, &shape, 1, j->a.m.data + a * bytes,
                              j->b.m.data + b * bytes, 0, out + c * bytes);
    }
    return status;
}

/* ---- Integers: one thread an element, sums modulo 2^bits as on the CPU. Indices and counts are
 * small; nothing here is worth a tile. */
template <typename T> struct integer_job {
    const T *a, *b;
    T *c;
    int64_t count, m, n, k, a_row, a_column, b_row, b_column;
    batch_axes batch;
    template <typename F> void each_pointer(F &f) const { f(a), f(b), f(c); }
};

template <typename T> __global__ void integer_products(const integer_job<T> j) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < j.count;
         i += (int64_t)gridDim.x * blockDim.x) {
        int64_t rest = i / j.n / j.m;
        const T *a = j.a + i / j.n % j.m * j.a_row, *b = j.b + i % j.n * j.b_column;
        for (int x = 0; x < j.batch.rank; x++) {
            const int64_t at = rest % j.batch.size[x];
            a += at * j.batch.a[x], b += at * j.batch.b[x];
            rest /= j.batch.size[x];
        }
        uint64_t sum = 0;
        for (int64_t p = 0; p < j.k; p++)
            sum += (uint64_t)a[p * j.a_column] * (uint64_t)b[p * j.b_row];
        j.c[i] = (T)sum;
    }
}

template <typename T> bb_status multiply_integers(bb_cuda *cuda, const job &j, bb_tensor *out) {
    const integer_job<T> work = {reinterpret_cast<const T *>(j.a.m.data),
                                 reinterpret_cast<const T *>(j.b.m.data),
                                 reinterpret_cast<T *>(out->data),
                                 out->count,
                                 j.m,
                                 j.n,
                                 j.k,
                                 j.a.row,
                                 j.a.column,
                                 j.b.row,
                                 j.b.column,
                                 j.batch};
    return BB_LAUNCH(cuda, (integer_products<T>), bb_cuda_grid(cuda, out->count, 256), 256, 0,
                     work);
}

} // namespace

bb_status bb_cuda_matmul(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    const bb_tensor *a = call->in[0], *b = call->in[1];
    bb_tensor *out = call->out[0];
    if (out->count == 0) return BB_OK;
    job j = {};
    j.m = a->rank > 1 ? a->size[a->rank - 2] : 1;
    j.k = a->size[a->rank - 1];
    j.n = b->rank > 1 ? b->size[b->rank - 1] : 1;
    if (j.k == 0) return bb_cuda_zero(cuda, out);
    const int batch_rank = out->rank - (a->rank > 1) - (b->rank > 1);
    const bool floats = bb_float_dtype(out->dtype, [](auto) {});
    bb_status status = BB_OK;
    if (floats) {
        status = prepare(cuda, &j.a, a, true, batch_rank, j.m, j.k);
        if (!status) status = prepare(cuda, &j.b, b, false, batch_rank, j.k, j.n);
    } else {
        set_operand(&j.a, a, a->stride, true, batch_rank);
        set_operand(&j.b, b, b->stride, false, batch_rank);
    }
    j.batch = merge(j, batch_rank, out->size);
    if (!status && floats)
        status = multiply(cuda, &j, out->dtype, out->data);
    else if (!status)
        status = out->dtype == BB_I64   ? multiply_integers<int64_t>(cuda, j, out)
                 : out->dtype == BB_I32 ? multiply_integers<int32_t>(cuda, j, out)
                                        : multiply_integers<uint8_t>(cuda, j, out);
    bb_cuda_release(cuda, j.a.m.held);
    bb_cuda_release(cuda, j.b.m.held);
    return status;
}
