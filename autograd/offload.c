/* Activation offloading: a pair of hooks (saved.c) that moves what it is given to page-locked
 * memory of the host, and the schedule of the copies. autograd.h says what a user sees of it.
 *
 * The unit is a storage, since that is what holds device memory: the first saved view of it sends
 * it, the others join. All copies go to the backend's side queue in order. A segment is
 *
 *   OPEN     between begin and end; each storage is on its way to the host, and still held here
 *   LEAVING  the same, after end
 *   AWAY     the work has been told to wait for the copies, and the device memory is given back
 *   BACK     new device memory, and copies into it are on their way or done
 *
 * Ordering, all of it on the device: a copy to the host waits for the work that made the value; the
 * work that may reuse the memory waits for the copy (retire); a copy back waits for the work that
 * used its new memory before (fetch); the work that reads it waits for the copy (arrive). Nothing
 * crosses the end of a step, so that a captured step holds all of it. */
#include <string.h>

#include "autograd/tape.h"

enum { MIN_ELEMENTS = 256 * 1024 };

/* A block of page-locked memory. Copies in and out of it are in one queue, so it may be used again
 * as soon as the copies from it have been given. */
typedef struct pinned {
    void *data;
    size_t bytes;
    struct pinned *next;
} pinned;

/* One storage that was sent. Lives in the step's arena, like what follows. */
typedef struct moved {
    struct moved *next; /* of its segment */
    bb_storage *device; /* NULL: the bytes are on the host alone */
    pinned *host;       /* NULL: no saved value needs it any more */
    size_t bytes;       /* of its values */
    uint32_t version;   /* of `device` when it was sent */
    int refs, segment;
    bool changed; /* in place, before its copy was done */
} moved;

/* What stands for a saved value: a view of a moved storage. */
typedef struct view {
    moved *of;
    size_t offset;
    bb_dtype dtype;
    bb_shape shape;
    int64_t stride[BB_MAX_RANK];
} view;

typedef enum place { OPEN, LEAVING, AWAY, BACK } place;
typedef struct segment {
    moved *first;
    uint64_t ticket; /* of its copies to the host, then of those back */
    place place;
    bool arrived; /* BACK, and the work was told to wait for the copies */
} segment;

typedef struct offload {
    bb_context *ctx;
    bb_backend *backend; /* NULL: no device of this context has a side queue */
    segment *segments;   /* of this step */
    int count, capacity;
    bool open;
    int64_t min_elements;
    bool hooked;     /* the open segment pushed hooks */
    bool unjoined;   /* copies were given that the work was not told to wait for */
    uint64_t joined; /* the highest ticket that it was */
    pinned *spare;
    bb_offload_report report;
} offload;

/* ---- Pieces --------------------------------------------------------------------------------- */

static pinned *take_pinned(offload *o, size_t bytes) {
    for (pinned **at = &o->spare; *at; at = &(*at)->next)
        if ((*at)->bytes == bytes) {
            pinned *p = *at;
            *at = p->next;
            return p;
        }
    pinned *p = bb_host_allocate(o->ctx, sizeof *p);
    if (!p) return NULL;
    *p = (pinned){o->backend->pinned_allocate(o->backend, bytes), bytes, NULL};
    if (!p->data) {
        bb_host_release(o->ctx, p, sizeof *p);
        bb_fail(o->ctx, BB_ERR_MEMORY,
                "out of page-locked host memory: asked for %zu bytes, %zu held", bytes,
                o->report.pinned);
        return NULL;
    }
    o->report.pinned += bytes;
    return p;
}

static void give_pinned(offload *o, pinned *p) {
    p->next = o->spare;
    o->spare = p;
}

/* Work given from here on starts after the copies of this ticket. */
static bb_status join(offload *o, uint64_t ticket) {
    if (ticket <= o->joined) return BB_OK;
    if (o->backend->side_wait(o->backend, ticket)) return o->ctx->status;
    o->joined = ticket;
    return BB_OK;
}

static bool grow(offload *o) {
    if (o->count < o->capacity) return true;
    int capacity = o->capacity ? 2 * o->capacity : 16;
    segment *grown = bb_host_allocate(o->ctx, (size_t)capacity * sizeof *grown);
    if (!grown) return false;
    if (o->count) memcpy(grown, o->segments, (size_t)o->count * sizeof *grown);
    bb_host_release(o->ctx, o->segments, (size_t)o->capacity * sizeof *grown);
    o->segments = grown;
    o->capacity = capacity;
    return true;
}

/* ---- To the host ---------------------------------------------------------------------------- */

