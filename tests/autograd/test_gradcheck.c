/* autograd/gradcheck.c: what a gradient check finds, reports and refuses. */
#include "core/impl.h"
#include "tests/support/test.h"

static bb_tensor *cube_sum(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)n;
    return bb_add(bb_mul(bb_square(in[0]), in[0]), in[1]);
}

static bb_tensor *cubes(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)n;
    return bb_mul(bb_square(in[0]), in[0]);
}

static bb_tensor *leaf(bb_context *ctx, bb_shape shape, const double *values) {
    return bb_set_requires_grad(bb_from_f64(ctx, BB_F64, shape, values), true);
}

static void test_passes(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *in[2] = {leaf(ctx, BB_SHAPE(2, 2), (double[]){1, -2, 0.5, 3}),
                        leaf(ctx, BB_SHAPE(2), (double[]){4, 5})};
    bb_gradcheck_report report;
    bb_rng rng = bb_get_rng(ctx);
    int length = bb_tape_length(ctx);
    CHECK_INT(t, bb_gradcheck(ctx, cube_sum, NULL, in, 2, NULL, &report), BB_OK);
    CHECK(t, report.passed && report.error < 1);
    CHECK_INT(t, report.checked, 6);
    CHECK_INT(t, bb_gradgradcheck(ctx, cube_sum, NULL, in, 2, NULL, &report), BB_OK);
    CHECK(t, report.passed && report.checked > 0);
    /* Nothing is left behind: no gradient, no node, no random number taken, the flag as it was. */
    CHECK(t, !bb_grad(in[0]) && !bb_grad(in[1]) && bb_grad_enabled(ctx));
    CHECK_INT(t, bb_tape_length(ctx), length);
    CHECK_INT(t, bb_get_rng(ctx).offset, rng.offset);
    CHECK_INT(t, bb_gradcheck(ctx, cube_sum, NULL, in, 2, NULL, NULL), BB_OK);
    /* One input alone. */
    bb_set_requires_grad(in[0], false);
    CHECK_INT(t, bb_gradcheck(ctx, cube_sum, NULL, in, 2, NULL, &report), BB_OK);
    CHECK_INT(t, report.checked, 2);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* wrong(x) = x^2 with a gradient that is off at one element. */
static double off_by;
static bb_status wrong_infer(bb_call *call) {
    call->meta[0] = (bb_meta){bb_dtype_of(call->in[0]), bb_shape_of(call->in[0])};
    return BB_OK;
}
static bb_status wrong_forward(bb_call *call) {
    const double *x = bb_data(call->in[0]);
    double *y = bb_data(call->out[0]);
    for (int64_t i = 0; i < bb_count(call->in[0]); i++) y[i] = x[i] * x[i];
    return BB_OK;
}
static bb_status wrong_gradient(const bb_grad_call *grad) {
    bb_tensor *g = bb_mul_scalar(bb_mul(grad->call->in[0], grad->grad_out[0]), 2);
    bb_tensor *fault =
        bb_from_f64(grad->call->ctx, BB_F64, BB_SHAPE(5), (double[]){0, 0, 0, off_by, 0});
    grad->grad_in[0] = bb_add(g, fault);
    return bb_error(grad->call->ctx);
}
static const bb_op wrong_op = {.name = "wrong",
                               .doc = "x^2",
                               .inputs = {"x"},
                               .outputs = {"y"},
                               .saves_inputs = 1,
                               .infer = wrong_infer,
                               .gradient = wrong_gradient};
static bb_tensor *call_wrong(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)n;
    return bb_add(bb_apply1(bb_context_of(in[0]), &wrong_op, &in[1], 1, NULL), in[0]);
}

static void test_catches(test *t) {
    bb_context *ctx = test_open_host();
    bb_register_op(ctx, &wrong_op);
    bb_register_kernel(ctx, BB_CPU, &(bb_kernel){"wrong", wrong_forward, NULL, NULL});
    bb_tensor *in[2] = {leaf(ctx, BB_SHAPE(5), (double[]){1, 1, 1, 1, 1}),
                        leaf(ctx, BB_SHAPE(5), (double[]){1, 2, 3, 4, 5})};
    bb_gradcheck_report report;
    off_by = 0.5;
    CHECK_INT(t, bb_gradcheck(ctx, call_wrong, NULL, in, 2, NULL, &report), BB_OK);
    CHECK(t, !report.passed && report.error > 1);
    CHECK_INT(t, report.input, 1);
    CHECK_INT(t, report.element, 3);
    CHECK_INT(t, report.checked, 10);
    CHECK_NEAR(t, report.analytic - report.numeric, 0.5, 1e-6);
    off_by = NAN;
    CHECK_INT(t, bb_gradcheck(ctx, call_wrong, NULL, in, 2, NULL, &report), BB_OK);
    CHECK(t, !report.passed);
    CHECK_INT(t, report.element, 3);
    off_by = 0;
    CHECK_INT(t, bb_gradcheck(ctx, call_wrong, NULL, in, 2, NULL, &report), BB_OK);
    CHECK(t, report.passed);
    bb_close(ctx);
}

