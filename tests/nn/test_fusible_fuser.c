/* Fusions: rows T32 and T33 of nn/FUSIBLE.md, the table T-2, and each row of the fuser against the
 * same chain op by op: the same bits where no rounding is left out. */
#include "tests/nn/fusible_test.h"

static const bb_dtype types[] = {BB_F32, BB_F16, BB_BF16};

/* What a run of a chain gives. */
typedef struct outcome {
    bb_tensor *y, *extra_out, *dx, *dextra, *dparam[4];
    char trace[8192];
} outcome;

/* x, an extra input (if n_in), cotangents of y and of an extra output (if n_out): the same each
 * time. */
static outcome run(test *t, bb_chain *chain, bb_params *params, bb_dtype dtype, bb_shape shape,
                   int n_in, int n_out, bool fused) {
    bb_context *ctx = params->ctx;
    uint64_t state = 31;
    static outcome o;
    memset(&o, 0, sizeof o);
    bb_chain_set_fusion(chain, fused);
    for (int i = 0; i < bb_params_count(params); i++) bb_zero_grad(bb_params_at(params, i));
    bb_tensor *x = bb_set_requires_grad(uniform(ctx, dtype, shape, 0, 1, &state), true);
    FILE *file = tmpfile();
    bb_set_trace(ctx, file);
    /* The extra input has the shape of what it is added to. */
    bb_shape extra_shape = shape;
    for (int i = 0; i < bb_chain_length(chain); i++) {
        bb_tensor *w = bb_fusible_param(bb_chain_get(chain, i), 0);
        if (bb_rank(w) == 2) extra_shape.size[shape.rank - 1] = bb_size(w, 0);
    }
    bb_tensor *e = bb_set_requires_grad(uniform(ctx, dtype, extra_shape, 0, 1, &state), true);
    o.y = bb_chain_forward_with(chain, x, &e, n_in, &o.extra_out, n_out);
    bb_tensor *loss =
        bb_sum_all(bb_mul(bb_cast(o.y, BB_F32),
                          bb_cast(uniform(ctx, dtype, bb_shape_of(o.y), 0, 1, &state), BB_F32)));
    if (n_out)
        loss = bb_add(loss, bb_sum_all(bb_mul(
                                bb_cast(o.extra_out, BB_F32),
                                bb_cast(uniform(ctx, dtype, bb_shape_of(o.extra_out), 0, 1, &state),
                                        BB_F32))));
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    bb_set_trace(ctx, NULL);
    rewind(file);
    size_t got = fread(o.trace, 1, sizeof o.trace - 1, file);
    o.trace[got] = 0;
    fclose(file);
    o.dx = bb_grad(x);
    o.dextra = n_in ? bb_grad(e) : NULL;
    for (int i = 0; i < bb_params_count(params) && i < 4; i++)
        o.dparam[i] = bb_keep(bb_grad(bb_params_at(params, i)));
    return o;
}

static void compare(test *t, const char *what, bb_tensor *a, bb_tensor *b, bool exact,
                    tolerance tol) {
    if (!a && !b) return;
    if (!CHECK_MSG(t, a && b, "%s: one of two", what)) return;
    if (exact) {
        CHECK_MSG(t, same_bytes(a, b), "%s: other bits than op by op", what);
        return;
    }
    double *want = values_of(t, b);
    check_tensor(t, what, a, bb_dtype_of(b), bb_shape_of(b), want, tol);
    free(want);
}

typedef struct pattern {
    const char *name, *way;
    const char *members; /* a letter each: L inear, B ias, A ctivation, + add, o ut, N orm */
    bool exact_f32;      /* no rounding is left out, and no order of sums differs */
    bool exact;          /* in f16 and bf16 too */
} pattern;
static const pattern patterns[] = {
    {"LinearBiasActivation", "forward", "LBA", false, false},
    {"LinearBiasAdd", "forward", "LB+", false, false},
    {"LinearBias", "forward", "LB", false, false},
    {"LinearAdd", "forward", "L+", false, false},
    {"LinearBiasAddRMSNorm", "forward", "LB+oN", false, false},
    {"LinearAddRMSNorm", "forward", "L+oN", true, false},
    {"LinearBiasAddRMSNorm", "forward", "LB+N", false, false},
    {"LinearAddRMSNorm", "forward", "L+N", true, true},
    {"AddRMSNorm", "forward", "+N", true, true},
    {"AddRMSNorm", "forward", "+oN", true, false},
    {"AddRMSNorm", "backward", "+oN", true, false},
    {"BackwardAddRMSNorm", "backward", "oN", true, false},
};

