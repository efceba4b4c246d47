/* Chains in recorded graphs and ONNX files: rows T25 and T26 of nn/FUSIBLE.md, table T-15. While a
 * graph is recorded, a chain runs its ops as ordinary ones: all trailing axes, f32 statistics,
 * 1 + weight in f32. */
#include "tests/io/graph_test.h"
#include "tests/io/onnx_test.h"

typedef struct export_case {
    const char *name;
    bb_dtype dtype;
    bb_shape normalized;
    bool zero_centered, autocast;
    double size; /* of the input: f16 squares overflow from 256 on */
    const char *tolerance;
    bool may; /* a runtime may lack a kernel */
} export_case;

static const export_case cases[] = {
    {"f32", BB_F32, {1, {16}}, false, false, 1, "1e-5", false},
    {"f32_zero_centred", BB_F32, {1, {16}}, true, false, 1, "1e-5", false},
    {"f32_two_axes", BB_F32, {2, {3, 16}}, false, false, 1, "1e-5", false},
    {"f32_three_axes", BB_F32, {3, {2, 3, 16}}, true, false, 1, "1e-5", false},
    {"f16", BB_F16, {1, {16}}, false, false, 1, "2e-3", false},
    {"f16_large", BB_F16, {1, {16}}, true, false, 2e4, "2e-3", false},
    {"f16_two_axes", BB_F16, {2, {3, 16}}, true, false, 1, "2e-3", false},
    {"f16_in_f32", BB_F16, {1, {16}}, false, true, 1, "1e-5", false},
    {"bf16", BB_BF16, {1, {16}}, true, false, 1, "2e-2", true},
};
enum { CASES = sizeof cases / sizeof cases[0] };

static bb_status run(void *user, bb_tensor *const *in, bb_tensor **out) {
    out[0] = bb_chain_forward(user, in[0]);
    return bb_error(bb_context_of(in[0]));
}

static bb_chain *chain_of(bb_context *ctx, const export_case *c) {
    bb_params *params = bb_params_new(ctx, BB_CPU, c->dtype);
    bb_chain *chain = bb_chain_new(ctx, "mlp");
    bb_fusible_norm_options o = {.eps = 1e-3, .zero_centered_gamma = c->zero_centered};
    bb_chain_append(chain, bb_fusible_rms_norm(params, "norm", c->normalized, &o));
    bb_chain_append(chain, bb_fusible_linear(params, "up", 16, 8, 0));
    bb_chain_append(chain, bb_fusible_bias(params, "up", 8));
    bb_chain_append(chain, bb_fusible_activation(ctx, BB_ACT_SILU));
    bb_chain_set_autocast(chain, c->autocast, BB_F32);
    bb_params_build(params);
    for (int i = 0; i < bb_params_count(params); i++) {
        bb_tensor *p = bb_params_at(params, i);
        double values[512];
        bb_read_f64(p, values, bb_count(p));
        for (int k = 0; k < bb_count(p); k++) values[k] += 0.2 * sin(k * 37 + i);
        bb_assign(p, bb_from_f64(ctx, c->dtype, bb_shape_of(p), values));
    }
    return chain;
}

static bb_graph *graph_of(bb_context *ctx, const export_case *c, bb_chain *chain) {
    static const char *const outputs[] = {"y"};
    bb_graph_arg x = {
        "x", c->dtype, 4, {{.symbol = "batch"}, {.size = 2}, {.size = 3}, {.size = 16}}};
    bb_named list[8];
    int n = 0;
    for (int i = 0; i < bb_chain_length(chain); i++)
        for (int k = 0; k < bb_fusible_param_count(bb_chain_get(chain, i)); k++, n++)
            list[n] = (bb_named){n == 0   ? "norm.weight"
                                 : n == 1 ? "up.weight"
                                          : "up.bias",
                                 bb_fusible_param(bb_chain_get(chain, i), k)};
    bb_graph_signature signature = {&x, 1, list, n, outputs, 1, BB_CPU};
    bool grad = bb_set_grad_enabled(ctx, false);
    bb_graph *g = bb_graph_trace(ctx, run, chain, &signature);
    bb_set_grad_enabled(ctx, grad);
    return g;
}

