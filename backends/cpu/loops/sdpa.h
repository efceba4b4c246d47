/* Loops of SDPA (adapter: ../sdpa.c): attention of one block of queries, or of one head, on plain
 * pointers.
 *
 * The f32 loops keep everything transposed, queries along the lanes: scores are stored as (key,
 * query), so that maxima, sums and rescaling are vertical, and key and value are read one scalar at
 * a time where they lie, with any row stride and without packing. Only the block of queries (and of
 * dO) is transposed, once. Rows of f16 and bf16 are widened to f32 a tile at a time, in scratch,
 * and results are rounded once. */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_SDPA_H
#define BOBBIN_BACKENDS_CPU_LOOPS_SDPA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BB_SDPA_BLOCK = 64, /* queries in a block */
    BB_SDPA_TILE = 64   /* keys in a tile */
};

/* One head. Rows are contiguous; strides are in elements, between rows. */
typedef struct bb_sdpa_head {
    int dtype; /* of q, k, v, dout, out, dq and an added mask; lse, dk and dv are of the loop's type
                */
    int64_t queries, keys, width, value_width; /* T, S, D, Dv */
    const void *q, *k, *v;
    int64_t q_stride, k_stride, v_stride;
    const void *mask; /* NULL: none; else element (t, s) lies at t * mask_t + s * mask_s */
    int64_t mask_t, mask_s;
    bool mask_is_bool; /* uint8_t, nonzero: may attend; otherwise added */
    bool causal;
    int64_t window; /* 0: none */
    double scale;
    void *out; /* (T, Dv) contiguous: written by forward, read by backward */
    void *lse; /* (T): log of the sum of exponentials; forward: may be NULL */
    /* backward only */
    const void *dout;
    int64_t dout_stride;
    void *dq, *dk, *dv; /* (T, D), (S, D), (S, Dv) contiguous; NULL: not wanted */
} bb_sdpa_head;

typedef struct bb_sdpa_loops {
    /* Elements of scratch that one running call needs. */
    size_t (*scratch_f32)(const bb_sdpa_head *head, bool backward);
    size_t (*scratch_f64)(const bb_sdpa_head *head, bool backward);
    /* Queries [begin, end), at most BB_SDPA_BLOCK of them. */
    void (*forward_f32)(const bb_sdpa_head *head, int64_t begin, int64_t end, float *scratch);
    void (*forward_f64)(const bb_sdpa_head *head, int64_t begin, int64_t end, double *scratch);
    /* All queries: writes dq, adds to dk and dv (several heads may share them). */
    void (*backward_f32)(const bb_sdpa_head *head, float *scratch);
    void (*backward_f64)(const bb_sdpa_head *head, double *scratch);
} bb_sdpa_loops;

extern const bb_sdpa_loops bb_sdpa_loops_baseline, bb_sdpa_loops_avx2, bb_sdpa_loops_avx512;

#endif
