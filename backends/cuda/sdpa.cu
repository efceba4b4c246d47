/* SDPA on CUDA, the adapters: what a call's tensors are to the kernels (sdpa.h). Views whose last
 * axis has no gaps are read where they lie, whatever their other strides; others are copied. */
#include <math.h>

#include "backends/cuda/copy.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/sdpa.h"

namespace {

enum { QUERY, KEY, VALUE, MASK, DOUT, TENSORS };

struct copies {
    bb_storage *held[TENSORS];
};
void release(bb_cuda *cuda, copies *c) {
    for (int i = 0; i < TENSORS; i++) bb_cuda_release(cuda, c->held[i]);
}

template <typename T>
bool set_rows(bb_cuda *cuda, const bb_tensor *t, bb_sdpa_rows<T> *rows, bb_storage **held) {
    const int last = t->rank - 1, pack = bb_pack<T>::N;
    const bool ready = t->size[last] <= 1 || t->stride[last] == 1;
    const void *data = ready ? t->data : bb_cuda_contiguous_data(cuda, t, held);
    int64_t next = 1;
    rows->data = static_cast<const T *>(data);
    rows->wide = (uintptr_t)data % 16 == 0 && t->size[last] % pack == 0;
    for (int a = last; a >= 0; a--) {
        const int64_t stride = ready ? t->stride[a] : next;
        if (a == last - 1) rows->row = stride;
        if (a < last - 1) rows->lead[a] = stride;
        if (a < last && t->size[a] != 1 && stride % pack != 0) rows->wide = false;
        next *= t->size[a];
    }
    return data != NULL;
}

/* Strides of the mask along the axes of (..., H, T, S), 0 where it is broadcast. */
void set_mask(const bb_tensor *mask, int rank, bb_sdpa_mask *m) {
    if (!mask) return;
    m->kind = mask->dtype == BB_BOOL ? BB_SDPA_BOOL_MASK : BB_SDPA_FLOAT_MASK;
    m->data = mask->data;
    for (int a = 0; a < rank; a++) {
        const int own = a - (rank - mask->rank);
        const int64_t stride = own >= 0 && mask->size[own] != 1 ? mask->stride[own] : 0;
        *(a == rank - 1 ? &m->key : a == rank - 2 ? &m->query : &m->lead[a]) = stride;
    }
}

template <typename T>
bb_status begin(bb_cuda *cuda, const bb_call *call, const bb_tensor *dout, bb_sdpa_job<T> *j,
                copies *c) {
    const bb_sdpa_attrs *a = static_cast<const bb_sdpa_attrs *>(call->attrs);
    const bb_tensor *q = call->in[QUERY], *k = call->in[KEY], *v = call->in[VALUE];
    const int rank = q->rank;
    *j = bb_sdpa_job<T>();
    *c = copies();
    j->leads = rank - 2;
    j->heads = 1;
    int64_t key_heads = 1;
    for (int i = 0; i < rank - 2; i++) {
        j->heads *= j->lead_size[i] = q->size[i];
        key_heads *= k->size[i];
    }
    j->group = key_heads ? j->heads / key_heads : 1;
    j->queries = q->size[rank - 2], j->keys = k->size[rank - 2];
    j->width = (int)q->size[rank - 1], j->value_width = (int)v->size[rank - 1];
    j->causal = a->is_causal;
    /* A window that hides nothing is none, so that sums with it stay small. */
    j->window = a->window_size < j->queries + j->keys ? a->window_size : 0;
    j->scale = (bb_real<T>)(a->scale == 0 && j->width ? 1 / sqrt((double)j->width) : a->scale);
    set_mask(call->in[MASK], rank, &j->mask);
    if (set_rows(cuda, q, &j->q, &c->held[QUERY]) && set_rows(cuda, k, &j->k, &c->held[KEY]) &&
        set_rows(cuda, v, &j->v, &c->held[VALUE]) &&
        (!dout || set_rows(cuda, dout, &j->dout, &c->held[DOUT])))
        return BB_OK;
    release(cuda, c);
    return cuda->base.ctx->status;
}

template <typename T> T *data_of(bb_tensor *t) {
    return t && t->count ? reinterpret_cast<T *>(t->data) : NULL;
}

template <typename T> bb_status forward(bb_cuda *cuda, bb_call *call) {
    bb_sdpa_job<T> j;
    copies c;
    bb_status status = begin(cuda, call, NULL, &j, &c);
    if (status) return status;
    j.out = data_of<T>(call->out[0]);
    j.lse = data_of<bb_real<T>>(call->out[1]);
    status = bb_sdpa_forward(cuda, j);
    release(cuda, &c);
    return status;
}

template <typename T> bb_status backward(bb_cuda *cuda, const bb_grad_call *grad) {
    const bb_call *call = grad->call;
    bb_sdpa_job<T> j;
    copies c;
    bb_status status = begin(cuda, call, grad->grad_out[0], &j, &c);
    if (status) return status;
    T **const gradient[] = {&j.dq, &j.dk, &j.dv};
    for (int i = 0; i < 3; i++)
        if (grad->want[i]) *gradient[i] = data_of<T>(grad->grad_in[i]);
    j.o = data_of<T>(call->out[0]);
    j.lse = data_of<bb_real<T>>(call->out[1]);
    const int64_t rows = j.heads * j.queries;
    bb_storage *delta = bb_cuda_scratch(cuda, (size_t)(rows > 0 ? rows : 1) * sizeof(bb_real<T>));
    if (delta) {
        j.delta = static_cast<bb_real<T> *>(delta->data);
        status = bb_sdpa_backward(cuda, j);
    } else {
        status = cuda->base.ctx->status;
    }
    bb_cuda_release(cuda, delta);
    release(cuda, &c);
    return status;
}

} // namespace

/* A float mask's gradient is T x S: such a call runs composed. So do rows too long for registers,
 * and more blocks than a launch can have (of 32 rows, the smallest). */
bool bb_cuda_sdpa_supports(const bb_call *call) {
    const bb_tensor *q = call->in[QUERY], *k = call->in[KEY], *v = call->in[VALUE];
    const int last = q->rank - 1;
    if (call->needs_grad && call->in[MASK] && call->in[MASK]->requires_grad) return false;
    if (q->size[last] > BB_SDPA_MAX_WIDTH || v->size[last] > BB_SDPA_MAX_WIDTH) return false;
    double heads = 1;
    for (int a = 0; a < last - 1; a++) heads *= (double)q->size[a];
    const double rows =
        (double)(q->size[last - 1] > k->size[last - 1] ? q->size[last - 1] : k->size[last - 1]);
    return heads * (rows / 32 + 1) < 2147483647.0;
}

bb_status bb_cuda_sdpa(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    if (call->out[0]->count == 0 && (!call->out[1] || call->out[1]->count == 0)) return BB_OK;
    bb_status status = BB_OK;
    bb_float_dtype(call->in[QUERY]->dtype,
                   [&](auto tag) { status = forward<typename decltype(tag)::type>(cuda, call); });
    return status;
}

bb_status bb_cuda_sdpa_backward(const bb_grad_call *grad) {
    bb_cuda *cuda = bb_cuda_begin(grad->call);
    bb_status status = BB_OK;
    bb_float_dtype(grad->call->in[QUERY]->dtype,
                   [&](auto tag) { status = backward<typename decltype(tag)::type>(cuda, grad); });
    return status;
}