/* The recorded graph gives what the chain gives; the file has rms_norm with input and scale, and a
 * runtime agrees at batch sizes that were never recorded. */
static void t25(test *t) {
    scratch s = scratch_open();
    for (int i = 0; i < CASES; i++) {
        const export_case *c = &cases[i];
        bb_context *ctx = test_open_host();
        bb_chain *chain = chain_of(ctx, c);
        bb_graph *g = graph_of(ctx, c, chain);
        if (!CHECK_MSG(t, g, "%s: %s", c->name, bb_error_message(ctx))) continue;
        for (int m = 0; m < ONNX_MODES; m++) {
            char name[ONNX_NAME];
            pb function;
            const bb_onnx_options how = {.mode = (bb_onnx_mode)m};
            CHECK_INT(t, onnx_save_as(g, &s, c->name, &how, name), BB_OK);
            onnx_file f = onnx_read(s.path);
            if (m == 0 && CHECK(t, onnx_function(&f, "rms_norm", &function))) {
                CHECK_INT(t, onnx_nodes(f.graph, 1, "rms_norm"), 1);
                CHECK(t,
                      pb_text_is(function, 4, 0, "input") && pb_text_is(function, 4, 1, "scale"));
            }
            onnx_close(&f);
            for (int k = 0; k < 2; k++) {
                bb_tensor *x = bb_cast(
                    bb_mul_scalar(graph_random(ctx, BB_F32, BB_SHAPE(1 + 4 * k, 2, 3, 16), 7),
                                  c->size),
                    c->dtype);
                bb_tensor *y = bb_chain_forward(chain, x), *z = NULL;
                bb_chain_set_fusion(chain, false);
                bb_tensor *plain = bb_chain_forward(chain, x);
                bb_chain_set_fusion(chain, true);
                bb_graph_run(g, &x, 1, &z);
                /* Over several axes the op sums its row in another order than the graph does. */
                double far = bb_item(bb_amax(bb_abs(bb_sub(plain, z)), (bb_ints){0}, false));
                CHECK_MSG(t, c->normalized.rank > 1 ? far < 1e-6 : graph_same(plain, z),
                          "%s: the graph gives other values, by %g", c->name, far);
                onnx_expect(&s, name, k, &(bb_named){"x", x}, 1, (bb_named){"y", y}, c->tolerance,
                            c->may);
            }
        }
        CHECK_OK(t, ctx);
        bb_graph_free(g);
        bb_close(ctx);
    }
    onnx_run_all(t, &s);
    scratch_close(&s);
}

/* ONNX's RMSNormalization, over all axes of the norm, where it means exactly what the op does: in
 * f32, where rounding before or after the scale is the same. */
static void t26(test *t) {
    scratch s = scratch_open();
    for (int i = 0; i < CASES; i++) {
        const export_case *c = &cases[i];
        bb_context *ctx = test_open_host();
        bb_graph *g = graph_of(ctx, c, chain_of(ctx, c));
        const bb_onnx_options how = {.mode = BB_ONNX_NATIVE};
        CHECK_INT(t, bb_onnx_save(g, scratch_path(&s, "native.onnx"), &how), BB_OK);
        onnx_file f = onnx_read(s.path);
        int native = 0;
        for (pb p = f.graph; pb_find(&p, 1);) {
            pb node = pb_inside(&p), attr;
            if (!pb_text_is(node, 4, 0, "RMSNormalization")) continue;
            native++;
            CHECK(t, onnx_attr(node, "axis", &attr) && pb_number(attr, 3) == -c->normalized.rank);
            CHECK(t, onnx_attr(node, "stash_type", &attr) && pb_number(attr, 3) == 1);
        }
        CHECK_MSG(t, native == (c->dtype == BB_F32 || c->autocast), "%s: %d", c->name, native);
        onnx_close(&f);
        bb_graph_free(g);
        bb_close(ctx);
    }
    scratch_close(&s);
}

/* Names say where an op stands; a kind that does not say how it computes cannot be recorded, nor
 * can a function of one's own. */
