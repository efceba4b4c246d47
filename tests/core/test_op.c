/* core/op.c: the registry, and an op of the user's own. */
#include <stddef.h>

#include "core/impl.h"
#include "tests/support/test.h"

typedef struct scale_attrs {
    double factor;
    int64_t times;
    bool flip;
    bb_ints axes;
    int mode;
} scale_attrs;

static bb_status scale_infer(bb_call *call) {
    const scale_attrs *a = call->attrs;
    if (a->times < 0)
        return bb_fail_attr(call, "times", "expected >= 0, got %lld", (long long)a->times);
    if (bb_dtype_of(call->in[0]) != BB_F32)
        return bb_fail_input(call, 0, "expected f32, got %s",
                             bb_dtype_name(bb_dtype_of(call->in[0])));
    call->meta[0] = (bb_meta){BB_F32, bb_shape_of(call->in[0])};
    return BB_OK;
}

static bb_status scale_forward(bb_call *call) {
    const scale_attrs *a = call->attrs;
    float *y = bb_data(call->out[0]);
    bb_status status = bb_read(call->in[0], y, (size_t)bb_count(call->in[0]) * sizeof *y);
    for (int64_t i = 0; status == BB_OK && i < bb_count(call->out[0]); i++)
        y[i] *= (float)a->factor;
    return status;
}

static bb_status scale_gradient(const bb_grad_call *grad) {
    const scale_attrs *a = grad->call->attrs;
    if (grad->want[0]) grad->grad_in[0] = bb_mul_scalar(grad->grad_out[0], a->factor);
    return bb_error(grad->call->ctx);
}

static const bb_op scale_op = {
    .name = "scale",
    .doc = "factor * x",
    .inputs = {"x"},
    .outputs = {"y"},
    .attrs = {{"factor", BB_ATTR_FLOAT, offsetof(scale_attrs, factor), .value = 2.5},
              {"times", BB_ATTR_INT, offsetof(scale_attrs, times), .value = 3},
              {"flip", BB_ATTR_BOOL, offsetof(scale_attrs, flip), .value = 1},
              {"axes", BB_ATTR_INTS, offsetof(scale_attrs, axes), .ints = {2, {4, -1}}},
              {"mode", BB_ATTR_CHOICE, offsetof(scale_attrs, mode), .value = 1,
               .choices = "slow|fast"}},
    .attrs_bytes = sizeof(scale_attrs),
    .infer = scale_infer,
    .gradient = scale_gradient,
};
static const bb_kernel scale_kernel = {"scale", scale_forward, NULL, NULL};

static void test_defaults(test *t) {
    scale_attrs a;
    memset(&a, 0x5a, sizeof a);
    bb_op_default_attrs(&scale_op, &a);
    CHECK_NEAR(t, a.factor, 2.5, 0);
    CHECK_INT(t, a.times, 3);
    CHECK(t, a.flip);
    CHECK_INT(t, a.axes.n, 2);
    CHECK_INT(t, a.axes.v[1], -1);
    CHECK_INT(t, a.mode, 1);
    CHECK_INT(t, bb_op_input_count(&scale_op), 1);
    CHECK_INT(t, bb_op_output_count(&scale_op), 1);
}

