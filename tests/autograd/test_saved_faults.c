/* autograd/saved.c: hooks on saved values that misbehave, fail, or are left half way. Each is an
 * error that names the op, each packed object is released once, and the context works on. */
#include "tests/autograd/saved_test.h"
#include "tests/support/alloc.h"

typedef enum fault {
    WRITES,
    SHARES,
    WRONG_DTYPE,
    WRONG_SHAPE,
    NOTHING,
    SILENT,
    DROPPED,
    FAULTS
} fault;

static bb_status bad_pack(void *user, bb_tensor *value, void **packed) {
    fault f = *(fault *)user;
    if (f == WRITES) {
        static const float zeros[N];
        bb_write(value, zeros, sizeof zeros);
    }
    *packed = f == SHARES ? bb_hold(bb_reshape(value, bb_shape_of(value)))
                          : bb_hold(bb_mul_scalar(value, 1));
    return f == SILENT ? BB_ERR_IO : BB_OK;
}
static bb_tensor *bad_unpack(void *user, void *packed) {
    fault f = *(fault *)user;
    if (f == NOTHING) return NULL;
    if (f == WRONG_DTYPE) return bb_cast(packed, BB_F16);
    if (f == WRONG_SHAPE) return bb_reshape(packed, BB_SHAPE(6, 4));
    bb_tensor *t = bb_mul_scalar(packed, 1);
    if (f == DROPPED) bb_drop(t);
    return f == SHARES ? packed : t;
}
static int released;
static void bad_release(void *user, void *packed) {
    (void)user, (void)packed;
    released++;
}

static void test_faults(test *t) {
    static const char *const messages[FAULTS] = {
        [WRITES] = "square: pack: changed the value that it was to pack",
        [SHARES] =
            ("bb_backward: square: unpack: gave the value's own bytes, which were changed in "
             "place"),
        [WRONG_DTYPE] = "bb_backward: square: unpack: expected f32(4, 6) on",
        [WRONG_SHAPE] = "got f32(6, 4) on",
        [NOTHING] = "bb_backward: square: unpack: expected f32(4, 6), got NULL",
        [SILENT] = "square: pack: failed without a message",
        [DROPPED] =
            "bb_backward: square: unpack: expected f32(4, 6), got a tensor that was dropped",
    };
    for (int f = 0; f < FAULTS; f++) {
        bb_context *ctx = test_open();
        bb_tensor *in[MOST];
        fault kind = (fault)f;
        const bb_saved_hooks hooks = {bad_pack, bad_unpack, bad_release, &kind};
        released = 0;
        make_inputs(ctx, BB_F32, in);
        bb_tensor *x = bb_mul_scalar(in[0], 1);
        bb_saved_hooks_push(ctx, &hooks);
        bb_tensor *y = bb_square(x);
        bb_saved_hooks_pop(ctx);
        CHECK(t, (f == WRITES || f == SILENT) == !y);
        if (f == SHARES) bb_write(x, (float[N]){0}, N * sizeof(float));
        if (y) CHECK(t, bb_backward(y, bb_ones_like(y)) != BB_OK);
        CHECK_ERROR(t, ctx, f == SILENT ? BB_ERR_IO : BB_ERR_STATE, messages[f]);
        CHECK(t, !bb_grad(in[0]));
        bb_end_step(ctx);
        CHECK_INT(t, released, 1);
        /* And it works again. */
        make_inputs(ctx, BB_F32, in);
        CHECK_INT(t, bb_backward(bb_sum_all(bb_square(in[0])), NULL), BB_OK);
        bb_close(ctx);
    }
    bb_context *ctx = test_open();
    CHECK_INT(t, bb_saved_hooks_push(ctx, &(bb_saved_hooks){store_pack, NULL, NULL, NULL}),
              BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "bb_saved_hooks_push: hooks: expected pack and unpack, got NULL");
    CHECK_INT(t, bb_saved_hooks_push(NULL, NULL), BB_ERR_ARGUMENT);
    bb_saved_hooks_pop(NULL);
    bb_close(ctx);
}

/* A pack that fails in the middle of a node, a step that ends before backward, a walk that stops:
 * each object is released once, and the context works on. */
static void test_early_ends(test *t) {
    for (int fail = 0; fail < 9; fail++) {
        bb_context *ctx = test_open();
        bb_tensor *in[MOST];
        store s = {.ctx = ctx, .fail_pack = fail};
        const bb_saved_hooks hooks = store_hooks(&s);
        make_inputs(ctx, BB_F32, in);
        bb_saved_hooks_push(ctx, &hooks);
        bb_tensor *y = composite(in);
        CHECK(t, (fail == 0) == (y != NULL));
        if (fail) CHECK_ERROR(t, ctx, BB_ERR_IO, "the disk is full");
        bb_saved_hooks_pop(ctx);
        bb_end_step(ctx);
        CHECK_INT(t, s.live, 0);
        CHECK_INT(t, s.unpacks, 0);
        bb_close(ctx);
    }
}

static void with_hooks(bb_context *ctx) {
    bb_tensor *in[MOST], *g[MOST];
    bb_status pushed = bb_saved_hooks_push(ctx, &narrow);
    make_inputs(ctx, BB_F32, in);
    bb_tensor *y = bb_sum_all(plain(in));
    bb_gradients(y, NULL, in, MOST, true, g);
    bb_backward(bb_sum_all(composite(in)), NULL);
    if (pushed == BB_OK) bb_saved_hooks_pop(ctx);
}
static void test_memory_runs_out(test *t) { alloc_failure_loop(t, with_hooks); }

static const test_row rows[] = {
    {"faults", test_faults},
    {"early ends", test_early_ends},
    {"memory runs out", test_memory_runs_out},
};
TEST_MAIN(rows)
