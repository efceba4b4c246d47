/* A context's birth and end. bobbin.c wires ops, backends and the tape into it; core knows none of
 * them. */
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "core/impl.h"

/* Blocks that are walked once from end to end, where looking up a small page every 4 KiB costs a
 * tenth of the time, lie in large pages if the system has some. */
enum { LARGE_BYTES = 16 << 20, HUGE_PAGE = 2 << 20 };

static void *default_allocate(void *user, size_t bytes) {
    (void)user;
    const size_t unit = bytes >= LARGE_BYTES ? HUGE_PAGE : 64;
    if (bytes > SIZE_MAX - (unit - 1)) return NULL;
    const size_t rounded = (bytes + unit - 1) / unit * unit;
    void *block = aligned_alloc(unit, rounded);
#if defined(MADV_HUGEPAGE)
    if (block && unit == HUGE_PAGE) madvise(block, rounded, MADV_HUGEPAGE); /* a wish: no is fine */
#endif
    return block;
}
static void default_release(void *user, void *block, size_t bytes) {
    (void)user, (void)bytes;
    free(block);
}

static bool environment_flag(const char *name) {
    const char *value = getenv(name);
    return value && value[0] && strcmp(value, "0") != 0;
}

bb_context *bb_context_new(const bb_options *options) {
    static const bb_options defaults;
    if (!options) options = &defaults;
    bb_allocator allocator = {default_allocate, default_release, NULL};
    if (options->allocator) allocator = *options->allocator;
    bb_context *ctx = allocator.allocate(allocator.user, sizeof *ctx);
    if (!ctx) return NULL;
    memset(ctx, 0, sizeof *ctx);
    ctx->allocator = allocator;
    ctx->on_error = options->on_error;
    ctx->on_error_user = options->on_error_user;
    ctx->memory.system_allocations = 1;
    ctx->memory.bytes_held = ctx->memory.bytes_peak = sizeof *ctx;
    ctx->step = 1;
    ctx->rng.seed = options->seed;
    ctx->threads = options->threads > 0 ? options->threads : 0;
    ctx->deterministic = options->deterministic || environment_flag("BOBBIN_DETERMINISTIC");
    ctx->grad_enabled = true;
    ctx->poison = environment_flag("BOBBIN_POISON");
    ctx->synchronize = environment_flag("BOBBIN_SYNC");
    ctx->trace = environment_flag("BOBBIN_TRACE") ? stderr : NULL;
    for (int d = 0; d < BB_DEVICE_COUNT; d++)
        ctx->backend_missing[d] = "this build has no such backend";
    return ctx;
}

static void free_slabs(bb_context *ctx, bb_generation *g) {
    for (bb_slab *s = g->first, *next; s; s = next) {
        next = s->next;
        bb_host_release(ctx, s, sizeof *s);
    }
}

void bb_context_free(bb_context *ctx) {
    if (!ctx) return;
    bb_end_step(ctx);
    while (ctx->captures) bb_capture_free(ctx->captures);
    bb_context_tensors_free(ctx);
    for (int i = 0; i < ctx->recorder_count; i++)
        if (ctx->recorder[i]->close) ctx->recorder[i]->close(ctx->recorder[i]);
    ctx->recorder_count = 0;
    /* Other libraries may hold elements of this context; the last one's deleter comes back here.
     * This context itself may have been such a library: its own tensors are gone by now. */
    ctx->closing = true;
    if (ctx->exports) return;
    bb_pool_free(ctx);
    for (int d = 0; d < BB_DEVICE_COUNT; d++)
        if (ctx->backend[d]) ctx->backend[d]->close(ctx->backend[d]);
    for (bb_storage *s = ctx->free_storages, *next; s; s = next) {
        next = s->next;
        bb_host_release(ctx, s, sizeof *s);
    }
    free_slabs(ctx, &ctx->generation[0]);
    free_slabs(ctx, &ctx->generation[1]);
    bb_arena_free(ctx, &ctx->arena);
    bb_host_release(ctx, ctx->entries, (size_t)ctx->entry_capacity * sizeof *ctx->entries);
    bb_host_release(ctx, ctx->entry_index,
                    (size_t)ctx->entry_index_size * sizeof *ctx->entry_index);
    ctx->allocator.release(ctx->allocator.user, ctx, sizeof *ctx);
}

