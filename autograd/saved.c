/* Saved values: what a node of the tape (tape.c) keeps for its rule, and how the walk (walk.c)
 * gives it back. A value is kept as counted bytes, or as what the hooks that were pushed made of
 * it. */
#include <string.h>

#include "autograd/tape.h"

/* What `pack` made of one value: shared by all nodes that saved it. Lives in the step's arena. */
typedef struct packed_value {
    bb_saved_hooks hooks; /* those that made it: by now they may be popped */
    void *object;
    uint32_t refs;
    /* Which value it is; later values in the same bytes have another serial or version. */
    uint64_t serial;
    size_t offset;
    uint32_t version;
    bb_dtype dtype;
    bb_device device;
    bb_shape shape;
    int64_t stride[BB_MAX_RANK];
    struct packed_value *next; /* in its bucket */
} packed_value;

/* ---- Hooks ---------------------------------------------------------------------------------- */

bb_status bb_saved_hooks_push(bb_context *ctx, const bb_saved_hooks *hooks) {
    if (!ctx) return BB_ERR_ARGUMENT;
    bb_tape *tape = bb_tape_of(ctx);
    if (hooks && (!hooks->pack || !hooks->unpack))
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "bb_saved_hooks_push: hooks: expected pack and unpack, got NULL");
    if (tape->hook_count == tape->hook_capacity) {
        int capacity = tape->hook_capacity ? 2 * tape->hook_capacity : 4;
        bb_saved_hooks *grown = bb_host_allocate(ctx, (size_t)capacity * sizeof *grown);
        if (!grown) return ctx->status;
        if (tape->hook_count) memcpy(grown, tape->hooks, (size_t)tape->hook_count * sizeof *grown);
        bb_host_release(ctx, tape->hooks, (size_t)tape->hook_capacity * sizeof *grown);
        tape->hooks = grown;
        tape->hook_capacity = capacity;
    }
    tape->hooks[tape->hook_count++] = hooks ? *hooks : (bb_saved_hooks){NULL, NULL, NULL, NULL};
    return BB_OK;
}

void bb_saved_hooks_pop(bb_context *ctx) {
    if (ctx && bb_tape_of(ctx)->hook_count > 0) bb_tape_of(ctx)->hook_count--;
}

void bb_saved_close(bb_tape *tape) {
    bb_host_release(tape->ctx, tape->hooks, (size_t)tape->hook_capacity * sizeof *tape->hooks);
}

/* ---- Saving --------------------------------------------------------------------------------- */

static packed_value **bucket_of(bb_tape *tape, uint64_t serial) {
    return &tape->packed[serial % (sizeof tape->packed / sizeof tape->packed[0])];
}

static packed_value describe(const bb_saved_hooks *hooks, const bb_tensor *t) {
    packed_value p;
    memset(&p, 0, sizeof p);
    p.hooks = *hooks;
    p.serial = t->storage->serial;
    p.offset = (size_t)(t->data - (char *)t->storage->data);
    p.version = t->storage->version;
    p.dtype = (bb_dtype)t->dtype;
    p.device = (bb_device)t->device;
    p.shape = bb_shape_of_tensor(t);
    memcpy(p.stride, t->stride, (size_t)t->rank * sizeof p.stride[0]);
    return p;
}

static bool same_value(const packed_value *a, const packed_value *b) {
    return a->serial == b->serial && a->version == b->version && a->offset == b->offset &&
           a->dtype == b->dtype && bb_shape_equal(&a->shape, &b->shape) &&
           memcmp(a->stride, b->stride, sizeof a->stride) == 0 && a->hooks.pack == b->hooks.pack &&
           a->hooks.unpack == b->hooks.unpack && a->hooks.user == b->hooks.user;
}

static void release_object(bb_context *ctx, const bb_saved_hooks *hooks, void *object) {
    if (!hooks->release || !object) return;
    bool before = bb_set_grad_enabled(ctx, false);
    hooks->release(hooks->user, object);
    bb_set_grad_enabled(ctx, before);
}

