/* Functions with a backward of their own: one node, several inputs and outputs, state that is
 * released once, saved tensors, and the errors of using one twice. */
#include "autograd/tape.h"
#include "core/impl.h"
#include "ops/table.h"
#include "tests/support/alloc.h"
#include "tests/support/test.h"

/* product = a b, difference = a - b. */
typedef struct pair {
    bb_saved a, b;
    int *released, *walked;
} pair;

static bb_status pair_backward(const bb_function_call *call) {
    pair *p = call->state;
    bb_tensor *a = bb_saved_read(&p->a, call->ctx, "pair"),
              *b = bb_saved_read(&p->b, call->ctx, "pair");
    bb_tensor *product = call->grad_out[0], *difference = call->grad_out[1];
    if (p->walked) ++*p->walked;
    for (int i = 0; i < 2 && a && b; i++) {
        if (!call->want[i]) continue;
        bb_tensor *g = product ? bb_mul(product, i ? a : b) : NULL;
        bb_tensor *d = difference && i ? bb_neg(difference) : difference;
        call->grad_in[i] = g && d ? bb_add(g, d) : g ? g : d;
    }
    if (!call->again) bb_unsave(&p->a), bb_unsave(&p->b);
    return bb_error(call->ctx);
}

static void pair_release(bb_context *ctx, void *state) {
    pair *p = state;
    (void)ctx;
    bb_unsave(&p->a), bb_unsave(&p->b);
    if (p->released) ++*p->released;
}

static const bb_function pair_function = {"pair", pair_backward, pair_release};

static bb_status run_pair(bb_tensor *a, bb_tensor *b, int *released, int *walked,
                          bb_tensor *out[2]) {
    bb_context *ctx = bb_context_of(a);
    bb_tensor *in[] = {a, b};
    pair *p = bb_arena_allocate(ctx, &ctx->arena, sizeof *p);
    if (!p) return bb_error(ctx);
    *p = (pair){.released = released, .walked = walked};
    if (bb_function_wanted(ctx, in, 2)) bb_save(a, &p->a), bb_save(b, &p->b);
    bool before = bb_set_grad_enabled(ctx, false);
    out[0] = bb_mul(a, b);
    out[1] = bb_sub(a, b);
    bb_set_grad_enabled(ctx, before);
    return bb_function_record(ctx, &pair_function, p, in, 2, out, 2);
}

static bb_tensor *leaf(bb_context *ctx, double x, double y) {
    return bb_set_requires_grad(bb_from_f64(ctx, BB_F64, BB_SHAPE(2), (const double[]){x, y}),
                                true);
}

static void check_grad(test *t, bb_tensor *x, double first, double second) {
    double v[2] = {0, 0};
    CHECK(t, bb_grad(x) && bb_read_f64(bb_grad(x), v, 2) == BB_OK);
    CHECK_NEAR(t, v[0], first, 1e-12);
    CHECK_NEAR(t, v[1], second, 1e-12);
}

