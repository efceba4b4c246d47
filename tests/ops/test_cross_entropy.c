/* cross_entropy against an independent reference, on both paths; ignored targets; errors. */
#include "autograd/autograd.h"
#include "core/impl.h"
#include "ops/ops.h"
#include "tests/support/cases.h"

static void reference(const op_case *c, const double *const *in, const bb_shape *out_shape,
                      double *out) {
    static const bb_cross_entropy_attrs defaults = {-100, BB_REDUCE_MEAN};
    const bb_cross_entropy_attrs *a = c->attrs ? c->attrs : &defaults;
    const bb_shape *shape = &c->in[0].shape;
    int64_t classes = shape->size[shape->rank - 1], rows = 1, valid = 0;
    double total = 0;
    (void)out_shape;
    for (int i = 0; i < shape->rank - 1; i++) rows *= shape->size[i];
    for (int64_t r = 0; r < rows; r++) {
        const double *x = in[0] + r * classes;
        double sum = 0, loss = 0;
        int64_t target = (int64_t)in[1][r];
        for (int64_t k = 0; k < classes; k++) sum += exp(x[k] - x[0]);
        if (target != a->ignore_index) {
            loss = log(sum) + x[0] - x[target];
            valid++;
        }
        total += loss;
        if (a->reduction == BB_REDUCE_NONE) out[r] = loss;
    }
    if (a->reduction != BB_REDUCE_NONE)
        out[0] = a->reduction == BB_REDUCE_MEAN ? total / (double)valid : total;
}

#define CASE(label, a, x, y, classes)                                                              \
    {                                                                                              \
        .name = label, .attrs = a,                                                                 \
        .in = {{.shape = x}, {.fill = FILL_INDEX, .shape = y, .limit = classes}}, .n_in = 2,       \
        .tolerance = 8                                                                             \
    }
#define DIM(n, classes)                                                                            \
    {                                                                                              \
        .name = "dim " #n,                                                                         \
        .in = {{.shape = SH(3, n)}, {.fill = FILL_INDEX, .shape = SH(3), .limit = classes}},       \
        .n_in = 2, .no_second = true, .why = "large: first order suffices", .tolerance = 8         \
    }

static void test_shapes(test *t) {
    static const bb_cross_entropy_attrs sum = {-100, BB_REDUCE_SUM}, none = {-100, BB_REDUCE_NONE},
                                        ignore = {2, BB_REDUCE_MEAN},
                                        ignore_none = {1, BB_REDUCE_NONE};
    const op_case cases[] = {
        CASE("mean", NULL, SH(5, 4), SH(5), 4),
        CASE("sum", &sum, SH(5, 4), SH(5), 4),
        CASE("none", &none, SH(5, 4), SH(5), 4),
        CASE("mean, one class ignored", &ignore, SH(9, 4), SH(9), 4),
        CASE("none, one class ignored", &ignore_none, SH(9, 3), SH(9), 3),
        CASE("one row", NULL, SH(4), BB_SCALAR, 4),
        CASE("one class", NULL, SH(3, 1), SH(3), 1),
        CASE("rank 3", &none, SH(2, 3, 4), SH(2, 3), 4),
    };
    run_op_cases(t, "cross_entropy", cases, COUNT(cases), reference);
}

static void test_dimensions(test *t) {
    const op_case cases[] = {DIM(31, 31), DIM(32, 32), DIM(33, 33), DIM(64, 64), DIM(65, 65),
                             DIM(256, 256), DIM(257, 257), DIM(1023, 1023), DIM(1024, 1024),
                             DIM(1025, 1025),
                             /* Rows of several tiles: the class in the first, or in any. */
                             DIM(2048, 5), DIM(2500, 2500)};
    run_op_cases(t, "cross_entropy", cases, COUNT(cases), reference);
}

static bb_t targets(bb_context *ctx, bb_dtype dtype, int64_t n, const double *values) {
    return bb_from_f64(ctx, dtype, SH(n), values);
}

/* Ignored rows get zero gradients, whatever they hold; the others are weighted by their own number;
 * i32 targets do as well. */
