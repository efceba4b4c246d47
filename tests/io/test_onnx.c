/* ONNX files: what is in them, by a reader of our own; what onnxruntime makes of them at sizes that
 * were never recorded. The traps of others: test_onnx_traps.c; failures: test_onnx_failures.c. */
#include "core/impl.h"
#include "tests/io/graph_test.h"
#include "tests/io/onnx_test.h"

static void check_rms_norm_body(test *t, pb function) {
    CHECK(t, pb_text_is(function, 4, 0, "input") && pb_text_is(function, 4, 1, "scale"));
    CHECK(t, pb_text_is(function, 5, 0, "output"));
    CHECK(t, pb_text_is(function, 10, 0, "bobbin"));
    CHECK_INT(t, pb_count(function, 4), 2);
    CHECK_INT(t, pb_count(function, 6), 3); /* axes, eps, version */
    static const char *const types[] = {"Mul", "ReduceMean", "Add", "Sqrt", "Reciprocal"};
    static const int counts[] = {3, 1, 1, 1, 1};
    for (int i = 0; i < 5; i++) CHECK_INT(t, onnx_nodes(function, 7, types[i]), counts[i]);
    CHECK_INT(t, pb_count(function, 7), 7 + 2); /* and two constants, which are references: */
    int references = 0;
    for (pb p = function; pb_find(&p, 7);) {
        pb node = pb_inside(&p), attr;
        if (onnx_attr(node, "value_ints", &attr)) references += pb_text_is(attr, 21, 0, "axes");
        if (onnx_attr(node, "value_float", &attr)) references += pb_text_is(attr, 21, 0, "eps");
    }
    CHECK_INT(t, references, 2);
}

static void check_call(test *t, pb node) {
    pb attr;
    float eps = 1e-5f;
    uint32_t bits;
    memcpy(&bits, &eps, sizeof bits);
    CHECK_INT(t, pb_count(node, 1), 2);
    CHECK(t, pb_text_is(node, 7, 0, "bobbin"));
    CHECK(t,
          onnx_attr(node, "eps", &attr) && pb_number(attr, 2) == bits && pb_number(attr, 20) == 1);
    CHECK(t,
          onnx_attr(node, "axes", &attr) && pb_number(attr, 8) == -1 && pb_number(attr, 20) == 7);
    CHECK(t, onnx_attr(node, "version", &attr) && pb_number(attr, 3) == 1);
}

