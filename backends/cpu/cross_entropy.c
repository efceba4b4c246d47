/* cross_entropy on the CPU, fused. The math: ops/cross_entropy.c; loops: loops/softmax.c.
 *
 * Scratch holds, one a row: the class (-1 where ignored) and the loss or, in backward, its
 * gradient. Losses are added in row order in f64. */
#include "backends/cpu/kernels.h"
#include "backends/cpu/rows.h"

typedef struct cross_entropy_job {
    bb_rows rows;
    bb_cross_entropy_run run; /* addresses of the first row */
    void (*loop)(const bb_cross_entropy_run *run);
    int64_t bytes, real; /* of a logit; of the compute type */
} cross_entropy_job;

static void *advance(const void *p, int64_t bytes) {
    return p ? (char *)(uintptr_t)p + bytes : NULL;
}

static void cross_entropy_piece(void *user, int64_t first, int64_t last) {
    const cross_entropy_job *job = user;
    for (int64_t item = first; item < last; item++) {
        int64_t group, row, end, at[ROWS_OPERANDS];
        bb_rows_item(&job->rows, item, &group, &row, &end);
        while (row < end) {
            bb_cross_entropy_run run = job->run;
            run.rows = bb_rows_run(&job->rows, group, row, end, at);
            run.x = advance(run.x, at[ROWS_X] * job->bytes);
            run.target += at[ROWS_ORDER];
            run.loss = advance(run.loss, at[ROWS_ORDER] * job->real);
            run.logsumexp = advance(run.logsumexp, at[ROWS_ORDER] * job->real);
            run.weight = advance(run.weight, at[ROWS_ORDER] * job->real);
            run.dx = advance(run.dx, at[ROWS_ORDER] * run.n * job->bytes);
            job->loop(&run);
            row += run.rows;
        }
    }
}

/* Offset of a row-major element in t. */
static int64_t offset_of(const bb_tensor *t, int64_t flat) {
    int64_t offset = 0;
    if (t->contiguous) return flat;
    for (int a = t->rank - 1; a >= 0; a--) {
        offset += flat % t->size[a] * t->stride[a];
        flat /= t->size[a];
    }
    return offset;
}

/* Classes as the loops want them. Counts those that are not ignored. */
static bb_status read_target(const bb_call *call, int64_t *class, int64_t *valid) {
    const bb_cross_entropy_attrs *a = call->attrs;
    const bb_tensor *target = call->in[1];
    int64_t classes = call->in[0]->size[call->in[0]->rank - 1];
    *valid = 0;
    for (int64_t i = 0; i < target->count; i++) {
        int64_t at = offset_of(target, i);
        int64_t c = target->dtype == BB_I64 ? ((const int64_t *)(const void *)target->data)[at]
                                            : ((const int32_t *)(const void *)target->data)[at];
        class[i] = c == a->ignore_index ? -1 : c;
        if (c == a->ignore_index) continue;
        if (c < 0 || c >= classes)
            return bb_fail_input(
                call, 1, "expected classes in [0, %lld) or %lld, got %lld at position %lld",
                (long long)classes, (long long)a->ignore_index, (long long)c, (long long)i);
        ++*valid;
    }
    return BB_OK;
}

static double real_at(const void *values, bool f64, int64_t i) {
    return f64 ? ((const double *)values)[i] : (double)((const float *)values)[i];
}

static cross_entropy_job job_of(const bb_tensor *logits, const int64_t *class) {
    bool f64 = logits->dtype == BB_F64;
    cross_entropy_job job = {.rows = bb_rows_of(logits, NULL, NULL)};
    job.bytes = (int64_t)bb_dtype_bytes((bb_dtype)logits->dtype);
    job.real = f64 ? sizeof(double) : sizeof(float);
    job.run = (bb_cross_entropy_run){
        .n = job.rows.n,
        .dtype = logits->dtype,
        .x = logits->data,
        .x_row = bb_rows_step(&job.rows, ROWS_X),
        .x_step = logits->stride[logits->rank - 1],
        .target = class,
        .dx_row = bb_rows_step(&job.rows, ROWS_ORDER) * job.rows.n,
    };
    return job;
}

