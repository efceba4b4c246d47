/* core/lifetime.c and core/storage.c: who lives how long, and where the bytes go. */
#include "core/impl.h"
#include "tests/support/test.h"

static void test_dead(test *t) {
    bb_context *ctx = test_open();
    bb_end_step(ctx);
    bb_tensor *x = bb_scalar(ctx, BB_F32, 1); /* made in step 2 */
    bb_end_step(ctx);
    CHECK(t, bb_data(x) == NULL);
    CHECK(t, !bb_add(x, x));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "tensor made in step 2, which has ended");
    CHECK(t, isnan(bb_item(x)));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "which has ended");
    float value = 0;
    CHECK_INT(t, bb_write(x, &value, 4), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "which has ended");
    CHECK(t, !bb_keep(x));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "which has ended");
    CHECK(t, !bb_reshape(x, BB_SHAPE(1)));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "which has ended");
    /* Still so when the next step has made tensors of its own: headers wait one step before they
     * are used again. */
    for (int i = 0; i < 100; i++) CHECK(t, bb_scalar(ctx, BB_F32, 3) != x);
    CHECK(t, !bb_add(x, x));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "tensor made in step 2, which has ended");
    bb_close(ctx);
}

static void test_keep(test *t) {
    bb_context *ctx = test_open();
    double values[6] = {1, 2, 3, 4, 5, 6}, got[6];
    bb_tensor *x = bb_from_f64(ctx, BB_F32, BB_SHAPE(2, 3), values);
    bb_tensor *whole = bb_keep(x), *part = bb_keep(bb_select(bb_transpose(x, 0, 1), 0, 2));
    bb_tensor *again = bb_keep(whole);
    bb_end_step(ctx);
    bb_end_step(ctx);
    CHECK_INT(t, bb_read_f64(whole, got, 6), BB_OK);
    for (int i = 0; i < 6; i++) CHECK_NEAR(t, got[i], values[i], 0);
    CHECK_INT(t, bb_read_f64(part, got, 2), BB_OK);
    CHECK_NEAR(t, got[0], 3, 0);
    CHECK_NEAR(t, got[1], 6, 0);
    bb_drop(whole);
    CHECK_NEAR(t, bb_item(bb_select(bb_select(again, 0, 1), 0, 2)), 6, 0);
    CHECK_OK(t, ctx);
    CHECK(t, !bb_neg(whole));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "has been dropped");
    bb_close(ctx);
}

/* What is kept does not change with a parameter, a gradient, or another kept tensor, however large
 * it is: those are copied. A step's own tensor is not. */
