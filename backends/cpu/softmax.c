/* softmax on the CPU, fused along the last axis. Math: ops/softmax.c; loops: loops/softmax.c. */
#include "backends/cpu/softmax.h"

#include "backends/cpu/kernels.h"
#include "backends/cpu/rows.h"

typedef struct softmax_job {
    bb_rows rows;
    bb_softmax_run run; /* addresses of the first row */
    bb_softmax_loop loop;
    int64_t bytes; /* of an element */
} softmax_job;

static void softmax_piece(void *user, int64_t first, int64_t last) {
    const softmax_job *job = user;
    for (int64_t item = first; item < last; item++) {
        int64_t group, row, end, at[ROWS_OPERANDS];
        bb_rows_item(&job->rows, item, &group, &row, &end);
        while (row < end) {
            bb_softmax_run run = job->run;
            run.rows = bb_rows_run(&job->rows, group, row, end, at);
            int64_t offset = at[ROWS_ORDER] * run.n * job->bytes;
            run.x = (const char *)run.x + at[ROWS_X] * job->bytes;
            run.y = (char *)run.y + offset;
            if (run.dx) run.dx = (char *)run.dx + offset;
            job->loop(&run);
            row += run.rows;
        }
    }
}

/* x: input, or dy in backward, which has any strides; y and dx are contiguous. */
static bb_status walk(const bb_call *call, const bb_tensor *x, bb_tensor *y, bb_tensor *dx,
                      bb_softmax_loop loop) {
    if (x->count == 0) return BB_OK;
    softmax_job job = {.rows = bb_rows_of(x, NULL, NULL),
                       .loop = loop,
                       .bytes = (int64_t)bb_dtype_bytes((bb_dtype)x->dtype)};
    int64_t y_row = bb_rows_step(&job.rows, ROWS_ORDER) * job.rows.n;
    job.run = (bb_softmax_run){
        .n = job.rows.n,
        .dtype = x->dtype,
        .x = x->data,
        .x_row = bb_rows_step(&job.rows, ROWS_X),
        .x_step = x->stride[x->rank - 1],
        .y = y->data,
        .y_row = y_row,
        .dx = dx ? dx->data : NULL,
        .dx_row = y_row,
    };
    bb_cpu_for(bb_cpu_of(call->ctx), bb_rows_items(&job.rows), bb_rows_grain(&job.rows),
               softmax_piece, &job);
    return BB_OK;
}

bool bb_cpu_last_axis(const bb_call *call) {
    const bb_axis_attrs *a = call->attrs;
    return a->axis == -1 || a->axis == call->in[0]->rank - 1;
}

bb_status bb_cpu_softmax_rows(bb_call *call, bb_softmax_loop f32, bb_softmax_loop f64) {
    const bb_tensor *x = call->in[0];
    return walk(call, x, call->out[0], NULL, x->dtype == BB_F64 ? f64 : f32);
}

bb_status bb_cpu_softmax_rows_backward(const bb_grad_call *grad, bb_softmax_loop f32,
                                       bb_softmax_loop f64) {
    const bb_tensor *dy = grad->grad_out[0];
    if (!grad->grad_in[0]) return BB_OK;
    return walk(grad->call, dy, grad->call->out[0], grad->grad_in[0],
                dy->dtype == BB_F64 ? f64 : f32);
}

bool bb_cpu_softmax_supports(const bb_call *call) { return bb_cpu_last_axis(call); }

bb_status bb_cpu_softmax(bb_call *call) {
    const bb_softmax_loops *loops = bb_cpu_of(call->ctx)->loops->softmax;
    return bb_cpu_softmax_rows(call, loops->softmax_f32, loops->softmax_f64);
}

bb_status bb_cpu_softmax_backward(const bb_grad_call *grad) {
    const bb_softmax_loops *loops = bb_cpu_of(grad->call->ctx)->loops->softmax;
    return bb_cpu_softmax_rows_backward(grad, loops->softmax_backward_f32,
                                        loops->softmax_backward_f64);
}