static void test_own_op(test *t) {
    bb_context *ctx = test_open();
    int before = bb_op_count(ctx);
    CHECK(t, !bb_find_op(ctx, "scale"));
    CHECK_INT(t, bb_register_op(ctx, &scale_op), BB_OK);
    CHECK(t, !bb_op_has_kernel(ctx, &scale_op, BB_CPU, false));
    CHECK_INT(t, bb_register_kernel(ctx, BB_CPU, &scale_kernel), BB_OK);
    CHECK(t, bb_op_has_kernel(ctx, &scale_op, BB_CPU, false));
    CHECK(t, !bb_op_has_kernel(ctx, &scale_op, BB_CPU, true));
    CHECK(t, bb_find_op(ctx, "scale") == &scale_op);
    CHECK_INT(t, bb_op_count(ctx), before + 1);
    CHECK(t,
          bb_op_at(ctx, before) == &scale_op && !bb_op_at(ctx, before + 1) && !bb_op_at(ctx, -1));

    bb_tensor *x = bb_from_f64(ctx, BB_F32, BB_SHAPE(3), (double[]){1, 2, 3});
    bb_set_requires_grad(x, true);
    bb_tensor *y = bb_apply1(ctx, &scale_op, &x, 1, NULL); /* defaults */
    double got[3];
    CHECK_INT(t, bb_read_f64(y, got, 3), BB_OK);
    CHECK_NEAR(t, got[2], 7.5, 0);
    scale_attrs a;
    bb_op_default_attrs(&scale_op, &a);
    a.factor = -1;
    y = bb_add(y, bb_apply1(ctx, &scale_op, &x, 1, &a));
    a.factor = 1000; /* the tape has its own copy */
    CHECK_INT(t, bb_backward(bb_sum_all(y), NULL), BB_OK);
    CHECK_INT(t, bb_read_f64(bb_grad(x), got, 3), BB_OK);
    for (int i = 0; i < 3; i++) CHECK_NEAR(t, got[i], 1.5, 0);
    CHECK_OK(t, ctx);

    a.mode = 2;
    CHECK(t, !bb_apply1(ctx, &scale_op, &x, 1, &a));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "scale: mode: expected one of slow|fast, got number 2");
    a.mode = -1;
    CHECK(t, !bb_apply1(ctx, &scale_op, &x, 1, &a));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "scale: mode: expected one of slow|fast, got number -1");
    a.mode = 0;
    memset(&a.flip, 7, 1);
    CHECK(t, !bb_apply1(ctx, &scale_op, &x, 1, &a));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "scale: flip: expected false or true, got byte 7");
    a.flip = false;
    a.times = -1;
    CHECK(t, !bb_apply1(ctx, &scale_op, &x, 1, &a));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "scale: times: expected >= 0, got -1");
    bb_tensor *wide = bb_scalar(ctx, BB_F64, 1);
    CHECK(t, !bb_apply1(ctx, &scale_op, &wide, 1, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "scale: x: expected f32, got f64");
    bb_tensor *both[2] = {x, x}, *out[1];
    CHECK_INT(t, bb_apply(ctx, &scale_op, both, 2, NULL, out), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "scale: inputs: expected 1, got 2");
    CHECK_INT(t, bb_register_op(ctx, &scale_op), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "op scale: name: expected a new one, got one already registered");
    bb_close(ctx);
}

