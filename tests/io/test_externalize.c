/* Externalizing: what a spec matches, and what it says when it cannot. What a declaration holds is
 * test_externalize_declaration.c, what becomes of the graph test_externalize_graph.c. */
#include "tests/io/externalize_test.h"
#include "tests/support/alloc.h"

static bb_tensor *unused(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    norm(ctx, x, w);
    return bb_neg(x);
}
static void e1_attrs_without_a_name(test *t) {
    fixture f = record(norm, BB_F32);
    const bb_externalize_spec bad = {"RMSNormImpl", NULL, norm_attrs};
    CHECK_INT(t, externalize(f.g, &bad, 1), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, f.ctx, BB_ERR_ARGUMENT,
                "ExternalizeSpec: ['composite_attrs'] can only be set when composite_op_name is "
                "provided.");
    const bb_externalize_spec empty = {NULL, "rms_norm", NULL};
    externalize(f.g, &empty, 1);
    CHECK_ERROR(t, f.ctx, BB_ERR_ARGUMENT, "spec 0: target: expected a name, got none");
    finish(t, &f);
}

static void e2_first_spec_wins(test *t) {
    fixture f = record(norm, BB_F32);
    const bb_externalize_spec two[] = {{"RMSNormImpl", "first", norm_attrs}, rms_norm};
    CHECK_INT(t, externalize(f.g, two, 2), BB_OK);
    CHECK_INT(t, warned, 0);
    CHECK_INT(t, bb_external_count(f.g), 1);
    CHECK_TEXT(t, bb_external_at(f.g, 0)->composite, "first");
    finish(t, &f);
}

static bb_tensor *under_root(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    return bb_add(norm(ctx, x, w), x);
}
/* Layers that were entered outside of the recorded function are not the graph's. */
static void e2_root_is_never_matched(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *w = bb_keep(bb_ones(ctx, BB_F32, BB_SHAPE(8))),
              *x = bb_ones(ctx, BB_F32, BB_SHAPE(2, 8));
    bb_module root;
    bb_module_enter(ctx, &root, "Model", "model", -1);
    bb_graph *g = bb_graph_begin(ctx);
    bb_graph_input(g, "x", x);
    bb_graph_output(g, "y", under_root(ctx, x, w));
    bb_graph_end(g);
    bb_module_leave(ctx, &root);
    const bb_externalize_spec specs[] = {{"Model", NULL, NULL}};
    CHECK_INT(t, externalize(g, specs, 1), BB_OK);
    CHECK_INT(t, bb_external_count(g), 0);
    CHECK_INT(t, warned, 1);
    CHECK_OK(t, ctx);
    bb_graph_free(g);
    bb_close(ctx);
}

static void e3_without_a_name(test *t) {
    fixture f = record(layered, BB_F32);
    const bb_externalize_spec specs[] = {{"Block", NULL, NULL}, rms_norm};
    CHECK_INT(t, externalize(f.g, specs, 2), BB_OK);
    CHECK_INT(t, bb_external_count(f.g), 2);
    const bb_external *block = bb_external_at(f.g, 1);
    CHECK(t, !block->composite);
    CHECK_INT(t, block->n_attrs, 0);
    CHECK_TEXT(t, block->path, "blocks.3");
    CHECK_INT(t, (int)bb_external_declaration(block, declared, sizeof declared), 0);
    CHECK(t, bb_external_at(f.g, 0)->composite != NULL);
    finish(t, &f);
}

static void e5_unmatched_target_warns(test *t) {
    fixture f = record(norm, BB_F32);
    const bb_externalize_spec specs[] = {{"RoPE", "rope", NULL}, rms_norm};
    CHECK_INT(t, externalize(f.g, specs, 2), BB_OK);
    CHECK_INT(t, warned, 1);
    CHECK(t, strstr(warnings, "target RoPE matches nothing in the graph") != NULL);
    CHECK_INT(t, bb_external_count(f.g), 1);
    bb_externalize_undo(f.g);
    CHECK_INT(t, bb_externalize(f.g, specs, 2, NULL, NULL), BB_OK); /* nobody to tell */
    finish(t, &f);
}

static void e6_never_called_warns(test *t) {
    fixture f = record(unused, BB_F32);
    CHECK_INT(t, externalize(f.g, &rms_norm, 1), BB_OK);
    CHECK_INT(t, warned, 1);
    CHECK(t, strstr(warnings, "No call sites found for externalized submodule "
                              "'norm.rmsnorm_impl'") != NULL);
    CHECK(t, strstr(warnings, "skipping unused submodule 'norm.rmsnorm_impl'") != NULL);
    CHECK_INT(t, bb_external_count(f.g), 0);
    finish(t, &f);
}

static void e7_twice(test *t) {
    fixture f = record(norm, BB_F32);
    CHECK_INT(t, externalize(f.g, &rms_norm, 1), BB_OK);
    externalize(f.g, &rms_norm, 1);
    CHECK_ERROR(t, f.ctx, BB_ERR_STATE, "externalized already (bb_externalize_undo)");
    bb_graph_lower(f.g, true);
    CHECK_ERROR(t, f.ctx, BB_ERR_STATE, "externalized (bb_externalize_undo)");
    bb_externalize_undo(f.g);
    CHECK_INT(t, externalize(f.g, &rms_norm, 1), BB_OK);
    finish(t, &f);
}

static void whole_life(bb_context *ctx) {
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(2, 4)), *w = bb_ones(ctx, BB_F32, BB_SHAPE(4));
    bb_graph *g = bb_graph_begin(ctx);
    bb_graph_input(g, "x", x);
    bb_graph_output(g, "y", norm(ctx, x, w));
    bb_graph_end(g);
    bb_externalize(g, &rms_norm, 1, NULL, NULL);
    bb_externalize_undo(g);
    bb_graph_free(g);
}
static void memory(test *t) { alloc_failure_loop(t, whole_life); }

static const test_row rows[] = {
    {"E1 attributes without a name", e1_attrs_without_a_name},
    {"E2 the first spec wins", e2_first_spec_wins},
    {"E2 the root is never matched", e2_root_is_never_matched},
    {"E3 without a name", e3_without_a_name},
    {"E5 an unmatched target warns", e5_unmatched_target_warns},
    {"E6 never called warns", e6_never_called_warns},
    {"E7 twice", e7_twice},
    {"memory", memory},
};
TEST_MAIN(rows)
