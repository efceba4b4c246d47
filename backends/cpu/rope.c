/* RoPE on the CPU. The math: ops/rope.c; loops: loops/rope.c. Backward is the rotation by the
 * negative angle. */
#include <math.h>

#include "backends/cpu/kernels.h"
#include "backends/cpu/pack.h"

enum { ROPE_STEP = 16 };

typedef struct rope_job {
    bb_rope_rows rows;  /* of the whole input: rows.rows is T */
    const bb_tensor *x; /* its last axis has no gaps */
    bb_tensor *y;
    int64_t bytes; /* of an element of either */
    const void *cosine, *sine;
    const bb_rope_loops *loops;
} rope_job;

static void sines(int64_t half, double turns, const double *frequency, double *cosine,
                  double *sine) {
    for (int64_t i = 0; i < half; i++) {
        cosine[i] = cos(turns * frequency[i]);
        sine[i] = sin(turns * frequency[i]);
    }
}

/* (T, half) cosines and as many sines. Sine and cosine are slow, so only every ROPE_STEP-th row and
 * the ROPE_STEP first distances from it are asked of them; the sum of two angles gives the rest to
 * within two roundings of f64. */
static void fill_table(const bb_rope_attrs *a, const rope_job *job, bb_dtype dtype, double *work,
                       void *table) {
    const int64_t rows = job->rows.rows, half = job->rows.dims / 2;
    double *frequency = work, *cos_b = frequency + half, *sin_b = cos_b + ROPE_STEP * half,
           *cos_a = sin_b + ROPE_STEP * half;
    double *sin_a = cos_a + half;
    for (int64_t i = 0; i < half; i++) frequency[i] = exp(-log(a->base) / (double)half * (double)i);
    for (int64_t s = 0; s < ROPE_STEP && s < rows; s++)
        sines(half, a->scale * (double)s, frequency, cos_b + s * half, sin_b + s * half);
    for (int64_t t = 0; t < rows; t++) {
        const int64_t s = t % ROPE_STEP;
        if (s == 0) sines(half, a->scale * (double)(a->offset + t), frequency, cos_a, sin_a);
        if (dtype == BB_F64)
            job->loops->add_f64(half, cos_a, sin_a, cos_b + s * half, sin_b + s * half,
                                (double *)table + t * half, (double *)table + (rows + t) * half);
        else
            job->loops->add_f32(half, cos_a, sin_a, cos_b + s * half, sin_b + s * half,
                                (float *)table + t * half, (float *)table + (rows + t) * half);
    }
}

/* Items are rows of all matrices (T, D), in order. */
static void rope_piece(void *user, int64_t begin, int64_t end) {
    const rope_job *job = user;
    const int64_t length = job->rows.rows, half = job->rows.dims / 2, width = job->rows.width;
    while (begin < end) {
        const int64_t t = begin % length, from = bb_cpu_row_offset(job->x, job->x->rank - 1, begin);
        bb_rope_rows rows = job->rows;
        rows.rows = end - begin < length - t ? end - begin : length - t;
        const char *x = (const char *)job->x->data + from * job->bytes;
        char *y = (char *)job->y->data + begin * width * job->bytes;
        if (rows.dtype == BB_F64)
            job->loops->f64(&rows, (const double *)(const void *)x, (double *)(void *)y,
                            (const double *)job->cosine + t * half,
                            (const double *)job->sine + t * half);
        else
            job->loops->f32(&rows, x, y, (const float *)job->cosine + t * half,
                            (const float *)job->sine + t * half);
        begin += rows.rows;
    }
}

static bb_status rotate(const bb_call *call, const bb_tensor *x, int direction, bb_tensor *y) {
    const bb_rope_attrs *a = call->attrs;
    const bb_cpu *cpu = bb_cpu_of(call->ctx);
    const bb_dtype table_dtype = bb_cpu_compute_dtype(x);
    rope_job job = {.x = x, .y = y, .loops = cpu->loops->rope};
    job.bytes = (int64_t)bb_dtype_bytes((bb_dtype)x->dtype);
    job.rows.dtype = x->dtype;
    job.rows.rows = x->size[x->rank - 2];
    job.rows.width = job.rows.y_stride = x->size[x->rank - 1];
    job.rows.x_stride = x->stride[x->rank - 2];
    job.rows.dims = a->dims ? a->dims : job.rows.width;
    job.rows.interleaved = a->interleaved;
    job.rows.direction = direction;
    const int64_t length = job.rows.rows, half = job.rows.dims / 2;
    const size_t table_bytes = (size_t)(2 * length * half) * bb_dtype_bytes(table_dtype);
    const size_t work_bytes = (size_t)((2 * ROPE_STEP + 3) * half) * sizeof(double);
    bb_storage *scratch = bb_cpu_scratch(call, work_bytes + table_bytes);
    if (!scratch) return call->ctx->status;
    double *work = scratch->data;
    char *table = (char *)scratch->data + work_bytes;
    fill_table(a, &job, table_dtype, work, table);
    job.cosine = table;
    job.sine = table + table_bytes / 2;
    bb_cpu_for(cpu, x->count / job.rows.width, bb_cpu_grain(job.rows.width, 16384), rope_piece,
               &job);
    bb_storage_unref(scratch);
    return BB_OK;
}

static bb_status run(const bb_call *call, const bb_tensor *from, int direction, bb_tensor *to) {
    if (to->count == 0) return BB_OK;
    bb_tensor *copy;
    const bb_dtype dtype = (bb_dtype)from->dtype;
    const bb_tensor *x = bb_cpu_pack(from, bb_cpu_rows_ready(from, dtype), dtype, &copy);
    bb_status status = x ? rotate(call, x, direction, to) : call->ctx->status;
    bb_drop(copy);
    return status;
}

bb_status bb_cpu_rope(bb_call *call) { return run(call, call->in[0], 1, call->out[0]); }

bb_status bb_cpu_rope_backward(const bb_grad_call *grad) {
    return run(grad->call, grad->grad_out[0], -1, grad->grad_in[0]);
}
