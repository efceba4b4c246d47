/* autograd/recompute.c: what a segment reads besides its inputs, and who watches a segment. */
#include "core/impl.h"
#include "io/io.h"
#include "tests/support/test.h"

static bb_tensor *full(bb_context *ctx, double value) {
    return bb_full(ctx, BB_F32, BB_SHAPE(2), value);
}
static bb_tensor *leaf(bb_context *ctx, double value) {
    return bb_set_requires_grad(full(ctx, value), true);
}

static void check_values(test *t, bb_tensor *x, double expected) {
    double got[2] = {0};
    CHECK(t, x != NULL && bb_read_f64(x, got, 2) == BB_OK);
    CHECK_NEAR(t, got[0], expected, 0);
    CHECK_NEAR(t, got[1], expected, 0);
}

/* ---- A recorded graph holds the segment's ops ------------------------------------------------ */

static bb_tensor *times_itself(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)n;
    return bb_mul(in[0], in[0]);
}
static bb_tensor *gives_null(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)in, (void)n;
    return NULL;
}

static void test_graph(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = full(ctx, 3), *other = full(ctx, 10), *out = NULL;
    bb_graph *g = bb_graph_begin(ctx);
    bb_graph_input(g, "x", x);
    bb_graph_output(g, "z", bb_add_scalar(bb_recompute(ctx, times_itself, NULL, &x, 1), 1));
    CHECK_INT(t, bb_graph_end(g), BB_OK);
    CHECK_INT(t, bb_graph_node_count(g, "mul"), 1);
    CHECK_INT(t, bb_graph_run(g, &other, 1, &out), BB_OK);
    check_values(t, out, 101);
    bb_graph_free(g);
    g = bb_graph_begin(ctx);
    CHECK(t, !bb_recompute(ctx, gives_null, NULL, &x, 1));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_recompute: fn: returned NULL");
    bb_graph_free(g);
    bb_close(ctx);
}

static bb_status traced(void *user, bb_tensor *const *in, bb_tensor **out) {
    out[0] = bb_add_scalar(bb_recompute(user, times_itself, NULL, in, 1), 1);
    return bb_error(user);
}

