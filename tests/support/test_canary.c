/* The canary: an op with a planted fault must be caught by the mode of the checker that is meant to
 * catch it, and the same op without a fault must pass every mode.
 *
 * canary(x, w) = x^2 w, once as a composite with fused kernels and once as a primitive. */
#include "autograd/autograd.h"
#include "core/impl.h"
#include "ops/ops.h"
#include "tests/support/checker.h"

typedef enum fault {
    NO_FAULT = 0,
    FORWARD_OFF,     /* one part in twenty, at one element in four */
    FORWARD_OFF_F16, /* the same, in f16 only */
    FORWARD_STRIDES, /* wrong for inputs with strides */
    DECOMPOSITION_OFF,
    GRADIENT_SIGN,
    GRADIENT_UNWRITTEN, /* one element of the gradient is left as it was */
    GRADIENT_OFF_F16,
    GRADIENT_ALONE, /* wrong when w alone wants one */
    GRADIENT_FLAT,  /* right, but its own derivative is not */
    SAVED_INPUT,    /* backward reads an input that the record does not name */
    SAVED_OUTPUT,
    MEMORY_IGNORED, /* a failed allocation passes for success */
    MEMORY_LEAKED   /* what was allocated before it stays behind */
} fault;

static fault planted; /* tests run one after the other */

static bb_tensor *formula(bb_tensor *x, bb_tensor *w) { return bb_mul(bb_mul(x, x), w); }

/* t with every fourth element off by a twentieth. */
static bb_tensor *off(bb_tensor *t) {
    int64_t n = bb_count(t);
    double *value = malloc((size_t)(n + 1) * sizeof *value);
    if (!value || bb_read_f64(t, value, n)) {
        free(value);
        return NULL;
    }
    for (int64_t i = 0; i < n; i += 4) value[i] *= 1.05;
    bb_tensor *result = bb_from_f64(bb_context_of(t), bb_dtype_of(t), bb_shape_of(t), value);
    free(value);
    return result;
}

static bb_status infer(bb_call *call) {
    call->meta[0] = (bb_meta){bb_dtype_of(call->in[0]), bb_shape_of(call->in[0])};
    return BB_OK;
}

static bb_status decompose(bb_call *call) {
    call->out[0] = formula(call->in[0], call->in[1]);
    if (planted == DECOMPOSITION_OFF) call->out[0] = bb_mul_scalar(call->out[0], 1.05);
    return bb_error(call->ctx);
}

static bb_status finish(bb_tensor *result, bb_tensor *out) {
    return result ? bb_copy_into(result, out) : bb_error(bb_context_of(out));
}

/* Two blocks of scratch memory, as kernels take them. */
static bb_status take_scratch(bb_context *ctx) {
    enum { BYTES = 4096 };
    void *one = bb_host_allocate(ctx, BYTES), *two = one ? bb_host_allocate(ctx, BYTES) : NULL;
    bb_status status = bb_error(ctx);
    if (two || planted != MEMORY_LEAKED) bb_host_release(ctx, one, BYTES);
    bb_host_release(ctx, two, BYTES);
    return status;
}

static bb_status forward(bb_call *call) {
    bb_context *ctx = call->ctx;
    if (take_scratch(ctx)) {
        if (planted != MEMORY_IGNORED) return bb_error(ctx);
        bb_clear_error(ctx);
        return BB_OK;
    }
    bool grad = bb_set_grad_enabled(ctx, false);
    bb_tensor *y = formula(call->in[0], call->in[1]);
    bool f16 = bb_dtype_of(y) == BB_F16, strides = !bb_is_contiguous(call->in[0]);
    if (planted == FORWARD_OFF || (planted == FORWARD_OFF_F16 && f16) ||
        (planted == FORWARD_STRIDES && strides))
        y = off(y);
    bb_set_grad_enabled(ctx, grad);
    return finish(y, call->out[0]);
}

