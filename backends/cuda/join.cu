/* cat, stack and pad: each input is copied to its place in the output, a view of it (copy.cu).
 * Bytes moved: each input once, the output once; pad writes under its input twice, which is the
 * smaller evil beside a kernel of its own for an op that no training step has. */
#include "backends/cuda/copy.h"
#include "backends/cuda/kernels.h"

/* A header over x's place in out. Headers of the context are not for backends to make, and this one
 * lives no longer than the call. */
static bb_status copy_to_place(bb_cuda *cuda, const bb_tensor *x, const bb_tensor *out,
                               const int64_t *stride, int64_t offset) {
    static const unsigned char bytes[BB_DTYPE_COUNT] = {8, 4, 2, 2, 8, 4, 1, 1};
    if (x->count == 0) return BB_OK;
    bb_tensor place = *x;
    place.storage = out->storage;
    place.data = out->data + offset * bytes[out->dtype];
    int64_t dense = 1;
    place.contiguous = true;
    for (int a = place.rank - 1; a >= 0; a--) {
        place.stride[a] = stride[a];
        place.contiguous = place.contiguous && (place.size[a] == 1 || stride[a] == dense);
        dense *= place.size[a];
    }
    return bb_cuda_copy_elements(cuda, x, &place);
}

bb_status bb_cuda_cat(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    const bb_tensor *out = call->out[0];
    int64_t axis = static_cast<const bb_axis_attrs *>(call->attrs)->axis, start = 0;
    bb_status status = BB_OK;
    if (axis < 0) axis += out->rank;
    for (int i = 0; !status && i < call->n_in; i++) {
        status = copy_to_place(cuda, call->in[i], out, out->stride, start * out->stride[axis]);
        start += call->in[i]->size[axis];
    }
    return status;
}

bb_status bb_cuda_stack(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    const bb_tensor *out = call->out[0];
    int64_t axis = static_cast<const bb_axis_attrs *>(call->attrs)->axis, stride[BB_MAX_RANK];
    bb_status status = BB_OK;
    if (axis < 0) axis += out->rank;
    for (int i = 0, k = 0; i < out->rank; i++)
        if (i != axis) stride[k++] = out->stride[i];
    for (int i = 0; !status && i < call->n_in; i++)
        status = copy_to_place(cuda, call->in[i], out, stride, i * out->stride[axis]);
    return status;
}

bb_status bb_cuda_pad(bb_call *call) {
    bb_cuda *cuda = bb_cuda_begin(call);
    const bb_pad_attrs *a = static_cast<const bb_pad_attrs *>(call->attrs);
    bb_tensor *out = call->out[0];
    int64_t offset = 0;
    for (int i = 0; i < out->rank; i++) offset += a->before.v[i] * out->stride[i];
    if (out->count == 0) return BB_OK;
    bb_status status = BB_OK;
    if (out->count != call->in[0]->count) status = bb_cuda_fill(&cuda->base, out, a->value);
    cuda->op = call->op->name;
    return status ? status : copy_to_place(cuda, call->in[0], out, out->stride, offset);
}
