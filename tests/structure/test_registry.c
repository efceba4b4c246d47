/* Every built-in op: its record makes sense, it has kernels where it must, a C function's
 * documentation is there for people, and somebody tests it. */
#include <ctype.h>

#include "core/impl.h"
#include "tests/support/files.h"
#include "tests/support/test.h"

static int names(const char *const *name, int most) {
    int n = 0;
    while (n < most && name[n]) n++;
    return n;
}

static bool in_mask_range(unsigned mask, int n) { return n >= 32 || mask >> n == 0; }

static void check_attrs(test *t, const bb_op *op) {
    CHECK_MSG(t, (op->attrs_bytes > 0) == (op->attrs[0].name != NULL),
              "%s: attrs_bytes %zu, but attributes %s", op->name, op->attrs_bytes,
              op->attrs[0].name ? "are described" : "are not described");
    for (const bb_attr *a = op->attrs; a->name; a++) {
        CHECK_MSG(t, a->name[0] && !isspace((unsigned char)a->name[0]),
                  "%s: an attribute without a name", op->name);
        for (const bb_attr *b = op->attrs; b < a; b++) {
            CHECK_MSG(t, strcmp(a->name, b->name) != 0, "%s: two attributes %s", op->name, a->name);
            CHECK_MSG(t, a->offset != b->offset, "%s: %s and %s are the same field", op->name,
                      a->name, b->name);
        }
        if (a->type != BB_ATTR_CHOICE) continue;
        int choices = 1;
        for (const char *p = a->choices; *p; p++) choices += *p == '|';
        CHECK_MSG(t, a->value >= 0 && a->value < choices, "%s: %s: default %g of %d choices",
                  op->name, a->name, a->value, choices);
    }
    if (op->attrs_bytes) {
        char attrs[1024];
        CHECK_MSG(t, op->attrs_bytes <= sizeof attrs, "%s: %zu bytes of attributes", op->name,
                  op->attrs_bytes);
        bb_op_default_attrs(op, attrs); /* under ASan: no field lies outside */
    }
}

static void check_record(test *t, const bb_op *op) {
    int n_in = names(op->inputs, BB_MAX_INPUTS), n_out = names(op->outputs, BB_MAX_OUTPUTS);
    CHECK_MSG(t, op->doc && op->doc[0] && !strchr(op->doc, '\n'), "%s: doc: expected one line",
              op->name);
    CHECK_MSG(t, !op->gradient != !op->decompose || op->gradient == bb_no_gradient,
              "%s: expected exactly one of gradient and decompose", op->name);
    CHECK_MSG(t, op->infer != NULL, "%s: no infer", op->name);
    CHECK_MSG(t,
              in_mask_range(op->optional, n_in) && in_mask_range(op->saves_inputs, n_in) &&
                  in_mask_range(op->mutates, n_in),
              "%s: a mask names an input that is not there", op->name);
    CHECK_MSG(t, in_mask_range(op->saves_outputs, n_out),
              "%s: saves_outputs names an output that is not there", op->name);
    CHECK_MSG(t, !op->window || op->view, "%s: a window that is no view", op->name);
    CHECK_MSG(t, !op->view || (n_in == 1 && n_out == 1 && !op->mutates),
              "%s: a view has one input and one output", op->name);
    CHECK_MSG(t, op->mutates || n_out > op->hidden, "%s: no visible output and no effect",
              op->name);
    /* A statistic that nobody reads back would be computed for nothing. */
    for (int i = n_out - op->hidden; i < n_out; i++)
        CHECK_MSG(t, op->saves_outputs >> i & 1, "%s: hidden output %s is not saved", op->name,
                  op->outputs[i]);
    for (int i = 0; i < n_in; i++)
        for (int j = 0; j < i; j++)
            CHECK_MSG(t, strcmp(op->inputs[i], op->inputs[j]) != 0, "%s: two inputs %s", op->name,
                      op->inputs[i]);
}

