/* autograd/gather.c: whose memory gradients are written to. Nobody else's, whatever a rule gives: a
 * tensor that it has read, one tensor for two inputs, another dtype, nothing. */
#include "core/impl.h"
#include "tests/support/test.h"

static bb_tensor *leaf(bb_context *ctx, bb_shape shape, const double *values) {
    return bb_set_requires_grad(bb_from_f64(ctx, BB_F64, shape, values), true);
}

static void check_values(test *t, bb_tensor *x, int n, const double *expected) {
    double got[8] = {0};
    CHECK(t, x != NULL && bb_read_f64(x, got, n) == BB_OK);
    for (int i = 0; x && i < n; i++) CHECK_NEAR(t, got[i], expected[i], 1e-12);
}

/* ---- What a rule gives ----------------------------------------------------------------------- */

/* An op of two factors whose rule gives what the test asks for. */
typedef enum rule { THE_OTHER_FACTOR, ONE_FOR_BOTH, ONLY_THE_SECOND, IN_F32, FAILS } rule;
static rule given;

static bb_status factors_infer(bb_call *call) {
    call->meta[0] = (bb_meta){bb_dtype_of(call->in[0]), bb_shape_of(call->in[0])};
    return BB_OK;
}
static bb_status factors_kernel(bb_call *call) {
    const double *a = bb_data(call->in[0]), *b = bb_data(call->in[1]);
    double *y = bb_data(call->out[0]);
    for (int64_t i = 0; i < bb_count(call->out[0]); i++) y[i] = a[i] * b[i];
    return BB_OK;
}
static bb_status factors_gradient(const bb_grad_call *grad) {
    bb_tensor *dy = grad->grad_out[0], *triple = bb_mul_scalar(dy, 3);
    for (int i = 0; i < 2; i++) {
        if (given == THE_OTHER_FACTOR) grad->grad_in[i] = grad->call->in[1 - i];
        if (given == ONE_FOR_BOTH || (given == ONLY_THE_SECOND && i == 1))
            grad->grad_in[i] = triple;
        if (given == IN_F32) grad->grad_in[i] = bb_cast(triple, BB_F32);
    }
    return given == FAILS ? BB_ERR_UNSUPPORTED : bb_error(grad->call->ctx);
}
static const bb_op factors = {.name = "factors",
                              .inputs = {"a", "b"},
                              .outputs = {"y"},
                              .saves_inputs = 3u,
                              .infer = factors_infer,
                              .gradient = factors_gradient};

/* Three uses, so that gradients are gathered; `wanted`: bit i for factor i. */
static void check_rule(test *t, rule what, unsigned wanted, const double *dx, const double *dw) {
    bb_context *ctx = test_open_host();
    bb_kernel kernel = {.op = "factors", .forward = factors_kernel};
    CHECK_INT(t, bb_register_op(ctx, &factors), BB_OK);
    CHECK_INT(t, bb_register_kernel(ctx, BB_CPU, &kernel), BB_OK);
    given = what;
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){2, -3}),
              *w = leaf(ctx, BB_SHAPE(2), (double[]){5, 7});
    bb_tensor *in[] = {bb_mul_scalar(x, 1), bb_mul_scalar(w, 1)}, *y = NULL;
    for (int i = 0; i < 2; i++)
        if (!(wanted >> i & 1)) in[i] = bb_detach(in[i]);
    for (int times = 0; times < 3; times++) {
        bb_tensor *one = bb_apply1(ctx, &factors, in, 2, NULL);
        y = y ? bb_add(y, one) : one;
    }
    CHECK_INT(t, bb_backward(y, bb_ones_like(y)), BB_OK);
    CHECK(t, !bb_grad(x) == !dx && !bb_grad(w) == !dw && !bb_grad(in[0]) && !bb_grad(in[1]));
    if (dx) check_values(t, bb_grad(x), 2, dx);
    if (dw) check_values(t, bb_grad(w), 2, dw);
    if (dx) CHECK_INT(t, bb_dtype_of(bb_grad(x)), BB_F64);
    check_values(t, in[0], 2, (double[]){2, -3});
    check_values(t, in[1], 2, (double[]){5, 7});
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_what_a_rule_gives(test *t) {
    const double nine[] = {9, 9}, other_x[] = {15, 21}, other_w[] = {6, -9};
    check_rule(t, THE_OTHER_FACTOR, 3, other_x, other_w);
    check_rule(t, THE_OTHER_FACTOR, 1, other_x, NULL);
    check_rule(t, THE_OTHER_FACTOR, 2, NULL, other_w);
    check_rule(t, ONE_FOR_BOTH, 3, nine, nine);
    check_rule(t, ONLY_THE_SECOND, 3, NULL, nine);
    check_rule(t, IN_F32, 3, nine, nine);
}

