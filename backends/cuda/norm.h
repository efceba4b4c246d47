/* What RMSNormImpl, AddRMSNorm and LayerNorm share on the GPU.
 *   norm.cu            layouts, scale tables, the sums over strips
 *   norm_forward.h     forward kernels; norm_backward.h chooses between the backward kernels of
 *   norm_strips.h, norm_columns.h: templates
 *   rms_norm_*.cu, layer_norm.cu   adapters; each compiles the templates it needs
 * Math: ops/rms_norm.c, ops/layer_norm.c. Why the kernels are as they are, and what they should
 * reach: DESIGN.md. */
#ifndef BOBBIN_BACKENDS_CUDA_NORM_H
#define BOBBIN_BACKENDS_CUDA_NORM_H

#include <type_traits>

#include "backends/cuda/cuda.h"
#include "backends/cuda/rows.h"

/* One forward or backward over all rows, as tensors. Those that an op lacks, or nobody wants, are
 * NULL. */
struct bb_norm_pass {
    const bb_tensor *x;
    const bb_tensor *more; /* forward: added to x first; backward: added to dx */
    const bb_tensor *dy;
    const bb_tensor *scale, *bias; /* of one shape where both are there */
    bb_tensor *y;                  /* output, or dx */
    bb_tensor *sum;                /* forward: x + more; backward: a second copy of dx */
    bb_tensor *mean, *rstd;
    bb_tensor *dscale, *dbias;
    double eps;
    bool round_first;
};

/* The same as the kernels see it. R is the compute type: double for f64, float for the rest. */
struct bb_norm_args {
    const void *x, *more, *dy;
    const void *scale, *bias; /* a row of n per group; NULL: ones, zeros */
    void *y, *sum;
    void *mean, *rstd;    /* R per row, in row-major order */
    void *dscale, *dbias; /* R, n per strip and group: partial sums; NULL: not wanted */
    void *dot;            /* R, two per row: what the row's sums contribute to its dx */
    double eps;
    bool round_first;
    bb_rows rows;
    int64_t tiles;              /* forward: tiles of rows in a group */
    int64_t strips, strip_rows; /* backward: strips of a group */
    int64_t held;               /* vectors of a row kept in shared memory */
    int team;                   /* threads that work on one row */
    template <typename F> void each_pointer(F &&f) const {
        const void *const pointers[] = {x,   more, dy,   scale,  bias,  y,
                                        sum, mean, rstd, dscale, dbias, dot};
        for (const void *p : pointers) f(p);
    }
};

/* Prepares a pass: rows with unit stride, the scale as rows of a type that kernels take, and
 * whether all of it can be read 16 bytes at a time. */
struct bb_norm_plan {
    bb_norm_args args;
    bool vector;           /* 16-byte accesses are right for every row of every operand */
    bool scale_is_x;       /* scale and bias are of x's type; otherwise of R */
    int64_t vectors;       /* of a row */
    bb_tensor x, dy, more; /* headers with unit stride */
    bb_storage *held[5];
    int held_count;
};
/* any_scale: a scale of x's own type may stay as it is. */
bb_status bb_norm_prepare(bb_cuda *cuda, const bb_norm_pass *pass, bool any_scale,
                          bb_norm_plan *plan);
void bb_norm_release(bb_cuda *cuda, bb_norm_plan *plan);

/* Room for the partial sums of strips in args.dscale and args.dbias, where they are wanted. */
bb_status bb_norm_partials(bb_cuda *cuda, const bb_norm_pass *pass, bb_norm_plan *plan);
/* Adds the strips of each group in order and writes the gradients. */
bb_status bb_norm_fold(bb_cuda *cuda, const bb_norm_pass *pass, const bb_norm_plan *plan);
/* Gradients of a tensor without elements. */
bb_status bb_norm_no_gradient(bb_cuda *cuda, const bb_norm_pass *pass);

/* The last axis alone, and a scale or bias (NULL: fits) that repeats over whole rows or is one for
 * all of them, as on the CPU (backends/cpu/norm.c). */
bool bb_norm_fits(const bb_tensor *x, const bb_ints *axes, const bb_tensor *scale);

/* How many strips the rows of a group are cut into for the gradient of the scale, step rows being
 * the least that make one. From shapes alone, so the sums are the same on any number of
 * multiprocessors. */
void bb_norm_strips(bb_norm_args *args, int64_t step, size_t element, int64_t most);

static inline size_t bb_norm_bytes(int dtype) {
    return dtype == BB_F64 ? 8 : dtype == BB_F32 ? 4 : 2;
}

/* ---- In kernels: W elements of T as raw bits, read and written 16 bytes at a time where they fill
 * them. 16-bit elements lie two in a register. */
