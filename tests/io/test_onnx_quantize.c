/* Quantize and Dequantize in ONNX files: a runtime gives the very numbers that bb_dequantize gives,
 * of every recipe, also for NaN, inf, zeros and subnormals, and at sizes that were never recorded.
 */
#include "tests/io/graph_test.h"
#include "tests/io/onnx_test.h"
#include "tests/support/alloc.h"

typedef struct pair_case {
    const char *name;
    bb_quantizer_options options;
    bb_shape shape; /* size 0: a symbol */
    bb_dtype dtype;
    int quantize_linear; /* of these nodes, how many divide by the scale itself */
} pair_case;

static const pair_case cases[] = {
    {"delayed", {.recipe = BB_FP8_DELAYED}, {3, {0, 3, 19}}, BB_F32, 0},
    {"delayed_e5m2", {.recipe = BB_FP8_DELAYED, .format = BB_E5M2}, {2, {0, 19}}, BB_F16, 0},
    {"current", {.recipe = BB_FP8_CURRENT}, {3, {0, 3, 19}}, BB_F32, 0},
    {"current_e5m2", {.recipe = BB_FP8_CURRENT, .format = BB_E5M2}, {2, {0, 64}}, BB_F16, 0},
    {"current_floor", {.recipe = BB_FP8_CURRENT, .amax_floor = 1e6}, {2, {0, 64}}, BB_F32, 0},
    {"current_power",
     {.recipe = BB_FP8_CURRENT, .scales = BB_SCALES_POWER_OF_TWO},
     {2, {0, 64}},
     BB_F32,
     1},
    {"mxfp8", {.recipe = BB_MXFP8}, {3, {0, 32, 64}}, BB_F32, 1},
    {"mxfp8_e5m2", {.recipe = BB_MXFP8, .format = BB_E5M2}, {2, {64, 32}}, BB_F16, 1},
    {"block", {.recipe = BB_FP8_BLOCK}, {3, {0, 5, 300}}, BB_F32, 1},
    {"block_whole", {.recipe = BB_FP8_BLOCK, .no_columns = true}, {2, {0, 256}}, BB_F16, 1},
    {"block_any", {.recipe = BB_FP8_BLOCK, .scales = BB_SCALES_ANY}, {2, {0, 200}}, BB_F32, 0},
    {"block_floor", {.recipe = BB_FP8_BLOCK, .amax_floor = 0.01}, {2, {0, 19}}, BB_F32, 1},
    {"square", {.recipe = BB_FP8_BLOCK, .square_blocks = true}, {3, {2, 75, 300}}, BB_F32, 1},
    {"square_any",
     {.recipe = BB_FP8_BLOCK, .square_blocks = true, .scales = BB_SCALES_ANY},
     {2, {129, 128}},
     BB_F32,
     0},
    {"nvfp4", {.recipe = BB_NVFP4}, {3, {0, 16, 64}}, BB_F32, 0},
    {"nvfp4_f16", {.recipe = BB_NVFP4}, {2, {32, 48}}, BB_F16, 0},
    {"block_bf16", {.recipe = BB_FP8_BLOCK}, {2, {4, 130}}, BB_BF16, 1},
};
enum { CASES = sizeof cases / sizeof cases[0] };

static bb_status pair(void *user, bb_tensor *const *in, bb_tensor **out) {
    out[0] = bb_dequantize(bb_quantize(user, in[0]));
    return bb_error(bb_context_of(in[0]));
}

static bb_graph *graph_of(bb_context *ctx, const pair_case *c, bb_quantizer *q, bb_graph_fn fn) {
    static const char *const outputs[] = {"y"};
    bb_graph_arg x = {"x", c->dtype, c->shape.rank, {{.size = 0}}};
    int n = 0;
    const bb_named *state = bb_quantizer_state(q, &n);
    for (int i = 0; i < c->shape.rank; i++)
        x.axis[i] = c->shape.size[i] ? (bb_graph_axis){.size = c->shape.size[i]}
                                     : (bb_graph_axis){.symbol = "batch"};
    bb_graph_signature s = {&x, 1, state, n ? 1 : 0, outputs, 1, BB_CPU};
    return bb_graph_trace(ctx, fn, q, &s);
}

/* Kinds of numbers: ordinary; of all sizes; with zeros; with inf; with NaN; tiny; none but zeros;
 * maxima that are a format's largest times a power of two, where scales change. */
