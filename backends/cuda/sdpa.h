/* SDPA on CUDA, what its files share: the job that sdpa.cu makes of a call, and the launches it
 * asks for.
 *   sdpa.cu            adapters, which layouts are copied
 *   sdpa_forward.cu    forward, sdpa_backward.cu  backward: kernels and the choice among them
 *   sdpa_tile.h        what a tile of scores is and what is done to it, in registers
 *   sdpa_mma.h         products of tiles on tensor cores (f16, bf16)
 *   sdpa_fma.h         products of tiles without (f32, f64; f16 and bf16 where there are none) */
#ifndef BOBBIN_BACKENDS_CUDA_SDPA_H
#define BOBBIN_BACKENDS_CUDA_SDPA_H

#include "backends/cuda/cuda.h"

enum { BB_SDPA_LEADING = BB_MAX_RANK - 2, BB_SDPA_MAX_WIDTH = 256 };

/* (..., H, rows, width), the last axis without gaps. */
template <typename T> struct bb_sdpa_rows {
    const T *data;
    int64_t row;                   /* elements from row to row */
    int64_t lead[BB_SDPA_LEADING]; /* strides of the leading axes */
    bool wide;                     /* every row may be read 16 bytes at a time */
};

enum bb_sdpa_mask_kind { BB_SDPA_NO_MASK, BB_SDPA_BOOL_MASK, BB_SDPA_FLOAT_MASK };
struct bb_sdpa_mask {
    bb_sdpa_mask_kind kind;
    const void *data;
    int64_t query, key, lead[BB_SDPA_LEADING]; /* strides, 0 where broadcast */
};

/* o, out, lse, delta and gradients are contiguous. What is not wanted is NULL. */
template <typename T> struct bb_sdpa_job {
    bb_sdpa_rows<T> q, k, v, dout;
    bb_sdpa_mask mask;
    const T *o;
    T *out, *dq, *dk, *dv;
    bb_real<T> *lse, *delta;            /* (heads, queries) */
    int leads;                          /* leading axes */
    int64_t lead_size[BB_SDPA_LEADING]; /* of query; the last one is its heads */
    int64_t heads, group;               /* over all batches; query heads to a key head */
    int64_t queries, keys, window;      /* window 0: none */
    int width, value_width;
    bool causal;
    bb_real<T> scale;

    template <typename F> void each_pointer(F &f) const {
        f(q.data), f(k.data), f(v.data), f(dout.data), f(mask.data), f(o), f(out), f(dq), f(dk);
        f(dv), f(lse), f(delta);
    }
};

template <typename T> bb_status bb_sdpa_forward(bb_cuda *cuda, const bb_sdpa_job<T> &job);
/* Fills delta first. */
template <typename T> bb_status bb_sdpa_backward(bb_cuda *cuda, const bb_sdpa_job<T> &job);

/* Whether this device multiplies T on its tensor cores. */
template <typename T> static inline bool bb_sdpa_tensor_cores(const bb_cuda *) { return false; }
template <> inline bool bb_sdpa_tensor_cores<bb_half>(const bb_cuda *cuda) {
    return 10 * cuda->info.major + cuda->info.minor >= 75;
}
template <> inline bool bb_sdpa_tensor_cores<bb_bfloat>(const bb_cuda *cuda) {
    return cuda->info.major >= 8;
}

#endif
