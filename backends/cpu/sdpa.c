/* SDPA on the CPU, fused: memory grows with T, not T^2. The math: ops/sdpa.c; loops:
 * loops/sdpa_kernel.h.
 *
 * query, key and value are read where they lie as long as their last axis has no gaps; f16 and bf16
 * are computed on f32 copies. Forward shares blocks of queries among threads, backward key heads
 * (so that the query heads that read the same key add to its gradient in a fixed order). */
#include <math.h>
#include <string.h>

#include "backends/cpu/kernels.h"
#include "backends/cpu/pack.h"

enum { QUERY = 0, KEY, VALUE, MASK, DOUT, TENSORS };
enum { SLOTS = 64 }; /* pieces that have scratch of their own */

typedef struct sdpa_job {
    const bb_tensor *t[TENSORS];
    bb_tensor *copy[TENSORS];
    bb_sdpa_head head;    /* sizes, strides and attributes; pointers are to element 0 */
    int64_t heads, group; /* over all batches; query heads to a key head */
    int64_t mask_stride[BB_MAX_RANK];
    bb_dtype dtype;
    const bb_sdpa_loops *loops;
    int64_t items, slots;
    char *scratch;
    size_t scratch_bytes; /* of a slot */
} sdpa_job;

static int64_t leading(const bb_tensor *t) {
    int64_t n = 1;
    for (int a = 0; a < t->rank - 2; a++) n *= t->size[a];
    return n;
}

/* Strides of the mask along the axes of (..., H, T, S), 0 where it is broadcast. */
static void place_mask(sdpa_job *job) {
    const bb_tensor *mask = job->t[MASK];
    const int rank = job->t[QUERY]->rank;
    for (int a = 0; a < rank; a++) {
        const int own = mask ? a - (rank - mask->rank) : -1;
        job->mask_stride[a] = own >= 0 && mask->size[own] != 1 ? mask->stride[own] : 0;
    }
    job->head.mask_t = job->mask_stride[rank - 2];
    job->head.mask_s = job->mask_stride[rank - 1];
    job->head.mask_is_bool = mask && mask->dtype == BB_BOOL;
}

static void finish(sdpa_job *job) {
    for (int i = 0; i < TENSORS; i++) bb_drop(job->copy[i]);
}

/* A window that hides nothing is none, so that sums with it stay small. */
static int64_t window_of(const bb_sdpa_attrs *a, int64_t queries, int64_t keys) {
    return a->window_size < queries + keys ? a->window_size : 0;
}

static bb_status begin(const bb_call *call, const bb_tensor *dout, sdpa_job *job) {
    const bb_sdpa_attrs *a = call->attrs;
    memset(job, 0, sizeof *job);
    job->dtype = bb_cpu_compute_dtype(call->in[QUERY]);
    job->loops = bb_cpu_of(call->ctx)->loops->sdpa;
    for (int i = 0; i < TENSORS; i++) {
        const bb_tensor *t = i == DOUT ? dout : call->in[i];
        if (!t) continue;
        const bool ready = i == MASK ? t->dtype == BB_BOOL || t->dtype == job->dtype
                                     : bb_cpu_rows_ready(t, job->dtype);
        job->t[i] = bb_cpu_pack(t, ready, job->dtype, &job->copy[i]);
        if (job->t[i]) continue;
        finish(job);
        return call->ctx->status;
    }
    const bb_tensor *q = job->t[QUERY], *k = job->t[KEY], *v = job->t[VALUE];
    const int rank = q->rank;
    job->heads = leading(q);
    job->group = leading(k) ? job->heads / leading(k) : 1;
    job->head = (bb_sdpa_head){
        .queries = q->size[rank - 2],
        .keys = k->size[rank - 2],
        .width = q->size[rank - 1],
        .value_width = v->size[rank - 1],
        .q_stride = q->stride[rank - 2],
        .k_stride = k->stride[rank - 2],
        .v_stride = v->stride[rank - 2],
        .dout_stride = dout ? job->t[DOUT]->stride[rank - 2] : 0,
        .causal = a->is_causal,
        .window = window_of(a, q->size[rank - 2], k->size[rank - 2]),
        .scale = a->scale,
    };
    if (a->scale == 0 && job->head.width) job->head.scale = 1 / sqrt((double)job->head.width);
    place_mask(job);
    return BB_OK;
}