static void test_trace(test *t) {
    bb_context *ctx = test_open();
    for (int symbolic = 0; symbolic < 2; symbolic++) {
        bb_graph_arg x = {"x", BB_F32, 1, {{symbolic ? "n" : NULL, 2}}};
        const char *name = "z";
        bb_graph_signature signature = {&x, 1, NULL, 0, &name, 1, bb_get_device(ctx)};
        bb_graph *g = bb_graph_trace(ctx, traced, ctx, &signature);
        bb_tensor *in = full(ctx, 10), *out = NULL;
        CHECK_INT(t, bb_graph_run(g, &in, 1, &out), BB_OK);
        check_values(t, out, 101);
        bb_graph_free(g);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Gradients that are ops pass through it as well. */
static void test_graph_of_a_gradient(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, 3), *other = full(ctx, 10), *dx = NULL, *out = NULL;
    bb_graph *g = bb_graph_begin(ctx);
    bb_graph_input(g, "x", x);
    bb_tensor *y = bb_sum_all(bb_recompute(ctx, times_itself, NULL, &x, 1));
    CHECK_INT(t, bb_gradients(y, NULL, &x, 1, true, &dx), BB_OK);
    bb_graph_output(g, "dx", dx);
    CHECK_INT(t, bb_graph_end(g), BB_OK);
    CHECK_INT(t, bb_graph_run(g, &other, 1, &out), BB_OK);
    check_values(t, out, 20);
    bb_graph_free(g);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* ---- Tensors of the context that fn reads ---------------------------------------------------- */

static bb_tensor *scaled(void *user, bb_tensor *const *in, int n) {
    (void)n;
    return bb_mul(in[0], user);
}
/* Through a view whose handle is dropped before the segment ends. */
static bb_tensor *scaled_by_view(void *user, bb_tensor *const *in, int n) {
    (void)n;
    bb_scope scope = bb_scope_begin(bb_context_of(user));
    return bb_scope_end(bb_context_of(user), scope,
                        bb_mul(in[0], bb_reshape(user, BB_SHAPE(1, 2))));
}
/* By an op that saves none of its inputs. */
static bb_tensor *moved(void *user, bb_tensor *const *in, int n) {
    (void)n;
    return bb_square(bb_add(in[0], user));
}
static bb_tensor *within(void *user, bb_tensor *const *in, int n) {
    return bb_square(bb_recompute(bb_context_of(user), scaled, user, in, n));
}
static bb_tensor *beside(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)n;
    return bb_mul_scalar(in[0], 2);
}

/* By ops without a gradient, and from the host. */
static bb_tensor *masked(void *user, bb_tensor *const *in, int n) {
    (void)n;
    return bb_mul(in[0], bb_cast(bb_gt(user, bb_zeros_like(user)), BB_F32));
}
static bb_tensor *times_item(void *user, bb_tensor *const *in, int n) {
    (void)n;
    double values[2] = {0};
    return bb_read_f64(user, values, 2) ? NULL : bb_mul_scalar(in[0], values[0]);
}
static bb_tensor *copied(void *user, bb_tensor *const *in, int n) {
    (void)n;
    bb_tensor *own = bb_zeros_like(user);
    return bb_assign(own, user) ? NULL : bb_mul(in[0], own);
}

static void test_changed(test *t) {
    static const struct {
        bb_segment_fn fn;
        bool frozen, change, second_order, refused;
        double dx;
    } cases[] = {
        {scaled, false, false, false, false, 2},
        {scaled, false, true, false, true, 0},
        {scaled, true, true, false, true, 0},
        {scaled, false, true, true, true, 0},
        {scaled_by_view, false, true, false, true, 0},
        {scaled_by_view, true, true, false, true, 0},
        {moved, false, false, false, false, 6},
        {moved, true, true, false, true, 0},
        {scaled_by_view, true, false, false, false, 2},
        {within, false, false, false, false, 8},
        {within, false, true, false, true, 0},
        {beside, false, true, false, false, 2},
        {masked, true, true, false, true, 0},
        {times_item, true, true, false, true, 0},
    };
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(cases); i++) {
        bb_tensor *w = bb_set_requires_grad(bb_keep(full(ctx, 2)), !cases[i].frozen);
        bb_tensor *x = leaf(ctx, 1), *g = NULL;
        bb_tensor *y = bb_recompute(ctx, cases[i].fn, w, &x, 1);
        if (cases[i].change) CHECK_INT(t, bb_assign(w, full(ctx, 10)), BB_OK);
        bb_status status = bb_gradients(bb_sum_all(y), NULL, &x, 1, cases[i].second_order, &g);
        CHECK_MSG(t, (status != BB_OK) == cases[i].refused, "case %d: %s", i,
                  bb_error_message(ctx));
        if (cases[i].refused)
            CHECK_ERROR(t, ctx, BB_ERR_STATE, "was changed in place after the forward pass");
        else
            check_values(t, g, cases[i].dx);
        bb_end_step(ctx);
        bb_drop(w);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Tensors of the step that fn reads without being handed them: what was changed or dropped before
 * the second run is an error, also where only an op without a gradient reads it, or the host. */
static void test_step_tensors(test *t) {
    static const bb_segment_fn fn[] = {scaled, scaled_by_view, moved,      within,
                                       beside, masked,         times_item, copied};
    static const double dx[] = {2, 2, 6, 8, 2, 1, 2, 2};
    enum { UNTOUCHED, CHANGED, DROPPED };
    bb_context *ctx = test_open();
    for (int i = 0; i < 8; i++)
        for (int then = UNTOUCHED; then <= DROPPED; then++)
            for (int trained = 0; trained < 2; trained++) {
                bb_tensor *z = bb_set_requires_grad(full(ctx, 2), trained);
                bb_tensor *x = leaf(ctx, 1), *g = NULL;
                bb_tensor *y = bb_recompute(ctx, fn[i], z, &x, 1);
                if (then == CHANGED) CHECK_INT(t, bb_assign(z, full(ctx, -10)), BB_OK);
                if (then == DROPPED) bb_drop(z);
                bb_status status = bb_gradients(bb_sum_all(y), NULL, &x, 1, false, &g);
                if (then == UNTOUCHED || fn[i] == beside) {
                    check_values(t, g, dx[i]);
                    continue;
                }
                CHECK_MSG(t, status == BB_ERR_STATE, "case %d: %d", i, then);
                CHECK_ERROR(t, ctx, BB_ERR_STATE, then == DROPPED ? "dropped" : "was changed");
            }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Writes what it saw into a row of someone's table, and reads nothing of it. */
static bb_tensor *logs(void *user, bb_tensor *const *in, int n) {
    (void)n;
    bb_tensor *y = bb_square(in[0]);
    return bb_assign(bb_select(user, 0, 1), bb_detach(y)) ? NULL : y;
}
static void test_written(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *table = bb_zeros(ctx, BB_F32, BB_SHAPE(3, 2)), *x = leaf(ctx, 3);
    CHECK_INT(t, bb_backward(bb_sum_all(bb_recompute(ctx, logs, table, &x, 1)), NULL), BB_OK);
    check_values(t, bb_grad(x), 6);
    check_values(t, bb_select(table, 0, 1), 9);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* The names of the segment and of the op that reads; and no gradient was touched. */
static void test_message(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *w = bb_set_requires_grad(bb_keep(full(ctx, 2)), true), *x = leaf(ctx, 1);
    bb_tensor *y = bb_recompute(ctx, scaled, w, &x, 1);
    bb_assign(w, full(ctx, 10));
    CHECK_INT(t, bb_backward(bb_sum_all(y), NULL), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE,
                "bb_backward: recompute: a tensor that its segment reads (in mul) was changed");
    CHECK(t, !bb_grad(x) && !bb_grad(w));
    /* The walk itself changes gradients, and the next step may change parameters. */
    for (int step = 0; step < 2; step++) {
        bb_end_step(ctx);
        bb_zero_grad(w);
        x = leaf(ctx, 1);
        y = bb_recompute(ctx, scaled, w, &x, 1);
        y = bb_recompute(ctx, scaled, w, &y, 1);
        CHECK_INT(t, bb_backward(bb_sum_all(y), NULL), BB_OK);
        check_values(t, bb_grad(w), step ? 10 : 20);
        bb_assign(w, full(ctx, 5));
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* ---- How many inputs ------------------------------------------------------------------------- */

static bb_tensor *sum_of_all(void *user, bb_tensor *const *in, int n) {
    (void)user;
    bb_tensor *sum = in[0];
    for (int i = 1; i < n; i++) sum = bb_add(sum, in[i]);
    return sum;
}

static void test_many_inputs(test *t) {
    enum { MANY = 200 };
    bb_context *ctx = test_open();
    bb_tensor *in[MANY], *g[MANY];
    for (int i = 0; i < MANY; i++) in[i] = leaf(ctx, i);
    CHECK_INT(t, bb_backward(bb_sum_all(bb_recompute(ctx, sum_of_all, NULL, in, MANY)), NULL),
              BB_OK);
    for (int i = 0; i < MANY; i++) check_values(t, bb_grad(in[i]), 1);
    bb_tensor *y = bb_sum_all(bb_square(sum_of_all(NULL, in, MANY)));
    CHECK_INT(t, bb_gradients(y, NULL, in, MANY, false, g), BB_OK);
    check_values(t, g[MANY - 1], MANY * (MANY - 1));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"graph", test_graph},     {"trace", test_trace},
    {"changed", test_changed}, {"step tensors", test_step_tensors},
    {"written", test_written}, {"graph of a gradient", test_graph_of_a_gradient},
    {"message", test_message}, {"many inputs", test_many_inputs},
};
TEST_MAIN(rows)