/* Asks the hook. *object NULL afterwards: it leaves the value to the tape, or failed. */
static bb_status call_pack(bb_context *ctx, const char *who, const packed_value *p, bb_tensor *t,
                           void **object) {
    bool before = bb_set_grad_enabled(ctx, false);
    bb_scope scope = bb_scope_begin(ctx);
    *object = NULL;
    bb_status status = p->hooks.pack(p->hooks.user, t, object);
    bb_scope_end(ctx, scope, NULL);
    bb_set_grad_enabled(ctx, before);
    if (status && !ctx->status) bb_fail(ctx, status, "%s: pack: failed without a message", who);
    if (!ctx->status && (!t->storage || t->storage->version != p->version))
        bb_fail(ctx, BB_ERR_STATE, "%s: pack: changed the value that it was to pack", who);
    if (ctx->status) {
        release_object(ctx, &p->hooks, *object);
        *object = NULL;
    }
    return ctx->status;
}

bb_status bb_pack_value(bb_tape *tape, const char *who, bb_tensor *t, packed_value **packed) {
    bb_context *ctx = tape->ctx;
    *packed = NULL;
    if (!tape->hook_count || !tape->hooks[tape->hook_count - 1].pack || bb_is_recorded(ctx))
        return BB_OK;
    const packed_value wanted = describe(&tape->hooks[tape->hook_count - 1], t);
    packed_value **bucket = bucket_of(tape, wanted.serial);
    for (packed_value *p = *bucket; p; p = p->next)
        if (same_value(p, &wanted)) {
            p->refs++;
            *packed = p;
            return BB_OK;
        }
    packed_value *p = bb_arena_allocate(ctx, &ctx->arena, sizeof *p);
    if (!p) return ctx->status;
    *p = wanted;
    if (call_pack(ctx, who, &wanted, t, &p->object) || !p->object) return ctx->status;
    p->refs = 1;
    p->next = *bucket;
    *bucket = *packed = p;
    return BB_OK;
}

bb_status bb_save_value(bb_tape *tape, const bb_op *op, bb_tensor *t, saved_value *saved) {
    bb_context *ctx = tape->ctx;
    *saved = (saved_value){.storage = NULL};
    if (bb_pack_value(tape, op->name, t, &saved->packed)) return ctx->status;
    if (saved->packed) return BB_OK;
    if (tape->relaid) { /* a gradient with history reads an unpacked value: its strides pass */
        size_t bytes = sizeof t->stride;
        int64_t *stride = bb_arena_allocate(ctx, &ctx->arena, bytes);
        if (!stride) return ctx->status;
        saved->stride = memcpy(stride, t->stride, bytes);
    }
    saved->storage = bb_storage_ref(t->storage);
    saved->offset = (size_t)(t->data - (char *)t->storage->data);
    saved->version = t->storage->version;
    return BB_OK;
}

void bb_release_packed(bb_tape *tape, packed_value *p) {
    if (--p->refs) return;
    packed_value **at = bucket_of(tape, p->serial);
    while (*at != p) at = &(*at)->next;
    *at = p->next;
    release_object(tape->ctx, &p->hooks, p->object);
}

void bb_unsave_value(bb_tape *tape, saved_value *saved) {
    packed_value *p = saved->packed;
    bb_storage_unref(saved->storage);
    *saved = (saved_value){.storage = NULL};
    if (p) bb_release_packed(tape, p);
}

void bb_saved_end_step(bb_tape *tape) {
    for (size_t i = 0; i < sizeof tape->packed / sizeof tape->packed[0]; i++)
        while (tape->packed[i]) {
            tape->packed[i]->refs = 1;
            bb_release_packed(tape, tape->packed[i]);
        }
}

/* ---- Lending: a rule reads its inputs and outputs through the handles that it knows ---------- */

static bb_status check_unpacked(bb_context *ctx, const char *who, const packed_value *p,
                                const bb_tensor *u) {
    char want[BB_SHAPE_TEXT], got[BB_SHAPE_TEXT];
    if (ctx->status) return ctx->status;
    if (!u || u->ctx != ctx || !u->storage)
        return bb_fail(ctx, BB_ERR_STATE, "bb_backward: %s: unpack: expected %s%s, got %s", who,
                       bb_dtype_name(p->dtype), bb_shape_text(&p->shape, want),
                       !u              ? "NULL"
                       : u->ctx != ctx ? "a tensor of another context"
                                       : "a tensor that was dropped");
    bb_shape shape = bb_shape_of_tensor(u);
    if (u->dtype != p->dtype || u->device != p->device || !bb_shape_equal(&shape, &p->shape))
        return bb_fail(ctx, BB_ERR_STATE,
                       "bb_backward: %s: unpack: expected %s%s on %s, got %s%s on %s", who,
                       bb_dtype_name(p->dtype), bb_shape_text(&p->shape, want),
                       ctx->backend[p->device]->name, bb_dtype_name((bb_dtype)u->dtype),
                       bb_shape_text(&shape, got), ctx->backend[u->device]->name);
    if (u->storage->serial == p->serial && u->storage->version != p->version)
        return bb_fail(ctx, BB_ERR_STATE,
                       "bb_backward: %s: unpack: gave the value's own bytes, which were changed in "
                       "place after the forward pass",
                       who);
    return BB_OK;
}

