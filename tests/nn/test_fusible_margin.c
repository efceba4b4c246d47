/* sm_margin of the norms: rows T09 to T11 of nn/FUSIBLE.md. */
#include "tests/nn/fusible_test.h"

/* A kernel that looks before it does what the built-in one does. */
static bb_kernel builtin;
static int seen[2];
static bb_status look_forward(bb_call *call) {
    seen[0] = call->ctx->sm_margin;
    return builtin.forward(call);
}
static bb_status look_backward(const bb_grad_call *grad) {
    seen[1] = grad->call->ctx->sm_margin;
    return builtin.backward(grad);
}

static bb_context *watched_context(void) {
    bb_context *ctx = test_open_host();
    builtin = bb_find_entry(ctx, bb_find_op(ctx, "RMSNormImpl"))->kernel[BB_CPU];
    static const bb_kernel looking = {"RMSNormImpl", look_forward, look_backward, NULL};
    bb_register_kernel(ctx, BB_CPU, &looking);
    return ctx;
}

/* The margins that forward, backward and inference run with. */
static void check_margins(test *t, bb_context *ctx, const bb_fusible_norm_options *options,
                          int forward, int backward, int inference) {
    bb_fusible_op *op = bb_fusible_rms_norm(set_of(ctx, BB_F32), "", BB_SHAPE(4), options);
    bb_op_context c = {.requires_grad = true}, no = {.requires_grad = false};
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(2, 4));
    bb_link y = bb_fusible_forward(op, &c, bb_link_of(x), NULL, NULL);
    CHECK_INT(t, seen[0], forward);
    bb_fusible_backward(op, &c, y, NULL);
    CHECK_INT(t, seen[1], backward);
    bb_fusible_forward(op, &no, bb_link_of(x), NULL, NULL);
    CHECK_INT(t, seen[0], inference);
    CHECK_INT(t, ctx->sm_margin, 0); /* put back */
}

static void t09(test *t) {
    bb_context *ctx = watched_context();
    unsetenv("BOBBIN_FWD_NORM_SM_MARGIN"), unsetenv("BOBBIN_BWD_NORM_SM_MARGIN");
    unsetenv("BOBBIN_INF_NORM_SM_MARGIN");
    check_margins(t, ctx, NULL, 0, 0, 0);
    check_margins(t, ctx, &(bb_fusible_norm_options){.sm_margin = 5}, 5, 5, 5);
    setenv("BOBBIN_BWD_NORM_SM_MARGIN", "9", 1); /* overrides the number */
    check_margins(t, ctx, &(bb_fusible_norm_options){.sm_margin = 5}, 5, 9, 5);
    setenv("BOBBIN_BWD_NORM_SM_MARGIN", "some", 1);
    CHECK(t, !bb_fusible_rms_norm(set_of(ctx, BB_F32), "", BB_SHAPE(4), NULL));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "RMSNorm: BOBBIN_BWD_NORM_SM_MARGIN: expected a number from 0, got 'some'");
    unsetenv("BOBBIN_BWD_NORM_SM_MARGIN");
    CHECK(t, !bb_fusible_rms_norm(set_of(ctx, BB_F32), "", BB_SHAPE(4),
                                  &(bb_fusible_norm_options){.sm_margin = -1}));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNorm: sm_margin: expected 0 or more, got -1");
    bb_close(ctx);
}

static void t10(test *t) {
    bb_context *ctx = watched_context();
    static const bb_stage_margin given[] = {{"forward", 3}, {"inference", 1}};
    static const bb_stage_margin unknown[] = {{"sideways", 3}}, negative[] = {{"backward", -2}};
    bb_fusible_norm_options o = {.sm_margin = 7, .stages = given, .n_stages = 2};
    check_margins(t, ctx, &o, 3, 0, 1);
    setenv("BOBBIN_FWD_NORM_SM_MARGIN", "8", 1), setenv("BOBBIN_BWD_NORM_SM_MARGIN", "9", 1);
    check_margins(t, ctx, &o, 3, 9, 1); /* what is given beats the environment */
    unsetenv("BOBBIN_FWD_NORM_SM_MARGIN"), unsetenv("BOBBIN_BWD_NORM_SM_MARGIN");
    o = (bb_fusible_norm_options){.stages = unknown, .n_stages = 1};
    CHECK(t, !bb_fusible_rms_norm(set_of(ctx, BB_F32), "", BB_SHAPE(4), &o));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected forward, backward or inference, got 'sideways'");
    o.stages = negative;
    CHECK(t, !bb_fusible_rms_norm(set_of(ctx, BB_F32), "", BB_SHAPE(4), &o));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "RMSNorm: sm_margin: backward: expected 0 or more, got -2");
    bb_close(ctx);
}

/* Fewer multiprocessors, the same bytes; more than there are leaves one. */
static void t11(test *t) {
    bb_context *ctx = test_open();
    static const int margins[] = {0, 1, 7, 100, 1000000};
    bb_tensor *first[3] = {NULL};
    for (int m = 0; m < 5; m++) {
        uint64_t state = 12;
        bb_fusible_op *op =
            bb_fusible_rms_norm(set_of(ctx, BB_F32), "", BB_SHAPE(96),
                                &(bb_fusible_norm_options){.sm_margin = margins[m]});
        bb_tensor *x = uniform(ctx, BB_F32, BB_SHAPE(37, 96), 0, 1, &state), *got[3];
        bb_op_context c = {.requires_grad = true};
        got[0] = bb_fusible_forward(op, &c, bb_link_of(x), NULL, NULL).tensor;
        got[1] = bb_fusible_backward(op, &c, bb_link_of(x), &got[2]).tensor;
        for (int i = 0; i < 3; i++) {
            if (m == 0) first[i] = got[i];
            CHECK_MSG(t, got[i] && same_bytes(first[i], got[i]), "margin %d", margins[m]);
        }
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"T09 sm_margin and the environment", t09},
    {"T10 sm_margin by stage", t10},
    {"T11 sm_margin's effect", t11},
};
TEST_MAIN(rows)
