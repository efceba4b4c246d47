/* autograd/backward.c: where a walk starts, what it refuses, gradients of chosen tensors. */
#include "tests/support/test.h"

static bb_tensor *leaf(bb_context *ctx, bb_shape shape, const double *values) {
    return bb_set_requires_grad(bb_from_f64(ctx, BB_F64, shape, values), true);
}

static void check_grad(test *t, bb_tensor *g, int n, const double *expected) {
    double got[16] = {0};
    CHECK(t, g != NULL && bb_read_f64(g, got, n) == BB_OK);
    for (int i = 0; g && i < n; i++) CHECK_NEAR(t, got[i], expected[i], 1e-12);
}

static void test_seed(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(3), (double[]){1, 2, 3});
    bb_tensor *seed = bb_from_f64(ctx, BB_F64, BB_SHAPE(3), (double[]){10, 20, -1});
    CHECK_INT(t, bb_backward(bb_square(x), seed), BB_OK);
    check_grad(t, bb_grad(x), 3, (double[]){20, 80, -6});
    CHECK_INT(t, bb_backward(bb_sum_all(x), NULL), BB_OK); /* and once more: it accumulates */
    check_grad(t, bb_grad(x), 3, (double[]){21, 81, -5});
    bb_zero_grad(x);
    CHECK(t, !bb_grad(x));
    CHECK_INT(t, bb_backward(bb_sum_all(x), NULL), BB_OK);
    check_grad(t, bb_grad(x), 3, (double[]){1, 1, 1});
    check_grad(t, seed, 3, (double[]){10, 20, -1}); /* untouched */
    bb_close(ctx);
}

/* The seed is not written to, even where gradients add in place. */
static void test_seed_is_shared(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){1, 2});
    bb_tensor *seed = bb_from_f64(ctx, BB_F64, BB_SHAPE(2), (double[]){3, 4});
    CHECK_INT(t, bb_backward(bb_add(x, x), seed), BB_OK);
    check_grad(t, bb_grad(x), 2, (double[]){6, 8});
    check_grad(t, seed, 2, (double[]){3, 4});
    bb_tensor *y = leaf(ctx, BB_SHAPE(2), (double[]){1, 2});
    CHECK_INT(t, bb_backward(bb_alias(y), seed), BB_OK);
    CHECK_INT(t, bb_backward(bb_alias(y), seed), BB_OK);
    check_grad(t, bb_grad(y), 2, (double[]){6, 8});
    check_grad(t, seed, 2, (double[]){3, 4});
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_leaf_is_loss(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SCALAR, (double[]){5});
    CHECK_INT(t, bb_backward(x, NULL), BB_OK);
    CHECK_INT(t, bb_backward(x, NULL), BB_OK);
    check_grad(t, bb_grad(x), 1, (double[]){2});
    /* Its gradient outlives the scope, as that of a walk does; the seed is not it. */
    bb_tensor *y = leaf(ctx, BB_SHAPE(2), (double[]){1, 2});
    for (int i = 1; i <= 2; i++) {
        bb_scope scope = bb_scope_begin(ctx);
        bb_tensor *seed = bb_from_f64(ctx, BB_F64, BB_SHAPE(2), (double[]){3, 4});
        CHECK_INT(t, bb_backward(y, seed), BB_OK);
        bb_assign(seed, bb_zeros_like(seed));
        bb_scope_end(ctx, scope, NULL);
        check_grad(t, bb_grad(y), 2, (double[]){3 * i, 4 * i});
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* What an op made may be dropped before its walk, a leaf not: it would be nobody's gradient. */
static void test_dropped(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SCALAR, (double[]){5}), *y = bb_square(x);
    bb_drop(y);
    CHECK_INT(t, bb_backward(y, NULL), BB_OK);
    check_grad(t, bb_grad(x), 1, (double[]){10});
    bb_tensor *w = leaf(ctx, BB_SCALAR, (double[]){5}), *g;
    bb_drop(w);
    CHECK_INT(t, bb_backward(w, NULL), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "has been dropped");
    CHECK_INT(t, bb_gradients(w, NULL, &w, 1, false, &g), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "has been dropped");
    CHECK(t, !bb_grad(w));
    bb_close(ctx);
}

