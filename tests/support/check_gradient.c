/* Gradients of a case (checker.h).
 *
 * f64, each path and layout: finite differences with a random cotangent. Inputs of many elements
 * are checked along random directions instead of element by element: x + sign * c[group], the
 * gradient of c is compared. Each requires_grad combination must then give the same gradients as
 * all of them together. The op inside a scope that drops its inputs and its output must give the
 * same gradients: what backward reads must have been saved. f32, f16 and bf16 are held against f64
 * on the same rounded values. On an accelerator the gradients of f64 are held against the CPU's,
 * which the same program holds against finite differences; second order is not repeated there,
 * since gradient rules are ops all the way and those are checked. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/checker.h"

enum { MANY_ELEMENTS = 160, DIRECTIONS = 12 };

/* ---- One backward */

typedef struct gradients {
    double *value[CASE_MAX_INPUTS]; /* of the leaves; NULL: not wanted */
    int64_t count[CASE_MAX_INPUTS];
    double cotangent; /* its largest magnitude */
} gradients;

static void gradients_free(gradients *g) {
    for (int i = 0; i < CASE_MAX_INPUTS; i++) free(g->value[i]);
    memset(g, 0, sizeof *g);
}

static unsigned wanted_inputs(const op_case *c) {
    unsigned mask = 0;
    for (int i = 0; i < c->n_in; i++) mask |= input_wants_grad(c, i) ? 1u << i : 0u;
    return mask;
}

/* A random cotangent, the same for each dtype but for its rounding. round_as: see check_low. */
static bb_tensor *cotangent(const checker *k, bb_tensor *out, bb_dtype round_as,
                            double *magnitude) {
    uint64_t state = case_seed(k) * 64 + 63;
    int64_t n = bb_count(out);
    double *value = malloc((size_t)(n + 1) * sizeof *value);
    if (!value) return NULL;
    for (int64_t i = 0; i < n; i++) value[i] = round_to(round_as, draw_normal(&state));
    *magnitude = largest(n, value);
    bb_tensor *seed = bb_from_f64(k->ctx, bb_dtype_of(out), bb_shape_of(out), value);
    free(value);
    return seed;
}

/* The op, its inputs made by another op, and its output read by another op, all inside a scope:
 * after it the tape alone holds what backward needs. New tensors then take the storage that was
 * given back. */
static bb_tensor *run_in_scope(const checker *k, const setup *s, const inputs *in,
                               bb_tensor *const *leaf) {
    bb_tensor *made[CASE_MAX_INPUTS] = {NULL};
    bb_scope scope = bb_scope_begin(k->ctx);
    for (int i = 0; i < k->c->n_in; i++)
        made[i] = leaf[i] && input_is_float(&k->c->in[i]) ? bb_mul_scalar(leaf[i], 1)
                                                          : input_leaf(k, s, in, i);
    bb_tensor *out = bb_mul_scalar(run_case(k, made), 1);
    out = bb_scope_end(k->ctx, scope, out);
    for (int twice = 0; out && twice < 2; twice++) {
        for (int i = 0; i < k->c->n_in; i++)
            if (leaf[i]) bb_full(k->ctx, s->dtype, bb_shape_of(leaf[i]), NAN);
        bb_full(k->ctx, bb_dtype_of(out), bb_shape_of(out), NAN);
    }
    return out;
}

/* Forward and backward with gradients for the inputs in `mask`. False: the kernel does not take
 * this, or it failed (which is then counted as a problem of `mode`). */
static bool backward(checker *k, check_mode mode, const setup *s, const inputs *in, unsigned mask,
                     bool scoped, bb_dtype round_as, gradients *g) {
    bb_tensor *leaf[CASE_MAX_INPUTS] = {NULL}, *view[CASE_MAX_INPUTS] = {NULL};
    memset(g, 0, sizeof *g);
    bb_set_path(k->ctx, BB_PATH_AUTO);
    for (int i = 0; i < k->c->n_in; i++) {
        leaf[i] = input_leaf(k, s, in, i);
        if (leaf[i] && (mask >> i & 1)) bb_set_requires_grad(leaf[i], true);
        view[i] = input_view(k, s->layout, leaf[i], i);
    }
    bb_set_path(k->ctx, s->path);
    bb_tensor *out = scoped ? run_in_scope(k, s, in, leaf) : run_case(k, view);
    bool unsupported = s->path == BB_PATH_FUSED && bb_error(k->ctx) == BB_ERR_UNSUPPORTED;
    if (out) {
        bb_tensor *seed = cotangent(k, out, round_as, &g->cotangent);
        bb_backward(out, seed);
    }
    bool ok = out && bb_error(k->ctx) == BB_OK;
    for (int i = 0; ok && i < k->c->n_in; i++) {
        if (!leaf[i]) continue;
        bb_tensor *grad = bb_grad(leaf[i]);
        bool wanted = mask >> i & 1;
        expect(k, wanted == (grad != NULL), mode, s, "input %d: gradient wanted %d, got %d", i,
               wanted, grad != NULL);
        if (!wanted || !grad) continue;
        g->count[i] = bb_count(grad);
        g->value[i] = malloc((size_t)(g->count[i] + 1) * sizeof(double));
        if (g->value[i]) bb_read_f64(grad, g->value[i], g->count[i]);
        expect(k, bb_dtype_of(grad) == s->dtype, mode, s, "input %d: gradient of dtype %s", i,
               bb_dtype_name(bb_dtype_of(grad)));
    }
    if (unsupported)
        bb_clear_error(k->ctx);
    else
        expect_no_error(k, mode, s);
    bb_end_step(k->ctx);
    if (!ok) gradients_free(g);
    return ok;
}

