/* The context of an op's backward: rows T19 to T23 of nn/FUSIBLE.md. */
#include "tests/nn/fusible_test.h"

static const bb_dtype narrow_types[] = {BB_F32, BB_F16, BB_BF16};

static void t19(test *t) {
    bb_context *ctx = test_open();
    norm_case n =
        norm_case_open(t, ctx, BB_BF16, BB_SHAPE(2, 3, 4, 5), BB_SHAPE(4, 5), 1e-5, false, -1, 1);
    bb_op_context c = {.requires_grad = true}, nothing = {.requires_grad = false};
    bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, NULL);
    bb_fusible_forward(n.op, &nothing, bb_link_of(n.x), NULL, NULL);
    bb_tensor *x = c.saved[0].tensor, *rstd = c.saved[1].tensor;
    bb_shape rows = BB_SHAPE(6, 20), got = bb_shape_of(x);
    CHECK(t, x && bb_shape_equal(&rows, &got) && bb_dtype_of(x) == BB_BF16);
    CHECK(t, x && x->storage == n.x->storage); /* a view, no copy */
    CHECK(t, rstd && bb_count(rstd) == 6 && bb_dtype_of(rstd) == BB_F32);
    CHECK(t, !c.saved[2].tensor && !nothing.saved[0].tensor && !nothing.saved[1].tensor);
    bb_fusible_backward(n.op, &nothing, bb_link_of(n.dy), NULL);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "RMSNorm: backward: expected a context with requires_grad");
    norm_case_close(&n);
    bb_close(ctx);
}

/* What was changed between the two is an error, not a wrong gradient. */
static void t20(test *t) {
    bb_context *ctx = test_open();
    uint64_t state = 9;
    norm_case n = norm_case_open(t, ctx, BB_F32, BB_SHAPE(3, 8), BB_SHAPE(8), 1e-5, false, -1, 1);
    bb_op_context c = {.requires_grad = true};
    bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, NULL);
    set_param(t, n.weight, 0, 1, &state);
    CHECK(t, is_nothing(bb_fusible_backward(n.op, &c, bb_link_of(n.dy), NULL)));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "RMSNorm: backward: a parameter was changed in place");
    bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, NULL);
    overwrite(t, n.x, n.dy);
    CHECK(t, is_nothing(bb_fusible_backward(n.op, &c, bb_link_of(n.dy), NULL)));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "RMSNorm: backward: a tensor it saved was changed in place");
    /* The input's handle and the scope it was made in may go. */
    bb_scope scope = bb_scope_begin(ctx);
    bb_tensor *x = uniform(ctx, BB_F32, BB_SHAPE(3, 8), 0, 1, &state), *dw = NULL;
    bb_fusible_forward(n.op, &c, bb_link_of(x), NULL, NULL);
    bb_scope_end(ctx, scope, NULL);
    CHECK(t, bb_fusible_backward(n.op, &c, bb_link_of(n.dy), &dw).tensor && dw);
    CHECK_OK(t, ctx);
    /* The step may not. */
    bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, NULL);
    bb_end_step(ctx);
    bb_fusible_backward(n.op, &c, bb_link_of(bb_ones(ctx, BB_F32, BB_SHAPE(3, 8))), &dw);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "RMSNorm: backward: expected the step of its forward");
    norm_case_close(&n);
    bb_close(ctx);
}

