/* Steps as graphs: the same bits with a capture and without, on every device; what may not stand in
 * a captured step. On the CPU, which cannot record, a capture calls its step each time. */
#include "tests/support/test.h"

typedef struct model {
    bb_context *ctx;
    bb_params *params;
    bb_nn_linear up, down;
    bb_adamw *optimizer;
    bb_tensor *x, *y, *loss;
    int calls;
    const char *offence; /* what the step does that it may not */
} model;

static bb_tensor *context_tensor(bb_context *ctx, bb_shape shape) {
    return bb_keep(bb_full(ctx, BB_F32, shape, 0));
}

static void open_model(model *m) {
    *m = (model){.ctx = test_open()};
    m->params = bb_params_new(m->ctx, bb_get_device(m->ctx), BB_F32);
    m->up = bb_nn_linear_new(m->params, "up", 6, 10, true, 0);
    m->down = bb_nn_linear_new(m->params, "down", 10, 3, true, 0);
    m->optimizer = bb_adamw_new(m->params, NULL);
    m->x = context_tensor(m->ctx, BB_SHAPE(8, 6));
    m->y = context_tensor(m->ctx, BB_SHAPE(8, 3));
    m->loss = context_tensor(m->ctx, BB_SCALAR);
    bb_end_step(m->ctx);
}

static bb_status step(void *user) {
    model *m = user;
    m->calls++;
    bb_tensor *error =
        bb_sub(bb_nn_linear_forward(&m->down, bb_tanh(bb_nn_linear_forward(&m->up, m->x))), m->y);
    bb_tensor *loss = bb_mean_all(bb_square(error));
    bb_backward(loss, NULL);
    bb_clip_grads(m->params, 0.5);
    bb_adamw_apply(m->optimizer);
    bb_params_zero_grad(m->params);
    if (m->offence && strcmp(m->offence, "read") == 0) bb_item(loss);
    if (m->offence && strcmp(m->offence, "keep") == 0) bb_keep(loss);
    if (m->offence && strcmp(m->offence, "random") == 0) bb_rand(m->ctx, BB_F32, BB_SHAPE(2));
    return bb_assign(m->loss, loss);
}

static void write_batch(model *m, int i) {
    float x[48], y[24];
    for (int k = 0; k < 48; k++) x[k] = sinf((float)(k * 7 + i * 3));
    for (int k = 0; k < 24; k++) y[k] = cosf((float)(k + i));
    bb_write(m->x, x, sizeof x);
    bb_write(m->y, y, sizeof y);
    bb_adamw_set_lr(m->optimizer, 0.01 / (1 + i));
}

enum { STEPS = 6 };

static void test_same_bits(test *t) {
    double loss[2][STEPS], norm[2];
    for (int captured = 0; captured < 2; captured++) {
        model m;
        open_model(&m);
        bb_capture *c = captured ? bb_capture_step(m.ctx, bb_get_device(m.ctx), step, &m) : NULL;
        for (int i = 0; i < STEPS; i++) {
            write_batch(&m, i);
            if (captured)
                bb_capture_run(c);
            else
                step(&m), bb_end_step(m.ctx);
            loss[captured][i] = bb_item(m.loss);
        }
        norm[captured] = bb_grad_norm(m.params);
        CHECK_OK(t, m.ctx);
        CHECK_INT(t, bb_adamw_steps(m.optimizer), STEPS);
        bool replays = captured && bb_get_device(m.ctx) != BB_CPU;
        CHECK_INT(t, m.calls, replays ? 2 : STEPS);
        CHECK_INT(t, bb_capture_replays(c), replays);
        bb_close(m.ctx);
    }
    for (int i = 0; i < STEPS; i++) CHECK_NEAR(t, loss[1][i], loss[0][i], 0);
    CHECK_NEAR(t, norm[1], norm[0], 0);
    CHECK(t, loss[0][STEPS - 1] != loss[0][0] && norm[0] > 0);
}

