/* matmul on the CPU: finds for each operand how its matrices lie (by rows or by columns; only other
 * layouts are copied), and hands them to gemm.h. A stack of matrices times one matrix is one
 * product of all rows; other stacks share the matrices among threads. */
#include "backends/cpu/gemm.h"
#include "backends/cpu/kernels.h"

/* One operand: where its matrices are. */
typedef struct operand {
    bb_tensor *t; /* the input, or a copy */
    bool copied, trans;
    int64_t rows, columns, ld; /* op(stored) is rows x columns */
    int batch_rank;
    int64_t batch_stride[BB_MAX_RANK]; /* of the result's batch axes; 0 where broadcast */
} operand;

typedef struct job {
    bb_cpu *cpu;
    bb_dtype dtype; /* of the products */
    operand a, b;
    bb_tensor *c;
    int batch_rank;
    int64_t batch_size[BB_MAX_RANK];
    int64_t batches, m, n, k;
    bool serial;
} job;

/* Strides of the last two axes, a vector being a row (left) or a column (right). */
static void strides_of(const bb_tensor *t, bool left, int64_t *row, int64_t *column) {
    const int last = t->rank - 1;
    *row = t->rank > 1 ? t->stride[last - 1] : left ? 0 : t->stride[0];
    *column = t->rank > 1 || left ? t->stride[last] : 0;
}

/* Finds trans and ld, if the matrices of o->t lie so that gemm can read them. */
static bool describe(operand *o, bool left) {
    int64_t row, column;
    strides_of(o->t, left, &row, &column);
    const bool by_rows = (column == 1 || o->columns == 1) && (row >= o->columns || o->rows == 1);
    const bool by_columns = (row == 1 || o->rows == 1) && (column >= o->rows || o->columns == 1);
    o->trans = !by_rows || (by_columns && o->columns == 1);
    o->ld = o->trans ? column : row;
    if (o->ld < 1 || (o->trans ? o->columns : o->rows) == 1)
        o->ld = o->trans ? o->rows : o->columns;
    return by_rows || by_columns;
}

/* A contiguous copy in the dtype of the products; matrices stored by columns are copied as they are
 * stored. */
static bb_status copy_operand(operand *o, bb_dtype dtype) {
    bb_shape shape = bb_shape_of_tensor(o->t);
    bb_tensor *source = o->t;
    const int last = source->rank - 1;
    const bool turn = last >= 1 && source->stride[last] != 1 && source->stride[last - 1] == 1;
    if (turn) {
        int64_t stride[BB_MAX_RANK];
        for (int i = 0; i <= last; i++) stride[i] = source->stride[i];
        stride[last] = source->stride[last - 1], stride[last - 1] = source->stride[last];
        shape.size[last] = source->size[last - 1], shape.size[last - 1] = source->size[last];
        source = bb_tensor_view(source, &shape, stride, 0);
        if (!source) return bb_error(o->t->ctx);
    }
    bb_tensor *copy = bb_tensor_new(o->t->ctx, BB_CPU, dtype, &shape);
    bb_status status = copy ? bb_copy_into(source, copy) : bb_error(o->t->ctx);
    if (turn) bb_drop(source);
    if (status) {
        bb_drop(copy);
        return status;
    }
    if (turn) { /* back to the operand's own axes, now by columns */
        const int64_t size = copy->size[last], stride = copy->stride[last];
        copy->size[last] = copy->size[last - 1], copy->stride[last] = copy->stride[last - 1];
        copy->size[last - 1] = size, copy->stride[last - 1] = stride;
        copy->contiguous = false;
    }
    o->t = copy;
    o->copied = true;
    return BB_OK;
}

static bb_status prepare(operand *o, const job *j, bool left) {
    if (!describe(o, left) || (bb_dtype)o->t->dtype != j->dtype) {
        bb_status status = copy_operand(o, j->dtype);
        if (status) return status;
        describe(o, left);
    }
    const int own = o->t->rank > 2 ? o->t->rank - 2 : 0;
    for (int i = 0; i < j->batch_rank; i++) {
        const int at = i - (j->batch_rank - own);
        o->batch_stride[i] = at < 0 || o->t->size[at] == 1 ? 0 : o->t->stride[at];
    }
    return BB_OK;
}

