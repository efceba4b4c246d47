/* Chains: rows T34 and T35 of nn/FUSIBLE.md, and every kind of op against the plain ops it stands
 * for. A segment on the tape: test_fusible_segment.c. */
#include "tests/nn/fusible_test.h"
#include "tests/support/alloc.h"

/* ---- The list */

static bb_tensor *twice(void *user, bb_tensor *const *in, int n) {
    CHECK_INT((test *)user, n, 1);
    return bb_mul_scalar(in[0], 2);
}

static void t34(test *t) {
    bb_context *ctx = test_open();
    bb_chain *chain = bb_chain_new(ctx, "list");
    bb_fusible_op *op[4];
    for (int i = 0; i < 4; i++) op[i] = bb_fusible_constant_scale(ctx, i + 2);
    bb_chain_append(chain, op[0]);
    bb_chain_append(chain, op[2]);
    bb_chain_insert(chain, 1, op[1]);
    bb_chain_insert(chain, -1, op[3]); /* before the last */
    CHECK_INT(t, bb_chain_length(chain), 4);
    CHECK(t, bb_chain_get(chain, 0) == op[0] && bb_chain_get(chain, 1) == op[1]);
    CHECK(t, bb_chain_get(chain, 2) == op[3] && bb_chain_get(chain, -1) == op[2]);
    bb_chain *part = bb_chain_slice(chain, 1, 3);
    CHECK(t, bb_chain_length(part) == 2 && bb_chain_get(part, 0) == op[1]);
    bb_chain *both = bb_chain_concat(part, chain);
    CHECK(t, bb_chain_length(both) == 6 && bb_chain_get(both, 2) == op[0]);
    CHECK(t, bb_chain_pop(chain, -1) == op[2] && bb_chain_length(chain) == 3);
    CHECK_INT(t, bb_chain_length(part), 2);
    bb_tensor *x = bb_ones(ctx, BB_F32, BB_SHAPE(2));
    CHECK_NEAR(t, bb_item(bb_select(bb_chain_forward(both, x), 0, 0)), 3. * 5 * 2 * 3 * 5 * 4, 0);
    CHECK(t, !bb_chain_get(chain, 3));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_chain_get: index: expected -3 to 2, got 3");
    CHECK(t, !bb_chain_pop(chain, -4));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_chain_pop: index: expected -3 to 2, got -4");
    /* A function splits the ops into two segments, two nodes. */
    bb_chain *split = bb_chain_new(ctx, "split");
    bb_chain_append(split, op[0]), bb_chain_append(split, op[1]);
    bb_chain_append_function(split, twice, t);
    bb_chain_append(split, op[2]);
    bb_tensor *leaf = bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(2)), true);
    int before = bb_tape_length(ctx);
    bb_tensor *y = bb_chain_forward(split, leaf);
    CHECK_INT(t, bb_tape_length(ctx) - before, 3);
    bb_backward(bb_sum_all(y), NULL);
    CHECK_NEAR(t, bb_item(bb_select(bb_grad(leaf), 0, 1)), 2. * 3 * 2 * 4, 0);
    CHECK(t, bb_chain_get(split, 2) == NULL && bb_error(ctx) == BB_OK);
    /* An empty one passes its input. */
    CHECK(t, bb_chain_forward(bb_chain_new(ctx, ""), x) == x);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* ---- Ops against what they stand for */