template <typename T, int W, bool PAIRS = sizeof(T) == 2 && W % 2 == 0> struct bb_span {
    T v[W];
    __device__ bb_real<T> get(int k) const { return widen(v[k]); }
    static __device__ bb_span of(const bb_real<T> (&values)[W]) {
        bb_span s;
#pragma unroll
        for (int k = 0; k < W; k++) s.v[k] = narrow<T>(values[k]);
        return s;
    }
};
template <typename T, int W> struct bb_span<T, W, true> {
    uint32_t v[W / 2];
    __device__ float get(int k) const { return k % 2 ? bb_high<T>(v[k / 2]) : bb_low<T>(v[k / 2]); }
    static __device__ bb_span of(const float (&values)[W]) {
        bb_span s;
#pragma unroll
        for (int k = 0; k < W / 2; k++) s.v[k] = bb_join<T>(values[2 * k], values[2 * k + 1]);
        return s;
    }
};
template <int W, typename T> static __device__ inline bb_span<T, W> bb_span_load(const T *p) {
    bb_span<T, W> s;
    if constexpr (sizeof s % 16 == 0) {
        typedef typename std::remove_reference<decltype(s.v[0])>::type word;
        const word *from = reinterpret_cast<const word *>(p);
        const int N = bb_pack<word>::N;
#pragma unroll
        for (int i = 0; i < (int)sizeof s / 16; i++) {
            const bb_pack<word> pack = bb_load16(from + i * N);
#pragma unroll
            for (int k = 0; k < N; k++) s.v[i * N + k] = pack.v[k];
        }
    } else {
#pragma unroll
        for (int k = 0; k < W; k++) s.v[k] = p[k];
    }
    return s;
}
template <typename T, int W>
static __device__ inline void bb_span_store(T *p, const bb_span<T, W> &s) {
    if constexpr (sizeof s % 16 == 0) {
        typedef
            typename std::remove_cv<typename std::remove_reference<decltype(s.v[0])>::type>::type
                word;
        word *to = reinterpret_cast<word *>(p);
        const int N = bb_pack<word>::N;
#pragma unroll
        for (int i = 0; i < (int)sizeof s / 16; i++) {
            bb_pack<word> pack;
#pragma unroll
            for (int k = 0; k < N; k++) pack.v[k] = s.v[i * N + k];
            bb_store16(to + i * N, pack);
        }
    } else {
#pragma unroll
        for (int k = 0; k < W; k++) p[k] = s.v[k];
    }
}
template <typename T, int W> static __device__ inline bb_span<T, W> bb_span_of(bb_real<T> value) {
    bb_real<T> values[W];
#pragma unroll
    for (int k = 0; k < W; k++) values[k] = value;
    return bb_span<T, W>::of(values);
}
/* x + more, rounded to T as the op add does. */
template <typename T, int W>
static __device__ inline bb_span<T, W> bb_span_add(const bb_span<T, W> &x,
                                                   const bb_span<T, W> &more) {
    bb_real<T> values[W];
#pragma unroll
    for (int k = 0; k < W; k++) values[k] = x.get(k) + more.get(k);
    return bb_span<T, W>::of(values);
}

static __device__ inline float bb_norm_root(float x) { return sqrtf(x); }
static __device__ inline double bb_norm_root(double x) { return sqrt(x); }

/* Correctly rounded, as on the CPU; rsqrtf is not. Once a row. */
template <typename R> static __device__ inline R bb_norm_rstd(R squares, int64_t n, double eps) {
    return (R)1 / bb_norm_root(squares / (R)n + (R)eps);
}

/* Sums of ROWS x PAIRS numbers over the threads of a team: lanes of one warp, or whole warps; then
 * every thread of the block calls it. slots: 32 x ROWS x PAIRS values that no sum since the barrier
 * before the last has used. */
template <typename R, int ROWS, int PAIRS>
static __device__ inline void norm_sums(R (&sum)[ROWS][PAIRS], int lanes, R *slots) {
#pragma unroll
    for (int u = 0; u < ROWS; u++)
#pragma unroll
        for (int i = 0; i < PAIRS; i++)
            sum[u][i] = bb_warp_sum(sum[u][i], lanes < BB_WARP ? lanes : (int)BB_WARP);
    if (lanes <= BB_WARP) return;
    const int warp = (int)threadIdx.x / BB_WARP, warps = lanes / BB_WARP;
    const int first = warp / warps * warps;
#pragma unroll
    for (int u = 0; u < ROWS; u++)
#pragma unroll
        for (int i = 0; i < PAIRS; i++)
            if (threadIdx.x % BB_WARP == 0) slots[(u * PAIRS + i) * BB_WARP + warp] = sum[u][i];
    __syncthreads();
#pragma unroll
    for (int u = 0; u < ROWS; u++)
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            const R *slot = slots + (u * PAIRS + i) * BB_WARP + first;
            sum[u][i] = slot[0];
            for (int w = 1; w < warps; w++) sum[u][i] += slot[w];
        }
}

#endif