/* Element `index` of data, in the job's dtype; NULL stays NULL. */
static void *element(const sdpa_job *job, void *data, int64_t index) {
    return data ? (char *)data + index * (int64_t)bb_dtype_bytes(job->dtype) : NULL;
}

static const void *head_rows(const sdpa_job *job, int i, int64_t head) {
    const bb_tensor *t = job->t[i];
    return t ? element(job, t->data, bb_cpu_row_offset(t, t->rank - 2, head)) : NULL;
}

static const void *head_mask(const sdpa_job *job, int64_t head) {
    const bb_tensor *mask = job->t[MASK], *q = job->t[QUERY];
    if (!mask) return NULL;
    int64_t offset = 0;
    for (int a = q->rank - 3; a >= 0; a--) {
        offset += head % q->size[a] * job->mask_stride[a];
        head /= q->size[a];
    }
    return mask->data + offset * (int64_t)bb_dtype_bytes((bb_dtype)mask->dtype);
}

/* One head of the job; out, lse and gradients are contiguous. */
static bb_sdpa_head head_of(const sdpa_job *job, int64_t head) {
    bb_sdpa_head h = job->head;
    const int64_t own = head / job->group, d = h.width, e = h.value_width;
    h.q = head_rows(job, QUERY, head);
    h.k = head_rows(job, KEY, own);
    h.v = head_rows(job, VALUE, own);
    h.dout = head_rows(job, DOUT, head);
    h.mask = head_mask(job, head);
    h.out = element(job, h.out, head * h.queries * e);
    h.lse = element(job, h.lse, head * h.queries);
    h.dq = element(job, h.dq, head * h.queries * d);
    h.dk = element(job, h.dk, own * h.keys * d);
    h.dv = element(job, h.dv, own * h.keys * e);
    return h;
}

static int64_t blocks(const sdpa_job *job) {
    return (job->head.queries + BB_SDPA_BLOCK - 1) / BB_SDPA_BLOCK;
}

/* Slot s does the items from s * items / slots on. */
static void forward_slots(void *user, int64_t first, int64_t last) {
    const sdpa_job *job = user;
    const int64_t n = blocks(job);
    for (int64_t slot = first; slot < last; slot++) {
        void *scratch = job->scratch + (size_t)slot * job->scratch_bytes;
        for (int64_t i = slot * job->items / job->slots; i < (slot + 1) * job->items / job->slots;
             i++) {
            const bb_sdpa_head h = head_of(job, i / n);
            const int64_t from = i % n * BB_SDPA_BLOCK,
                          to = from + BB_SDPA_BLOCK < h.queries ? from + BB_SDPA_BLOCK : h.queries;
            if (job->dtype == BB_F64)
                job->loops->forward_f64(&h, from, to, scratch);
            else
                job->loops->forward_f32(&h, from, to, scratch);
        }
    }
}

static void backward_slots(void *user, int64_t first, int64_t last) {
    const sdpa_job *job = user;
    for (int64_t slot = first; slot < last; slot++) {
        void *scratch = job->scratch + (size_t)slot * job->scratch_bytes;
        for (int64_t i = slot * job->items / job->slots; i < (slot + 1) * job->items / job->slots;
             i++) {
            for (int64_t g = 0; g < job->group; g++) {
                const bb_sdpa_head h = head_of(job, i * job->group + g);
                if (job->dtype == BB_F64)
                    job->loops->backward_f64(&h, scratch);
                else
                    job->loops->backward_f32(&h, scratch);
            }
        }
    }
}

