/* Wires the house: core learns of the ops, the backends and the tape here, and only here. */
#include "bobbin.h"
#include "backends/cpu/cpu.h"
#include "backends/module.h"
#include "core/impl.h"

static bb_status wire(bb_context *ctx) {
    for (int i = 0; i < bb_builtin_op_count; i++)
        if (bb_register_op(ctx, bb_builtin_ops[i])) return ctx->status;
    bb_backend *cpu = bb_cpu_backend_new(ctx);
    if (!cpu) return ctx->status;
    if (bb_attach_backend(ctx, cpu)) return ctx->status;
    if (bb_attach_tape(ctx)) return ctx->status;
    ctx->load_device = bb_module_load;
    return bb_registry_check(ctx);
}

bb_context *bb_open(const bb_options *options) {
    bb_context *ctx = bb_context_new(options);
    if (!ctx) return NULL;
    if (wire(ctx)) {
        bb_context_free(ctx);
        return NULL;
    }
    if (options) bb_set_path(ctx, options->path);
    bb_cpu_check_wishes(ctx);
    return ctx;
}

const char *bb_version(void) { return BOBBIN_VERSION; }

void bb_close(bb_context *ctx) { bb_context_free(ctx); }