static bb_status pass(bb_fusible_run *r) {
    r->output = bb_link_of(bb_alias(r->input.tensor));
    return BB_OK;
}
static bb_status pass_back(bb_fusible_back *b) {
    b->grad_input = b->grad_output;
    return BB_OK;
}
static void names(test *t) {
    static const bb_fusible_kind silent = {
        .name = "Silent", .forward = pass, .backward = pass_back};
    bb_context *ctx = test_open_host();
    bb_chain *chain = chain_of(ctx, &cases[0]);
    bb_graph *g = graph_of(ctx, &cases[0], chain);
    char text[8192] = {0};
    FILE *file = fmemopen(text, sizeof text - 1, "w");
    bb_graph_print(g, file);
    fclose(file);
    CHECK_MSG(t, strstr(text, "mlp.norm.rmsnorm_impl"), "%s", text);
    bb_graph_free(g);
    bb_chain_append(chain, bb_fusible_new(ctx, &silent, NULL, NULL, 0, 0));
    CHECK(t, bb_chain_forward(chain, bb_ones(ctx, BB_F32, BB_SHAPE(2, 16))));
    CHECK(t, !graph_of(ctx, &cases[0], chain));
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED,
                "Silent: a graph is being recorded: this kind does not");
    bb_close(ctx);
}

/* ---- With quantizers */

typedef struct quantized_case {
    const char *name;
    bb_chain_recipe recipe;
    bb_dtype dtype;
    bool ahead;  /* a Quantize stands before the Linear, which takes what comes */
    bool behind; /* others before and behind the activation, which does not */
    const char *tolerance;
} quantized_case;

static const quantized_case quantized_cases[] = {
    {"delayed", {.recipe = BB_FP8_DELAYED}, BB_F32, false, false, "1e-5"},
    {"delayed_ahead", {.recipe = BB_FP8_DELAYED}, BB_F16, true, false, "2e-3"},
    {"current", {.recipe = BB_FP8_CURRENT}, BB_F32, false, true, "1e-5"},
    {"current_ahead", {.recipe = BB_FP8_CURRENT}, BB_F32, true, false, "1e-5"},
    {"mxfp8", {.recipe = BB_MXFP8}, BB_F32, true, true, "1e-5"},
    {"block", {.recipe = BB_FP8_BLOCK}, BB_F32, false, false, "1e-5"},
    {"block_bf16", {.recipe = BB_FP8_BLOCK}, BB_BF16, true, false, "2e-2"},
    {"nvfp4", {.recipe = BB_NVFP4}, BB_F32, false, false, "1e-5"},
    {"nvfp4_bf16", {.recipe = BB_NVFP4}, BB_BF16, true, false, "2e-2"},
};
enum { QUANTIZED = sizeof quantized_cases / sizeof quantized_cases[0], WIDE = 96, OUT = 64 };

/* Norm, [Quantize,] Linear with quantizers, bias, SiLU. */
static bb_chain *quantized_chain(bb_context *ctx, const quantized_case *c, bb_named *list, int *n) {
    bb_params *params = bb_params_new(ctx, BB_CPU, c->dtype);
    bb_chain *chain = bb_chain_new(ctx, "mlp");
    const bb_quantizer_options o = {.recipe = c->recipe.recipe};
    bb_chain_append(chain, bb_fusible_rms_norm(params, "norm", BB_SHAPE(WIDE), NULL));
    bb_fusible_op *up = bb_fusible_linear(params, "up", WIDE, OUT, 0);
    if (c->ahead)
        bb_chain_append(chain, bb_fusible_quantize(ctx, bb_quantizer_new(ctx, BB_CPU, &o), NULL));
    bb_chain_append(chain, up);
    bb_chain_append(chain, bb_fusible_bias(params, "up", OUT));
    for (int i = 0; i < 2; i++) {
        if (c->behind)
            bb_chain_append(chain,
                            bb_fusible_quantize(ctx, bb_quantizer_new(ctx, BB_CPU, &o), NULL));
        if (i == 0) bb_chain_append(chain, bb_fusible_activation(ctx, BB_ACT_SILU));
    }
    bb_chain_set_recipe(chain, BB_CPU, &c->recipe);
    bb_chain_set_fusion(chain, false);
    bb_params_build(params);
    const bb_named *own = bb_params_list(params, n);
    for (int i = 0; i < *n; i++) {
        list[i] = own[i];
        bb_tensor *noise = graph_random(ctx, BB_F32, bb_shape_of(own[i].tensor), (uint64_t)i + 1);
        bb_assign(own[i].tensor, bb_cast(bb_add_scalar(noise, i == 0 ? 2 : 0), c->dtype));
    }
    return chain;
}