/* A gradient that was given back is none: the next backward makes it anew, whoever the leaf is, and
 * whichever way it writes (added, into a window, by a fused kernel). */
static void test_dropped_gradient(test *t) {
    bb_context *ctx = test_open();
    for (int kept = 0; kept < 2; kept++)
        for (int way = 0; way < 3; way++) {
            bb_tensor *w = leaf(ctx, BB_SHAPE(2), (double[]){1, 2});
            if (kept) w = bb_set_requires_grad(bb_keep(w), true);
            for (int round = 0; round < 3; round++) {
                bb_tensor *y = way == 0   ? bb_mul_scalar(w, 3)
                               : way == 1 ? bb_slice(w, 0, 1, 2, 1)
                                          : bb_rms_norm(w, bb_ones(ctx, BB_F64, BB_SHAPE(2)), 0);
                CHECK_INT(t, bb_backward(bb_sum_all(y), NULL), BB_OK);
                bb_tensor *g = bb_grad(w);
                double s = 1 / sqrt(2.5), c = 3 * s * s * s / 2;
                check_grad(t, g, 2,
                           way == 0   ? (double[]){3, 3}
                           : way == 1 ? (double[]){0, 1}
                                      : (double[]){s - c, s - 2 * c});
                if (round == 1) bb_zero_grad(w); /* g is empty, and still a handle */
                bb_drop(g);
                CHECK(t, !bb_grad(w));
                bb_zero_grad(w);
            }
            bb_drop(w);
        }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_refusals(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){1, 2}), *y = bb_square(x);
    CHECK_INT(t, bb_backward(NULL, NULL), BB_ERR_ARGUMENT);
    CHECK_INT(t, bb_backward(y, NULL), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "loss: expected one element (or a seed gradient), got shape (2,)");
    CHECK_INT(t, bb_backward(y, bb_zeros(ctx, BB_F64, BB_SHAPE(3))), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "seed: expected f64(2,) like the loss, got f64(3,)");
    CHECK_INT(t, bb_backward(y, bb_zeros(ctx, BB_F32, BB_SHAPE(2))), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "seed: expected f64(2,) like the loss, got f32(2,)");
    CHECK_INT(t, bb_backward(bb_scalar(ctx, BB_F64, 1), NULL), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "expected a result that depends on a tensor with gradient");
    CHECK(t, !bb_grad(x)); /* nothing half-made */
    bb_tensor *loss = bb_sum_all(y);
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    CHECK_INT(t, bb_backward(loss, NULL), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "was already walked (bb_backward_retain keeps it)");
    check_grad(t, bb_grad(x), 2, (double[]){2, 4});
    bb_end_step(ctx);
    CHECK_INT(t, bb_backward(loss, NULL), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "which has ended");
    bb_close(ctx);
}

static void test_retain(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){1, 2}), *y = bb_exp(bb_square(x)),
              *loss = bb_sum_all(y);
    double e = exp(1), e4 = exp(4);
    CHECK_INT(t, bb_backward_retain(loss, NULL), BB_OK);
    CHECK_INT(t, bb_backward_retain(loss, NULL), BB_OK);
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    check_grad(t, bb_grad(x), 2, (double[]){6 * e, 12 * e4});
    CHECK_INT(t, bb_backward(loss, NULL), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "already walked");
    bb_close(ctx);
}

/* Walking a part that was already walked is an error, and leaves no half-made sum behind for the
 * next one. */
