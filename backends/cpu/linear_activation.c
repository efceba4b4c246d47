/* LinearActivation on the CPU: panels of rows, as many as the second-level cache holds of their
 * sums, whose activation is taken while they are there. Product: linear.c; loops: activation.c. The
 * math: ops/linear_activation.c. */
#include "backends/cpu/kernels.h"
#include "ops/attrs.h"

/* A panel has rows enough for its product to hide that the weight is packed anew for each. */
enum { PANEL_BYTES = 1 << 19, PANEL_ROWS = 256 };

/* Rows [begin, begin + n) of a contiguous tensor, as a matrix. A header, for reading and writing
 * while t lives. */
static bb_tensor rows_of(const bb_tensor *t, int64_t begin, int64_t n) {
    const int64_t width = t->size[t->rank - 1];
    bb_tensor view = *t;
    view.data += (size_t)(begin * width) * bb_dtype_bytes((bb_dtype)t->dtype);
    view.count = n * width;
    view.rank = 2;
    view.size[0] = n, view.size[1] = width;
    view.stride[0] = width, view.stride[1] = 1;
    return view;
}

static bb_status activate(const bb_call *call, bb_tensor *sum, bb_tensor *out) {
    static bb_status (*const unary[])(bb_call *) = {bb_cpu_relu, bb_cpu_gelu, bb_cpu_silu,
                                                    bb_cpu_sigmoid, bb_cpu_tanh};
    const bb_linear_activation_attrs *a = call->attrs;
    const bb_gelu_attrs tanh_form = {BB_GELU_TANH};
    bb_call one = {.ctx = call->ctx, .attrs = &tanh_form, .n_in = 1, .n_out = 1, .in = &sum};
    one.out[0] = out;
    return unary[a->activation](&one);
}

static bb_status panel(const bb_call *call, bb_tensor *x, bb_tensor *sum, bb_tensor *out) {
    bb_tensor *in[] = {x, call->in[1], call->in[2]};
    bb_call one = {.ctx = call->ctx, .n_in = 3, .n_out = 1, .in = in};
    one.out[0] = sum;
    bb_status status = bb_cpu_linear(&one);
    return status ? status : activate(call, sum, out);
}

bb_status bb_cpu_linear_activation(bb_call *call) {
    bb_tensor *x = call->in[0], *out = call->out[0], *sum = call->out[1];
    if (out->count == 0) return BB_OK;
    const int64_t width = out->size[out->rank - 1], rows = out->count / width;
    int64_t n = PANEL_BYTES / (width * (int64_t)sizeof(float));
    if (n < PANEL_ROWS) n = PANEL_ROWS;
    if (!x->contiguous || rows <= n) return panel(call, x, sum, out);
    for (int64_t r = 0; r < rows; r += n) {
        if (n > rows - r) n = rows - r;
        bb_tensor some_x = rows_of(x, r, n), some_sum = rows_of(sum, r, n),
                  some_out = rows_of(out, r, n);
        bb_status status = panel(call, &some_x, &some_sum, &some_out);
        if (status) return status;
    }
    return BB_OK;
}
