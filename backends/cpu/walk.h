/* Walking several strided tensors together in the row-major order of one shape, with as few axes as
 * their strides allow. A row is a run along the innermost axis that is left. */
#ifndef BOBBIN_BACKENDS_CPU_WALK_H
#define BOBBIN_BACKENDS_CPU_WALK_H

#include "core/impl.h"

enum { BB_WALK_MAX = 4 };

typedef struct bb_walk {
    int rank, n; /* axes (at least 1), tensors */
    int64_t count;
    int64_t size[BB_MAX_RANK];
    int64_t stride[BB_WALK_MAX][BB_MAX_RANK]; /* in elements; 0 where a tensor is broadcast */
} bb_walk;

/* A place: which row, and each tensor's offset of the row's first element. */
typedef struct bb_cursor {
    int64_t index[BB_MAX_RANK];
    int64_t offset[BB_WALK_MAX];
} bb_cursor;

/* The tensors broadcast to the shape of `like`. */
void bb_walk_make(bb_walk *walk, const bb_tensor *like, int n, const bb_tensor *const *tensors);
void bb_walk_seek(const bb_walk *walk, int64_t row, bb_cursor *cursor);
void bb_walk_next(const bb_walk *walk, bb_cursor *cursor); /* the next row; wraps at the end */
static inline int64_t bb_walk_row(const bb_walk *walk) { return walk->size[walk->rank - 1]; }

#endif