enum { ORDINARY, WIDE, ZEROS, INF, NOT, TINY, NOTHING, EDGES, KINDS };
static bb_tensor *numbers(bb_context *ctx, const pair_case *c, int kind) {
    static double values[1 << 17];
    bb_shape shape = c->shape;
    for (int i = 0; i < shape.rank; i++)
        if (!shape.size[i]) shape.size[i] = 1 + kind % 5;
    bb_tensor *x = graph_random(ctx, BB_F32, shape, (uint64_t)kind + 3);
    int64_t n = bb_count(x);
    bb_read_f64(x, values, n);
    for (int64_t i = 0; i < n; i++) {
        if (kind == WIDE) values[i] *= ldexp(1, (int)(i * 7 % 24) - 12);
        if (kind == ZEROS && i / 16 % 3) values[i] = i % 2 ? 0 : -0.0;
        if (kind == INF && i % 97 == 11) values[i] = i % 2 ? INFINITY : -INFINITY;
        if (kind == NOT && i % 97 == 11) values[i] = NAN;
        if (kind == TINY) values[i] *= c->dtype == BB_F16 ? 0x1p-20 : 0x1p-135;
        if (kind == NOTHING) values[i] = 0;
        /* Beside the largest the least that its scale leaves, of e4m3 and of e5m2. */
        if (kind == EDGES)
            values[i] = ldexp(i % 3 ? 1.75 : 1, (int)(i / 32 % 5) + (i % 3   ? 10
                                                                     : i % 2 ? -7
                                                                             : -21));
    }
    return bb_from_f64(ctx, c->dtype, shape, values);
}

/* Nodes of this type, in the graph or in functions. */
static int count(const onnx_file *f, const char *type) {
    int n = onnx_nodes(f->graph, 1, type);
    for (pb p = f->model; pb_find(&p, 25);) n += onnx_nodes(pb_inside(&p), 7, type);
    return n;
}

static void check_file(test *t, const pair_case *c, int mode, const char *path) {
    onnx_file f = onnx_read(path);
    pb function;
    CHECK_MSG(t, count(&f, "QuantizeLinear") == 1 && count(&f, "DequantizeLinear") == 1,
              "%s: not one pair", c->name);
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "dequantize" : "quantize";
        CHECK_MSG(t, onnx_function(&f, name, &function) == (mode == BB_ONNX_COMPOSITE), "%s",
                  c->name);
        CHECK_INT(t, onnx_nodes(f.graph, 1, name), mode == BB_ONNX_COMPOSITE);
    }
    CHECK_INT(t, pb_number(f.model, 1), mode == BB_ONNX_NATIVE ? 11 : 10);
    /* What QuantizeLinear divides by is what DequantizeLinear multiplies by, or it is a one. */
    pb holder = f.graph;
    if (mode == BB_ONNX_COMPOSITE && onnx_function(&f, "quantize", &function)) holder = function;
    int field = mode == BB_ONNX_COMPOSITE ? 7 : 1, same = 1;
    for (pb p = holder; pb_find(&p, field);) {
        pb node = pb_inside(&p);
        if (!pb_text_is(node, 4, 0, "QuantizeLinear")) continue;
        for (pb q = holder; pb_find(&q, field);) {
            pb constant = pb_inside(&q), scale = node;
            pb_find(&scale, 1), pb_find(&scale, 1);
            char name[128];
            snprintf(name, sizeof name, "%.*s", (int)scale.span.n, (const char *)scale.span.at);
            if (pb_text_is(constant, 4, 0, "Constant") && pb_text_is(constant, 2, 0, name))
                same = 0;
        }
    }
    CHECK_MSG(t, same == c->quantize_linear, "%s: scale %s", c->name, same ? "kept" : "of one");
    onnx_close(&f);
}

static void pairs(test *t) {
    scratch s = scratch_open();
    for (int i = 0; i < CASES; i++) {
        const pair_case *c = &cases[i];
        bb_context *ctx = test_open();
        bb_quantizer *q = bb_quantizer_new(ctx, BB_CPU, &c->options);
        int state = 0;
        const bb_named *of = bb_quantizer_state(q, &state);
        if (state) bb_assign(of[0].tensor, bb_full(ctx, BB_F32, BB_SHAPE(1), 37.3));
        bb_graph *g = graph_of(ctx, c, q, pair);
        if (!CHECK_MSG(t, g, "%s: %s", c->name, bb_error_message(ctx))) continue;
        for (int m = 0; m < ONNX_MODES; m++) {
            char name[ONNX_NAME];
            const bb_onnx_options how = {.mode = (bb_onnx_mode)m};
            CHECK_MSG(t, onnx_save_as(g, &s, c->name, &how, name) == BB_OK, "%s: %s", name,
                      bb_error_message(ctx));
            check_file(t, c, m, s.path);
            for (int k = 0; k < KINDS; k++) {
                bb_tensor *x = numbers(ctx, c, k), *y = bb_dequantize(bb_quantize(q, x)), *z = NULL;
                bb_graph_run(g, &x, 1, &z);
                CHECK_MSG(t, graph_same(y, z), "%s, numbers %d: the graph differs", c->name, k);
                onnx_expect(&s, name, k, &(bb_named){"x", x}, 1, (bb_named){"y", y}, "0",
                            c->dtype == BB_BF16);
            }
        }
        CHECK_OK(t, ctx);
        bb_graph_free(g);
        bb_close(ctx);
    }
    onnx_run_all(t, &s);
    scratch_close(&s);
}

/* ---- What has no form */