static void test_ignored_rows(test *t) {
    static const bb_dtype dtypes[] = {BB_I64, BB_I32};
    bb_context *ctx = test_open();
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        for (int d = 0; d < 2; d++) {
            bb_set_path(ctx, (bb_path)path);
            const float values[] = {0, 0, NAN, INFINITY, 0, 0};
            bb_t x = bb_set_requires_grad(bb_from(ctx, BB_F32, SH(3, 2), values), true);
            bb_t loss = bb_cross_entropy(x, targets(ctx, dtypes[d], 3, (double[]){1, -100, 0}),
                                         -100, BB_REDUCE_MEAN);
            CHECK_NEAR(t, bb_item(loss), log(2), 1e-6);
            bb_backward(loss, NULL);
            const double expected[] = {0.25, -0.25, 0, 0, -0.25, 0.25};
            double got[6];
            bb_read_f64(bb_grad(x), got, 6);
            for (int i = 0; i < 6; i++) CHECK_NEAR(t, got[i], expected[i], 1e-7);
            CHECK_OK(t, ctx);
            bb_end_step(ctx);
        }
    }
    bb_close(ctx);
}

/* As PyTorch: the mean of nothing is NaN, the sum 0; nothing flows back. */
static void test_all_ignored(test *t) {
    bb_context *ctx = test_open();
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        for (int reduction = BB_REDUCE_MEAN; reduction <= BB_REDUCE_SUM; reduction++) {
            bb_set_path(ctx, (bb_path)path);
            bb_t x = bb_set_requires_grad(bb_ones(ctx, BB_F32, SH(2, 3)), true);
            bb_t loss = bb_cross_entropy(x, targets(ctx, BB_I64, 2, (double[]){7, 7}), 7,
                                         (bb_reduction)reduction);
            double value = bb_item(loss), got[6];
            CHECK(t, reduction == BB_REDUCE_MEAN ? isnan(value) : value == 0);
            bb_backward(loss, NULL);
            bb_read_f64(bb_grad(x), got, 6);
            for (int i = 0; i < 6; i++) CHECK_NEAR(t, got[i], 0, 0);
            CHECK_OK(t, ctx);
            bb_end_step(ctx);
        }
    }
    bb_close(ctx);
}

static void test_empty(test *t) {
    bb_context *ctx = test_open();
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        bb_set_path(ctx, (bb_path)path);
        bb_t x = bb_zeros(ctx, BB_F32, SH(0, 3)), target = bb_zeros(ctx, BB_I64, SH(0));
        CHECK(t, isnan(bb_item(bb_cross_entropy(x, target, -100, BB_REDUCE_MEAN))));
        CHECK_NEAR(t, bb_item(bb_cross_entropy(x, target, -100, BB_REDUCE_SUM)), 0, 0);
        CHECK_INT(t, bb_count(bb_cross_entropy(x, target, -100, BB_REDUCE_NONE)), 0);
        CHECK_OK(t, ctx);
    }
    bb_close(ctx);
}

static void test_large_logits(test *t) {
    bb_context *ctx = test_open();
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        bb_set_path(ctx, (bb_path)path);
        bb_t x = bb_from_f64(ctx, BB_F32, SH(2, 3), (double[]){1e4, 1e4 - 1, 0, -INFINITY, 5, 5});
        double loss[2];
        bb_t y =
            bb_cross_entropy(x, targets(ctx, BB_I64, 2, (double[]){1, 2}), -100, BB_REDUCE_NONE);
        bb_read_f64(y, loss, 2);
        CHECK_NEAR(t, loss[0], 1 + log(1 + exp(-1)), 1e-6);
        CHECK_NEAR(t, loss[1], log(2), 1e-6);
        CHECK_OK(t, ctx);
    }
    bb_close(ctx);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_ones(ctx, BB_F32, SH(2, 3));
    ctx->synchronize = true; /* a device finds the target later than the call otherwise */
    CHECK(t, !bb_cross_entropy(x, targets(ctx, BB_I64, 2, (double[]){0, 3}), -100, BB_REDUCE_MEAN));
    CHECK_ERROR(
        t, ctx, BB_ERR_ARGUMENT,
        bb_get_device(ctx) == BB_CPU
            ? "cross_entropy: target: expected classes in [0, 3) or -100, got 3 at position 1"
            : "cross_entropy: target: expected 0 to 2, got 3 at position 1");
    CHECK(t,
          !bb_cross_entropy(x, targets(ctx, BB_I32, 2, (double[]){-1, 1}), -100, BB_REDUCE_MEAN));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "got -1 at position 0");
    bb_set_path(ctx, BB_PATH_COMPOSED);
    CHECK(t, !bb_cross_entropy(x, targets(ctx, BB_I64, 2, (double[]){0, 3}), -100, BB_REDUCE_MEAN));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "got 3");
    bb_set_path(ctx, BB_PATH_AUTO);
    CHECK(t,
          !bb_cross_entropy(x, targets(ctx, BB_I64, 3, (double[]){0, 1, 2}), -100, BB_REDUCE_MEAN));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "target: expected shape (2,) (logits without the classes), got (3,)");
    CHECK(t, !bb_cross_entropy(x, bb_ones(ctx, BB_F32, SH(2)), -100, BB_REDUCE_MEAN));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "cross_entropy: target: expected dtype i64 or i32, got f32");
    CHECK(t, !bb_cross_entropy(bb_ones(ctx, BB_I64, SH(2, 3)),
                               targets(ctx, BB_I64, 2, (double[]){0, 1}), -100, BB_REDUCE_MEAN));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "cross_entropy: logits: expected a floating dtype, got i64");
    CHECK(t, !bb_cross_entropy(bb_scalar(ctx, BB_F32, 1), bb_scalar(ctx, BB_I64, 0), -100,
                               BB_REDUCE_MEAN));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "cross_entropy: logits: expected shape (..., classes), got a scalar");
    bb_close(ctx);
}

