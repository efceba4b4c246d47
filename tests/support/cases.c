/* run_op_cases: the loop over a case table (cases.h, checker.h), and index arithmetic for
 * references. */
#include "tests/support/cases.h"

#include <stdarg.h>

#include "tests/support/checker.h"

const char *const check_mode_names[CHECK_MODES] = {
    [CHECK_FORWARD] = "forward",
    [CHECK_PATHS] = "fused against composed",
    [CHECK_GRADIENT] = "gradcheck",
    [CHECK_SECOND] = "gradgradcheck",
    [CHECK_COMBINATIONS] = "combinations",
    [CHECK_SAVED] = "saved tensors",
    [CHECK_LOW_GRADIENT] = "low-precision gradient",
    [CHECK_MEMORY] = "memory runs out",
};

static const char *const layout_names[LAYOUTS] = {"contiguous", "transposed", "sliced",
                                                  "broadcast"};
static const char *const path_names[] = {"auto", "fused", "composed"};

bool expect(checker *k, bool ok, check_mode mode, const setup *s, const char *format, ...) {
    k->result->checks++;
    if (ok) return true;
    k->result->problems[mode]++;
    if (!k->plan->tell) return false;
    char detail[512], line[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);
    snprintf(line, sizeof line, "%s, case %d \"%s\", %s, %s, %s, %s: %s (seed %llu)", k->plan->op,
             k->index, k->c->name ? k->c->name : "", check_mode_names[mode],
             bb_dtype_name(s->dtype), path_names[s->path], layout_names[s->layout], detail,
             (unsigned long long)case_seed(k));
    k->plan->tell(k->plan->user, line);
    return false;
}

void expect_no_error(checker *k, check_mode mode, const setup *s) {
    expect(k, bb_error(k->ctx) == BB_OK, mode, s, "%s", bb_error_message(k->ctx));
    bb_clear_error(k->ctx);
}

bool expect_close(checker *k, check_mode mode, const setup *s, const char *what, int64_t n,
                  const double *got, const double *expected, double bound) {
    for (int64_t i = 0; i < n; i++) {
        bool same = got[i] == expected[i] || (isnan(got[i]) && isnan(expected[i]));
        if (same || fabs(got[i] - expected[i]) <= bound) continue;
        return expect(k, false, mode, s, "%s: element %lld: got %.9g, expected %.9g within %.3g",
                      what, (long long)i, got[i], expected[i], bound);
    }
    return expect(k, true, mode, s, "%s", what);
}

static void check_case(const check_plan *plan, int index, check_result *result) {
    checker k = {.plan = plan,
                 .result = result,
                 .c = &plan->cases[index],
                 .index = index,
                 .ctx = test_open()};
    setup s = {BB_F64, BB_PATH_AUTO, CONTIGUOUS};
    if (plan->prepare) plan->prepare(k.ctx);
    k.op = bb_find_op(k.ctx, plan->op);
    if (expect(&k, k.op != NULL, CHECK_FORWARD, &s, "no op of this name")) {
        k.has_fused = k.op->decompose && bb_op_has_kernel(k.ctx, k.op, bb_get_device(k.ctx), false);
        k.has_fused_backward =
            k.op->decompose && bb_op_has_kernel(k.ctx, k.op, bb_get_device(k.ctx), true);
        check_forward(&k);
        if (!k.c->no_grad) check_gradient(&k);
    }
    bb_close(k.ctx);
}

int count_op_problems(const check_plan *plan, check_result *result) {
    memset(result, 0, sizeof *result);
    for (int i = 0; i < plan->count; i++) check_case(plan, i, result);
    check_memory(plan, result);
    int sum = 0;
    for (int i = 0; i < CHECK_MODES; i++) sum += result->problems[i];
    return sum;
}

static void tell_test(void *user, const char *problem) {
    test_check(user, false, __FILE__, __LINE__, "%s", problem);
}

void run_op_cases(test *t, const char *op, const op_case *cases, int count,
                  case_reference reference) {
    check_plan plan = {.op = op,
                       .cases = cases,
                       .count = count,
                       .reference = reference,
                       .tell = tell_test,
                       .user = t};
    check_result result;
    count_op_problems(&plan, &result);
    CHECK_MSG(t, result.checks > 0, "%s: no case checked anything", op);
    bb_context *ctx = test_open();
    const bb_op *found = bb_find_op(ctx, op);
    if (found && found->decompose && bb_op_has_kernel(ctx, found, bb_get_device(ctx), false))
        CHECK_MSG(t, result.fused_runs > 0, "%s: the fused kernel took none of the cases", op);
    bb_close(ctx);
}

/* ---- Index arithmetic for references */

int64_t ref_offset(const bb_shape *shape, const int64_t *index) {
    int64_t offset = 0;
    for (int a = 0; a < shape->rank; a++) offset = offset * shape->size[a] + index[a];
    return offset;
}

void ref_unravel(const bb_shape *shape, int64_t flat, int64_t *index) {
    for (int a = shape->rank - 1; a >= 0; a--) {
        index[a] = flat % shape->size[a];
        flat /= shape->size[a];
    }
}

int64_t ref_broadcast_offset(const bb_shape *from, const bb_shape *to, const int64_t *to_index) {
    int64_t offset = 0;
    for (int a = 0; a < from->rank; a++) {
        int64_t i = from->size[a] == 1 ? 0 : to_index[a + to->rank - from->rank];
        offset = offset * from->size[a] + i;
    }
    return offset;
}
