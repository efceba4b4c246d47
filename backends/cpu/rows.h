/* How the kernels that work along the last axis (norms, softmax, cross entropy) walk over its rows.
 *
 * The other axes are sorted: first those over which a scale differs, the group axes, then those
 * over which it is repeated. So all rows of a group share one scale row, and the sum of the scale's
 * gradient is a sum within a group. The rows of a group are cut into chunks of a size that depends
 * on shapes only. */
#ifndef BOBBIN_BACKENDS_CPU_ROWS_H
#define BOBBIN_BACKENDS_CPU_ROWS_H

#include "backends/cpu/cpu.h"

/* What a row has an address in: the row-major order (counted in rows), input x, and gradient dy. */
enum { ROWS_ORDER = 0, ROWS_X, ROWS_DY, ROWS_OPERANDS };
/* Elements of a chunk, roughly, and the most chunks of a group. */
enum { ROWS_CHUNK_ELEMENTS = 16384, ROWS_MAX_CHUNKS = 64 };

typedef struct bb_rows {
    int64_t n;             /* elements of a row */
    int64_t groups, rows;  /* rows: of each group */
    int64_t chunk, chunks; /* rows of a chunk; chunks of a group, at least one */
    int group_axes, axes;
    int64_t size[BB_MAX_RANK];
    int64_t stride[ROWS_OPERANDS][BB_MAX_RANK];
} bb_rows;

static inline bool bb_rows_differ(const bb_tensor *scale, int rank, int axis) {
    int own = scale ? axis - (rank - scale->rank) : -1;
    return own >= 0 && scale->size[own] != 1;
}

/* Appends an axis, or merges it with the one before where their strides allow. */
static inline void bb_rows_push(bb_rows *rows, int first, int64_t size,
                                const int64_t stride[ROWS_OPERANDS]) {
    bool merge = rows->axes > first;
    for (int k = 0; k < ROWS_OPERANDS && merge; k++)
        merge = rows->stride[k][rows->axes - 1] == stride[k] * size;
    if (merge) rows->axes--;
    rows->size[rows->axes] = merge ? rows->size[rows->axes] * size : size;
    for (int k = 0; k < ROWS_OPERANDS; k++) rows->stride[k][rows->axes] = stride[k];
    rows->axes++;
}

/* x has rank 1 or more; scale broadcasts to x's shape; dy has x's shape. Both may be NULL. */
static inline bb_rows bb_rows_of(const bb_tensor *x, const bb_tensor *scale, const bb_tensor *dy) {
    bb_rows rows = {.n = x->size[x->rank - 1], .groups = 1, .rows = 1};
    int64_t order[BB_MAX_RANK], next = 1;
    for (int a = x->rank - 2; a >= 0; a--) {
        order[a] = next;
        next *= x->size[a];
    }
    for (int pass = 0; pass < 2; pass++) {
        int first = rows.axes;
        for (int a = 0; a < x->rank - 1; a++) {
            if (x->size[a] == 1 || bb_rows_differ(scale, x->rank, a) != (pass == 0)) continue;
            const int64_t stride[ROWS_OPERANDS] = {order[a], x->stride[a], dy ? dy->stride[a] : 0};
            *(pass == 0 ? &rows.groups : &rows.rows) *= x->size[a];
            bb_rows_push(&rows, first, x->size[a], stride);
        }
        if (pass == 0) rows.group_axes = rows.axes;
    }
    int64_t chunk = bb_cpu_grain(rows.n, ROWS_CHUNK_ELEMENTS);
    rows.chunks = rows.rows / chunk + (rows.rows % chunk != 0);
    if (rows.chunks > ROWS_MAX_CHUNKS) rows.chunks = ROWS_MAX_CHUNKS;
    if (rows.chunks < 1) rows.chunks = 1;
    rows.chunk = rows.rows / rows.chunks + (rows.rows % rows.chunks != 0);
    return rows;
}

/* Items for bb_cpu_for are chunks of groups, in order; this many of them are worth a piece. */
static inline int64_t bb_rows_items(const bb_rows *rows) { return rows->groups * rows->chunks; }
static inline int64_t bb_rows_grain(const bb_rows *rows) {
    return bb_cpu_grain(rows->chunk * rows->n, ROWS_CHUNK_ELEMENTS);
}
static inline void bb_rows_item(const bb_rows *rows, int64_t item, int64_t *group, int64_t *begin,
                                int64_t *end) {
    *group = item / rows->chunks;
    *begin = item % rows->chunks * rows->chunk;
    *end = *begin + rows->chunk < rows->rows ? *begin + rows->chunk : rows->rows;
}

/* How many of a group's rows from `row` on, at most to `end`, are equally spaced, bb_rows_step
 * apart. at[]: where the first of them is. */
static inline int64_t bb_rows_run(const bb_rows *rows, int64_t group, int64_t row, int64_t end,
                                  int64_t at[ROWS_OPERANDS]) {
    int64_t count = 1;
    for (int k = 0; k < ROWS_OPERANDS; k++) at[k] = 0;
    for (int a = rows->axes - 1; a >= 0; a--) {
        int64_t *left = a < rows->group_axes ? &group : &row, size = rows->size[a],
                index = *left % size;
        if (a == rows->axes - 1 && a >= rows->group_axes)
            count = size - index < end - row ? size - index : end - row;
        *left /= size;
        for (int k = 0; k < ROWS_OPERANDS; k++) at[k] += index * rows->stride[k][a];
    }
    return count;
}

static inline int64_t bb_rows_step(const bb_rows *rows, int operand) {
    return rows->axes > rows->group_axes ? rows->stride[operand][rows->axes - 1] : 0;
}

#endif
