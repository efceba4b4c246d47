/* Quantize, Dequantize and update_scale_: every recipe to the byte against a slow reference
 * (tests/support/quantized.h), layouts, odd values, empty tensors, the recurrence of scales,
 * errors. Conversions of single numbers: tests/backends/test_fp8.c. */
#include "autograd/autograd.h"
#include "tests/support/quantized.h"

/* Numbers of all sizes: runs with large and with small maxima. */
static bb_tensor *draw(bb_context *ctx, bb_dtype dtype, bb_shape shape) {
    bb_tensor *size = bb_exp(bb_mul_scalar(bb_randn(ctx, BB_F32, shape), 2));
    return bb_cast(bb_mul(bb_randn(ctx, BB_F32, shape), size), dtype);
}

static void dequantize_and_compare(test *t, const bb_quantize_attrs *a, const ref_parts *e,
                                   const bb_quantized_parts *p, bool columns, bb_dtype dtype,
                                   int64_t rows, int64_t width, const char *what) {
    const bb_dequantize_attrs d = {a->recipe, a->format, a->square, columns, (int)dtype};
    bb_tensor *y = bb_dequantize_parts(columns ? p->columns : p->data,
                                       columns ? p->columns_scale_inv : p->scale_inv,
                                       a->recipe == BB_NVFP4 ? p->amax : NULL, &d);
    if (!CHECK_MSG(t, y && bb_count(y) == rows * width, "%s: not dequantized", what)) return;
    float *expected = malloc((size_t)(rows * width + 1) * sizeof *expected);
    ref_dequantize(a, e, columns, rows, width, expected);
    bb_tensor *z = bb_cast(bb_from(bb_context_of(y), BB_F32, SH(rows, width), expected), dtype);
    float *got = read_f32(y), *want = read_f32(z);
    int64_t bad = 0;
    for (int64_t i = 0; i < rows * width; i++)
        bad += !(got[i] == want[i] || (isnan(got[i]) && isnan(want[i])));
    CHECK_MSG(t, bad == 0, "%s: %s: %lld values differ", what, columns ? "columns" : "rows",
              (long long)bad);
    free(expected), free(got), free(want);
}

static void check_case(test *t, bb_tensor *x, const quantize_case *c, double scale) {
    bb_context *ctx = bb_context_of(x);
    bb_shape shape = bb_shape_of(x);
    int64_t width = shape.size[shape.rank - 1], rows = 1;
    for (int i = 0; i < shape.rank - 1; i++) rows *= shape.size[i];
    char what[200], text[BB_SHAPE_TEXT];
    snprintf(what, sizeof what, "%s %s%s", c->name, bb_dtype_name(bb_dtype_of(x)),
             bb_shape_text(&shape, text));
    bb_quantized_parts parts;
    bb_quantize_parts(x, scale_for(ctx, &c->attrs, scale), &c->attrs, &parts);
    if (!CHECK_MSG(t, bb_error(ctx) == BB_OK, "%s: %s", what, bb_error_message(ctx))) {
        bb_clear_error(ctx);
        return;
    }
    float *z = read_f32(x);
    ref_parts e = ref_quantize(&c->attrs, z, rows, width, (float)scale);
    check_parts(t, &parts, &e, &c->attrs, what);
    if (c->attrs.rows)
        dequantize_and_compare(t, &c->attrs, &e, &parts, false, bb_dtype_of(x), rows, width, what);
    if (c->attrs.columns)
        dequantize_and_compare(t, &c->attrs, &e, &parts, true, BB_F32, rows, width, what);
    ref_free(&e);
    free(z);
}