static void test_composite_model(test *t) {
    scratch s = scratch_open();
    bb_context *ctx = test_open();
    bb_graph *g = graph_of_model(graph_model(ctx, BB_F32, false, false));
    CHECK_INT(t, bb_onnx_save(g, scratch_path(&s, "m.onnx"), NULL), BB_OK);
    CHECK_OK(t, ctx);
    onnx_file f = onnx_read(s.path);
    pb p = f.model, function;
    CHECK_INT(t, pb_number(f.model, 1), 8);
    CHECK(t, pb_find(&p, 8) && pb_number(pb_inside(&p), 2) == 18);
    CHECK(t, pb_find(&p, 8) && pb_text_is(pb_inside(&p), 1, 0, "bobbin"));
    CHECK_INT(t, pb_count(f.model, 25), 4);
    CHECK(t, onnx_function(&f, "rms_norm", &function));
    CHECK(t, !onnx_function(&f, "rms_norm_2", &function));
    onnx_function(&f, "rms_norm", &function);
    check_rms_norm_body(t, function);
    CHECK_INT(t, onnx_nodes(f.graph, 1, "rms_norm"), 2 * 2 + 1);
    CHECK_INT(t, onnx_nodes(f.graph, 1, "rope"), 2);
    CHECK_INT(t, onnx_nodes(f.graph, 1, "scaled_dot_product_attention"), 2);
    static const char *const scales[] = {"blocks.0.attn_norm.weight", "blocks.0.mlp_norm.weight",
                                         "blocks.1.attn_norm.weight", "blocks.1.mlp_norm.weight",
                                         "norm.weight"};
    int call = 0;
    for (p = f.graph; pb_find(&p, 1);) {
        pb node = pb_inside(&p);
        if (!pb_text_is(node, 4, 0, "rms_norm")) continue;
        check_call(t, node);
        CHECK_MSG(t, call < 5 && pb_text_is(node, 1, 1, scales[call]), "call %d", call);
        call++;
    }
    /* The parameters, with their values. */
    CHECK_INT(t, pb_count(f.graph, 5), 2 * 7 + 3);
    int found = 0;
    for (p = f.graph; pb_find(&p, 5);) {
        pb tensor = pb_inside(&p), raw = tensor;
        if (!pb_text_is(tensor, 8, 0, "norm.weight")) continue;
        found++;
        CHECK_INT(t, pb_number(tensor, 1), 24);
        CHECK_INT(t, pb_number(tensor, 2), 1);
        CHECK(t, pb_find(&raw, 9) && raw.span.n == 24 * 4);
    }
    CHECK_INT(t, found, 1);
    /* ids (batch, time) i64 */
    p = f.graph;
    CHECK_INT(t, pb_count(f.graph, 11), 1);
    CHECK(t, pb_find(&p, 11));
    pb info = pb_inside(&p), type = info;
    CHECK(t, pb_text_is(info, 1, 0, "ids") && pb_find(&type, 2));
    pb tensor = pb_inside(&type);
    CHECK(t, pb_find(&tensor, 1));
    pb inside = pb_inside(&tensor), shape = inside;
    CHECK_INT(t, pb_number(inside, 1), 7);
    CHECK(t, pb_find(&shape, 2));
    pb dims = pb_inside(&shape);
    CHECK(t, pb_find(&dims, 1) && pb_text_is(pb_inside(&dims), 2, 0, "batch"));
    CHECK(t, pb_find(&dims, 1) && pb_text_is(pb_inside(&dims), 2, 0, "time"));
    onnx_close(&f);
    bb_graph_free(g);
    bb_close(ctx);
    scratch_close(&s);
}

static void test_modes(test *t) {
    scratch s = scratch_open();
    bb_context *ctx = test_open();
    bb_graph *g = graph_of_model(graph_model(ctx, BB_F32, false, false));
    for (int m = 1; m < 3; m++) {
        const bb_onnx_options how = {.mode = (bb_onnx_mode)m};
        CHECK_INT(t, bb_onnx_save(g, scratch_path(&s, "m.onnx"), &how), BB_OK);
        onnx_file f = onnx_read(s.path);
        CHECK_INT(t, pb_number(f.model, 1), m == 1 ? 11 : 8);
        CHECK_INT(t, onnx_nodes(f.graph, 1, "RMSNormalization"), m == 1 ? 5 : 0);
        CHECK_INT(t, onnx_nodes(f.graph, 1, "RotaryEmbedding"), m == 1 ? 2 : 0);
        CHECK_INT(t, onnx_nodes(f.graph, 1, "Attention"), m == 1 ? 2 : 0);
        CHECK_INT(t, pb_count(f.model, 25), m == 1 ? 1 : 0); /* swiglu */
        CHECK_INT(t, onnx_nodes(f.graph, 1, "ReduceMean"), m == 1 ? 0 : 5);
        onnx_close(&f);
    }
    /* The graph is what it was: nothing stays lowered or externalized. */
    CHECK_INT(t, bb_graph_node_count(g, "RMSNormImpl"), 5);
    CHECK_INT(t, bb_external_count(g), 0);
    CHECK_OK(t, ctx);
    bb_graph_free(g);
    bb_close(ctx);
    scratch_close(&s);
}

