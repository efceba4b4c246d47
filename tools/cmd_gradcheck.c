/* `bobbin gradcheck`: the gradient of every op, and the gradient of its gradient, against finite
 * differences in f64, on the cases of tools/op_cases.c; composite ops fused and composed. An op
 * that has a gradient but no case fails. */
#include "bobbin.h"
#include "tools/args.h"
#include "tools/attrs.h"
#include "tools/commands.h"
#include "tools/op_cases.h"

#include <string.h>

typedef struct options {
    const char *name;
} options;

static const bb_flag flags[] = {
    {"OP", BB_FLAG_TEXT, offsetof(options, name), .positional = true, .fallback = "all",
     .help = "an op, as `bobbin ops` lists it, or all"},
    {.name = NULL},
};
static const bb_usage usage = {"gradcheck",
                               "Holds the gradients of ops against finite differences.", flags};

typedef struct checked_call {
    const bb_op *op;
    bb_any_attrs attrs;
} checked_call;

static bb_tensor *apply(void *user, bb_tensor *const *inputs, int n) {
    const checked_call *call = user;
    bb_context *ctx = NULL;
    for (int i = 0; i < n && !ctx; i++) ctx = inputs[i] ? bb_context_of(inputs[i]) : NULL;
    return bb_apply1(ctx, call->op, inputs, n, call->op->attrs_bytes ? &call->attrs : NULL);
}

/* What became of the cases of one op on one path. Errors are in units of the tolerance; -1: not
 * looked at. */
typedef struct verdict {
    int cases;
    double worst[2]; /* of the gradient, of its gradient */
    bool passed;
    char why[256]; /* of the first failure */
} verdict;

static void fail(verdict *v, const char *why) {
    if (v->passed) snprintf(v->why, sizeof v->why, "%s", why);
    v->passed = false;
}

static void judge(const bb_gradcheck_report *report, int order, verdict *v) {
    char line[256];
    if (!(report->error <= v->worst[order])) v->worst[order] = report->error;
    snprintf(line, sizeof line, "order %d: input %d, element %lld: tape %.9g, differences %.9g",
             order + 1, report->input, (long long)report->element, report->analytic,
             report->numeric);
    if (!report->passed)
        fail(v, line);
    else if (report->checked == 0)
        fail(v, "nothing was compared");
}

/* False: the fused kernel is not for this case. */
static bool check_order(bb_context *ctx, const bb_op_case *c, checked_call *call, int order,
                        verdict *v) {
    bb_tensor *in[BB_MAX_INPUTS] = {NULL};
    bb_gradcheck_report report = {0};
    for (int i = 0; i < c->n; i++) {
        in[i] = bb_op_case_input_tensor(ctx, c, i, BB_F64);
        if (in[i] && bb_draw_is_float(c->in[i].draw)) bb_set_requires_grad(in[i], true);
    }
    const bb_gradcheck_options how = {.seed = 5};
    bb_status status = bb_error(ctx);
    if (status == BB_OK)
        status = order == 0 ? bb_gradcheck(ctx, apply, call, in, c->n, &how, &report)
                            : bb_gradgradcheck(ctx, apply, call, in, c->n, &how, &report);
    bool applies = status != BB_ERR_UNSUPPORTED || bb_get_path(ctx) != BB_PATH_FUSED;
    if (status == BB_OK)
        judge(&report, order, v);
    else if (applies)
        fail(v, bb_error_message(ctx));
    bb_clear_error(ctx);
    bb_end_step(ctx);
    return applies;
}

/* The gradient of sign is a constant zero, which depends on nothing: there is no second one. */
static bool has_second(const bb_op *op) { return strcmp(op->name, "sign") != 0; }

/* Second-order gradients run composed whatever is asked for, so the fused path has none. */
static void check_case(bb_context *ctx, const bb_op *op, const bb_op_case *c, verdict *v) {
    checked_call call = {.op = op};
    if (bb_attrs_parse(ctx, op, c->attrs, &call.attrs) != BB_OK) {
        fail(v, bb_error_message(ctx));
        bb_clear_error(ctx);
        return;
    }
    if (!check_order(ctx, c, &call, 0, v)) return;
    v->cases++;
    if (bb_get_path(ctx) != BB_PATH_FUSED && has_second(op)) check_order(ctx, c, &call, 1, v);
}

static void print_error(double error) {
    if (error < 0)
        printf("  %9s", "-");
    else
        printf("  %9.2e", error);
}

static bool check_path(bb_context *ctx, const bb_op *op, bb_path path, const char *name) {
    verdict v = {.passed = true, .worst = {-1, -1}};
    bb_set_path(ctx, path);
    for (int i = 0; i < bb_op_case_count; i++)
        if (strcmp(bb_op_cases[i].op, op->name) == 0) check_case(ctx, op, &bb_op_cases[i], &v);
    bb_set_path(ctx, BB_PATH_AUTO);
    if (v.cases == 0) fail(&v, "no case in tools/op_cases.c");
    printf("%-14s %-9s %5d", op->name, name, v.cases);
    print_error(v.worst[0]);
    print_error(v.worst[1]);
    printf("  %s%s%s\n", v.passed ? "PASS" : "FAIL", v.passed ? "" : ": ", v.why);
    return v.passed;
}

static bool check(bb_context *ctx, const bb_op *op) {
    if (op->gradient == bb_no_gradient) {
        printf("%-14s %-9s %5s  %9s  %9s  no gradient\n", op->name, "-", "-", "-", "-");
        return true;
    }
    if (!op->decompose) return check_path(ctx, op, BB_PATH_AUTO, "-");
    bool passed = check_path(ctx, op, BB_PATH_COMPOSED, "composed");
    if (bb_op_has_kernel(ctx, op, BB_CPU, true))
        passed &= check_path(ctx, op, BB_PATH_FUSED, "fused");
    return passed;
}

int bb_cmd_gradcheck(int argc, char **argv) {
    options o;
    int code = bb_args_parse(&usage, argc, argv, &o);
    if (code != BB_ARGS_GO) return code;
    bb_context *ctx = bb_open(NULL);
    if (!ctx || bb_error(ctx)) {
        code = bb_report(ctx, "gradcheck");
        bb_close(ctx);
        return code;
    }
    bool all = strcmp(o.name, "all") == 0, passed = true;
    if (!all && !bb_find_op(ctx, o.name)) {
        code = bb_usage_error("gradcheck", "OP: expected an op (see bobbin ops) or all, got '%s'",
                              o.name);
    } else {
        printf("%-14s %-9s %5s  %9s  %9s  (errors: 1 is the tolerance)\n", "op", "path", "cases",
               "gradient", "second");
        for (int i = 0; i < bb_op_count(ctx); i++)
            if (all || strcmp(bb_op_at(ctx, i)->name, o.name) == 0)
                passed &= check(ctx, bb_op_at(ctx, i));
        code = passed ? BB_EXIT_OK : BB_EXIT_SYSTEM;
    }
    bb_close(ctx);
    return code;
}