bb_status bb_attach_backend(bb_context *ctx, bb_backend *backend) {
    if (backend->abi != BB_BACKEND_ABI) {
        ctx->backend_missing[backend->device] =
            "its module was built for another version of bobbin";
        return bb_fail(ctx, BB_ERR_DEVICE, "backend %s: ABI: expected %d, got %u", backend->name,
                       BB_BACKEND_ABI, backend->abi);
    }
    backend->ctx = ctx;
    ctx->backend[backend->device] = backend;
    ctx->backend_missing[backend->device] = NULL;
    for (const bb_kernel *k = backend->kernels; k->op; k++)
        if (bb_register_kernel(ctx, backend->device, k)) return ctx->status;
    return BB_OK;
}

bb_status bb_attach_recorder(bb_context *ctx, bb_recorder *recorder) {
    if (ctx->recorder_count == BB_MAX_RECORDERS)
        return bb_fail(ctx, BB_ERR_STATE, "recorder: expected at most %d, got one more",
                       BB_MAX_RECORDERS);
    ctx->recorder[ctx->recorder_count++] = recorder;
    return BB_OK;
}

void bb_detach_recorder(bb_context *ctx, const bb_recorder *recorder) {
    int n = 0;
    for (int i = 0; i < ctx->recorder_count; i++)
        if (ctx->recorder[i] != recorder) ctx->recorder[n++] = ctx->recorder[i];
    ctx->recorder_count = n;
}

bool bb_is_recorded(const bb_context *ctx) {
    for (int r = 0; r < ctx->recorder_count; r++)
        if (!ctx->recorder[r]->gradients_only) return true;
    return false;
}

bb_status bb_tell_watch(bb_context *ctx, const char *who, const bb_tensor *t) {
    bb_status status = BB_OK;
    for (bb_watch *w = ctx->watch; w && !status; w = w->outer) status = w->read(w, who, t);
    return status;
}

void bb_module_enter(bb_context *ctx, bb_module *here, const char *type, const char *name,
                     int64_t index) {
    if (!ctx || !here) return;
    *here = (bb_module){ctx->module, type, name, index, ++ctx->module_calls};
    ctx->module = here;
}
void bb_module_leave(bb_context *ctx, const bb_module *here) {
    if (ctx) ctx->module = here->outer;
}

void bb_set_path(bb_context *ctx, bb_path path) {
    if (!ctx) return;
    if ((unsigned)path <= BB_PATH_COMPOSED)
        ctx->path = path;
    else
        bb_fail(ctx, BB_ERR_ARGUMENT, "bb_set_path: path: expected a bb_path, got %d", (int)path);
}
bb_path bb_get_path(const bb_context *ctx) { return ctx ? ctx->path : BB_PATH_AUTO; }
void bb_set_trace(bb_context *ctx, FILE *file) {
    if (ctx) ctx->trace = file;
}

bb_memory bb_memory_stats(const bb_context *ctx) { return ctx ? ctx->memory : (bb_memory){0}; }

static void load_once(bb_context *ctx, bb_device device) {
    if (ctx->backend[device] || ctx->load_tried[device] || !ctx->load_device) return;
    ctx->load_tried[device] = true;
    ctx->load_device(ctx, device);
}

bool bb_device_available(bb_context *ctx, bb_device device, const char **why) {
    const char *missing = "no such device";
    if (ctx && (unsigned)device < BB_DEVICE_COUNT) load_once(ctx, device);
    if (!ctx)
        missing = "no context";
    else if ((unsigned)device < BB_DEVICE_COUNT)
        missing = ctx->backend[device] ? NULL : ctx->backend_missing[device];
    if (why) *why = missing;
    return !missing;
}

bb_status bb_set_device(bb_context *ctx, bb_device device) {
    const char *why;
    if (!ctx) return BB_ERR_ARGUMENT;
    if (ctx->status) return ctx->status;
    if (!bb_device_available(ctx, device, &why))
        return bb_fail(ctx, BB_ERR_DEVICE, "bb_set_device: device: %s", why);
    ctx->device = device;
    return BB_OK;
}
bb_device bb_get_device(const bb_context *ctx) { return ctx ? ctx->device : BB_CPU; }

bb_status bb_set_sm_margin(bb_context *ctx, int margin) {
    if (!ctx) return BB_ERR_ARGUMENT;
    if (ctx->status) return ctx->status;
    if (margin < 0)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "bb_set_sm_margin: margin: expected 0 or more, got %d",
                       margin);
    ctx->sm_margin = margin;
    return BB_OK;
}

bb_status bb_set_f32_compute(bb_context *ctx, bb_compute_type type) {
    if (!ctx) return BB_ERR_ARGUMENT;
    if (ctx->status) return ctx->status;
    if ((unsigned)type > BB_COMPUTE_F16)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "bb_set_f32_compute: type: expected a bb_compute_type, got %d", (int)type);
    ctx->f32_compute = type;
    return BB_OK;
}
