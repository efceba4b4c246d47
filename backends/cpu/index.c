/* gather, scatter_add, index_select, embedding and its backward. Indices are widened to i64 and
 * checked before anything is written. Sums run in the order of the index within one piece of the
 * work, which owns its elements, so they do not depend on the number of threads; f16 and bf16 add
 * in f32 and round once. */
#include <string.h>

#include "backends/cpu/kernels.h"

enum { PIECE = 1 << 15, COLUMNS = 64 };

/* t itself, or a contiguous copy of this dtype. Give back with done(). */
static bb_tensor *plain(bb_tensor *t, bb_dtype dtype) {
    if (t->contiguous && (bb_dtype)t->dtype == dtype) return t;
    const bb_shape shape = bb_shape_of_tensor(t);
    bb_tensor *copy = bb_tensor_new(t->ctx, BB_CPU, dtype, &shape);
    if (copy && bb_copy_into(t, copy)) {
        bb_drop(copy);
        return NULL;
    }
    return copy;
}

static void done(bb_tensor *t, const bb_tensor *original) {
    if (t != original) bb_drop(t);
}

/* Input 1 as contiguous i64, all within [0, limit); NULL after an error. */
static bb_tensor *checked_index(const bb_call *call, int64_t limit) {
    bb_tensor *index = plain(call->in[1], BB_I64);
    if (!index) return NULL;
    const int64_t *v = (const int64_t *)(const void *)index->data;
    for (int64_t i = 0; i < index->count; i++) {
        if (v[i] >= 0 && v[i] < limit) continue;
        char text[BB_SHAPE_TEXT];
        bb_shape at = {.rank = index->rank};
        int64_t rest = i;
        for (int k = index->rank - 1; k >= 0; k--) {
            at.size[k] = rest % index->size[k];
            rest /= index->size[k];
        }
        bb_fail_input(call, 1, "expected 0 to %lld, got %lld at %s", (long long)limit - 1,
                      (long long)v[i], bb_shape_text(&at, text));
        done(index, call->in[1]);
        return NULL;
    }
    return index;
}

/* ---- gather and scatter_add */

/* Walks lines of `walk` along its last axis. For each, the offset of the line in `other`, not
 * counting the indexed axis. */
typedef struct lines {
    const bb_cpu *cpu;
    const int64_t *index; /* of walk's shape, contiguous */
    const bb_tensor *walk, *other;
    int axis;
    int64_t length;
    char *data; /* of walk: gather's output or scatter's source */
    int64_t bytes;
    bb_dtype dtype;
} lines;

static int64_t offset_of(const lines *l, int64_t line) {
    int64_t offset = 0;
    for (int i = l->walk->rank - 2; i >= 0; i--) {
        if (i != l->axis) offset += line % l->walk->size[i] * l->other->stride[i];
        line /= l->walk->size[i];
    }
    return offset;
}

static void copy_picked(int64_t bytes, int64_t n, const char *x, const int64_t *index,
                        int64_t axis_stride, int64_t step, char *y) {
    for (int64_t j = 0; j < n; j++)
        memcpy(y + j * bytes, x + (index[j] * axis_stride + j * step) * bytes, (size_t)bytes);
}

static void gather_lines(void *user, int64_t begin, int64_t end) {
    const lines *l = user;
    const int last = l->walk->rank - 1;
    const int64_t n = l->length, axis_stride = l->other->stride[l->axis],
                  step = l->axis == last ? 0 : l->other->stride[last];
    for (int64_t i = begin; i < end; i++) {
        const char *x = l->other->data + offset_of(l, i) * l->bytes;
        const int64_t *index = l->index + i * n;
        char *y = l->data + i * n * l->bytes;
        /* A constant size makes memcpy one move. */
        switch (l->bytes) {
        case 8: copy_picked(8, n, x, index, axis_stride, step, y); break;
        case 4: copy_picked(4, n, x, index, axis_stride, step, y); break;
        case 2: copy_picked(2, n, x, index, axis_stride, step, y); break;
        default: copy_picked(1, n, x, index, axis_stride, step, y); break;
        }
    }
}

