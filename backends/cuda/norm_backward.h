/* Backward kernels of the norms, templates for rms_norm_backward.cu and layer_norm.cu.
 *
 *     dx     = rstd (dy g - c0 - c1 xhat) + more     c1 = mean(dy g xhat), c0 = mean(dy g)
 *     dscale = sum(dy xhat)    dbias = sum(dy)       over the rows of a group
 *
 * RMSNorm has no c0 and no dbias; xhat is x rstd, LayerNorm's (x - mean) rstd. `more` is a gradient
 * that comes past the norm along a residual; it is added in f32 before the one rounding.
 *
 * The rows of a group are cut into strips (bb_norm_strips), each of which has partial sums of its
 * own. norm_strips.h reads x and dy once; norm_columns.h takes longer rows, and those that cannot
 * be read 16 bytes at a time, and reads them twice. Here is the choice between the two. */
#ifndef BOBBIN_BACKENDS_CUDA_NORM_BACKWARD_H
#define BOBBIN_BACKENDS_CUDA_NORM_BACKWARD_H

#include "backends/cuda/norm_columns.h"
#include "backends/cuda/norm_strips.h"

enum { NORM_STRIPS = 1024 };

/* How strip_kernel is launched; threads 0: not at all. */
struct norm_shape {
    int team, threads;
    size_t shared;
};

template <bool CENTRED, typename X, typename S, int LANES, int VECTORS, int ROWS>
static bb_status launch_strips(bb_cuda *cuda, const bb_norm_pass *pass, bb_norm_plan *plan,
                               const norm_shape &shape) {
    bb_norm_args *a = &plan->args;
    a->team = shape.team;
    const int team = LANES ? LANES : shape.team;
    bb_norm_strips(a, (int64_t)shape.threads / team * ROWS, sizeof(X), NORM_STRIPS);
    bb_status status = bb_norm_partials(cuda, pass, plan);
    if (status) return status;
    const int64_t items = a->rows.groups * a->strips, sms = bb_cuda_sms(cuda);
    return BB_LAUNCH(cuda, (strip_kernel<CENTRED, X, S, LANES, VECTORS, ROWS>),
                     (unsigned)(items < sms ? items : sms), shape.threads, shape.shared, *a);
}

/* As many rows a step as 512 threads and the device's shared memory allow. */
template <bool CENTRED>
static norm_shape strip_shape(const bb_cuda *cuda, const bb_norm_pass *pass) {
    enum { SLOTS = 4, WIDTH = NORM_BACKWARD_THREADS };
    const int64_t n = pass->x->size[pass->x->rank - 1];
    const int64_t vectors = n * (int64_t)bb_norm_bytes(pass->x->dtype) / 16;
    norm_shape shape = {BB_WARP, 0, 0};
    if (vectors > (CENTRED ? 2 : 4) * WIDTH || pass->x->count / n > INT32_MAX) return shape;
    const int64_t lane = vectors > 2 * WIDTH ? 4 : 2; /* vectors of each thread */
    if (vectors > lane * BB_WARP)
        shape.team = (int)((vectors + lane * BB_WARP - 1) / (lane * BB_WARP) * BB_WARP);
    const size_t room = cuda->info.shared_bytes - 1024; /* the kernel has some beside it */
    for (int t = WIDTH / shape.team * shape.team; t > 0; t -= shape.team) {
        /* Two stages of x, dy and more, and the fold. */
        shape.shared =
            (size_t)t * SLOTS * 16 * 2 * (pass->more ? 3 : 2) + (size_t)n * sizeof(float);
        if (shape.shared > room) continue;
        shape.threads = t;
        break;
    }
    return shape;
}

template <bool CENTRED, typename X, typename S>
static bb_status strip_backward(bb_cuda *cuda, const bb_norm_pass *pass, bb_norm_plan *plan,
                                const norm_shape &shape) {
    const int64_t v = plan->vectors;
    if constexpr (!CENTRED) {
        if (v <= 8) return launch_strips<CENTRED, X, S, 8, 1, 4>(cuda, pass, plan, shape);
        if (v <= 16) return launch_strips<CENTRED, X, S, 16, 1, 4>(cuda, pass, plan, shape);
        if (v <= 32) return launch_strips<CENTRED, X, S, 32, 1, 4>(cuda, pass, plan, shape);
    }
    if (v <= 64) return launch_strips<CENTRED, X, S, 32, 2, 2>(cuda, pass, plan, shape);
    if constexpr (!CENTRED)
        if (v > 1024) return launch_strips<CENTRED, X, S, 0, 4, 1>(cuda, pass, plan, shape);
    return launch_strips<CENTRED, X, S, 0, 2, 2>(cuda, pass, plan, shape);
}