/* The gradient of logits that nobody holds any more is written over them: the same bits, and a
 * buffer of their size less. Logits that somebody holds stay as they were. */
static void check_memory(test *t, bb_dtype dtype, bool held, double *got, size_t *peak) {
    enum { ROWS = 64, CLASSES = 1000 };
    bb_context *ctx = test_open();
    bb_tensor *x = bb_rand(ctx, dtype, SH(ROWS, CLASSES));
    bb_tensor *target = bb_full(ctx, BB_I64, SH(ROWS), 7);
    bb_set_requires_grad(x, true);
    bb_tensor *logits = bb_mul_scalar(x, 8);
    bb_tensor *loss = bb_cross_entropy(logits, target, -100, BB_REDUCE_MEAN);
    if (!held) bb_drop(logits);
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    bb_read_f64(bb_grad(x), got, ROWS * CLASSES);
    *peak = (size_t)bb_memory_stats(ctx).bytes_peak;
    if (held) {
        bb_tensor *changed = bb_ne(logits, bb_mul_scalar(x, 8));
        CHECK_NEAR(t, bb_item(bb_sum_all(bb_cast(changed, BB_F64))), 0, 0);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_over_the_logits(test *t) {
    static const bb_dtype dtypes[] = {BB_F64, BB_F32, BB_BF16};
    static double held[64000], dropped[64000];
    for (int d = 0; d < 3; d++) {
        size_t more, less;
        check_memory(t, dtypes[d], true, held, &more);
        check_memory(t, dtypes[d], false, dropped, &less);
        CHECK(t, memcmp(held, dropped, sizeof held) == 0);
        const size_t buffer = 64000 * bb_dtype_bytes(dtypes[d]);
        CHECK_MSG(t, less + buffer <= more, "%zu bytes with the logits held, %zu without", more,
                  less);
    }
}

/* After a walk that keeps the tape the logits are still there. */
static void test_walked_twice(test *t) {
    bb_context *ctx = test_open();
    const double values[] = {0.5, -1, 2, 0.25};
    double once[4], twice[4];
    bb_tensor *x = bb_set_requires_grad(bb_from_f64(ctx, BB_F32, SH(1, 4), values), true);
    bb_tensor *logits = bb_mul_scalar(x, 2), *target = bb_full(ctx, BB_I64, SH(1), 2);
    bb_tensor *loss = bb_cross_entropy(logits, target, -100, BB_REDUCE_SUM);
    bb_drop(logits);
    CHECK_INT(t, bb_backward_retain(loss, NULL), BB_OK);
    bb_read_f64(bb_grad(x), once, 4);
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    bb_read_f64(bb_grad(x), twice, 4);
    for (int i = 0; i < 4; i++) CHECK_NEAR(t, twice[i], 2 * once[i], 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"shapes", test_shapes},
    {"dimensions", test_dimensions},
    {"ignored_rows", test_ignored_rows},
    {"all_ignored", test_all_ignored},
    {"empty", test_empty},
    {"large_logits", test_large_logits},
    {"errors", test_errors},
    {"over_the_logits", test_over_the_logits},
    {"walked_twice", test_walked_twice},
};
TEST_MAIN(rows)
