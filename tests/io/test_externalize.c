/* Externalizing, row by row of the contract it follows: a test is named after each of its rows, E1
 * to E21. */
#include "tests/io/graph_test.h"
#include "tests/support/alloc.h"

static const char *const norm_attrs[] = {"axes", "eps", NULL};
static const bb_externalize_spec rms_norm = {"RMSNormImpl", "rms_norm", norm_attrs};

static char warnings[4096];
static int warned;
static void keep_warning(void *user, const char *line) {
    (void)user;
    warned++;
    snprintf(warnings + strlen(warnings), sizeof warnings - strlen(warnings), "%s\n", line);
}
static bb_status externalize(bb_graph *g, const bb_externalize_spec *specs, int n) {
    warned = 0;
    warnings[0] = 0;
    return bb_externalize(g, specs, n, keep_warning, NULL);
}

static char declared[1024];
static const char *declaration(const bb_graph *g, int i) {
    bb_external_declaration(bb_external_at(g, i), declared, sizeof declared);
    return declared;
}

static char text[1 << 17];
static const char *printed(const bb_graph *g) {
    FILE *f = tmpfile();
    bb_graph_print(g, f);
    rewind(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    return text;
}

/* y = f(x) of one input (rows, 8), with parameters w (8) and v (1). */
typedef bb_tensor *(*body)(bb_context *ctx, bb_tensor *x, bb_tensor *w);
typedef struct fixture {
    bb_context *ctx;
    bb_tensor *w;
    body fn;
    bb_graph *g;
} fixture;
static bb_status run_body(void *user, bb_tensor *const *in, bb_tensor **out) {
    fixture *f = user;
    out[0] = f->fn(f->ctx, in[0], f->w);
    return bb_error(f->ctx);
}
static fixture record(body fn, bb_dtype dtype) {
    fixture f = {.ctx = test_open(), .fn = fn};
    f.w = bb_keep(graph_random(f.ctx, dtype, BB_SHAPE(8), 1));
    const bb_graph_arg x = {"x", dtype, 2, {{.symbol = "rows"}, {.size = 8}}};
    const bb_named params[] = {{"norm.weight", f.w}};
    static const char *const outputs[] = {"y"};
    const bb_graph_signature s = {&x, 1, params, 1, outputs, 1, BB_CPU};
    f.g = bb_graph_trace(f.ctx, run_body, &f, &s);
    return f;
}
static void finish(test *t, fixture *f) {
    CHECK_OK(t, f->ctx);
    bb_graph_free(f->g);
    bb_close(f->ctx);
}

static bb_tensor *norm(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    bb_module here;
    bb_module_enter(ctx, &here, "RMSNorm", "norm", -1);
    bb_tensor *y = bb_rms_norm(x, w, 1e-5);
    bb_module_leave(ctx, &here);
    return y;
}
static bb_tensor *normed_twice(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    return bb_silu(norm(ctx, norm(ctx, x, w), w));
}
static bb_tensor *layered(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    bb_module here;
    bb_module_enter(ctx, &here, "Block", "blocks", 3);
    bb_tensor *y = bb_add(x, norm(ctx, x, w));
    bb_module_leave(ctx, &here);
    return bb_mul_scalar(y, 2);
}
static bb_tensor *unused(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    norm(ctx, x, w);
    return bb_neg(x);
}
static bb_tensor *attention(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    (void)ctx, (void)w;
    return bb_sdpa(x, x, x, NULL, &(bb_sdpa_attrs){.is_causal = true, .window_size = 3});
}
static bb_tensor *normalized(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    (void)ctx;
    return bb_layer_norm(x, NULL, w, 1e-3);
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

static void e4_e14_declaration(test *t) {
    fixture f = record(norm, BB_F32);
    CHECK_INT(t, externalize(f.g, &rms_norm, 1), BB_OK);
    CHECK_TEXT(t, declaration(f.g, 0),
               "composite_declaration<\"rms_norm\" = {input_names = [\"input\", \"scale\"], "
               "op_attrs = {axes = -1 : si64, eps = 9.99999974E-6 : f32, version = 1 : si64}, "
               "output_names = [\"output\"]}>");
    const bb_external *e = bb_external_at(f.g, 0);
    CHECK_TEXT(t, e->path, "norm.rmsnorm_impl");
    CHECK_MSG(t, strncmp(e->name, "norm.rmsnorm_impl_", 18) == 0 && strlen(e->name) == 26, "%s",
              e->name);
    char short_text[16];
    CHECK_INT(t, bb_external_declaration(e, short_text, sizeof short_text), strlen(declared));
    CHECK(t, strncmp(short_text, declared, 15) == 0 && short_text[15] == 0);
    CHECK(t, strstr(printed(f.g), e->name) != NULL);
    CHECK(t, !bb_external_at(f.g, 1) && !bb_external_at(f.g, -1) && !bb_external_at(NULL, 0));
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

static void e8_absent_inputs_are_dropped(test *t) {
    static const char *const attrs[] = {"eps", NULL};
    fixture f = record(normalized, BB_F32);
    const bb_externalize_spec specs[] = {{"LayerNorm", "layer_norm", attrs}};
    CHECK_INT(t, externalize(f.g, specs, 1), BB_OK);
    const bb_external *e = bb_external_at(f.g, 0);
    CHECK_INT(t, e->n_inputs, 2); /* weight, in the middle, is absent */
    CHECK_TEXT(t, e->input_names[0], "input");
    CHECK_TEXT(t, e->input_names[1], "bias");
    finish(t, &f);
}

static bb_tensor *two_eps(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    (void)ctx;
    return bb_rms_norm_with(bb_rms_norm(x, w, 0.5), w,
                            &(bb_rms_norm_attrs){BB_INTS(-1), 0.25, BB_SCALE_THEN_ROUND});
}
static void e9_attributes_of_each_call(test *t) {
    static const char *const missing[] = {"eps", "gamma", NULL}, *const none[] = {NULL};
    fixture f = record(two_eps, BB_F32);
    CHECK_INT(t, externalize(f.g, &rms_norm, 1), BB_OK);
    CHECK(t, strstr(declaration(f.g, 0), "eps = 5.00000000E-1 : f32") != NULL);
    CHECK(t, strstr(declaration(f.g, 1), "eps = 2.50000000E-1 : f32") != NULL);
    bb_externalize_undo(f.g);
    const bb_externalize_spec bad = {"RMSNormImpl", "rms_norm", missing};
    externalize(f.g, &bad, 1);
    CHECK_ERROR(t, f.ctx, BB_ERR_ARGUMENT,
                "node rmsnorm_impl (RMSNormImpl): attribute gamma: expected one that it has");
    CHECK_INT(t, bb_external_count(f.g), 0);
    const bb_externalize_spec bare[] = {{"RMSNormImpl", "rms_norm", none}};
    CHECK_INT(t, externalize(f.g, bare, 1), BB_OK);
    CHECK(t, strstr(declaration(f.g, 0), "op_attrs = {version = 1 : si64}") != NULL);
    finish(t, &f);
}

/* An op of a user with attributes of every kind. */
typedef struct all_attrs {
    int64_t version, whole;
    double real;
    bool flag;
    int choice;
    bb_ints list, empty;
} all_attrs;
static bb_status all_infer(bb_call *call) {
    call->meta[0] = (bb_meta){bb_dtype_of(call->in[0]), bb_shape_of(call->in[0])};
    return BB_OK;
}
static bb_status all_decompose(bb_call *call) {
    call->out[0] = bb_neg(call->in[0]);
    return bb_error(call->ctx);
}
static const bb_op all_op = {
    .name = "AllKinds",
    .doc = "-input",
    .inputs = {"input"},
    .outputs = {"output"},
    .attrs = {{"version", BB_ATTR_INT, offsetof(all_attrs, version), .value = 7},
              {"whole", BB_ATTR_INT, offsetof(all_attrs, whole), .value = -3},
              {"real", BB_ATTR_FLOAT, offsetof(all_attrs, real), .value = 0.1},
              {"flag", BB_ATTR_BOOL, offsetof(all_attrs, flag), .value = 1},
              {"choice", BB_ATTR_CHOICE, offsetof(all_attrs, choice), .value = 1,
               .choices = "a|bc|d"},
              {"list", BB_ATTR_INTS, offsetof(all_attrs, list), .ints = {3, {4, 5, 6}}},
              {"empty", BB_ATTR_INTS, offsetof(all_attrs, empty), .ints = {0, {0}}}},
    .attrs_bytes = sizeof(all_attrs),
    .infer = all_infer,
    .decompose = all_decompose,
};
static void e10_encodings(test *t) {
    static const char *const names[] = {"whole", "version", "real",   "list",
                                        "flag",  "empty",   "choice", NULL};
    const bb_externalize_spec spec = {"AllKinds", "all_kinds", names};
    for (int bad = 0; bad < 3; bad++) {
        bb_context *ctx = test_open();
        bb_register_op(ctx, &all_op);
        all_attrs attrs;
        bb_op_default_attrs(&all_op, &attrs);
        if (bad) attrs.real = bad == 1 ? 1e300 : NAN;
        bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(2));
        bb_graph *g = bb_graph_begin(ctx);
        bb_graph_input(g, "x", x);
        bb_graph_output(g, "y", bb_apply1(ctx, &all_op, &x, 1, &attrs));
        bb_graph_end(g);
        bb_status status = externalize(g, &spec, 1);
        if (bad) {
            CHECK_INT(t, status, BB_ERR_ARGUMENT);
            CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                        "node all_kinds (AllKinds): attribute real: Unsupported value provided in "
                        "composite declaration");
        } else {
            CHECK(t, strstr(declaration(g, 0),
                            "op_attrs = {choice = \"bc\", flag = true, list = [4 : si64, 5 : si64, "
                            "6 : si64], real = 1.00000001E-1 : f32, version = 1 : si64, "
                            "whole = -3 : si64}") != NULL);
        }
        CHECK_OK(t, ctx);
        bb_graph_free(g);
        bb_close(ctx);
    }
}

static bb_graph *all_graph(bb_context *ctx) {
    bb_register_op(ctx, &all_op);
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(2));
    bb_graph *g = bb_graph_begin(ctx);
    bb_graph_input(g, "x", x);
    bb_graph_output(g, "y", bb_apply1(ctx, &all_op, &x, 1, NULL));
    bb_graph_end(g);
    return g;
}
static void e10_dictionaries(test *t) {
    static const char *const names[] = {"group.whole", "choice",        "group.deep.flag",
                                        "group.real",  "group.version", "group.deep.list",
                                        "none.empty",  "group.real",    NULL};
    static const struct {
        const char *names[3], *message;
    } bad[] = {
        {{"whole", "whole.real"}, "attribute whole.real: expected a value or a dictionary"},
        {{"whole.real", "whole"}, "attribute whole: expected a value or a dictionary"},
        {{"a..flag"}, "attribute a..flag: expected a name before and after each dot"},
        {{".flag"}, "attribute .flag: expected a name before and after each dot"},
        {{"a."}, "attribute : expected one that it has"},
        {{"a.nothing"}, "attribute nothing: expected one that it has"},
    };
    bb_context *ctx = test_open();
    bb_graph *g = all_graph(ctx);
    const bb_externalize_spec spec = {"AllKinds", "all_kinds", names};
    CHECK_INT(t, externalize(g, &spec, 1), BB_OK);
    CHECK_MSG(
        t,
        strstr(declaration(g, 0),
               "op_attrs = {choice = \"bc\", group = {deep = {flag = true, list = [4 : si64, "
               "5 : si64, 6 : si64]}, real = 1.00000001E-1 : f32, version = 7 : si64, whole = "
               "-3 : si64}, version = 1 : si64}, ") != NULL,
        "%s", declaration(g, 0));
    const bb_external_attr *group = &bb_external_at(g, 0)->attrs[1];
    CHECK(t, group->kind == BB_EXTERNAL_DICT && group->n_items == 4);
    CHECK_TEXT(t, group->items[0].items[1].name, "list");
    /* ONNX has no attribute that holds another. */
    CHECK_INT(t, bb_onnx_save(g, "dictionary.onnx", NULL), BB_ERR_UNSUPPORTED);
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED,
                "onnx: node all_kinds: attribute group: a dictionary, which ONNX cannot hold");
    CHECK(t, fopen("dictionary.onnx", "r") == NULL);
    bb_graph_free(g);
    bb_end_step(ctx);
    bb_close(ctx);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ctx = test_open();
        g = all_graph(ctx);
        const bb_externalize_spec wrong = {"AllKinds", "all_kinds", bad[i].names};
        CHECK_INT(t, externalize(g, &wrong, 1), BB_ERR_ARGUMENT);
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, bad[i].message);
        CHECK_INT(t, bb_external_count(g), 0);
        bb_graph_free(g);
        bb_close(ctx);
    }
}