/* One below, at and one above each block and tile; T-8's smallest; enough for several pieces. */
static void test_recipes(test *t) {
    static const int64_t sizes[][2] = {{32, 32},  {64, 96},    {128, 128}, {127, 129},
                                       {1, 1},    {33, 31},    {71, 229},  {29, 541},
                                       {3, 1025}, {160, 1056}, {129, 255}, {2, 19}};
    static const bb_dtype types[] = {BB_F32, BB_BF16, BB_F16};
    bb_context *ctx = test_open();
    for (int i = 0; i < quantize_case_count; i++)
        for (int k = 0; k < COUNT(sizes); k++) {
            if (!fits(&quantize_cases[i], sizes[k][0], sizes[k][1])) continue;
            check_case(t, draw(ctx, types[(i + k) % 3], SH(sizes[k][0], sizes[k][1])),
                       &quantize_cases[i], 3.7);
            bb_end_step(ctx);
        }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Ranks and strides: the matrix is what counts. */
static void test_layouts(test *t) {
    bb_context *ctx = test_open();
    for (int i = 0; i < quantize_case_count; i++) {
        const quantize_case *c = &quantize_cases[i];
        bb_tensor *x = draw(ctx, BB_BF16, SH(4, 32, 64));
        check_case(t, x, c, 1);
        check_case(t, bb_transpose(x, 1, 2), c, 1);
        check_case(t, bb_transpose(x, 0, 1), c, 1);
        check_case(t, bb_slice(draw(ctx, BB_F32, SH(32, 70)), 1, 3, 67, 1), c, 1);
        check_case(t, bb_slice(draw(ctx, BB_F16, SH(32, 128)), 1, 0, 128, 2), c, 1);
        check_case(t, bb_expand(draw(ctx, BB_F32, SH(1, 32)), SH(64, 32)), c, 1);
        bb_end_step(ctx);
    }
    check_case(t, draw(ctx, BB_F32, SH(77)), &quantize_cases[0], 1);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_empty(test *t) {
    bb_context *ctx = test_open();
    for (int i = 0; i < quantize_case_count; i++) {
        check_case(t, bb_zeros(ctx, BB_F32, SH(0, 64)), &quantize_cases[i], 1);
        check_case(t, bb_zeros(ctx, BB_BF16, SH(2, 0, 32)), &quantize_cases[i], 1);
        check_case(t, bb_zeros(ctx, BB_BF16, SH(32, 0)), &quantize_cases[i], 1);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* A whole tensor of one odd value, and one odd value among others. */
static void test_odd_values(test *t) {
    static const float odd[] = {0,      -0.0f,   INFINITY,       -INFINITY, NAN,      1e-45f,
                                1e-38f, -448.0f, 3.40282347e38f, 5.9e-39f,  1.2e-38f, 464.0f};
    enum { N = 64 * 64 };
    static float values[N];
    bb_context *ctx = test_open();
    for (int i = 0; i < quantize_case_count; i++)
        for (int k = 0; k < COUNT(odd); k++) {
            for (int n = 0; n < N; n++) values[n] = odd[k];
            check_case(t, bb_from(ctx, BB_F32, SH(64, 64), values), &quantize_cases[i], 2);
            for (int n = 0; n < N; n++)
                values[n] = n % 997 == 5 ? odd[k] : (float)(n % 61 - 30) / 7;
            check_case(t, bb_from(ctx, BB_F32, SH(64, 64), values), &quantize_cases[i], 2);
            bb_end_step(ctx);
        }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* ---- update_scale_ */

typedef struct update {
    bb_context *ctx;
    bb_tensor *scale, *history;
    bb_update_scale_attrs attrs;
} update;

static double step(update *u, double amax) {
    bb_update_scale_(u->scale, u->history, bb_full(u->ctx, BB_F32, SH(1), amax), &u->attrs);
    return bb_item(u->scale);
}

/* T-6: margin 2, history 8. The scale of a step is that of the largest of the last eight. */
static void test_update(test *t) {
    enum { HISTORY = 8, STEPS = 30 };
    for (int mode = 0; mode < 4; mode++) {
        bb_context *ctx = test_open();
        update u = {ctx,
                    bb_full(ctx, BB_F32, SH(1), 1),
                    bb_zeros(ctx, BB_F32, SH(HISTORY)),
                    {mode % 2, 2, mode >= 2}};
        float past[STEPS], most = mode % 2 ? 57344 : 448;
        for (int i = 0; i < STEPS; i++) {
            past[i] = (float)((i * 37 + 11) % 23 + 1) / 3;
            float top = past[i];
            for (int k = i; k >= 0 && k > i - HISTORY && mode < 2; k--)
                top = past[k] > top ? past[k] : top;
            CHECK_NEAR(t, step(&u, (double)past[i]), (double)(most / 4 / top), 0);
        }
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
}

static void test_update_odd(test *t) {
    bb_context *ctx = test_open();
    update u = {ctx, bb_full(ctx, BB_F32, SH(1), 5), bb_zeros(ctx, BB_F32, SH(2)), {BB_E4M3, 0, 0}};
    CHECK_NEAR(t, step(&u, 0), 5, 0);
    CHECK_NEAR(t, step(&u, 224), 2, 0);
    CHECK_NEAR(t, step(&u, NAN), 2, 0); /* and nothing of it stays */
    CHECK_NEAR(t, step(&u, INFINITY), 2, 0);
    CHECK_NEAR(t, step(&u, 112), 2, 0);
    CHECK_NEAR(t, step(&u, 112), 4, 0);
    CHECK_NEAR(t, step(&u, 0), 4, 0);
    CHECK_NEAR(t, step(&u, 0), 4, 0);
    CHECK_NEAR(t, step(&u, 1e-38), 3.40282346638528859812e38, 0); /* 448 / 1e-38 is beyond f32 */
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* A history of one, of a multiple of a warp and more than a block. */
static void test_update_lengths(test *t) {
    static const int lengths[] = {1, 31, 32, 33, 1024, 2500};
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(lengths); i++) {
        bb_tensor *ramp = bb_arange(ctx, BB_F32, 1, lengths[i] + 1, 1);
        update u = {ctx, bb_full(ctx, BB_F32, SH(1), 1), bb_contiguous(ramp), {BB_E4M3, 0, 0}};
        double top = lengths[i] > 1 ? lengths[i] - 1 : 0.5;
        CHECK_NEAR(t, step(&u, 0.5), (double)(448.0f / (float)top), 0);
        float *got = read_f32(u.history);
        CHECK_NEAR(t, got[0], 0.5, 0);
        for (int k = 1; k < lengths[i]; k++) CHECK_NEAR(t, got[k], k, 0);
        free(got);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* ---- Errors */

static void refuse(test *t, bb_tensor *x, bb_tensor *scale, bb_quantize_attrs a, const char *why) {
    bb_quantized_parts parts;
    bb_context *ctx = bb_context_of(x);
    CHECK(t, bb_quantize_parts(x, scale, &a, &parts) != BB_OK && !parts.data && !parts.amax);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, why);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_zeros(ctx, BB_F32, SH(32, 48)), *one = bb_ones(ctx, BB_F32, SH(1));
    bb_quantize_attrs rows = {.recipe = BB_FP8_CURRENT, .rows = true}, a = rows;
    refuse(t, bb_zeros(ctx, BB_F64, SH(2, 2)), NULL, a,
           "Quantize: input: expected dtype f32, f16 or bf16, got f64");
    refuse(t, bb_zeros(ctx, BB_F32, BB_SCALAR), NULL, a, "input: expected at least 1 axes, got 0");
    refuse(t, x, one, a, "scale: expected none with recipe fp8_current, got a tensor");
    a.rows = false;
    refuse(t, x, NULL, a, "rows: expected rows, columns or both, got neither");
    a = rows, a.amax_floor = -1;
    refuse(t, x, NULL, a, "amax_floor: expected a finite number >= 0, got -1");
    a = rows, a.recipe = BB_RECIPE_COUNT;
    refuse(t, x, NULL, a, "recipe: expected one of fp8_delayed|");
    a = rows, a.recipe = BB_MXFP8;
    refuse(t, x, NULL, a, "divisible by 32, got shape (32, 48)");
    refuse(t, bb_zeros(ctx, BB_F32, SH(33, 32)), NULL, a, "divisible by 32, got shape (33, 32)");
    a = rows, a.recipe = BB_NVFP4;
    refuse(t, bb_zeros(ctx, BB_F32, SH(32, 24)), NULL, a, "divisible by 16, got shape (32, 24)");
    a.format = BB_E5M2;
    refuse(t, x, NULL, a, "format: expected e4m3, that of nvfp4's scales, got e5m2");
    a = rows, a.recipe = BB_FP8_DELAYED;
    refuse(t, x, NULL, a, "scale: expected a tensor with recipe fp8_delayed, got NULL");
    refuse(t, x, bb_ones(ctx, BB_F32, SH(2)), a, "scale: expected one element, got 2");
    bb_close(ctx);
}

static void refuse_back(test *t, bb_tensor *data, bb_tensor *scale, bb_tensor *amax,
                        bb_dequantize_attrs a, const char *why) {
    bb_context *ctx = bb_context_of(data);
    CHECK(t, bb_dequantize_parts(data, scale, amax, &a) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, why);
}

static void test_errors_back(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *data = bb_zeros(ctx, BB_U8, SH(32, 64)), *one = bb_ones(ctx, BB_F32, SH(1));
    bb_dequantize_attrs current = {.recipe = BB_FP8_CURRENT, .dtype = BB_F32}, a = current;
    refuse_back(t, bb_zeros(ctx, BB_F32, SH(2, 2)), one, NULL, a,
                "data: expected dtype u8, got f32");
    refuse_back(t, data, data, NULL, a, "scale_inv: expected dtype f32, got u8");
    refuse_back(t, data, bb_ones(ctx, BB_F32, SH(2)), NULL, a,
                "scale_inv: expected shape (1,), got (2,)");
    refuse_back(t, data, one, one, a, "amax: expected none with recipe fp8_current");
    a.dtype = BB_I32;
    refuse_back(t, data, one, NULL, a, "dtype: expected f32, f16 or bf16, got i32");
    a = current, a.columns = true;
    refuse_back(t, bb_zeros(ctx, BB_U8, SH(2, 2, 2)), one, NULL, a, "expected columns (C, R)");
    a = current, a.recipe = BB_NVFP4;
    refuse_back(t, data, bb_zeros(ctx, BB_U8, SH(32, 8)), NULL, a,
                "amax: expected a tensor with recipe nvfp4, got NULL");
    refuse_back(t, data, bb_zeros(ctx, BB_U8, SH(32, 4)), one, a, "expected shape (32, 8)");
    update u = {ctx, one, bb_zeros(ctx, BB_F32, SH(2)), {0, 101, 0}};
    CHECK(t, isnan(step(&u, 1)));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "margin: expected -100 to 100, got 101");
    bb_close(ctx);
}

/* Bytes have no gradient: inputs that want one get none, and nothing is recorded. */
static void test_no_gradient(test *t) {
    static const char *const names[] = {"Quantize", "Dequantize", "RMSNormQuantize",
                                        "QuantizedLinear", "update_scale_"};
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(names); i++)
        CHECK(t, bb_find_op(ctx, names[i])->gradient == bb_no_gradient);
    const bb_rms_norm_quantize_attrs a = {{.recipe = BB_FP8_CURRENT, .rows = true}, 1e-5};
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path++) {
        bb_tensor *x = bb_set_requires_grad(bb_randn(ctx, BB_F32, SH(4, 8)), true), *rstd;
        bb_tensor *w = bb_set_requires_grad(bb_ones(ctx, BB_F32, SH(8)), true);
        bb_quantized_parts parts;
        bb_set_path(ctx, (bb_path)path);
        int64_t before = bb_tape_length(ctx);
        CHECK(t, bb_rms_norm_quantize_parts(x, w, NULL, &a, &parts, &rstd) == BB_OK);
        CHECK(t, !bb_requires_grad(rstd) && !bb_requires_grad(parts.data));
        CHECK_INT(t, bb_tape_length(ctx), before);
        CHECK(t, bb_grad_enabled(ctx));
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"no gradient", test_no_gradient}, {"recipes", test_recipes},
    {"layouts", test_layouts},         {"empty", test_empty},
    {"odd values", test_odd_values},   {"T-6, delayed scaling", test_update},
    {"odd maxima", test_update_odd},   {"lengths of history", test_update_lengths},
    {"errors", test_errors},           {"errors of Dequantize", test_errors_back},
};
TEST_MAIN(rows)