static void test_not_registered(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_scalar(ctx, BB_F32, 1);
    CHECK(t, !bb_apply1(ctx, &scale_op, &x, 1, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "scale: op: not registered in this context");
    bb_tensor *out = x; /* nothing stale is left in it */
    CHECK_INT(t, bb_apply(ctx, &scale_op, &x, 1, NULL, &out), BB_ERR_ARGUMENT);
    CHECK(t, !out);
    bb_clear_error(ctx);
    out = x;
    CHECK_INT(t, bb_apply(NULL, &scale_op, &x, 1, NULL, &out), BB_ERR_ARGUMENT);
    CHECK(t, !out);
    CHECK(t, !bb_apply1(ctx, NULL, &x, 1, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_apply: op: expected a record, got NULL");
    bb_close(ctx);
}

static void check_refused(test *t, const bb_op *op, const char *part) {
    bb_context *ctx = test_open();
    int before = bb_op_count(ctx);
    CHECK_INT(t, bb_register_op(ctx, op), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, part);
    CHECK_INT(t, bb_op_count(ctx), before);
    bb_close(ctx);
}

static void test_bad_records(test *t) {
    bb_op op = scale_op;
    check_refused(t, NULL, "expected a record with a name, got NULL");
    op.name = "";
    check_refused(t, &op, "expected a record with a name, got one without");
    op = scale_op;
    op.infer = NULL;
    check_refused(t, &op, "op scale: infer: expected a function, got NULL");
    op = scale_op;
    op.gradient = NULL;
    check_refused(t, &op, "exactly one of gradient and decompose, got neither");
    op = scale_op;
    op.decompose = scale_forward;
    check_refused(t, &op, "exactly one of gradient and decompose, got both");
    op = scale_op;
    op.attrs_bytes = 8;
    check_refused(t, &op,
                  "attribute times: expected to lie within attrs_bytes 8, got type 0 at offset");
    op = scale_op;
    op.attrs[4].choices = NULL;
    check_refused(t, &op, "attribute mode: expected a list of choices, got NULL");
    op = scale_op;
    op.hidden = 2;
    check_refused(t, &op, "hidden: expected 0 to 1, its outputs, got 2");
    op = scale_op;
    op.variadic = true;
    op.inputs[0] = NULL;
    check_refused(t, &op, "inputs: expected a name at least, as it is variadic, got none");
    op = scale_op;
    op.name = "add";
    check_refused(t, &op, "op add: name: expected a new one, got one already registered");
}

static void test_bad_kernels(test *t) {
    bb_context *ctx = test_open();
    CHECK_INT(t, bb_register_kernel(ctx, BB_CPU, &scale_kernel), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "no op is named scale");
    CHECK_INT(t, bb_register_kernel(ctx, BB_DEVICE_COUNT, &scale_kernel), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "device: expected 0 to 1, got 2");
    CHECK_INT(t, bb_register_kernel(ctx, BB_CPU, NULL), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected an op name and a forward, got NULL");
    CHECK_INT(t, bb_register_kernel(NULL, BB_CPU, &scale_kernel), BB_ERR_ARGUMENT);
    bb_close(ctx);
}

/* The registry grows; every op is found by its record and by its name. */
static void test_many(test *t) {
    enum { MANY = 300 };
    static bb_op ops[MANY];
    static char names[MANY][16];
    bb_context *ctx = test_open();
    for (int i = 0; i < MANY; i++) {
        ops[i] = scale_op;
        snprintf(names[i], sizeof names[i], "many%d", i);
        ops[i].name = names[i];
        CHECK_INT(t, bb_register_op(ctx, &ops[i]), BB_OK);
        bb_kernel kernel = scale_kernel;
        kernel.op = names[i];
        CHECK_INT(t, bb_register_kernel(ctx, BB_CPU, &kernel), BB_OK);
    }
    for (int i = 0; i < MANY; i++) {
        CHECK(t, bb_find_op(ctx, names[i]) == &ops[i]);
        CHECK(t, bb_find_entry(ctx, &ops[i])->op == &ops[i]);
        CHECK(t, bb_op_has_kernel(ctx, &ops[i], BB_CPU, false));
    }
    bb_tensor *x = bb_scalar(ctx, BB_F32, 2);
    CHECK_NEAR(t, bb_item(bb_apply1(ctx, &ops[MANY - 1], &x, 1, NULL)), 5, 0);
    CHECK_NEAR(t, bb_item(bb_add(x, x)), 4, 0); /* the old ones are still there */
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_not_given(test *t) {
    bb_context *ctx = test_open();
    const bb_op *cat = bb_find_op(ctx, "cat");
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(2)), *out[BB_MAX_OUTPUTS] = {x};
    CHECK_INT(t, bb_apply(ctx, cat, NULL, 2, NULL, out), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "cat: in: expected a list, got NULL");
    CHECK(t, !out[0]);
    CHECK_INT(t, bb_apply(ctx, cat, &x, 1, NULL, NULL), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "cat: out: expected a list, got NULL");
    CHECK(t, !bb_apply1(NULL, cat, NULL, 1, NULL) && !bb_cat(NULL, 1, 0));
    CHECK(t, bb_op_input_count(NULL) == 0 && bb_op_output_count(NULL) == 0);
    bb_op_default_attrs(NULL, NULL);
    bb_op_default_attrs(cat, NULL);
    CHECK_INT(t, bb_quantize_parts(x, NULL, &(bb_quantize_attrs){.rows = true}, NULL),
              BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "Quantize: parts: expected one, got NULL");
    bb_quantized_parts parts = {.data = x};
    CHECK(t, !bb_quantized_linear(&parts, NULL, NULL, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "QuantizedLinear: weight: expected one, got NULL");
    CHECK_INT(t, bb_quantize_parts(x, NULL, NULL, &parts), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "Quantize: attrs: expected one, got NULL");
    CHECK(t, !parts.data);
    CHECK_INT(t, bb_rms_norm_quantize_parts(x, x, NULL, NULL, &parts, NULL), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNormQuantize: attrs: expected one, got NULL");
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"defaults", test_defaults},
    {"own op", test_own_op},
    {"not registered", test_not_registered},
    {"bad records", test_bad_records},
    {"bad kernels", test_bad_kernels},
    {"many ops", test_many},
    {"not given", test_not_given},
};
TEST_MAIN(rows)
