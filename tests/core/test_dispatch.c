/* core/dispatch.c: which way a composite runs, what is recorded, what is traced. */
#include "core/impl.h"
#include "ops/table.h"
#include "tests/support/test.h"

/* half(x) = x / 2, a composite. Its kernels count their runs. */
static int forwards, backwards;
static bool supported;

static bb_status half_infer(bb_call *call) {
    call->meta[0] = (bb_meta){bb_dtype_of(call->in[0]), bb_shape_of(call->in[0])};
    return BB_OK;
}
static bb_status half_decompose(bb_call *call) {
    call->out[0] = bb_mul_scalar(call->in[0], 0.5);
    return bb_error(call->ctx);
}
static bb_status wrong_decompose(bb_call *call) {
    call->out[0] = bb_sum_all(call->in[0]);
    return bb_error(call->ctx);
}
static bb_status same_decompose(bb_call *call) {
    call->out[0] = call->in[0];
    return bb_error(call->ctx);
}
static bb_status longer_infer(bb_call *call) {
    call->meta[0] = (bb_meta){BB_F32, BB_SHAPE(7)};
    return BB_OK;
}
static bb_status unset_decompose(bb_call *call) { return bb_error(call->ctx); }
static bb_status half_forward(bb_call *call) {
    forwards++;
    float *y = bb_data(call->out[0]);
    bb_read(call->in[0], y, (size_t)bb_count(call->in[0]) * sizeof *y);
    for (int64_t i = 0; i < bb_count(call->out[0]); i++) y[i] *= 0.5f;
    return bb_error(call->ctx);
}
static bb_status half_backward(const bb_grad_call *grad) {
    backwards++;
    float *y = bb_data(grad->grad_in[0]);
    bb_read(grad->grad_out[0], y, (size_t)bb_count(grad->grad_in[0]) * sizeof *y);
    for (int64_t i = 0; i < bb_count(grad->grad_in[0]); i++) y[i] *= 0.5f;
    return bb_error(grad->call->ctx);
}
static bool half_supports(const bb_call *call) {
    (void)call;
    return supported;
}
static bb_status mute_forward(bb_call *call) {
    (void)call;
    return BB_ERR_UNSUPPORTED;
}

static const bb_op half_op = {
    .name = "half",
    .doc = "x / 2",
    .inputs = {"x"},
    .outputs = {"y"},
    .infer = half_infer,
    .decompose = half_decompose,
};

static bb_context *open_half(bb_kernel kernel) {
    bb_context *ctx = test_open();
    forwards = backwards = 0;
    supported = true;
    bb_register_op(ctx, &half_op);
    if (kernel.forward) bb_register_kernel(ctx, BB_CPU, &kernel);
    return ctx;
}

/* Runs half(4) and its backward; checks values, the kernel's runs, and what is on the tape. */
static void check_run(test *t, bb_context *ctx, bool with_grad, int forward_runs, int backward_runs,
                      const bb_op *on_tape) {
    forwards = backwards = 0;
    bb_tensor *x = bb_from_f64(ctx, BB_F32, BB_SHAPE(1), (double[]){4});
    if (with_grad) bb_set_requires_grad(x, true);
    bb_tensor *y = bb_apply1(ctx, &half_op, &x, 1, NULL);
    CHECK_NEAR(t, bb_item(y), 2, 0);
    CHECK_INT(t, forwards, forward_runs);
    CHECK_INT(t, bb_tape_length(ctx), on_tape ? 1 : 0);
    CHECK(t, bb_tape_op(ctx, 0) == on_tape);
    if (with_grad) {
        CHECK_INT(t, bb_backward(y, NULL), BB_OK);
        CHECK_NEAR(t, bb_item(bb_grad(x)), 0.5, 0);
    }
    CHECK_INT(t, backwards, backward_runs);
    CHECK_OK(t, ctx);
    bb_end_step(ctx);
}