static void test_half_walked(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(1), (double[]){3}), *shared = bb_square(x);
    bb_tensor *first = bb_exp(shared), *second = bb_mul_scalar(shared, 2);
    CHECK_INT(t, bb_backward(first, NULL), BB_OK);
    CHECK_INT(t, bb_backward(second, NULL), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "square: its part of the tape was already walked");
    bb_tensor *fresh = leaf(ctx, BB_SHAPE(1), (double[]){3});
    CHECK_INT(t, bb_backward(bb_square(fresh), NULL), BB_OK);
    check_grad(t, bb_grad(fresh), 1, (double[]){6});
    bb_close(ctx);
}

static void test_gradients(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){1, 2}),
              *w = leaf(ctx, BB_SHAPE(2), (double[]){5, 7});
    bb_tensor *unused = leaf(ctx, BB_SCALAR, (double[]){0});
    bb_tensor *h = bb_mul(x, w), *y = bb_square(h), *g[4];
    bb_tensor *asked[4] = {w, h, unused, w};
    CHECK_INT(t, bb_gradients(bb_sum_all(y), NULL, asked, 4, false, g), BB_OK);
    check_grad(t, g[0], 2, (double[]){2 * 5, 2 * 14 * 2});
    check_grad(t, g[1], 2, (double[]){10, 28}); /* in the middle of the graph */
    CHECK(t, g[2] == NULL);
    check_grad(t, g[3], 2, (double[]){10, 56}); /* named twice */
    CHECK(t, !bb_grad(x) && !bb_grad(w) && !bb_grad(h));
    CHECK_OK(t, ctx);
    bb_tensor *plain = bb_detach(x);
    CHECK_INT(t, bb_gradients(y, NULL, &plain, 1, false, g), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "inputs[0]: expected a tensor with gradient, got one without");
    plain = NULL;
    CHECK_INT(t, bb_gradients(y, NULL, &plain, 1, false, g), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "inputs[0]: expected a tensor with gradient, got NULL");
    bb_close(ctx);
}

static bb_tensor *first(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)n;
    return in[0];
}

