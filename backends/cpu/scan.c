/* cumsum and argmax: one line of an axis at a time. Loops: loops/reduce.c. */
#include "backends/cpu/kernels.h"

typedef struct lines {
    const bb_cpu *cpu;
    const bb_tensor *x;
    bb_tensor *y;
    int axis;
    int64_t n, inner; /* elements of a line; lines that follow each other in y */
} lines;

static lines lines_of(bb_call *call, int64_t axis) {
    const bb_tensor *x = call->in[0];
    lines l = {
        bb_cpu_of(call->ctx), x, call->out[0], (int)(axis < 0 ? axis + x->rank : axis), 0, 1};
    l.n = x->size[l.axis];
    for (int i = l.axis + 1; i < x->rank; i++) l.inner *= x->size[i];
    return l;
}

/* The first element of a line, given its row-major number among the lines. */
static const char *start_of(const lines *l, int64_t line) {
    int64_t offset = 0;
    for (int i = l->x->rank - 1; i >= 0; i--) {
        if (i == l->axis) continue;
        offset += line % l->x->size[i] * l->x->stride[i];
        line /= l->x->size[i];
    }
    return l->x->data + offset * (int64_t)bb_dtype_bytes((bb_dtype)l->x->dtype);
}

static void cumsum_lines(void *user, int64_t begin, int64_t end) {
    const lines *l = user;
    const int64_t bytes = (int64_t)bb_dtype_bytes((bb_dtype)l->y->dtype);
    for (int64_t i = begin; i < end; i++)
        l->cpu->loops->reduce->cumsum(
            l->x->dtype, l->n, start_of(l, i), l->x->stride[l->axis],
            l->y->data + (i / l->inner * l->inner * l->n + i % l->inner) * bytes, l->inner);
}

static void argmax_lines(void *user, int64_t begin, int64_t end) {
    const lines *l = user;
    int64_t *y = (int64_t *)(void *)l->y->data;
    for (int64_t i = begin; i < end; i++)
        y[i] =
            l->cpu->loops->reduce->argmax(l->x->dtype, l->n, start_of(l, i), l->x->stride[l->axis]);
}

bb_status bb_cpu_cumsum(bb_call *call) {
    lines l = lines_of(call, ((const bb_axis_attrs *)call->attrs)->axis);
    if (l.x->count)
        bb_cpu_for(l.cpu, l.x->count / l.n, bb_cpu_grain(l.n, 1 << 15), cumsum_lines, &l);
    return BB_OK;
}

bb_status bb_cpu_argmax(bb_call *call) {
    lines l = lines_of(call, ((const bb_arg_attrs *)call->attrs)->axis);
    if (l.x->count)
        bb_cpu_for(l.cpu, l.x->count / l.n, bb_cpu_grain(l.n, 1 << 15), argmax_lines, &l);
    return BB_OK;
}
