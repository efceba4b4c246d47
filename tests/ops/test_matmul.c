/* matmul against three nested loops: vectors, matrices, batches that broadcast, sizes at the
 * thresholds of the products, integers, transposed and strided operands, threads, errors. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/alloc.h"
#include "tests/support/cases.h"

static void ref_matmul(const op_case *c, const double *const *in, const bb_shape *out_shape,
                       double *out) {
    const bb_shape *a = &c->in[0].shape, *b = &c->in[1].shape;
    const int64_t k = a->size[a->rank - 1], m = a->rank > 1 ? a->size[a->rank - 2] : 1,
                  n = b->rank > 1 ? b->size[b->rank - 1] : 1;
    bb_shape batch = *out_shape, batch_a = *a, batch_b = *b;
    batch.rank -= (a->rank > 1) + (b->rank > 1);
    batch_a.rank = a->rank > 2 ? a->rank - 2 : 0;
    batch_b.rank = b->rank > 2 ? b->rank - 2 : 0;
    int64_t batches = 1;
    for (int i = 0; i < batch.rank; i++) batches *= batch.size[i];
    for (int64_t q = 0; q < batches; q++) {
        int64_t index[BB_MAX_RANK];
        ref_unravel(&batch, q, index);
        const double *x = in[0] + m * k * ref_broadcast_offset(&batch_a, &batch, index);
        const double *y = in[1] + k * n * ref_broadcast_offset(&batch_b, &batch, index);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) {
                double sum = 0;
                for (int64_t p = 0; p < k; p++) sum += x[i * k + p] * y[p * n + j];
                out[(q * m + i) * n + j] = sum;
            }
    }
}

#define S(...)                                                                                     \
    {                                                                                              \
        (int)(sizeof((const int64_t[]){__VA_ARGS__}) / 8), { __VA_ARGS__ }                         \
    }
#define X(...)                                                                                     \
    { .fill = FILL_NORMAL, .shape = S(__VA_ARGS__) }
static const op_case cases[] = {
    {.name = "matrices", .in = {X(3, 4), X(4, 5)}, .n_in = 2},
    {.name = "vector vector", .in = {X(5), X(5)}, .n_in = 2},
    {.name = "matrix vector", .in = {X(3, 4), X(4)}, .n_in = 2},
    {.name = "vector matrix", .in = {X(4), X(4, 3)}, .n_in = 2},
    {.name = "batch vector", .in = {X(2, 3, 4), X(4)}, .n_in = 2},
    {.name = "vector batch", .in = {X(4), X(2, 4, 3)}, .n_in = 2},
    {.name = "batch batch", .in = {X(3, 2, 4), X(3, 4, 5)}, .n_in = 2},
    {.name = "batch matrix", .in = {X(3, 2, 4), X(4, 5)}, .n_in = 2},
    {.name = "matrix batch", .in = {X(2, 4), X(3, 4, 5)}, .n_in = 2},
    {.name = "broadcast both", .in = {X(2, 1, 2, 3), X(3, 3, 2)}, .n_in = 2},
    {.name = "broadcast one", .in = {X(1, 2, 3), X(5, 3, 2)}, .n_in = 2},
    {.name = "one by one", .in = {X(1, 1), X(1, 1)}, .n_in = 2},
    {.name = "column by row", .in = {X(4, 1), X(1, 3)}, .n_in = 2},
    {.name = "row by column", .in = {X(1, 4), X(4, 1)}, .n_in = 2},
    {.name = "many rows, one column", .in = {X(9, 4), X(4, 1)}, .n_in = 2},
    {.name = "inner 0", .in = {X(2, 0), X(0, 3)}, .n_in = 2},
    {.name = "outer 0", .in = {X(0, 2), X(2, 3)}, .n_in = 2},
    {.name = "batch 0", .in = {X(0, 2, 3), X(3, 2)}, .n_in = 2},
    {.name = "3 rows", .in = {X(3, 17), X(17, 9)}, .n_in = 2, .no_second = true, .why = "slow"},
    {.name = "13 rows", .in = {X(13, 5), X(5, 7)}, .n_in = 2, .no_second = true, .why = "slow"},
};
static void test_cases(test *t) { run_op_cases(t, "matmul", cases, COUNT(cases), ref_matmul); }

/* Elements of a product, in double. */
static void check_product(test *t, bb_t a, bb_t b, double tolerance) {
    bb_context *ctx = bb_context_of(a);
    bb_t c = bb_matmul(a, b);
    CHECK_OK(t, ctx);
    if (!c) return;
    const int64_t m = bb_size(a, 0), k = bb_size(a, 1), n = bb_size(b, 1);
    double *x = malloc((size_t)(m * k + k * n + m * n + 1) * sizeof *x), *y = x + m * k,
           *z = y + k * n, worst = 0;
    bb_read_f64(a, x, m * k);
    bb_read_f64(b, y, k * n);
    bb_read_f64(c, z, m * n);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t p = 0; p < k; p++) sum += x[i * k + p] * y[p * n + j];
            const double off = fabs(sum - z[i * n + j]);
            worst = off > worst || off != off ? off : worst;
        }
    free(x);
    CHECK_MSG(t, worst <= tolerance, "(%d, %d, %d) %s: off by %g", (int)m, (int)n, (int)k,
              bb_dtype_name(bb_dtype_of(a)), worst);
}