/* More inputs than most ops have, of which the rule gives the first one's gradient alone. */
static bb_status first_kernel(bb_call *call) { return bb_copy_into(call->in[0], call->out[0]); }
static bb_status first_gradient(const bb_grad_call *grad) {
    grad->grad_in[0] = bb_mul_scalar(grad->grad_out[0], 3);
    return bb_error(grad->call->ctx);
}
static const bb_op first = {.name = "first",
                            .inputs = {"x"},
                            .outputs = {"y"},
                            .variadic = true,
                            .infer = factors_infer,
                            .gradient = first_gradient};

static void test_gradients_that_a_rule_leaves_out(test *t) {
    enum { MANY = 3 * BB_MAX_INPUTS };
    bb_context *ctx = test_open_host();
    bb_kernel kernel = {.op = "first", .forward = first_kernel};
    CHECK_INT(t, bb_register_op(ctx, &first), BB_OK);
    CHECK_INT(t, bb_register_kernel(ctx, BB_CPU, &kernel), BB_OK);
    for (int step = 0; step < 2; step++) { /* the second one in memory that the first one used */
        bb_tensor *x[MANY];
        for (int i = 0; i < MANY; i++) x[i] = leaf(ctx, BB_SHAPE(2), (double[]){i, 1});
        bb_tensor *y = step ? bb_apply1(ctx, &first, x, MANY, NULL) : bb_cat(x, MANY, 0);
        CHECK_INT(t, bb_backward(y, bb_ones_like(y)), BB_OK);
        for (int i = 0; i < MANY; i++) CHECK(t, (bb_grad(x[i]) != NULL) == (!step || i == 0));
        if (step) check_values(t, bb_grad(x[0]), 2, (double[]){3, 3});
        CHECK_OK(t, ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

/* ---- Memory of the input --------------------------------------------------------------------- */

static bool over;  /* whether the last backward was given the memory of its input */
static bool fails; /* whether the next one shall */

static bb_status double_infer(bb_call *call) {
    call->meta[0] = (bb_meta){bb_dtype_of(call->in[0]), bb_shape_of(call->in[0])};
    return BB_OK;
}
static bb_status double_decompose(bb_call *call) {
    call->out[0] = bb_mul_scalar(call->in[0], 2);
    return bb_error(call->ctx);
}
static bb_status double_forward(bb_call *call) {
    const double *x = bb_data(call->in[0]);
    double *y = bb_data(call->out[0]);
    for (int64_t i = 0; i < bb_count(call->out[0]); i++) y[i] = 2 * x[i];
    return BB_OK;
}
static bb_status double_backward(const bb_grad_call *grad) {
    const double *dy = bb_data(grad->grad_out[0]);
    double *dx = bb_data(grad->grad_in[0]);
    if (fails) return BB_ERR_UNSUPPORTED;
    over = dx == bb_data(grad->call->in[0]);
    for (int64_t i = 0; i < bb_count(grad->grad_in[0]); i++) dx[i] = 2 * dy[i];
    return BB_OK;
}
#define DOUBLE(label, bits)                                                                        \
    {                                                                                              \
        .name = label, .inputs = {"x"}, .outputs = {"y"}, .saves_inputs = 1u, .overwrites = bits,  \
        .infer = double_infer, .decompose = double_decompose                                       \
    }
static const bb_op double_over = DOUBLE("double_over", 1u),
                   double_beside = DOUBLE("double_beside", 0);

/* Only where the op says so, and nobody else holds the input, and no other walk comes. */
static void test_over_the_input(test *t) {
    static const struct {
        const bb_op *op;
        bool held, retain, turned, expected;
    } cases[] = {
        {&double_over, false, false, false, true}, {&double_beside, false, false, false, false},
        {&double_over, true, false, false, false}, {&double_over, false, true, false, false},
        {&double_over, false, false, true, false},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        bb_context *ctx = test_open_host();
        bb_kernel kernel = {
            .op = cases[i].op->name, .forward = double_forward, .backward = double_backward};
        CHECK_INT(t, bb_register_op(ctx, cases[i].op), BB_OK);
        CHECK_INT(t, bb_register_kernel(ctx, BB_CPU, &kernel), BB_OK);
        bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F64, BB_SHAPE(2, 2), 3), true);
        bb_tensor *made = bb_mul_scalar(x, 5), *in = made;
        if (cases[i].turned) in = bb_transpose(made, 0, 1);
        bb_tensor *y = bb_apply1(ctx, cases[i].op, &in, 1, NULL), *seed = bb_ones_like(y);
        if (!cases[i].held) {
            if (in != made) bb_drop(in);
            bb_drop(made);
        }
        over = !cases[i].expected;
        CHECK_INT(t, cases[i].retain ? bb_backward_retain(y, seed) : bb_backward(y, seed), BB_OK);
        CHECK_MSG(t, over == cases[i].expected, "case %d: over its input: %d", i, over);
        check_values(t, bb_grad(x), 4, (double[]){10, 10, 10, 10});
        if (cases[i].held) check_values(t, made, 4, (double[]){15, 15, 15, 15});
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

/* Who fails without a message, rule or kernel, is named all the same. */
static void test_silent_failures(test *t) {
    bb_context *ctx = test_open_host();
    bb_kernel kernels[] = {
        {.op = "factors", .forward = factors_kernel},
        {.op = "double_over", .forward = double_forward, .backward = double_backward}};
    CHECK_INT(t, bb_register_op(ctx, &factors), BB_OK);
    CHECK_INT(t, bb_register_op(ctx, &double_over), BB_OK);
    for (int i = 0; i < 2; i++) CHECK_INT(t, bb_register_kernel(ctx, BB_CPU, &kernels[i]), BB_OK);
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){2, -3});
    bb_tensor *in[] = {x, x}, *y = bb_apply1(ctx, &factors, in, 2, NULL);
    given = FAILS;
    CHECK_INT(t, bb_backward(y, bb_ones_like(y)), BB_ERR_UNSUPPORTED);
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, "factors: backward failed");
    y = bb_apply1(ctx, &double_over, in, 1, NULL);
    fails = true;
    CHECK_INT(t, bb_backward(y, bb_ones_like(y)), BB_ERR_UNSUPPORTED);
    fails = false;
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, "double_over: backward failed");
    CHECK(t, !bb_grad(x));
    bb_close(ctx);
}

