/* SDPA on the CPU, fused: memory grows with T, not T^2. The math: ops/sdpa.c; loops:
 * loops/sdpa_kernel.h.
 *
 * query, key and value are read where they lie as long as their last axis has no gaps. Forward
 * shares blocks of queries among threads, backward key heads (so that the query heads that read the
 * same key add to its gradient in a fixed order). */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "backends/cpu/kernels.h"
#include "backends/cpu/pack.h"

enum { QUERY = 0, KEY, VALUE, MASK, DOUT, TENSORS };
enum { PIECES = 64 }; /* at most */

typedef struct sdpa_job {
    const bb_tensor *t[TENSORS];
    bb_tensor *copy[TENSORS];
    bb_sdpa_head head;    /* sizes, strides and attributes; pointers are to element 0 */
    int64_t heads, group; /* over all batches; query heads to a key head */
    int64_t mask_stride[BB_MAX_RANK];
    bb_dtype dtype; /* to compute in */
    const bb_sdpa_loops *loops;
    const bb_elementwise_loops *convert;
    char *scratch;
    size_t sum_bytes, scratch_bytes; /* of one place: the sums of dk and dv come first */
    int places;                      /* as many as pieces run at a time */
    atomic_flag taken[BB_MAX_THREADS];
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
    job->convert = bb_cpu_of(call->ctx)->loops->elementwise;
    for (int i = 0; i < TENSORS; i++) {
        const bb_tensor *t = i == DOUT ? dout : call->in[i];
        if (!t) continue;
        const bb_dtype dtype = (bb_dtype)t->dtype;
        job->t[i] = bb_cpu_pack(t, i == MASK || bb_cpu_rows_ready(t, dtype), dtype, &job->copy[i]);
        if (job->t[i]) continue;
        finish(job);
        return call->ctx->status;
    }
    const bb_tensor *q = job->t[QUERY], *k = job->t[KEY], *v = job->t[VALUE];
    const int rank = q->rank;
    job->heads = leading(q);
    job->group = leading(k) ? job->heads / leading(k) : 1;
    job->head = (bb_sdpa_head){
        .dtype = q->dtype,
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

/* Element `index` of data; NULL stays NULL. */
static void *element(int dtype, void *data, int64_t index) {
    return data ? (char *)data + index * (int64_t)bb_dtype_bytes((bb_dtype)dtype) : NULL;
}

static const void *head_rows(const sdpa_job *job, int i, int64_t head) {
    const bb_tensor *t = job->t[i];
    return t ? element(t->dtype, t->data, bb_cpu_row_offset(t, t->rank - 2, head)) : NULL;
}

static const void *head_mask(const sdpa_job *job, int64_t head) {
    const bb_tensor *mask = job->t[MASK], *q = job->t[QUERY];
    if (!mask) return NULL;
    int64_t offset = 0;
    for (int a = q->rank - 3; a >= 0; a--) {
        offset += head % q->size[a] * job->mask_stride[a];
        head /= q->size[a];
    }
    return element(mask->dtype, mask->data, offset);
}

/* One query head of the job; out, lse and gradients are contiguous. */
static bb_sdpa_head head_of(const sdpa_job *job, int64_t head) {
    bb_sdpa_head h = job->head;
    const int64_t own = head / job->group;
    h.q = head_rows(job, QUERY, head);
    h.k = head_rows(job, KEY, own);
    h.v = head_rows(job, VALUE, own);
    h.dout = head_rows(job, DOUT, head);
    h.mask = head_mask(job, head);
    h.out = element(h.dtype, h.out, head * h.queries * h.value_width);
    h.lse = element(job->dtype, h.lse, head * h.queries);
    h.dq = element(h.dtype, h.dq, head * h.queries * h.width);
    return h;
}

static int64_t blocks(const sdpa_job *job) {
    return (job->head.queries + BB_SDPA_BLOCK - 1) / BB_SDPA_BLOCK;
}

/* A place in scratch that no other piece is at. */
static int take_place(sdpa_job *job) {
    int place = 0;
    while (atomic_flag_test_and_set(&job->taken[place])) place = (place + 1) % job->places;
    return place;
}

/* Items are blocks of queries, of all heads in order. */
static void forward_piece(void *user, int64_t begin, int64_t end) {
    sdpa_job *job = user;
    const int64_t n = blocks(job);
    const int place = take_place(job);
    void *scratch = job->scratch + (size_t)place * job->scratch_bytes;
    for (int64_t i = begin; i < end; i++) {
        const bb_sdpa_head h = head_of(job, i / n);
        const int64_t from = i % n * BB_SDPA_BLOCK,
                      to = from + BB_SDPA_BLOCK < h.queries ? from + BB_SDPA_BLOCK : h.queries;
        if (job->dtype == BB_F64)
            job->loops->forward_f64(&h, from, to, scratch);
        else
            job->loops->forward_f32(&h, from, to, scratch);
    }
    atomic_flag_clear(&job->taken[place]);
}

/* Items are key heads. What the query heads of one add to dk and dv is summed where it belongs or,
 * if that is narrow, in scratch, to be rounded once. */
static void backward_piece(void *user, int64_t begin, int64_t end) {
    sdpa_job *job = user;
    const int dtype = job->head.dtype;
    const bool narrow = dtype != (int)job->dtype;
    const int64_t n[2] = {job->head.keys * job->head.width, job->head.keys * job->head.value_width};
    const int place = take_place(job);
    char *scratch = job->scratch + (size_t)place * job->scratch_bytes;
    for (int64_t own = begin; own < end; own++) {
        void *to[2] = {element(dtype, job->head.dk, own * n[0]),
                       element(dtype, job->head.dv, own * n[1])};
        void *sum[2] = {to[0], to[1]};
        for (int k = 0; k < 2; k++) {
            if (!to[k]) continue;
            if (narrow) sum[k] = k == 1 && to[0] ? element(job->dtype, scratch, n[0]) : scratch;
            memset(sum[k], 0, (size_t)n[k] * bb_dtype_bytes(job->dtype));
        }
        for (int64_t g = 0; g < job->group; g++) {
            bb_sdpa_head h = head_of(job, own * job->group + g);
            h.dk = sum[0];
            h.dv = sum[1];
            if (job->dtype == BB_F64)
                job->loops->backward_f64(&h, (void *)(scratch + job->sum_bytes));
            else
                job->loops->backward_f32(&h, (void *)(scratch + job->sum_bytes));
        }
        for (int k = 0; k < 2 && narrow; k++)
            if (to[k]) job->convert->store_f32(dtype, n[k], sum[k], to[k]);
    }
    atomic_flag_clear(&job->taken[place]);
}

static bb_status share(const bb_call *call, sdpa_job *job, int64_t items, bool backward) {
    const bb_cpu *cpu = bb_cpu_of(call->ctx);
    const bb_sdpa_head *h = &job->head;
    const size_t unit = bb_dtype_bytes(job->dtype);
    const size_t elements =
        (job->dtype == BB_F64 ? job->loops->scratch_f64 : job->loops->scratch_f32)(h, backward);
    const int64_t sums = h->dtype == (int)job->dtype
                             ? 0
                             : h->keys * ((h->dk ? h->width : 0) + (h->dv ? h->value_width : 0));
    const int64_t work = job->heads * h->queries * (h->keys + 1) * (h->width + h->value_width + 1);
    const int64_t grain = work < 32768 ? items : (items + PIECES - 1) / PIECES;
    const int64_t pieces = (items + grain - 1) / grain;
    job->places = pieces < cpu->threads ? (int)pieces : cpu->threads;
    for (int i = 0; i < job->places; i++) atomic_flag_clear(&job->taken[i]);
    job->sum_bytes = ((size_t)sums * unit + 63) / 64 * 64;
    job->scratch_bytes = job->sum_bytes + (elements * unit + 63) / 64 * 64;
    bb_storage *scratch = bb_cpu_scratch(call, job->scratch_bytes * (size_t)job->places);
    if (!scratch) return call->ctx->status;
    job->scratch = scratch->data;
    bb_cpu_for(cpu, items, grain, backward ? backward_piece : forward_piece, job);
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
    job.head.out = call->out[0]->data;
    job.head.lse = call->out[1] ? call->out[1]->data : NULL;
    status = share(call, &job, job.heads * blocks(&job), false);
    finish(&job);
    return status;
}

static void *gradient(const bb_grad_call *grad, int i) {
    return grad->want[i] && grad->grad_in[i] ? grad->grad_in[i]->data : NULL;
}

bb_status bb_cpu_sdpa_backward(const bb_grad_call *grad) {
    const bb_call *call = grad->call;
    const int64_t items = leading(call->in[KEY]);
    if (items == 0) return BB_OK;
    sdpa_job job;
    bb_status status = begin(call, grad->grad_out[0], &job);
    if (status) return status;
    job.head.out = call->out[0]->data;
    job.head.lse = call->out[1]->data;
    job.head.dq = gradient(grad, QUERY);
    job.head.dk = gradient(grad, KEY);
    job.head.dv = gradient(grad, VALUE);
    status = share(call, &job, items, true);
    finish(&job);
    return status;
}