static void test_sizes(test *t) {
    bb_context *ctx = test_open();
    static const int64_t sizes[][3] = {
        {31, 33, 32},  {32, 32, 33},  {64, 65, 63}, {65, 64, 64}, {200, 257, 255}, {257, 33, 257},
        {4, 300, 300}, {3, 300, 300}, {1, 700, 90}, {700, 1, 90}, {100, 100, 1}};
    for (int s = 0; s < COUNT(sizes); s++) {
        const int64_t m = sizes[s][0], n = sizes[s][1], k = sizes[s][2];
        for (int d = BB_F64; d <= BB_F32; d++) {
            const double tolerance = (d == BB_F64 ? 1e-13 : 2e-5) * (double)(k > 8 ? k : 8) / 8;
            bb_t a = bb_randn(ctx, (bb_dtype)d, BB_SHAPE(m, k)),
                 at = bb_randn(ctx, (bb_dtype)d, BB_SHAPE(k, m));
            bb_t b = bb_randn(ctx, (bb_dtype)d, BB_SHAPE(k, n)),
                 bt = bb_randn(ctx, (bb_dtype)d, BB_SHAPE(n, k));
            check_product(t, a, b, tolerance);
            check_product(t, bb_transpose(at, 0, 1), b, tolerance);
            check_product(t, a, bb_transpose(bt, 0, 1), tolerance);
            check_product(t, bb_transpose(at, 0, 1), bb_transpose(bt, 0, 1), tolerance);
            bb_t wide = bb_randn(ctx, (bb_dtype)d, BB_SHAPE(2 * m, 2 * k));
            check_product(t, bb_slice(bb_slice(wide, 0, 0, 2 * m, 2), 1, k, 2 * k, 1), b,
                          tolerance); /* long rows */
            check_product(t, bb_slice(bb_slice(wide, 0, 0, m, 1), 1, 0, 2 * k, 2), b,
                          tolerance); /* gaps */
            check_product(t, bb_expand(bb_randn(ctx, (bb_dtype)d, BB_SHAPE(1, k)), BB_SHAPE(m, k)),
                          b, tolerance);
            bb_end_step(ctx);
        }
    }
    bb_close(ctx);
}

