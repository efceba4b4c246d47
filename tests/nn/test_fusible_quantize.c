/* Quantizers in chains: rows T16 to T18, T27 and T29 of nn/FUSIBLE.md, the tables T-1, T-5, T-6,
 * T-8 and T-13. The quantizers themselves: test_quantize.c; training: test_fusible_training.c. */
#include "tests/nn/fusible_test.h"

static bb_quantizer *quantizer_of(bb_context *ctx, bb_recipe recipe) {
    return bb_quantizer_new(ctx, bb_get_device(ctx), &(bb_quantizer_options){.recipe = recipe});
}

/* A kind outside the supported set: halves, in bf16 bytes. It has no norm. */
static bb_quantized *halve(bb_quantizer *q, bb_tensor *x) {
    bb_quantized *y = bb_quantized_new(q, bb_dtype_of(x), bb_shape_of(x));
    if (y) y->data = bb_cast(bb_mul_scalar(x, 0.5), BB_BF16);
    return y;
}
static bb_tensor *twice(const bb_quantized *x, bool columns) {
    (void)columns;
    return bb_cast(bb_mul_scalar(x->data, 2), x->dtype);
}
static const bb_quantizer_kind hybrid = {.name = "hybrid", .quantize = halve, .dequantize = twice};

static bool same_quantized(const bb_quantized *a, const bb_quantized *b) {
    return a && b && same_bytes(a->data, b->data) && same_bytes(a->scale_inv, b->scale_inv) &&
           same_bytes(a->columns, b->columns) &&
           same_bytes(a->columns_scale_inv, b->columns_scale_inv);
}

/* RMSNorm's gradient stays in high precision; Bias and Linear give what the op before wants. */
static void t16(test *t) {
    bb_context *ctx = test_open();
    bb_quantizer *q = quantizer_of(ctx, BB_FP8_CURRENT);
    norm_case n = norm_case_open(t, ctx, BB_F32, BB_SHAPE(3, 8), BB_SHAPE(8), 1e-5, false, -1, 1);
    bb_op_context c = {.requires_grad = true};
    bb_fusible_forward(n.op, &c, bb_link_of(n.x), q, NULL);
    bb_link dx = bb_fusible_backward(n.op, &c, bb_link_of(n.dy), NULL);
    CHECK(t, dx.tensor && !dx.quantized);
    bb_params *params = set_of(ctx, BB_F32);
    bb_fusible_op *ops[] = {bb_fusible_bias(params, "", 8), bb_fusible_linear(params, "l", 8, 8, 0),
                            bb_fusible_activation(ctx, BB_ACT_GELU)};
    for (int i = 0; i < 3; i++) {
        bb_op_context plain = {.requires_grad = true};
        bb_fusible_forward(ops[i], &c, bb_link_of(n.x), q, NULL);
        bb_fusible_forward(ops[i], &plain, bb_link_of(n.x), NULL, NULL);
        dx = bb_fusible_backward(ops[i], &c, bb_link_of(n.dy), NULL);
        bb_link wide = bb_fusible_backward(ops[i], &plain, bb_link_of(n.dy), NULL);
        CHECK_MSG(t, dx.quantized && same_quantized(dx.quantized, bb_quantize(q, wide.tensor)),
                  "%s", bb_fusible_name(ops[i]));
    }
    norm_case_close(&n);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* The recipes are written by the norm; anything else gets high precision. */
static void t17(test *t) {
    bb_context *ctx = test_open();
    norm_case n =
        norm_case_open(t, ctx, BB_BF16, BB_SHAPE(32, 64), BB_SHAPE(64), 1e-5, false, -1, 1);
    bb_op_context c = {.requires_grad = true};
    for (int r = 0; r < BB_RECIPE_COUNT; r++) {
        bb_link y =
            bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, quantizer_of(ctx, (bb_recipe)r));
        CHECK_MSG(t, y.quantized && !y.tensor, "recipe %d", r);
    }
    bb_quantizer *other = bb_quantizer_of_kind(ctx, bb_get_device(ctx), &hybrid, NULL);
    bb_link y = bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, other);
    CHECK(t, y.tensor && !y.quantized && bb_dtype_of(y.tensor) == BB_BF16);
    norm_case_close(&n);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* T-13: the norm falls back, the next op quantizes. */
