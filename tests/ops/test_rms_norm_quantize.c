/* RMSNormQuantize and QuantizedLinear: the fused norm gives the bytes of the two ops; every recipe,
 * dtype and layout against the slow reference and f64; odd rows; errors. Recipes by themselves:
 * test_quantize.c. */
#include "tests/support/quantized.h"

static void same_bytes(test *t, bb_tensor *got, bb_tensor *expected, const char *what) {
    CHECK_MSG(t, !got == !expected, "%s: one is missing", what);
    if (!got || !expected) return;
    int64_t n = bb_count(expected) * (int64_t)bb_dtype_bytes(bb_dtype_of(expected));
    char *bytes = malloc((size_t)n + 1);
    bb_read(expected, bytes, (size_t)n);
    check_bytes(t, got, bytes, n, what);
    free(bytes);
}

/* rstd against f64: it is summed in f32. */
static void check_rstd(test *t, bb_tensor *x, bb_tensor *rstd, double eps, const char *what) {
    int64_t n = bb_size(x, -1), rows = bb_count(rstd), bad = 0;
    float *values = read_f32(x), *got = read_f32(rstd);
    CHECK_MSG(t, bb_dtype_of(rstd) == BB_F32 && bb_size(rstd, -1) == 1, "%s: rstd", what);
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0, v;
        for (int64_t i = 0; i < n; i++) v = (double)values[r * n + i], sum += v * v;
        double expected = 1 / sqrt(sum / (double)n + (double)(float)eps);
        bad += !(fabs((double)got[r] - expected) <= 1e-5 * expected);
    }
    CHECK_MSG(t, bad == 0, "%s: %lld of rstd are off", what, (long long)bad);
    free(values), free(got);
}

/* The norm as ops on the rstd that the kernel gave: products rounded one by one. */
static bb_tensor *norm_by(bb_tensor *x, bb_tensor *rstd, bb_tensor *weight, bool wide) {
    bb_tensor *z = bb_mul(bb_mul(bb_cast(x, BB_F32), rstd), weight);
    return wide ? z : bb_cast(z, bb_dtype_of(x));
}

/* The reference and Quantize on the norm, made with the kernel's rstd; rstd itself against f64. On
 * the CPU rstd is RMSNormImpl's to the bit, so the bytes are those of the pair of ops; a GPU's norm
 * sums in an order that depends on its dtype. */
static void check_case(test *t, bb_tensor *x, bb_tensor *weight, const quantize_case *c, double eps,
                       double fp8_scale) {
    bb_context *ctx = bb_context_of(x);
    const bb_rms_norm_quantize_attrs a = {c->attrs, eps};
    const bb_rms_norm_attrs norm = {{1, {-1}}, eps, BB_SCALE_THEN_ROUND};
    bb_shape shape = bb_shape_of(x);
    char what[200], text[BB_SHAPE_TEXT];
    snprintf(what, sizeof what, "%s %s%s", c->name, bb_dtype_name(bb_dtype_of(x)),
             bb_shape_text(&shape, text));
    bb_tensor *scale = scale_for(ctx, &c->attrs, fp8_scale), *rstd;
    bb_quantized_parts got, pair;
    bb_rms_norm_quantize_parts(x, weight, scale, &a, &got, &rstd);
    bool wide = c->attrs.recipe == BB_FP8_DELAYED, host = bb_device_of(x) == BB_CPU;
    bb_tensor *pairs = bb_rms_norm_with(wide ? bb_cast(x, BB_F32) : x, weight, &norm);
    bb_tensor *z = norm_by(x, rstd, weight, wide);
    if (host && bb_count(x)) {
        char bytes[80];
        snprintf(bytes, sizeof bytes, "%.40s: RMSNormImpl", what);
        same_bytes(t, z, pairs, bytes);
    }
    bb_quantize_parts(z, scale, &c->attrs, &pair);
    if (!CHECK_MSG(t, bb_error(ctx) == BB_OK, "%s: %s", what, bb_error_message(ctx))) {
        bb_clear_error(ctx);
        return;
    }
    same_bytes(t, got.data, pair.data, what);
    same_bytes(t, got.scale_inv, pair.scale_inv, what);
    same_bytes(t, got.columns, pair.columns, what);
    same_bytes(t, got.columns_scale_inv, pair.columns_scale_inv, what);
    if (got.amax && !isnan(bb_item(got.amax))) same_bytes(t, got.amax, pair.amax, what);
    float *values = read_f32(z);
    int64_t n = bb_size(x, -1), rows = bb_count(rstd);
    ref_parts e = ref_quantize(&c->attrs, values, rows, n, (float)fp8_scale);
    check_parts(t, &got, &e, &c->attrs, what);
    check_rstd(t, x, rstd, eps, what);
    ref_free(&e);
    free(values);
}

