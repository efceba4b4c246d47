/* ONNX files: what is in them, by a reader of our own; what onnxruntime makes of them at sizes that
 * were never recorded; the traps of others; and that a failure leaves no file. */
#include "core/impl.h"
#include "tests/io/graph_test.h"
#include "tests/io/onnx_test.h"
#include "tests/support/alloc.h"

static const char *const ids_name[] = {"ids"}, *const logits_name[] = {"logits"};
static const char *const modes[] = {"composite", "native", "decomposed"};

/* ---- A transformer */

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
        for (int m = 0; m < 3; m++) {
            char name[64];
            bb_onnx_options how = {.mode = (bb_onnx_mode)m, .external_data = m == 2};
            if (models[i].layers && m < 2) how.specs = layers, how.n_specs = 5;
            snprintf(name, sizeof name, "%s_%s.onnx", models[i].name, modes[m]);
            CHECK_INT(t, bb_onnx_save(g, scratch_path(&s, name), &how), BB_OK);
            CHECK_OK(t, ctx);
            name[strlen(name) - 5] = 0;
            for (int k = 0; k < (models[i].dtype == BB_BF16 ? 1 : 4); k++) {
                bb_tensor *ids = graph_ids(ctx, sizes[k][0], sizes[k][1], 19), *logits;
                logits = bb_nn_transformer_forward(model, ids);
                onnx_expect(ctx, &s, name, k, ids_name, &ids, 1, logits_name, &logits, 1,
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
        for (int m = 0; g && m < 3; m++) {
            char name[64];
            const bb_onnx_options how = {.mode = (bb_onnx_mode)m};
            snprintf(name, sizeof name, "%d_%s.onnx", i, modes[m]);
            CHECK_INT(t, bb_onnx_save(g, scratch_path(&s, name), &how), BB_OK);
            name[strlen(name) - 5] = 0;
            for (int k = 0; k < 3; k++) {
                bb_tensor *ids = graph_ids(ctx, sizes[k][0], sizes[k][1], 19), *logits;
                logits = bb_nn_transformer_forward(model, ids);
                onnx_expect(ctx, &s, name, k, ids_name, &ids, 1, logits_name, &logits, 1, "1e-5",
                            false);
            }
        }
        CHECK_OK(t, ctx);
        bb_graph_free(g);
        bb_close(ctx);
    }
    onnx_run_all(t, &s);
    scratch_close(&s);
}

/* ---- Traps */

typedef struct trap {
    const char *name;
    bb_dtype x, scale;
    bb_shape x_shape, scale_shape;
    bb_rms_norm_attrs attrs;
    bool zero_centred;
    bool native; /* RMSNormalization means exactly this */
    double size; /* of x */
    const char *tolerance;
} trap;

static const trap traps[] = {
    {"plain", BB_F32, BB_F32, {2, {3, 8}}, {1, {8}}, {{1, {-1}}, 1e-6, 0}, false, true, 1, "1e-5"},
    {"last_two",
     BB_F32,
     BB_F32,
     {3, {3, 4, 8}},
     {2, {4, 8}},
     {{2, {1, 2}}, 1e-3, 0},
     false,
     true,
     1,
     "1e-5"},
    {"first_axes",
     BB_F32,
     BB_F32,
     {3, {3, 4, 8}},
     {3, {3, 4, 1}},
     {{2, {0, 1}}, 1e-3, 0},
     false,
     false,
     1,
     "1e-5"},
    {"low_rank",
     BB_F32,
     BB_F32,
     {3, {3, 4, 8}},
     {1, {8}},
     {{2, {1, 2}}, 1e-3, 0},
     false,
     false,
     1,
     "1e-5"},
    {"heads",
     BB_F32,
     BB_F32,
     {4, {2, 3, 4, 8}},
     {3, {3, 1, 8}},
     {{1, {-1}}, 1e-5, 0},
     false,
     false,
     1,
     "1e-5"},
    {"grown",
     BB_F32,
     BB_F32,
     {4, {2, 1, 4, 8}},
     {3, {3, 1, 8}},
     {{1, {-1}}, 1e-5, 0},
     false,
     false,
     1,
     "1e-5"},
    {"one", BB_F32, BB_F32, {2, {3, 8}}, {1, {1}}, {{1, {-1}}, 1e-5, 0}, false, false, 1, "1e-5"},
    {"f16_large",
     BB_F16,
     BB_F16,
     {2, {3, 8}},
     {1, {8}},
     {{1, {-1}}, 1e-5, 0},
     false,
     true,
     30000,
     "2e-3"},
    {"f16_mixed",
     BB_F16,
     BB_F32,
     {2, {3, 8}},
     {1, {8}},
     {{1, {-1}}, 1e-5, 0},
     false,
     false,
     1,
     "2e-3"},
    {"f16_last",
     BB_F16,
     BB_F16,
     {2, {3, 8}},
     {1, {8}},
     {{1, {-1}}, 1e-5, 2},
     false,
     false,
     1,
     "2e-3"},
    {"f64", BB_F64, BB_F64, {2, {3, 8}}, {1, {8}}, {{1, {-1}}, 1e-9, 0}, false, false, 1, "1e-12"},
    {"zero_centred",
     BB_F16,
     BB_F16,
     {2, {3, 8}},
     {1, {8}},
     {{1, {-1}}, 1e-5, 0},
     true,
     false,
     1,
     "1e-3"},
    {"tiny_eps",
     BB_F32,
     BB_F32,
     {2, {3, 8}},
     {1, {8}},
     {{1, {-1}}, 1e-12, 0},
     false,
     true,
     1e-5,
     "1e-4"},
};

static void test_traps(test *t) {
    static const char *const names[] = {"x", "scale"}, *const out_name[] = {"y"};
    scratch s = scratch_open();
    for (size_t i = 0; i < sizeof traps / sizeof traps[0]; i++) {
        const trap *c = &traps[i];
        bb_context *ctx = test_open();
        bb_tensor *in[2], *y;
        in[0] = bb_cast(
            bb_mul_scalar(bb_clamp(graph_random(ctx, BB_F32, c->x_shape, 3), -2, 2), c->size),
            c->x);
        in[1] = bb_cast(
            bb_mul_scalar(graph_random(ctx, BB_F32, c->scale_shape, 4), c->zero_centred ? 3e-4 : 1),
            c->scale);
        bb_graph *g = bb_graph_begin(ctx);
        for (int k = 0; k < 2; k++) bb_graph_input(g, names[k], in[k]);
        /* 1 + gamma is taken in f32: in f16 a gamma this small would vanish. */
        bb_tensor *scale = c->zero_centred ? bb_add_scalar(bb_cast(in[1], BB_F32), 1) : in[1];
        y = bb_rms_norm_with(in[0], scale, &c->attrs);
        bb_graph_output(g, "y", y);
        bb_graph_end(g);
        for (int m = 0; m < 3; m++) {
            char name[64];
            const bb_onnx_options how = {.mode = (bb_onnx_mode)m};
            snprintf(name, sizeof name, "%s_%s.onnx", c->name, modes[m]);
            CHECK_INT(t, bb_onnx_save(g, scratch_path(&s, name), &how), BB_OK);
            onnx_file f = onnx_read(s.path);
            CHECK_MSG(t, onnx_nodes(f.graph, 1, "RMSNormalization") == (m == 1 && c->native), "%s",
                      name);
            CHECK_MSG(t, onnx_nodes(f.graph, 1, "rms_norm") == (m == 0 || (m == 1 && !c->native)),
                      "%s", name);
            onnx_close(&f);
            name[strlen(name) - 5] = 0;
            onnx_expect(ctx, &s, name, 0, names, in, 2, out_name, &y, 1, c->tolerance, false);
        }
        CHECK_OK(t, ctx);
        bb_graph_free(g);
        bb_close(ctx);
    }
    onnx_run_all(t, &s);
    scratch_close(&s);
}

/* ---- Parameters beside the model */

static void test_external_data(test *t) {
    scratch s = scratch_open();
    bb_context *ctx = test_open();
    bb_nn_transformer *model = graph_model(ctx, BB_F32, false, false);
    bb_graph *g = graph_of_model(model);
    const bb_onnx_options how = {.external_data = true};
    CHECK_INT(t, bb_onnx_save(g, scratch_path(&s, "m.onnx"), &how), BB_OK);
    CHECK_INT(t, scratch_count(&s), 2);
    onnx_file f = onnx_read(s.path), data = onnx_read(scratch_path(&s, "m.onnx.data"));
    int tensors = 0;
    for (pb p = f.graph; pb_find(&p, 5);) {
        pb tensor = pb_inside(&p), entry = tensor;
        long long offset = -1, length = -1;
        char name[64] = "";
        tensors++;
        CHECK_INT(t, pb_number(tensor, 14), 1);
        CHECK_INT(t, pb_count(tensor, 9), 0);
        CHECK_INT(t, pb_count(tensor, 13), 3);
        while (pb_find(&entry, 13)) {
            pb pair = pb_inside(&entry), value = pair;
            pb_find(&value, 2);
            char text[64];
            snprintf(text, sizeof text, "%.*s", (int)value.span.n, (const char *)value.span.at);
            if (pb_text_is(pair, 1, 0, "location")) CHECK_TEXT(t, text, "m.onnx.data");
            if (pb_text_is(pair, 1, 0, "offset")) offset = atoll(text);
            if (pb_text_is(pair, 1, 0, "length")) length = atoll(text);
        }
        pb named = tensor;
        if (pb_find(&named, 8))
            snprintf(name, sizeof name, "%.*s", (int)named.span.n, (const char *)named.span.at);
        bb_tensor *param = bb_params_find(model->params, name);
        CHECK_MSG(t,
                  param && length == bb_count(param) * 4 && offset % 64 == 0 && offset >= 0 &&
                      (size_t)(offset + length) <= data.n &&
                      memcmp(data.bytes + offset, bb_data(param), (size_t)length) == 0,
                  "%s at %lld, %lld bytes", name, offset, length);
    }
    CHECK_INT(t, tensors, 17);
    onnx_close(&f);
    onnx_close(&data);
    CHECK_OK(t, ctx);
    bb_graph_free(g);
    bb_close(ctx);
    scratch_close(&s);
}

/* Beyond 2 GiB parameters go beside the model unasked. The first write fails, so nothing of that
 * size is ever touched. */
static void test_too_large(test *t) {
    scratch s = scratch_open();
    bb_context *ctx = bb_open(NULL);
    const bb_shape shape = BB_SHAPE(600000000);
    bb_tensor *w = bb_tensor_context(ctx, BB_CPU, BB_F32, &shape), *x;
    if (!w) {
        test_skip(t, "no 2.4 GB of address space here");
        bb_close(ctx);
        scratch_close(&s);
        return;
    }
    x = bb_ones(ctx, BB_F32, BB_SHAPE(3));
    bb_graph *g = bb_graph_begin(ctx);
    bb_graph_input(g, "x", x);
    bb_graph_param(g, "w", w);
    bb_tensor *few = bb_narrow(w, 0, 0, 3);
    bb_write(few, (float[]){1, 2, 3}, 12);
    bb_graph_output(g, "y", bb_add(x, few));
    bb_graph_end(g);
    fault f;
    fault_init(&f, 1, EIO, 0);
    const bb_onnx_options how = {.calls = &f.calls};
    bb_onnx_save(g, scratch_path(&s, "m.onnx"), &how);
    CHECK_ERROR(t, ctx, BB_ERR_IO, "m.onnx.data: cannot write");
    CHECK_INT(t, scratch_count(&s), 0);
    bb_graph_free(g);
    bb_close(ctx);
    scratch_close(&s);
}

/* ---- Failures */

static bb_graph *small_graph(bb_context *ctx, bb_tensor *(*fn)(bb_tensor *x)) {
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(2, 3));
    bb_graph *g = bb_graph_begin(ctx);
    bb_module here;
    bb_graph_input(g, "x", x);
    bb_module_enter(ctx, &here, "Layer", "layer", 4);
    bb_tensor *y = fn(x);
    bb_module_leave(ctx, &here);
    bb_graph_output(g, "y", y);
    bb_graph_end(g);
    return g;
}
static bb_tensor *noisy(bb_tensor *x) { return bb_dropout(x, 0.5); }
static bb_tensor *normed(bb_tensor *x) {
    return bb_rms_norm(x, bb_ones(bb_context_of(x), BB_F32, BB_SHAPE(3)), 1e300);
}
static bb_tensor *weighted(bb_tensor *x) {
    bb_tensor *w = bb_keep(bb_ones(bb_context_of(x), BB_F32, BB_SHAPE(3)));
    return bb_rms_norm(x, w, 1e-5);
}
static bb_tensor *stepped(bb_tensor *x) {
    bb_context *ctx = bb_context_of(x);
    bb_tensor *p = bb_keep(x), *lr = bb_scalar(ctx, BB_F32, 1);
    bb_sgd_(p, x, NULL, lr, NULL, NULL);
    return bb_neg(x);
}