static void hybrid_quantizer(test *t) {
    bb_context *ctx = test_open();
    norm_case n =
        norm_case_open(t, ctx, BB_BF16, BB_SHAPE(16, 128), BB_SHAPE(128), 1e-5, false, -1, 1);
    bb_quantizer *other = bb_quantizer_of_kind(ctx, bb_get_device(ctx), &hybrid, NULL);
    bb_chain *chain = bb_chain_new(ctx, "");
    bb_chain_append(chain, n.op);
    bb_tensor *y = bb_chain_forward_link(chain, bb_link_of(n.x)).tensor;
    bb_chain_append(chain, bb_fusible_quantize(ctx, other, NULL));
    bb_link z = bb_chain_forward_link(chain, bb_link_of(n.x));
    CHECK(t, y && z.quantized && z.quantized->quantizer == other);
    CHECK(t, same_bytes(z.quantized->data, bb_mul_scalar(y, 0.5)));
    norm_case_close(&n);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Logical dtype and shape; rows and columns by usage. */
static void t18(test *t) {
    bb_context *ctx = test_open();
    norm_case n =
        norm_case_open(t, ctx, BB_F16, BB_SHAPE(2, 16, 4, 16), BB_SHAPE(4, 16), 1e-5, true, -1, 1);
    bb_op_context c = {.requires_grad = true};
    for (int usage = 1; usage < 4; usage++) {
        bb_quantizer *q = quantizer_of(ctx, BB_MXFP8);
        bb_quantizer_set_usage(q, usage & 1, usage & 2);
        bb_quantized *y = bb_fusible_forward(n.op, &c, bb_link_of(n.x), NULL, q).quantized;
        bb_shape want = BB_SHAPE(2, 16, 4, 16), got = y ? y->shape : BB_SCALAR;
        CHECK(t, y && y->dtype == BB_F16 && bb_shape_equal(&want, &got));
        CHECK(t, y && (y->data != NULL) == (usage & 1) && (y->columns != NULL) == usage >> 1);
        CHECK(t, c.saved[0].tensor && c.saved[1].tensor); /* for backward, as ever */
        tolerance e4m3 = {0.125, 0.0675};
        check_tensor(t, "y", bb_dequantize(y), BB_F16, want, n.y, e4m3);
        bb_link dx = bb_fusible_backward(n.op, &c, bb_link_of(n.dy), NULL);
        tolerance tol = tolerance_of(BB_F16);
        tol.absolute = 1e-3;
        check_tensor(t, "dx", dx.tensor, BB_F16, want, n.dx, tol);
    }
    norm_case_close(&n);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void t27(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = set_of(ctx, BB_F32);
    bb_fusible_op *op = bb_fusible_rms_norm(params, "norm", BB_SHAPE(1), NULL);
    CHECK(t, !op->kind->input_quantizer && !op->kind->grad_output_quantizer);
    /* T-14: what a checkpoint holds is the weight, and no empty state beside it. */
    int n = 0;
    const bb_named *list = bb_params_list(params, &n);
    CHECK(t, n == 1 && strcmp(list[0].name, "norm.weight") == 0);
    bb_close(ctx);
}

/* Norm and Quantize, fused and not, and on the tape. */
static void check_norm_quantize(test *t, bb_context *ctx, const bb_quantizer_options *o,
                                bb_dtype dtype, bb_shape shape, bool zero) {
    int64_t w = shape.size[shape.rank - 1];
    bb_quantizer *q = bb_quantizer_new(ctx, bb_get_device(ctx), o);
    norm_case n = norm_case_open(t, ctx, dtype, shape, BB_SHAPE(w), 0.3, zero, 0, 1);
    bb_chain *chain = bb_chain_new(ctx, "quantized");
    bb_chain_append(chain, n.op);
    bb_chain_append(chain, bb_fusible_quantize(ctx, q, NULL));
    bb_link fused = bb_chain_forward_link(chain, bb_link_of(n.x));
    bb_chain_set_fusion(chain, false);
    bb_link plain = bb_chain_forward_link(chain, bb_link_of(n.x));
    bb_chain_set_fusion(chain, true);
    CHECK(t, fused.quantized && plain.quantized && fused.quantized->quantizer == q);
    /* Delayed scaling quantizes before the rounding that the others share with the norm. */
    bool cpu = bb_get_device(ctx) == BB_CPU;
    bool exact = cpu && (o->recipe != BB_FP8_DELAYED || dtype == BB_F32);
    CHECK_MSG(t, !exact || same_quantized(fused.quantized, plain.quantized),
              "%s, %s: other bytes than norm and quantize", bb_quantizer_name(q),
              bb_dtype_name(dtype));
    bool coarse = o->recipe == BB_NVFP4 || o->format == BB_E5M2;
    tolerance tol = coarse ? (tolerance){0.25, 0.125} : (tolerance){0.125, 0.0675};
    check_tensor(t, "y", bb_dequantize(fused.quantized), dtype, shape, n.y, tol);
    check_tensor(t, "columns", bb_dequantize_columns(fused.quantized), dtype, shape, n.y, tol);
    bb_set_requires_grad(n.x, true); /* the gradient goes straight through */
    bb_tensor *y = bb_chain_forward(chain, n.x);
    CHECK(t, same_bytes(y, bb_dequantize(fused.quantized)));
    bb_backward(y, n.dy);
    tolerance grad = tolerance_of(dtype);
    grad.absolute = dtype == BB_F32 ? 1e-5 : grad.relative / 10;
    check_tensor(t, "dx", bb_grad(n.x), dtype, shape, n.dx, grad);
    check_tensor(t, "dw", bb_grad(n.weight), dtype, BB_SHAPE(w), n.dw, tolerance_of(dtype));
    norm_case_close(&n);
    CHECK_OK(t, ctx);
    bb_end_step(ctx);
}

/* T29, and T-1 over all quantizers: its shapes, as far as they divide into a recipe's blocks. */
static void t29(test *t) {
    static const bb_dtype types[] = {BB_F32, BB_F16, BB_BF16};
    static const bb_shape shapes[] = {{3, {6, 16, 64}}, {3, {6, 16, 19}}, {1, {64}}, {1, {19}}};
    static const struct {
        bb_quantizer_options options;
        int shapes;
    } kinds[] = {
        {{.recipe = BB_FP8_DELAYED}, 4}, {{.recipe = BB_FP8_DELAYED, .format = BB_E5M2}, 2},
        {{.recipe = BB_FP8_CURRENT}, 4}, {{.recipe = BB_FP8_CURRENT, .format = BB_E5M2}, 2},
        {{.recipe = BB_MXFP8}, 1},       {{.recipe = BB_MXFP8, .format = BB_E5M2}, 1},
        {{.recipe = BB_FP8_BLOCK}, 4},   {{.recipe = BB_FP8_BLOCK, .square_blocks = true}, 4},
        {{.recipe = BB_NVFP4}, 1}};
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(kinds); i++)
        for (int k = 0; k < 6 * kinds[i].shapes; k++)
            check_norm_quantize(t, ctx, &kinds[i].options, types[k % 3], shapes[k / 6], k / 3 % 2);
    bb_close(ctx);
}

/* T-5, and without a quantizer an identity. */
static void quantize_op(test *t) {
    bb_context *ctx = test_open();
    uint64_t state = 3;
    bb_quantizer *q = quantizer_of(ctx, BB_FP8_CURRENT), *other = quantizer_of(ctx, BB_MXFP8);
    bb_tensor *x = uniform(ctx, BB_BF16, BB_SHAPE(32, 32), -1, 1, &state);
    bb_quantized *x8 = bb_quantize(q, x);
    bb_op_context c = {.requires_grad = true};
    bb_link y = bb_fusible_forward(bb_fusible_quantize(ctx, other, NULL), &c, (bb_link){NULL, x8},
                                   NULL, NULL);
    CHECK(t, y.quantized == x8); /* passed through */
    bb_fusible_op *off = bb_fusible_quantize(ctx, NULL, NULL);
    CHECK(t, bb_fusible_forward(off, &c, bb_link_of(x), NULL, NULL).tensor == x);
    bb_fusible_op *back = bb_fusible_quantize(ctx, NULL, q);
    bb_fusible_forward(back, &c, bb_link_of(x), NULL, NULL);
    CHECK(t, same_quantized(bb_fusible_backward(back, &c, bb_link_of(x), NULL).quantized, x8));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* T-6: margin 2, a history of 8; the scale follows what passed a chain. */
static void scale_update(test *t) {
    bb_context *ctx = test_open();
    bb_quantizer *q = bb_quantizer_new(ctx, bb_get_device(ctx),
                                       &(bb_quantizer_options){.margin = 2, .history = 8});
    bb_chain *chain = bb_chain_new(ctx, "");
    bb_chain_append(chain, bb_fusible_quantize(ctx, q, NULL));
    double most[8] = {0}, scale = 1;
    for (int step = 0; step < 20; step++) {
        double amax = step % 7 == 3 ? 8 : 1 + step % 3;
        bb_link y =
            bb_chain_forward_link(chain, bb_link_of(bb_full(ctx, BB_F32, BB_SHAPE(16, 16), -amax)));
        float inverse;
        bb_read(y.quantized->scale_inv, &inverse, 4);
        CHECK_NEAR(t, inverse, 1 / scale, 1e-6 / scale);
        bb_quantizer_update(q);
        double largest = 0;
        memmove(most + 1, most, 7 * sizeof *most);
        most[0] = amax;
        /* TransformerEngine's window: the newest is one of the 8. */
        for (int i = 0; i < 8; i++) largest = fmax(largest, most[i]);
        scale = 448 / 4. / largest;
        bb_end_step(ctx);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* ---- Linear */

/* Forward and backward of a Linear with quantizers against the same product of dequantized values.
 */
static void quantized_linear(test *t) {
    bb_context *ctx = test_open();
    for (int r = 0; r < BB_RECIPE_COUNT; r++) {
        uint64_t state = 2;
        bb_params *params = set_of(ctx, BB_BF16);
        bb_fusible_op *op = bb_fusible_linear(params, "", 64, 32, 0);
        bb_chain *chain = bb_chain_new(ctx, "");
        bb_chain_append(chain, op);
        bb_params_build(params);
        set_param(t, bb_fusible_param(op, 0), -1, 1, &state);
        CHECK_INT(t,
                  bb_chain_set_recipe(chain, bb_get_device(ctx),
                                      &(bb_chain_recipe){.recipe = (bb_recipe)r}),
                  BB_OK);
        bb_linear_quantizers q = bb_fusible_get_quantizers(op);
        CHECK(t, q.input && q.weight && q.grad_output);
        bb_tensor *x =
            bb_set_requires_grad(uniform(ctx, BB_BF16, BB_SHAPE(32, 64), -1, 1, &state), true);
        bb_tensor *dy = uniform(ctx, BB_BF16, BB_SHAPE(32, 32), -1, 1, &state);
        bb_tensor *y = bb_chain_forward(chain, x);
        bb_backward(y, dy);
        double *xs = values_of(t, bb_dequantize(bb_quantize(q.input, x)));
        double *ws = values_of(t, bb_dequantize(bb_quantize(q.weight, bb_fusible_param(op, 0))));
        double *gs = values_of(t, bb_dequantize(bb_quantize(q.grad_output, dy)));
        double *want = doubles(32 * 64);
        /* bf16 rounding of what is dequantized for the reference, and of the result; in blocks,
         * rows and columns have other scales, so backward is held to the format. */
        bool one_scale = r <= BB_FP8_CURRENT;
        tolerance tol = {1.6e-2, 4e-2}, coarse = {0.1, one_scale ? 0.1 : r == BB_NVFP4 ? 3 : 0.6};
        for (int i = 0; i < 32 * 32; i++)
            for (int k = 0; k < 64; k++) want[i] += xs[i / 32 * 64 + k] * ws[i % 32 * 64 + k];
        check_tensor(t, "y", y, BB_BF16, BB_SHAPE(32, 32), want, tol);
        memset(want, 0, 32 * 64 * sizeof *want);
        for (int i = 0; i < 32 * 64; i++)
            for (int k = 0; k < 32; k++) want[i] += gs[i / 64 * 32 + k] * ws[k * 64 + i % 64];
        check_tensor(t, "dx", bb_grad(x), BB_BF16, BB_SHAPE(32, 64), want, coarse);
        memset(want, 0, 32 * 64 * sizeof *want);
        for (int i = 0; i < 32 * 64; i++)
            for (int k = 0; k < 32; k++) want[i] += gs[k * 32 + i / 64] * xs[k * 64 + i % 64];
        check_tensor(t, "dweight", bb_grad(bb_fusible_param(op, 0)), BB_BF16, BB_SHAPE(32, 64),
                     want, coarse);
        free(xs), free(ws), free(gs), free(want);
        CHECK_INT(t, bb_chain_update_quantizers(chain), BB_OK);
        bb_chain_set_recipe(chain, bb_get_device(ctx), NULL);
        CHECK(t, !bb_fusible_get_quantizers(op).weight);
        CHECK_OK(t, ctx);
        bb_end_step(ctx);
    }
    bb_fusible_set_quantizers(bb_fusible_identity(ctx), NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected a Linear, got a Identity");
    bb_close(ctx);
}

static bb_tensor *run_chain(void *user, bb_tensor *const *in, int n) {
    (void)n;
    return bb_chain_forward(user, in[0]);
}

/* A segment that is run again measures again; that is no part of its result. */
static void recomputed(test *t) {
    bb_context *ctx = test_open();
    uint64_t state = 5;
    bb_params *params = set_of(ctx, BB_F32);
    bb_chain *chain = bb_chain_new(ctx, "c");
    bb_chain_append(chain, bb_fusible_rms_norm(params, "n", BB_SHAPE(16), NULL));
    bb_chain_append(chain, bb_fusible_linear(params, "l", 16, 16, 0));
    bb_params_build(params);
    bb_chain_set_recipe(chain, bb_get_device(ctx), &(bb_chain_recipe){.recipe = BB_FP8_DELAYED});
    bb_tensor *values = uniform(ctx, BB_F32, BB_SHAPE(16, 16), -1, 1, &state), *x[2];
    for (int again = 0; again < 2; again++) {
        bb_tensor *y = x[again] = bb_set_requires_grad(bb_mul_scalar(values, 1), true);
        for (int i = 0; i < 2; i++)
            y = again ? bb_recompute(ctx, run_chain, chain, &y, 1) : bb_chain_forward(chain, y);
        CHECK_INT(t, bb_backward(bb_sum_all(bb_square(y)), NULL), BB_OK);
    }
    CHECK(t, same_bytes(bb_grad(x[0]), bb_grad(x[1])));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"T16 the gradient's quantizer", t16},
    {"T17 which quantizers the norm writes", t17},
    {"T-13 an unsupported quantizer", hybrid_quantizer},
    {"T18 the quantized result", t18},
    {"T27 a norm has no quantizer and no extra state", t27},
    {"T29 norm and Quantize, T-1 quantized", t29},
    {"T-5 Quantize", quantize_op},
    {"T-6 scale update", scale_update},
    {"Linear with quantizers", quantized_linear},
    {"a segment that is run again", recomputed},
};
TEST_MAIN(rows)
