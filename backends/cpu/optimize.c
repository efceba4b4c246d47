/* adamw_ and sgd_ on the CPU. The math: ops/optimize.c; loops: loops/optimize.c. */
#include <math.h>

#include "backends/cpu/kernels.h"
#include "backends/cpu/pack.h"

enum { STEP_PIECE = 16384, STEP_CHUNK = 1024 };

typedef struct step_job {
    bb_tensor *p, *m, *v; /* m is sgd_'s velocity; v: NULL for sgd_, m too without momentum */
    const bb_tensor *g;
    bool adamw;
    bb_adamw_update a[2]; /* of elements before `decayed`, and from there on */
    int64_t decayed;
    bb_sgd_update s;
    const bb_loops *loops;
} step_job;

static double number(const bb_tensor *t) {
    if (!t) return 1;
    return t->dtype == BB_F64 ? *(const double *)(const void *)t->data
                              : (double)*(const float *)(const void *)t->data;
}

static void *at(const bb_tensor *t, int64_t i) {
    return t ? t->data + i * (int64_t)bb_dtype_bytes((bb_dtype)t->dtype) : NULL;
}

static const bb_adamw_update *update_at(const step_job *job, int64_t i) {
    return &job->a[i >= job->decayed];
}

static void step_f32(const step_job *job, int64_t begin, int64_t n, float *p, const float *g,
                     float *m, float *v) {
    if (job->adamw)
        job->loops->optimize->adamw_f32(n, update_at(job, begin), p, g, m, v);
    else
        job->loops->optimize->sgd_f32(n, &job->s, p, g, m);
}

/* Elements that are updated alike. */
static void step_run(const step_job *job, int64_t begin, int64_t end) {
    const int dtype = job->p->dtype;
    if (dtype == BB_F64) {
        if (job->adamw)
            job->loops->optimize->adamw_f64(end - begin, update_at(job, begin), at(job->p, begin),
                                            at(job->g, begin), at(job->m, begin),
                                            at(job->v, begin));
        else
            job->loops->optimize->sgd_f64(end - begin, &job->s, at(job->p, begin),
                                          at(job->g, begin), at(job->m, begin));
        return;
    }
    if (dtype == BB_F32) {
        step_f32(job, begin, end - begin, at(job->p, begin), at(job->g, begin), at(job->m, begin),
                 at(job->v, begin));
        return;
    }
    float p[STEP_CHUNK], g[STEP_CHUNK];
    for (int64_t n; begin < end; begin += n) {
        n = end - begin < STEP_CHUNK ? end - begin : STEP_CHUNK;
        job->loops->elementwise->load_f32(dtype, n, at(job->p, begin), 1, p);
        job->loops->elementwise->load_f32(dtype, n, at(job->g, begin), 1, g);
        step_f32(job, begin, n, p, g, at(job->m, begin), at(job->v, begin));
        job->loops->elementwise->store_f32(dtype, n, p, at(job->p, begin));
    }
}

static void step_piece(void *user, int64_t begin, int64_t end) {
    const step_job *job = user;
    if (begin < job->decayed && job->decayed < end) {
        step_run(job, begin, job->decayed);
        begin = job->decayed;
    }
    step_run(job, begin, end);
}

static bb_status run(const bb_call *call, step_job *job) {
    const bb_cpu *cpu = bb_cpu_of(call->ctx);
    bb_tensor *copy;
    if (isnan(job->adamw ? job->a[0].grad_scale : job->s.grad_scale)) return BB_OK;
    job->p = call->in[0];
    job->m = call->in[2];
    job->loops = cpu->loops;
    job->g = bb_cpu_pack(call->in[1], call->in[1]->contiguous, (bb_dtype)call->in[1]->dtype, &copy);
    if (!job->g) return call->ctx->status;
    bb_cpu_for(cpu, job->p->count, STEP_PIECE, step_piece, job);
    bb_drop(copy);
    return BB_OK;
}

bb_status bb_cpu_adamw(bb_call *call) {
    const bb_adamw_attrs *a = call->attrs;
    const double lr = number(call->in[4]), step = number(call->in[5]);
    step_job job = {.adamw = true, .v = call->in[3], .decayed = call->in[0]->count - a->undecayed};
    job.a[0] = job.a[1] = (bb_adamw_update){
        .grad_scale = number(call->in[6]),
        .keep = 1 - lr * a->weight_decay,
        .beta1 = a->beta1,
        .beta2 = a->beta2,
        .eps = a->eps,
        .rate = lr / (1 - pow(a->beta1, step)),
        .inverse_root_correction = 1 / sqrt(1 - pow(a->beta2, step)),
    };
    job.a[1].keep = 1;
    return run(call, &job);
}

bb_status bb_cpu_sgd(bb_call *call) {
    const bb_sgd_attrs *a = call->attrs;
    step_job job = {.adamw = false};
    job.s = (bb_sgd_update){number(call->in[4]), a->weight_decay, a->momentum, number(call->in[3]),
                            a->nesterov};
    return run(call, &job);
}
