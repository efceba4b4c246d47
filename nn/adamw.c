/* AdamW over the blocks of a parameter set; the arithmetic is ops/optimize.c. Moments are kept in
 * f32 (f64 for f64) and laid out as the parameters are. The step number and the rate live on the
 * device, beside them.
 *
 * Parameters in f16 and bf16 have a master copy in f32, laid out the same: a step of lr 1e-4 on a
 * weight of 1 is below half a unit of bf16 and would be rounded away. Memory: 4 bytes a parameter.
 */
#include "nn/internal.h"

struct bb_adamw {
    bb_params *params;
    bb_adamw_attrs attrs;
    bb_tensor *step, *lr, *m, *v;
    bb_tensor *master; /* NULL: the parameters are wide themselves */
    uint32_t seen;     /* version of the parameters' storage when master was last in step with it */
};

static bool options_good(bb_context *ctx, const bb_adamw_attrs *a) {
    if (!(a->beta1 >= 0 && a->beta1 < 1 && a->beta2 >= 0 && a->beta2 < 1))
        bb_fail(ctx, BB_ERR_ARGUMENT, "bb_adamw_new: betas: expected 0 <= beta < 1, got %g and %g",
                a->beta1, a->beta2);
    else if (!(a->eps >= 0))
        bb_fail(ctx, BB_ERR_ARGUMENT, "bb_adamw_new: eps: expected 0 or more, got %g", a->eps);
    else if (!(a->weight_decay >= 0))
        bb_fail(ctx, BB_ERR_ARGUMENT, "bb_adamw_new: weight_decay: expected 0 or more, got %g",
                a->weight_decay);
    return ctx->status == BB_OK;
}

bb_adamw *bb_adamw_new(bb_params *params, const bb_adamw_attrs *options) {
    bb_adamw_attrs attrs = options ? *options : (bb_adamw_attrs){0.9, 0.999, 1e-8, 0.01, 0};
    if (!params || bb_params_build(params) || !options_good(params->ctx, &attrs)) return NULL;
    bb_context *ctx = params->ctx;
    bb_adamw *o = bb_nn_allocate(ctx, sizeof *o);
    if (!o) return NULL;
    bb_dtype dtype = bb_nn_state_dtype(params);
    attrs.undecayed = params->values->count - params->decayed;
    *o = (bb_adamw){.params = params, .attrs = attrs};
    o->step = bb_nn_zeros(ctx, params->device, dtype, 1);
    o->lr = bb_nn_zeros(ctx, params->device, dtype, 1);
    o->m = bb_nn_zeros(ctx, params->device, dtype, params->values->count);
    o->v = bb_nn_zeros(ctx, params->device, dtype, params->values->count);
    if (!o->step || !o->lr || !o->m || !o->v) return NULL;
    if (params->dtype == dtype) return o;
    o->master = bb_nn_zeros(ctx, params->device, dtype, params->values->count);
    o->seen = params->values->storage->version;
    return o->master && bb_copy_into(params->values, o->master) == BB_OK ? o : NULL;
}

/* Takes up what others wrote into the parameters. An element that still is its master rounded keeps
 * the master, so parameters and master may be restored in any order. */
static bb_status refresh_master(bb_adamw *o) {
    bb_tensor *values = o->params->values;
    if (!o->master || values->storage->version == o->seen) return BB_OK;
    bb_scope scope = bb_scope_begin(o->params->ctx);
    bb_tensor *same = bb_eq(bb_cast(o->master, o->params->dtype), values);
    bb_tensor *next = bb_where(same, o->master, bb_cast(values, BB_F32));
    bb_status status = next ? bb_copy_into(next, o->master) : o->params->ctx->status;
    bb_scope_end(o->params->ctx, scope, NULL);
    return status;
}

int64_t bb_adamw_steps(bb_adamw *o) { return o ? (int64_t)bb_item(o->step) : 0; }

bb_status bb_adamw_set_lr(bb_adamw *o, double lr) {
    return o ? bb_nn_write_lr(o->lr, lr, "bb_adamw_set_lr") : BB_ERR_ARGUMENT;
}

/* The number of this step: one more, unless clipping has marked it to be skipped. */
static bb_tensor *next_step(bb_adamw *o) {
    const bb_params *p = o->params;
    if (!p->clipped) return bb_add_scalar(o->step, 1);
    bb_tensor *valid = bb_cast(bb_eq(p->grad_scale, p->grad_scale), bb_dtype_of(o->step));
    return bb_add(o->step, valid);
}

/* All that takes memory comes before the first change: a step that runs out of it has changed
 * nothing. */
static bb_status apply(bb_adamw *o, const char *who) {
    bb_context *ctx = o->params->ctx;
    if (bb_params_settle(o->params, who)) return ctx->status;
    if (refresh_master(o)) return ctx->status;
    bool former = bb_set_grad_enabled(ctx, false);
    bb_scope scope = bb_scope_begin(ctx);
    bb_params *p = o->params;
    bb_tensor *grads = o->master ? bb_cast(p->grads, BB_F32) : p->grads, *step = next_step(o);
    bb_status status = ctx->status;
    if (!status) status = bb_assign(o->step, step);
    if (!status)
        status = bb_adamw_(o->master ? o->master : p->values, grads, o->m, o->v, o->lr, o->step,
                           p->clipped ? p->grad_scale : NULL, &o->attrs);
    if (!status && o->master) {
        status = bb_copy_into(o->master, p->values);
        bb_tensor_changed(p->values);
    }
    bb_scope_end(ctx, scope, NULL);
    bb_set_grad_enabled(ctx, former);
    o->params->clipped = false;
    o->seen = o->params->values->storage->version;
    return status ? ctx->status : BB_OK;
}

bb_status bb_adamw_apply(bb_adamw *o) { return o ? apply(o, "bb_adamw_apply") : BB_ERR_ARGUMENT; }

bb_status bb_adamw_step(bb_adamw *o, double lr) {
    if (!o) return BB_ERR_ARGUMENT;
    bb_status status = bb_nn_write_lr(o->lr, lr, "bb_adamw_step");
    return status ? status : apply(o, "bb_adamw_step");
}

const bb_named *bb_adamw_state(bb_adamw *o, int *count) {
    if (count) *count = 0;
    if (!o || o->params->ctx->status) return NULL;
    bb_context *ctx = o->params->ctx;
    bb_named *list = bb_arena_allocate(ctx, &ctx->arena, 4 * sizeof *list);
    if (!list) return NULL;
    list[0] = (bb_named){"step", o->step};
    list[1] = (bb_named){"m", o->m};
    list[2] = (bb_named){"v", o->v};
    list[3] = (bb_named){"master", o->master};
    if (count) *count = o->master ? 4 : 3;
    return list;
}
