/* core/context.c: options, devices, two contexts side by side. */
#include "core/impl.h"
#include "tests/support/test.h"

static void test_options(test *t) {
    bb_context *ctx = bb_open(&(bb_options){.seed = 7, .threads = 1, .path = BB_PATH_COMPOSED});
    CHECK_INT(t, bb_get_rng(ctx).seed, 7);
    CHECK_INT(t, bb_get_path(ctx), BB_PATH_COMPOSED);
    CHECK(t, bb_grad_enabled(ctx));
    bb_close(ctx);
    ctx = bb_open(NULL);
    CHECK_INT(t, bb_get_path(ctx), BB_PATH_AUTO);
    CHECK(t, bb_memory_stats(ctx).bytes_held > 0);
    CHECK_INT(t, bb_memory_stats(ctx).live_tensors, 0);
    bb_close(ctx);
    CHECK_INT(t, bb_memory_stats(NULL).bytes_held, 0);
    CHECK_INT(t, bb_get_path(NULL), BB_PATH_AUTO);
    bb_set_path(NULL, BB_PATH_FUSED);
    bb_set_trace(NULL, stderr);
}

/* What cannot be had is an error that the new context holds. */
static void refused(test *t, const bb_options *options, bb_status status, const char *part) {
    bb_context *ctx = bb_open(options);
    CHECK(t, ctx != NULL);
    CHECK(t, !bb_scalar(ctx, BB_F32, 1));
    CHECK_ERROR(t, ctx, status, part);
    CHECK_NEAR(t, bb_item(bb_exp(bb_scalar(ctx, BB_F64, 0))), 1, 0); /* with the default */
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_wishes(test *t) {
    static const char *const names[] = {"BOBBIN_ISA", "BOBBIN_GEMM"};
    refused(t, &(bb_options){.threads = 1000000}, BB_ERR_ARGUMENT,
            "bb_open: threads: expected at most 1024, got 1000000");
    refused(t, &(bb_options){.path = (bb_path)77}, BB_ERR_ARGUMENT,
            "path: expected a bb_path, got 77");
    for (int i = 0; i < 2; i++) {
        const char *before = getenv(names[i]);
        char *kept = before ? strdup(before) : NULL;
        setenv(names[i], "vax", 1);
        refused(t, NULL, BB_ERR_ARGUMENT,
                i ? "BOBBIN_GEMM: expected own|openblas, got 'vax'" : "baseline");
        setenv(names[i], "", 1); /* as if it were not there */
        bb_context *ctx = bb_open(NULL);
        CHECK_OK(t, ctx);
        bb_close(ctx);
        unsetenv(names[i]);
        if (kept) setenv(names[i], kept, 1);
        free(kept);
    }
    bb_context *ctx = test_open();
    bb_set_path(ctx, (bb_path)77);
    CHECK_INT(t, bb_get_path(ctx), BB_PATH_AUTO);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_set_path: path: expected a bb_path, got 77");
    bb_close(ctx);
}

static void test_devices(test *t) {
    bb_context *ctx = test_open();
    const char *why = "unset";
    CHECK(t, bb_device_available(ctx, BB_CPU, &why));
    CHECK(t, why == NULL);
    if (!bb_device_available(ctx, BB_CUDA, &why)) CHECK(t, why && why[0]);
    CHECK(t, !bb_device_available(ctx, BB_DEVICE_COUNT, &why) && why && why[0]);
    CHECK(t, !bb_device_available(NULL, BB_CPU, NULL));
    bb_close(ctx);
}

static void test_environment(test *t) {
    setenv("BOBBIN_POISON", "1", 1);
    setenv("BOBBIN_SYNC", "1", 1);
    setenv("BOBBIN_TRACE", "0", 1);
    bb_context *ctx = bb_open(NULL);
    CHECK(t, ctx->poison && ctx->synchronize && ctx->trace == NULL);
    CHECK(t, isnan(((float *)bb_data(bb_empty(ctx, BB_F32, BB_SHAPE(5))))[4]));
    CHECK_NEAR(t, bb_item(bb_exp(bb_scalar(ctx, BB_F64, 0))), 1, 0);
    bb_close(ctx);
    unsetenv("BOBBIN_POISON");
    unsetenv("BOBBIN_SYNC");
    setenv("BOBBIN_TRACE", "1", 1);
    ctx = bb_open(NULL);
    CHECK(t, !ctx->poison && ctx->trace == stderr);
    bb_close(ctx);
    unsetenv("BOBBIN_TRACE");
}

/* Contexts share nothing: steps, errors, numbers and gradients of one do not show in the other. */
static void test_two(test *t) {
    bb_context *a = test_open(), *b = test_open();
    bb_tensor *x = bb_set_requires_grad(bb_scalar(a, BB_F64, 3), true),
              *y = bb_scalar(b, BB_F64, 4);
    bb_tensor *z = bb_square(x);
    bb_fail(b, BB_ERR_IO, "only b");
    bb_rand(b, BB_F32, BB_SHAPE(10));
    CHECK_OK(t, a);
    CHECK_INT(t, bb_backward(z, NULL), BB_OK);
    bb_clear_error(b);
    bb_end_step(a);
    CHECK_NEAR(t, bb_item(y), 4, 0);
    CHECK_INT(t, bb_tape_length(b), 0);
    bb_close(a);
    CHECK_NEAR(t, bb_item(bb_square(y)), 16, 0);
    bb_close(b);
}

/* The same computation on 1 and on several threads gives the same bytes. */
static void test_threads(test *t) {
    enum { N = 300 };
    static float one[N * N], many[N * N];
    for (int threads = 1; threads <= 3; threads += 2) {
        bb_context *ctx = bb_open(&(bb_options){.seed = 5, .threads = threads});
        bb_tensor *x = bb_randn(ctx, BB_F32, BB_SHAPE(N, N)),
                  *w = bb_rand(ctx, BB_F32, BB_SHAPE(N));
        bb_tensor *y = bb_softmax(bb_rms_norm(x, w, 1e-5), -1);
        y = bb_add(y, bb_sum(bb_exp(x), BB_INTS(0), true));
        CHECK_INT(t, bb_read(y, threads == 1 ? one : many, sizeof one), BB_OK);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
    CHECK(t, memcmp(one, many, sizeof one) == 0);
}

/* Layers say who they are: a list on the stack, the innermost first. */
static void test_modules(test *t) {
    bb_context *ctx = test_open();
    bb_module outer, inner, again;
    CHECK(t, !ctx->module);
    bb_module_enter(ctx, &outer, "Block", "blocks", 3);
    bb_module_enter(ctx, &inner, "RMSNorm", "norm", -1);
    CHECK(t, ctx->module == &inner && inner.outer == &outer && !outer.outer);
    CHECK_TEXT(t, inner.name, "norm");
    CHECK_INT(t, outer.index, 3);
    bb_module_leave(ctx, &inner);
    CHECK(t, ctx->module == &outer);
    bb_module_enter(ctx, &again, "RMSNorm", "norm", -1);
    CHECK(t, again.serial != inner.serial); /* another call of the same layer */
    bb_module_leave(ctx, &again);
    bb_module_leave(ctx, &outer);
    CHECK(t, !ctx->module);
    bb_module_enter(NULL, &outer, "Block", "blocks", 3);
    bb_module_leave(NULL, &outer);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"options", test_options},         {"wishes", test_wishes},    {"devices", test_devices},
    {"environment", test_environment}, {"two contexts", test_two}, {"threads", test_threads},
    {"modules", test_modules},
};
TEST_MAIN(rows)