bb_status bb_cpu_gather(bb_call *call) {
    const bb_tensor *x = call->in[0];
    bb_tensor *out = call->out[0];
    int64_t axis = ((const bb_axis_attrs *)call->attrs)->axis;
    if (axis < 0) axis += x->rank;
    bb_tensor *index = checked_index(call, x->size[axis]);
    if (!index) return bb_error(call->ctx);
    lines l = {bb_cpu_of(call->ctx),
               (const int64_t *)(const void *)index->data,
               out,
               x,
               (int)axis,
               out->size[out->rank - 1],
               out->data,
               (int64_t)bb_dtype_bytes((bb_dtype)x->dtype),
               (bb_dtype)x->dtype};
    if (out->count)
        bb_cpu_for(l.cpu, out->count / l.length, bb_cpu_grain(l.length, PIECE), gather_lines, &l);
    done(index, call->in[1]);
    return BB_OK;
}

static void add_at(const lines *l, int64_t target, int64_t source) {
    const char *s = l->data + source * l->bytes;
    char *t = l->other->data + target * l->bytes;
    if (l->dtype == BB_F64)
        *(double *)(void *)t += *(const double *)(const void *)s;
    else if (l->dtype == BB_F32)
        *(float *)(void *)t += *(const float *)(const void *)s;
    else
        *(uint64_t *)(void *)t += *(const uint64_t *)(const void *)s;
}

/* Items are the positions outside the indexed axis: each adds its own elements, in order. */
static void scatter_items(void *user, int64_t begin, int64_t end) {
    const lines *l = user;
    const bb_tensor *walk = l->walk;
    for (int64_t item = begin; item < end; item++) {
        int64_t source = 0, target = 0, rest = item;
        for (int i = walk->rank - 1; i >= 0; i--) {
            if (i == l->axis) continue;
            source += rest % walk->size[i] * walk->stride[i];
            target += rest % walk->size[i] * l->other->stride[i];
            rest /= walk->size[i];
        }
        for (int64_t j = 0; j < walk->size[l->axis]; j++, source += walk->stride[l->axis])
            add_at(l, target + l->index[source] * l->other->stride[l->axis], source);
    }
}

/* The type in which elements are added. */
static bb_dtype sum_dtype(bb_dtype dtype) {
    if (dtype == BB_F64 || dtype == BB_F32) return dtype;
    return bb_dtype_is_float(dtype) ? BB_F32 : BB_I64;
}

bb_status bb_cpu_scatter_add(bb_call *call) {
    bb_tensor *x = call->in[0], *out = call->out[0], *index = NULL, *source = NULL, *sum = NULL;
    int64_t axis = ((const bb_axis_attrs *)call->attrs)->axis;
    if (axis < 0) axis += x->rank;
    const bb_dtype dtype = sum_dtype((bb_dtype)x->dtype);
    const bb_shape shape = bb_shape_of_tensor(x);
    if ((index = checked_index(call, x->size[axis])) == NULL) return bb_error(call->ctx);
    source = plain(call->in[2], dtype);
    sum = dtype == (bb_dtype)out->dtype ? out : bb_tensor_new(call->ctx, BB_CPU, dtype, &shape);
    bb_status status = source && sum ? bb_copy_into(x, sum) : bb_error(call->ctx);
    if (!status && source->count) {
        lines l = {bb_cpu_of(call->ctx),
                   (const int64_t *)(const void *)index->data,
                   source,
                   sum,
                   (int)axis,
                   source->size[axis],
                   source->data,
                   (int64_t)bb_dtype_bytes(dtype),
                   dtype};
        bb_cpu_for(l.cpu, source->count / l.length, bb_cpu_grain(l.length, PIECE), scatter_items,
                   &l);
    }
    if (!status && sum != out) status = bb_copy_into(sum, out);
    if (sum != out) bb_drop(sum);
    done(source, call->in[2]);
    done(index, call->in[1]);
    return status;
}

/* ---- index_select and embedding: whole rows */

/* y[o, i, :] = x[o, index[i], :], all contiguous. */
typedef struct pick {
    const int64_t *index;
    const char *x;
    char *y;
    int64_t count, size; /* of the axis: in the output, in x */
    int64_t row_bytes;
} pick;

