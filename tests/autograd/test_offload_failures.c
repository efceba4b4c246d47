/* Offloading that is interrupted, and memory that runs out, of the host and of the device: an
 * error, no leak, and what comes after it is right. */
#include "core/impl.h"
#include "tests/autograd/offload_test.h"
#include "tests/support/alloc.h"

/* A step that stops in the middle of backward, with copies under way in both directions: what the
 * next one makes in the same memory is its own. */
static bb_status fails_in_backward(const bb_grad_call *grad) {
    return bb_fail(grad->call->ctx, BB_ERR_STATE, "on purpose");
}
static void test_interrupted(test *t) {
    const bb_op faulty = passed_by("faulty", fails_in_backward);
    bb_context *ctx = test_open();
    CHECK_INT(t, bb_register_op(ctx, &faulty), BB_OK);
    for (int round = 0; round < 3; round++) {
        bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(64, 64), 3), true);
        bb_tensor *h = x;
        for (int i = 0; i < 4; i++) {
            bb_offload_begin(ctx, &(bb_offload_options){1});
            bb_tensor *next = bb_square(bb_mul_scalar(h, 0.5));
            bb_offload_end(ctx);
            h = i == 1 && round < 2 ? bb_apply1(ctx, &faulty, &next, 1, NULL) : next;
        }
        bb_status status = bb_backward(bb_sum_all(h), NULL);
        if (round < 2) {
            CHECK_INT(t, status, BB_ERR_STATE);
            CHECK_ERROR(t, ctx, BB_ERR_STATE, "on purpose");
        } else {
            CHECK_INT(t, status, BB_OK);
        }
        bb_end_step(ctx);
        bb_tensor *mine[12];
        for (int i = 0; i < 12; i++) mine[i] = bb_full(ctx, BB_F32, BB_SHAPE(64, 64), i);
        bb_offload_begin(ctx, &(bb_offload_options){1});
        bb_offload_end(ctx);
        for (int i = 0; i < 12; i++) CHECK_NEAR(t, bb_item(bb_mean_all(mine[i])), i, 0);
        CHECK_OK(t, ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

/* What was sent for, and is then let go of in the middle of a walk: a branch that the output of a
 * recomputed piece does not depend on. The copy must not land in what the memory is used for next.
 */
static bb_tensor *with_dead_branch(void *user, bb_tensor *const *in, int n) {
    bb_context *ctx = bb_context_of(in[0]);
    (void)user, (void)n;
    for (int i = 0; i < 2; i++) {
        bb_offload_begin(ctx, &(bb_offload_options){1});
        bb_tensor *y = bb_square(bb_mul_scalar(in[0], 0.5));
        bb_offload_end(ctx);
        if (i == 1) return y;
    }
    return NULL;
}
static void test_dead_branch(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(64, 64), 3), true);
    bb_tensor *h = bb_mul_scalar(x, 1);
    bb_tensor *y = bb_sum_all(bb_recompute(ctx, with_dead_branch, NULL, &h, 1));
    CHECK_INT(t, bb_backward(y, NULL), BB_OK);
    bb_tensor *mine[12];
    for (int i = 0; i < 12; i++) mine[i] = bb_full(ctx, BB_F32, BB_SHAPE(64, 64), i);
    bb_offload_begin(ctx, NULL);
    bb_offload_end(ctx);
    bb_offload_settle(ctx); /* whatever was still under way has landed */
    for (int i = 0; i < 12; i++) CHECK_NEAR(t, bb_item(bb_mean_all(mine[i])), i, 0);
    CHECK_NEAR(t, bb_item(bb_mean_all(bb_grad(x))), 1.5, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* The device's module is loaded before memory runs out: what could not be loaded is not tried
 * again. */
static void to_device(bb_context *ctx) {
    const char *device = getenv("BOBBIN_TEST_DEVICE");
    if (device && strcmp(device, "cuda") == 0) bb_set_device(ctx, BB_CUDA);
}
static void with_offloading(bb_context *ctx, void *user) {
    (void)user;
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(16, 8), 0.5), true), *h = x;
    for (int i = 0; i < 3; i++) {
        bb_status begun = bb_offload_begin(ctx, &(bb_offload_options){1});
        bb_scope scope = bb_scope_begin(ctx);
        h = bb_scope_end(ctx, scope, bb_tanh(bb_square(bb_mul_scalar(h, 0.5))));
        if (begun == BB_OK) bb_offload_end(ctx);
    }
    bb_offload_settle(ctx);
    bb_backward(bb_sum_all(h), NULL);
}
static void test_memory_runs_out(test *t) {
    const alloc_subject subject = {.prepare = to_device, .run = with_offloading};
    char problem[ALLOC_PROBLEM];
    int64_t tried = 0;
    for (int for_good = 0; for_good < 2; for_good++) {
        int64_t n = 1;
        for (; alloc_run_failing(&subject, n, for_good, problem); n++)
            CHECK_MSG(t, !problem[0], "allocation %lld, for good %d: %s", (long long)n, for_good,
                      problem);
        CHECK_MSG(t, !problem[0], "%s", problem);
        tried += n;
    }
    CHECK_MSG(t, tried > 20, "%lld allocations", (long long)tried);
}