static bb_graph *quantized_graph(bb_context *ctx, const quantized_case *c, bb_chain *chain,
                                 const bb_named *list, int n) {
    static const char *const outputs[] = {"y"};
    const bb_graph_arg x = {"x", c->dtype, 3, {{.symbol = "batch"}, {.size = 32}, {.size = WIDE}}};
    bb_graph_signature signature = {&x, 1, list, n, outputs, 1, BB_CPU};
    bool grad = bb_set_grad_enabled(ctx, false);
    bb_graph *g = bb_graph_trace(ctx, run, chain, &signature);
    bb_set_grad_enabled(ctx, grad);
    return g;
}

static double far(bb_tensor *a, bb_tensor *b) {
    bb_tensor *difference = bb_abs(bb_sub(bb_cast(a, BB_F32), bb_cast(b, BB_F32)));
    return bb_item(bb_amax(difference, (bb_ints){0}, false));
}

/* Nodes of this type, and of those that have a number behind it. */
static int calls_of(const onnx_file *f, const char *type) {
    int n = onnx_nodes(f->graph, 1, type);
    for (int i = 2; i < 9; i++) {
        char numbered[40];
        snprintf(numbered, sizeof numbered, "%s_%d", type, i);
        n += onnx_nodes(f->graph, 1, numbered);
    }
    return n;
}

/* A graph keeps each pair of quantize and dequantize, of the input and of the weight, and gives the
 * chain's very numbers; so does its file, but for the order in which a product sums. A quantizer
 * measures nothing while it is recorded. */
static void quantized(test *t) {
    scratch s = scratch_open();
    for (int i = 0; i < QUANTIZED; i++) {
        const quantized_case *c = &quantized_cases[i];
        bb_context *ctx = test_open_host();
        bb_named list[8];
        int n = 0;
        bb_chain *chain = quantized_chain(ctx, c, list, &n);
        bb_tensor *x = graph_random(ctx, c->dtype, BB_SHAPE(3, 32, WIDE), 7), *y = NULL;
        for (int step = 0; step < 2; step++) { /* scales of delayed scaling that are not 1 */
            bb_chain_forward(chain, x);
            bb_chain_update_quantizers(chain);
        }
        bb_graph *g = quantized_graph(ctx, c, chain, list, n);
        if (!CHECK_MSG(t, g, "%s: %s", c->name, bb_error_message(ctx))) continue;
        int pairs = c->behind ? 4 : 2;
        CHECK_INT(t, bb_graph_node_count(g, "Quantize"), pairs);
        bb_tensor *direct = bb_chain_forward(chain, x);
        bb_graph_run(g, &x, 1, &y);
        CHECK_MSG(t, graph_same(direct, y), "%s: the graph gives other values, by %g", c->name,
                  far(direct, y));
        for (int m = 0; m < ONNX_MODES; m++) {
            char name[ONNX_NAME];
            const bb_onnx_options how = {.mode = (bb_onnx_mode)m};
            CHECK_INT(t, onnx_save_as(g, &s, c->name, &how, name), BB_OK);
            onnx_file f = onnx_read(s.path);
            CHECK_INT(t, calls_of(&f, m == 0 ? "quantize" : "QuantizeLinear"), pairs);
            CHECK_INT(t, calls_of(&f, m == 0 ? "dequantize" : "DequantizeLinear"), pairs);
            onnx_close(&f);
            onnx_expect(&s, name, 0, &(bb_named){"x", x}, 1, (bb_named){"y", direct}, c->tolerance,
                        c->dtype == BB_BF16);
        }
        CHECK_OK(t, ctx);
        bb_graph_free(g);
        bb_close(ctx);
    }
    onnx_run_all(t, &s);
    scratch_close(&s);
}

static const test_row rows[] = {{"T25 export, T-15", t25},
                                {"T26 RMSNormalization", t26},
                                {"pairs of quantize and dequantize", quantized},
                                {"names in a graph", names}};
TEST_MAIN(rows)