static void values(test *t) {
    bb_context *ctx = test_open_host();
    int released = 0, walked = 0;
    bb_tensor *a = leaf(ctx, 2, 3), *b = leaf(ctx, 5, -1), *out[2];
    CHECK_INT(t, run_pair(a, b, &released, &walked, out), BB_OK);
    CHECK_INT(t, bb_tape_length(ctx), 1);
    CHECK(t, bb_requires_grad(out[0]) && bb_requires_grad(out[1]));
    bb_tensor *loss = bb_sum_all(bb_add(bb_square(out[0]), out[1]));
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    check_grad(t, a, 2 * 10 * 5 + 1, 2 * -3 * -1 + 1); /* 2 a b b + 1 */
    check_grad(t, b, 2 * 10 * 2 - 1, 2 * -3 * 3 - 1);
    CHECK(t, released == 1 && walked == 1);
    bb_end_step(ctx);
    CHECK_INT(t, released, 1); /* not twice */
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* A gradient that reached nobody is NULL, an input that wants none is not asked for, the same
 * tensor may stand in two places. */
static void parts(test *t) {
    bb_context *ctx = test_open_host();
    bb_tensor *a = leaf(ctx, 2, 3), *b = leaf(ctx, 5, -1), *out[2];
    run_pair(a, b, NULL, NULL, out);
    bb_backward(bb_sum_all(out[1]), NULL);
    check_grad(t, a, 1, 1);
    check_grad(t, b, -1, -1);
    bb_tensor *c = leaf(ctx, 2, 3), *fixed = bb_detach(b);
    run_pair(c, fixed, NULL, NULL, out);
    bb_backward(bb_sum_all(out[0]), NULL);
    check_grad(t, c, 5, -1);
    CHECK(t, !bb_grad(fixed));
    bb_tensor *d = leaf(ctx, 2, 3);
    run_pair(d, d, NULL, NULL, out);
    bb_backward(bb_sum_all(bb_add(out[0], out[1])), NULL);
    check_grad(t, d, 4, 6);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* No gradient wanted: no node, the state is released at once. */
static void unwanted(test *t) {
    bb_context *ctx = test_open_host();
    int released = 0;
    bb_tensor *a = leaf(ctx, 2, 3), *b = leaf(ctx, 5, -1), *out[2];
    bb_set_grad_enabled(ctx, false);
    run_pair(a, b, &released, NULL, out);
    CHECK(t, released == 1 && !bb_requires_grad(out[0]) && bb_tape_length(ctx) == 0);
    bb_set_grad_enabled(ctx, true);
    run_pair(bb_detach(a), bb_detach(b), &released, NULL, out);
    CHECK(t, released == 2 && bb_tape_length(ctx) == 0);
    run_pair(a, b, &released, NULL, out);
    bb_end_step(ctx); /* never walked */
    CHECK_INT(t, released, 3);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void twice(test *t) {
    bb_context *ctx = test_open_host();
    int released = 0, walked = 0;
    bb_tensor *a = leaf(ctx, 2, 3), *b = leaf(ctx, 5, -1), *out[2], *g[2];
    run_pair(a, b, &released, &walked, out);
    bb_tensor *loss = bb_sum_all(out[0]);
    CHECK_INT(t, bb_backward_retain(loss, NULL), BB_OK);
    CHECK(t, walked == 1 && released == 0);
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    check_grad(t, a, 10, -2);
    CHECK(t, walked == 2 && released == 1);
    CHECK_INT(t, bb_backward(loss, NULL), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "its part of the tape was already walked");
    run_pair(a, b, NULL, NULL, out);
    bb_backward(out[0], bb_ones_like(out[0]));
    CHECK_INT(t, bb_backward(out[0], bb_ones_like(out[0])), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_backward: pair: its part of the tape was already walked");
    run_pair(a, b, NULL, NULL, out);
    bb_gradients(bb_sum_all(out[0]), NULL, (bb_tensor *[]){a, b}, 2, true, g);
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, "pair: expected a walk for first gradients");
    bb_close(ctx);
}

static void changed(test *t) {
    bb_context *ctx = test_open_host();
    bb_tensor *a = leaf(ctx, 2, 3), *b = leaf(ctx, 5, -1), *out[2];
    const double other[2] = {0, 0};
    run_pair(a, b, NULL, NULL, out);
    bb_write(b, other, sizeof other);
    CHECK_INT(t, bb_backward(bb_sum_all(out[0]), NULL), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "pair: a tensor it saved was changed in place");
    /* Dropping the handles is no change. */
    bb_scope scope = bb_scope_begin(ctx);
    bb_tensor *x = bb_mul_scalar(a, 1), *y = bb_mul_scalar(a, 2);
    run_pair(x, y, NULL, NULL, out);
    bb_scope_end(ctx, scope, out[0]);
    bb_zero_grad(a);
    CHECK_INT(t, bb_backward(bb_sum_all(out[0]), NULL), BB_OK);
    check_grad(t, a, 8, 12); /* 2 a^2 */
    bb_saved saved;
    bb_save(a, &saved);
    bb_unsave(&saved), bb_unsave(&saved);
    CHECK(t, !bb_saved_read(&saved, ctx, "reader"));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "reader: expected what its forward saved, got nothing");
    bb_save(a, &saved);
    bb_end_step(ctx);
    CHECK(t, !bb_saved_read(&saved, ctx, "reader"));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "reader: expected the step of its forward");
    bb_unsave(&saved);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void wrong(test *t) {
    bb_context *ctx = test_open_host();
    bb_tensor *a = leaf(ctx, 2, 3), *one[1] = {a}, *many[BB_MAX_OUTPUTS + 1] = {a};
    bb_function_record(ctx, &pair_function, &(pair){.released = NULL}, one, 1, one, 1);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "pair: output 0: expected a new tensor of this step");
    bb_function_record(ctx, &pair_function, &(pair){.released = NULL}, one, 1, many,
                       BB_MAX_OUTPUTS + 1);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "pair: outputs: expected 1 to ");
    one[0] = NULL;
    bb_function_record(ctx, &pair_function, &(pair){.released = NULL}, one, 1, one, 1);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "pair: output 0: expected a tensor, got NULL");
    bb_close(ctx);
}

