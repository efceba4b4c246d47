/* What the tests of nn share: reading and writing tensors as doubles, a fixed stream of numbers. */
#ifndef BOBBIN_TESTS_NN_TEST_H
#define BOBBIN_TESTS_NN_TEST_H

#include "core/impl.h"
#include "tests/support/test.h"

/* Numbers in (-1, 1) from a counter of the test's own, so that references depend on nothing of the
 * library. */
static inline double number(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(*state >> 11) / (double)(1ll << 52) - 1;
}

/* The elements in row-major order; free() it. */
static inline double *values_of(test *t, bb_tensor *x) {
    int64_t n = bb_count(x);
    double *v = calloc((size_t)(n > 0 ? n : 1), sizeof *v);
    CHECK_MSG(t, x && v && bb_read_f64(x, v, n) == BB_OK, "cannot read a tensor of %lld elements",
              (long long)n);
    return v;
}

/* A step tensor of numbers in (-scale, scale). */
static inline bb_tensor *random_tensor(bb_context *ctx, bb_dtype dtype, bb_shape shape,
                                       double scale, uint64_t *state) {
    int64_t n = 0;
    bb_shape_count(&shape, &n);
    double *v = malloc((size_t)(n + 1) * sizeof *v);
    for (int64_t i = 0; i < n; i++) v[i] = scale * number(state);
    bb_tensor *x = bb_from_f64(ctx, dtype, shape, v);
    free(v);
    return x;
}

/* Writes from's elements into `to`, wherever both live and of whichever contexts. */
static inline void overwrite(test *t, bb_tensor *to, bb_tensor *from) {
    size_t bytes = (size_t)bb_count(from) * bb_dtype_bytes(bb_dtype_of(from));
    void *values = malloc(bytes + 1);
    CHECK(t, values && bb_read(from, values, bytes) == BB_OK);
    CHECK_INT(t, bb_write(to, values, bytes), BB_OK);
    free(values);
}

/* Gives every parameter other numbers than its initial ones; those that start as ones stay around
 * one. */
static inline void scramble(test *t, bb_params *params, uint64_t *state) {
    for (int i = 0; i < bb_params_count(params); i++) {
        bb_tensor *p = bb_params_at(params, i);
        double *v = values_of(t, p);
        double shift = bb_count(p) && v[0] == 1 ? 1 : 0;
        for (int64_t k = 0; k < bb_count(p); k++) v[k] = shift + 0.5 * number(state);
        bb_tensor *x = bb_from_f64(bb_context_of(p), bb_dtype_of(p), bb_shape_of(p), v);
        overwrite(t, p, x);
        free(v);
    }
}

static inline void check_near(test *t, const char *what, const double *got, const double *expected,
                              int64_t n, double tolerance) {
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(got[i] - expected[i]) <= tolerance * (1 + fabs(expected[i])))) {
            CHECK_MSG(t, false, "%s[%lld]: got %.17g, expected %.17g", what, (long long)i, got[i],
                      expected[i]);
            return;
        }
    CHECK_MSG(t, true, "%s", what);
}

/* The bytes of two tensors of one dtype are the same. */
static inline bool same_bytes(bb_tensor *a, bb_tensor *b) {
    size_t bytes = (size_t)bb_count(a) * bb_dtype_bytes(bb_dtype_of(a));
    void *x = malloc(bytes + 1), *y = malloc(bytes + 1);
    bool same = bb_count(a) == bb_count(b) && bb_read(a, x, bytes) == BB_OK &&
                bb_read(b, y, bytes) == BB_OK && memcmp(x, y, bytes) == 0;
    free(x);
    free(y);
    return same;
}

#endif
