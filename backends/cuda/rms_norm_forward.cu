/* RMSNormImpl and AddRMSNorm forward. Kernels, their maps and bytes: norm_forward.h; backward:
 * rms_norm_backward.cu; math: ops/rms_norm.c, ops/add_rms_norm.c. */
#include "backends/cuda/kernels.h"
#include "backends/cuda/norm_forward.h"

/* ops/rms_norm.c has the rule. In f32 and f64 the two orders are one. */
static bool rounds_first(const bb_rms_norm_attrs *a, int x, int scale) {
    const bool narrow = x == BB_F16 || x == BB_BF16;
    return narrow &&
           (a->rounding == BB_ROUND_AUTO ? scale != BB_F32 : a->rounding == BB_ROUND_THEN_SCALE);
}

bool bb_cuda_rms_norm_supports(const bb_call *call) {
    const bb_rms_norm_attrs *a = static_cast<const bb_rms_norm_attrs *>(call->attrs);
    return bb_norm_fits(call->in[0], &a->axes, call->in[1]);
}

bb_status bb_cuda_rms_norm(bb_call *call) {
    const bb_rms_norm_attrs *a = static_cast<const bb_rms_norm_attrs *>(call->attrs);
    bb_norm_pass pass = {};
    pass.x = call->in[0];
    pass.scale = call->in[1];
    pass.y = call->out[0];
    pass.rstd = call->out[1];
    pass.eps = a->eps;
    pass.round_first = rounds_first(a, pass.x->dtype, pass.scale->dtype);
    return norm_forward<false>(bb_cuda_begin(call), &pass);
}

bool bb_cuda_add_rms_norm_supports(const bb_call *call) {
    const bb_rms_norm_attrs *a = static_cast<const bb_rms_norm_attrs *>(call->attrs);
    return bb_norm_fits(call->in[0], &a->axes, call->in[2]);
}

bb_status bb_cuda_add_rms_norm(bb_call *call) {
    const bb_rms_norm_attrs *a = static_cast<const bb_rms_norm_attrs *>(call->attrs);
    bb_norm_pass pass = {};
    pass.x = call->in[0];
    pass.more = call->in[1];
    pass.scale = call->in[2];
    pass.y = call->out[0];
    pass.sum = call->out[1];
    pass.rstd = call->out[2];
    pass.eps = a->eps;
    pass.round_first = rounds_first(a, pass.x->dtype, pass.scale->dtype);
    return norm_forward<false>(bb_cuda_begin(call), &pass);
}