bb_tensor *bb_unpack_value(bb_tape *tape, const char *who, const packed_value *p) {
    bool before = bb_set_grad_enabled(tape->ctx, false);
    bb_tensor *u = p->hooks.unpack(p->hooks.user, p->object);
    bb_set_grad_enabled(tape->ctx, before);
    return check_unpacked(tape->ctx, who, p, u) ? NULL : u;
}

/* Puts t over the bytes; the loan owns a reference to them until it is taken back. */
static void lend_bytes(bb_tape *tape, loan *l, bb_tensor *t, bb_storage *s, size_t offset,
                       const int64_t *stride) {
    lent_value *v = &l->list[l->count++];
    *v = (lent_value){.t = t,
                      .storage = t->storage,
                      .data = t->data,
                      .life = t->life,
                      .contiguous = t->contiguous};
    t->storage = bb_storage_ref(s);
    t->data = (char *)s->data + offset;
    if (t->life != BB_LIFE_CONTEXT) t->life = BB_LIFE_STEP;
    if (!stride || memcmp(stride, t->stride, (size_t)t->rank * sizeof *stride) == 0) return;
    v->relaid = true;
    tape->relaid++;
    memcpy(v->stride, t->stride, sizeof v->stride);
    memcpy(t->stride, stride, (size_t)t->rank * sizeof *stride);
    bb_tensor_restride(t);
}

static bb_status lend_packed(bb_tape *tape, const bb_op *op, const packed_value *p, bb_tensor *t,
                             loan *l) {
    for (int i = 0; i < l->count; i++)
        if (l->list[i].t == t && l->list[i].packed == p) return BB_OK; /* mul(x, x) */
    bb_tensor *u = bb_unpack_value(tape, op->name, p);
    if (!u) return tape->ctx->status;
    lend_bytes(tape, l, t, u->storage, (size_t)(u->data - (char *)u->storage->data), u->stride);
    l->list[l->count - 1].packed = p;
    return BB_OK;
}

bb_status bb_lend(bb_tape *tape, const tape_node *node, loan *l) {
    bb_context *ctx = tape->ctx;
    int n = node->n_in + node->n_out;
    l->count = 0;
    l->list = l->small;
    if (n > (int)(sizeof l->small / sizeof l->small[0]))
        l->list = bb_arena_allocate(ctx, &ctx->arena, (size_t)n * sizeof *l->list);
    if (!l->list) return ctx->status;
    bb_status status = BB_OK;
    for (int i = 0; i < n && !status; i++) {
        const saved_value *s = &node->saved[i];
        bb_tensor *t = bb_node_tensor(node, i);
        if (s->packed)
            status = lend_packed(tape, node->op, s->packed, t, l);
        else if (s->storage && s->version != s->storage->version)
            status = bb_fail(
                ctx, BB_ERR_STATE,
                "bb_backward: %s: a tensor it saved was changed in place after the forward pass",
                node->op->name);
        else if (s->storage && (s->storage != t->storage || s->stride))
            lend_bytes(tape, l, t, s->storage, s->offset, s->stride);
    }
    if (status) bb_take_back(tape, l);
    return status;
}

void bb_take_back(bb_tape *tape, loan *l) {
    while (l->count > 0) {
        const lent_value *v = &l->list[--l->count];
        bb_tensor *t = v->t;
        bb_storage_unref(t->storage);
        t->storage = v->storage;
        t->data = v->data;
        t->life = v->life;
        if (!v->relaid) continue;
        tape->relaid--;
        memcpy(t->stride, v->stride, sizeof v->stride);
        t->contiguous = v->contiguous;
    }
}
