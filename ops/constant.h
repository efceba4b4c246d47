/* Constants inside a decomposition: made on the host, used on the device of the call. */
#ifndef BOBBIN_OPS_CONSTANT_H
#define BOBBIN_OPS_CONSTANT_H

#include "ops/ops.h"

/* host itself on the CPU, else a copy of it (contiguous, without history) on the call's device. */
static inline bb_t bb_place(const bb_call *call, bb_t host) {
    if (!host || call->device == BB_CPU) return host;
    bb_t t = bb_empty_on(call->ctx, call->device, bb_dtype_of(host), bb_shape_of(host));
    if (t) bb_write(t, bb_data(host), (size_t)bb_count(host) * bb_dtype_bytes(bb_dtype_of(host)));
    return t;
}

#endif
