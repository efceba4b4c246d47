/* LinearActivation on the CPU: the product that starts from the bias (linear.c), then its
 * activation in one pass (activation.c). Taken panel by panel, while sums are in the cache, it was
 * slower: the product packs the weight anew for each panel. The math: ops/linear_activation.c. */
#include "backends/cpu/kernels.h"
#include "ops/attrs.h"

static bb_status activate(const bb_call *call, bb_tensor *sum, bb_tensor *out) {
    static bb_status (*const unary[])(bb_call *) = {bb_cpu_relu, bb_cpu_gelu, bb_cpu_silu,
                                                    bb_cpu_sigmoid, bb_cpu_tanh};
    const bb_linear_activation_attrs *a = call->attrs;
    const bb_gelu_attrs tanh_form = {BB_GELU_TANH};
    bb_call one = {.ctx = call->ctx, .attrs = &tanh_form, .n_in = 1, .n_out = 1, .in = &sum};
    one.out[0] = out;
    return unary[a->activation](&one);
}

bb_status bb_cpu_linear_activation(bb_call *call) {
    bb_tensor *sum = call->out[1];
    bb_call one = *call;
    one.out[0] = sum;
    bb_status status = bb_cpu_linear(&one);
    return status ? status : activate(call, sum, call->out[0]);
}