static void test_records(test *t) {
    bb_context *ctx = test_open();
    CHECK_INT(t, bb_op_count(ctx), bb_builtin_op_count);
    for (int i = 0; i < bb_op_count(ctx); i++) {
        const bb_op *op = bb_op_at(ctx, i);
        check_record(t, op);
        check_attrs(t, op);
        for (int j = 0; j < i; j++)
            CHECK_MSG(t, strcmp(op->name, bb_op_at(ctx, j)->name) != 0, "two ops are named %s",
                      op->name);
    }
    CHECK_INT(t, bb_registry_check(ctx), BB_OK);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_kernels(test *t) {
    bb_context *ctx = test_open();
    for (int i = 0; i < bb_op_count(ctx); i++) {
        const bb_op *op = bb_op_at(ctx, i);
        bool kernel = bb_op_has_kernel(ctx, op, BB_CPU, false);
        if (op->view)
            CHECK_MSG(t, !kernel, "%s: a view with a kernel", op->name);
        else if (!op->decompose)
            CHECK_MSG(t, kernel, "%s: a primitive without a kernel", op->name);
        CHECK_MSG(t, kernel || !bb_op_has_kernel(ctx, op, BB_CPU, true),
                  "%s: a backward kernel without a forward one", op->name);
    }
    bb_close(ctx);
}

/* A row of the backend's table that no op answers to, or a second row of one op, would be dead. */
static void test_kernel_rows(test *t) {
    bb_context *ctx = test_open();
    const bb_kernel *rows = ctx->backend[BB_CPU]->kernels;
    for (const bb_kernel *k = rows; k->op; k++) {
        CHECK_MSG(t, bb_find_op(ctx, k->op) != NULL, "kernel row %s: no such op", k->op);
        for (const bb_kernel *other = rows; other < k; other++)
            CHECK_MSG(t, strcmp(k->op, other->op) != 0, "two kernel rows %s", k->op);
    }
    bb_close(ctx);
}

/* The check at start-up is not for show. */
static bb_status no_infer(bb_call *call) { return bb_error(call->ctx); }
static void test_check_fails(test *t) {
    static const bb_op bare = {.name = "bare",
                               .doc = "-",
                               .inputs = {"x"},
                               .outputs = {"y"},
                               .infer = no_infer,
                               .gradient = bb_no_gradient};
    bb_context *ctx = test_open();
    CHECK_INT(t, bb_register_op(ctx, &bare), BB_OK);
    CHECK_INT(t, bb_registry_check(ctx), BB_ERR_UNSUPPORTED);
    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, "op bare: primitive without a kernel on cpu");
    bb_close(ctx);
}

typedef struct mention {
    const char *quoted, *called;
    bool found;
} mention;

static void look(void *user, const char *path, const char *text) {
    mention *m = user;
    (void)path;
    if (strstr(text, m->quoted) || strstr(text, m->called)) m->found = true;
}

/* By name, as in run_op_cases(t, "add", ...), or by its C function. */
static bool is_mentioned(const char *name) {
    static const char *const suffixes[] = {".c", NULL};
    char quoted[128], called[128];
    snprintf(quoted, sizeof quoted, "\"%s\"", name);
    snprintf(called, sizeof called, "bb_%s(", name);
    mention m = {quoted, called, false};
    each_source(BOBBIN_SOURCE_DIR, "tests/ops", suffixes, look, &m);
    return m.found;
}

static void test_each_is_tested(test *t) {
    bb_context *ctx = test_open();
    for (int i = 0; i < bb_op_count(ctx); i++)
        CHECK_MSG(t, is_mentioned(bb_op_at(ctx, i)->name),
                  "no file of tests/ops names \"%s\" or calls it", bb_op_at(ctx, i)->name);
    CHECK(t, !is_mentioned("no_op_has_this_name"));
    bb_close(ctx);
}

static const test_row rows[] = {
    {"records", test_records},
    {"kernels", test_kernels},
    {"kernel rows", test_kernel_rows},
    {"the check can fail", test_check_fails},
    {"each op has a test", test_each_is_tested},
};
TEST_MAIN(rows)