/* A class and a real number per row. */
static bb_storage *row_scratch(const bb_call *call, int64_t rows) {
    size_t bytes;
    if (!bb_checked_mul((size_t)rows, sizeof(int64_t) + sizeof(double), &bytes)) bytes = SIZE_MAX;
    return bb_cpu_scratch(call, bytes);
}

bb_status bb_cpu_cross_entropy(bb_call *call) {
    const bb_cross_entropy_attrs *a = call->attrs;
    const bb_cpu *cpu = bb_cpu_of(call->ctx);
    const bb_tensor *logits = call->in[0];
    bool f64 = logits->dtype == BB_F64;
    int64_t rows = call->in[1]->count, valid = 0;
    bb_storage *scratch = row_scratch(call, rows);
    if (!scratch) return call->ctx->status;
    int64_t *class = scratch->data;
    void *loss = class + rows;

    bb_status status = read_target(call, class, &valid);
    if (status == BB_OK) {
        cross_entropy_job job = job_of(logits, class);
        job.loop =
            f64 ? cpu->loops->softmax->cross_entropy_f64 : cpu->loops->softmax->cross_entropy_f32;
        job.run.loss = loss;
        job.run.logsumexp = call->out[1] ? call->out[1]->data : NULL;
        bb_cpu_for(cpu, rows ? bb_rows_items(&job.rows) : 0, bb_rows_grain(&job.rows),
                   cross_entropy_piece, &job);
        if (a->reduction == BB_REDUCE_NONE) {
            if (f64)
                cpu->loops->elementwise->store_f64(BB_F64, rows, loss, call->out[0]->data);
            else
                cpu->loops->elementwise->store_f32(logits->dtype, rows, loss, call->out[0]->data);
        } else {
            double total = 0;
            for (int64_t i = 0; i < rows; i++) total += real_at(loss, f64, i);
            if (a->reduction == BB_REDUCE_MEAN) total /= (double)valid;
            cpu->loops->elementwise->store_f64(call->out[0]->dtype, 1, &total, call->out[0]->data);
        }
    }
    bb_storage_unref(scratch);
    return status;
}

/* The gradient of each row's loss, from that of the output. */
static void write_weights(const bb_call *call, const bb_tensor *dy, int64_t rows, int64_t valid,
                          void *weight) {
    const bb_cross_entropy_attrs *a = call->attrs;
    const bb_elementwise_loops *loops = bb_cpu_of(call->ctx)->loops->elementwise;
    bool f64 = dy->dtype == BB_F64, none = a->reduction == BB_REDUCE_NONE;
    double w = 0;
    for (int64_t i = 0; i < rows; i++) {
        if (i == 0 || none) {
            int64_t at = none ? offset_of(dy, i) : 0;
            loops->load_f64(dy->dtype, 1,
                            dy->data + at * (int64_t)bb_dtype_bytes((bb_dtype)dy->dtype), 1, &w);
            if (a->reduction == BB_REDUCE_MEAN) w /= (double)valid;
        }
        if (f64)
            ((double *)weight)[i] = w;
        else
            ((float *)weight)[i] = (float)w;
    }
}

bb_status bb_cpu_cross_entropy_backward(const bb_grad_call *grad) {
    const bb_call *call = grad->call;
    const bb_cpu *cpu = bb_cpu_of(call->ctx);
    const bb_tensor *logits = call->in[0], *dy = grad->grad_out[0];
    bool f64 = logits->dtype == BB_F64;
    int64_t rows = call->in[1]->count, valid = 0;
    if (!grad->grad_in[0] || logits->count == 0) return BB_OK;
    bb_storage *scratch = row_scratch(call, rows);
    if (!scratch) return call->ctx->status;
    int64_t *class = scratch->data;
    void *weight = class + rows;

    bb_status status = read_target(call, class, &valid);
    if (status == BB_OK) {
        write_weights(call, dy, rows, valid, weight);
        cross_entropy_job job = job_of(logits, class);
        job.loop = f64 ? cpu->loops->softmax->cross_entropy_backward_f64
                       : cpu->loops->softmax->cross_entropy_backward_f32;
        job.run.weight = weight;
        job.run.logsumexp = call->out[1]->data;
        job.run.dx = grad->grad_in[0]->data;
        bb_cpu_for(cpu, bb_rows_items(&job.rows), bb_rows_grain(&job.rows), cross_entropy_piece,
                   &job);
    }
    bb_storage_unref(scratch);
    return status;
}