/* The scale is of R here. */
template <bool CENTRED, typename X, typename DY, int W>
static bb_status two_passes(bb_cuda *cuda, const bb_norm_pass *pass, bb_norm_plan *plan) {
    bb_norm_args *a = &plan->args;
    const int64_t vectors = a->rows.n / W, rows = a->rows.groups * a->rows.rows;
    bb_status status = BB_OK;
    if (a->y) {
        bb_storage *s = bb_cuda_scratch(cuda, (size_t)rows * 2 * sizeof(bb_real<X>));
        if (!s) return cuda->base.ctx->status;
        plan->held[plan->held_count++] = s;
        a->dot = s->data;
        const int threads = vectors <= 1024 ? 128 : 512;
        a->team = vectors <= 1024 ? BB_WARP : threads;
        const int64_t each = threads / a->team,
                      most = (int64_t)bb_cuda_sms(cuda) * (2048 / threads);
        a->tiles = (a->rows.rows + each - 1) / each;
        const int64_t tiles = a->rows.groups * a->tiles;
        status = BB_LAUNCH(cuda, (row_dots_kernel<CENTRED, X, DY, W>),
                           (unsigned)(tiles < most ? tiles : most), threads, 0, *a);
    }
    unsigned columns = 1;
    while (columns < 256 && columns < vectors) columns *= 2;
    const dim3 block(columns, 256 / columns);
    const int64_t slabs = (vectors + columns - 1) / columns;
    /* Slabs share the work, so long rows need few strips. */
    bb_norm_strips(a, block.y * 4, sizeof(X), NORM_STRIPS * 2 / slabs);
    if (!status) status = bb_norm_partials(cuda, pass, plan);
    if (status) return status;
    const int64_t tasks = a->rows.groups * a->strips * slabs, most = (int64_t)bb_cuda_sms(cuda) * 8;
    return BB_LAUNCH(cuda, (column_kernel<CENTRED, X, DY, W>),
                     (unsigned)(tasks < most ? tasks : most), block, 0, *a);
}

template <bool CENTRED, typename X>
static bb_status norm_backward_of(bb_cuda *cuda, const bb_norm_pass *pass) {
    enum { W = bb_pack<X>::N };
    const bool wide_dy = pass->dy->dtype != pass->x->dtype;
    norm_shape shape = strip_shape<CENTRED>(cuda, pass);
    if (sizeof(X) == 8 || wide_dy) shape.threads = 0;
    bb_norm_plan plan;
    bb_status status = bb_norm_prepare(cuda, pass, shape.threads > 0, &plan);
    if (!status) {
        if constexpr (sizeof(X) < 8) {
            if (shape.threads && plan.vector)
                status = plan.scale_is_x
                             ? strip_backward<CENTRED, X, X>(cuda, pass, &plan, shape)
                             : strip_backward<CENTRED, X, float>(cuda, pass, &plan, shape);
            else if (wide_dy)
                status = plan.vector ? two_passes<CENTRED, X, float, W>(cuda, pass, &plan)
                                     : two_passes<CENTRED, X, float, 1>(cuda, pass, &plan);
            else
                status = plan.vector ? two_passes<CENTRED, X, X, W>(cuda, pass, &plan)
                                     : two_passes<CENTRED, X, X, 1>(cuda, pass, &plan);
        } else {
            status = two_passes<CENTRED, X, X, 1>(cuda, pass, &plan);
        }
    }
    if (!status) status = bb_norm_fold(cuda, pass, &plan);
    bb_norm_release(cuda, &plan);
    return status;
}

template <bool CENTRED> static bb_status norm_backward(bb_cuda *cuda, const bb_norm_pass *pass) {
    if (pass->x->count == 0) return bb_norm_no_gradient(cuda, pass);
    bb_status status = BB_OK;
    bb_float_dtype(pass->x->dtype, [&](auto tag) {
        status = norm_backward_of<CENTRED, typename decltype(tag)::type>(cuda, pass);
    });
    return status;
}

#endif