/* A kernel writes straight into a leaf's empty gradient, but not for a walk that gathers for its
 * caller alone. */
static void test_empty_gradient_of_a_leaf(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){3, 4}),
              *w = leaf(ctx, BB_SHAPE(2), (double[]){1, 2}), *g;
    double once[2];
    bb_backward(bb_sum_all(bb_rms_norm(x, w, 0)), NULL);
    bb_read_f64(bb_grad(w), once, 2);
    bb_zero_grad(w);
    CHECK_INT(t, bb_gradients(bb_sum_all(bb_rms_norm(x, w, 0)), NULL, &x, 1, false, &g), BB_OK);
    CHECK(t, g != NULL && bb_grad(w) == NULL);
    bb_backward(bb_sum_all(bb_rms_norm(x, w, 0)), NULL);
    check_values(t, bb_grad(w), 2, once);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* ---- How much of it -------------------------------------------------------------------------- */

/* A walk's own tensors are dropped as it goes: memory in use does not grow with the depth of what
 * is behind. */
static void test_memory(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(10000), 0.5), true), *y = x;
    for (int i = 0; i < 50; i++) y = bb_mul_scalar(y, 0.9); /* saves nothing */
    size_t before = bb_memory_stats(ctx).bytes_in_use;
    CHECK_INT(t, bb_backward(bb_sum_all(y), NULL), BB_OK);
    CHECK(t, bb_memory_stats(ctx).bytes_in_use <= before + 3 * 45056);
    bb_close(ctx);
}