/* A leaf with an empty gradient is written in place. */
static bb_status direct_backward(const bb_function_call *call) {
    bb_tensor *to = bb_function_target(call, 0);
    call->grad_in[0] = to;
    *(bb_tensor **)call->state = to;
    return to ? bb_assign(to, call->grad_out[0]) : bb_error(call->ctx);
}
static void targets(test *t) {
    static const bb_function function = {"direct", direct_backward, NULL};
    bb_context *ctx = test_open_host();
    bb_tensor *to = NULL,
              *a = bb_set_requires_grad(bb_keep(bb_ones(ctx, BB_F64, BB_SHAPE(2))), true);
    for (int i = 0; i < 3; i++) {
        bb_tensor *out = bb_detach(a);
        bb_function_record(ctx, &function, &to, &a, 1, &out, 1);
        bb_backward(out, bb_full(ctx, BB_F64, BB_SHAPE(2), 3));
        check_grad(t, a, i == 1 ? 6 : 3, i == 1 ? 6 : 3);
        CHECK(t, i == 0 || (to == bb_grad(a)) == (i == 2));
        if (i == 1) bb_zero_grad(a);
    }
    bb_end_step(ctx);
    CHECK_INT(t, bb_memory_stats(ctx).live_tensors, 2); /* a and its gradient */
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void short_of_memory(bb_context *ctx) {
    bb_tensor *a = leaf(ctx, 2, 3), *b = leaf(ctx, 5, -1), *out[2];
    if (a && b && !run_pair(a, b, NULL, NULL, out)) bb_backward(bb_sum_all(out[0]), NULL);
}
static void allocation(test *t) { alloc_failure_loop(t, short_of_memory); }

/* What fails in the backward of one op, outside the tape, says whose it was. */
static void names_its_op(test *t) {
    test_allocator memory;
    test_allocator_init(&memory);
    bb_context *ctx = bb_open(&(bb_options){.allocator = &memory.base});
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(50, 100)), *dx = NULL;
    bb_call call = {.ctx = ctx, .op = &bb_op_silu, .n_in = 1, .in = &x};
    bool fused = false, want = true;
    CHECK_INT(t, bb_run_call(&call, true, &fused), BB_OK);
    CHECK(t, fused);
    memory.for_good = true;
    memory.fail_at = memory.calls + 1;
    CHECK_INT(
        t,
        bb_call_backward(
            &(bb_grad_call){.call = &call, .grad_out = &x, .grad_in = &dx, .want = &want}, fused),
        BB_ERR_MEMORY);
    CHECK_MSG(t, strstr(bb_error_message(ctx), "(backward of silu on cpu, inputs f32(50, 100))"),
              "%s", bb_error_message(ctx));
    CHECK(t, !ctx->running);
    bb_close(ctx);
    CHECK_INT(t, memory.live, 0);
}

/* With BOBBIN_SYNC=1 the device is waited for after the kernel, while its op is known. */
static bb_status wait_fails(bb_backend *self) {
    return bb_fail(self->ctx, BB_ERR_DEVICE, "the device is lost");
}
static void waits_when_told(test *t) {
    bb_context *ctx = test_open_host();
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(4)), *dx = NULL;
    bb_call call = {.ctx = ctx, .op = &bb_op_silu, .n_in = 1, .in = &x};
    bool fused = false, want = true;
    const bb_grad_call grad = {.call = &call, .grad_out = &x, .grad_in = &dx, .want = &want};
    CHECK_INT(t, bb_run_call(&call, true, &fused), BB_OK);
    ctx->backend[BB_CPU]->synchronize = wait_fails;
    CHECK_INT(t, bb_call_backward(&grad, fused), BB_OK);
    ctx->synchronize = true;
    CHECK_INT(t, bb_call_backward(&grad, fused), BB_ERR_DEVICE);
    CHECK_ERROR(t, ctx, BB_ERR_DEVICE, "the device is lost (backward of silu on cpu");
    ctx->synchronize = false; /* and on the tape */
    bb_tensor *y = bb_silu(bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(4)), true));
    ctx->synchronize = true;
    CHECK_INT(t, bb_backward(y, x), BB_ERR_DEVICE);
    CHECK_ERROR(t, ctx, BB_ERR_DEVICE, "the device is lost (backward of silu on cpu");
    bb_close(ctx);
}

static const test_row rows[] = {{"values", values},
                                {"parts", parts},
                                {"unwanted", unwanted},
                                {"twice", twice},
                                {"changed", changed},
                                {"wrong", wrong},
                                {"targets", targets},
                                {"allocation", allocation},
                                {"names_its_op", names_its_op},
                                {"waits_when_told", waits_when_told}};
TEST_MAIN(rows)
