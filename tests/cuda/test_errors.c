/* What fails beneath an op: memory that runs out at any point of a training step, a refused launch,
 * a lost device, no device at all. The error names op, shapes and device, no parameter takes half a
 * step, the process lives, and a context on the CPU goes on. The simulation can be told to fail so;
 * a real device cannot, and is left alone. */
#include "tests/nn/nn_test.h"

enum { WIDTH = 40, ROWS = 6 };

typedef struct model {
    bb_params *params;
    bb_nn_rms_norm norm;
    bb_nn_linear up, down;
    bb_adamw *optimizer;
} model;

/* Opens a context on the device under one more variable of the simulation. */
static bb_context *open_with(const char *name, const char *value) {
    bb_context *ctx = bb_open(NULL);
    setenv(name, value, 1);
    bb_set_device(ctx, BB_CUDA);
    unsetenv(name);
    return ctx;
}

static bool simulated(test *t) {
    bb_context *ctx = test_open();
    const bool is = ctx->backend[BB_CUDA] && ctx->backend[BB_CUDA]->simulated;
    bb_close(ctx);
    if (!is) test_skip(t, "a real device cannot be made to fail");
    return is;
}

static model make(bb_context *ctx, bb_dtype dtype) {
    model m = {.params = bb_params_new(ctx, bb_get_device(ctx), dtype)};
    m.norm = bb_nn_rms_norm_new(m.params, "norm", WIDTH, 1e-5, 0);
    m.up = bb_nn_linear_new(m.params, "up", WIDTH, 3 * WIDTH, true, 0.02);
    m.down = bb_nn_linear_new(m.params, "down", 3 * WIDTH, WIDTH, true, 0.02);
    bb_params_build(m.params);
    m.optimizer = bb_adamw_new(m.params, NULL);
    return m;
}

/* One step; the context's status. */
static bb_status train(model *m, bb_context *ctx) {
    double values[ROWS * WIDTH];
    for (int i = 0; i < ROWS * WIDTH; i++) values[i] = (i * 37 % 101) / 50.0 - 1;
    bb_tensor *x =
        bb_from_f64(ctx, bb_dtype_of(bb_params_values(m->params)), BB_SHAPE(ROWS, WIDTH), values);
    bb_tensor *y = bb_nn_rms_norm_forward(&m->norm, x);
    y = bb_nn_linear_forward(&m->down, bb_silu(bb_nn_linear_forward(&m->up, y)));
    bb_backward(bb_mean_all(bb_square(bb_sub(y, x))), NULL);
    bb_clip_grads(m->params, 1);
    bb_adamw_step(m->optimizer, 1e-2);
    const bb_status status = bb_error(ctx);
    bb_params_zero_grad(m->params);
    bb_end_step(ctx);
    return status;
}

/* What a step may change, read back: parameters, then each tensor of the optimizer. */
static double *state_of(test *t, model *m, int64_t *count) {
    int n = 0;
    const bb_named *state = bb_adamw_state(m->optimizer, &n);
    *count = bb_count(bb_params_values(m->params));
    for (int i = 0; i < n; i++) *count += state[i].tensor ? bb_count(state[i].tensor) : 0;
    double *all = calloc((size_t)*count, sizeof *all);
    int64_t at = bb_count(bb_params_values(m->params));
    bool read = all && bb_read_f64(bb_params_values(m->params), all, at) == BB_OK;
    for (int i = 0; i < n && read; i++) {
        if (!state[i].tensor) continue;
        read = bb_read_f64(state[i].tensor, all + at, bb_count(state[i].tensor)) == BB_OK;
        at += bb_count(state[i].tensor);
    }
    CHECK(t, read);
    return all;
}

/* The CPU does not mind. */
static void check_cpu(test *t) {
    bb_context *cpu = test_open_host();
    CHECK_NEAR(t, bb_item(bb_sum_all(bb_ones(cpu, BB_F32, BB_SHAPE(3, 4)))), 12, 0);
    CHECK_OK(t, cpu);
    bb_close(cpu);
}

/* Bytes of device memory that building and one step need, at most. */
static size_t bytes_needed(test *t, bb_dtype dtype) {
    bb_context *ctx = test_open();
    model m = make(ctx, dtype);
    CHECK_INT(t, train(&m, ctx), BB_OK);
    CHECK_OK(t, ctx);
    const size_t bytes = (size_t)bb_memory_stats(ctx).bytes_peak;
    bb_close(ctx);
    return bytes;
}

/* Returns whether the step failed for want of memory; false: it went through, or the model did not
 * fit. */