static void test_no_form(test *t) {
    scratch s = scratch_open();
    bb_context *ctx = test_open();
    bb_graph *g = small_graph(ctx, noisy);
    bb_onnx_save(g, scratch_path(&s, "m.onnx"), NULL);
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED,
                "onnx: node layer.4.dropout (dropout): ONNX has no form for this op");
    bb_graph_free(g);
    g = small_graph(ctx, normed);
    bb_onnx_save(g, s.path, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "node layer.4.rmsnorm_impl (RMSNormImpl): attribute eps: Unsupported value");
    bb_graph_free(g);
    g = small_graph(ctx, stepped);
    bb_onnx_save(g, s.path, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, "node layer.4.sgd_ (sgd_): ONNX has no form");
    bb_graph_free(g);
    CHECK_INT(t, scratch_count(&s), 0);
    g = small_graph(ctx, weighted);
    bb_onnx_save(g, NULL, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_onnx_save: path: expected a name, got NULL");
    bb_onnx_options how = {.mode = (bb_onnx_mode)7};
    bb_onnx_save(g, s.path, &how);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected composite, native or decomposed, got 7");
    bb_externalize(g, NULL, 0, NULL, NULL);
    how.mode = BB_ONNX_DECOMPOSED;
    bb_onnx_save(g, s.path, &how);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "externalized already");
    CHECK_INT(t, scratch_count(&s), 0);
    bb_graph_free(g);
    bb_close(ctx);
    scratch_close(&s);
}