/* A fault so small that only tight limits see it. */
static void test_options(test *t) {
    bb_context *ctx = test_open_host();
    bb_register_op(ctx, &wrong_op);
    bb_register_kernel(ctx, BB_CPU, &(bb_kernel){"wrong", wrong_forward, NULL, NULL});
    bb_tensor *in[2] = {leaf(ctx, BB_SHAPE(5), (double[]){1, 1, 1, 1, 1}),
                        leaf(ctx, BB_SHAPE(5), (double[]){1, 2, 3, 4, 5})};
    bb_gradcheck_report report, other;
    off_by = 1e-6;
    CHECK_INT(t, bb_gradcheck(ctx, call_wrong, NULL, in, 2, NULL, &report), BB_OK);
    CHECK(t, report.passed);
    bb_gradcheck_options tight = {.eps = 1e-4, .atol = 1e-7, .rtol = 1e-9, .seed = 1};
    CHECK_INT(t, bb_gradcheck(ctx, call_wrong, NULL, in, 2, &tight, &report), BB_OK);
    CHECK(t, !report.passed);
    tight.seed = 2; /* another cotangent */
    CHECK_INT(t, bb_gradcheck(ctx, call_wrong, NULL, in, 2, &tight, &other), BB_OK);
    CHECK(t, other.analytic != report.analytic);
    bb_close(ctx);
}

static bb_tensor *gives_null(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)in, (void)n;
    return NULL;
}
static bb_tensor *gives_f32(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)n;
    return bb_cast(in[0], BB_F32);
}
static bb_tensor *gives_constant(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)n;
    return bb_ones_like(bb_detach(in[0]));
}

