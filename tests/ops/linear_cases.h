/* The cases of linear and of LinearAdd, which has a residual as its fourth input, against plain
 * sums: every rank of input, with and without bias, empty sizes, layouts. */
#ifndef BOBBIN_TESTS_LINEAR_CASES_H
#define BOBBIN_TESTS_LINEAR_CASES_H

#include "ops/ops.h"
#include "tests/support/alloc.h"
#include "tests/support/cases.h"

static inline void linear_reference(const op_case *c, const double *const *in,
                                    const bb_shape *out_shape, double *out) {
    const int64_t width = c->in[1].shape.size[0], depth = c->in[1].shape.size[1];
    int64_t n = 0;
    bb_shape_count(out_shape, &n);
    for (int64_t i = 0; i < n; i++) {
        const double *x = in[0] + i / width * depth, *w = in[1] + i % width * depth;
        double sum = (in[2] ? in[2][i % width] : 0) + (c->n_in > 3 ? in[3][i] : 0);
        for (int64_t k = 0; k < depth; k++) sum += x[k] * w[k];
        out[i] = sum;
    }
}

#define LINEAR(x, out, in_, missing, y)                                                            \
    .in = {{.shape = x},                                                                           \
           {.shape = {2, {out, in_}}},                                                             \
           {.shape = {1, {out}}, .absent = missing},                                               \
           {.shape = y}}
#define S(...) __VA_ARGS__
static const op_case linear_cases[] = {
    {.name = "vector", LINEAR(S({1, {4}}), 3, 4, false, S({1, {3}}))},
    {.name = "matrix", LINEAR(S({2, {5, 4}}), 3, 4, false, S({2, {5, 3}}))},
    {.name = "three axes, no bias", LINEAR(S({3, {2, 3, 4}}), 5, 4, true, S({3, {2, 3, 5}}))},
    {.name = "four axes", LINEAR(S({4, {2, 1, 3, 4}}), 2, 4, false, S({4, {2, 1, 3, 2}}))},
    {.name = "one by one", LINEAR(S({2, {1, 1}}), 1, 1, false, S({2, {1, 1}}))},
    {.name = "no rows", LINEAR(S({2, {0, 4}}), 3, 4, false, S({2, {0, 3}}))},
    {.name = "no depth", LINEAR(S({2, {3, 0}}), 2, 0, false, S({2, {3, 2}}))},
    {.name = "no depth, no bias", LINEAR(S({2, {3, 0}}), 2, 0, true, S({2, {3, 2}}))},
    {.name = "no width", LINEAR(S({2, {3, 4}}), 0, 4, false, S({2, {3, 0}}))},
    {.name = "more columns than a piece",
     LINEAR(S({2, {3, 2}}), 129, 2, false, S({2, {3, 129}})),
     .no_second = true,
     .why = "slow"},
    {.name = "blocks",
     LINEAR(S({3, {2, 33, 65}}), 67, 65, false, S({3, {2, 33, 67}})),
     .tolerance = 16,
     .no_second = true,
     .why = "slow"},
};
#undef LINEAR
#undef S

static inline void run_linear_cases(test *t, const char *op, int inputs) {
    enum { COUNT = sizeof linear_cases / sizeof linear_cases[0] };
    op_case cases[COUNT];
    memcpy(cases, linear_cases, sizeof cases);
    for (int i = 0; i < COUNT; i++) cases[i].n_in = inputs;
    run_op_cases(t, op, cases, COUNT, linear_reference);
}

#endif
