/* The fusible RMSNorm called directly: rows T01 to T08, T12 to T15 and T28 of nn/FUSIBLE.md. What
 * it keeps for backward: test_fusible_op.c. */
#include "tests/nn/fusible_test.h"
#include "tests/support/alloc.h"

static const bb_dtype narrow_types[] = {BB_F32, BB_F16, BB_BF16};

static void t01(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = set_of(ctx, BB_F32);
    bb_fusible_op *plain = bb_fusible_rms_norm(params, "a", BB_SHAPE(8), NULL);
    bb_fusible_op *full = bb_fusible_rms_norm(
        params, "b", BB_SHAPE(8),
        &(bb_fusible_norm_options){.eps = 0.25, .zero_centered_gamma = true, .sm_margin = 2});
    CHECK_TEXT(t, bb_fusible_name(plain), "RMSNorm");
    CHECK(t, bb_params_build(params) == BB_OK);
    /* The defaults by what they do: eps 1e-5, weight of ones; and the others. */
    bb_op_context c = {.requires_grad = false};
    bb_tensor *x = bb_full(ctx, BB_F32, BB_SHAPE(8), 1e-3);
    double *a = values_of(t, bb_fusible_forward(plain, &c, bb_link_of(x), NULL, NULL).tensor);
    double *b = values_of(t, bb_fusible_forward(full, &c, bb_link_of(x), NULL, NULL).tensor);
    CHECK_NEAR(t, a[0], 1e-3 / sqrt(1e-6 + 1e-5), 1e-6);
    CHECK_NEAR(t, b[0], 1e-3 / sqrt(1e-6 + 0.25), 1e-6);
    free(a), free(b);
    CHECK(t, !bb_fusible_rms_norm(set_of(ctx, BB_F32), "c", BB_SHAPE(8),
                                  &(bb_fusible_norm_options){.eps = -1}));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNorm: eps: expected a number >= 0, got -1");
    bb_close(ctx);
}

static void t02(test *t) {
    bb_context *ctx = test_open();
    static const struct {
        bb_shape normalized, input;
    } rows[] = {{{1, {6}}, {2, {4, 6}}},
                {{2, {3, 5}}, {3, {4, 3, 5}}},
                {{3, {2, 3, 4}}, {5, {2, 1, 2, 3, 4}}},
                {{2, {3, 5}}, {2, {3, 5}}},
                {{2, {1, 1}}, {3, {3, 1, 1}}}};
    for (int i = 0; i < COUNT(rows); i++)
        for (int d = 0; d < 3; d++) {
            bb_dtype dtype = narrow_types[d];
            norm_case n =
                norm_case_open(t, ctx, dtype, rows[i].input, rows[i].normalized, 0.3, false, 0, 1);
            bb_op_context c = {.requires_grad = true};
            bb_tensor *dw = NULL;
            bb_link y = bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, NULL);
            bb_link dx = bb_fusible_backward(n.op, &c, bb_link_of(n.dy), &dw);
            check_tensor(t, "y", y.tensor, dtype, rows[i].input, n.y, tolerance_of(dtype));
            check_tensor(t, "dx", dx.tensor, dtype, rows[i].input, n.dx, tolerance_of(dtype));
            check_tensor(t, "dw", dw, dtype, rows[i].normalized, n.dw, tolerance_of(dtype));
            norm_case_close(&n);
        }
    CHECK_OK(t, ctx);
    CHECK(t, !bb_fusible_rms_norm(set_of(ctx, BB_F32), "", BB_SCALAR, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "normalized_shape: expected 1 to 8 dimensions, got ()");
    bb_close(ctx);
}