static void compare(checker *k, check_mode mode, const setup *s, const gradients *got,
                    const gradients *expected, const op_case *tolerance) {
    for (int i = 0; i < CASE_MAX_INPUTS; i++) {
        if (!got->value[i] || !expected->value[i]) continue;
        char what[64];
        snprintf(what, sizeof what, "gradient of input %d", i);
        /* Terms of the cotangent's size may cancel to a small gradient; their rounding does not. */
        double scale =
            fmax(largest(expected->count[i], expected->value[i]), 0.25 * expected->cotangent);
        expect_close(k, mode, s, what, got->count[i], got->value[i], expected->value[i],
                     4 * error_bound(tolerance, s->dtype, scale));
    }
}

/* ---- Finite differences */

typedef struct check_run {
    checker *k;
    const setup *s;
    int input[CASE_MAX_INPUTS]; /* which input each checked tensor stands for */
    bb_tensor *leaf[CASE_MAX_INPUTS];
    bb_tensor *group[CASE_MAX_INPUTS],
        *sign[CASE_MAX_INPUTS]; /* of directions; NULL: element by element */
} check_run;

static bb_tensor *call_case(void *user, bb_tensor *const *in, int n) {
    const check_run *run = user;
    bb_tensor *view[CASE_MAX_INPUTS] = {NULL};
    bb_tensor *leaf[CASE_MAX_INPUTS];
    memcpy(leaf, run->leaf, sizeof leaf);
    for (int j = 0; j < n; j++) {
        int i = run->input[j];
        if (!run->group[i]) {
            leaf[i] = in[j];
        } else {
            bb_tensor *step = bb_mul(bb_index_select(in[j], 0, run->group[i]), run->sign[i]);
            leaf[i] = bb_add(run->leaf[i], bb_reshape(step, bb_shape_of(run->leaf[i])));
        }
    }
    for (int i = 0; i < run->k->c->n_in; i++)
        view[i] = input_view(run->k, run->s->layout, leaf[i], i);
    return run_case(run->k, view);
}

/* Each element of the leaf belongs to one of the directions, with a random sign. */
static void make_directions(check_run *run, int i, uint64_t *state) {
    int64_t n = bb_count(run->leaf[i]);
    double *group = malloc((size_t)n * sizeof *group), *sign = malloc((size_t)n * sizeof *sign);
    for (int64_t j = 0; group && sign && j < n; j++) {
        group[j] = floor(draw_uniform(state) * DIRECTIONS);
        sign[j] = draw_uniform(state) < 0.5 ? -1 : 1;
    }
    if (group && sign) {
        run->group[i] = bb_from_f64(run->k->ctx, BB_I64, BB_SHAPE(n), group);
        run->sign[i] = bb_from_f64(run->k->ctx, BB_F64, BB_SHAPE(n), sign);
    }
    free(group);
    free(sign);
}

static void check_differences(checker *k, const setup *s, const inputs *in, bool second) {
    check_mode mode = second ? CHECK_SECOND : CHECK_GRADIENT;
    check_run run = {.k = k, .s = s};
    bb_tensor *checked[CASE_MAX_INPUTS];
    uint64_t state = case_seed(k) * 64 + 62;
    int n = 0;
    int64_t elements = 0;
    bb_set_path(k->ctx, BB_PATH_AUTO);
    for (int i = 0; i < k->c->n_in; i++) {
        run.leaf[i] = input_leaf(k, s, in, i);
        if (!run.leaf[i] || !input_wants_grad(k->c, i)) continue;
        checked[n] = run.leaf[i];
        if (bb_count(run.leaf[i]) > (second ? MANY_ELEMENTS / 4 : MANY_ELEMENTS)) {
            make_directions(&run, i, &state);
            checked[n] = bb_full(k->ctx, BB_F64, BB_SHAPE(DIRECTIONS), 0);
        }
        elements += bb_count(checked[n]);
        run.input[n] = i;
        bb_set_requires_grad(checked[n++], true);
    }
    bb_set_path(k->ctx, s->path);
    bb_gradcheck_report report = {0};
    bb_gradcheck_options options = {.seed = case_seed(k)};
    bb_status status =
        second ? bb_gradgradcheck(k->ctx, call_case, &run, checked, n, &options, &report)
               : bb_gradcheck(k->ctx, call_case, &run, checked, n, &options, &report);
    if (s->path == BB_PATH_FUSED && status == BB_ERR_UNSUPPORTED) {
        bb_clear_error(k->ctx);
    } else if (status == BB_OK) {
        expect(k, report.passed, mode, s,
               "input %d element %lld: analytic %.9g, numeric %.9g, error %.3g",
               run.input[report.input < n ? report.input : 0], (long long)report.element,
               report.analytic, report.numeric, report.error);
        expect(k, second || report.checked == elements, mode, s, "checked %lld elements of %lld",
               (long long)report.checked, (long long)elements);
    }
    if (status != BB_OK) expect_no_error(k, mode, s);
    bb_end_step(k->ctx);
}