/* dx = 2 x w g, dw = x^2 g; or with the output y = x^2 w: dw = y g / w. */
static bb_tensor *gradient_x(bb_tensor *x, bb_tensor *w, bb_tensor *g) {
    bb_tensor *dx = bb_mul_scalar(bb_mul(bb_mul(x, w), g), 2);
    return planted == GRADIENT_SIGN ? bb_neg(dx) : dx;
}

static bb_status backward(const bb_grad_call *grad) {
    bb_context *ctx = grad->call->ctx;
    bool enabled = bb_set_grad_enabled(ctx, false);
    bb_tensor *x = grad->call->in[0], *w = grad->call->in[1], *g = grad->grad_out[0];
    bool f16 = bb_dtype_of(x) == BB_F16;
    if (grad->grad_in[0]) {
        bb_tensor *dx = gradient_x(x, w, g);
        if (planted == GRADIENT_OFF_F16 && f16) dx = off(dx);
        if (planted != GRADIENT_UNWRITTEN) finish(dx, grad->grad_in[0]);
    }
    if (grad->grad_in[1]) {
        bb_tensor *dw = bb_mul(bb_mul(x, x), g);
        if (planted == GRADIENT_ALONE && !grad->grad_in[0]) dw = off(dw);
        finish(dw, grad->grad_in[1]);
    }
    bb_set_grad_enabled(ctx, enabled);
    return bb_error(ctx);
}

static bb_status gradient(const bb_grad_call *grad) {
    bb_tensor *x = grad->call->in[0], *w = grad->call->in[1], *y = grad->call->out[0],
              *g = grad->grad_out[0];
    if (planted == GRADIENT_FLAT) x = bb_detach(x);
    if (grad->want[0]) grad->grad_in[0] = gradient_x(x, w, g);
    if (grad->want[1]) grad->grad_in[1] = bb_div(bb_mul(y, g), w);
    return bb_error(grad->call->ctx);
}

static const bb_op composite_op = {
    .name = "canary",
    .doc = "x^2 w",
    .inputs = {"x", "w"},
    .outputs = {"y"},
    .saves_inputs = 3,
    .infer = infer,
    .decompose = decompose,
};
static const bb_op primitive_op = {
    .name = "canary_primitive",
    .doc = "x^2 w",
    .inputs = {"x", "w"},
    .outputs = {"y"},
    .saves_inputs = 3,
    .saves_outputs = 1,
    .infer = infer,
    .gradient = gradient,
};
static bb_op forgets_input, forgets_output; /* filled in prepare */

static void prepare(bb_context *ctx) {
    forgets_input = forgets_output = primitive_op;
    forgets_input.saves_inputs = 1;
    forgets_output.saves_outputs = 0;
    bb_register_op(ctx, &composite_op);
    bb_register_op(ctx, planted == SAVED_INPUT    ? &forgets_input
                        : planted == SAVED_OUTPUT ? &forgets_output
                                                  : &primitive_op);
    bb_register_kernel(ctx, BB_CPU, &(bb_kernel){"canary", forward, backward, NULL});
    bb_register_kernel(ctx, BB_CPU, &(bb_kernel){"canary_primitive", forward, NULL, NULL});
}

static void reference(const op_case *c, const double *const *in, const bb_shape *shape,
                      double *out) {
    int64_t n = 0;
    (void)c;
    bb_shape_count(shape, &n);
    for (int64_t i = 0; i < n; i++) out[i] = in[0][i] * in[0][i] * in[1][i];
}

/* The second case has too many elements for a check of each. */
static const op_case cases[] = {
    {.name = "small",
     .in = {{.fill = FILL_POSITIVE, .shape = {2, {3, 5}}},
            {.fill = FILL_POSITIVE, .shape = {2, {3, 5}}}},
     .n_in = 2},
    {.name = "large",
     .in = {{.fill = FILL_APART, .shape = {2, {20, 19}}},
            {.fill = FILL_APART, .shape = {2, {20, 19}}}},
     .n_in = 2},
};