static void test_runs(test *t) {
    static const int64_t sizes[][2] = {{1, 1}, {3, 11}, {5, 2}, {1, 20}};
    static const struct {
        const char *name, *tolerance;
        bb_dtype dtype;
        bool qk_norm, tied, layers;
    } models[] = {{"plain", "1e-5", BB_F32, false, false, false},
                  {"qk_tied", "1e-5", BB_F32, true, true, false},
                  {"layers", "1e-5", BB_F32, true, false, true},
                  {"half", "2e-2", BB_F16, true, false, false},
                  {"brain", "2e-1", BB_BF16, false, false, false}};
    static const bb_externalize_spec layers[] = {{"TransformerBlock", NULL, NULL},
                                                 {"MLP", "mlp", NULL},
                                                 {"RMSNorm", "norm", NULL},
                                                 {"RMSNormImpl", "rms_norm", NULL},
                                                 {"SDPA", NULL, NULL}};
    scratch s = scratch_open();
    for (int i = 0; i < 5; i++) {
        bb_context *ctx = test_open();
        bb_nn_transformer *model =
            graph_model(ctx, models[i].dtype, models[i].qk_norm, models[i].tied);
        bb_graph *g = graph_of_model(model);
        for (int m = 0; m < ONNX_MODES; m++) {
            char name[ONNX_NAME];
            bb_onnx_options how = {.mode = (bb_onnx_mode)m, .external_data = m == 2};
            if (models[i].layers && m < 2) how.specs = layers, how.n_specs = 5;
            CHECK_INT(t, onnx_save_as(g, &s, models[i].name, &how, name), BB_OK);
            CHECK_OK(t, ctx);
            for (int k = 0; k < (models[i].dtype == BB_BF16 ? 1 : 4); k++) {
                bb_tensor *ids = graph_ids(ctx, sizes[k][0], sizes[k][1], 19), *logits;
                logits = bb_nn_transformer_forward(model, ids);
                onnx_expect(&s, name, k, &(bb_named){"ids", ids}, 1, (bb_named){"logits", logits},
                            models[i].tolerance, models[i].dtype == BB_BF16);
            }
        }
        CHECK_OK(t, ctx);
        bb_graph_free(g);
        bb_close(ctx);
    }
    onnx_run_all(t, &s);
    scratch_close(&s);
}

/* What other architectures are made of: shared norms of heads, biases, windows, zero-centred
 * scales, scaled embeddings, GELU. */
static void test_architectures(test *t) {
    static const bb_nn_config configs[] = {{.vocab = 19,
                                            .dim = 24,
                                            .layers = 2,
                                            .heads = 4,
                                            .kv_heads = 1,
                                            .head_dim = 8,
                                            .hidden = 40,
                                            .max_seq = 32,
                                            .zero_centered_norm = true,
                                            .embed_scale = 4.9,
                                            .activation = BB_NN_GELU_TANH,
                                            .tie_embeddings = true,
                                            .dtype = BB_F32},
                                           {.vocab = 19,
                                            .dim = 24,
                                            .layers = 2,
                                            .heads = 4,
                                            .kv_heads = 2,
                                            .hidden = 40,
                                            .max_seq = 32,
                                            .qk_norm_shared = true,
                                            .qkv_bias = true,
                                            .out_bias = true,
                                            .mlp_bias = true,
                                            .window = 3,
                                            .window_from = 1,
                                            .dtype = BB_F32}};
    static const int64_t sizes[][2] = {{1, 1}, {3, 11}, {2, 5}};
    scratch s = scratch_open();
    for (int i = 0; i < 2; i++) {
        bb_context *ctx = test_open();
        bb_nn_transformer *model = graph_model_of(ctx, &configs[i]);
        bb_graph *g = model ? graph_of_model(model) : NULL;
        for (int m = 0; g && m < ONNX_MODES; m++) {
            char name[ONNX_NAME];
            const bb_onnx_options how = {.mode = (bb_onnx_mode)m};
            CHECK_INT(t, onnx_save_as(g, &s, i ? "shared" : "centred", &how, name), BB_OK);
            for (int k = 0; k < 3; k++) {
                bb_tensor *ids = graph_ids(ctx, sizes[k][0], sizes[k][1], 19), *logits;
                logits = bb_nn_transformer_forward(model, ids);
                onnx_expect(&s, name, k, &(bb_named){"ids", ids}, 1, (bb_named){"logits", logits},
                            "1e-5", false);
            }
        }
        CHECK_OK(t, ctx);
        bb_graph_free(g);
        bb_close(ctx);
    }
    onnx_run_all(t, &s);
    scratch_close(&s);
}

static const test_row rows[] = {{"a composite model", test_composite_model},
                                {"modes", test_modes},
                                {"runs at other sizes", test_runs},
                                {"architectures", test_architectures}};
TEST_MAIN(rows)
