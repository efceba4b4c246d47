/* Externalizing: names, inputs and attributes of a declaration, and how each kind is written
 * (io/declaration.c). See tests/io/externalize_test.h. */
#include "tests/io/externalize_test.h"

static bb_tensor *attention(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    (void)ctx, (void)w;
    return bb_sdpa(x, x, x, NULL, &(bb_sdpa_attrs){.is_causal = true, .window_size = 3});
}
static bb_tensor *normalized(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    (void)ctx;
    return bb_layer_norm(x, NULL, w, 1e-3);
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
    bb_externalize_undo(f.g);
    /* Every declaration has a version, whether the op has such an attribute or not. */
    static const char *const version[] = {"version", NULL};
    const bb_externalize_spec listed[] = {{"RMSNormImpl", "rms_norm", version}};
    CHECK_INT(t, externalize(f.g, listed, 1), BB_OK);
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
    for (int i = 0; i < COUNT(bad); i++) {
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

/* Two values leave a layer, in the order in which they were made. */
static bb_tensor *two_outputs(bb_context *ctx, bb_tensor *x, bb_tensor *w) {
    bb_module here;
    bb_module_enter(ctx, &here, "Twin", "twin", -1);
    bb_tensor *a = bb_mul(x, w), *b = bb_neg(a);
    bb_module_leave(ctx, &here);
    return bb_sub(bb_exp(a), b);
}
static void e11_several_outputs(test *t) {
    fixture f = record(two_outputs, BB_F32);
    const bb_externalize_spec specs[] = {{"Twin", "twin", NULL}};
    CHECK_INT(t, externalize(f.g, specs, 1), BB_OK);
    CHECK_TEXT(t, declaration(f.g, 0),
               "composite_declaration<\"twin\" = {input_names = [\"norm.weight\", \"input\"], "
               "op_attrs = {version = 1 : si64}, output_names = [\"output_0\", \"output_1\"]}>");
    bb_tensor *x = graph_random(f.ctx, BB_F32, BB_SHAPE(3, 8), 9), *got;
    CHECK_INT(t, bb_graph_run(f.g, &x, 1, &got), BB_OK);
    CHECK(t, graph_same(got, two_outputs(f.ctx, x, f.w)));
    finish(t, &f);
}

/* Names and attributes by which others know each of them. */
static void e20_names(test *t) {
    static const struct {
        const char *target, *name, *attrs;
    } known[] = {{"RMSNormImpl", "rms_norm", "axes eps "},
                 {"LayerNorm", "layer_norm", "axes eps "},
                 {"RoPE", "rope", "base dims interleaved offset scale "},
                 {"SDPA", "scaled_dot_product_attention", "is_causal scale window_size "}};
    int n;
    const bb_externalize_spec *specs = bb_externalize_defaults(&n);
    for (int i = 0; i < COUNT(known); i++) {
        char attrs[128] = "";
        int k = 0;
        while (k < n && strcmp(specs[k].target, known[i].target) != 0) k++;
        if (!CHECK_MSG(t, k < n, "no spec for %s", known[i].target)) continue;
        CHECK_TEXT(t, specs[k].composite_op_name, known[i].name);
        for (int a = 0; specs[k].composite_attrs[a]; a++)
            snprintf(attrs + strlen(attrs), sizeof attrs - strlen(attrs), "%s ",
                     specs[k].composite_attrs[a]);
        CHECK_TEXT(t, attrs, known[i].attrs);
    }
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

static const test_row rows[] = {
    {"E4, E14 declaration", e4_e14_declaration},
    {"E8 absent inputs are dropped", e8_absent_inputs_are_dropped},
    {"E9 attributes of each call", e9_attributes_of_each_call},
    {"E10 encodings", e10_encodings},
    {"E10 dictionaries", e10_dictionaries},
    {"E11 names", e11_names},
    {"E11 several outputs", e11_several_outputs},
    {"E20 other composites", e20_other_composites},
    {"E20 names", e20_names},
};
TEST_MAIN(rows)