static void print_problem(void *user, const char *problem) {
    (void)user;
    fprintf(stderr, "canary without a fault: %s\n", problem);
}

static void run(test *t, const char *op, fault f, check_mode mode) {
    planted = f;
    for (int i = 0; i < 2; i++) {
        check_plan plan = {
            .op = op, .cases = &cases[i], .count = 1, .reference = reference, .prepare = prepare};
        check_result result;
        if (f == NO_FAULT) plan.tell = print_problem;
        int problems = count_op_problems(&plan, &result);
        if (f == NO_FAULT) {
            CHECK_INT(t, problems, 0);
            CHECK(t, result.checks > 30);
        } else {
            CHECK_MSG(t, result.problems[mode] > 0, "%s, fault %d: mode \"%s\" did not catch it",
                      op, f, check_mode_names[mode]);
        }
    }
    planted = NO_FAULT;
}

static void test_no_fault(test *t) {
    run(t, "canary", NO_FAULT, CHECK_FORWARD);
    run(t, "canary_primitive", NO_FAULT, CHECK_FORWARD);
}
static void test_forward(test *t) {
    run(t, "canary", FORWARD_OFF, CHECK_FORWARD);
    run(t, "canary_primitive", FORWARD_OFF, CHECK_FORWARD);
    run(t, "canary", DECOMPOSITION_OFF, CHECK_FORWARD);
}
static void test_dtypes(test *t) { run(t, "canary", FORWARD_OFF_F16, CHECK_FORWARD); }
static void test_layouts(test *t) { run(t, "canary", FORWARD_STRIDES, CHECK_FORWARD); }
static void test_paths(test *t) {
    run(t, "canary", FORWARD_OFF, CHECK_PATHS);
    run(t, "canary", DECOMPOSITION_OFF, CHECK_PATHS);
    run(t, "canary", GRADIENT_SIGN, CHECK_PATHS);
}
static void test_gradcheck(test *t) {
    run(t, "canary", GRADIENT_SIGN, CHECK_GRADIENT);
    run(t, "canary_primitive", GRADIENT_SIGN, CHECK_GRADIENT);
    run(t, "canary", GRADIENT_UNWRITTEN, CHECK_GRADIENT);
}
static void test_second(test *t) { run(t, "canary_primitive", GRADIENT_FLAT, CHECK_SECOND); }
static void test_combinations(test *t) { run(t, "canary", GRADIENT_ALONE, CHECK_COMBINATIONS); }
static void test_saved(test *t) {
    run(t, "canary_primitive", SAVED_INPUT, CHECK_SAVED);
    run(t, "canary_primitive", SAVED_OUTPUT, CHECK_SAVED);
}
static void test_low_gradient(test *t) { run(t, "canary", GRADIENT_OFF_F16, CHECK_LOW_GRADIENT); }

static void test_memory(test *t) {
    run(t, "canary", MEMORY_IGNORED, CHECK_MEMORY);
    run(t, "canary", MEMORY_LEAKED, CHECK_MEMORY);
    run(t, "canary_primitive", MEMORY_LEAKED, CHECK_MEMORY);
}

static void test_runner_needs_checks(test *t) {
    test inner = {.name = "inner"};
    CHECK(t, !test_check(&(test){.name = "quiet", .failures = 1000}, false, "", 0, "not printed"));
    test_check(&inner, true, "", 0, "fine");
    CHECK_INT(t, inner.checks, 1);
    CHECK_INT(t, inner.failures, 0);
}

static const test_row rows[] = {
    {"a sound op has no problems", test_no_fault},
    {"forward", test_forward},
    {"dtypes", test_dtypes},
    {"layouts", test_layouts},
    {"fused against composed", test_paths},
    {"gradcheck", test_gradcheck},
    {"gradgradcheck", test_second},
    {"combinations", test_combinations},
    {"saved tensors", test_saved},
    {"low-precision gradients", test_low_gradient},
    {"memory runs out", test_memory},
    {"the runner counts", test_runner_needs_checks},
};
TEST_MAIN(rows)