static bb_tensor *draw(bb_context *ctx, bb_dtype dtype, bb_shape shape) {
    return bb_cast(bb_randn(ctx, BB_F32, shape), dtype);
}

/* T-7's small shapes, T-8's smallest, tiles and vectors at their edges. Each case in each dtype. */
static void test_fused(test *t) {
    static const int64_t sizes[][2] = {{71, 229}, {29, 541}, {32, 32},   {64, 96},
                                       {33, 64},  {1, 19},   {128, 256}, {3, 1100}};
    static const bb_dtype types[] = {BB_F32, BB_BF16, BB_F16};
    bb_context *ctx = test_open();
    for (int i = 0; i < quantize_case_count; i++)
        for (int k = 0; k < COUNT(sizes); k++) {
            if (!fits(&quantize_cases[i], sizes[k][0], sizes[k][1])) continue;
            for (int d = k % 2; d < 3; d += 1 + k % 2) /* every dtype of half the shapes */
                check_case(t, draw(ctx, types[d], SH(sizes[k][0], sizes[k][1])),
                           bb_randn(ctx, BB_F32, SH(sizes[k][1])), &quantize_cases[i],
                           k % 2 ? 1e-5 : 0.3, k % 4 < 2 ? 11.3 : 411.3); /* that one saturates */
            bb_end_step(ctx);
        }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_layouts(test *t) {
    bb_context *ctx = test_open();
    for (int i = 0; i < quantize_case_count; i++) {
        const quantize_case *c = &quantize_cases[i];
        bb_tensor *w = bb_rand(ctx, BB_F32, SH(64));
        bb_tensor *strided = bb_slice(bb_rand(ctx, BB_F32, SH(128)), 0, 0, 128, 2);
        check_case(t, bb_transpose(draw(ctx, BB_BF16, SH(64, 32)), 0, 1), w, c, 1e-5, 1);
        check_case(t, bb_transpose(draw(ctx, BB_BF16, SH(2, 16, 64)), 0, 1), strided, c, 1e-5, 1);
        check_case(t, bb_slice(draw(ctx, BB_F16, SH(32, 70)), 1, 3, 67, 1), w, c, 1e-5, 1);
        check_case(t, bb_zeros(ctx, BB_BF16, SH(0, 64)), w, c, 1e-5, 1);
        bb_end_step(ctx);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Rows with NaN, inf, zeros and numbers whose squares overflow; the other rows do not notice. */
static void test_odd_rows(test *t) {
    static const float odd[] = {NAN, INFINITY, -0.0f, 1e30f};
    enum { ROWS = 32, N = 64 };
    float values[ROWS * N];
    bb_context *ctx = test_open();
    for (int i = 0; i < quantize_case_count; i++)
        for (int kind = 0; kind < 2 * COUNT(odd); kind++) {
            const int k = kind / 2;
            for (int n = 0; n < ROWS * N; n++)
                values[n] = n / N == 3 && (k >= 2 || n % N == 7) ? odd[k] : (float)(n % 61 - 30);
            bb_tensor *x = bb_from(ctx, BB_F32, SH(ROWS, N), values), *rstd;
            bb_tensor *w = bb_ones(ctx, BB_F32, SH(N));
            if (kind % 2) x = bb_cast(x, BB_BF16);
            const bb_rms_norm_quantize_attrs a = {quantize_cases[i].attrs, 1e-5};
            bb_tensor *scale = scale_for(ctx, &a.quantize, 4);
            bb_quantized_parts got, pair;
            bb_rms_norm_quantize_parts(x, w, scale, &a, &got, &rstd);
            bb_quantize_parts(norm_by(x, rstd, w, a.quantize.recipe == BB_FP8_DELAYED), scale,
                              &a.quantize, &pair);
            same_bytes(t, got.scale_inv, pair.scale_inv, quantize_cases[i].name);
            same_bytes(t, got.columns_scale_inv, pair.columns_scale_inv, quantize_cases[i].name);
            if (k) same_bytes(t, got.data, pair.data, quantize_cases[i].name);
            bb_end_step(ctx);
        }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Composed is the formula; it differs from fused by the last bits of a sum, so by one code. */
static void test_composed(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = draw(ctx, BB_BF16, SH(32, 96)), *w = bb_rand(ctx, BB_F32, SH(96));
    for (int i = 0; i < quantize_case_count; i++) {
        const bb_rms_norm_quantize_attrs a = {quantize_cases[i].attrs, 1e-5};
        bb_tensor *scale = scale_for(ctx, &a.quantize, 20), *values[2];
        for (int path = 0; path < 2; path++) {
            bb_quantized_parts parts;
            bb_set_path(ctx, path ? BB_PATH_FUSED : BB_PATH_COMPOSED);
            bb_rms_norm_quantize_parts(x, w, scale, &a, &parts, NULL);
            bb_dequantize_attrs d = {a.quantize.recipe, a.quantize.format, a.quantize.square,
                                     !a.quantize.rows, BB_F32};
            values[path] =
                bb_dequantize_parts(a.quantize.rows ? parts.data : parts.columns,
                                    a.quantize.rows ? parts.scale_inv : parts.columns_scale_inv,
                                    a.quantize.recipe == BB_NVFP4 ? parts.amax : NULL, &d);
        }
        bb_set_path(ctx, BB_PATH_AUTO);
        double wrong =
            bb_item(bb_sum(bb_cast(bb_ne(values[0], values[1]), BB_F32), (bb_ints){0}, 0));
        CHECK_MSG(t, wrong <= 32 * 96 / 50, "%s: %g values differ", quantize_cases[i].name, wrong);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_linear(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = draw(ctx, BB_F32, SH(2, 16, 64)), *w = draw(ctx, BB_F32, SH(48, 64));
    bb_tensor *bias = draw(ctx, BB_F32, SH(48)), *one = bb_full(ctx, BB_F32, SH(1), 2);
    for (int i = 0; i < BB_RECIPE_COUNT; i++) {
        const bb_quantize_attrs a = {.recipe = i, .rows = true};
        const bb_dequantize_attrs back = {.recipe = i, .dtype = BB_F32};
        const bb_quantized_linear_attrs l = {.recipe = i, .weight_recipe = i, .dtype = BB_F32};
        bb_tensor *s = i == BB_FP8_DELAYED ? one : NULL;
        bb_quantized_parts px, pw;
        if (w && i == BB_MXFP8) w = draw(ctx, BB_F32, SH(64, 64)), bias = draw(ctx, BB_F32, SH(64));
        bb_quantize_parts(x, s, &a, &px);
        bb_quantize_parts(w, s, &a, &pw);
        bb_tensor *y = bb_quantized_linear(&px, &pw, i % 2 ? bias : NULL, &l);
        bb_tensor *ax = i == BB_NVFP4 ? px.amax : NULL, *aw = i == BB_NVFP4 ? pw.amax : NULL;
        bb_tensor *e =
            bb_linear(bb_dequantize_parts(px.data, px.scale_inv, ax, &back),
                      bb_dequantize_parts(pw.data, pw.scale_inv, aw, &back), i % 2 ? bias : NULL);
        double off = bb_item(bb_amax(bb_abs(bb_sub(y, e)), (bb_ints){0}, false));
        CHECK_MSG(t, off <= 1e-4, "recipe %d: off by %g", i, off);
        CHECK_INT(t, bb_size(y, -1), bb_size(w, 0));
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Formats, dtypes, bias, sizes that an fp8 product takes and that it does not. */
static void test_linear_forms(test *t) {
    static const int64_t sizes[][3] = {{16, 32, 48}, {32, 16, 16}, {5, 16, 16},
                                       {16, 7, 16},  {16, 16, 24}, {0, 16, 16}};
    static const bb_dtype types[] = {BB_F32, BB_BF16, BB_F16};
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(sizes) * 12; i++) {
        const int64_t *s = sizes[i / 12];
        bb_dtype dtype = types[i % 3];
        bool with_bias = i % 2;
        bb_quantize_attrs ax = {.recipe = BB_FP8_CURRENT, .format = i / 3 % 2, .rows = true},
                          aw = ax;
        aw.format = i / 6 % 2;
        bb_quantized_parts px, pw;
        bb_quantize_parts(draw(ctx, BB_F32, SH(s[0], s[2])), NULL, &ax, &px);
        bb_quantize_parts(draw(ctx, BB_F32, SH(s[1], s[2])), NULL, &aw, &pw);
        bb_tensor *bias = with_bias ? draw(ctx, dtype, SH(s[1])) : NULL;
        const bb_quantized_linear_attrs l = {BB_FP8_CURRENT, ax.format, BB_FP8_CURRENT, aw.format,
                                             false,          false,     (int)dtype};
        bb_tensor *y = bb_quantized_linear(&px, &pw, bias, &l);
        bb_set_path(ctx, BB_PATH_COMPOSED);
        bb_tensor *e = bb_quantized_linear(&px, &pw, bias, &l);
        bb_set_path(ctx, BB_PATH_AUTO);
        if (!CHECK_MSG(t, y && e, "%d: %s", i, bb_error_message(ctx))) break;
        float *got = read_f32(y), *want = read_f32(e);
        double step = dtype == BB_F32 ? 1e-5 : dtype == BB_F16 ? 1e-3 : 8e-3;
        int64_t bad = 0;
        for (int64_t k = 0; k < bb_count(y); k++)
            bad += !(fabs((double)got[k] - (double)want[k]) <= step * (1 + fabs((double)want[k])));
        CHECK_MSG(t, bad == 0, "%d: %lld values differ", i, (long long)bad);
        free(got), free(want);
        bb_end_step(ctx);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_errors(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_ones(ctx, BB_F32, SH(2, 8)), *w = bb_ones(ctx, BB_F32, SH(8)), *rstd;
    bb_rms_norm_quantize_attrs a = {{.recipe = BB_FP8_CURRENT, .rows = true}, 1e-5};
    bb_quantized_parts parts;
    bb_rms_norm_quantize_parts(x, bb_ones(ctx, BB_F32, SH(7)), NULL, &a, &parts, &rstd);
    CHECK(t, rstd == NULL && parts.data == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNormQuantize: weight: expected shape (8,), got (7,)");
    bb_rms_norm_quantize_parts(x, bb_cast(w, BB_BF16), NULL, &a, &parts, &rstd);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "weight: expected dtype f32, got bf16");
    a.eps = -1;
    bb_rms_norm_quantize_parts(x, w, NULL, &a, &parts, &rstd);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "eps: expected a number >= 0, got -1");
    bb_quantized_linear_attrs l = {
        .recipe = BB_FP8_CURRENT, .weight_recipe = BB_FP8_CURRENT, .dtype = BB_F32};
    bb_quantize_parts(x, NULL, &a.quantize, &parts);
    bb_quantized_parts other;
    bb_quantize_parts(bb_ones(ctx, BB_F32, SH(3, 9)), NULL, &a.quantize, &other);
    CHECK(t, bb_quantized_linear(&parts, &other, NULL, &l) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "QuantizedLinear: weight: expected rows of 8 elements, got shape (3, 9)");
    CHECK(t, bb_quantized_linear(&parts, &parts, w, &l) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bias: expected shape (2,), got (8,)");
    bb_close(ctx);
}

static const test_row rows[] = {
    {"fused is the pair, T-7, T-8", test_fused},
    {"layouts", test_layouts},
    {"odd rows", test_odd_rows},
    {"composed", test_composed},
    {"QuantizedLinear", test_linear},
    {"QuantizedLinear, forms", test_linear_forms},
    {"errors", test_errors},
};
TEST_MAIN(rows)