static moved *send(offload *o, bb_storage *s) {
    moved *m = bb_arena_allocate(o->ctx, &o->ctx->arena, sizeof *m);
    pinned *host = m ? take_pinned(o, s->used) : NULL;
    if (!host) return NULL;
    bb_backend *b = o->backend;
    o->unjoined = true;
    if (b->side_begin(b) || b->side_copy(b, host->data, s->data, s->used, true)) {
        give_pinned(o, host);
        return NULL;
    }
    int at = o->count - 1;
    *m = (moved){.next = o->segments[at].first,
                 .device = bb_storage_ref(s),
                 .host = host,
                 .bytes = s->used,
                 .version = s->version,
                 .segment = at};
    o->segments[at].first = m;
    o->report.storages++;
    o->report.to_host += s->used;
    return m;
}

static bool stays(const offload *o, const bb_tensor *t) {
    return t->device != o->backend->device || t->count < o->min_elements || t->storage->lasting ||
           (t->requires_grad && t->node < 0);
}

static bb_status pack(void *user, bb_tensor *t, void **packed) {
    offload *o = user;
    if (stays(o, t)) return BB_OK;
    view *v = bb_arena_allocate(o->ctx, &o->ctx->arena, sizeof *v);
    if (!v) return o->ctx->status;
    moved *m = o->segments[o->count - 1].first;
    while (m && !(m->device == t->storage && m->version == t->storage->version)) m = m->next;
    if (!m) m = send(o, t->storage);
    if (!m) return o->ctx->status;
    m->refs++;
    v->of = m;
    v->offset = (size_t)(t->data - (char *)t->storage->data);
    v->dtype = (bb_dtype)t->dtype;
    v->shape = bb_shape_of_tensor(t);
    memcpy(v->stride, t->stride, sizeof v->stride);
    o->report.values++;
    *packed = v;
    return BB_OK;
}

/* Gives the device memory of a segment back: its copies have been given as long ago as possible. */
static bb_status retire(offload *o, segment *s) {
    if (join(o, s->ticket)) return o->ctx->status;
    for (moved *m = s->first; m; m = m->next) {
        if (!m->device) continue;
        m->changed = m->device->version != m->version;
        bb_storage_unref(m->device);
        m->device = NULL;
    }
    s->place = AWAY;
    return BB_OK;
}

/* ---- And back ------------------------------------------------------------------------------- */

static bool needed(const segment *s) {
    for (const moved *m = s->first; m; m = m->next)
        if (m->host) return true;
    return false;
}

static bb_status copy_back(offload *o, segment *s) {
    bb_backend *b = o->backend;
    o->unjoined = true;
    if (b->side_begin(b)) return o->ctx->status;
    for (moved *m = s->first; m; m = m->next) {
        if (!m->device) continue;
        if (b->side_copy(b, m->device->data, m->host->data, m->bytes, false)) return o->ctx->status;
        o->report.to_device += m->bytes;
    }
    return b->side_end(b, &s->ticket);
}

/* All memory first: in tests a new block is filled, and that is work the copies must wait for. */
static bb_status fetch(offload *o, segment *s) {
    bb_status status = BB_OK;
    for (moved *m = s->first; m && !status; m = m->next) {
        if (!m->host || m->changed || m->device) continue;
        m->device = bb_storage_new(o->ctx, o->backend->device, m->bytes);
        if (!m->device) status = o->ctx->status;
    }
    if (!status) status = copy_back(o, s);
    if (status)
        return status; /* what was allocated stays for another try, or until it is released */
    s->place = BACK;
    s->arrived = false;
    return BB_OK;
}

static bb_status arrive(offload *o, segment *s) {
    if (s->place == BACK && !s->arrived) {
        if (join(o, s->ticket)) return o->ctx->status;
        s->arrived = true;
    }
    return BB_OK;
}

/* A walk needs segment i: it is brought here, and the one before it is sent for. */
static bb_status reach(offload *o, int i) {
    segment *s = &o->segments[i];
    if (s->place == AWAY && fetch(o, s)) return o->ctx->status;
    if (arrive(o, s)) return o->ctx->status;
    int before = i - 1;
    while (before >= 0 && !needed(&o->segments[before])) before--;
    return before >= 0 && o->segments[before].place == AWAY ? fetch(o, &o->segments[before])
                                                            : BB_OK;
}

static bb_tensor *unpack(void *user, void *packed) {
    offload *o = user;
    const view *v = packed;
    moved *m = v->of;
    if (reach(o, m->segment)) return NULL;
    if (m->changed) { /* what is still here is checked by saved.c */
        bb_fail(o->ctx, BB_ERR_STATE,
                "bb_backward: a tensor that was offloaded was changed in place before its copy was "
                "done");
        return NULL;
    }
    bb_tensor *t = bb_tensor_header(o->ctx, v->dtype, &v->shape, BB_LIFE_STEP);
    if (!t) return NULL;
    memcpy(t->stride, v->stride, sizeof v->stride);
    bb_tensor_restride(t);
    bb_tensor_attach(t, bb_storage_ref(m->device), v->offset);
    return t;
}

/* Memory that a copy still writes to must not go to anyone before the copy is done. A copy to the
 * host that still reads is harmless: nobody wants it any more. */
