/* Numbers for the device's own tests: the same in each run, and what a tensor rounded them to. */
#ifndef BOBBIN_TESTS_CUDA_VALUES_H
#define BOBBIN_TESTS_CUDA_VALUES_H

#include "core/impl.h"
#include "tests/support/test.h"

/* n numbers in (-2, 2), or whole ones in [0, limit). */
static inline double *some_values(int64_t n, uint64_t seed, int64_t limit) {
    double *v = malloc((size_t)(n + 1) * sizeof *v);
    for (int64_t i = 0; v && i < n; i++) {
        uint32_t r[4];
        bb_philox(seed, (uint64_t)i, r);
        v[i] = limit ? (double)(r[0] % (uint64_t)limit) : (double)r[0] / 1073741824.0 - 2;
    }
    return v;
}

static inline double *values_of(bb_t x) {
    double *v = malloc((size_t)(bb_count(x) + 1) * sizeof *v);
    if (v) bb_read_f64(x, v, bb_count(x));
    return v;
}

/* A tensor of such numbers whose rows of `shape` are cut out of longer ones: gap elements stand
 * before each row, or -gap behind it. Without a gap it is what is read 16 bytes at a time; with one
 * before, the first row is not aligned; with one behind, only the later ones are not. */
static inline bb_t some_tensor(bb_context *ctx, bb_dtype dtype, bb_shape shape, int64_t gap,
                               uint64_t seed) {
    const int last = shape.rank - 1;
    const int64_t n = shape.size[last], start = gap > 0 ? gap : 0;
    int64_t count = 1;
    shape.size[last] += gap < 0 ? -gap : gap;
    for (int i = 0; i < shape.rank; i++) count *= shape.size[i];
    double *v = some_values(count, seed, 0);
    bb_t x = bb_from_f64(ctx, dtype, shape, v);
    free(v);
    return gap ? bb_slice(x, last, start, start + n, 1) : x;
}

#endif