static void test_half(test *t) {
    bb_context *ctx = test_open();
    for (int d = BB_F16; d <= BB_BF16; d++) {
        bb_t a = bb_randn(ctx, (bb_dtype)d, BB_SHAPE(40, 70)),
             b = bb_randn(ctx, (bb_dtype)d, BB_SHAPE(50, 70));
        check_product(t, a, bb_transpose(b, 0, 1), d == BB_F16 ? 0.02 : 0.15);
    }
    /* 1 + 4096 * 2^-12 in f16: only a wide sum sees the small ones. */
    double v[4097];
    for (int i = 0; i < 4097; i++) v[i] = i ? 0x1p-12 : 1;
    bb_t small = bb_from_f64(ctx, BB_F16, BB_SHAPE(4097), v),
         ones = bb_ones(ctx, BB_F16, BB_SHAPE(4097));
    CHECK_NEAR(t, bb_item(bb_matmul(small, ones)), 2, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_integers(test *t) {
    bb_context *ctx = test_open();
    const bb_dtype dtypes[] = {BB_I64, BB_I32, BB_U8};
    for (int d = 0; d < 3; d++) {
        bb_t a = bb_cast(bb_reshape(bb_arange(ctx, BB_I64, 0, 6, 1), BB_SHAPE(2, 3)), dtypes[d]);
        bb_t c = bb_matmul(a, bb_transpose(a, 0, 1));
        double v[4] = {0};
        CHECK_INT(t, bb_dtype_of(c), dtypes[d]);
        bb_read_f64(c, v, 4);
        CHECK(t, v[0] == 5 && v[1] == 14 && v[2] == 14 && v[3] == 50);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_promotes(test *t) {
    bb_context *ctx = test_open();
    bb_t c = bb_matmul(bb_ones(ctx, BB_F16, BB_SHAPE(2, 3)), bb_ones(ctx, BB_F32, BB_SHAPE(3, 2)));
    CHECK_INT(t, bb_dtype_of(c), BB_F32);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_batches(test *t) {
    bb_context *one = bb_open(&(bb_options){.threads = 1, .seed = 3}),
               *three = bb_open(&(bb_options){.threads = 3, .seed = 3});
    bb_t c[2];
    for (int i = 0; i < 2; i++) {
        bb_context *ctx = i ? three : one;
        bb_t a = bb_randn(ctx, BB_F32, BB_SHAPE(6, 5, 40, 24)),
             b = bb_randn(ctx, BB_F32, BB_SHAPE(5, 56, 24));
        c[i] = bb_matmul(a, bb_transpose(b, -1, -2));
        CHECK_OK(t, ctx);
        /* Against single products. */
        bb_t single =
            bb_matmul(bb_select(bb_select(a, 0, 4), 0, 3), bb_transpose(bb_select(b, 0, 3), 0, 1));
        bb_t off = bb_amax(bb_abs(bb_sub(single, bb_select(bb_select(c[i], 0, 4), 0, 3))),
                           (bb_ints){.n = 0}, false);
        CHECK_NEAR(t, bb_item(off), 0, 1e-4);
    }
    CHECK(t, memcmp(bb_data(c[0]), bb_data(c[1]), (size_t)bb_count(c[0]) * 4) == 0);
    bb_close(one);
    bb_close(three);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t a = bb_zeros(ctx, BB_F32, BB_SHAPE(2, 3)), b = bb_zeros(ctx, BB_F32, BB_SHAPE(4, 5));
    CHECK(t, bb_matmul(a, b) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "matmul: other: expected inner size 3, got 4 (shapes (2, 3) and (4, 5))");
    CHECK(t, bb_matmul(bb_scalar(ctx, BB_F32, 1), a) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "matmul: input: expected at least 1 axes, got 0");
    CHECK(t, bb_matmul(bb_zeros(ctx, BB_F32, BB_SHAPE(2, 2, 3)),
                       bb_zeros(ctx, BB_F32, BB_SHAPE(3, 3, 2))) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "matmul: other: expected batch axes that broadcast with (2, 2, 3), got (3, 3, 2)");
    CHECK(t, bb_matmul(bb_zeros(ctx, BB_BOOL, BB_SHAPE(2, 2)),
                       bb_zeros(ctx, BB_BOOL, BB_SHAPE(2, 2))) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "matmul: input: expected a number dtype, got bool");
    CHECK(t, bb_matmul(a, NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "matmul: other");
    bb_close(ctx);
}

/* Copies of f16 batches, of strided operands, and their gradients. */
static void out_of_memory(bb_context *ctx) {
    bb_t a = bb_set_requires_grad(bb_randn(ctx, BB_F16, BB_SHAPE(2, 3, 4)), true);
    bb_t b = bb_set_requires_grad(bb_randn(ctx, BB_F32, BB_SHAPE(4, 10)), true);
    bb_t y = bb_matmul(bb_transpose(bb_matmul(bb_transpose(a, 1, 2), a), 1, 2),
                       bb_slice(b, 1, 0, 10, 2));
    bb_backward(bb_sum_all(y), NULL);
}
static void test_memory(test *t) { alloc_failure_loop(t, out_of_memory); }

static const test_row rows[] = {
    {"cases", test_cases},       {"sizes", test_sizes},       {"half", test_half},
    {"integers", test_integers}, {"promotes", test_promotes}, {"batches", test_batches},
    {"memory", test_memory},     {"errors", test_errors},
};
TEST_MAIN(rows)