/* Lists that are not there. */
static void test_not_given(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SCALAR, (double[]){5}), *y = bb_square(x), *g;
    static const bb_function function = {.name = "f"};
    CHECK_INT(t, bb_gradients(y, NULL, NULL, 1, false, &g), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_gradients: inputs: expected a list, got NULL");
    CHECK_INT(t, bb_gradients(y, NULL, &x, 1, false, NULL), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_gradients: gradients: expected a list, got NULL");
    CHECK_INT(t, bb_gradients(y, NULL, &x, -1, false, &g), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_gradients: n: expected 0 or more");
    CHECK(t, !bb_recompute(ctx, first, NULL, NULL, 1));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_recompute: fn: expected a function and a list");
    CHECK_INT(t, bb_gradcheck(ctx, first, NULL, NULL, 1, NULL, NULL), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_gradcheck: inputs: expected a list, got NULL");
    CHECK(t, !bb_function_wanted(ctx, NULL, 1));
    CHECK_INT(t, bb_function_record(ctx, &function, NULL, &x, 1, NULL, 1), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "f: outputs: expected a list, got NULL");
    CHECK_INT(t, bb_save(x, NULL), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_save: saved: expected one, got NULL");
    CHECK(t, !bb_saved_read(NULL, ctx, "f"));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "f: expected what its forward saved, got nothing");
    bb_unsave(NULL);
    CHECK_INT(t, bb_backward(y, NULL), BB_OK);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* A result that keeps its gradient gets one of bb_backward, none of bb_gradients. */
static void test_retained(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){1, 2}), *h = bb_square(x), *g;
    bb_retain_grad(h);
    bb_tensor *y = bb_sum_all(bb_square(h));
    for (int create_graph = 0; create_graph < 2; create_graph++) {
        CHECK_INT(t, bb_gradients(y, NULL, &x, 1, create_graph, &g), BB_OK);
        CHECK(t, !bb_grad(h) && !bb_grad(x));
        h = bb_square(x);
        bb_retain_grad(h);
        y = bb_sum_all(bb_square(h));
    }
    CHECK_INT(t, bb_backward(y, NULL), BB_OK);
    check_grad(t, bb_grad(h), 2, (double[]){2, 8});
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* y = x^4: y' = 4 x^3, y'' = 12 x^2, y''' = 24 x. */
static void test_higher_order(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){2, -1}), *y = bb_square(bb_square(x)), *g;
    CHECK_INT(t, bb_gradients(bb_sum_all(y), NULL, &x, 1, true, &g), BB_OK);
    check_grad(t, g, 2, (double[]){32, -4});
    CHECK_INT(t, bb_gradients(bb_sum_all(g), NULL, &x, 1, true, &g), BB_OK);
    check_grad(t, g, 2, (double[]){48, 12});
    CHECK_INT(t, bb_backward(bb_sum_all(g), NULL), BB_OK);
    check_grad(t, bb_grad(x), 2, (double[]){48, -24});
    /* A gradient penalty: d/dx sum((dy/dx)^2) of y = sum(x^3), a composite on the way. */
    bb_tensor *z = leaf(ctx, BB_SHAPE(2), (double[]){1, 2});
    CHECK_INT(t, bb_gradients(bb_sum_all(bb_mul(bb_square(z), z)), NULL, &z, 1, true, &g), BB_OK);
    CHECK_INT(t, bb_backward(bb_sum_all(bb_square(g)), NULL), BB_OK);
    check_grad(t, bb_grad(z), 2, (double[]){36, 36 * 8});
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Gradients with history are the step's like others: a scope drops them, and what was gathered on
 * the way, but not what the caller holds. */
static void test_scope_of_higher_order(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){2, -1}), *g[2];
    bb_tensor *seed = bb_from_f64(ctx, BB_F64, BB_SHAPE(2), (double[]){3, 4});
    int64_t live = bb_memory_stats(ctx).live_tensors;
    bb_scope scope = bb_scope_begin(ctx);
    bb_tensor *held = bb_hold(bb_mul_scalar(seed, 1)), *h = bb_square(x);
    bb_tensor *y = bb_add(bb_add(bb_mul(h, h), bb_exp(h)), h), *in[] = {x, h};
    CHECK_INT(t, bb_gradients(y, held, in, 2, true, g), BB_OK);
    CHECK_INT(t, bb_gradients(bb_alias(x), held, &x, 1, true, g), BB_OK);
    CHECK_INT(t, bb_gradients(bb_add(x, x), held, &x, 1, true, g), BB_OK);
    bb_scope_end(ctx, scope, NULL);
    CHECK_INT(t, bb_memory_stats(ctx).live_tensors, live + 1);
    check_grad(t, held, 2, (double[]){3, 4});
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_detach(test *t) {
    bb_context *ctx = test_open_host();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){3, 4}), *d = bb_detach(bb_square(x));
    CHECK(t, !bb_requires_grad(d));
    CHECK_INT(t, bb_backward(bb_sum_all(bb_mul(x, d)), NULL), BB_OK);
    check_grad(t, bb_grad(x), 2, (double[]){9, 16});
    CHECK(t, bb_data(bb_detach(x)) == bb_data(x));
    bool before = bb_set_grad_enabled(ctx, false);
    int length = bb_tape_length(ctx);
    bb_tensor *y = bb_square(x);
    bb_set_grad_enabled(ctx, before);
    CHECK(t, !bb_requires_grad(y));
    CHECK_INT(t, bb_tape_length(ctx), length);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"seed", test_seed},
    {"seed is shared", test_seed_is_shared},
    {"leaf is loss", test_leaf_is_loss},
    {"dropped", test_dropped},
    {"dropped gradient", test_dropped_gradient},
    {"refusals", test_refusals},
    {"retain", test_retain},
    {"half walked", test_half_walked},
    {"gradients", test_gradients},
    {"not given", test_not_given},
    {"retained", test_retained},
    {"higher order", test_higher_order},
    {"scope of higher order", test_scope_of_higher_order},
    {"detach and no grad", test_detach},
};
TEST_MAIN(rows)