typedef bb_tensor *(*plain_fn)(bb_tensor *x);
static bb_tensor *half(bb_tensor *x, int which) {
    return bb_narrow(x, -1, which * (bb_size(x, -1) / 2), bb_size(x, -1) / 2);
}
static bb_tensor *gelu(bb_tensor *x) { return bb_gelu(x, BB_GELU_TANH); }
static bb_tensor *qgelu(bb_tensor *x) { return bb_mul(x, bb_sigmoid(bb_mul_scalar(x, 1.702))); }
static bb_tensor *srelu(bb_tensor *x) { return bb_square(bb_relu(x)); }
static bb_tensor *reglu(bb_tensor *x) { return bb_mul(bb_relu(half(x, 0)), half(x, 1)); }
static bb_tensor *geglu(bb_tensor *x) { return bb_mul(gelu(half(x, 0)), half(x, 1)); }
static bb_tensor *swiglu(bb_tensor *x) { return bb_mul(bb_silu(half(x, 0)), half(x, 1)); }
static bb_tensor *qgeglu(bb_tensor *x) { return bb_mul(qgelu(half(x, 0)), half(x, 1)); }
static bb_tensor *sreglu(bb_tensor *x) { return bb_mul(srelu(half(x, 0)), half(x, 1)); }
static bb_tensor *glu(bb_tensor *x) { return bb_mul(bb_sigmoid(half(x, 0)), half(x, 1)); }
static const plain_fn plain[BB_ACT_COUNT] = {bb_relu,    gelu,    bb_silu, qgelu, srelu,
                                             bb_sigmoid, bb_tanh, reglu,   geglu, swiglu,
                                             qgeglu,     sreglu,  glu};

/* y and dx of a chain of one op against the plain function, which runs in f64. */
static void check_op(test *t, const char *what, bb_fusible_op *op, plain_fn fn, bb_dtype dtype,
                     bb_shape shape, tolerance tol) {
    bb_context *ctx = op->ctx;
    uint64_t state = 21;
    bb_chain *chain = bb_chain_new(ctx, "");
    bb_chain_append(chain, op);
    bb_tensor *x = bb_set_requires_grad(uniform(ctx, dtype, shape, -2, 2, &state), true);
    bb_tensor *wide = bb_set_requires_grad(bb_cast(bb_detach(x), BB_F64), true);
    int before = bb_tape_length(ctx);
    bb_tensor *y = bb_chain_forward(chain, x);
    CHECK_INT(t, bb_tape_length(ctx) - before, 1);
    bb_tensor *z = fn(wide);
    bb_tensor *dy = uniform(ctx, dtype, bb_shape_of(y), -1, 1, &state);
    bb_backward(y, dy);
    bb_backward(z, bb_cast(dy, BB_F64));
    double *want = values_of(t, z), *slope = values_of(t, bb_grad(wide));
    check_tensor(t, what, y, dtype, bb_shape_of(z), want, tol);
    check_tensor(t, what, bb_grad(x), dtype, shape, slope, tol);
    free(want), free(slope);
}

static void activations(test *t) {
    static const bb_dtype types[] = {BB_F64, BB_F32, BB_F16, BB_BF16};
    bb_context *ctx = test_open();
    for (int a = 0; a < BB_ACT_COUNT; a++)
        for (int d = 0; d < 4; d++) {
            char what[32];
            snprintf(what, sizeof what, "activation %d %s", a, bb_dtype_name(types[d]));
            tolerance tol = tolerance_of(types[d]);
            if (types[d] == BB_F16) tol = (tolerance){2e-3, 1e-3};
            if (types[d] == BB_BF16) tol.absolute = 8e-3; /* near zeros of the slope */
            check_op(t, what, bb_fusible_activation(ctx, (bb_activation)a), plain[a], types[d],
                     BB_SHAPE(3, 8), tol);
        }
    CHECK_OK(t, ctx);
    bb_chain *chain = bb_chain_new(ctx, "");
    bb_chain_append(chain, bb_fusible_activation(ctx, BB_ACT_GLU));
    CHECK(t, !bb_chain_forward(chain, bb_ones(ctx, BB_F32, BB_SHAPE(2, 3))));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "GLU: input: expected an even last axis, got 3");
    bb_close(ctx);
}

static bb_tensor *l2(bb_tensor *x) {
    bb_tensor *squares = bb_sum(bb_square(x), BB_INTS(-1), true);
    return bb_mul(x, bb_rsqrt(bb_add_scalar(squares, 1e-6)));
}
static bb_tensor *times3(bb_tensor *x) { return bb_mul_scalar(x, 3); }
static bb_tensor *reshaped(bb_tensor *x) { return bb_reshape(x, BB_SHAPE(4, -1)); }
static bb_tensor *itself(bb_tensor *x) { return bb_alias(x); }

