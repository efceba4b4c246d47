/* The norm at the sizes, epsilons and tolerances of other suites, against f64: the tables T-1, T-7,
 * T-9, T-10 to T-12, T-16 and T-17 of nn/FUSIBLE.md. */
#include "tests/nn/fusible_test.h"

static const bb_dtype types[] = {BB_F32, BB_F16, BB_BF16};

/* y, dx, dw of one case within these tolerances. */
static void check_case(test *t, bb_context *ctx, bb_dtype dtype, bb_shape shape, double eps,
                       bool zero, double low, double high, tolerance out, tolerance grads) {
    bb_shape last = BB_SHAPE(shape.size[shape.rank - 1]);
    norm_case n = norm_case_open(t, ctx, dtype, shape, last, eps, zero, low, high);
    bb_op_context c = {.requires_grad = true};
    bb_tensor *dw = NULL;
    bb_link y = bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, NULL);
    double *rstd = values_of(t, c.saved[1].tensor), *x = values_of(t, n.x);
    for (int64_t r = 0; r < n.rows; r += 7) {
        double squares = 0;
        for (int64_t j = 0; j < n.inner; j++) squares += x[r * n.inner + j] * x[r * n.inner + j];
        double want = 1 / sqrt(squares / (double)n.inner + (double)(float)eps);
        CHECK_NEAR(t, rstd[r], want, 1e-6 + 5e-5 * want);
    }
    bb_link dx = bb_fusible_backward(n.op, &c, bb_link_of(n.dy), &dw);
    check_tensor(t, "y", y.tensor, dtype, shape, n.y, out);
    check_tensor(t, "dx", dx.tensor, dtype, shape, n.dx, grads);
    check_tensor(t, "dw", dw, dtype, last, n.dw, grads);
    free(rstd), free(x);
    norm_case_close(&n);
    CHECK_OK(t, ctx);
    bb_end_step(ctx);
}

static void t1(test *t) {
    bb_context *ctx = test_open();
    static const bb_shape shapes[] = {{1, {19}}, {1, {64}}, {3, {6, 16, 19}}, {3, {6, 16, 64}}};
    for (int k = 0; k < 4 * 3 * 2; k++) {
        bb_dtype dtype = types[k % 3];
        check_case(t, ctx, dtype, shapes[k / 6], 0.3, k / 3 % 2, 0, 1, tolerance_of(dtype),
                   tolerance_of(dtype));
    }
    bb_close(ctx);
}

/* y, dx and dw with a gradient that is added to dx before its one rounding. */
static void check_added(test *t, bb_context *ctx, bb_dtype dtype, bb_shape shape, bool zero,
                        tolerance out, tolerance grads) {
    bb_shape last = BB_SHAPE(shape.size[shape.rank - 1]);
    norm_case n = norm_case_open(t, ctx, dtype, shape, last, 1e-5, zero, -2, 1);
    uint64_t state = 5;
    bb_tensor *add = uniform(ctx, dtype, shape, -2, 1, &state), *extra = NULL;
    bb_chain *chain = bb_chain_new(ctx, "");
    bb_chain_append(chain, bb_fusible_make_extra_output(ctx));
    bb_chain_append(chain, n.op);
    bb_set_requires_grad(n.x, true);
    bb_tensor *y = bb_chain_forward_with(chain, n.x, NULL, 0, &extra, 1);
    bb_backward(bb_add(bb_sum_all(bb_mul(bb_cast(y, BB_F32), bb_cast(n.dy, BB_F32))),
                       bb_sum_all(bb_mul(bb_cast(extra, BB_F32), bb_cast(add, BB_F32)))),
                NULL);
    double *a = values_of(t, add);
    for (int64_t i = 0; i < n.rows * n.inner; i++) n.dx[i] += a[i];
    check_tensor(t, "y", y, dtype, shape, n.y, out);
    check_tensor(t, "dx", bb_grad(n.x), dtype, shape, n.dx, grads);
    check_tensor(t, "dw", bb_grad(n.weight), dtype, last, n.dw, grads);
    free(a);
    norm_case_close(&n);
    CHECK_OK(t, ctx);
    bb_end_step(ctx);
}