/* ---- The modes */

static void check_combinations(checker *k, const setup *s, const inputs *in, const gradients *all) {
    unsigned wanted = wanted_inputs(k->c);
    for (unsigned mask = 1; mask < wanted; mask++) {
        gradients some;
        if ((mask & wanted) != mask ||
            !backward(k, CHECK_COMBINATIONS, s, in, mask, false, BB_F64, &some))
            continue;
        compare(k, CHECK_COMBINATIONS, s, &some, all, k->c);
        gradients_free(&some);
    }
}

static bool on_accelerator(const checker *k) { return bb_get_device(k->ctx) != BB_CPU; }

static void check_against_cpu(checker *k, const setup *s, const inputs *in) {
    const bb_device device = bb_get_device(k->ctx);
    const setup there = {s->dtype, BB_PATH_AUTO, s->layout};
    gradients expected, got;
    bb_set_device(k->ctx, BB_CPU);
    bool ok =
        backward(k, CHECK_GRADIENT, &there, in, wanted_inputs(k->c), false, BB_F64, &expected);
    bb_set_device(k->ctx, device);
    if (ok && backward(k, CHECK_GRADIENT, s, in, wanted_inputs(k->c), false, BB_F64, &got)) {
        compare(k, CHECK_GRADIENT, s, &got, &expected, k->c);
        gradients_free(&got);
    }
    gradients_free(&expected);
}

static void check_f64(checker *k, bb_path path, layout l, gradients *result) {
    setup s = {BB_F64, path, l};
    inputs in;
    memset(result, 0, sizeof *result);
    if (!inputs_draw(k, &s, &in)) return;
    if (on_accelerator(k))
        check_against_cpu(k, &s, &in);
    else
        check_differences(k, &s, &in, false);
    if (backward(k, CHECK_GRADIENT, &s, &in, wanted_inputs(k->c), false, BB_F64, result) &&
        l == CONTIGUOUS) {
        gradients scoped;
        check_combinations(k, &s, &in, result);
        if (backward(k, CHECK_SAVED, &s, &in, wanted_inputs(k->c), true, BB_F64, &scoped)) {
            compare(k, CHECK_SAVED, &s, &scoped, result, k->c);
            gradients_free(&scoped);
        }
    }
    inputs_free(&in);
}

static void check_low(checker *k, bb_dtype dtype, bb_path path) {
    setup s = {dtype, path, CONTIGUOUS}, exact = {BB_F64, path, CONTIGUOUS};
    inputs in;
    gradients low, high;
    if (!inputs_draw(k, &s, &in)) return;
    /* The f64 run uses the values and the cotangent rounded as in the other. */
    if (backward(k, CHECK_LOW_GRADIENT, &exact, &in, wanted_inputs(k->c), false, dtype, &high)) {
        if (backward(k, CHECK_LOW_GRADIENT, &s, &in, wanted_inputs(k->c), false, dtype, &low)) {
            compare(k, CHECK_LOW_GRADIENT, &s, &low, &high, k->c);
            gradients_free(&low);
        }
        gradients_free(&high);
    }
    inputs_free(&in);
}

void check_gradient(checker *k) {
    if (!wanted_inputs(k->c)) return;
    for (int l = 0; l < LAYOUTS; l++) {
        if (!layout_applies(k->c, (layout)l)) continue;
        gradients first, fused = {0};
        if (k->has_fused_backward) check_f64(k, BB_PATH_FUSED, (layout)l, &fused);
        check_f64(k, k->op->decompose ? BB_PATH_COMPOSED : BB_PATH_AUTO, (layout)l, &first);
        setup s = {BB_F64, BB_PATH_FUSED, (layout)l};
        compare(k, CHECK_PATHS, &s, &fused, &first, k->c);
        gradients_free(&fused);
        gradients_free(&first);
    }
    static const bb_dtype low[] = {BB_F32, BB_F16, BB_BF16};
    for (int d = 0; d < COUNT(low); d++) {
        if (k->has_fused_backward) check_low(k, low[d], BB_PATH_FUSED);
        check_low(k, low[d], k->op->decompose ? BB_PATH_COMPOSED : BB_PATH_AUTO);
    }
    for (int l = 0; l < LAYOUTS && !k->c->no_second && !on_accelerator(k); l++) {
        setup s = {BB_F64, BB_PATH_AUTO, (layout)l};
        inputs in;
        if (!layout_applies(k->c, (layout)l) || !inputs_draw(k, &s, &in)) continue;
        check_differences(k, &s, &in, true);
        inputs_free(&in);
    }
}