/* T-4 in its shapes, and what only moves values. */
static void small_ops(test *t) {
    static const bb_dtype types[] = {BB_F32, BB_F16, BB_BF16};
    static const bb_shape shapes[] = {{1, {32}}, {3, {6, 16, 64}}, {2, {32, 64}}};
    bb_context *ctx = test_open();
    for (int d = 0; d < 3; d++) {
        tolerance tol = tolerance_of(types[d]);
        for (int s = 0; s < 3; s++) {
            tolerance wide = {tol.relative, types[d] == BB_F32 ? 1e-5 : tol.relative * 0.1};
            check_op(t, "L2Normalization", bb_fusible_l2_normalization(ctx, 0), l2, types[d],
                     shapes[s], wide);
        }
        check_op(t, "ConstantScale", bb_fusible_constant_scale(ctx, 3), times3, types[d], shapes[2],
                 tol);
        check_op(t, "Reshape", bb_fusible_reshape(ctx, BB_SHAPE(4, -1)), reshaped, types[d],
                 shapes[2], tol);
        check_op(t, "Identity", bb_fusible_identity(ctx), itself, types[d], shapes[2], tol);
    }
    CHECK_OK(t, ctx);
    CHECK(t, !bb_fusible_dropout(ctx, 1));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "Dropout: p: expected [0, 1), got 1");
    bb_close(ctx);
}

/* The gradient is dropped where the value was. */
static void dropout(test *t) {
    bb_context *ctx = test_open();
    bb_chain *chain = bb_chain_new(ctx, "");
    bb_chain_append(chain, bb_fusible_dropout(ctx, 0.5));
    bb_tensor *x = bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(64, 8)), true);
    bb_tensor *y = bb_chain_forward(chain, x);
    bb_rand(ctx, BB_F32, BB_SHAPE(100)); /* the generator has gone on */
    bb_backward(y, bb_ones_like(y));
    CHECK(t, same_bytes(y, bb_grad(x)));
    double mean = bb_item(bb_mean_all(y));
    CHECK_MSG(t, mean > 0.7 && mean < 1.3, "mean %g", mean);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* LayerNorm (T-3), Linear and Bias against the plain ops in f64. */
