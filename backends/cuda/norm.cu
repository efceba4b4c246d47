/* The host's side of the norms (norm.h), and two small kernels: one widens a scale into rows of the
 * compute type where the big kernels cannot read it as it lies, one adds partial sums of its
 * gradient. Both move a scale's bytes, which are few beside those of the rows. */
#include "backends/cuda/norm.h"

#include "backends/cuda/copy.h"

/* ---- Scale tables */

struct table_source {
    const void *data;
    int dtype, rank;
    int64_t size[BB_MAX_RANK], stride[BB_MAX_RANK];
    int64_t n, groups;
    template <typename F> void each_pointer(F &&f) const { f(data); }
};

template <typename R> static __device__ inline R load_as(int dtype, const void *p, int64_t i) {
    switch (dtype) {
    case BB_F64: return (R) static_cast<const double *>(p)[i];
    case BB_F32: return (R) static_cast<const float *>(p)[i];
    case BB_F16: return (R)widen(static_cast<const bb_half *>(p)[i]);
    default: return (R)widen(static_cast<const bb_bfloat *>(p)[i]);
    }
}

/* table[group][i] = source's element for column i; a source of one column repeats it. */
template <typename R> static __global__ void table_kernel(table_source s, R *table) {
    const int64_t count = s.groups * s.n, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t e = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; e < count; e += step) {
        int64_t group = e / s.n, offset = 0;
        if (s.rank > 0 && s.size[s.rank - 1] != 1)
            offset = (e - group * s.n) * s.stride[s.rank - 1];
        for (int a = s.rank - 2; a >= 0; a--) {
            offset += group % s.size[a] * s.stride[a];
            group /= s.size[a];
        }
        table[e] = load_as<R>(s.dtype, s.data, offset);
    }
}

static bool hold(bb_cuda *cuda, bb_norm_plan *plan, size_t bytes, void **data) {
    bb_storage *s = bb_cuda_scratch(cuda, bytes);
    if (!s) return false;
    plan->held[plan->held_count++] = s;
    *data = s->data;
    return true;
}

/* t as rows of n elements of `dtype`, as it lies or in a table of R. */
static bool lies_ready(const bb_tensor *t, int dtype, int64_t n) {
    return t->dtype == dtype && t->contiguous && (uintptr_t)t->data % 16 == 0 &&
           (n == 1 || (t->rank > 0 && t->size[t->rank - 1] == n));
}

static bb_status write_table(bb_cuda *cuda, bb_norm_plan *plan, const bb_tensor *t,
                             const void **rows) {
    const bool wide = plan->x.dtype == BB_F64;
    table_source s = {};
    void *table;
    s.data = t->data;
    s.dtype = t->dtype;
    s.rank = t->rank;
    s.n = plan->args.rows.n;
    s.groups = plan->args.rows.groups;
    for (int a = 0; a < t->rank; a++) {
        s.size[a] = t->size[a];
        s.stride[a] = t->stride[a];
    }
    if (!hold(cuda, plan, (size_t)(s.n * s.groups) * (wide ? 8 : 4), &table))
        return cuda->base.ctx->status;
    *rows = table;
    const unsigned grid = bb_cuda_grid(cuda, s.n * s.groups, 256);
    if (wide)
        return BB_LAUNCH(cuda, table_kernel<double>, grid, 256, 0, s, static_cast<double *>(table));
    return BB_LAUNCH(cuda, table_kernel<float>, grid, 256, 0, s, static_cast<float *>(table));
}

static bb_status prepare_scale(bb_cuda *cuda, const bb_norm_pass *pass, bool any_scale,
                               bb_norm_plan *plan) {
    const bb_tensor *const given[2] = {pass->scale, pass->bias};
    const void **const rows[2] = {&plan->args.scale, &plan->args.bias};
    const int64_t n = plan->args.rows.n;
    const int x = plan->x.dtype, wide = x == BB_F64 ? BB_F64 : BB_F32;
    bool ready[2] = {true, true};
    plan->scale_is_x = any_scale;
    for (int i = 0; i < 2; i++) {
        if (given[i]) plan->scale_is_x = plan->scale_is_x && lies_ready(given[i], x, n);
        *rows[i] = given[i] ? given[i]->data : NULL;
    }
    for (int i = 0; i < 2; i++)
        if (given[i]) ready[i] = plan->scale_is_x || lies_ready(given[i], wide, n);
    for (int i = 0; i < 2; i++) {
        if (ready[i]) continue;
        const bb_status status = write_table(cuda, plan, given[i], rows[i]);
        if (status) return status;
    }
    return BB_OK;
}

/* ---- Layouts */

/* A header of t's elements whose last stride is 1: t itself, or a copy. */
static bool unit_stride(bb_cuda *cuda, bb_norm_plan *plan, const bb_tensor *t, bb_tensor *header) {
    const int last = t->rank - 1;
    *header = *t;
    if (t->stride[last] == 1 || t->size[last] == 1) return true;
    bb_storage *s;
    const void *data = bb_cuda_contiguous_data(cuda, t, &s);
    if (!data) return false;
    if (s) plan->held[plan->held_count++] = s;
    header->data = static_cast<char *>(const_cast<void *>(data));
    header->contiguous = true;
    int64_t stride = 1;
    for (int a = last; a >= 0; a--) {
        header->stride[a] = stride;
        stride *= t->size[a];
    }
    return true;
}

