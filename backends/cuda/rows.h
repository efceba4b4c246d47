/* How kernels that work along the last axis walk over its rows: norms (norm.h).
 *
 * The other axes are sorted: first those over which a scale differs, the group axes, then those
 * over which it is repeated. All rows of a group share one scale row, and the gradient of the scale
 * is a sum within a group. Axes whose strides allow it are merged, so a contiguous tensor has one
 * row axis and an address costs one multiplication. */
#ifndef BOBBIN_BACKENDS_CUDA_ROWS_H
#define BOBBIN_BACKENDS_CUDA_ROWS_H

#include "backends/cuda/cuda.h"
#include "backends/cuda/index.h"

/* What a row has an address in: the row-major order (counted in rows), input x, its gradient's
 * cotangent dy, and a tensor that is added (a residual, or its gradient); all but the first in
 * elements. */
enum { BB_ROWS_ORDER = 0, BB_ROWS_X, BB_ROWS_DY, BB_ROWS_MORE, BB_ROWS_OPERANDS };

struct bb_rows {
    int64_t n;            /* elements of a row */
    int64_t groups, rows; /* rows: of each group */
    int group_axes, axes;
    bool small; /* groups and rows are below 2^31: divided by multiplication */
    bb_divider divider[BB_MAX_RANK];
    int64_t size[BB_MAX_RANK];
    int64_t stride[BB_ROWS_OPERANDS][BB_MAX_RANK];
};

struct bb_row_at {
    int64_t of[BB_ROWS_OPERANDS];
};

/* Where row `row` of `group` begins. */
static __device__ inline bb_row_at bb_rows_at(const bb_rows &rows, int64_t group, int64_t row) {
    bb_row_at at = {{0, 0, 0, 0}};
    for (int a = rows.axes - 1; a >= 0; a--) {
        int64_t &left = a < rows.group_axes ? group : row;
        int64_t index = left;
        if (a != 0 && a != rows.group_axes) {
            left = rows.small ? bb_divide((uint32_t)left, rows.divider[a]) : left / rows.size[a];
            index -= left * rows.size[a];
        }
        for (int k = 0; k < BB_ROWS_OPERANDS; k++) at.of[k] += index * rows.stride[k][a];
    }
    return at;
}

/* ---- On the host */

static inline bool bb_rows_differ(const bb_tensor *scale, int rank, int axis) {
    const int own = scale ? axis - (rank - scale->rank) : -1;
    return own >= 0 && scale->size[own] != 1;
}

/* Appends an axis, or merges it with the one before where their strides allow. */
static inline void bb_rows_push(bb_rows *rows, int first, int64_t size,
                                const int64_t stride[BB_ROWS_OPERANDS]) {
    bool merge = rows->axes > first;
    for (int k = 0; k < BB_ROWS_OPERANDS && merge; k++)
        merge = rows->stride[k][rows->axes - 1] == stride[k] * size;
    if (merge) rows->axes--;
    rows->size[rows->axes] = merge ? rows->size[rows->axes] * size : size;
    for (int k = 0; k < BB_ROWS_OPERANDS; k++) rows->stride[k][rows->axes] = stride[k];
    rows->axes++;
}

/* x has rank 1 or more; scale broadcasts to x's shape; dy and more have x's shape. All three may be
 * NULL. */
static inline bb_rows bb_rows_of(const bb_tensor *x, const bb_tensor *scale, const bb_tensor *dy,
                                 const bb_tensor *more) {
    bb_rows rows = {};
    int64_t order[BB_MAX_RANK], next = 1;
    rows.n = x->size[x->rank - 1];
    rows.groups = rows.rows = 1;
    for (int a = x->rank - 2; a >= 0; a--) {
        order[a] = next;
        next *= x->size[a];
    }
    for (int pass = 0; pass < 2; pass++) {
        const int first = rows.axes;
        for (int a = 0; a < x->rank - 1; a++) {
            if (x->size[a] == 1 || bb_rows_differ(scale, x->rank, a) != (pass == 0)) continue;
            const int64_t stride[BB_ROWS_OPERANDS] = {
                order[a], x->stride[a], dy ? dy->stride[a] : 0, more ? more->stride[a] : 0};
            *(pass == 0 ? &rows.groups : &rows.rows) *= x->size[a];
            bb_rows_push(&rows, first, x->size[a], stride);
        }
        if (pass == 0) rows.group_axes = rows.axes;
    }
    rows.small = rows.groups <= INT32_MAX && rows.rows <= INT32_MAX;
    for (int a = 0; a < rows.axes && rows.small; a++)
        rows.divider[a] = bb_divider_make(rows.size[a] ? (uint32_t)rows.size[a] : 1);
    return rows;
}

#endif
