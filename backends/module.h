/* Backends that are loaded at run time, so that one program runs with and without an accelerator's
 * libraries. The seam is bb_host and bb_backend in core/impl.h. */
#ifndef BOBBIN_BACKENDS_MODULE_H
#define BOBBIN_BACKENDS_MODULE_H

#include "core/impl.h"

/* Looks for libbobbin_<device>.so and attaches its backend. Where there is none it leaves no error,
 * only the reason in ctx->backend_missing. */
bb_status bb_module_load(bb_context *ctx, bb_device device);

#endif