static bb_chain *chain_of(bb_params *params, const char *members, bool zero_centered) {
    bb_context *ctx = params->ctx;
    bb_chain *chain = bb_chain_new(ctx, members);
    for (; *members; members++) {
        bb_fusible_op *op =
            *members == 'L'   ? bb_fusible_linear(params, "linear", 16, 16, 0)
            : *members == 'B' ? bb_fusible_bias(params, "bias", 16)
            : *members == 'A' ? bb_fusible_activation(ctx, BB_ACT_GELU)
            : *members == '+' ? bb_fusible_add_extra_input(ctx)
            : *members == 'o'
                ? bb_fusible_make_extra_output(ctx)
                : bb_fusible_rms_norm(
                      params, "norm", BB_SHAPE(16),
                      &(bb_fusible_norm_options){.eps = 0.3, .zero_centered_gamma = zero_centered});
        bb_chain_append(chain, op);
    }
    return chain;
}

/* On the CPU's baseline, whose loops do not contract; other levels leave roundings out by fused
 * multiplication and addition. */
static bb_context *open_uncontracted(void) {
    setenv("BOBBIN_ISA", "baseline", 1);
    bb_context *ctx = test_open_host();
    unsetenv("BOBBIN_ISA");
    return ctx;
}

static void check_table(test *t, bb_context *ctx, bool cpu) {
    for (int p = 0; p < COUNT(patterns); p++)
        for (int k = 0; k < 6; k++) {
            const pattern *row = &patterns[p];
            bb_dtype dtype = types[k % 3];
            uint64_t state = 1;
            bb_params *params = set_of(ctx, dtype);
            bb_chain *chain = chain_of(params, row->members, k / 3);
            bb_params_build(params);
            for (int i = 0; i < bb_params_count(params); i++)
                set_param(t, bb_params_at(params, i), 0, 1, &state);
            int in = strchr(row->members, '+') != NULL, out = strchr(row->members, 'o') != NULL;
            outcome a = run(t, chain, params, dtype, BB_SHAPE(3, 2, 16), in, out, true);
            char line[80];
            snprintf(line, sizeof line, "fusion %s %s of ops", row->name, row->way);
            CHECK_MSG(t, strstr(a.trace, line), "%s: '%s' is not in the trace", row->members, line);
            outcome b = run(t, chain, params, dtype, BB_SHAPE(3, 2, 16), in, out, false);
            CHECK_MSG(t, !strstr(b.trace, "fusion "), "%s: fused although it is off", row->members);
            bool exact = dtype == BB_F32 ? row->exact_f32 && cpu : row->exact && cpu;
            /* Op by op each step rounds. */
            tolerance tol = tolerance_of(dtype);
            tol.relative *= 2, tol.absolute += dtype == BB_F32 ? 1e-5 : tol.relative / 10;
            compare(t, "y", a.y, b.y, exact, tol);
            compare(t, "extra output", a.extra_out, b.extra_out, exact, tol);
            compare(t, "dx", a.dx, b.dx, exact, tol);
            compare(t, "dextra", a.dextra, b.dextra, exact, tol);
            for (int i = 0; i < 4; i++) compare(t, "dparam", a.dparam[i], b.dparam[i], exact, tol);
        }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}
/* Each activation behind Linear and Bias: those that LinearActivation has run in its kernel, where
 * there is one, and all give what they give op by op. */