static void test_choice(test *t) {
    bb_context *ctx = open_half((bb_kernel){"half", half_forward, half_backward, half_supports});
    check_run(t, ctx, false, 1, 0, NULL);
    check_run(t, ctx, true, 1, 1, &half_op);
    supported = false;
    check_run(t, ctx, false, 0, 0, NULL);
    check_run(t, ctx, true, 0, 0, &bb_op_mul_scalar);
    supported = true;
    bb_set_path(ctx, BB_PATH_COMPOSED);
    CHECK_INT(t, bb_get_path(ctx), BB_PATH_COMPOSED);
    check_run(t, ctx, true, 0, 0, &bb_op_mul_scalar);
    bb_set_path(ctx, BB_PATH_FUSED);
    check_run(t, ctx, true, 1, 1, &half_op);
    bb_close(ctx);
    ctx = open_half((bb_kernel){"half", half_forward, NULL, NULL});
    check_run(t, ctx, false, 1, 0, NULL);
    check_run(t, ctx, true, 0, 0, &bb_op_mul_scalar); /* a gradient is never lost silently */
    bb_close(ctx);
    ctx = open_half((bb_kernel){0});
    check_run(t, ctx, false, 0, 0, NULL);
    check_run(t, ctx, true, 0, 0, &bb_op_mul_scalar);
    bb_close(ctx);
}

static void test_forced_fused(test *t) {
    bb_context *ctx = open_half((bb_kernel){"half", half_forward, NULL, NULL});
    bb_set_path(ctx, BB_PATH_FUSED);
    check_run(t, ctx, false, 1, 0, NULL);
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(1), 1), true);
    CHECK(t, !bb_apply1(ctx, &half_op, &x, 1, NULL));
    CHECK_ERROR(
        t, ctx, BB_ERR_UNSUPPORTED,
        "half: path: fused was asked for, but cpu has no fused kernel for this call with gradient");
    bb_set_grad_enabled(ctx, false);
    CHECK_NEAR(t, bb_item(bb_apply1(ctx, &half_op, &x, 1, NULL)), 0.5, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_kernel_fails(test *t) {
    bb_context *ctx = open_half((bb_kernel){"half", mute_forward, NULL, NULL});
    bb_tensor *x = bb_scalar(ctx, BB_F32, 1);
    int64_t live = bb_memory_stats(ctx).live_tensors;
    CHECK(t, !bb_apply1(ctx, &half_op, &x, 1, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, "half: failed without a message");
    CHECK_INT(t, bb_memory_stats(ctx).live_tensors, live);
    bb_close(ctx);
}

static void test_bad_decomposition(test *t) {
    bb_op wrong = half_op, unset = half_op;
    wrong.name = "wrong";
    wrong.decompose = wrong_decompose;
    unset.name = "unset";
    unset.decompose = unset_decompose;
    bb_context *ctx = test_open();
    bb_register_op(ctx, &wrong);
    bb_register_op(ctx, &unset);
    bb_tensor *x = bb_full(ctx, BB_F32, BB_SHAPE(2), 1);
    CHECK(t, !bb_apply1(ctx, &wrong, &x, 1, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "wrong: decomposition gave f32(), expected f32(2,)");
    CHECK(t, !bb_apply1(ctx, &unset, &x, 1, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "unset: decomposition left y unset");
    bb_close(ctx);
}

/* A decomposition may give its input; where that is wrong, the caller keeps it all the same. */
static void test_input_as_output(test *t) {
    bb_op same = half_op, longer = half_op;
    same.name = "same";
    same.decompose = longer.decompose = same_decompose;
    longer.name = "longer";
    longer.infer = longer_infer;
    bb_context *ctx = test_open();
    bb_register_op(ctx, &same);
    bb_register_op(ctx, &longer);
    bb_tensor *x = bb_full(ctx, BB_F32, BB_SHAPE(1), 3);
    CHECK(t, bb_apply1(ctx, &same, &x, 1, NULL) == x);
    CHECK(t, !bb_apply1(ctx, &longer, &x, 1, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "longer: decomposition gave f32(1,), expected f32(7,)");
    CHECK_NEAR(t, bb_item(x), 3, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* A dead input is named like any other wrong one. */
static void test_lost_inputs(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *dead = bb_scalar(ctx, BB_F32, 1);
    bb_end_step(ctx);
    bb_tensor *x = bb_scalar(ctx, BB_F32, 1), *kept = bb_keep(x);
    CHECK(t, !bb_mul(x, dead));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "mul: other: tensor made in step 1, which has ended");
    bb_tensor *list[2] = {x, dead};
    CHECK(t, !bb_stack(list, 2, 0));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "[1]: tensor made in step 1, which has ended");
    bb_drop(kept);
    CHECK(t, !bb_mul(kept, x));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "mul: input: kept tensor has been dropped (bb_drop)");
    bb_close(ctx);
}

/* Puts `wrong` into every attribute of a type, `offset` bytes from its begin: each op refuses it
 * and says what it expected (one of its choices) and `rest`. Gives how many attributes there were.
 */
static int refuse(test *t, bb_attr_type type, size_t offset, int wrong, const char *rest) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(4));
    int refused = 0;
    for (int i = 0; i < bb_op_count(ctx); i++) {
        const bb_op *op = bb_op_at(ctx, i);
        bb_tensor *in[BB_MAX_INPUTS] = {x, x, x, x, x, x, x, x}, *out[BB_MAX_OUTPUTS];
        for (const bb_attr *a = op->attrs; a->name; a++) {
            double attrs[128];
            char message[256];
            const bool choice = type == BB_ATTR_CHOICE;
            if (a->type != type) continue;
            bb_op_default_attrs(op, attrs);
            memcpy((char *)attrs + a->offset + offset, &wrong, sizeof wrong);
            snprintf(message, sizeof message, "%s: %s: expected %s%s%s", op->name, a->name,
                     choice ? "one of " : "", choice ? a->choices : "", rest);
            CHECK_MSG(t, bb_apply(ctx, op, in, bb_op_input_count(op), attrs, out) != BB_OK,
                      "%s: %s", op->name, a->name);
            CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, message);
            refused++;
        }
    }
    bb_close(ctx);
    return refused;
}

/* Attributes that choose are checked for all ops alike, before their rules and kernels see them. */
static void test_choices(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(4));
    CHECK(t, !bb_gelu(x, (bb_gelu_form)99));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "gelu: approximate: expected one of none|tanh, got number 99");
    bb_close(ctx);
    CHECK(t, refuse(t, BB_ATTR_CHOICE, 0, 99, ", got number 99") > 10);
}