static bb_status bytes(void *user, bb_tensor *const *in, bb_tensor **out) {
    bb_quantized *x = bb_quantize(user, in[0]);
    out[0] = x ? x->data : NULL;
    return bb_error(bb_context_of(in[0]));
}
static bb_status moved(void *user, bb_tensor *const *in, bb_tensor **out) {
    bb_quantized *x = bb_quantize(user, in[0]);
    if (x) x->data = bb_reshape(x->data, bb_shape_of(x->data));
    out[0] = x ? bb_add(bb_dequantize(x), bb_cast(bb_narrow(x->data, 0, 0, 1), BB_F32)) : NULL;
    return bb_error(bb_context_of(in[0]));
}
static bb_status columns(void *user, bb_tensor *const *in, bb_tensor **out) {
    out[0] = bb_dequantize_columns(bb_quantize(user, in[0]));
    return bb_error(bb_context_of(in[0]));
}
/* Bytes of one format, read as those of another. */
static bb_status misread(void *user, bb_tensor *const *in, bb_tensor **out) {
    bb_quantized *x = bb_quantize(user, in[0]);
    const bb_dequantize_attrs a = {.recipe = BB_FP8_CURRENT, .format = BB_E5M2, .dtype = BB_F32};
    out[0] = x ? bb_dequantize_parts(x->data, x->scale_inv, NULL, &a) : NULL;
    return bb_error(bb_context_of(in[0]));
}
static bb_status from_outside(void *user, bb_tensor *const *in, bb_tensor **out) {
    bb_context *ctx = bb_context_of(in[0]);
    const bb_dequantize_attrs a = {.recipe = BB_FP8_CURRENT, .dtype = BB_F32};
    (void)user;
    out[0] = bb_add(in[0], bb_dequantize_parts(bb_zeros(ctx, BB_U8, BB_SHAPE(64)),
                                               bb_ones(ctx, BB_F32, BB_SHAPE(1)), NULL, &a));
    return bb_error(ctx);
}

static void refused(test *t) {
    static const struct {
        bb_graph_fn fn;
        pair_case c;
        const char *why;
    } rows[] = {
        {bytes,
         {"", {.recipe = BB_FP8_CURRENT}, {2, {0, 64}}, BB_F32, 0},
         "quantize (Quantize): an output of the graph reads its data: ONNX has fp8 numbers"},
        {moved,
         {"", {.recipe = BB_FP8_CURRENT}, {2, {4, 64}}, BB_F32, 0},
         "reads its data: ONNX has fp8 numbers, and no bytes of them"},
        {columns,
         {"", {.recipe = BB_MXFP8}, {2, {32, 64}}, BB_F32, 0},
         "quantize (Quantize): its columns are read: expected rows"},
        {misread,
         {"", {.recipe = BB_FP8_CURRENT}, {2, {0, 64}}, BB_F32, 0},
         "dequantize (Dequantize): its data and scales are not those of one Quantize"},
        {from_outside,
         {"", {.recipe = BB_FP8_CURRENT}, {2, {0, 64}}, BB_F32, 0},
         "dequantize (Dequantize): its data and scales are not those of one Quantize"},
        {pair,
         {"", {.recipe = BB_FP8_BLOCK}, {2, {3, 0}}, BB_F32, 0},
         "quantize (Quantize): blocks of a last axis whose size is a symbol"},
        {pair,
         {"", {.recipe = BB_FP8_BLOCK, .square_blocks = true}, {2, {0, 64}}, BB_F32, 0},
         "quantize (Quantize): square blocks of rows whose number is a symbol"},
    };
    scratch s = scratch_open();
    for (int i = 0; i < COUNT(rows); i++)
        for (int m = 0; m < ONNX_MODES; m++) {
            bb_context *ctx = test_open();
            bb_quantizer *q = bb_quantizer_new(ctx, BB_CPU, &rows[i].c.options);
            bb_graph *g = graph_of(ctx, &rows[i].c, q, rows[i].fn);
            CHECK_MSG(t, g, "%s", bb_error_message(ctx));
            const bb_onnx_options how = {.mode = (bb_onnx_mode)m};
            bb_onnx_save(g, scratch_path(&s, "m.onnx"), &how);
            CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, rows[i].why);
            CHECK_INT(t, scratch_count(&s), 0);
            bb_graph_free(g);
            bb_close(ctx);
        }
    scratch_close(&s);
}

static char target[600];
static void save_once(bb_context *ctx) {
    static const pair_case square = {
        "", {.recipe = BB_FP8_BLOCK, .square_blocks = true}, {2, {3, 19}}, BB_F16, 1};
    bb_quantizer *q = bb_quantizer_new(ctx, BB_CPU, &square.options);
    bb_graph *g = graph_of(ctx, &square, q, pair);
    if (g) bb_onnx_save(g, target, NULL);
    bb_graph_free(g);
}
static void memory(test *t) {
    scratch s = scratch_open();
    snprintf(target, sizeof target, "%s", scratch_path(&s, "m.onnx"));
    alloc_failure_loop(t, save_once);
    scratch_close(&s);
}

static const test_row rows[] = {
    {"pairs, to the bit", pairs}, {"what has no form", refused}, {"memory", memory}};
TEST_MAIN(rows)