static void t03(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = set_of(ctx, BB_F32);
    bb_fusible_op *op = bb_fusible_rms_norm(params, "norm", BB_SHAPE(3, 4), NULL);
    bb_params_build(params);
    CHECK_INT(t, bb_device_of(bb_fusible_param(op, 0)), bb_get_device(ctx));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void t04(test *t) {
    bb_context *ctx = test_open();
    for (int d = 0; d < 3; d++) {
        bb_params *params = set_of(ctx, narrow_types[d]);
        bb_fusible_op *op = bb_fusible_rms_norm(params, "norm", BB_SHAPE(3, 4), NULL);
        bb_params_build(params);
        CHECK_INT(t, bb_dtype_of(bb_fusible_param(op, 0)), narrow_types[d]);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void t05(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = set_of(ctx, BB_F32);
    bb_fusible_op *op = bb_fusible_rms_norm(params, "norm", BB_SHAPE(3, 4), NULL);
    bb_params_build(params);
    bb_tensor *w = bb_fusible_param(op, 0);
    bb_shape shape = bb_shape_of(w), want = BB_SHAPE(3, 4);
    CHECK(t, bb_shape_equal(&shape, &want) && bb_requires_grad(w));
    CHECK_INT(t, bb_fusible_param_count(op), 1);
    CHECK_INT(t, bb_params_count(params), 1);
    CHECK_TEXT(t, bb_params_name(params, 0), "norm.weight");
    CHECK(t, bb_fusible_param(op, 1) == NULL && bb_fusible_param(op, -1) == NULL);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void t06(test *t) {
    bb_context *ctx = test_open();
    uint64_t state = 3;
    for (int zero = 0; zero < 2; zero++) {
        bb_params *params = set_of(ctx, BB_F32);
        bb_fusible_op *op = bb_fusible_rms_norm(
            params, "", BB_SHAPE(5), &(bb_fusible_norm_options){.zero_centered_gamma = zero});
        bb_tensor *w = bb_fusible_param(op, 0);
        for (int again = 0; again < 3; again++) {
            CHECK_INT(t, bb_fusible_reset_parameters(op), BB_OK);
            CHECK(t, bb_fusible_param(op, 0) == w);
            double *v = values_of(t, w);
            for (int i = 0; i < 5; i++) CHECK_NEAR(t, v[i], zero ? 0 : 1, 0);
            free(v);
            if (again == 1) set_param(t, w, 2, 3, &state);
        }
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void t07(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = set_of(ctx, BB_F32);
    bb_fusible_op *op = bb_fusible_rms_norm(params, "", BB_SHAPE(1 << 16), NULL);
    bb_tensor *w = bb_fusible_param(op, 0), *x = bb_ones(ctx, BB_F32, BB_SHAPE(1, 1 << 16));
    size_t before = bb_memory_stats(ctx).bytes_in_use;
    CHECK(t, w->storage == NULL && bb_data(w) == NULL);
    CHECK_INT(t, bb_count(w), 1 << 16);
    bb_op_context c = {.requires_grad = true};
    bb_tensor *dw = NULL;
    bb_link y = bb_fusible_forward(op, &c, bb_link_of(x), NULL, NULL);
    CHECK(t, bb_fusible_param(op, 0) == w && w->storage); /* in place */
    CHECK(t, bb_memory_stats(ctx).bytes_in_use >= before + 2 * 4 * (1 << 16));
    bb_fusible_backward(op, &c, y, &dw);
    bb_shape want = bb_shape_of(w), got = bb_shape_of(dw);
    CHECK(t, dw && bb_shape_equal(&want, &got) && bb_device_of(dw) == bb_device_of(w));
    /* A gradient reaches the handle that was there before it had values. */
    bb_chain *chain = bb_chain_new(ctx, "deferred");
    bb_params *later = set_of(ctx, BB_F32);
    bb_fusible_op *second = bb_fusible_rms_norm(later, "", BB_SHAPE(1 << 16), NULL);
    bb_tensor *handle = bb_fusible_param(second, 0);
    bb_chain_append(chain, second);
    bb_backward(bb_sum_all(bb_chain_forward(chain, x)), NULL);
    double *g = values_of(t, bb_grad(handle));
    CHECK_NEAR(t, g[0], 1, 1e-4);
    free(g);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* 1 + weight in f32: a bf16 weight of 2^-9 would vanish in a bf16 sum. */
static void t08(test *t) {
    bb_context *ctx = test_open();
    for (int d = 0; d < 3; d++) {
        bb_dtype dtype = narrow_types[d];
        norm_case n =
            norm_case_open(t, ctx, dtype, BB_SHAPE(3, 7), BB_SHAPE(7), 0.3, true, 0, 0.01);
        bb_op_context c = {.requires_grad = true};
        bb_tensor *dw = NULL;
        bb_link y = bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, NULL);
        bb_link dx = bb_fusible_backward(n.op, &c, bb_link_of(n.dy), &dw);
        tolerance one = {dtype == BB_F32 ? 1e-6 : dtype == BB_F16 ? 4.9e-4 : 3.95e-3, 1e-6};
        check_tensor(t, "y, half a unit", y.tensor, dtype, BB_SHAPE(3, 7), n.y, one);
        check_tensor(t, "dx", dx.tensor, dtype, BB_SHAPE(3, 7), n.dx, one);
        check_tensor(t, "dw", dw, dtype, BB_SHAPE(7), n.dw, one);
        norm_case_close(&n);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void t12(test *t) {
    bb_context *ctx = test_open();
    norm_case n =
        norm_case_open(t, ctx, BB_F32, BB_SHAPE(2, 3, 8), BB_SHAPE(8), 1e-5, false, -1, 1);
    bb_op_context c = {.requires_grad = true};
    bb_quantizer *q = bb_quantizer_new(ctx, bb_get_device(ctx), NULL);
    /* A quantized input is taken, and is what was quantized, dequantized. */
    bb_quantized *x8 = bb_quantize(q, n.x);
    bb_link a = bb_fusible_forward(n.op, &c, (bb_link){NULL, x8}, NULL, NULL);
    bb_op_context other = {.requires_grad = true};
    bb_link b = bb_fusible_forward(n.op, &other, bb_link_of(bb_dequantize(x8)), NULL, NULL);
    CHECK(t, a.tensor && b.tensor && same_bytes(a.tensor, b.tensor));
    bb_link dx = bb_fusible_backward(n.op, &c, (bb_link){NULL, bb_quantize(q, n.dy)}, NULL);
    CHECK(t, dx.tensor && !dx.quantized);
    CHECK_OK(t, ctx);
    CHECK(t, is_nothing(bb_fusible_forward(n.op, &c, (bb_link){NULL, NULL}, NULL, NULL)));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNorm: input: expected a tensor or a quantized one");
    CHECK(t, is_nothing(bb_fusible_forward(bb_fusible_make_extra_output(ctx), &c, bb_link_of(n.x),
                                           NULL, NULL)));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "MakeExtraOutput: forward: an op with an extra input or");
    norm_case_close(&n);
    bb_close(ctx);
}

static void t13(test *t) {
    bb_context *ctx = test_open();
    bb_fusible_op *op = bb_fusible_rms_norm(set_of(ctx, BB_F32), "", BB_SHAPE(3, 4), NULL);
    bb_op_context c = {.requires_grad = true};
    static const bb_shape wrong[] = {{1, {4}}, {2, {4, 3}}, {3, {2, 3, 1}}, {2, {1, 4}}, {0, {0}}};
    static const char *const got[] = {"got (4,)", "got (4, 3)", "got (2, 3, 1)", "got (1, 4)",
                                      "got ()"};
    for (int i = 0; i < COUNT(wrong); i++) {
        CHECK(t, is_nothing(bb_fusible_forward(op, &c, bb_link_of(bb_zeros(ctx, BB_F32, wrong[i])),
                                               NULL, NULL)));
        CHECK_MSG(t, strstr(bb_error_message(ctx), got[i]), "%s", bb_error_message(ctx));
        CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                    "RMSNorm: input: expected a shape that ends in the weight's (3, 4), got (");
    }
    bb_close(ctx);
}

/* The weight's dtype, or autocast's, decides. */
static void t14(test *t) {
    bb_context *ctx = test_open();
    uint64_t state = 5;
    bb_params *params = set_of(ctx, BB_BF16);
    bb_fusible_op *op = bb_fusible_rms_norm(params, "", BB_SHAPE(16), NULL);
    bb_params_build(params);
    set_param(t, bb_fusible_param(op, 0), 0, 1, &state);
    bb_tensor *x = uniform(ctx, BB_F32, BB_SHAPE(4, 16), 0, 1, &state);
    bb_op_context c = {.requires_grad = true}, d = c;
    bb_link wide = bb_fusible_forward(op, &c, bb_link_of(x), NULL, NULL);
    bb_link rounded = bb_fusible_forward(op, &d, bb_link_of(bb_cast(x, BB_BF16)), NULL, NULL);
    CHECK_INT(t, bb_dtype_of(wide.tensor), BB_BF16);
    CHECK_INT(t, c.dtype, BB_BF16);
    CHECK(t, same_bytes(wide.tensor, rounded.tensor));
    for (int i = 0; i < 3; i++) {
        bb_op_context a = {
            .requires_grad = true, .autocast = true, .autocast_dtype = narrow_types[i]};
        bb_tensor *dw = NULL;
        bb_link y = bb_fusible_forward(op, &a, bb_link_of(x), NULL, NULL);
        bb_link dx = bb_fusible_backward(op, &a, y, &dw);
        CHECK_INT(t, bb_dtype_of(y.tensor), narrow_types[i]);
        CHECK_INT(t, bb_dtype_of(dx.tensor), narrow_types[i]);
        CHECK_INT(t, bb_dtype_of(dw), narrow_types[i]);
    }
    CHECK_OK(t, ctx);
    bb_op_context bad = {.autocast = true, .autocast_dtype = BB_I32};
    bb_fusible_forward(op, &bad, bb_link_of(x), NULL, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "RMSNorm: autocast: expected f64, f32, f16 or bf16");
    bb_close(ctx);
}

static void t15(test *t) {
    bb_context *ctx = test_open();
    norm_case n = norm_case_open(t, ctx, BB_F32, BB_SHAPE(12, 8), BB_SHAPE(12), 1e-5, false, -1, 1);
    bb_tensor *x = bb_transpose(n.x, 0, 1), *dy = bb_transpose(n.dy, 0, 1), *dw[2];
    bb_op_context a = {.requires_grad = true}, b = a;
    CHECK(t, !bb_is_contiguous(x));
    bb_link y = bb_fusible_forward(n.op, &a, bb_link_of(x), NULL, NULL);
    bb_link z = bb_fusible_forward(n.op, &b, bb_link_of(bb_contiguous(x)), NULL, NULL);
    CHECK(t, y.tensor && same_bytes(y.tensor, z.tensor));
    bb_link dx = bb_fusible_backward(n.op, &a, bb_link_of(dy), &dw[0]);
    bb_link dz = bb_fusible_backward(n.op, &b, bb_link_of(bb_contiguous(dy)), &dw[1]);
    CHECK(t, dx.tensor && same_bytes(dx.tensor, dz.tensor) && same_bytes(dw[0], dw[1]));
    norm_case_close(&n);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* An op by itself: no neighbours, no quantizers. */
static void t28(test *t) {
    bb_context *ctx = test_open();
    norm_case n = norm_case_open(t, ctx, BB_F16, BB_SHAPE(3, 8), BB_SHAPE(8), 1e-5, false, -1, 1);
    bb_chain *alone = bb_chain_new(ctx, "");
    bb_chain_append(alone, n.op);
    bb_op_context c = {.requires_grad = false};
    bb_tensor *y = bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, NULL).tensor;
    CHECK(t, y && same_bytes(y, bb_chain_forward(alone, n.x)));
    check_tensor(t, "y", y, BB_F16, BB_SHAPE(3, 8), n.y, tolerance_of(BB_F16));
    norm_case_close(&n);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Nothing in, nothing out; the weight's gradient is zeros. */
static void zero_rows(test *t) {
    bb_context *ctx = test_open();
    for (int d = 0; d < 3; d++) {
        bb_dtype dtype = narrow_types[d];
        norm_case n =
            norm_case_open(t, ctx, dtype, BB_SHAPE(0, 2, 6), BB_SHAPE(2, 6), 1e-5, d == 1, 0, 1);
        bb_op_context c = {.requires_grad = true};
        bb_tensor *dw = NULL;
        bb_link y = bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, NULL);
        bb_link dx = bb_fusible_backward(n.op, &c, bb_link_of(n.dy), &dw);
        check_tensor(t, "y", y.tensor, dtype, BB_SHAPE(0, 2, 6), n.y, (tolerance){0, 0});
        check_tensor(t, "dx", dx.tensor, dtype, BB_SHAPE(0, 2, 6), n.dx, (tolerance){0, 0});
        check_tensor(t, "dw", dw, dtype, BB_SHAPE(2, 6), n.dw, (tolerance){0, 0});
        norm_case_close(&n);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void short_of_memory(bb_context *ctx) {
    bb_params *params = bb_params_new(ctx, BB_CPU, BB_BF16);
    bb_fusible_op *op = bb_fusible_rms_norm(
        params, "", BB_SHAPE(2, 4), &(bb_fusible_norm_options){.zero_centered_gamma = true});
    bb_op_context c = {.requires_grad = true};
    bb_tensor *dw = NULL, *x = bb_randn(ctx, BB_F32, BB_SHAPE(3, 2, 4));
    bb_link y = bb_fusible_forward(op, &c, bb_link_of(x), NULL, NULL);
    bb_fusible_backward(op, &c, y, &dw);
}
static void allocation(test *t) { alloc_failure_loop(t, short_of_memory); }

static const test_row rows[] = {
    {"T01 constructor and its defaults", t01},
    {"T02 normalized_shape of one and several dimensions", t02},
    {"T03 device", t03},
    {"T04 dtype of the parameter", t04},
    {"T05 one parameter", t05},
    {"T06 reset_parameters", t06},
    {"T07 deferred initialization in place", t07},
    {"T08 zero-centred gamma", t08},
    {"T12 forward by hand", t12},
    {"T13 shapes that do not fit", t13},
    {"T14 compute dtype", t14},
    {"T15 input that is not contiguous", t15},
    {"T28 an op by itself", t28},
    {"zero rows", zero_rows},
    {"allocation", allocation},
};
TEST_MAIN(rows)
