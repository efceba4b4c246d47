/* cat, stack and pad: each input is copied into a view of its place in the output. */
#include "backends/cpu/kernels.h"

static bb_status copy_to_place(const bb_tensor *x, bb_tensor *out, const bb_shape *shape,
                               const int64_t *stride, int64_t offset) {
    if (x->count == 0) return BB_OK;
    bb_tensor *place = bb_tensor_view(out, shape, stride, offset);
    if (!place) return bb_error(out->ctx);
    bb_status status = bb_copy_into(x, place);
    bb_drop(place);
    return status;
}

bb_status bb_cpu_cat(bb_call *call) {
    bb_tensor *out = call->out[0];
    int64_t axis = ((const bb_axis_attrs *)call->attrs)->axis, start = 0;
    bb_status status = BB_OK;
    if (axis < 0) axis += out->rank;
    for (int i = 0; !status && i < call->n_in; i++) {
        const bb_shape shape = bb_shape_of_tensor(call->in[i]);
        status = copy_to_place(call->in[i], out, &shape, out->stride, start * out->stride[axis]);
        start += shape.size[axis];
    }
    return status;
}

bb_status bb_cpu_stack(bb_call *call) {
    bb_tensor *out = call->out[0];
    int64_t axis = ((const bb_axis_attrs *)call->attrs)->axis, stride[BB_MAX_RANK];
    bb_status status = BB_OK;
    if (axis < 0) axis += out->rank;
    for (int i = 0, k = 0; i < out->rank; i++)
        if (i != axis) stride[k++] = out->stride[i];
    for (int i = 0; !status && i < call->n_in; i++) {
        const bb_shape shape = bb_shape_of_tensor(call->in[i]);
        status = copy_to_place(call->in[i], out, &shape, stride, i * out->stride[axis]);
    }
    return status;
}

bb_status bb_cpu_pad(bb_call *call) {
    const bb_pad_attrs *a = call->attrs;
    bb_tensor *out = call->out[0];
    bb_backend *backend = &bb_cpu_of(call->ctx)->base;
    const bb_shape shape = bb_shape_of_tensor(call->in[0]);
    int64_t offset = 0;
    for (int i = 0; i < out->rank; i++) offset += a->before.v[i] * out->stride[i];
    if (out->count == 0) return BB_OK;
    bb_status status = backend->fill(backend, out, a->value);
    return status ? status : copy_to_place(call->in[0], out, &shape, out->stride, offset);
}