/* So are lists, whose length a caller may have got from anywhere. */
static void test_lists(test *t) {
    CHECK(t, refuse(t, BB_ATTR_INTS, offsetof(bb_ints, n), -1, "a list of 0 or more, got -1") > 8);
}

static void test_trace(test *t) {
    bb_context *ctx = open_half((bb_kernel){"half", half_forward, NULL, NULL});
    char text[512] = "";
    FILE *file = tmpfile();
    CHECK(t, file != NULL);
    if (!file) return;
    bb_tensor *x = bb_full(ctx, BB_F32, BB_SHAPE(2, 3), 1),
              *b = bb_full(ctx, BB_F64, BB_SHAPE(3), 1);
    bb_set_trace(ctx, file);
    bb_apply1(ctx, &half_op, &x, 1, NULL);
    bb_set_path(ctx, BB_PATH_COMPOSED);
    bb_apply1(ctx, &half_op, &x, 1, NULL);
    bb_reshape(x, BB_SHAPE(6));
    bb_add(x, b);
    bb_set_trace(ctx, NULL);
    bb_add(x, b);
    rewind(file);
    size_t n = fread(text, 1, sizeof text - 1, file);
    text[n] = 0;
    fclose(file);
    CHECK_TEXT(t, text,
               "half cpu fused f32(2, 3) -> f32(2, 3)\n"
               "half cpu composed f32(2, 3) -> f32(2, 3)\n"
               "  mul_scalar cpu primitive f32(2, 3) -> f32(2, 3)\n"
               "reshape cpu view f32(2, 3) -> f32(6,)\n"
               "cast cpu primitive f32(2, 3) -> f64(2, 3)\n"
               "add cpu primitive f64(2, 3) f64(3,) -> f64(2, 3)\n");
    bb_close(ctx);
}

static const test_row rows[] = {
    {"choice", test_choice},
    {"forced fused", test_forced_fused},
    {"a kernel fails", test_kernel_fails},
    {"bad decomposition", test_bad_decomposition},
    {"input as output", test_input_as_output},
    {"lost inputs", test_lost_inputs},
    {"choices", test_choices},
    {"lists", test_lists},
    {"trace", test_trace},
};
TEST_MAIN(rows)