static void activations(test *t) {
    bb_context *ctx = test_open();
    bool kernel = bb_op_has_kernel(ctx, bb_find_op(ctx, "LinearActivation"), bb_get_device(ctx), 0);
    for (int which = 0; which < BB_ACT_COUNT; which++)
        for (int d = 0; d < 3; d++) {
            uint64_t state = 1;
            bb_params *params = set_of(ctx, types[d]);
            bb_chain *chain = chain_of(params, "LB", false);
            bb_chain_append(chain, bb_fusible_activation(ctx, (bb_activation)which));
            bb_params_build(params);
            for (int i = 0; i < bb_params_count(params); i++)
                set_param(t, bb_params_at(params, i), -1, 1, &state);
            outcome a = run(t, chain, params, types[d], BB_SHAPE(3, 2, 16), 0, 0, true);
            bool has = which == BB_ACT_RELU || which == BB_ACT_GELU || which == BB_ACT_SILU ||
                       which == BB_ACT_SIGMOID || which == BB_ACT_TANH;
            CHECK_MSG(t, !strstr(a.trace, "LinearActivation c") == !(has && kernel), "%d: %s",
                      which, a.trace);
            CHECK(t, strstr(a.trace, "fusion LinearBiasActivation forward"));
            outcome b = run(t, chain, params, types[d], BB_SHAPE(3, 2, 16), 0, 0, false);
            tolerance tol = tolerance_of(types[d]);
            tol.relative *= 2, tol.absolute = d == 0 ? 2e-5 : 10 * tol.relative;
            compare(t, "y", a.y, b.y, false, tol);
            compare(t, "dx", a.dx, b.dx, false, tol);
            for (int i = 0; i < 4; i++) compare(t, "dparam", a.dparam[i], b.dparam[i], false, tol);
        }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void table(test *t) { check_table(t, test_open(), false); }
static void exact_table(test *t) { check_table(t, open_uncontracted(), true); }

/* A fusion is passed over where its operands do not fit, and the chain gives what it gives. */
static void fits(test *t) {
    bb_context *ctx = test_open();
    bb_params *params = set_of(ctx, BB_BF16);
    bb_chain *chain = chain_of(params, "+N", false);
    bb_params_build(params);
    outcome a = run(t, chain, params, BB_F32, BB_SHAPE(2, 16), 1, 0, true);
    CHECK(t, !strstr(a.trace, "fusion AddRMSNorm"));
    bb_chain_set_autocast(chain, true, BB_F32);
    a = run(t, chain, params, BB_F32, BB_SHAPE(2, 16), 1, 0, true);
    CHECK(t, strstr(a.trace, "fusion AddRMSNorm"));
    CHECK_OK(t, ctx);
    /* The table is well-formed: every row does something, names two members or more. */
    int n = 0;
    for (const bb_fusion *f; (f = bb_fusion_at(n)); n++) {
        CHECK(t, f->name && f->n >= 2 && f->n <= 5 && (f->forward || f->backward));
        for (int i = 0; i < f->n; i++) CHECK(t, f->member[i] && f->member[i]->name);
    }
    CHECK(t, n >= 7 && !bb_fusion_at(-1));
    bb_close(ctx);
}

/* T-2: make_extra_output and RMSNorm, with and without a gradient of the extra output. */
static void check_backward_add(test *t, bb_path path) {
    bb_context *ctx = test_open();
    static const int64_t widths[] = {19, 64};
    bb_set_path(ctx, path);
    for (int k = 0; k < 48; k++) {
        bb_dtype dtype = types[k % 3];
        int64_t w = widths[k / 3 % 2];
        bool zero = k / 6 % 2, extra = k / 12 % 2, matrix = k / 24;
        bb_shape shape = matrix ? BB_SHAPE(6, 16, w) : BB_SHAPE(w);
        norm_case n = norm_case_open(t, ctx, dtype, shape, BB_SHAPE(w), 0.3, zero, 0, 1);
        bb_chain *chain = bb_chain_new(ctx, "");
        bb_chain_append(chain, bb_fusible_make_extra_output(ctx));
        bb_chain_append(chain, n.op);
        uint64_t state = 77;
        bb_tensor *dextra = uniform(ctx, dtype, shape, 0, 1, &state), *x = n.x, *out = NULL;
        bb_set_requires_grad(x, true);
        bb_tensor *y = bb_chain_forward_with(chain, x, NULL, 0, &out, 1);
        CHECK(t, same_bytes(out, x));
        bb_tensor *loss = bb_sum_all(bb_mul(bb_cast(y, BB_F32), bb_cast(n.dy, BB_F32)));
        if (extra)
            loss = bb_add(loss, bb_sum_all(bb_mul(bb_cast(out, BB_F32), bb_cast(dextra, BB_F32))));
        bb_backward(loss, NULL);
        double *xs = values_of(t, x), *dy = values_of(t, n.dy), *ws = values_of(t, n.weight),
               *add = values_of(t, dextra);
        norm_reference(n.rows, n.inner, 0.3, zero, xs, ws, dy, extra ? add : NULL, n.y, n.dx, n.dw);
        check_tensor(t, "y", y, dtype, shape, n.y, tolerance_of(dtype));
        check_tensor(t, "dx", bb_grad(x), dtype, shape, n.dx, tolerance_of(dtype));
        check_tensor(t, "dw", bb_grad(n.weight), dtype, BB_SHAPE(w), n.dw, tolerance_of(dtype));
        if (extra && dtype != BB_F32) { /* one rounding: half a unit from the exact sum */
            tolerance half = {dtype == BB_F16 ? 4.9e-4 : 3.95e-3, 1e-6};
            check_tensor(t, "dx, rounded once", bb_grad(x), dtype, shape, n.dx, half);
        }
        free(xs), free(dy), free(ws), free(add);
        norm_case_close(&n);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* By the kernel that adds, and by ops where there is none. */
static void t32(test *t) {
    check_backward_add(t, BB_PATH_AUTO);
    check_backward_add(t, BB_PATH_COMPOSED);
}

/* Fused one way and op by op the other: each direction reads what the other leaves. */
static void t33(test *t) {
    bb_context *ctx = open_uncontracted();
    bb_params *params = set_of(ctx, BB_F32);
    bb_chain *chain = chain_of(params, "+oN", false);
    bb_params_build(params);
    outcome whole = run(t, chain, params, BB_F32, BB_SHAPE(4, 16), 1, 1, true);
    bb_tensor *want = bb_keep(whole.dx), *y = bb_keep(whole.y);
    bb_fusible_op *op[3];
    for (int i = 0; i < 3; i++) op[i] = bb_chain_get(chain, i);
    for (int mix = 0; mix < 2; mix++) {
        uint64_t state = 31;
        bb_op_context c[3] = {
            {.requires_grad = true}, {.requires_grad = true}, {.requires_grad = true}};
        bb_tensor *x = uniform(ctx, BB_F32, BB_SHAPE(4, 16), 0, 1, &state);
        bb_tensor *in[3] = {uniform(ctx, BB_F32, BB_SHAPE(4, 16), 0, 1, &state)}, *out[3] = {NULL};
        bb_link link = bb_link_of(x);
        for (int i = 0; i < 3; i += mix ? 1 : 3) {
            bb_fusible_run r = {.ctx = ctx,
                                .n = mix ? 1 : 3,
                                .op = op + i,
                                .c = c + i,
                                .input = link,
                                .extra_input = in + i,
                                .extra_output = out + i};
            bb_fusible_run_forward(&r, mix ? NULL : bb_fused_add_rms_norm);
            link = r.output;
        }
        CHECK(t, same_bytes(link.tensor, y));
        bb_tensor *gout[3] = {NULL}, *gin[3] = {NULL}, *gp[3][BB_FUSIBLE_PARAMS] = {{NULL}};
        const bool want_param[3][BB_FUSIBLE_PARAMS] = {{true}, {true}, {true}};
        int given[3] = {0};
        link = bb_link_of(uniform(ctx, BB_F32, BB_SHAPE(4, 16), 0, 1, &state));
        gout[1] = uniform(ctx, BB_F32, BB_SHAPE(4, 16), 0, 1, &state);
        for (int i = mix ? 0 : 2; i >= 0; i -= mix ? 3 : 1) { /* the other way round */
            bb_fusible_back b = {.ctx = ctx,
                                 .n = mix ? 3 : 1,
                                 .op = op + i,
                                 .c = c + i,
                                 .grad_output = link,
                                 .want_input = true,
                                 .grad_extra_output = gout + i,
                                 .grad_extra_input = gin + i,
                                 .grad_param = gp + i,
                                 .want_param = want_param + i,
                                 .n_grad_params = given + i};
            bb_fusible_run_backward(&b, mix ? bb_fused_add_rms_norm_backward : NULL);
            link = b.grad_input;
        }
        CHECK(t, link.tensor && same_bytes(link.tensor, want));
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"T32 backward add and RMSNorm, T-2", t32},
    {"T33 fused and basic are interchangeable", t33},
    {"each fusion against op by op", table},
    {"each fusion against op by op, bit for bit", exact_table},
    {"LinearBiasActivation, each activation", activations},
    {"fusions that do not fit", fits},
};
TEST_MAIN(rows)
