/* SGD with momentum over the blocks of a parameter set; the arithmetic is ops/optimize.c. */
#include "nn/internal.h"

struct bb_sgd {
    bb_params *params;
    bb_sgd_attrs attrs;
    bb_tensor *lr, *velocity;
};

bb_sgd *bb_sgd_new(bb_params *params, const bb_sgd_attrs *options) {
    bb_sgd_attrs attrs = options ? *options : (bb_sgd_attrs){0, 0, false};
    if (!params || bb_params_build(params)) return NULL;
    bb_context *ctx = params->ctx;
    if (!(attrs.momentum >= 0) || !(attrs.weight_decay >= 0) ||
        (attrs.nesterov && attrs.momentum == 0)) {
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "bb_sgd_new: options: expected momentum and weight_decay >= 0, momentum > 0 with "
                "nesterov, got %g, %g",
                attrs.momentum, attrs.weight_decay);
        return NULL;
    }
    bb_sgd *o = bb_nn_allocate(ctx, sizeof *o);
    if (!o) return NULL;
    bb_dtype dtype = bb_nn_state_dtype(params);
    *o = (bb_sgd){.params = params, .attrs = attrs};
    o->lr = bb_nn_zeros(ctx, params->device, dtype, 1);
    o->velocity =
        attrs.momentum > 0 ? bb_nn_zeros(ctx, params->device, dtype, params->values->count) : NULL;
    return o->lr && (o->velocity || attrs.momentum == 0) ? o : NULL;
}

bb_status bb_sgd_set_lr(bb_sgd *o, double lr) {
    return o ? bb_nn_write_lr(o->lr, lr, "bb_sgd_set_lr") : BB_ERR_ARGUMENT;
}

/* As in adamw.c, all that takes memory comes before the first change. */
static bb_status apply(bb_sgd *o, const char *who) {
    bb_params *p = o->params;
    bb_context *ctx = p->ctx;
    if (bb_params_settle(p, who)) return ctx->status;
    bb_tensor *values[2], *grads[2], *velocity[2] = {NULL, NULL};
    bb_scope scope = bb_scope_begin(ctx);
    for (int part = 0; part < 2; part++) {
        values[part] = bb_params_span(p, p->values, part);
        grads[part] = bb_params_span(p, p->grads, part);
        if (o->velocity) velocity[part] = bb_params_span(p, o->velocity, part);
    }
    bb_status status = ctx->status;
    for (int part = 0; part < 2 && !status; part++) {
        bb_sgd_attrs attrs = o->attrs;
        if (part == 1) attrs.weight_decay = 0;
        if (values[part])
            status = bb_sgd_(values[part], grads[part], velocity[part], o->lr,
                             p->clipped ? p->grad_scale : NULL, &attrs);
    }
    bb_scope_end(ctx, scope, NULL);
    p->clipped = false;
    return status;
}

bb_status bb_sgd_apply(bb_sgd *o) { return o ? apply(o, "bb_sgd_apply") : BB_ERR_ARGUMENT; }

bb_status bb_sgd_step(bb_sgd *o, double lr) {
    if (!o) return BB_ERR_ARGUMENT;
    bb_status status = bb_nn_write_lr(o->lr, lr, "bb_sgd_step");
    return status ? status : apply(o, "bb_sgd_step");
}

const bb_named *bb_sgd_state(bb_sgd *o, int *count) {
    if (count) *count = 0;
    if (!o || o->params->ctx->status) return NULL;
    bb_context *ctx = o->params->ctx;
    bb_named *list = bb_arena_allocate(ctx, &ctx->arena, sizeof *list);
    if (!list) return NULL;
    list[0] = (bb_named){"velocity", o->velocity};
    if (count) *count = o->velocity ? 1 : 0;
    return list;
}