/* ---- Memory of the device itself that runs out: an error, no leak, and another try works ----- */

static bb_context *open_limited(int kib) {
    char limit[32];
    snprintf(limit, sizeof limit, "%d", kib * 1024);
    setenv("BOBBIN_SIM_MEMORY", limit, 1);
    bb_context *ctx = test_open();
    unsetenv("BOBBIN_SIM_MEMORY");
    return ctx;
}

/* Six segments of 32 KiB each, of which device memory holds two at a time. */
static bb_tensor *six_segments(bb_context *ctx) {
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(64, 64), 0.5), true);
    bb_tensor *h = bb_mul_scalar(x, 1);
    for (int i = 0; i < 6; i++) {
        bb_offload_begin(ctx, &(bb_offload_options){1});
        bb_scope scope = bb_scope_begin(ctx);
        bb_tensor *y = bb_mul(bb_mul_scalar(h, 1), bb_mul_scalar(h, 1));
        bb_scope_end(ctx, scope, y);
        bb_offload_end(ctx);
        bb_drop(h);
        h = y;
    }
    return bb_sum_all(h);
}

static void check_empty(test *t, bb_context *ctx) {
    bb_end_step(ctx);
    CHECK_INT(t, bb_memory_stats(ctx).bytes_in_use, 0);
    bb_close(ctx);
}

static void test_device_memory_runs_out(test *t) {
    bb_context *ctx = test_open();
    const bb_backend *backend = ctx->backend[bb_get_device(ctx)];
    bool simulated = backend->simulated;
    CHECK(t, can_offload(ctx) == (backend->device != BB_CPU));
    bb_close(ctx);
    if (!simulated) return; /* nobody limits the memory of a real device, and the CPU has none */
    int failed = 0, fitted = 0;
    for (int kib = 40; kib <= 320; kib += 8) {
        ctx = open_limited(kib);
        bb_backward(six_segments(ctx), NULL);
        bb_status status = bb_error(ctx);
        failed += status == BB_ERR_MEMORY;
        fitted += status == BB_OK;
        CHECK_MSG(t, status == BB_OK || status == BB_ERR_MEMORY, "%d KiB: %s", kib,
                  bb_error_message(ctx));
        bb_clear_error(ctx);
        check_empty(t, ctx);
    }
    CHECK_MSG(t, failed > 2 && fitted > 2, "%d sizes were too little, %d enough", failed, fitted);
    /* A walk that cannot bring its segments back for lack of memory, and then can. */
    ctx = open_limited(400);
    bb_tensor *loss = six_segments(ctx), *hog[128];
    int hogs = 0;
    while (hogs < 128 && (hog[hogs] = bb_empty(ctx, BB_U8, BB_SHAPE(4096)))) hogs++;
    bb_clear_error(ctx);
    for (int more = 0; more < 4; more++) { /* it fails later and later */
        CHECK_INT(t, bb_backward_retain(loss, NULL), BB_ERR_MEMORY);
        CHECK_ERROR(t, ctx, BB_ERR_MEMORY, "out of cuda memory");
        for (int i = 0; i < 2; i++) bb_drop(hog[--hogs]);
    }
    while (hogs) bb_drop(hog[--hogs]);
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    CHECK_OK(t, ctx);
    check_empty(t, ctx);
}

static const test_row rows[] = {
    {"interrupted", test_interrupted},
    {"dead branch", test_dead_branch},
    {"memory runs out", test_memory_runs_out},
    {"device memory runs out", test_device_memory_runs_out},
};
TEST_MAIN(rows)