/* T-7's shapes and data in (-2, 1); its gradients' tolerance holds for f32, narrow ones are rounded
 * to their own type. Of the large ones some rows: widths are what counts, and `whole` takes all. A
 * simulated device takes the small ones. */
static void t7(test *t) {
    bb_context *ctx = test_open();
    bool cpu = bb_get_device(ctx) == BB_CPU;
    static const bb_shape shapes[] = {
        {2, {71, 229}}, {2, {29, 541}}, {2, {768 / 16, 6144}}, {2, {2048 / 64, 12288}}};
    static const tolerance out[] = {{5e-6, 5e-7}, {1e-3, 1e-5}, {1e-2, 1e-5}};
    static const tolerance grads[] = {{5e-4, 5e-4}, {1e-3, 5e-4}, {1e-2, 5e-4}};
    for (int k = 0; k < (cpu ? 4 : 2) * 12; k++) {
        int d = k % 3;
        bool zero = k / 3 % 2, add = k / 6 % 2;
        if (add)
            check_added(t, ctx, types[d], shapes[k / 12], zero, out[d], grads[d]);
        else
            check_case(t, ctx, types[d], shapes[k / 12], 1e-5, zero, -2, 1, out[d], grads[d]);
    }
    bb_close(ctx);
}

/* (768, 6144), (768, 2304), (2048, 12288) in f32 with all rows: some of the rows of y and dx, and
 * some columns of dw, which sum over all of them. Too slow for a simulated device, and too much
 * memory under a sanitizer. */
static void check_whole(test *t, int64_t rows, int64_t inner) {
    bb_context *ctx = test_open_host();
    uint64_t state = 7;
    bb_fusible_op *op = bb_fusible_rms_norm(set_of(ctx, BB_F32), "", BB_SHAPE(inner), NULL);
    bb_fusible_reset_parameters(op);
    set_param(t, bb_fusible_param(op, 0), -2, 1, &state);
    bb_tensor *x = bb_empty(ctx, BB_F32, BB_SHAPE(rows, inner)), *dw = NULL;
    bb_tensor *dy = bb_empty(ctx, BB_F32, BB_SHAPE(rows, inner));
    float *xs = bb_data(x), *dys = bb_data(dy), *ws = bb_data(bb_fusible_param(op, 0));
    for (int64_t i = 0; i < rows * inner; i++) {
        xs[i] = (float)(1.5 * number(&state) - 0.5);
        dys[i] = (float)(1.5 * number(&state) - 0.5);
    }
    bb_op_context c = {.requires_grad = true};
    bb_tensor *y = bb_fusible_forward(op, &c, bb_link_of(x), NULL, NULL).tensor;
    bb_tensor *dx = bb_fusible_backward(op, &c, bb_link_of(dy), &dw).tensor;
    if (!CHECK_OK(t, ctx)) {
        bb_close(ctx);
        return;
    }
    const float *ys = bb_data(y), *dxs = bb_data(dx), *dws = bb_data(dw);
    double *want = doubles(inner);
    for (int64_t r = 0; r < rows; r++) {
        const float *xr = xs + r * inner, *dyr = dys + r * inner;
        double squares = 0, mean = 0;
        for (int64_t j = 0; j < inner; j++) squares += (double)xr[j] * xr[j];
        double rs = 1 / sqrt(squares / (double)inner + (double)1e-5f);
        for (int64_t j = 0; j < inner; j += 61) want[j] += dyr[j] * xr[j] * rs;
        if (r % 97 && r != rows - 1) continue;
        for (int64_t j = 0; j < inner; j++)
            mean += (double)dyr[j] * ws[j] * xr[j] * rs / (double)inner;
        for (int64_t j = 0; j < inner; j++) {
            double v = xr[j] * rs * ws[j], d = rs * ((double)dyr[j] * ws[j] - mean * xr[j] * rs);
            if (fabs(ys[r * inner + j] - v) > 5e-7 + 5e-6 * fabs(v) ||
                fabs(dxs[r * inner + j] - d) > 5e-4 + 5e-4 * fabs(d)) {
                CHECK_MSG(t, false, "row %lld, column %lld", (long long)r, (long long)j);
                break;
            }
        }
    }
    for (int64_t j = 0; j < inner; j += 61)
        CHECK_NEAR(t, dws[j], want[j], 5e-4 + 5e-4 * fabs(want[j]));
    free(want);
    bb_close(ctx);
}