static void release(void *user, void *packed) {
    offload *o = user;
    moved *m = ((view *)packed)->of;
    if (--m->refs) return;
    arrive(o, &o->segments[m->segment]);
    bb_storage_unref(m->device);
    m->device = NULL;
    give_pinned(o, m->host);
    m->host = NULL;
}

/* ---- Segments ------------------------------------------------------------------------------- */

static bool has_side(const bb_backend *b) { return b && b->side_begin; }

static offload *offload_of(bb_context *ctx) {
    bb_tape *tape = bb_tape_of(ctx);
    if (tape->offload) return tape->offload;
    offload *o = bb_host_allocate(ctx, sizeof *o);
    if (!o) return NULL;
    *o = (offload){.ctx = ctx};
    return tape->offload = o;
}

bool bb_offload_available(bb_context *ctx, bb_device device, const char **why) {
    if (!bb_device_available(ctx, device, why)) return false;
    bool can = has_side(ctx->backend[device]);
    if (why)
        *why = can                ? NULL
               : device == BB_CPU ? "the memory of the cpu is the host's own: nothing is offloaded"
                                  : "the device has no queue for copies beside the work";
    return can;
}

bb_status bb_offload_begin(bb_context *ctx, const bb_offload_options *options) {
    if (!ctx) return BB_ERR_ARGUMENT;
    int64_t min_elements = options ? options->min_elements : 0;
    if (min_elements < 0)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "bb_offload_begin: min_elements: expected 0 or more, got %lld",
                       (long long)min_elements);
    offload *o = offload_of(ctx);
    if (!o || !grow(o)) return ctx->status;
    if (o->open)
        return bb_fail(ctx, BB_ERR_STATE,
                       "bb_offload_begin: expected no open segment, got one inside another");
    for (int d = 0; d < BB_DEVICE_COUNT && !o->backend; d++)
        if (has_side(ctx->backend[d])) o->backend = ctx->backend[d];
    const bb_saved_hooks hooks = {pack, unpack, release, o};
    o->hooked = o->backend != NULL;
    if (o->hooked && bb_saved_hooks_push(ctx, &hooks)) return ctx->status;
    o->open = true;
    o->min_elements = min_elements ? min_elements : MIN_ELEMENTS;
    o->segments[o->count++] = (segment){.place = OPEN};
    return BB_OK;
}

bb_status bb_offload_end(bb_context *ctx) {
    if (!ctx) return BB_ERR_ARGUMENT;
    bb_tape *tape = bb_tape_of(ctx);
    offload *o = tape->offload;
    if (!o || !o->open)
        return bb_fail(ctx, BB_ERR_STATE, "bb_offload_end: expected an open segment, got none");
    if (!o->hooked) {
        o->open = false;
        o->count--;
        return ctx->status;
    }
    if (tape->hook_count == 0 || tape->hooks[tape->hook_count - 1].user != o)
        return bb_fail(ctx, BB_ERR_STATE,
                       "bb_offload_end: expected the segment's hooks to be the innermost, got "
                       "others that were pushed since (bb_saved_hooks_pop)");
    bb_saved_hooks_pop(ctx);
    o->open = false;
    segment *last = &o->segments[o->count - 1];
    if (o->backend->side_end(o->backend, &last->ticket)) return ctx->status;
    last->place = LEAVING;
    for (segment *s = o->segments; s < last; s++)
        if (s->place == LEAVING && retire(o, s)) return ctx->status;
    return ctx->status;
}

bb_status bb_offload_settle(bb_context *ctx) {
    if (!ctx) return BB_ERR_ARGUMENT;
    offload *o = bb_tape_of(ctx)->offload;
    for (int i = 0; o && i < o->count; i++)
        if (o->segments[i].place == LEAVING && retire(o, &o->segments[i])) return ctx->status;
    return ctx->status;
}

bb_offload_report bb_offload_stats(const bb_context *ctx) {
    const offload *o = ctx ? bb_tape_of(ctx)->offload : NULL;
    return o ? o->report : (bb_offload_report){0};
}

/* The tape is empty, so nothing is needed any more. An open segment goes on in the next step. */
void bb_offload_end_step(bb_tape *tape) {
    offload *o = tape->offload;
    if (!o) return;
    uint64_t ticket;
    if (o->unjoined && o->backend->side_end(o->backend, &ticket) == BB_OK) join(o, ticket);
    o->unjoined = false;
    o->count = 0;
    if (o->open) o->segments[o->count++] = (segment){.place = OPEN};
}

void bb_offload_close(bb_tape *tape) {
    offload *o = tape->offload;
    if (!o) return;
    while (o->spare) {
        pinned *p = o->spare;
        o->spare = p->next;
        o->backend->pinned_release(o->backend, p->data, p->bytes);
        bb_host_release(o->ctx, p, sizeof *p);
    }
    bb_host_release(o->ctx, o->segments, (size_t)o->capacity * sizeof *o->segments);
    bb_host_release(o->ctx, o, sizeof *o);
    tape->offload = NULL;
}