/* Every system call fails in turn: an error, and no file or the old ones. */
static void test_writer_failures(test *t) {
    scratch s = scratch_open();
    for (int external = 0; external < 2; external++)
        for (int fail_at = 1;; fail_at++) {
            bb_context *ctx = test_open();
            bb_graph *g = small_graph(ctx, weighted);
            fault f;
            fault_init(&f, fail_at, ENOSPC, 0);
            const bb_onnx_options how = {.external_data = external, .calls = &f.calls};
            bb_status status = bb_onnx_save(g, scratch_path(&s, "m.onnx"), &how);
            bool done = !f.failed;
            if (!done) CHECK_INT(t, status, BB_ERR_IO);
            if (!done && !f.renamed) CHECK_INT(t, scratch_count(&s), 0);
            if (done) CHECK_INT(t, scratch_count(&s), external ? 2 : 1);
            bb_clear_error(ctx);
            bb_graph_free(g);
            bb_close(ctx);
            scratch_walk(&s, true);
            if (done) break;
            CHECK_MSG(t, fail_at < 60, "it never ends");
        }
    scratch_close(&s);
}

static char target[600];
static void save_once(bb_context *ctx) {
    bb_graph *g = small_graph(ctx, weighted);
    if (g) bb_onnx_save(g, target, NULL);
    bb_graph_free(g);
}
static void test_memory(test *t) {
    scratch s = scratch_open();
    snprintf(target, sizeof target, "%s", scratch_path(&s, "m.onnx"));
    alloc_failure_loop(t, save_once);
    scratch_close(&s);
}

static const test_row rows[] = {
    {"a composite model", test_composite_model}, {"modes", test_modes},
    {"runs at other sizes", test_runs},          {"traps", test_traps},
    {"architectures", test_architectures},       {"too large", test_too_large},
    {"external data", test_external_data},       {"no form, no file", test_no_form},
    {"writer failures", test_writer_failures},   {"memory", test_memory}};
TEST_MAIN(rows)