/* A column is computed as a row, C^T = B^T A^T: gemm likes long rows. */
static void multiply(const job *j, const char *a, const char *b, char *c, int64_t m) {
    const bool turn = j->n == 1 && m > 1;
    bb_product p = {.ta = j->a.trans, .tb = j->b.trans, .m = m, .n = j->n, .k = j->k};
    p.a = a, p.lda = j->a.ld, p.b = b, p.ldb = j->b.ld;
    if (turn) {
        p.ta = !j->b.trans, p.tb = !j->a.trans, p.m = 1, p.n = m;
        p.a = b, p.lda = j->b.ld, p.b = a, p.ldb = j->a.ld;
    }
    p.c = c, p.ldc = p.n;
    const bb_gemm *gemm = j->cpu->gemm;
    const bb_gemm_loops *loops = j->cpu->loops->gemm;
    switch (j->dtype) {
    case BB_I64: loops->i64(&p); break;
    case BB_I32: loops->i32(&p); break;
    case BB_U8:
    case BB_BOOL: loops->u8(&p); break;
    default: (j->serial ? gemm->serial : gemm->run)(j->cpu, j->dtype, &p);
    }
}

static void multiply_batches(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    const int64_t bytes = (int64_t)bb_dtype_bytes(j->dtype);
    for (int64_t batch = begin; batch < end; batch++) {
        int64_t a = 0, b = 0, rest = batch;
        for (int i = j->batch_rank - 1; i >= 0; i--) {
            const int64_t at = rest % j->batch_size[i];
            a += at * j->a.batch_stride[i];
            b += at * j->b.batch_stride[i];
            rest /= j->batch_size[i];
        }
        multiply(j, j->a.t->data + a * bytes, j->b.t->data + b * bytes,
                 j->c->data + batch * j->m * j->n * bytes, j->m);
    }
}

/* Whether the rows of all of A's matrices follow each other at one distance, and B is one matrix.
 */
static bool one_product(const job *j) {
    int64_t expect = j->a.ld * j->m;
    if (j->a.trans) return false;
    for (int i = j->batch_rank - 1; i >= 0; i--) {
        if (j->batch_size[i] == 1) continue;
        if (j->b.batch_stride[i] != 0 || j->a.batch_stride[i] != expect) return false;
        expect *= j->batch_size[i];
    }
    return true;
}

static void run(job *j) {
    const double work = (double)j->m * (double)j->n * (double)(j->k > 0 ? j->k : 1);
    if (one_product(j)) {
        multiply(j, j->a.t->data, j->b.t->data, j->c->data, j->batches * j->m);
    } else if (work > 256. * 256 * 256 || j->batches < 4) {
        multiply_batches(j, 0, j->batches);
    } else {
        const double grain = 65536 / work;
        j->serial = true;
        bb_cpu_for(j->cpu, j->batches, grain < 1 ? 1 : (int64_t)grain, multiply_batches, j);
    }
}

bb_status bb_cpu_matmul(bb_call *call) {
    bb_tensor *a = call->in[0], *b = call->in[1], *out = call->out[0];
    if (out->count == 0) return BB_OK;
    job j = {.cpu = bb_cpu_of(call->ctx), .c = out, .batches = 1};
    j.dtype = bb_gemm_dtype(j.cpu, (bb_dtype)a->dtype);
    const bool widened = (bb_dtype)a->dtype != j.dtype;
    j.m = a->rank > 1 ? a->size[a->rank - 2] : 1;
    j.k = a->size[a->rank - 1];
    j.n = b->rank > 1 ? b->size[b->rank - 1] : 1;
    j.batch_rank = out->rank - (a->rank > 1) - (b->rank > 1);
    for (int i = 0; i < j.batch_rank; i++) j.batches *= j.batch_size[i] = out->size[i];
    j.a = (operand){.t = a, .rows = j.m, .columns = j.k};
    j.b = (operand){.t = b, .rows = j.k, .columns = j.n};
    bb_status status = prepare(&j.a, &j, true);
    if (!status) status = prepare(&j.b, &j, false);
    if (!status && widened) {
        const bb_shape shape = bb_shape_of_tensor(out);
        j.c = bb_tensor_new(call->ctx, BB_CPU, BB_F32, &shape);
        if (!j.c) status = bb_error(call->ctx);
    }
    if (!status) {
        run(&j);
        status = bb_error(call->ctx);
    }
    if (!status && widened) status = bb_copy_into(j.c, out);
    if (widened) bb_drop(j.c == out ? NULL : j.c);
    if (j.a.copied) bb_drop(j.a.t);
    if (j.b.copied) bb_drop(j.b.t);
    return status;
}