static bool rows_aligned(const bb_tensor *t, int64_t n) {
    const int64_t bytes = (int64_t)bb_norm_bytes(t->dtype);
    if ((uintptr_t)t->data % 16 != 0 || n * bytes % 16 != 0) return false;
    for (int a = 0; a < t->rank - 1; a++)
        if (t->size[a] > 1 && t->stride[a] * bytes % 16 != 0) return false;
    return true;
}

/* Written tensors are contiguous, so their rows begin where the first one lets them. */
static bool all_aligned(const bb_norm_pass *pass, const bb_norm_plan *plan) {
    const int64_t n = plan->args.rows.n;
    return rows_aligned(&plan->x, n) && (!pass->dy || rows_aligned(&plan->dy, n)) &&
           (!pass->more || rows_aligned(&plan->more, n)) &&
           (!pass->y || rows_aligned(pass->y, n)) && (!pass->sum || rows_aligned(pass->sum, n));
}

bb_status bb_norm_prepare(bb_cuda *cuda, const bb_norm_pass *pass, bool any_scale,
                          bb_norm_plan *plan) {
    memset(plan, 0, sizeof *plan);
    if (!unit_stride(cuda, plan, pass->x, &plan->x)) return cuda->base.ctx->status;
    if (pass->dy && !unit_stride(cuda, plan, pass->dy, &plan->dy)) return cuda->base.ctx->status;
    if (pass->more && !unit_stride(cuda, plan, pass->more, &plan->more))
        return cuda->base.ctx->status;
    const bb_tensor *affine = pass->scale ? pass->scale : pass->bias ? pass->bias : pass->dbias;
    bb_norm_args *a = &plan->args;
    a->rows =
        bb_rows_of(&plan->x, affine, pass->dy ? &plan->dy : NULL, pass->more ? &plan->more : NULL);
    a->x = plan->x.data;
    a->more = pass->more ? plan->more.data : NULL;
    a->dy = pass->dy ? plan->dy.data : NULL;
    a->y = pass->y ? pass->y->data : NULL;
    a->sum = pass->sum ? pass->sum->data : NULL;
    a->mean = pass->mean ? pass->mean->data : NULL;
    a->rstd = pass->rstd ? pass->rstd->data : NULL;
    a->eps = pass->eps;
    a->round_first = pass->round_first;
    plan->vector = all_aligned(pass, plan);
    plan->vectors = a->rows.n * (int64_t)bb_norm_bytes(plan->x.dtype) / 16;
    return prepare_scale(cuda, pass, any_scale && plan->vector, plan);
}

void bb_norm_release(bb_cuda *cuda, bb_norm_plan *plan) {
    for (int i = 0; i < plan->held_count; i++) bb_cuda_release(cuda, plan->held[i]);
    plan->held_count = 0;
}

bool bb_norm_fits(const bb_tensor *x, const bb_ints *axes, const bb_tensor *scale) {
    if (axes->n != 1 || (axes->v[0] != -1 && axes->v[0] != x->rank - 1)) return false;
    if (!scale) return true;
    if (scale->rank > x->rank) return false;
    for (int a = 0; a < scale->rank; a++)
        if (scale->size[a] != 1 && scale->size[a] != x->size[x->rank - scale->rank + a])
            return false;
    /* One scale per row: a table of whole rows would be as large as x. */
    bool grouped = false;
    const bool one = scale->rank == 0 || scale->size[scale->rank - 1] == 1;
    for (int a = 0; a < scale->rank - 1; a++) grouped |= scale->size[a] != 1;
    if (one && grouped && x->size[x->rank - 1] != 1) return false;
    return scale->dtype != BB_F64 || x->dtype == BB_F64;
}

/* ---- The gradient of a scale: sums over strips of rows, then over the strips */

/* A strip's partial sums are n numbers written and read again. They stay at a few hundredths of the
 * bytes of the rows (8 bytes per strip and column against 3 elements per row and column), but there
 * are never so few strips that multiprocessors stand idle. Powers of two times 128: close below a
 * multiple of the 132 multiprocessors of H100 and H200. */
void bb_norm_strips(bb_norm_args *args, int64_t step, size_t element, int64_t most) {
    const bb_rows *rows = &args->rows;
    const int64_t affordable = rows->rows * rows->groups / 64 * (int64_t)element;
    int64_t wanted = most < 128 ? most : 128;
    while (wanted * 2 <= affordable && wanted < most) wanted *= 2;
    int64_t strips = wanted / rows->groups, steps = (rows->rows + step - 1) / step;
    if (strips < 1) strips = 1;
    const int64_t each = (steps + strips - 1) / strips;
    args->strip_rows = (each < 1 ? 1 : each) * step;
    args->strips = (rows->rows + args->strip_rows - 1) / args->strip_rows;
}