static void whole(test *t) {
#ifndef __SANITIZE_ADDRESS__
    check_whole(t, 2048, 12288);
#endif
    check_whole(t, 768, 6144);
    check_whole(t, 768, 2304);
}

/* T-7 with a type of its own for input and output: x f32 with narrow weights, and the reverse. */
static void mixed(test *t) {
    bb_context *ctx = test_open();
    for (int k = 0; k < 18; k++) {
        bb_dtype weight = types[k % 3], input = types[k / 3 % 3];
        uint64_t state = 3;
        const bb_fusible_norm_options o = {.zero_centered_gamma = k / 9};
        bb_fusible_op *op = bb_fusible_rms_norm(set_of(ctx, weight), "", BB_SHAPE(229), &o);
        bb_tensor *x = uniform(ctx, input, BB_SHAPE(5, 229), -2, 1, &state), *w, *dw = NULL;
        bb_fusible_reset_parameters(op);
        w = bb_fusible_param(op, 0);
        set_param(t, w, -2, 1, &state);
        bb_tensor *dy = uniform(ctx, weight, BB_SHAPE(5, 229), -2, 1, &state);
        bb_op_context c = {.requires_grad = true};
        bb_link y = bb_fusible_forward(op, &c, bb_link_of(x), NULL, NULL);
        bb_link dx = bb_fusible_backward(op, &c, bb_link_of(dy), &dw);
        /* The input as the weight's type has it. */
        double *xs = values_of(t, bb_cast(x, weight)), *ws = values_of(t, w),
               *dys = values_of(t, dy);
        double *ry = doubles(5 * 229), *rdx = doubles(5 * 229), *rdw = doubles(229);
        norm_reference(5, 229, 1e-5, k / 9, xs, ws, dys, NULL, ry, rdx, rdw);
        tolerance tol = tolerance_of(weight);
        tol.absolute = weight == BB_F32 ? 2e-5 : tol.relative / 100;
        check_tensor(t, "y", y.tensor, weight, BB_SHAPE(5, 229), ry, tol);
        check_tensor(t, "dx", dx.tensor, weight, BB_SHAPE(5, 229), rdx, tol);
        check_tensor(t, "dw", dw, weight, BB_SHAPE(229), rdw, tol);
        free(xs), free(ws), free(dys), free(ry), free(rdx), free(rdw);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* T-9: (tokens, batch, 768), its four epsilons and those between; T-16's gradients with
 * zero-centred f16 are among them. Outputs at one rounding of their type, where that suite allows
 * 2e-3 and 2e-2. */
static void t9(test *t) {
    bb_context *ctx = test_open();
    bool cpu = bb_get_device(ctx) == BB_CPU;
    for (int k = 0; k < 7 * 3 * 2; k++) {
        bb_dtype dtype = types[k % 3];
        int64_t tokens = !cpu ? 4 : k == 5 ? 2048 : 64;
        tolerance out = tolerance_of(dtype), grads = {out.relative, 2e-3};
        check_case(t, ctx, dtype, BB_SHAPE(tokens, 1 + k % 2, 768), pow(10, -1 - k / 6), k / 3 % 2,
                   -1.7, 1.7, out, grads);
    }
    bb_close(ctx);
}

/* T-10: strides that are not the usual ones, of the input and of the gradient that comes back. */
static void t10(test *t) {
    bb_context *ctx = test_open();
    for (int k = 0; k < 6; k++) {
        uint64_t state = 2;
        const bb_fusible_norm_options o = {.zero_centered_gamma = k / 3};
        bb_fusible_op *op = bb_fusible_rms_norm(set_of(ctx, types[k % 3]), "", BB_SHAPE(128), &o);
        bb_fusible_reset_parameters(op);
        set_param(t, bb_fusible_param(op, 0), -1, 1, &state);
        bb_tensor *x[2], *dy[2], *y[2], *dx[2], *dw[2];
        x[0] = bb_transpose(uniform(ctx, types[k % 3], BB_SHAPE(128, 256), -1, 1, &state), 0, 1);
        dy[0] = bb_transpose(uniform(ctx, types[k % 3], BB_SHAPE(128, 256), -1, 1, &state), 0, 1);
        x[1] = bb_contiguous(x[0]), dy[1] = bb_contiguous(dy[0]);
        for (int i = 0; i < 2; i++) {
            bb_op_context c = {.requires_grad = true};
            y[i] = bb_fusible_forward(op, &c, bb_link_of(x[i]), NULL, NULL).tensor;
            dx[i] = bb_fusible_backward(op, &c, bb_link_of(dy[i]), &dw[i]).tensor;
        }
        CHECK(t, y[0] && same_bytes(y[0], y[1]) && same_bytes(dx[0], dx[1]) &&
                     same_bytes(dw[0], dw[1]));
        CHECK_OK(t, ctx);
        bb_end_step(ctx);
    }
    bb_close(ctx);
}

/* T-11: an f32 module under autocast of f16 and bf16: y of that type, leaves' gradients f32. */
static void t11(test *t) {
    bb_context *ctx = test_open();
    for (int d = 1; d < 3; d++) {
        uint64_t state = 2;
        bb_fusible_op *op = bb_fusible_rms_norm(set_of(ctx, BB_F32), "", BB_SHAPE(32), NULL);
        bb_chain *chain = bb_chain_new(ctx, "");
        bb_chain_append(chain, op);
        bb_chain_set_autocast(chain, true, types[d]);
        bb_tensor *x =
            bb_set_requires_grad(uniform(ctx, BB_F32, BB_SHAPE(4, 32), -1, 1, &state), true);
        bb_tensor *y = bb_chain_forward(chain, x);
        bb_backward(y, bb_ones_like(y));
        CHECK_INT(t, bb_dtype_of(y), types[d]);
        CHECK_INT(t, bb_dtype_of(bb_grad(x)), BB_F32);
        CHECK_INT(t, bb_dtype_of(bb_grad(bb_fusible_param(op, 0))), BB_F32);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* T-12: no bytes before, values by the initializer after, the same twice. */
static void t12(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = set_of(ctx, BB_F32);
    size_t before = bb_memory_stats(ctx).bytes_in_use;
    bb_fusible_op *op = bb_fusible_linear(params, "linear", 64, 96, 0.05);
    bb_fusible_op *norm = bb_fusible_rms_norm(params, "norm", BB_SHAPE(1 << 14), NULL);
    CHECK(t, bb_memory_stats(ctx).bytes_in_use < before + 4 * (1 << 14));
    for (int again = 0; again < 2; again++) {
        CHECK_INT(t, bb_fusible_reset_parameters(op), BB_OK);
        double *w = values_of(t, bb_fusible_param(op, 0)), mean = 0, square = 0;
        for (int i = 0; i < 64 * 96; i++)
            mean += w[i] / (64 * 96), square += w[i] * w[i] / (64 * 96);
        CHECK_NEAR(t, mean, 0, 3e-3);
        CHECK_NEAR(t, sqrt(square), 0.05, 2e-3);
        free(w);
    }
    double *ones = values_of(t, bb_fusible_param(norm, 0));
    CHECK(t, ones[0] == 1 && ones[(1 << 14) - 1] == 1);
    free(ones);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* T-17: 1e-2 and 1e-6, both orientations. */
static void t17(test *t) {
    bb_context *ctx = test_open();
    int64_t rows = bb_get_device(ctx) == BB_CPU ? 256 : 12;
    for (int k = 0; k < 12; k++) {
        bb_dtype dtype = types[k % 3];
        bb_shape shape = k / 3 % 2 ? BB_SHAPE(rows, 128) : BB_SHAPE(rows / 2, 256);
        tolerance tol = tolerance_of(dtype), grads = {tol.relative, 2e-3};
        check_case(t, ctx, dtype, shape, k / 6 ? 1e-6 : 1e-2, false, -1, 1, tol, grads);
    }
    bb_close(ctx);
}

/* T-7 with e4m3 output: amax of the unrounded norm, the scale's reciprocal, and the value within
 * half a unit of the format. Delayed scaling with a scale that an update has set. */
static void t7_fp8(test *t) {
    bb_context *ctx = test_open();
    static const bb_shape shapes[] = {
        {2, {71, 229}}, {2, {29, 541}}, {2, {768 / 48, 6144}}, {2, {2048 / 256, 12288}}};
    bool cpu = bb_get_device(ctx) == BB_CPU;
    for (int k = 0; k < (cpu ? 24 : 12); k++) {
        bb_dtype dtype = types[k % 3];
        bb_shape shape = shapes[k / 6];
        norm_case n =
            norm_case_open(t, ctx, dtype, shape, BB_SHAPE(shape.size[1]), 1e-5, k / 3 % 2, -2, 1);
        bb_quantizer *q =
            bb_quantizer_new(ctx, bb_get_device(ctx), &(bb_quantizer_options){.history = 4});
        bb_op_context c = {.requires_grad = false};
        double amax = 0, scale = 1;
        for (int64_t i = 0; i < bb_count(n.x); i++) amax = fmax(amax, fabs(n.y[i]));
        for (int step = 0; step < 2; step++) {
            bb_quantized *y = bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, q).quantized;
            if (!CHECK(t, y)) break;
            CHECK_NEAR(t, bb_item(bb_reshape(y->amax, BB_SCALAR)), amax, 1e-6 + 5e-6 * amax);
            CHECK_NEAR(t, bb_item(bb_reshape(y->scale_inv, BB_SCALAR)), 1 / scale,
                       1e-6 + 5e-6 / scale);
            /* 1/16 of the value, or half the smallest step that the scale leaves. */
            tolerance half = {1. / 16 + 1e-2, ldexp(1, -10) / scale + 1e-5};
            check_tensor(t, "y", bb_dequantize(y), dtype, shape, n.y, half);
            bb_quantizer_update(q);
            scale = 448 / amax;
        }
        norm_case_close(&n);
        CHECK_OK(t, ctx);
    }
    bb_close(ctx);
}

/* T-8: MXFP8 by rows and by columns, both formats. */
static void t8(test *t) {
    bb_context *ctx = test_open();
    bool cpu = bb_get_device(ctx) == BB_CPU;
    static const bb_shape shapes[] = {{2, {32, 32}}, {2, {768 / 8, 2304}}, {2, {2048 / 64, 12288}}};
    for (int s = 0; s < (cpu ? 3 : 1); s++)
        for (int k = 0; k < 12; k++) {
            bb_dtype dtype = types[k % 3];
            bb_fp8_format format = (bb_fp8_format)(k / 3 % 2);
            norm_case n = norm_case_open(t, ctx, dtype, shapes[s], BB_SHAPE(shapes[s].size[1]),
                                         1e-5, k / 6, -2, 1);
            bb_quantizer *q =
                bb_quantizer_new(ctx, bb_get_device(ctx),
                                 &(bb_quantizer_options){.recipe = BB_MXFP8, .format = format});
            bb_op_context c = {.requires_grad = false};
            bb_quantized *y = bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, q).quantized;
            double relative = format == BB_E5M2 ? 1.25e-1 : dtype == BB_BF16 ? 7e-2 : 6.25e-2;
            /* The smallest step of a block whose largest value is about 8. */
            tolerance tol = {relative * 1.02, format == BB_E5M2 ? 2e-3 : 2e-2};
            check_tensor(t, "rows", bb_dequantize(y), dtype, shapes[s], n.y, tol);
            check_tensor(t, "columns", bb_dequantize_columns(y), dtype, shapes[s], n.y, tol);
            norm_case_close(&n);
            CHECK_OK(t, ctx);
            bb_end_step(ctx);
        }
    bb_close(ctx);
}

static const test_row rows[] = {
    {"T-1 small and odd widths", t1},
    {"T-7 sizes of the C++ suite", t7},
    {"T-7, T-8 whole sizes", whole},
    {"T-7 types of weight and input", mixed},
    {"T-7 in fp8", t7_fp8},
    {"T-8 MXFP8", t8},
    {"T-9 epsilons, T-16 zero-centred f16", t9},
    {"T-10 not contiguous", t10},
    {"T-11 autocast", t11},
    {"T-12 deferred initialization", t12},
    {"T-17 two orientations", t17},
};
TEST_MAIN(rows)
