/* Optimizer steps in place. lr, step and grad_scale are f32 tensors of one element on the device
 * (for an f64 parameter f64 ones too), so that a captured step can be replayed while they change. g
 * is grad * grad_scale throughout; where grad_scale is NaN nothing changes: that is how clipping
 * skips a step whose gradient is not finite.
 *
 *     adamw_  p <- p (1 - lr weight_decay)        but for the last `undecayed` elements
 *             m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2
 *             p <- p - lr / (1 - beta1^step) m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
 *     sgd_    g <- g + weight_decay p,  u <- momentum u + g
 *             p <- p - lr u, or with nesterov p - lr (g + momentum u)
 *
 * m, v and velocity are f64 for an f64 parameter and f32 otherwise; f16 and bf16 parameters are
 * computed in f32 and rounded once a step. Kernels: backends/cpu/optimize.c,
 * backends/cuda/optimize.cu. The optimizers: nn/. */
#include "ops/infer.h"
#include "ops/ops.h"
#include "ops/table.h"

/* The same shape as the parameter, stored without gaps because it is written as one run. */
static bb_status check_run(const bb_call *call, int input, bb_dtype dtype) {
    bb_status status = bb_want_dtype(call, input, dtype);
    if (!status) status = bb_want_shape(call, input, bb_shape_of(call->in[0]));
    if (!status && !bb_is_contiguous(call->in[input]))
        status =
            bb_fail_input(call, input, "expected a contiguous tensor, got one with other strides");
    return status;
}

static bb_status check_number(const bb_call *call, int input) {
    bool wide = bb_dtype_of(call->in[0]) == BB_F64 && bb_dtype_of(call->in[input]) == BB_F64;
    bb_status status = wide ? BB_OK : bb_want_dtype(call, input, BB_F32);
    if (!status && bb_count(call->in[input]) != 1)
        status = bb_fail_input(call, input, "expected one element, got %lld",
                               (long long)bb_count(call->in[input]));
    return status;
}

/* The gradient is only read: its strides are free. */
static bb_status check_param(const bb_call *call) {
    bb_status status = bb_want_float(call, 0);
    if (!status) status = check_run(call, 0, bb_dtype_of(call->in[0]));
    if (!status) status = bb_want_dtype(call, 1, bb_dtype_of(call->in[0]));
    return status ? status : bb_want_shape(call, 1, bb_shape_of(call->in[0]));
}

static bb_status adamw_infer(bb_call *call) {
    const bb_adamw_attrs *a = call->attrs;
    bb_dtype state = bb_dtype_of(call->in[0]) == BB_F64 ? BB_F64 : BB_F32;
    bb_status status = check_param(call);
    for (int i = 2; i < 4 && !status; i++) status = check_run(call, i, state);
    for (int i = 4; i < 7 && !status; i++)
        if (call->in[i]) status = check_number(call, i);
    if (status) return status;
    if (!(a->beta1 >= 0 && a->beta1 < 1))
        return bb_fail_attr(call, "beta1", "expected a number in [0, 1), got %g", a->beta1);
    if (!(a->beta2 >= 0 && a->beta2 < 1))
        return bb_fail_attr(call, "beta2", "expected a number in [0, 1), got %g", a->beta2);
    if (!(a->eps >= 0)) return bb_fail_attr(call, "eps", "expected a number >= 0, got %g", a->eps);
    if (!(a->weight_decay >= 0))
        return bb_fail_attr(call, "weight_decay", "expected a number >= 0, got %g",
                            a->weight_decay);
    const int64_t n = bb_count(call->in[0]);
    if (a->undecayed < 0 || a->undecayed > n)
        return bb_fail_attr(call, "undecayed", "expected a number from 0 to %lld, got %lld",
                            (long long)n, (long long)a->undecayed);
    return BB_OK;
}

static bb_status sgd_infer(bb_call *call) {
    const bb_sgd_attrs *a = call->attrs;
    bb_dtype state = bb_dtype_of(call->in[0]) == BB_F64 ? BB_F64 : BB_F32;
    bb_status status = check_param(call);
    if (!status && call->in[2]) status = check_run(call, 2, state);
    for (int i = 3; i < 5 && !status; i++)
        if (call->in[i]) status = check_number(call, i);
    if (status) return status;
    if (!(a->momentum >= 0))
        return bb_fail_attr(call, "momentum", "expected a number >= 0, got %g", a->momentum);
    if (!(a->weight_decay >= 0))
        return bb_fail_attr(call, "weight_decay", "expected a number >= 0, got %g",
                            a->weight_decay);
    if (a->momentum > 0 && !call->in[2])
        return bb_fail_input(call, 2, "expected a tensor when momentum is not 0, got NULL");
    if (a->nesterov && !(a->momentum > 0))
        return bb_fail_attr(call, "nesterov", "expected momentum > 0 with it, got 0");
    return BB_OK;
}

const bb_op bb_op_adamw = {
    .name = "adamw_",
    .doc = "AdamW step in place: param, m and v change",
    .inputs = {"param", "grad", "m", "v", "lr", "step", "grad_scale"},
    .attrs = {{"beta1", BB_ATTR_FLOAT, offsetof(bb_adamw_attrs, beta1), .value = 0.9},
              {"beta2", BB_ATTR_FLOAT, offsetof(bb_adamw_attrs, beta2), .value = 0.999},
              {"eps", BB_ATTR_FLOAT, offsetof(bb_adamw_attrs, eps), .value = 1e-8},
              {"weight_decay", BB_ATTR_FLOAT, offsetof(bb_adamw_attrs, weight_decay),
               .value = 0.01},
              {"undecayed", BB_ATTR_INT, offsetof(bb_adamw_attrs, undecayed), .value = 0}},
    .attrs_bytes = sizeof(bb_adamw_attrs),
    .optional = 1u << 6,
    .mutates = 1u << 0 | 1u << 2 | 1u << 3,
    .infer = adamw_infer,
    .gradient = bb_no_gradient,
};

const bb_op bb_op_sgd = {
    .name = "sgd_",
    .doc = "SGD step in place, with momentum: param and velocity change",
    .inputs = {"param", "grad", "velocity", "lr", "grad_scale"},
    .attrs = {{"momentum", BB_ATTR_FLOAT, offsetof(bb_sgd_attrs, momentum), .value = 0},
              {"weight_decay", BB_ATTR_FLOAT, offsetof(bb_sgd_attrs, weight_decay), .value = 0},
              {"nesterov", BB_ATTR_BOOL, offsetof(bb_sgd_attrs, nesterov), .value = 0}},
    .attrs_bytes = sizeof(bb_sgd_attrs),
    .optional = 1u << 2 | 1u << 4,
    .mutates = 1u << 0 | 1u << 2,
    .infer = sgd_infer,
    .gradient = bb_no_gradient,
};

bb_status bb_adamw_(bb_t param, bb_t grad, bb_t m, bb_t v, bb_t lr, bb_t step, bb_t grad_scale,
                    const bb_adamw_attrs *attrs) {
    bb_tensor *in[] = {param, grad, m, v, lr, step, grad_scale};
    return bb_apply(bb_context_of(param ? param : grad), &bb_op_adamw, in, 7, attrs, NULL);
}

bb_status bb_sgd_(bb_t param, bb_t grad, bb_t velocity, bb_t lr, bb_t grad_scale,
                  const bb_sgd_attrs *attrs) {
    bb_tensor *in[] = {param, grad, velocity, lr, grad_scale};
    return bb_apply(bb_context_of(param ? param : grad), &bb_op_sgd, in, 5, attrs, NULL);
}
