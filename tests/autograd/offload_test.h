/* What the tests of offloading share. */
#ifndef BOBBIN_TESTS_AUTOGRAD_OFFLOAD_TEST_H
#define BOBBIN_TESTS_AUTOGRAD_OFFLOAD_TEST_H

#include "tests/support/test.h"

static inline bool can_offload(bb_context *ctx) {
    return bb_offload_available(ctx, bb_get_device(ctx), NULL);
}

static inline bb_status same_infer(bb_call *call) {
    call->meta[0] = (bb_meta){bb_dtype_of(call->in[0]), bb_shape_of(call->in[0])};
    return BB_OK;
}
static inline bb_status same_view(bb_call *call) {
    call->out[0] = bb_reshape(call->in[0], bb_shape_of(call->in[0]));
    return bb_error(call->ctx);
}

/* y = x, for the sake of what `gradient` does when the walk passes it. */
static inline bb_op passed_by(const char *name, bb_backward_fn gradient) {
    return (bb_op){.name = name,
                   .doc = "x",
                   .inputs = {"x"},
                   .outputs = {"y"},
                   .infer = same_infer,
                   .view = same_view,
                   .gradient = gradient};
}

#endif