bb_status bb_norm_partials(bb_cuda *cuda, const bb_norm_pass *pass, bb_norm_plan *plan) {
    bb_norm_args *a = &plan->args;
    const size_t bytes = (size_t)(a->rows.groups * a->strips * a->rows.n) *
                         (plan->x.dtype == BB_F64 ? sizeof(double) : sizeof(float));
    if (pass->dscale && !hold(cuda, plan, bytes, &a->dscale)) return cuda->base.ctx->status;
    if (pass->dbias && !hold(cuda, plan, bytes, &a->dbias)) return cuda->base.ctx->status;
    return BB_OK;
}

template <typename R>
static __device__ inline void store_as(int dtype, void *p, int64_t i, R value) {
    switch (dtype) {
    case BB_F64: static_cast<double *>(p)[i] = (double)value; break;
    case BB_F32: static_cast<float *>(p)[i] = (float)value; break;
    case BB_F16: static_cast<bb_half *>(p)[i] = narrow<bb_half>((float)value); break;
    default: static_cast<bb_bfloat *>(p)[i] = narrow<bb_bfloat>((float)value); break;
    }
}

enum { FOLD_COLUMNS = 32, FOLD_TURNS = 32 };

/* A block adds the strips of 32 columns of one group: thread row t takes strips t, t + blockDim.y,
 * ..., then the rows are added in order. One element for all columns (one != 0): a block goes over
 * all of a group's columns and adds their sums in order too. */
template <typename R>
static __global__ void fold_kernel(const R *partial, int64_t groups, int64_t strips, int64_t n,
                                   bool one, int dtype, void *gradient) {
    BB_SHARED(R, sums, FOLD_COLUMNS * FOLD_TURNS);
    const int column = threadIdx.x, turn = threadIdx.y, turns = blockDim.y;
    const int64_t slabs = (n + FOLD_COLUMNS - 1) / FOLD_COLUMNS, each = one ? slabs : 1,
                  tasks = groups * (slabs / each);
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const int64_t group = one ? task : task / slabs, first = one ? 0 : task % slabs;
        R all = 0;
        for (int64_t slab = first; slab < first + each; slab++) {
            const int64_t i = slab * FOLD_COLUMNS + column;
            R sum = 0;
            if (i < n) {
                const R *p = partial + group * strips * n + i;
                for (int64_t s = turn; s < strips; s += turns) sum += p[s * n];
            }
            sums[turn * FOLD_COLUMNS + column] = sum;
            __syncthreads();
            if (turn == 0) {
                for (int t = 1; t < turns; t++) sum += sums[t * FOLD_COLUMNS + column];
                if (one)
                    all += bb_warp_sum(sum);
                else if (i < n)
                    store_as(dtype, gradient, group * n + i, sum);
            }
            __syncthreads();
        }
        if (one && turn == 0 && column == 0) store_as(dtype, gradient, group, all);
    }
}

static bb_status fold(bb_cuda *cuda, const bb_norm_plan *plan, const void *partial,
                      bb_tensor *gradient) {
    const bb_norm_args *a = &plan->args;
    const int64_t n = a->rows.n, groups = a->rows.groups, strips = a->strips;
    const bool one = n > 1 && (gradient->rank == 0 || gradient->size[gradient->rank - 1] == 1);
    unsigned turns = 1;
    while (turns < FOLD_TURNS && turns * 4 < strips) turns *= 2;
    const int64_t slabs = (n + FOLD_COLUMNS - 1) / FOLD_COLUMNS;
    const unsigned grid = bb_cuda_grid(cuda, one ? groups : groups * slabs, 1, 16);
    const dim3 block(FOLD_COLUMNS, turns);
    void *target = gradient->data;
    if (plan->x.dtype == BB_F64)
        return BB_LAUNCH(cuda, fold_kernel<double>, grid, block, 0,
                         static_cast<const double *>(partial), groups, strips, n, one,
                         (int)gradient->dtype, target);
    return BB_LAUNCH(cuda, fold_kernel<float>, grid, block, 0, static_cast<const float *>(partial),
                     groups, strips, n, one, (int)gradient->dtype, target);
}

bb_status bb_norm_fold(bb_cuda *cuda, const bb_norm_pass *pass, const bb_norm_plan *plan) {
    bb_status status = BB_OK;
    if (pass->dscale) status = fold(cuda, plan, plan->args.dscale, pass->dscale);
    if (!status && pass->dbias) status = fold(cuda, plan, plan->args.dbias, pass->dbias);
    return status;
}

/* All bits zero is zero in every float type. */
bb_status bb_norm_no_gradient(bb_cuda *cuda, const bb_norm_pass *pass) {
    bb_tensor *const sums[2] = {pass->dscale, pass->dbias};
    for (int i = 0; i < 2; i++) {
        if (!sums[i] || sums[i]->count == 0) continue;
        const char *why = bb_runtime_set(cuda->runtime, sums[i]->data, 0,
                                         (size_t)sums[i]->count * bb_norm_bytes(sums[i]->dtype));
        if (why) return bb_cuda_fail(cuda, "clearing a gradient", why);
    }
    return BB_OK;
}
