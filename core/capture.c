/* Steps as graphs: a capture runs its step plainly, then recorded, then replayed. See core.h.
 *
 * While it records, the context's pool for the device is set aside and an empty one takes its
 * place, so that the memory the graph uses belongs to the capture: nothing else may use it between
 * two replays. */
#include <string.h>

#include "core/impl.h"

typedef enum capture_state { CAPTURE_NEW = 0, CAPTURE_WARM, CAPTURE_RECORDED } capture_state;

struct bb_capture {
    bb_context *ctx;
    bb_device device;
    bb_status (*step)(void *user);
    void *user;
    capture_state state;
    void *graph;
    bb_storage *pool[BB_SIZE_CLASSES]; /* the graph's memory */
    bb_capture *next;
};

bb_status bb_refuse_in_capture(bb_context *ctx, const char *who, const char *what) {
    if (!ctx->capturing) return BB_OK;
    return bb_fail(ctx, BB_ERR_STATE, "%s: inside a captured step: %s", who, what);
}

bb_capture *bb_capture_step(bb_context *ctx, bb_device device, bb_status (*step)(void *user),
                            void *user) {
    const char *why;
    if (!ctx || ctx->status) return NULL;
    if (!step) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "bb_capture_step: step: expected a function, got NULL");
        return NULL;
    }
    if (!bb_device_available(ctx, device, &why)) {
        bb_fail(ctx, BB_ERR_DEVICE, "bb_capture_step: device: %s", why);
        return NULL;
    }
    bb_capture *c = bb_host_allocate(ctx, sizeof *c);
    if (!c) return NULL;
    *c = (bb_capture){
        .ctx = ctx, .device = device, .step = step, .user = user, .next = ctx->captures};
    ctx->captures = c;
    return c;
}

static bb_status run_plainly(bb_capture *c) {
    bb_status status = c->step(c->user);
    bb_end_step(c->ctx);
    if (status && !c->ctx->status)
        bb_fail(c->ctx, status, "bb_capture_run: the step failed without a message");
    return c->ctx->status;
}

static void swap_pools(bb_capture *c) {
    bb_storage **pool = c->ctx->pool[c->device];
    for (int i = 0; i < BB_SIZE_CLASSES; i++) {
        bb_storage *held = pool[i];
        pool[i] = c->pool[i];
        c->pool[i] = held;
    }
}

static bb_status record(bb_capture *c) {
    bb_context *ctx = c->ctx;
    bb_backend *backend = ctx->backend[c->device];
    if (backend->capture_begin(backend)) return ctx->status;
    swap_pools(c);
    ctx->capturing = true;
    ctx->capture_device = c->device;
    run_plainly(c);
    ctx->capturing = false;
    c->graph = backend->capture_end(backend);
    swap_pools(c);
    if (!ctx->status && !c->graph)
        bb_fail(ctx, BB_ERR_DEVICE, "bb_capture_run: the device recorded nothing");
    if (ctx->status && c->graph) {
        backend->graph_free(backend, c->graph);
        c->graph = NULL;
    }
    return ctx->status;
}

bb_status bb_capture_run(bb_capture *c) {
    if (!c) return BB_ERR_ARGUMENT;
    bb_context *ctx = c->ctx;
    bb_backend *backend = ctx->backend[c->device];
    if (ctx->status) return ctx->status;
    if (bb_refuse_in_capture(ctx, "bb_capture_run", "another capture cannot run"))
        return ctx->status;
    if (c->state == CAPTURE_NEW || !backend->capture_begin) {
        if (run_plainly(c) == BB_OK) c->state = CAPTURE_WARM;
        return ctx->status;
    }
    if (c->state == CAPTURE_WARM) {
        if (record(c)) return ctx->status;
        c->state = CAPTURE_RECORDED;
    }
    return backend->replay(backend, c->graph);
}

bool bb_capture_replays(const bb_capture *c) { return c && c->state == CAPTURE_RECORDED; }

void bb_capture_free(bb_capture *c) {
    if (!c) return;
    bb_context *ctx = c->ctx;
    bb_backend *backend = ctx->backend[c->device];
    if (c->graph) backend->graph_free(backend, c->graph);
    for (int i = 0; i < BB_SIZE_CLASSES; i++) {
        while (c->pool[i]) {
            bb_storage *s = c->pool[i];
            c->pool[i] = s->next;
            s->next = ctx->pool[c->device][i];
            ctx->pool[c->device][i] = s;
        }
    }
    for (bb_capture **at = &ctx->captures; *at; at = &(*at)->next) {
        if (*at != c) continue;
        *at = c->next;
        break;
    }
    bb_host_release(ctx, c, sizeof *c);
}
