/* autograd/walk.c and function.c: gradients that a rule gives with a wrong shape, in a walk and
 * outside the tape; ops of many inputs outside the tape. */
#include "autograd/tape.h"
#include "ops/attrs.h"
#include "ops/table.h"
#include "tests/support/test.h"

static bb_tensor *leaf(bb_context *ctx, bb_shape shape, double value) {
    return bb_set_requires_grad(bb_full(ctx, BB_F32, shape, value), true);
}

/* ---- Wrong shapes ---------------------------------------------------------------------------- */

static bb_shape given; /* of the second input's gradient */

static bb_status pair_infer(bb_call *call) {
    call->meta[0] = (bb_meta){bb_dtype_of(call->in[0]), bb_shape_of(call->in[0])};
    return BB_OK;
}
static bb_status pair_forward(bb_call *call) {
    memset(bb_data(call->out[0]), 0, (size_t)bb_count(call->out[0]) * sizeof(float));
    return BB_OK;
}
static bb_status pair_gradient(const bb_grad_call *grad) {
    bb_context *ctx = grad->call->ctx;
    grad->grad_in[0] = grad->grad_out[0];
    grad->grad_in[1] = bb_ones(ctx, BB_F32, given);
    return bb_error(ctx);
}
static const bb_op pair_op = {.name = "pair",
                              .inputs = {"x", "y"},
                              .outputs = {"z"},
                              .infer = pair_infer,
                              .gradient = pair_gradient};

static bb_status own_backward(const bb_function_call *call) {
    call->grad_in[1] = bb_ones(call->ctx, BB_F32, given);
    return bb_error(call->ctx);
}
static const bb_function own = {"own pair", own_backward, NULL};

static void test_wrong_shape(test *t) {
    static const struct {
        bb_shape shape;
        const char *said; /* NULL: can be summed down */
    } cases[] = {
        {{1, {3}}, NULL},
        {{2, {4, 3}}, NULL},
        {{1, {7}},
         "gradient of input 1: expected shape (3,) or one that it broadcasts to, got (7,)"},
        {{1, {1}}, "to, got (1,)"},
        {{0, {0}}, "to, got ()"},
        {{2, {3, 1}}, "to, got (3, 1)"},
    };
    bb_context *ctx = test_open_host();
    bb_register_op(ctx, &pair_op);
    bb_register_kernel(ctx, BB_CPU, &(bb_kernel){"pair", pair_forward, NULL, NULL});
    for (int i = 0; i < COUNT(cases); i++)
        for (int way = 0; way < 3; way++) {
            bb_tensor *in[2] = {leaf(ctx, BB_SHAPE(3), 1), leaf(ctx, BB_SHAPE(3), 2)}, *g = NULL;
            bb_tensor *y = way == 1 ? bb_ones(ctx, BB_F32, BB_SHAPE(3))
                                    : bb_apply1(ctx, &pair_op, in, 2, NULL);
            if (way == 1) bb_function_record(ctx, &own, NULL, in, 2, &y, 1);
            given = cases[i].shape;
            bb_status status = way < 2 ? bb_backward(y, bb_ones_like(y))
                                       : bb_gradients(y, bb_ones_like(y), &in[1], 1, true, &g);
            CHECK_MSG(t, (status != BB_OK) == (cases[i].said != NULL), "case %d, way %d", i, way);
            if (cases[i].said) {
                CHECK(t, strstr(bb_error_message(ctx), way == 1 ? "own pair: " : ": pair: "));
                CHECK_ERROR(t, ctx, BB_ERR_STATE, cases[i].said);
            }
            bb_end_step(ctx);
        }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* ---- The backward of one op outside the tape ------------------------------------------------- */

static void test_wrong_shape_outside_the_tape(test *t) {
    bb_context *ctx = test_open_host();
    bb_register_op(ctx, &pair_op);
    bb_register_kernel(ctx, BB_CPU, &(bb_kernel){"pair", pair_forward, NULL, NULL});
    bb_tensor *in[2] = {leaf(ctx, BB_SHAPE(3), 1), leaf(ctx, BB_SHAPE(3), 2)};
    bb_tensor *dy = bb_ones(ctx, BB_F32, BB_SHAPE(3)), *grad_in[2] = {NULL};
    bool want[2] = {true, true}, fused;
    bb_call call = {.ctx = ctx, .op = &pair_op, .in = in, .n_in = 2};
    CHECK_INT(t, bb_run_call(&call, false, &fused), BB_OK);
    given = BB_SHAPE(7);
    bb_grad_call grad = {&call, &dy, want, grad_in};
    CHECK_INT(t, bb_call_backward(&grad, fused), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "pair: gradient of input 1: expected shape (3,)");
    bb_close(ctx);
}

static void test_many_inputs(test *t) {
    enum { MANY = 64 * BB_MAX_INPUTS };
    bb_context *ctx = test_open();
    bb_tensor *in[MANY], *grad_in[MANY] = {NULL};
    bool want[MANY], fused;
    for (int i = 0; i < MANY; i++) {
        in[i] = leaf(ctx, BB_SHAPE(2), i);
        want[i] = i % 3 != 0;
    }
    bb_axis_attrs attrs = {0};
    bb_call call = {.ctx = ctx, .op = &bb_op_cat, .attrs = &attrs, .in = in, .n_in = MANY};
    CHECK_INT(t, bb_run_call(&call, false, &fused), BB_OK);
    bb_tensor *dy = bb_arange(ctx, BB_F32, 0, 2 * MANY, 1);
    bb_grad_call grad = {&call, &dy, want, grad_in};
    CHECK_INT(t, bb_call_backward(&grad, fused), BB_OK);
    for (int i = 0; i < MANY; i++) {
        double got[2];
        CHECK(t, !grad_in[i] == !want[i]);
        if (!grad_in[i]) continue;
        bb_read_f64(grad_in[i], got, 2);
        CHECK(t, got[0] == 2 * i && got[1] == 2 * i + 1);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"wrong shape", test_wrong_shape},
    {"wrong shape outside the tape", test_wrong_shape_outside_the_tape},
    {"many inputs", test_many_inputs},
};
TEST_MAIN(rows)
