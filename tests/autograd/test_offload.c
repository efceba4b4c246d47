/* autograd/offload.c: which saved values go to the host, and when they come back. On the CPU it
 * does nothing, and says so. In the simulation the copies run as late as they may, so a missing
 * wait shows as other bits. Whole models: test_offload_blocks.c; failures: test_offload_failures.c.
 */
#include "tests/autograd/offload_test.h"

/* ---- What goes and what stays ---------------------------------------------------------------- */

static void test_what_goes(test *t) {
    bb_context *ctx = test_open();
    bool can = can_offload(ctx);
    bb_tensor *w = bb_set_requires_grad(bb_keep(bb_full(ctx, BB_F32, BB_SHAPE(512, 512), 1)), true);
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(512, 512), 1), true);
    CHECK_INT(t, bb_offload_begin(ctx, NULL), BB_OK);
    bb_tensor *h = bb_mul_scalar(x, 2);   /* saves nothing */
    bb_tensor *a = bb_mul(h, w);          /* h goes; w is a parameter */
    bb_square(bb_transpose(h, 0, 1));     /* h has gone */
    bb_mul(a, bb_transpose(w, 0, 1));     /* a goes; a view of a parameter stays */
    bb_square(x);                         /* a leaf stays */
    bb_square(bb_slice(h, 0, 0, 511, 1)); /* too few elements */
    CHECK_INT(t, bb_offload_stats(ctx).values, can ? 3 : 0);
    CHECK_INT(t, bb_offload_stats(ctx).storages, can ? 2 : 0);
    CHECK_INT(t, bb_offload_stats(ctx).to_host, can ? 2 * 512 * 512 * 4 : 0);
    CHECK_INT(t, bb_offload_end(ctx), BB_OK);
    bb_square(a); /* after the segment */
    CHECK_INT(t, bb_offload_stats(ctx).values, can ? 3 : 0);
    /* A step that ends before backward; a segment that is open across it. */
    bb_end_step(ctx);
    CHECK_INT(t, bb_offload_begin(ctx, NULL), BB_OK);
    bb_end_step(ctx);
    h = bb_mul_scalar(w, 2);
    a = bb_square(h);
    CHECK_INT(t, bb_backward(a, bb_ones_like(a)), BB_OK);
    CHECK_INT(t, bb_offload_end(ctx), BB_OK);
    CHECK_NEAR(t, bb_item(bb_select(bb_select(bb_grad(w), 0, 511), 0, 511)), 8, 0);
    CHECK_INT(t, bb_offload_stats(ctx).storages, can ? 3 : 0);
    CHECK_INT(t, bb_offload_stats(ctx).to_device, 0); /* it was still there */
    CHECK_INT(t, bb_offload_stats(ctx).pinned, can ? 2 * 512 * 512 * 4 : 0);
    bb_end_step(ctx);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* How much has come back when the walk passes. */
static size_t seen[8];
static int n_seen;
static bb_status look(const bb_grad_call *grad) {
    seen[n_seen++] = bb_offload_stats(grad->call->ctx).to_device;
    grad->grad_in[0] = grad->grad_out[0];
    return BB_OK;
}