static bb_status run_slots(const bb_call *call, sdpa_job *job, int64_t items, bool backward) {
    const size_t unit = bb_dtype_bytes(job->dtype);
    const size_t elements = (job->dtype == BB_F64 ? job->loops->scratch_f64
                                                  : job->loops->scratch_f32)(&job->head, backward);
    job->items = items;
    job->slots = items < SLOTS ? items : SLOTS;
    job->scratch_bytes = (elements * unit + 63) / 64 * 64;
    bb_storage *scratch = bb_cpu_scratch(call, job->scratch_bytes * (size_t)job->slots);
    if (!scratch) return call->ctx->status;
    job->scratch = scratch->data;
    const int64_t work = job->heads * job->head.queries * (job->head.keys + 1) *
                         (job->head.width + job->head.value_width + 1);
    const int64_t grain = work < 32768 ? job->slots : 1;
    bb_cpu_for(bb_cpu_of(call->ctx), job->slots, grain, backward ? backward_slots : forward_slots,
               job);
    bb_storage_unref(scratch);
    return BB_OK;
}

/* Forward alone finds a float mask's gradient nowhere: such a call runs composed. */
bool bb_cpu_sdpa_supports(const bb_call *call) {
    return !(call->needs_grad && call->in[MASK] && call->in[MASK]->requires_grad);
}

bb_status bb_cpu_sdpa(bb_call *call) {
    if (call->out[0]->count == 0 && (!call->out[1] || call->out[1]->count == 0)) return BB_OK;
    sdpa_job job;
    bb_status status = begin(call, NULL, &job);
    if (status) return status;
    const bool narrow = call->out[0]->dtype != job.dtype;
    bb_tensor *out = narrow ? bb_cpu_like(call->out[0], job.dtype) : call->out[0];
    if (out) {
        job.head.out = out->data;
        job.head.lse = call->out[1] ? call->out[1]->data : NULL;
        status = run_slots(call, &job, job.heads * blocks(&job), false);
        if (!status && narrow) status = bb_copy_into(out, call->out[0]);
    }
    if (narrow) bb_drop(out);
    finish(&job);
    return out ? status : call->ctx->status;
}

/* Where gradient i is summed: its tensor, or an f32 one that is rounded into it; zero to begin
 * with. */
static bb_tensor *gradient_begin(const bb_grad_call *grad, int i, bb_dtype dtype) {
    bb_tensor *t = grad->grad_in[i];
    if (!grad->want[i] || !t) return NULL;
    if (t->dtype != dtype) t = bb_cpu_like(t, dtype);
    if (t && t->count) memset(t->data, 0, (size_t)t->count * bb_dtype_bytes(dtype));
    return t;
}

bb_status bb_cpu_sdpa_backward(const bb_grad_call *grad) {
    const bb_call *call = grad->call;
    sdpa_job job;
    bb_tensor *to[3] = {NULL, NULL, NULL}, *out_copy;
    bb_status status = begin(call, grad->grad_out[0], &job);
    if (status) return status;
    const bb_tensor *out =
        bb_cpu_pack(call->out[0], call->out[0]->dtype == job.dtype, job.dtype, &out_copy);
    for (int i = 0; i < 3 && out; i++) to[i] = gradient_begin(grad, i, job.dtype);
    status = call->ctx->status;
    if (!status && job.heads && job.head.queries) {
        job.head.out = out->data;
        job.head.lse = call->out[1]->data;
        job.head.dq = to[QUERY] ? to[QUERY]->data : NULL;
        job.head.dk = to[KEY] ? to[KEY]->data : NULL;
        job.head.dv = to[VALUE] ? to[VALUE]->data : NULL;
        status = run_slots(call, &job, job.heads / job.group, true);
    }
    for (int i = 0; i < 3; i++) {
        if (!to[i] || to[i] == grad->grad_in[i]) continue;
        if (!status) status = bb_copy_into(to[i], grad->grad_in[i]);
        bb_drop(to[i]);
    }
    bb_drop(out_copy);
    finish(&job);
    return status;
}
