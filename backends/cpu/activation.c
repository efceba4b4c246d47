/* silu, gelu and swiglu on the CPU, forward and backward. The math: ops/silu.c, ops/gelu.c,
 * ops/swiglu.c; loops: loops/activation.c. All are maps of n elements; rows of a last axis may lie
 * apart (halves of a fused projection), other strides and narrow dtypes pass through a buffer. */
#include "backends/cpu/kernels.h"
#include "backends/cpu/pack.h"

enum { MAP_IN = 3, MAP_OUT = 2, MAP_CHUNK = 1024, MAP_PIECE = 16384 };

typedef struct map_job {
    const bb_tensor *in[MAP_IN];
    bb_tensor *out[MAP_OUT]; /* contiguous; NULL: not wanted */
    int n_in, n_out;
    bb_map_fn fn;
    int dtype; /* of all tensors */
    bool flat; /* all inputs are contiguous: one long row */
    int64_t row;
    const bb_elementwise_loops *convert;
} map_job;

/* n <= MAP_CHUNK elements through buffers where need be. */
static void map_chunk(const map_job *job, int64_t n, const char *const *in, char *const *out) {
    double buffer[MAP_IN + MAP_OUT][MAP_CHUNK];
    const void *x[MAP_IN];
    void *y[MAP_OUT];
    const bool narrow = job->dtype != BB_F64 && job->dtype != BB_F32;
    for (int i = 0; i < job->n_in; i++) {
        const bb_tensor *t = job->in[i];
        const int64_t stride = job->flat ? 1 : t->stride[t->rank - 1];
        x[i] = in[i];
        if (!narrow && stride == 1) continue;
        x[i] = buffer[i];
        if (job->dtype == BB_F64)
            job->convert->load_f64(job->dtype, n, in[i], stride, buffer[i]);
        else
            job->convert->load_f32(job->dtype, n, in[i], stride, (float *)(void *)buffer[i]);
    }
    for (int i = 0; i < job->n_out; i++)
        y[i] = narrow || !out[i] ? (void *)buffer[MAP_IN + i] : (void *)out[i];
    job->fn(n, x, y);
    for (int i = 0; i < job->n_out && narrow; i++)
        if (out[i]) job->convert->store_f32(job->dtype, n, y[i], out[i]);
}

/* Elements [begin, end) in row-major order. */
static void map_piece(void *user, int64_t begin, int64_t end) {
    const map_job *job = user;
    const int64_t bytes = (int64_t)bb_dtype_bytes((bb_dtype)job->dtype);
    while (begin < end) {
        const int64_t column = begin % job->row;
        int64_t n = job->row - column < end - begin ? job->row - column : end - begin;
        if (n > MAP_CHUNK) n = MAP_CHUNK;
        const char *in[MAP_IN] = {NULL};
        char *out[MAP_OUT] = {NULL};
        for (int i = 0; i < job->n_in; i++) {
            const bb_tensor *t = job->in[i];
            const int64_t at = job->flat ? begin
                                         : bb_cpu_row_offset(t, t->rank - 1, begin / job->row) +
                                               column * t->stride[t->rank - 1];
            in[i] = t->data + at * bytes;
        }
        for (int i = 0; i < job->n_out; i++)
            if (job->out[i]) out[i] = job->out[i]->data + begin * bytes;
        map_chunk(job, n, in, out);
        begin += n;
    }
}

static bb_status map(const bb_call *call, const bb_map_fn fn[2], int n_in,
                     const bb_tensor *const *in, int n_out, bb_tensor *const *out) {
    const bb_cpu *cpu = bb_cpu_of(call->ctx);
    map_job job = {.n_in = n_in, .n_out = n_out, .flat = true, .convert = cpu->loops->elementwise};
    const int64_t count = in[0]->count;
    job.dtype = in[0]->dtype;
    job.fn = fn[job.dtype == BB_F64 ? 0 : 1];
    for (int i = 0; i < n_in; i++) {
        job.in[i] = in[i];
        job.flat = job.flat && in[i]->contiguous;
    }
    for (int i = 0; i < n_out; i++) job.out[i] = out[i];
    job.row = job.flat ? count : in[0]->size[in[0]->rank - 1];
    bb_cpu_for(cpu, count, MAP_PIECE, map_piece, &job);
    return BB_OK;
}

static const bb_activation_loops *loops_of(const bb_call *call) {
    return bb_cpu_of(call->ctx)->loops->activation;
}

bb_status bb_cpu_silu(bb_call *call) {
    const bb_tensor *in[] = {call->in[0]};
    return map(call, loops_of(call)->silu, 1, in, 1, call->out);
}

bb_status bb_cpu_silu_backward(const bb_grad_call *grad) {
    const bb_tensor *in[] = {grad->call->in[0], grad->grad_out[0]};
    return map(grad->call, loops_of(grad->call)->silu_backward, 2, in, 1, grad->grad_in);
}

bb_status bb_cpu_gelu(bb_call *call) {
    const bb_gelu_attrs *a = call->attrs;
    const bb_tensor *in[] = {call->in[0]};
    return map(call, loops_of(call)->gelu[a->approximate], 1, in, 1, call->out);
}

bb_status bb_cpu_gelu_backward(const bb_grad_call *grad) {
    const bb_gelu_attrs *a = grad->call->attrs;
    const bb_tensor *in[] = {grad->call->in[0], grad->grad_out[0]};
    return map(grad->call, loops_of(grad->call)->gelu_backward[a->approximate], 2, in, 1,
               grad->grad_in);
}

bb_status bb_cpu_swiglu(bb_call *call) {
    const bb_tensor *in[] = {call->in[0], call->in[1]};
    return map(call, loops_of(call)->swiglu, 2, in, 1, call->out);
}

bb_status bb_cpu_swiglu_backward(const bb_grad_call *grad) {
    const bb_tensor *in[] = {grad->call->in[0], grad->call->in[1], grad->grad_out[0]};
    return map(grad->call, loops_of(grad->call)->swiglu_backward, 3, in, 2, grad->grad_in);
}
