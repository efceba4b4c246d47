/* Constants inside a decomposition: made where the context makes tensors, used on the device of the
 * call. */
#ifndef BOBBIN_OPS_CONSTANT_H
#define BOBBIN_OPS_CONSTANT_H

#include "core/impl.h"
#include "ops/ops.h"

/* made itself where it is on the call's device, else a copy of it there (contiguous, without
 * history). */
static inline bb_t bb_place(const bb_call *call, bb_t made) {
    if (!made || bb_device_of(made) == call->device) return made;
    bb_t t = bb_empty_on(call->ctx, call->device, bb_dtype_of(made), bb_shape_of(made));
    return t && bb_copy_into(made, t) == BB_OK ? t : NULL;
}

#endif