static void e11_names(test *t) {
    bb_context *ctx = test_open();
    bb_graph *g = graph_of_model(graph_model(ctx, BB_F32, false, false));
    const bb_externalize_spec specs[] = {{"MLP", "mlp", NULL}};
    CHECK_INT(t, externalize(g, specs, 1), BB_OK);
    CHECK_INT(t, bb_external_count(g), 2);
    CHECK_TEXT(t, declaration(g, 1),
               "composite_declaration<\"mlp\" = {input_names = [\"gate.weight\", \"up.weight\", "
               "\"down.weight\", \"input\"], op_attrs = {version = 1 : si64}, output_names = "
               "[\"output\"]}>");
    CHECK_OK(t, ctx);
    bb_graph_free(g);
    bb_close(ctx);
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

static bb_status same_infer(bb_call *call) { return all_infer(call); }
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

static void e20_other_composites(test *t) {
    fixture f = record(attention, BB_F32);
    int n;
    const bb_externalize_spec *specs = bb_externalize_defaults(&n);
    CHECK_INT(t, bb_externalize(f.g, specs, n, NULL, NULL), BB_OK);
    CHECK_TEXT(
        t, declaration(f.g, 0),
        "composite_declaration<\"scaled_dot_product_attention\" = {input_names = [\"query\", "
        "\"key\", \"value\"], op_attrs = {is_causal = true, scale = 0.00000000E+0 : f32, "
        "version = 1 : si64, window_size = 3 : si64}, output_names = [\"output\"]}>");
    finish(t, &f);
    bb_context *ctx = test_open();
    for (int i = 0; i < n; i++) {
        const bb_op *op = bb_find_op(ctx, specs[i].target);
        CHECK_MSG(t, op && op->decompose, "%s", specs[i].target);
        for (int k = 0; specs[i].composite_attrs[k]; k++) {
            bool has = false;
            for (const bb_attr *a = op->attrs; a->name; a++)
                has |= strcmp(a->name, specs[i].composite_attrs[k]) == 0;
            CHECK_MSG(t, has, "%s: %s", specs[i].target, specs[i].composite_attrs[k]);
        }
    }
    bb_close(ctx);
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
    {"E4, E14 declaration", e4_e14_declaration},
    {"E5 an unmatched target warns", e5_unmatched_target_warns},
    {"E6 never called warns", e6_never_called_warns},
    {"E7 twice", e7_twice},
    {"E8 absent inputs are dropped", e8_absent_inputs_are_dropped},
    {"E9 attributes of each call", e9_attributes_of_each_call},
    {"E10 encodings", e10_encodings},
    {"E10 dictionaries", e10_dictionaries},
    {"E11 names", e11_names},
    {"E12 one graph for each call", e12_one_graph_for_each_call},
    {"E13 the body is the decomposition", e13_body_is_the_decomposition},
    {"E15 nesting", e15_nesting},
    {"E16, E17 nothing lasts", e16_e17_nothing_lasts},
    {"E18 identity, symbols", e18_identity_and_symbols},
    {"E19 opaque", e19_opaque},
    {"E20 other composites", e20_other_composites},
    {"E21 variants", e21_variants},
    {"memory", memory}};
TEST_MAIN(rows)
