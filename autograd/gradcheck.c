/* Gradient checks: central differences of sum(u * f(x)) with a random cotangent u, element by
 * element, against the tape. The second-order check is the first-order one applied to the gradient
 * itself. */
#include <math.h>
#include <string.h>

#include "autograd/tape.h"
#include "ops/ops.h"

enum { INPUTS_MAX = 32, ROOM = INPUTS_MAX + 1 }; /* one more: the second order's cotangent */

/* Standard normal numbers from a generator of its own, so that a check does not disturb the
 * context's. */
static double normal(uint64_t seed, uint64_t i) {
    uint32_t r[4];
    bb_philox(seed ^ 0xC0FFEEu, i, r);
    double u = ((double)r[0] + 1) / 4294967297.0, v = (double)r[1] / 4294967296.0;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

typedef struct check {
    bb_context *ctx;
    const char *who;
    bb_segment_fn fn;
    void *user;
    bb_tensor *const *inputs;
    int n;
    bb_gradcheck_options o;
    bb_gradcheck_report *report;
    double *cotangent, *value; /* of the output's size */
    int64_t output_count;
} check;

static bb_status wrong(const check *c, const char *what, const char *got) {
    return bb_fail(c->ctx, BB_ERR_ARGUMENT, "%s: %s, got %s", c->who, what, got);
}

/* fn with input `which` replaced by a contiguous copy whose `element` is moved by delta; its values
 * go to out. */
static bb_status evaluate(const check *c, int which, double *base, int64_t element, double delta,
                          double *out) {
    bb_context *ctx = c->ctx;
    bb_tensor *inputs[ROOM];
    bb_scope scope = bb_scope_begin(ctx);
    int mark = bb_tape_length(ctx);
    bool before = bb_set_grad_enabled(ctx, false);
    for (int i = 0; i < c->n; i++) inputs[i] = c->inputs[i];
    double kept = base[element];
    base[element] = kept + delta;
    inputs[which] = bb_from_f64(ctx, BB_F64, bb_shape_of(c->inputs[which]), base);
    base[element] = kept;
    bb_tensor *y = inputs[which] ? c->fn(c->user, inputs, c->n) : NULL;
    bb_status status = ctx->status;
    if (!status && (!y || bb_count(y) != c->output_count))
        status = wrong(c, "fn: expected the same output shape each time", y ? "another" : "NULL");
    if (!status) status = bb_read_f64(y, out, c->output_count);
    bb_set_grad_enabled(ctx, before);
    bb_tape_truncate(bb_tape_of(ctx), mark);
    bb_scope_end(ctx, scope, NULL);
    return status;
}

static void compare(check *c, int input, int64_t element, double analytic, double numeric) {
    double error = fabs(analytic - numeric) / (c->o.atol + c->o.rtol * fabs(numeric));
    if (isnan(error)) error = INFINITY;
    bb_gradcheck_report *r = c->report;
    if (r->checked++ == 0 || error > r->error) {
        r->input = input, r->element = element;
        r->analytic = analytic, r->numeric = numeric, r->error = error;
    }
    if (!(error <= 1)) r->passed = false;
}

static bb_status check_input(check *c, int which, const double *analytic) {
    bb_context *ctx = c->ctx;
    int64_t count = bb_count(c->inputs[which]);
    size_t out_bytes = (size_t)c->output_count * sizeof(double);
    double *base = bb_host_allocate(ctx, (size_t)count * sizeof *base);
    double *low = base ? bb_host_allocate(ctx, out_bytes) : NULL;
    bb_status status = low ? bb_read_f64(c->inputs[which], base, count) : ctx->status;
    for (int64_t e = 0; e < count && !status; e++) {
        status = evaluate(c, which, base, e, c->o.eps, c->value);
        if (!status) status = evaluate(c, which, base, e, -c->o.eps, low);
        double difference = 0;
        for (int64_t k = 0; k < c->output_count && !status; k++)
            difference += c->cotangent[k] * (c->value[k] - low[k]);
        if (!status) compare(c, which, e, analytic[e], difference / (2 * c->o.eps));
    }
    bb_host_release(ctx, low, out_bytes);
    bb_host_release(ctx, base, (size_t)count * sizeof *base);
    return status;
}

/* The tape's gradients, then each input's differences. */
static bb_status check_all(check *c, bb_tensor *output, bb_tensor *const *leaves, const int *which,
                           int wanted) {
    bb_context *ctx = c->ctx;
    bb_tensor *gradients[ROOM];
    for (int64_t k = 0; k < c->output_count; k++) c->cotangent[k] = normal(c->o.seed, (uint64_t)k);
    bb_tensor *seed = bb_from_f64(ctx, BB_F64, bb_shape_of(output), c->cotangent);
    if (!seed || bb_gradients(output, seed, leaves, wanted, false, gradients)) return ctx->status;
    for (int i = 0; i < wanted; i++) {
        int64_t count = bb_count(leaves[i]);
        size_t bytes = (size_t)count * sizeof(double);
        double *analytic = bb_host_allocate(ctx, bytes);
        if (!analytic) return ctx->status;
        memset(analytic, 0, bytes);
        bb_status status = gradients[i] ? bb_read_f64(gradients[i], analytic, count) : BB_OK;
        if (!status) status = check_input(c, which[i], analytic);
        bb_host_release(ctx, analytic, bytes);
        if (status) return status;
    }
    return BB_OK;
}

static bb_status run_check(check *c) {
    bb_context *ctx = c->ctx;
    bb_tensor *inputs[ROOM], *leaves[ROOM];
    int which[ROOM], wanted = 0;
    for (int i = 0; i < c->n; i++) {
        inputs[i] = c->inputs[i];
        if (!inputs[i] || !inputs[i]->requires_grad) continue;
        if (inputs[i]->dtype != BB_F64)
            return wrong(c, "inputs: expected f64 where a gradient is required",
                         bb_dtype_name((bb_dtype)inputs[i]->dtype));
        inputs[i] = bb_set_requires_grad(bb_detach_header(inputs[i]),
                                         true); /* whatever history it has stays out */
        if (!inputs[i]) return ctx->status;
        which[wanted] = i;
        leaves[wanted++] = inputs[i];
    }
    if (!wanted) return wrong(c, "inputs: expected at least one that requires a gradient", "none");
    bool before = bb_set_grad_enabled(ctx, true);
    int mark = bb_tape_length(ctx);
    bb_tensor *y = c->fn(c->user, inputs, c->n);
    bb_status status = ctx->status;
    if (!status && !y) status = wrong(c, "fn: expected a tensor", "NULL");
    if (!status && y->dtype != BB_F64)
        status = wrong(c, "fn: expected an f64 result", bb_dtype_name((bb_dtype)y->dtype));
    if (!status && !y->requires_grad)
        status = wrong(c, "fn: expected a result that depends on the inputs", "one that does not");
    if (!status) {
        c->output_count = y->count;
        size_t bytes = (size_t)c->output_count * sizeof(double);
        c->cotangent = bb_host_allocate(ctx, bytes);
        c->value = c->cotangent ? bb_host_allocate(ctx, bytes) : NULL;
        status = c->value ? check_all(c, y, leaves, which, wanted) : ctx->status;
        bb_host_release(ctx, c->value, bytes);
        bb_host_release(ctx, c->cotangent, bytes);
    }
    bb_tape_truncate(bb_tape_of(ctx), mark);
    bb_set_grad_enabled(ctx, before);
    return status;
}

/* The report says passed only after BB_OK. */
static bb_status first_order(bb_context *ctx, const char *who, bb_segment_fn fn, void *user,
                             bb_tensor *const *inputs, int n, const bb_gradcheck_options *options,
                             bb_gradcheck_report *report) {
    check c = {
        .ctx = ctx, .who = who, .fn = fn, .user = user, .inputs = inputs, .n = n, .report = report};
    if (options) c.o = *options;
    if (!(c.o.eps > 0)) c.o.eps = 1e-6;
    if (!(c.o.atol > 0)) c.o.atol = 1e-5;
    if (!(c.o.rtol > 0)) c.o.rtol = 1e-3;
    *report = (bb_gradcheck_report){.passed = true};
    bb_scope scope = bb_scope_begin(ctx);
    bb_status status = run_check(&c);
    bb_scope_end(ctx, scope, NULL);
    if (status) report->passed = false;
    return status;
}

static bb_status check_arguments(bb_context *ctx, const char *who, bb_segment_fn fn,
                                 bb_tensor *const *inputs, int n) {
    if (ctx->status || (fn && inputs && n >= 1 && n <= INPUTS_MAX)) return ctx->status;
    if (fn && !inputs)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: inputs: expected a list, got NULL", who);
    return fn ? bb_fail(ctx, BB_ERR_ARGUMENT, "%s: inputs: expected 1 to %d, got %d", who,
                        INPUTS_MAX, n)
              : bb_fail(ctx, BB_ERR_ARGUMENT, "%s: fn: expected a function, got NULL", who);
}

bb_status bb_gradcheck(bb_context *ctx, bb_segment_fn fn, void *user, bb_tensor *const *inputs,
                       int n, const bb_gradcheck_options *options, bb_gradcheck_report *report) {
    bb_gradcheck_report unused;
    if (!report) report = &unused;
    *report = (bb_gradcheck_report){.passed = false};
    if (!ctx) return BB_ERR_ARGUMENT;
    if (check_arguments(ctx, "bb_gradcheck", fn, inputs, n)) return ctx->status;
    return first_order(ctx, "bb_gradcheck", fn, user, inputs, n, options, report);
}

/* ---- Second order: fn's gradients, made scalar with fixed random weights, as a function of inputs
 * and cotangent -- */

typedef struct gradient_of {
    bb_context *ctx;
    bb_segment_fn fn;
    void *user;
    const bool *want;
    int n; /* of fn's own inputs; the cotangent is input n */
    uint64_t seed;
} gradient_of;

/* sum(w * g) over all wanted gradients g. */
static bb_tensor *weighted_sum(const gradient_of *q, bb_tensor *const *g, int n) {
    bb_tensor *total = NULL;
    uint64_t at = 1u << 20;
    for (int i = 0; i < n; i++) {
        if (!g[i]) continue;
        size_t bytes = (size_t)g[i]->count * sizeof(double);
        double *w = bb_host_allocate(q->ctx, bytes);
        if (!w) return NULL;
        for (int64_t k = 0; k < g[i]->count; k++) w[k] = normal(q->seed, at++);
        bb_tensor *weights = bb_from_f64(q->ctx, BB_F64, bb_shape_of(g[i]), w);
        bb_host_release(q->ctx, w, bytes);
        bb_tensor *part = bb_sum_all(bb_mul(g[i], weights));
        total = total ? bb_add(total, part) : part;
        if (!total) return NULL;
    }
    return total;
}

static bb_tensor *gradient_value(void *user, bb_tensor *const *inputs, int n) {
    const gradient_of *q = user;
    bb_tensor *x[ROOM], *leaves[ROOM], *g[ROOM];
    int wanted = 0;
    (void)n;
    bool before = bb_set_grad_enabled(q->ctx, true);
    for (int i = 0; i < q->n; i++) {
        x[i] = inputs[i];
        if (!q->want[i]) continue;
        if (!x[i]->requires_grad) x[i] = bb_set_requires_grad(bb_detach_header(x[i]), true);
        leaves[wanted++] = x[i];
    }
    bb_tensor *y = q->fn(q->user, x, q->n), *total = NULL;
    if (y && !bb_gradients(y, inputs[q->n], leaves, wanted, true, g))
        total = weighted_sum(q, g, wanted);
    bb_set_grad_enabled(q->ctx, before);
    return total;
}

/* A cotangent for fn's result: one more input. NULL after an error. */
static bb_tensor *random_cotangent(const gradient_of *q, bb_tensor *const *inputs) {
    bb_context *ctx = q->ctx;
    bool before = bb_set_grad_enabled(ctx, false);
    bb_tensor *y = q->fn(q->user, inputs, q->n);
    bb_set_grad_enabled(ctx, before);
    if (!y) return NULL;
    size_t bytes = (size_t)y->count * sizeof(double);
    double *u = bb_host_allocate(ctx, bytes);
    if (!u) return NULL;
    for (int64_t k = 0; k < y->count; k++) u[k] = normal(q->seed, (uint64_t)k + (1u << 30));
    bb_tensor *cotangent = bb_from_f64(ctx, BB_F64, bb_shape_of(y), u);
    bb_host_release(ctx, u, bytes);
    return bb_set_requires_grad(cotangent, true);
}

static bb_status second_order(const gradient_of *q, bb_tensor *const *inputs,
                              const bb_gradcheck_options *options, bb_gradcheck_report *report) {
    bb_tensor *all[ROOM];
    for (int i = 0; i < q->n; i++) all[i] = inputs[i];
    all[q->n] = random_cotangent(q, inputs);
    if (all[q->n])
        return first_order(q->ctx, "bb_gradgradcheck", gradient_value, (void *)(uintptr_t)q, all,
                           q->n + 1, options, report);
    return bb_fail(q->ctx, BB_ERR_ARGUMENT, "bb_gradgradcheck: fn: expected a tensor, got NULL");
}

bb_status bb_gradgradcheck(bb_context *ctx, bb_segment_fn fn, void *user, bb_tensor *const *inputs,
                           int n, const bb_gradcheck_options *options,
                           bb_gradcheck_report *report) {
    static const char *who = "bb_gradgradcheck";
    bb_gradcheck_report unused;
    bool want[INPUTS_MAX];
    if (!report) report = &unused;
    *report = (bb_gradcheck_report){.passed = false};
    if (!ctx) return BB_ERR_ARGUMENT;
    if (check_arguments(ctx, who, fn, inputs, n)) return ctx->status;
    bb_status status = first_order(ctx, who, fn, user, inputs, n, options, report);
    if (status || !report->passed) return status;
    for (int i = 0; i < n; i++) want[i] = inputs[i] && inputs[i]->requires_grad;
    gradient_of q = {ctx, fn, user, want, n, options ? options->seed + 1 : 1};
    bb_scope scope = bb_scope_begin(ctx);
    status = second_order(&q, inputs, options, report);
    bb_scope_end(ctx, scope, NULL);
    if (status) report->passed = false;
    return status;
}
