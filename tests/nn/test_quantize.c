/* Quantizers as objects: defaults, usage, pass through and back, the state of delayed scaling, a
 * norm over several axes, products, kinds of a user's own, errors. The bytes themselves:
 * tests/ops/test_quantize.c. */
#include "nn/quantize.h"

#include "tests/support/alloc.h"
#include "tests/support/test.h"

static bb_quantizer *make(bb_context *ctx, bb_quantizer_options o) {
    return bb_quantizer_new(ctx, bb_get_device(ctx), &o);
}

static double distance(bb_tensor *a, bb_tensor *b) {
    bb_tensor *d = bb_sub(bb_cast(a, BB_F32), bb_cast(b, BB_F32));
    return bb_item(bb_amax(bb_abs(d), (bb_ints){0}, false));
}

/* T-5: numbers that a recipe can hold come back as they are. */
static void test_exact(test *t) {
    bb_context *ctx = test_open();
    float values[32 * 32];
    /* One 6 in each run of 16, along and across. */
    for (int i = 0; i < 32 * 32; i++)
        values[i] = (i / 32 + i % 32) % 16 == 0 ? 6.0f : (float)(i % 7 - 3);
    for (int r = 0; r < BB_RECIPE_COUNT; r++) {
        bb_quantizer *q = make(
            ctx, (bb_quantizer_options){.recipe = (bb_recipe)r, .scales = BB_SCALES_POWER_OF_TWO});
        bb_tensor *x = bb_cast(bb_from(ctx, BB_F32, SH(32, 32), values), BB_BF16);
        bb_quantized *x8 = bb_quantize(q, x);
        bb_tensor *rows = bb_dequantize(x8), *columns = bb_dequantize_columns(x8);
        CHECK_OK(t, ctx);
        CHECK(t, bb_dtype_of(rows) == BB_BF16 && bb_dtype_of(columns) == BB_BF16);
        CHECK_MSG(t, distance(rows, x) == 0 && distance(columns, x) == 0, "%s: %g, %g",
                  bb_quantizer_name(q), distance(rows, x), distance(columns, x));
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

static void test_usage(test *t) {
    bb_context *ctx = test_open();
    bb_quantizer *q = make(ctx, (bb_quantizer_options){.recipe = BB_FP8_CURRENT});
    bb_tensor *x = bb_randn(ctx, BB_F32, SH(3, 5, 7));
    CHECK(t, bb_quantizer_uses_rows(q) && bb_quantizer_uses_columns(q));
    bb_quantized *both = bb_quantize(q, x);
    CHECK(t, both->data && both->columns && both->scale_inv && both->columns_scale_inv);
    CHECK_INT(t, bb_rank(both->data), 3);
    CHECK_INT(t, bb_size(both->columns, 0), 7);
    CHECK_INT(t, bb_size(both->columns, 1), 15);
    bb_quantizer_set_usage(q, true, false);
    bb_quantized *rows = bb_quantize(q, x);
    CHECK(t, rows->data && !rows->columns && !rows->columns_scale_inv);
    CHECK(t, bb_dequantize_columns(rows) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "bb_dequantize_columns: x: expected columns");
    bb_quantizer_set_usage(q, false, true);
    bb_quantized *columns = bb_quantize(q, x);
    CHECK(t, !columns->data && columns->columns);
    bb_tensor *back = bb_dequantize(columns); /* from the columns, in x's shape */
    CHECK_INT(t, bb_rank(back), 3);
    CHECK(t, distance(back, bb_dequantize(both)) == 0);
    CHECK(t, bb_quantizer_set_usage(q, false, false) == BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected rows, columns or both");
    bb_close(ctx);
}

static double scale_of(bb_quantizer *q) { return bb_item(bb_quantizer_state(q, NULL)[0].tensor); }

/* T-6: margin 2, history 8, two tensors a step; the largest of both counts, once the step ends. */
static void test_delayed(test *t) {
    bb_context *ctx = test_open();
    bb_quantizer *q = make(ctx, (bb_quantizer_options){.margin = 2, .history = 8});
    float past[20], top;
    CHECK_NEAR(t, scale_of(q), 1, 0);
    CHECK_INT(t, bb_quantizer_update(q), BB_OK); /* nothing was measured */
    CHECK_NEAR(t, scale_of(q), 1, 0);
    for (int i = 0; i < 20; i++) {
        double before = scale_of(q);
        past[i] = (float)((i * 7 + 3) % 13 + 1);
        bb_tensor *x = bb_full(ctx, BB_F32, SH(4, 4), i % 2 ? 0.5 : -(double)past[i]);
        bb_tensor *more = bb_full(ctx, BB_F32, SH(2, 4), i % 2 ? (double)past[i] : 0.25);
        bb_quantize(q, x);
        bb_quantize(q, more);
        CHECK_NEAR(t, scale_of(q), before, 0);
        bb_quantizer_update(q);
        top = 0;
        for (int k = i; k >= 0 && k > i - 8; k--) top = past[k] > top ? past[k] : top;
        CHECK_NEAR(t, scale_of(q), (double)(112.0f / top), 0);
        bb_end_step(ctx);
    }
    int count = 0;
    const bb_named *state = bb_quantizer_state(q, &count);
    CHECK_INT(t, count, 3);
    CHECK_TEXT(t, state[1].name, "history");
    CHECK_INT(t, bb_count(state[1].tensor), 8);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* ---- A step of delayed scaling as a graph */

typedef struct graph_step {
    bb_context *ctx;
    bb_quantizer *q;
    bb_tensor *x, *data;
} graph_step;

static bb_status run_step(void *user) {
    graph_step *s = user;
    bb_quantized *y = bb_quantize(s->q, s->x);
    bb_status status = y ? bb_assign(s->data, y->data) : bb_error(s->ctx);
    return status ? status : bb_quantizer_update(s->q);
}

static void test_captured(test *t) {
    bb_context *ctx = test_open();
    graph_step s = {ctx, make(ctx, (bb_quantizer_options){.history = 3}), NULL, NULL};
    s.x = bb_keep(bb_zeros(ctx, BB_F32, SH(2, 2)));
    s.data = bb_keep(bb_zeros(ctx, BB_U8, SH(2, 2)));
    bb_capture *capture = bb_capture_step(ctx, bb_get_device(ctx), run_step, &s);
    for (int i = 0; i < 6; i++) {
        const float values[4] = {(float)(6 - i), 1, -1, 0};
        double before = scale_of(s.q);
        uint8_t bytes[4];
        bb_write(s.x, values, sizeof values);
        CHECK_INT(t, bb_capture_run(capture), BB_OK);
        bb_read(s.data, bytes, sizeof bytes);
        CHECK(t, bytes[1] == (bytes[2] & 0x7F) && bytes[3] == 0);
        if (i == 0) CHECK_INT(t, bytes[1], 0x38); /* 1, with a scale of 1 */
        if (i == 5) CHECK_NEAR(t, before, (double)(448.0f / 4), 0);
        CHECK_NEAR(t, scale_of(s.q), (double)(448.0f / (float)(i < 3 ? 6 : 8 - i)), 0);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* ---- Norms and products */

static void test_norm_axes(test *t) {
    bb_context *ctx = test_open();
    for (int r = 0; r < BB_RECIPE_COUNT; r++) {
        bb_quantizer *q = make(ctx, (bb_quantizer_options){.recipe = (bb_recipe)r});
        bb_tensor *x = bb_set_requires_grad(bb_randn(ctx, BB_F32, SH(32, 4, 16)), true), *rstd;
        bb_tensor *w = bb_rand(ctx, BB_F32, SH(4, 16));
        bb_quantized *y = bb_rms_norm_quantize(q, x, w, 1e-5, 2, &rstd);
        bb_set_grad_enabled(ctx, false);
        bb_tensor *norm = bb_rms_norm(bb_reshape(x, SH(32, 64)), bb_reshape(w, SH(64)), 1e-5);
        norm = bb_reshape(norm, SH(32, 4, 16));
        if (!CHECK_MSG(t, y && rstd, "%s: %s", bb_quantizer_name(q), bb_error_message(ctx))) break;
        CHECK_INT(t, y->inner, 64);
        CHECK_INT(t, bb_count(rstd), 32);
        CHECK_INT(t, y->shape.rank, 3);
        bb_tensor *back = bb_dequantize(y), *columns = bb_dequantize_columns(y);
        CHECK_INT(t, bb_rank(back), 3);
        double worst = r == BB_NVFP4 ? 0.6 : 0.15; /* half a step of the format, of at most 2.5 */
        CHECK_MSG(t, distance(back, norm) < worst && distance(columns, norm) < worst, "%s: %g %g",
                  bb_quantizer_name(q), distance(back, norm), distance(columns, norm));
        bb_set_grad_enabled(ctx, true);
        bb_end_step(ctx);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* dx = dy W and dW = dy^T x from column-wise copies. */
static void test_transpose(test *t) {
    bb_context *ctx = test_open();
    for (int r = 0; r < BB_RECIPE_COUNT; r++) {
        bb_quantizer *q = make(ctx, (bb_quantizer_options){.recipe = (bb_recipe)r});
        bb_quantized *dy = bb_quantize(q, bb_randn(ctx, BB_F32, SH(2, 32, 64)));
        bb_quantized *x = bb_quantize(q, bb_randn(ctx, BB_F32, SH(2, 32, 96)));
        bb_quantized *dyt = bb_quantized_transpose(dy), *xt = bb_quantized_transpose(x);
        CHECK_OK(t, ctx);
        if (r == BB_MXFP8) {
            CHECK(t, !dyt && !xt);
            continue;
        }
        bb_tensor *dw = bb_linear_quantized(dyt, xt, NULL, BB_F32);
        bb_tensor *a = bb_reshape(bb_dequantize_columns(dy), SH(64, 64));
        bb_tensor *b = bb_reshape(bb_dequantize_columns(x), SH(64, 96));
        bb_tensor *expected = bb_matmul(bb_transpose(a, 0, 1), b);
        CHECK_INT(t, bb_size(dw, 0), 64);
        CHECK_INT(t, bb_size(dw, 1), 96);
        CHECK_MSG(t, distance(dw, expected) < 1e-3, "%s: %g", bb_quantizer_name(q),
                  distance(dw, expected));
        bb_end_step(ctx);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* ---- A kind of one's own: keeps f16 */

static bb_quantized *half_quantize(bb_quantizer *q, bb_tensor *x) {
    bb_quantized *y = bb_quantized_new(q, bb_dtype_of(x), bb_shape_of(x));
    if (y) y->data = bb_mul_scalar(bb_cast(x, BB_F16), *(double *)bb_quantizer_user(q));
    return y && y->data ? y : NULL;
}
static bb_tensor *half_dequantize(const bb_quantized *x, bool columns) {
    (void)columns;
    double factor = *(double *)bb_quantizer_user(x->quantizer);
    return bb_cast(bb_mul_scalar(x->data, 1 / factor), x->dtype);
}

static void test_own_kind(test *t) {
    static const bb_quantizer_kind half = {"half", half_quantize, half_dequantize, NULL, NULL};
    bb_context *ctx = test_open();
    double factor = 4;
    bb_quantizer *q = bb_quantizer_of_kind(ctx, bb_get_device(ctx), &half, &factor);
    bb_tensor *x = bb_randn(ctx, BB_F32, SH(3, 5)), *w = bb_randn(ctx, BB_F32, SH(4, 5)), *rstd;
    bb_quantized *y = bb_quantize(q, x);
    CHECK_TEXT(t, bb_quantizer_name(q), "half");
    CHECK(t, !bb_quantizer_in_norm(q) && !bb_quantizer_get_options(q));
    CHECK(t, distance(bb_dequantize(y), x) < 0.01);
    CHECK(t, bb_rms_norm_quantize(q, x, bb_ones(ctx, BB_F32, SH(5)), 1e-5, 1, &rstd) == NULL);
    CHECK(t, bb_quantizer_state(q, NULL) == NULL);
    CHECK_INT(t, bb_quantizer_update(q), BB_OK);
    bb_quantizer *current = make(ctx, (bb_quantizer_options){.recipe = BB_FP8_CURRENT});
    CHECK(t, bb_quantizer_in_norm(current));
    bb_quantized *w8 = bb_quantize(current, w);
    bb_tensor *product = bb_linear_quantized(y, w8, NULL, BB_BF16);
    CHECK(t, bb_dtype_of(product) == BB_BF16);
    CHECK(t, distance(product, bb_linear(x, bb_dequantize(w8), NULL)) < 0.05);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Every allocation of every recipe fails in turn: quantizers, strided inputs, norms, products. */
static void everything(bb_context *ctx) {
    for (int r = 0; r < BB_RECIPE_COUNT; r++) {
        const bb_quantizer_options o = {.recipe = (bb_recipe)r, .history = 4};
        bb_quantizer *q = bb_quantizer_new(ctx, BB_CPU, &o);
        bb_tensor *x = bb_transpose(bb_ones(ctx, BB_F32, SH(32, 64)), 0, 1), *rstd;
        bb_tensor *w = bb_slice(bb_ones(ctx, BB_F32, SH(64)), 0, 0, 64, 2);
        bb_quantized *x8 = bb_quantize(q, x);
        bb_quantized *y8 = bb_rms_norm_quantize(q, x, w, 1e-5, 1, &rstd);
        bb_linear_quantized(x8, y8, NULL, BB_BF16);
        if (x8) bb_dequantize_columns(x8);
        bb_quantizer_update(q);
        bb_quantizer_state(q, NULL);
    }
}
static void test_no_memory(test *t) { alloc_failure_loop(t, everything); }

static void refuse(test *t, bb_context *ctx, bb_quantizer_options o, const char *why) {
    CHECK(t, make(ctx, o) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, why);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    refuse(t, ctx, (bb_quantizer_options){.recipe = (bb_recipe)7},
           "bb_quantizer_new: recipe: expected one of fp8_delayed|");
    refuse(t, ctx, (bb_quantizer_options){.no_rows = true, .no_columns = true}, "no_rows");
    refuse(t, ctx, (bb_quantizer_options){.history = -1}, "history: expected 0 to 1048576, got -1");
    refuse(t, ctx, (bb_quantizer_options){.margin = 1000}, "margin: expected -100 to 100");
    refuse(t, ctx, (bb_quantizer_options){.recipe = BB_NVFP4, .format = BB_E5M2}, "format");
    refuse(t, ctx, (bb_quantizer_options){.amax_floor = NAN}, "amax_floor");
    CHECK(t, bb_quantizer_of_kind(ctx, BB_CPU, NULL, NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_quantizer_of_kind: kind");
    bb_quantizer *q = make(ctx, (bb_quantizer_options){.recipe = BB_MXFP8});
    CHECK(t, bb_quantize(q, bb_ones(ctx, BB_F32, SH(4, 19))) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "divisible by 32, got shape (4, 19)");
    CHECK(t, bb_quantize(q, NULL) == NULL && bb_dequantize(NULL) == NULL);
    CHECK(t, bb_rms_norm_quantize(q, bb_ones(ctx, BB_F32, SH(4, 32)), bb_ones(ctx, BB_F32, SH(4)),
                                  1e-5, 1, NULL) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "weight: expected the last 1 sizes of input (4, 32), got (4,)");
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"T-5, exact numbers pass", test_exact},
    {"usage", test_usage},
    {"T-6, delayed scaling", test_delayed},
    {"a captured step", test_captured},
    {"norms over several axes", test_norm_axes},
    {"transposed", test_transpose},
    {"own kind", test_own_kind},
    {"no memory", test_no_memory},
    {"errors", test_errors},
};
TEST_MAIN(rows)