static void test_refusals(test *t) {
    bb_context *ctx = test_open();
    bb_gradcheck_report report;
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){1, 2});
    CHECK_INT(t, bb_gradcheck(NULL, cubes, NULL, &x, 1, NULL, &report), BB_ERR_ARGUMENT);
    CHECK_INT(t, bb_gradcheck(ctx, NULL, NULL, &x, 1, NULL, &report), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_gradcheck: fn: expected a function, got NULL");
    CHECK_INT(t, bb_gradcheck(ctx, gives_null, NULL, &x, 1, NULL, &report), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "fn: expected a tensor, got NULL");
    CHECK_INT(t, bb_gradcheck(ctx, gives_f32, NULL, &x, 1, NULL, &report), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "fn: expected an f64 result, got f32");
    CHECK_INT(t, bb_gradcheck(ctx, gives_constant, NULL, &x, 1, NULL, &report), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected a result that depends on the inputs");
    bb_set_requires_grad(x, false);
    CHECK_INT(t, bb_gradcheck(ctx, cubes, NULL, &x, 1, NULL, &report), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected at least one that requires a gradient");
    bb_tensor *low = bb_set_requires_grad(bb_scalar(ctx, BB_F32, 1), true);
    CHECK_INT(t, bb_gradcheck(ctx, cubes, NULL, &low, 1, NULL, &report), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected f64 where a gradient is required, got f32");
    CHECK(t, bb_grad_enabled(ctx));
    bb_fail(ctx, BB_ERR_IO, "before");
    CHECK_INT(t, bb_gradcheck(ctx, cubes, NULL, &low, 1, NULL, &report), BB_ERR_IO);
    CHECK(t, !report.passed);
    bb_close(ctx);
}

/* A function whose first gradient is right and whose second is not. */
static bb_status flat_gradient(const bb_grad_call *grad) {
    grad->grad_in[0] = bb_mul_scalar(bb_mul(bb_detach(grad->call->in[0]), grad->grad_out[0]), 2);
    return bb_error(grad->call->ctx);
}
static const bb_op flat_op = {.name = "flat",
                              .doc = "x^2",
                              .inputs = {"x"},
                              .outputs = {"y"},
                              .saves_inputs = 1,
                              .infer = wrong_infer,
                              .gradient = flat_gradient};
static bb_tensor *call_flat(void *user, bb_tensor *const *in, int n) {
    (void)user;
    return bb_mul(bb_apply1(bb_context_of(in[0]), &flat_op, in, n, NULL), in[0]);
}

static void test_second(test *t) {
    bb_context *ctx = test_open_host();
    bb_register_op(ctx, &flat_op);
    bb_register_kernel(ctx, BB_CPU, &(bb_kernel){"flat", wrong_forward, NULL, NULL});
    bb_tensor *x = leaf(ctx, BB_SHAPE(3), (double[]){1, 2, 3});
    bb_gradcheck_report report;
    CHECK_INT(t, bb_gradcheck(ctx, call_flat, NULL, &x, 1, NULL, &report), BB_OK);
    CHECK(t, report.passed);
    CHECK_INT(t, bb_gradgradcheck(ctx, call_flat, NULL, &x, 1, NULL, &report), BB_OK);
    CHECK(t, !report.passed);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* The wrong second derivative among as many inputs as there may be, and one more. */
static bb_tensor *flat_in_the_last(void *user, bb_tensor *const *in, int n) {
    bb_tensor *y = call_flat(user, &in[n - 1], 1);
    for (int i = 0; i < n - 1; i++) y = bb_add(y, bb_square(in[i]));
    return y;
}

static void test_most_inputs(test *t) {
    enum { MOST = 32 };
    bb_context *ctx = test_open_host();
    bb_register_op(ctx, &flat_op);
    bb_register_kernel(ctx, BB_CPU, &(bb_kernel){"flat", wrong_forward, NULL, NULL});
    bb_tensor *in[MOST + 1];
    bb_gradcheck_report report;
    for (int i = 0; i <= MOST; i++) in[i] = leaf(ctx, BB_SHAPE(1), (double[]){i + 1});
    CHECK_INT(t, bb_gradcheck(ctx, flat_in_the_last, NULL, in, MOST, NULL, &report), BB_OK);
    CHECK(t, report.passed && report.checked == MOST);
    CHECK_INT(t, bb_gradgradcheck(ctx, flat_in_the_last, NULL, in, MOST, NULL, &report), BB_OK);
    CHECK(t, !report.passed && report.checked == MOST + 1);
    for (int n = 0; n <= MOST + 1; n += MOST + 1) {
        char message[80];
        report.passed = true;
        snprintf(message, sizeof message, "inputs: expected 1 to 32, got %d", n);
        CHECK_INT(t, bb_gradcheck(ctx, cubes, NULL, in, n, NULL, &report), BB_ERR_ARGUMENT);
        CHECK(t, !report.passed);
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, message);
        report.passed = true;
        CHECK_INT(t, bb_gradgradcheck(ctx, cubes, NULL, in, n, NULL, &report), BB_ERR_ARGUMENT);
        CHECK(t, !report.passed);
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, message);
    }
    bb_close(ctx);
}

/* Right twice, then it gives up: an error of the second order is no pass, and leaves nothing. */
typedef struct patience {
    int calls, at;
} patience;
static bb_tensor *gives_up(void *user, bb_tensor *const *in, int n) {
    patience *p = user;
    (void)n;
    bb_tensor *y = bb_mul(bb_square(in[0]), in[0]);
    return p->calls++ == p->at ? NULL : y;
}

static void test_gives_up(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){1, 2});
    bb_gradcheck_report report;
    patience p = {0, -1};
    int64_t live = bb_memory_stats(ctx).live_tensors;
    CHECK_INT(t, bb_gradgradcheck(ctx, gives_up, &p, &x, 1, NULL, &report), BB_OK);
    CHECK(t, report.passed);
    for (int calls = p.calls, at = 0; at < calls; at++) {
        p = (patience){0, at};
        report.passed = true;
        CHECK(t, bb_gradgradcheck(ctx, gives_up, &p, &x, 1, NULL, &report) != BB_OK);
        CHECK(t, !report.passed);
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_gradgradcheck: fn: expected");
        CHECK_INT(t, bb_memory_stats(ctx).live_tensors, live);
        CHECK(t, bb_grad_enabled(ctx) && bb_tape_length(ctx) == 0);
    }
    bb_close(ctx);
}

static const test_row rows[] = {
    {"passes", test_passes},     {"catches", test_catches},     {"options", test_options},
    {"refusals", test_refusals}, {"second order", test_second}, {"most inputs", test_most_inputs},
    {"gives up", test_gives_up},
};
TEST_MAIN(rows)