/* While a walk is in one segment, the one before it is on its way, and no other. */
static void test_one_ahead(test *t) {
    bb_context *ctx = test_open();
    bool can = can_offload(ctx);
    const bb_op looking = passed_by("looking", look);
    bb_register_op(ctx, &looking);
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(32, 32), 1), true);
    bb_tensor *h = bb_mul_scalar(x, 1);
    for (int i = 0; i < 4; i++) {
        h = bb_apply1(ctx, &looking, &h, 1, NULL);
        bb_offload_begin(ctx, &(bb_offload_options){1});
        h = bb_square(bb_mul_scalar(h, 1));
        bb_offload_end(ctx);
    }
    bb_offload_settle(ctx);
    h = bb_apply1(ctx, &looking, &h, 1, NULL);
    n_seen = 0;
    bb_backward(h, bb_ones_like(h));
    const size_t bytes = can ? 32 * 32 * 4 : 0, back[] = {0, 2, 3, 4, 4};
    CHECK_INT(t, n_seen, 5);
    for (int i = 0; i < 5; i++) CHECK_INT(t, seen[i], back[i] * bytes);
    CHECK_NEAR(t, bb_item(bb_select(bb_select(bb_grad(x), 0, 31), 0, 31)), 16, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_available(test *t) {
    bb_context *ctx = test_open();
    const char *why = "";
    CHECK(t, !bb_offload_available(ctx, BB_CPU, &why));
    CHECK_TEXT(t, why, "the memory of the cpu is the host's own: nothing is offloaded");
    CHECK(t, !bb_offload_available(ctx, (bb_device)7, &why));
    CHECK_TEXT(t, why, "no such device");
    if (bb_get_device(ctx) != BB_CPU) {
        CHECK(t, bb_offload_available(ctx, bb_get_device(ctx), &why));
        CHECK(t, !why);
    }
    bb_close(ctx);
}

/* In place after the segment's copies are done: the walk reads what was saved. Before that: nobody
 * knows which values were copied, so it is an error. Without offloading both are. */
static void test_changed(test *t) {
    for (int when = 0; when < 3; when++) { /* 2: after the copies are done */
        bb_context *ctx = test_open();
        bool can = can_offload(ctx);
        bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(4), 3), true);
        bb_offload_begin(ctx, &(bb_offload_options){1});
        bb_tensor *h = bb_mul_scalar(x, 2), *y = bb_square(h);
        bb_offload_end(ctx);
        if (when == 2) bb_offload_settle(ctx);
        bb_write(h, (float[4]){0}, 16);
        if (when == 1) bb_offload_settle(ctx);
        bb_status status = bb_backward(y, bb_ones_like(y));
        if (can && when == 2) {
            CHECK_INT(t, status, BB_OK);
            CHECK_NEAR(t, bb_item(bb_select(bb_grad(x), 0, 2)), 24, 0);
        } else {
            CHECK_INT(t, status, BB_ERR_STATE);
            CHECK_ERROR(t, ctx, BB_ERR_STATE, "changed in place");
        }
        bb_close(ctx);
    }
}

static bb_status pack_nothing(void *user, bb_tensor *value, void **packed) {
    (void)user, (void)value, (void)packed;
    return BB_OK;
}
static bb_tensor *unpack_nothing(void *user, void *packed) {
    (void)user, (void)packed;
    return NULL;
}

static void test_wrong_use(test *t) {
    bb_context *ctx = test_open();
    CHECK_INT(t, bb_offload_begin(NULL, NULL), BB_ERR_ARGUMENT);
    CHECK_INT(t, bb_offload_end(NULL), BB_ERR_ARGUMENT);
    CHECK_INT(t, bb_offload_end(ctx), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_offload_end: expected an open segment, got none");
    CHECK_INT(t, bb_offload_begin(ctx, &(bb_offload_options){-1}), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "bb_offload_begin: min_elements: expected 0 or more, got -1");
    CHECK_INT(t, bb_offload_begin(ctx, NULL), BB_OK);
    CHECK_INT(t, bb_offload_begin(ctx, NULL), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "expected no open segment, got one inside another");
    const bb_saved_hooks others = {pack_nothing, unpack_nothing, NULL, NULL};
    bb_saved_hooks_push(ctx, &others);
    if (can_offload(ctx)) {
        CHECK_INT(t, bb_offload_end(ctx), BB_ERR_STATE);
        CHECK_ERROR(t, ctx, BB_ERR_STATE, "got others that were pushed since");
    }
    bb_saved_hooks_pop(ctx);
    CHECK_INT(t, bb_offload_end(ctx), BB_OK);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"what goes", test_what_goes}, {"one ahead", test_one_ahead}, {"available", test_available},
    {"changed", test_changed},     {"wrong use", test_wrong_use},
};
TEST_MAIN(rows)