static void pick_rows(void *user, int64_t begin, int64_t end) {
    const pick *p = user;
    for (int64_t i = begin; i < end; i++) {
        const int64_t row = i / p->count * p->size + p->index[i % p->count];
        memcpy(p->y + i * p->row_bytes, p->x + row * p->row_bytes, (size_t)p->row_bytes);
    }
}

static bb_status pick_along(bb_call *call, int axis, int64_t count) {
    bb_tensor *out = call->out[0], *index = checked_index(call, call->in[0]->size[axis]);
    if (!index) return bb_error(call->ctx);
    bb_tensor *x = plain(call->in[0], (bb_dtype)call->in[0]->dtype);
    bb_status status = x ? BB_OK : bb_error(call->ctx);
    if (x && out->count) {
        int64_t inner = 1;
        for (int i = axis + 1; i < x->rank; i++) inner *= x->size[i];
        pick p = {(const int64_t *)(const void *)index->data,
                  x->data,
                  out->data,
                  count,
                  x->size[axis],
                  inner * (int64_t)bb_dtype_bytes((bb_dtype)x->dtype)};
        bb_cpu_for(bb_cpu_of(call->ctx), out->count / inner, bb_cpu_grain(inner, PIECE), pick_rows,
                   &p);
    }
    done(x, call->in[0]);
    done(index, call->in[1]);
    return status;
}

bb_status bb_cpu_index_select(bb_call *call) {
    const int64_t axis = ((const bb_axis_attrs *)call->attrs)->axis;
    return pick_along(call, (int)(axis < 0 ? axis + call->in[0]->rank : axis), call->in[1]->count);
}

bb_status bb_cpu_embedding(bb_call *call) { return pick_along(call, 0, call->in[1]->count); }

/* dweight: a piece owns some columns and goes through all rows of g. */
typedef struct add_rows {
    const int64_t *index;
    const char *g;
    char *sum;
    bool wide; /* double, else float */
    int64_t rows, columns;
} add_rows;

static void add_columns(void *user, int64_t begin, int64_t end) {
    const add_rows *a = user;
    for (int64_t block = begin; block < end; block++) {
        const int64_t from = block * COLUMNS,
                      to = from + COLUMNS < a->columns ? from + COLUMNS : a->columns;
        for (int64_t i = 0; i < a->rows; i++) {
            if (a->wide) {
                const double *g = (const double *)(const void *)a->g + i * a->columns;
                double *sum = (double *)(void *)a->sum + a->index[i] * a->columns;
                for (int64_t j = from; j < to; j++) sum[j] += g[j];
            } else {
                const float *g = (const float *)(const void *)a->g + i * a->columns;
                float *sum = (float *)(void *)a->sum + a->index[i] * a->columns;
                for (int64_t j = from; j < to; j++) sum[j] += g[j];
            }
        }
    }
}

bb_status bb_cpu_embedding_backward(const bb_grad_call *grad) {
    const bb_call *call = grad->call;
    bb_tensor *target = grad->grad_in[0], *g = NULL, *index = NULL, *sum = NULL;
    if (!target || target->count == 0) return BB_OK;
    bb_backend *backend = &bb_cpu_of(call->ctx)->base;
    const bb_dtype dtype = sum_dtype((bb_dtype)target->dtype);
    const bb_shape shape = bb_shape_of_tensor(target);
    if ((index = checked_index(call, target->size[0])) == NULL) return bb_error(call->ctx);
    g = plain(grad->grad_out[0], dtype);
    sum =
        dtype == (bb_dtype)target->dtype ? target : bb_tensor_new(call->ctx, BB_CPU, dtype, &shape);
    bb_status status = g && sum ? backend->fill(backend, sum, 0) : bb_error(call->ctx);
    if (!status && index->count) {
        add_rows a = {(const int64_t *)(const void *)index->data,
                      g->data,
                      sum->data,
                      dtype == BB_F64,
                      index->count,
                      target->size[1]};
        bb_cpu_for(bb_cpu_of(call->ctx), (a.columns + COLUMNS - 1) / COLUMNS,
                   bb_cpu_grain(a.rows * COLUMNS, PIECE), add_columns, &a);
    }
    if (!status && sum != target) status = bb_copy_into(sum, target);
    if (sum != target) bb_drop(sum);
    done(g, grad->grad_out[0]);
    done(index, call->in[1]);
    return status;
}
