/* Chunks of elements on the way between a dtype and the type ops compute in. For elementwise.c and
 * copy.c. */
#ifndef BOBBIN_BACKENDS_CPU_CHUNK_H
#define BOBBIN_BACKENDS_CPU_CHUNK_H

#include "backends/cpu/cpu.h"

/* f64 for f64, f32 for the other floats, i64 for the rest. */
static inline int bb_compute_dtype(int dtype) {
    return dtype == BB_F64 ? BB_F64 : bb_dtype_is_float((bb_dtype)dtype) ? BB_F32 : BB_I64;
}

/* y[i] = x[i * stride], from dtype to the compute type `as`. */
static inline void bb_chunk_load(const bb_elementwise_loops *loops, int as, int dtype, int64_t n,
                                 const void *x, int64_t stride, void *y) {
    if (as == BB_F32)
        loops->load_f32(dtype, n, x, stride, y);
    else if (as == BB_F64)
        loops->load_f64(dtype, n, x, stride, y);
    else
        loops->load_i64(dtype, n, x, stride, y);
}

/* y[i] = x[i], from the compute type `as` to dtype. */
static inline void bb_chunk_store(const bb_elementwise_loops *loops, int as, int dtype, int64_t n,
                                  const void *x, void *y) {
    if (as == BB_F32)
        loops->store_f32(dtype, n, x, y);
    else if (as == BB_F64)
        loops->store_f64(dtype, n, x, y);
    else
        loops->store_i64(dtype, n, x, y);
}

/* The loop of an op for a compute type; NULL where there is none. */
static inline bb_span_fn bb_loop_for(const bb_map_loop *loop, int as) {
    return as == BB_F32 ? loop->f32 : as == BB_F64 ? loop->f64 : loop->i64;
}

#endif
