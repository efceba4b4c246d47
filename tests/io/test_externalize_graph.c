/* Externalizing: each call has a graph of its own, and what is externalized computes what it did
 * before. See tests/io/externalize_test.h. */
#include "tests/io/externalize_test.h"

static bb_tensor *normed_twice(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    return bb_silu(norm(ctx, norm(ctx, x, w), w));
}
static void e12_one_graph_for_each_call(test *t) {
    fixture f = record(normed_twice, BB_F32);
    CHECK_INT(t, externalize(f.g, &rms_norm, 1), BB_OK);
    CHECK_INT(t, bb_external_count(f.g), 2);
    const bb_external *a = bb_external_at(f.g, 0), *b = bb_external_at(f.g, 1);
    CHECK_TEXT(t, a->path, b->path);
    CHECK(t, strcmp(a->name, b->name) != 0);
    finish(t, &f);
}

/* cast, mul, mean, add, rsqrt, mul, cast, mul in bf16; f32 needs no casts. */
static void e13_body_is_the_decomposition(test *t) {
    for (int wide = 0; wide < 2; wide++) {
        fixture f = record(norm, wide ? BB_F32 : BB_BF16);
        CHECK_INT(t, bb_graph_node_count(f.g, NULL), 1);
        CHECK_INT(t, bb_graph_lower(f.g, true), BB_OK);
        CHECK_INT(t, bb_graph_node_count(f.g, NULL), wide ? 6 : 8);
        CHECK_INT(t, bb_graph_node_count(f.g, "mul"), 3);
        CHECK_INT(t, bb_graph_node_count(f.g, "mean"), 1);
        CHECK_INT(t, bb_graph_node_count(f.g, "rsqrt"), 1);
        CHECK_INT(t, bb_graph_node_count(f.g, "add_scalar"), 1);
        CHECK_INT(t, bb_graph_node_count(f.g, "cast"), wide ? 0 : 2);
        bb_graph_lower(f.g, false);
        CHECK_INT(t, bb_graph_node_count(f.g, NULL), 1);
        finish(t, &f);
    }
}

static void e15_nesting(test *t) {
    fixture f = record(layered, BB_F32);
    const bb_externalize_spec specs[] = {
        {"Block", "block", NULL}, {"RMSNorm", NULL, NULL}, rms_norm};
    CHECK_INT(t, externalize(f.g, specs, 3), BB_OK);
    CHECK_INT(t, bb_external_count(f.g), 3);
    CHECK_TEXT(t, bb_external_at(f.g, 0)->path, "blocks.3.norm.rmsnorm_impl");
    CHECK_TEXT(t, bb_external_at(f.g, 1)->path, "blocks.3.norm");
    CHECK_TEXT(t, bb_external_at(f.g, 2)->path, "blocks.3");
    bb_tensor *x = graph_random(f.ctx, BB_F32, BB_SHAPE(5, 8), 9), *got;
    CHECK_INT(t, bb_graph_run(f.g, &x, 1, &got), BB_OK);
    CHECK(t, graph_same(got, layered(f.ctx, x, f.w)));
    finish(t, &f);
}

/* Recording and externalizing change nothing about the functions themselves. */
static void e16_e17_nothing_lasts(test *t) {
    fixture f = record(normed_twice, BB_F32);
    bb_context *ctx = f.ctx;
    bb_tensor *gradient[2], *x = graph_random(ctx, BB_F32, BB_SHAPE(3, 8), 5);
    bb_set_requires_grad(f.w, true);
    for (int i = 0; i < 2; i++) {
        bb_tensor *loss = bb_sum_all(normed_twice(ctx, x, f.w));
        CHECK_INT(t, bb_gradients(loss, NULL, &f.w, 1, false, &gradient[i]), BB_OK);
        if (i) break;
        CHECK_INT(t, bb_get_path(ctx), BB_PATH_AUTO);
        CHECK_INT(t, externalize(f.g, &rms_norm, 1), BB_OK);
    }
    CHECK(t, graph_same(gradient[0], gradient[1]));
    bb_externalize_undo(f.g);
    CHECK_INT(t, bb_external_count(f.g), 0);
    CHECK(t, !strstr(printed(f.g), "@"));
    /* After an error, too. */
    static const char *const missing[] = {"gamma", NULL};
    const bb_externalize_spec bad = {"RMSNormImpl", "rms_norm", missing};
    CHECK_INT(t, externalize(f.g, &bad, 1), BB_ERR_ARGUMENT);
    bb_clear_error(ctx);
    CHECK_INT(t, bb_graph_node_count(f.g, "silu"), 1);
    CHECK_INT(t, externalize(f.g, &rms_norm, 1), BB_OK);
    finish(t, &f);
}

static bb_status same_infer(bb_call *call) {
    call->meta[0] = (bb_meta){bb_dtype_of(call->in[0]), bb_shape_of(call->in[0])};
    return BB_OK;
}
static bb_status same_decompose(bb_call *call) {
    call->out[0] = call->in[0];
    return BB_OK;
}
static const bb_op same_op = {.name = "Same",
                              .doc = "input",
                              .inputs = {"input"},
                              .outputs = {"output"},
                              .infer = same_infer,
                              .decompose = same_decompose};
