/* What softmax.cu, log_softmax.cu and cross_entropy.cu share: the maximum of a row and the sum of
 * its exp(x - max) in one pass (Milakov, Gimelshein, "Online normalizer calculation for softmax",
 * 2018), and the rows of the two softmaxes, whose kernels are in softmax.cu.
 *
 * The maximum is that of the numbers, as if NaN were not there; the sum is NaN where the row holds
 * NaN or +inf, and 0 where it is -inf throughout. */
#ifndef BOBBIN_BACKENDS_CUDA_SOFTMAX_H
#define BOBBIN_BACKENDS_CUDA_SOFTMAX_H

#include "backends/cuda/lines.h"

static __device__ inline float bb_exp(float x) { return expf(x); }
static __device__ inline double bb_exp(double x) { return exp(x); }
static __device__ inline float bb_log(float x) { return logf(x); }
static __device__ inline double bb_log(double x) { return log(x); }

template <typename R> struct bb_online {
    R max, sum;

    __device__ void clear() {
        max = (R)-INFINITY;
        sum = 0;
    }
    /* What exponents are taken relative to; -inf - -inf would be NaN. */
    static __device__ R shift(R m) { return m == (R)-INFINITY ? (R)0 : m; }

    template <typename Pack> __device__ void add(const Pack &pack) {
        R v[Pack::N], m = max, part = 0;
        for (int i = 0; i < Pack::N; i++) {
            v[i] = widen(pack.v[i]);
            m = v[i] > m ? v[i] : m;
        }
        for (int i = 0; i < Pack::N; i++) part += bb_exp(v[i] - shift(m));
        sum = sum * bb_exp(max - shift(m)) + part;
        max = m;
    }
    /* Over 2^k lanes of a warp; the same bits in each of them, because maxima are exact and the
     * sums are then added as a butterfly. */
    __device__ void join(int lanes) {
        const R m = bb_warp_max(max, lanes);
        sum = bb_warp_sum(sum * bb_exp(max - shift(m)), lanes);
        max = m;
    }
    /* Over the block; slots: shared memory for 64. */
    __device__ void join_block(R *slots) {
        const int warps = blockDim.x / BB_WARP, warp = threadIdx.x / BB_WARP,
                  lane = threadIdx.x % BB_WARP;
        join(BB_WARP);
        if (lane == 0) {
            slots[warp] = max;
            slots[BB_WARP + warp] = sum;
        }
        __syncthreads();
        clear();
        if (lane < warps) {
            max = slots[lane];
            sum = slots[BB_WARP + lane];
        }
        join(BB_WARP);
    }
};

/* Lanes of a warp for a row of n elements, eight or more each. */
static inline int bb_lanes_for(int64_t n) {
    int lanes = 1;
    while (lanes < BB_WARP && lanes * 8 < n) lanes *= 2;
    return lanes;
}
/* Threads of a block for one long row. */
static inline int bb_threads_for(int64_t n) { return n <= 8192 ? 256 : n <= 32768 ? 512 : 1024; }

enum { BB_LANES_MAX_ROW = 1024 }; /* longer rows take a block */

/* softmax, or log_softmax with `logarithm`, along the last axis. */
bool bb_cuda_last_axis(const bb_call *call);
bb_status bb_cuda_softmax_rows(bb_call *call, bool logarithm);
bb_status bb_cuda_softmax_rows_backward(const bb_grad_call *grad, bool logarithm);

#endif