/* Other work between two replays must not touch the graph's memory, nor the other way round. */
static void test_memory_of_its_own(test *t) {
    double loss[2];
    for (int disturbed = 0; disturbed < 2; disturbed++) {
        model m;
        open_model(&m);
        bb_capture *c = bb_capture_step(m.ctx, bb_get_device(m.ctx), step, &m);
        for (int i = 0; i < STEPS; i++) {
            bb_tensor *held = disturbed ? bb_full(m.ctx, BB_F32, BB_SHAPE(10, 10), 7) : NULL;
            write_batch(&m, i);
            if (held) held = bb_keep(held);
            bb_capture_run(c);
            if (held) CHECK_NEAR(t, bb_item(bb_sum_all(held)), 700, 0);
            bb_drop(held);
        }
        loss[disturbed] = bb_item(m.loss);
        CHECK_OK(t, m.ctx);
        bb_capture_free(c);
        bb_item(bb_sum_all(bb_full(m.ctx, BB_F32, BB_SHAPE(10, 10), 7)));
        CHECK_OK(t, m.ctx);
        bb_close(m.ctx);
    }
    CHECK_NEAR(t, loss[1], loss[0], 0);
}

static void test_offences(test *t) {
    static const struct {
        const char *name, *message;
    } rows[] = {
        {"read", "bb_read_f64: inside a captured step: values cannot go to or come from the host"},
        {"keep", "bb_keep: inside a captured step: use bb_assign to a tensor made before"},
        {"random",
         "random numbers: inside a captured step: a replay would draw the same ones again"}};
    for (int i = 0; i < COUNT(rows); i++) {
        model m;
        open_model(&m);
        bb_capture *c = bb_capture_step(m.ctx, bb_get_device(m.ctx), step, &m);
        write_batch(&m, 0);
        m.offence = rows[i].name;
        CHECK_MSG(t, bb_capture_run(c) == BB_OK, "%s is all right in a plain run: %s", rows[i].name,
                  bb_error_message(m.ctx));
        bb_capture_run(c);
        if (bb_get_device(m.ctx) != BB_CPU)
            CHECK_ERROR(t, m.ctx, BB_ERR_STATE, rows[i].message);
        else
            CHECK_OK(t, m.ctx);
        bb_clear_error(m.ctx);
        bb_params_zero_grad(m.params);
        m.offence = NULL; /* and once it behaves, it is recorded */
        CHECK_MSG(t, bb_capture_run(c) == BB_OK, "after %s: %s", rows[i].name,
                  bb_error_message(m.ctx));
        bb_close(m.ctx);
    }
}

static bb_status fails(void *user) { return bb_fail(user, BB_ERR_ARGUMENT, "on purpose"); }

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    CHECK(t, !bb_capture_step(ctx, BB_CPU, NULL, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_capture_step: step: expected a function, got NULL");
    CHECK(t, !bb_capture_step(ctx, (bb_device)7, step, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_DEVICE, "bb_capture_step: device: no such device");
    bb_capture *c = bb_capture_step(ctx, bb_get_device(ctx), fails, ctx);
    CHECK(t, c && bb_capture_run(c) == BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "on purpose");
    CHECK(t, !bb_capture_replays(c) && bb_capture_run(NULL) == BB_ERR_ARGUMENT);
    bb_tensor *a = bb_full(ctx, BB_F32, BB_SHAPE(2), 0);
    CHECK(t, bb_assign(a, NULL) == BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_assign: source: expected a tensor, got NULL");
    CHECK(t, bb_assign(a, bb_full(ctx, BB_F32, BB_SHAPE(3), 0)) == BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_assign: source: expected shape (2,), got (3,)");
    bb_close(ctx);
}

static const test_row rows[] = {
    {"same_bits", test_same_bits},
    {"memory_of_its_own", test_memory_of_its_own},
    {"offences", test_offences},
    {"errors", test_errors},
};
TEST_MAIN(rows)