static void layers(test *t) {
    static const bb_dtype types[] = {BB_F32, BB_F16, BB_BF16};
    bb_context *ctx = test_open();
    for (int d = 0; d < 3; d++)
        for (int cast = 0; cast < 2; cast++) {
            uint64_t state = 8;
            bb_params *params = set_of(ctx, types[d]);
            bb_chain *chain = bb_chain_new(ctx, "layers");
            bb_chain_append(chain, bb_fusible_layer_norm(params, "norm", BB_SHAPE(32),
                                                         &(bb_fusible_norm_options){.eps = 0.3}));
            bb_chain_append(chain, bb_fusible_linear(params, "linear", 32, 5, 0));
            bb_chain_append(chain, bb_fusible_bias(params, "linear", 5));
            bb_chain_set_fusion(chain, false);
            bb_chain_set_autocast(chain, cast, BB_F32);
            bb_params_build(params);
            bb_tensor *p[4], *wide[4];
            for (int i = 0; i < 4; i++) {
                p[i] = bb_params_at(params, i);
                set_param(t, p[i], 0, 1, &state);
                wide[i] = bb_set_requires_grad(bb_cast(bb_detach(p[i]), BB_F64), true);
            }
            bb_tensor *x = uniform(ctx, types[d], BB_SHAPE(3, 2, 32), 0, 1, &state);
            bb_tensor *dy = uniform(ctx, cast ? BB_F32 : types[d], BB_SHAPE(3, 2, 5), 0, 1, &state);
            bb_tensor *x64 = bb_set_requires_grad(bb_cast(x, BB_F64), true);
            bb_set_requires_grad(x, true);
            bb_tensor *y = bb_chain_forward(chain, x);
            bb_tensor *z =
                bb_linear(bb_layer_norm(x64, wide[0], wide[1], (double)0.3f), wide[2], wide[3]);
            CHECK_INT(t, bb_dtype_of(y), cast ? BB_F32 : types[d]);
            bb_backward(y, dy);
            bb_backward(z, bb_cast(dy, BB_F64));
            /* A norm, a product of 32 terms and a sum, each rounded. */
            tolerance tol = tolerance_of(cast ? BB_F32 : types[d]);
            tol.relative *= 4, tol.absolute += cast || types[d] == BB_F32 ? 2e-5 : tol.relative / 4;
            double *want = values_of(t, z);
            check_tensor(t, "y", y, bb_dtype_of(y), BB_SHAPE(3, 2, 5), want, tol);
            free(want);
            /* Parameters' gradients are cast to the parameters' dtype. */
            if (cast) tol = tolerance_of(types[d]), tol.absolute += 2e-5;
            for (int i = 0; i < 4; i++) {
                want = values_of(t, bb_grad(wide[i]));
                check_tensor(t, "dparam", bb_grad(p[i]), types[d], bb_shape_of(p[i]), want, tol);
                free(want);
            }
            want = values_of(t, bb_grad(x64));
            check_tensor(t, "dx", bb_grad(x), types[d], BB_SHAPE(3, 2, 32), want, tol);
            free(want);
        }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* The layer of nn and the op on one weight: the same values; the op is what takes quantizers. */
static void t35(test *t) {
    bb_context *ctx = test_open();
    uint64_t state = 6;
    bb_params *params = set_of(ctx, BB_F32);
    bb_nn_rms_norm layer = bb_nn_rms_norm_new(params, "norm", 24, 1e-5, 0);
    bb_fusible_op *op = bb_fusible_rms_norm_of(params, layer.weight, NULL);
    bb_params_build(params);
    set_param(t, layer.weight, 0, 1, &state);
    CHECK(t, bb_fusible_param(op, 0) == layer.weight);
    CHECK_INT(t, bb_params_count(params), 1);
    bb_chain *chain = bb_chain_new(ctx, "");
    bb_chain_append(chain, op);
    bb_tensor *a = bb_set_requires_grad(uniform(ctx, BB_F32, BB_SHAPE(5, 24), -1, 1, &state), true);
    bb_tensor *b = bb_set_requires_grad(bb_detach(a), true);
    bb_tensor *dy = uniform(ctx, BB_F32, BB_SHAPE(5, 24), -1, 1, &state);
    bb_tensor *y = bb_chain_forward(chain, a), *z = bb_nn_rms_norm_forward(&layer, b);
    CHECK(t, same_bytes(y, z));
    bb_backward(y, dy);
    bb_tensor *dw = bb_keep(bb_grad(layer.weight));
    bb_zero_grad(layer.weight);
    bb_backward(z, dy);
    CHECK(t, same_bytes(bb_grad(a), bb_grad(b)) && same_bytes(dw, bb_grad(layer.weight)));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void short_of_memory(bb_context *ctx) {
    bb_params *params = bb_params_new(ctx, BB_CPU, BB_F32);
    bb_chain *chain = bb_chain_new(ctx, "memory");
    bb_chain_append(chain, bb_fusible_make_extra_output(ctx));
    bb_chain_append(chain, bb_fusible_rms_norm(params, "norm", BB_SHAPE(4), NULL));
    bb_chain_append(chain, bb_fusible_linear(params, "linear", 4, 4, 0));
    bb_chain_append(chain, bb_fusible_add_extra_input(ctx));
    bb_tensor *x = bb_set_requires_grad(bb_randn(ctx, BB_F32, BB_SHAPE(2, 4)), true), *out;
    bb_tensor *y = bb_chain_forward_with(chain, x, &x, 1, &out, 1);
    bb_backward(bb_sum_all(bb_add(y, out)), NULL);
}
static void allocation(test *t) { alloc_failure_loop(t, short_of_memory); }

static const test_row rows[] = {
    {"T34 the list of members", t34},
    {"activations", activations},
    {"T-4 L2Normalization, and small ops", small_ops},
    {"dropout", dropout},
    {"T-3 LayerNorm under autocast, Linear, Bias", layers},
    {"T35 the layer and the op", t35},
    {"allocation", allocation},
};
TEST_MAIN(rows)