static void t21(test *t) {
    bb_context *ctx = test_open();
    uint64_t state = 4;
    for (int d = 0; d < 3; d++) {
        bb_params *params = set_of(ctx, BB_F32);
        bb_fusible_op *op = bb_fusible_rms_norm(params, "", BB_SHAPE(2, 4), NULL);
        bb_tensor *x = uniform(ctx, narrow_types[d], BB_SHAPE(3, 2, 4), 0, 1, &state), *dw = NULL;
        bb_op_context c = {.requires_grad = true};
        bb_link y = bb_fusible_forward(op, &c, bb_link_of(x), NULL, NULL);
        /* The cotangent's own shape comes back, whatever the input's was; its dtype does not. */
        bb_tensor *dy = bb_reshape(bb_cast(y.tensor, BB_F16), BB_SHAPE(1, 3, 2, 4));
        bb_link dx = bb_fusible_backward(op, &c, bb_link_of(dy), &dw);
        bb_shape want = bb_shape_of(dy), got = bb_shape_of(dx.tensor), w = BB_SHAPE(2, 4),
                 gw = bb_shape_of(dw);
        CHECK(t, bb_shape_equal(&want, &got) && bb_shape_equal(&w, &gw));
        CHECK(t, bb_dtype_of(dx.tensor) == BB_F32 && bb_dtype_of(dw) == BB_F32);
        /* On the tape the engine casts: to the input's dtype, and to the parameter's. */
        bb_chain *chain = bb_chain_new(ctx, "");
        bb_chain_append(chain, op);
        bb_chain_set_autocast(chain, true, BB_BF16);
        bb_tensor *leaf = bb_set_requires_grad(bb_detach(x), true);
        bb_backward(bb_sum_all(bb_chain_forward(chain, leaf)), NULL);
        CHECK_INT(t, bb_dtype_of(bb_grad(leaf)), narrow_types[d]);
        CHECK_INT(t, bb_dtype_of(bb_grad(bb_fusible_param(op, 0))), BB_F32);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void t22(test *t) {
    bb_context *ctx = test_open();
    norm_case n =
        norm_case_open(t, ctx, BB_F32, BB_SHAPE(64, 64), BB_SHAPE(64), 1e-5, false, -1, 1);
    bb_op_context c = {.requires_grad = true};
    bb_tensor *dw[2] = {NULL, NULL};
    bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, NULL);
    CHECK(t, n.x->storage->refs > 1);
    bb_fusible_backward(n.op, &c, bb_link_of(n.dy), &dw[0]);
    CHECK(t, !c.op && !c.saved[0].tensor && n.x->storage->refs == 1); /* freed */
    CHECK(t, is_nothing(bb_fusible_backward(n.op, &c, bb_link_of(n.dy), &dw[1])) && !dw[1]);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "RMSNorm: backward: expected a context that its forward has");
    /* keep: the same again. */
    c.keep = true;
    bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, NULL);
    bb_fusible_backward(n.op, &c, bb_link_of(n.dy), &dw[0]);
    bb_fusible_backward(n.op, &c, bb_link_of(n.dy), &dw[1]);
    CHECK(t, dw[0] && dw[1] && same_bytes(dw[0], dw[1]));
    bb_op_context_clear(&c);
    CHECK(t, n.x->storage->refs == 1);
    CHECK_OK(t, ctx);
    norm_case_close(&n);
    bb_close(ctx);
}

/* Only the gradients that somebody wants. */
static void t23(test *t) {
    bb_context *ctx = test_open();
    norm_case n = norm_case_open(t, ctx, BB_F32, BB_SHAPE(3, 8), BB_SHAPE(8), 1e-5, false, -1, 1);
    bb_chain *chain = bb_chain_new(ctx, "");
    bb_chain_append(chain, n.op);
    for (int which = 0; which < 4; which++) {
        bb_tensor *x = bb_set_requires_grad(bb_detach(n.x), which & 1);
        bb_set_requires_grad(n.weight, which & 2);
        bb_zero_grad(n.weight);
        bb_tensor *y = bb_chain_forward(chain, x);
        CHECK_INT(t, bb_requires_grad(y), which != 0);
        if (!which) continue;
        CHECK_INT(t, bb_backward(y, n.dy), BB_OK);
        CHECK_INT(t, bb_grad(x) != NULL, which & 1);
        if (which & 1)
            check_tensor(t, "dx", bb_grad(x), BB_F32, BB_SHAPE(3, 8), n.dx, tolerance_of(BB_F32));
        if (which & 2)
            check_tensor(t, "dw", bb_grad(n.weight), BB_F32, BB_SHAPE(8), n.dw,
                         tolerance_of(BB_F32));
        CHECK_INT(t, n.weight->grad_empty, !(which & 2));
    }
    norm_case_close(&n);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"T19 what is saved", t19},
    {"T20 backward by hand", t20},
    {"T21 shapes and dtypes of gradients", t21},
    {"T22 the context is cleared", t22},
    {"T23 wanted gradients only", t23},
};
TEST_MAIN(rows)