static bb_tensor *passed(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    bb_register_op(ctx, &same_op);
    bb_clear_error(ctx);
    return bb_mul(bb_apply1(ctx, &same_op, &x, 1, NULL), w);
}
/* What it gives back was computed: running the graph must not drop it with the op that read it. */
static bb_tensor *passed_on(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    return bb_add(passed(ctx, bb_neg(x), w), w);
}
static void e18_identity_of_a_result(test *t) {
    const bb_externalize_spec specs[] = {{"Same", "same", NULL}};
    fixture f = record(passed_on, BB_F32);
    CHECK_INT(t, externalize(f.g, specs, 1), BB_OK);
    bb_tensor *x = graph_random(f.ctx, BB_F32, BB_SHAPE(3, 8), 9), *got;
    CHECK_INT(t, bb_graph_run(f.g, &x, 1, &got), BB_OK);
    CHECK(t, graph_same(got, passed_on(f.ctx, x, f.w)));
    finish(t, &f);
}
static void e18_identity_and_symbols(test *t) {
    const bb_externalize_spec specs[] = {{"Same", "same", NULL}};
    fixture f = record(passed, BB_F32);
    CHECK_INT(t, externalize(f.g, specs, 1), BB_OK);
    CHECK_INT(t, bb_external_count(f.g), 1);
    CHECK(t, strstr(printed(f.g), "same: f32(rows, 8) = Same(x) @same_") != NULL);
    for (int64_t rows = 1; rows < 4; rows++) {
        bb_tensor *x = graph_random(f.ctx, BB_F32, BB_SHAPE(rows, 8), 9), *got;
        CHECK_INT(t, bb_graph_run(f.g, &x, 1, &got), BB_OK);
        CHECK(t, graph_same(got, bb_mul(x, f.w)));
    }
    finish(t, &f);
}

/* Seen from outside, a composite is one node with two inputs: whatever is put around it stays at
 * its boundary. And what is externalized computes what is lowered computes. */
static void e19_opaque(test *t) {
    fixture f = record(normed_twice, BB_BF16);
    bb_set_path(f.ctx, BB_PATH_COMPOSED);
    bb_tensor *x = graph_random(f.ctx, BB_BF16, BB_SHAPE(4, 8), 3), *whole, *lowered;
    CHECK_INT(t, externalize(f.g, &rms_norm, 1), BB_OK);
    CHECK_INT(t, bb_graph_node_count(f.g, "RMSNormImpl"), 2);
    CHECK_INT(t, bb_graph_node_count(f.g, "silu"), 0); /* no spec names it */
    CHECK_INT(t, bb_graph_run(f.g, &x, 1, &whole), BB_OK);
    bb_externalize_undo(f.g);
    bb_graph_lower(f.g, true);
    CHECK_INT(t, bb_graph_run(f.g, &x, 1, &lowered), BB_OK);
    CHECK(t, graph_same(whole, lowered));
    finish(t, &f);
}

static bb_tensor *plus_one(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    (void)ctx;
    return bb_rms_norm(x, bb_add_scalar(bb_cast(w, BB_F32), 1), 1e-5);
}
static bb_tensor *gated(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    bb_tensor *y = norm(ctx, x, w);
    return bb_cast(bb_mul(y, bb_silu(bb_cast(x, BB_F32))), bb_dtype_of(x));
}
static bb_tensor *weightless(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    (void)w;
    return bb_rms_norm(x, bb_ones(ctx, bb_dtype_of(x), BB_SHAPE(8)), 1e-5);
}
static void e21_variants(test *t) {
    const body variants[] = {plus_one, gated, weightless};
    for (int i = 0; i < 3; i++) {
        fixture f = record(variants[i], BB_BF16);
        CHECK_INT(t, externalize(f.g, &rms_norm, 1), BB_OK);
        CHECK_INT(t, bb_external_count(f.g), 1);
        bb_tensor *x = graph_random(f.ctx, BB_BF16, BB_SHAPE(4, 8), 3), *got;
        bb_set_path(f.ctx, BB_PATH_COMPOSED);
        CHECK_INT(t, bb_graph_run(f.g, &x, 1, &got), BB_OK);
        CHECK(t, graph_same(got, variants[i](f.ctx, x, f.w)));
        finish(t, &f);
    }
}

static const test_row rows[] = {
    {"E12 one graph for each call", e12_one_graph_for_each_call},
    {"E13 the body is the decomposition", e13_body_is_the_decomposition},
    {"E15 nesting", e15_nesting},
    {"E16, E17 nothing lasts", e16_e17_nothing_lasts},
    {"E18 identity, symbols", e18_identity_and_symbols},
    {"E18 identity of a result", e18_identity_of_a_result},
    {"E19 opaque", e19_opaque},
    {"E21 variants", e21_variants},
};
TEST_MAIN(rows)
