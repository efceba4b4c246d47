/* autograd/recompute.c: a segment that is run again gives the same bits as one that was kept. */
#include "core/impl.h"
#include "tests/support/test.h"

typedef struct segment {
    bb_tensor *weight; /* of the context */
    int runs;
} segment;

/* Dropout inside: the second run must draw the same numbers. */
static bb_tensor *run_segment(void *user, bb_tensor *const *in, int n) {
    segment *s = user;
    s->runs++;
    bb_tensor *h = bb_dropout(bb_tanh(bb_matmul(in[0], s->weight)), 0.4);
    h = bb_rms_norm(h, bb_ones(bb_context_of(h), BB_F32, BB_SHAPE(16)), 1e-5);
    return n > 1 ? bb_mul(h, in[1]) : h;
}

enum { ROWS = 8, WIDTH = 16 };

static void train(test *t, bool recompute, float *loss_bits, float gx[ROWS * WIDTH],
                  float gw[WIDTH * WIDTH], segment *s) {
    bb_context *ctx = bb_open(&(bb_options){.seed = 11});
    bb_tensor *x = bb_set_requires_grad(bb_randn(ctx, BB_F32, BB_SHAPE(ROWS, WIDTH)), true);
    s->weight = bb_set_requires_grad(bb_keep(bb_randn(ctx, BB_F32, BB_SHAPE(WIDTH, WIDTH))), true);
    s->runs = 0;
    bb_tensor *in[2] = {x, bb_rand(ctx, BB_F32, BB_SHAPE(WIDTH))}, *h = x;
    for (int layer = 0; layer < 3; layer++) {
        in[0] = h;
        h = recompute ? bb_recompute(ctx, run_segment, s, in, 2) : run_segment(s, in, 2);
    }
    bb_rng forward = bb_get_rng(ctx);
    bb_tensor *loss = bb_mean_all(bb_square(h));
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    CHECK_INT(t, bb_get_rng(ctx).offset, forward.offset);
    bb_read(loss, loss_bits, sizeof *loss_bits);
    bb_read(bb_grad(x), gx, sizeof(float) * ROWS * WIDTH);
    bb_read(bb_grad(s->weight), gw, sizeof(float) * WIDTH * WIDTH);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_same_bits(test *t) {
    static float gx[2][ROWS * WIDTH], gw[2][WIDTH * WIDTH];
    float loss[2];
    segment s;
    train(t, false, &loss[0], gx[0], gw[0], &s);
    CHECK_INT(t, s.runs, 3);
    train(t, true, &loss[1], gx[1], gw[1], &s);
    CHECK_INT(t, s.runs, 6);
    CHECK(t, memcmp(&loss[0], &loss[1], sizeof loss[0]) == 0);
    CHECK(t, memcmp(gx[0], gx[1], sizeof gx[0]) == 0);
    CHECK(t, memcmp(gw[0], gw[1], sizeof gw[0]) == 0);
}

static void test_keeps_only_inputs(test *t) {
    bb_context *ctx = test_open();
    segment s = {bb_keep(bb_full(ctx, BB_F32, BB_SHAPE(WIDTH, WIDTH), 0.1)), 0};
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(ROWS, WIDTH), 1), true);
    int64_t live = bb_memory_stats(ctx).live_tensors;
    bb_tensor *y = bb_recompute(ctx, run_segment, &s, &x, 1);
    CHECK(t, bb_requires_grad(y));
    CHECK_INT(t, bb_tape_length(ctx), 1);
    CHECK_INT(t, bb_memory_stats(ctx).live_tensors, live + 1);
    /* Without anyone who wants a gradient it leaves nothing on the tape. */
    bb_tensor *plain = bb_detach(x);
    bb_set_grad_enabled(ctx, false);
    CHECK(t, !bb_requires_grad(bb_recompute(ctx, run_segment, &s, &plain, 1)));
    CHECK_INT(t, bb_tape_length(ctx), 1);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static bb_tensor *smooth(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)n;
    return bb_mul(bb_sin(in[0]), bb_exp(in[1]));
}
static bb_tensor *nested(void *user, bb_tensor *const *in, int n) {
    bb_context *ctx = bb_context_of(in[0]);
    bb_tensor *h[2] = {bb_recompute(ctx, smooth, user, in, n), in[1]};
    return bb_tanh(bb_recompute(ctx, smooth, user, h, 2));
}
static bb_tensor *twice_nested(void *user, bb_tensor *const *in, int n) {
    return bb_square(bb_recompute(bb_context_of(in[0]), nested, user, in, n));
}

static void test_gradcheck(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *in[2];
    for (int i = 0; i < 2; i++)
        in[i] = bb_set_requires_grad(
            bb_from_f64(ctx, BB_F64, BB_SHAPE(3), (double[]){0.3 + i, -0.2, 0.5}), true);
    bb_gradcheck_report report;
    CHECK_INT(t, bb_gradcheck(ctx, twice_nested, NULL, in, 2, NULL, &report), BB_OK);
    CHECK(t, report.passed);
    CHECK_INT(t, bb_gradgradcheck(ctx, twice_nested, NULL, in, 2, NULL, &report), BB_OK);
    CHECK(t, report.passed);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static bb_tensor *fails(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)n;
    return bb_matmul(in[0], bb_ones(bb_context_of(in[0]), BB_F32, BB_SHAPE(5, 5)));
}
static bb_tensor *null(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)in, (void)n;
    return NULL;
}

static void test_refusals(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(2, 3), 1), true),
              *none = NULL;
    CHECK(t, !bb_recompute(NULL, smooth, NULL, &x, 1));
    CHECK(t, !bb_recompute(ctx, NULL, NULL, &x, 1));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_recompute: fn: expected a function");
    CHECK(t, !bb_recompute(ctx, smooth, NULL, &none, 1));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_recompute: inputs[0]: expected a tensor, got NULL");
    CHECK(t, !bb_recompute(ctx, null, NULL, &x, 1));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_recompute: fn: returned NULL");
    CHECK(t, !bb_recompute(ctx, fails, NULL, &x, 1));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "matmul");
    CHECK(t, bb_grad_enabled(ctx));
    bb_close(ctx);
}

static const test_row rows[] = {
    {"same bits", test_same_bits},
    {"keeps only inputs", test_keeps_only_inputs},
    {"gradcheck, nested", test_gradcheck},
    {"refusals", test_refusals},
};
TEST_MAIN(rows)