static bool fails_whole(test *t, bb_dtype dtype, size_t limit) {
    char text[32];
    snprintf(text, sizeof text, "%zu", limit);
    bb_context *ctx = open_with("BOBBIN_SIM_MEMORY", text);
    model m = bb_error(ctx) ? (model){0} : make(ctx, dtype);
    int64_t count = 0;
    double *before = bb_error(ctx) ? NULL : state_of(t, &m, &count);
    const bb_status status = before ? train(&m, ctx) : BB_OK;
    if (status) {
        CHECK_INT(t, status, BB_ERR_MEMORY);
        CHECK_MSG(t, strstr(bb_error_message(ctx), "out of cuda memory: asked for"), "%s",
                  bb_error_message(ctx));
        bb_clear_error(ctx);
        double *after = state_of(t, &m, &count);
        CHECK_MSG(t, memcmp(before, after, (size_t)count * sizeof *before) == 0,
                  "%zu bytes: a step that failed changed parameters or the optimizer's state",
                  limit);
        free(after);
    }
    free(before);
    bb_close(ctx);
    return status != BB_OK;
}

static void test_memory(test *t) {
    static const bb_dtype dtypes[] = {BB_F32, BB_BF16};
    if (!simulated(t)) return;
    for (int d = 0; d < 2; d++) {
        const size_t most = bytes_needed(t, dtypes[d]);
        int failed = 0;
        for (size_t limit = most / 4; limit < most; limit += 1000)
            failed += fails_whole(t, dtypes[d], limit);
        CHECK_MSG(t, failed > 10, "only %d of the steps failed", failed);
    }
    check_cpu(t);
}

/* The third launch of a context fails, in `variable`'s way. */
static void check_lost(test *t, const char *variable, const char *why) {
    bb_context *ctx = open_with(variable, "3");
    bb_tensor *x = bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(2, 8)), true); /* launch 1 */
    bb_tensor *y = bb_silu(x);                                                       /* launch 2 */
    CHECK_OK(t, ctx);
    bb_tensor *z = bb_softmax(y, 1);
    CHECK(t, !z && !bb_add(y, y));
    CHECK_MSG(t,
              strstr(bb_error_message(ctx), why) &&
                  strstr(bb_error_message(ctx), "softmax on cuda, inputs f32(2, 8)"),
              "%s", bb_error_message(ctx));
    CHECK_ERROR(t, ctx, BB_ERR_DEVICE, "softmax: cuda: ");
    check_cpu(t);
    double sum = 0;
    const bool lost = strstr(variable, "LOST") != NULL;
    CHECK_INT(t, bb_backward(bb_sum_all(y), NULL) == BB_OK, !lost);
    bb_clear_error(ctx);
    CHECK_INT(t, bb_read_f64(bb_sum_all(bb_ones(ctx, BB_F32, BB_SHAPE(4))), &sum, 1) == BB_OK,
              !lost);
    if (!lost) CHECK_NEAR(t, sum, 4, 0);
    bb_close(ctx);
}

static void test_refused_launch(test *t) {
    if (simulated(t)) check_lost(t, "BOBBIN_SIM_REFUSED_AT", "a launch is refused");
}

static void test_lost_device(test *t) {
    if (simulated(t)) check_lost(t, "BOBBIN_SIM_LOST_AT", "the device is lost");
}

/* A kernel that fails in the backward pass says so. */
static void test_lost_in_backward(test *t) {
    if (!simulated(t)) return;
    bb_context *ctx = open_with("BOBBIN_SIM_LOST_AT", "3");
    bb_tensor *x = bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(2, 8)), true);
    bb_tensor *y = bb_silu(x), *cotangent = bb_detach(x);
    CHECK_OK(t, ctx);
    CHECK(t, bb_backward(y, cotangent) != BB_OK);
    CHECK_MSG(t, strstr(bb_error_message(ctx), "backward of silu on cuda, inputs f32(2, 8)"), "%s",
              bb_error_message(ctx));
    bb_close(ctx);
}

static void test_no_device(test *t) {
    const char *why = NULL;
    if (!simulated(t)) return;
    bb_context *ctx = bb_open(NULL);
    setenv("BOBBIN_SIM_MISSING", "the driver is too old", 1);
    CHECK(t, !bb_device_available(ctx, BB_CUDA, &why));
    unsetenv("BOBBIN_SIM_MISSING");
    CHECK_TEXT(t, why, "the driver is too old");
    CHECK_OK(t, ctx);
    CHECK_INT(t, bb_set_device(ctx, BB_CUDA), BB_ERR_DEVICE);
    CHECK_ERROR(t, ctx, BB_ERR_DEVICE, "the driver is too old");
    CHECK_NEAR(t, bb_item(bb_sum_all(bb_ones(ctx, BB_F32, BB_SHAPE(3)))), 3, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {{"memory", test_memory},
                                {"refused_launch", test_refused_launch},
                                {"lost_device", test_lost_device},
                                {"lost_in_backward", test_lost_in_backward},
                                {"no_device", test_no_device}};
TEST_MAIN(rows)