/* A gradient that comes from several places is gathered in one buffer: no addition makes a new one.
 */
static void test_gathers_in_place(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(4), (double[]){1, 2, 3, 4}), *h = bb_square(x), *part[6];
    for (int i = 0; i < 6; i++) part[i] = bb_mul_scalar(h, i + 1);
    bb_tensor *loss = bb_sum_all(bb_cat(part, 6, 0));
    FILE *trace = tmpfile();
    char line[256];
    bool added = false, traced = false;
    bb_set_trace(ctx, trace);
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    bb_set_trace(ctx, NULL);
    rewind(trace);
    while (fgets(line, sizeof line, trace)) {
        traced |= strstr(line, "mul_scalar") != NULL;
        added |= strstr(line, "add") != NULL;
    }
    fclose(trace);
    CHECK(t, traced && !added);
    check_values(t, bb_grad(x), 4, (double[]){42, 84, 126, 168});
    bb_close(ctx);
}

/* The first gradient of h is shared with the other summand, the second one is new: that is where
 * they are added. */
static void test_gathers_in_the_new_one(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(4), (double[]){1, 2, 3, 4}), *h = bb_square(x);
    bb_tensor *y = bb_add(bb_mul_scalar(h, 3), h), *seed = bb_ones_like(y);
    FILE *trace = tmpfile();
    char line[256];
    int lines = 0;
    bb_set_trace(ctx, trace);
    CHECK_INT(t, bb_backward(y, seed), BB_OK);
    bb_set_trace(ctx, NULL);
    rewind(trace);
    for (; fgets(line, sizeof line, trace); lines++) CHECK(t, !strstr(line, "add"));
    fclose(trace);
    CHECK(t, lines > 0);
    check_values(t, bb_grad(x), 4, (double[]){8, 16, 24, 32});
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* What a walk with a graph of its own leaves behind ends with the scope around it. */
static void test_scope_around_a_walk(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){1, 2}), *g = NULL;
    int64_t live = bb_memory_stats(ctx).live_tensors;
    bb_scope scope = bb_scope_begin(ctx);
    bb_tensor *h = bb_square(x), *y = bb_mul(bb_exp(h), h);
    CHECK_INT(t, bb_gradients(bb_sum_all(y), NULL, &x, 1, true, &g), BB_OK);
    g = bb_scope_end(ctx, scope, g);
    CHECK_INT(t, bb_memory_stats(ctx).live_tensors, live + 1);
    check_values(t, g, 2, (double[]){4 * exp(1), 20 * exp(4)});
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* What a rule makes on the way goes with its node: a long chain needs no more than a short one. */
static void temporaries_end(test *t) {
    enum { N = 1 << 16, LENGTH = 16 };
    bb_context *ctx = test_open_host();
    bb_tensor *x = bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(N)), true), *y = x;
    for (int i = 0; i < LENGTH; i++) y = bb_sigmoid(y);
    size_t before = bb_memory_stats(ctx).bytes_held;
    CHECK_INT(t, bb_backward(bb_sum_all(y), NULL), BB_OK);
    size_t more = bb_memory_stats(ctx).bytes_peak - before;
    CHECK_MSG(t, more < 8 * N * sizeof(float), "%zu bytes, a tensor has %zu", more,
              N * sizeof(float));
    bb_close(ctx);
}

static const test_row rows[] = {
    {"temporaries_end", temporaries_end},
    {"what a rule gives", test_what_a_rule_gives},
    {"gradients that a rule leaves out", test_gradients_that_a_rule_leaves_out},
    {"over the input", test_over_the_input},
    {"silent failures", test_silent_failures},
    {"empty gradient of a leaf", test_empty_gradient_of_a_leaf},
    {"memory", test_memory},
    {"gathers in place", test_gathers_in_place},
    {"gathers in the new one", test_gathers_in_the_new_one},
    {"scope around a walk", test_scope_around_a_walk},
};
TEST_MAIN(rows)