static void test_keep_value(test *t) {
    for (int n = 3; n <= 64; n += 61) {
        bb_context *ctx = test_open();
        bb_tensor *w = bb_keep(bb_ones(ctx, BB_F32, BB_SHAPE(n))),
                  *x = bb_ones(ctx, BB_F32, BB_SHAPE(n));
        bb_set_requires_grad(w, true);
        CHECK_INT(t, bb_backward(bb_sum_all(bb_mul_scalar(w, 2)), NULL), BB_OK);
        bb_tensor *grad = bb_keep(bb_grad(w)), *snapshot = bb_keep(w),
                  *most = bb_keep(bb_slice(w, 0, 0, n - 1, 1)), *whole = bb_keep(x),
                  *second = bb_keep(x);
        CHECK(t, whole->storage == x->storage && second->storage != x->storage);
        bb_end_step(ctx);
        CHECK_INT(t, bb_backward(bb_sum_all(bb_mul_scalar(w, 7)), NULL), BB_OK);
        CHECK_INT(t, bb_assign(w, bb_full(ctx, BB_F32, BB_SHAPE(n), 9)), BB_OK);
        CHECK_NEAR(t, bb_item(bb_select(bb_grad(w), 0, 0)), 9, 0);
        CHECK_NEAR(t, bb_item(bb_select(grad, 0, 0)), 2, 0);
        CHECK_NEAR(t, bb_item(bb_select(snapshot, 0, 0)), 1, 0);
        CHECK_NEAR(t, bb_item(bb_select(most, 0, 0)), 1, 0);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

/* While a graph is recorded a kept value would be a constant in it. */
static void test_keep_recorded(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_full(ctx, BB_F32, BB_SHAPE(2), 3);
    bb_graph *g = bb_graph_begin(ctx);
    bb_graph_input(g, "x", x);
    CHECK(t, !bb_keep(bb_square(x)));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_keep: a graph is being recorded");
    bb_graph_free(g);
    CHECK(t, bb_keep(x) != NULL);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Keeping and dropping in every step takes no more memory, gradients included; a dropped header
 * is readable in the step after. */
static void test_keep_and_drop(test *t) {
    bb_context *ctx = test_open();
    uint64_t steady = 0;
    for (int step = 0; step < 50; step++) {
        bb_tensor *w = bb_set_requires_grad(bb_keep(bb_ones(ctx, BB_F32, BB_SHAPE(100))), true);
        CHECK_INT(t, bb_backward(bb_sum_all(bb_square(w)), NULL), BB_OK);
        bb_tensor *grad = bb_grad(w);
        bb_end_step(ctx);
        if (step % 2) bb_drop(grad);
        bb_drop(w);
        CHECK_INT(t, bb_memory_stats(ctx).bytes_in_use, 0);
        CHECK(t, !bb_grad(w) && !bb_data(grad));
        bb_end_step(ctx);
        bb_tensor *other = bb_keep(bb_scalar(ctx, BB_F32, 1));
        CHECK(t, other != w && other != grad && !bb_neg(w));
        CHECK_ERROR(t, ctx, BB_ERR_STATE, "kept tensor has been dropped");
        bb_drop(other);
        bb_drop(w); /* twice does nothing */
        bb_end_step(ctx);
        if (step == 5) steady = bb_memory_stats(ctx).system_allocations;
    }
    CHECK_INT(t, bb_memory_stats(ctx).system_allocations, steady);
    CHECK_INT(t, bb_memory_stats(ctx).live_tensors, 0);
    /* Dropped before its backward: the tape saved what it needs. */
    bb_tensor *w = bb_set_requires_grad(bb_keep(bb_full(ctx, BB_F32, BB_SHAPE(2), 3)), true);
    bb_tensor *x = bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(2)), true);
    bb_tensor *loss = bb_sum_all(bb_mul(w, x));
    bb_drop(w);
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    CHECK_NEAR(t, bb_item(bb_select(bb_grad(x), 0, 1)), 3, 0);
    for (int step = 0; step < 3; step++) bb_end_step(ctx);
    CHECK_INT(t, bb_memory_stats(ctx).bytes_in_use, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_drop(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_from_f64(ctx, BB_F32, BB_SHAPE(2), (double[]){1, 2}),
              *view = bb_reshape(x, BB_SHAPE(2, 1));
    size_t before = bb_memory_stats(ctx).bytes_in_use;
    bb_drop(x);
    CHECK_INT(t, bb_memory_stats(ctx).bytes_in_use, before); /* the view still holds them */
    CHECK_NEAR(t, bb_item(bb_select(view, 0, 1)), 2, 0);
    CHECK(t, !bb_neg(x));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "has been dropped");
    bb_drop(x); /* twice does nothing */
    bb_drop(view);
    CHECK_OK(t, ctx);
    bb_end_step(ctx);
    CHECK_INT(t, bb_memory_stats(ctx).bytes_in_use, 0);
    CHECK_INT(t, bb_memory_stats(ctx).live_tensors, 0);
    bb_close(ctx);
}

static void test_scope(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *outside = bb_scalar(ctx, BB_F32, 1);
    bb_scope outer = bb_scope_begin(ctx);
    bb_tensor *a = bb_add(outside, outside);
    bb_scope inner = bb_scope_begin(ctx);
    bb_tensor *b = bb_mul(a, a), *c = bb_add(b, a);
    CHECK(t, bb_scope_end(ctx, inner, c) == c);
    CHECK(t, bb_data(b) == NULL && bb_data(c) != NULL && bb_data(a) != NULL);
    CHECK(t, bb_scope_end(ctx, outer, NULL) == NULL);
    CHECK(t, bb_data(a) == NULL && bb_data(c) == NULL);
    CHECK_NEAR(t, bb_item(outside), 1, 0);
    CHECK_INT(t, bb_memory_stats(ctx).live_tensors, 1);
    /* Across many slabs of headers. */
    bb_tensor *sum = outside;
    bb_scope many = bb_scope_begin(ctx);
    for (int i = 0; i < 1000; i++) sum = bb_add(sum, outside);
    bb_scope_end(ctx, many, sum);
    CHECK_NEAR(t, bb_item(sum), 1001, 0);
    CHECK_INT(t, bb_memory_stats(ctx).live_tensors, 2);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Steps that do the same ask the system for nothing after the first ones. */
static void test_pool(test *t) {
    bb_context *ctx = test_open();
    uint64_t steady = 0;
    for (int step = 0; step < 300; step++) { /* enough to notice an arena that only grows */
        bb_tensor *x = bb_full(ctx, BB_F32, BB_SHAPE(9, 33), 0.5);
        bb_set_requires_grad(x, true);
        bb_tensor *y = bb_sum_all(bb_mul(bb_exp(x), x));
        CHECK_INT(t, bb_backward(y, NULL), BB_OK);
        bb_end_step(ctx);
        if (step == 3) steady = bb_memory_stats(ctx).system_allocations;
    }
    CHECK_INT(t, bb_memory_stats(ctx).system_allocations, steady);
    CHECK_INT(t, bb_memory_stats(ctx).bytes_in_use, 0);
    CHECK(t, bb_memory_stats(ctx).bytes_held > 0 &&
                 bb_memory_stats(ctx).bytes_peak >= bb_memory_stats(ctx).bytes_held);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Storage comes back warm: the block last given back is the next one of its size. */
static void test_reuse(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_empty(ctx, BB_F32, BB_SHAPE(1000));
    void *data = bb_data(x);
    bb_drop(x);
    CHECK(t, bb_data(bb_empty(ctx, BB_F32, BB_SHAPE(1000))) == data);
    CHECK(t, bb_data(bb_empty(ctx, BB_F32, BB_SHAPE(1000))) != data);
    for (int64_t n = 1; n < 5000; n = n * 3 / 2 + 1) {
        bb_tensor *b = bb_empty(ctx, BB_F32, BB_SHAPE(n));
        CHECK(t, b->storage->bytes >= (size_t)n * 4 &&
                     b->storage->bytes <= (size_t)n * 4 * 9 / 8 + 64);
        memset(bb_data(b), 0, (size_t)n * 4); /* ASan sees a block that is too short */
    }
    bb_close(ctx);
}

static const test_row rows[] = {
    {"dead", test_dead},
    {"keep", test_keep},
    {"keep value", test_keep_value},
    {"keep recorded", test_keep_recorded},
    {"keep and drop", test_keep_and_drop},
    {"drop", test_drop},
    {"scope", test_scope},
    {"pool", test_pool},
    {"reuse", test_reuse},
};
TEST_MAIN(rows)
