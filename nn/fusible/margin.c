/* sm_margin and eps of the norms. The rule for margins is TransformerEngine's, so that what works
 * there works here: the environment overrides one number for all stages, and is overridden by
 * a number for a stage. */
#include "nn/fusible/margin.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/impl.h"

static const struct {
    const char *name, *variable;
} stages[3] = {{"forward", "BOBBIN_FWD_NORM_SM_MARGIN"},
               {"backward", "BOBBIN_BWD_NORM_SM_MARGIN"},
               {"inference", "BOBBIN_INF_NORM_SM_MARGIN"}};

static bb_status from_environment(bb_context *ctx, const char *who, int stage, int *margin) {
    const char *text = getenv(stages[stage].variable);
    if (!text || !*text) return BB_OK;
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || value < 0 || value > INT_MAX)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: %s: expected a number from 0, got '%s'", who,
                       stages[stage].variable, text);
    *margin = (int)value;
    return BB_OK;
}

static int stage_of(const char *name) {
    for (int i = 0; i < 3; i++)
        if (name && strcmp(name, stages[i].name) == 0) return i;
    return -1;
}

bb_status bb_margins_read(bb_context *ctx, const char *who, const bb_fusible_norm_options *options,
                          bb_margins *margins) {
    int common = options->stages ? 0 : options->sm_margin;
    if (common < 0)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: sm_margin: expected 0 or more, got %d", who,
                       common);
    for (int i = 0; i < 3; i++) {
        margins->stage[i] = common;
        if (from_environment(ctx, who, i, &margins->stage[i])) return ctx->status;
    }
    for (int i = 0; options->stages && i < options->n_stages; i++) {
        const bb_stage_margin *given = &options->stages[i];
        int stage = stage_of(given->stage);
        if (stage < 0)
            return bb_fail(ctx, BB_ERR_ARGUMENT,
                           "%s: sm_margin: expected forward, backward or inference, got '%s'", who,
                           given->stage ? given->stage : "");
        if (given->margin < 0)
            return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: sm_margin: %s: expected 0 or more, got %d",
                           who, given->stage, given->margin);
        margins->stage[stage] = given->margin;
    }
    return BB_OK;
}

bb_status bb_norm_eps(bb_context *ctx, const char *who, const bb_fusible_norm_options *options,
                      double *eps) {
    *eps = options->no_eps ? 0 : options->eps == 0 ? 1e-5 : options->eps;
    if (*eps >= 0) return BB_OK;
    return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: eps: expected a number >= 0, got %g", who,
                   options->eps);
}

int bb_margin_begin(bb_context *ctx, const bb_margins *margins, int stage) {
    int before = ctx->sm_margin;
    if (margins->stage[stage] > before) ctx->sm_margin = margins->stage[stage];
    return before;
}

void bb_margin_end(bb_context *ctx, int before) { ctx->sm_margin = before; }
