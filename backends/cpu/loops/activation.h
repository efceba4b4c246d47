/* Loops of silu, gelu and swiglu (adapters: ../activation.c). Each maps n elements of contiguous
 * inputs to contiguous outputs; an output may be an input. The arrays have an entry for f64 and one
 * for f32, in the order of bb_dtype. */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_ACTIVATION_H
#define BOBBIN_BACKENDS_CPU_LOOPS_ACTIVATION_H

#include <stdint.h>

typedef void (*bb_map_fn)(int64_t n, const void *const *in, void *const *out);

typedef struct bb_activation_loops {
    bb_map_fn silu[2];             /* x -> y */
    bb_map_fn silu_backward[2];    /* x, dy -> dx */
    bb_map_fn gelu[2][2];          /* [form][type]; forms in the order of bb_gelu_form */
    bb_map_fn gelu_backward[2][2]; /* x, dy -> dx */
    bb_map_fn swiglu[2];           /* gate, up -> y */
    bb_map_fn swiglu_backward[2];  /* gate, up, dy -> dgate, dup */
} bb_activation_loops;

extern const bb_activation_loops bb_activation_loops_baseline, bb_activation_loops_avx2,
    bb_activation_loops_avx512;

#endif
