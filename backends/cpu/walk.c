/* Walking several strided tensors together (backends/cpu/walk.h). */
#include "backends/cpu/walk.h"

/* Whether axis `outer` continues axis `inner` in all tensors. */
static bool joins(const bb_walk *w, const int64_t *stride, int inner) {
    for (int k = 0; k < w->n; k++)
        if (stride[k] != w->stride[k][inner] * w->size[inner]) return false;
    return true;
}

void bb_walk_make(bb_walk *w, const bb_tensor *like, int n, const bb_tensor *const *tensors) {
    bb_walk reversed; /* innermost axis first */
    int rank = 0;
    reversed.n = n;
    for (int axis = like->rank - 1; axis >= 0; axis--) {
        int64_t stride[BB_WALK_MAX];
        if (like->size[axis] == 1) continue;
        for (int k = 0; k < n; k++) {
            int own = axis - (like->rank - tensors[k]->rank);
            stride[k] = own < 0 || tensors[k]->size[own] == 1 ? 0 : tensors[k]->stride[own];
        }
        if (rank > 0 && joins(&reversed, stride, rank - 1)) {
            reversed.size[rank - 1] *= like->size[axis];
            continue;
        }
        for (int k = 0; k < n; k++) reversed.stride[k][rank] = stride[k];
        reversed.size[rank++] = like->size[axis];
    }
    if (rank == 0) {
        for (int k = 0; k < n; k++) reversed.stride[k][0] = 1;
        reversed.size[rank++] = 1;
    }
    w->rank = rank;
    w->n = n;
    w->count = like->count;
    for (int i = 0; i < rank; i++) {
        w->size[i] = reversed.size[rank - 1 - i];
        for (int k = 0; k < n; k++) w->stride[k][i] = reversed.stride[k][rank - 1 - i];
    }
}

void bb_walk_seek(const bb_walk *w, int64_t row, bb_cursor *c) {
    for (int k = 0; k < w->n; k++) c->offset[k] = 0;
    for (int i = w->rank - 2; i >= 0; i--) {
        c->index[i] = row % w->size[i];
        row /= w->size[i];
        for (int k = 0; k < w->n; k++) c->offset[k] += c->index[i] * w->stride[k][i];
    }
}

void bb_walk_next(const bb_walk *w, bb_cursor *c) {
    for (int i = w->rank - 2; i >= 0; i--) {
        for (int k = 0; k < w->n; k++) c->offset[k] += w->stride[k][i];
        if (++c->index[i] < w->size[i]) return;
        for (int k = 0; k < w->n; k++) c->offset[k] -= c->index[i] * w->stride[k][i];
        c->index[i] = 0;
    }
}
