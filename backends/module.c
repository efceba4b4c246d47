/* Loads a backend's module. BOBBIN_BACKEND_PATH names a file or a folder; without it the module is
 * looked for beside the library or program that this code is part of, then where the system looks
 * for libraries. A module stays loaded, since accelerators' runtimes do not take well to being
 * unloaded. */
#include "backends/module.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *const file_names[BB_DEVICE_COUNT] = {[BB_CUDA] = "libbobbin_cuda.so"};

static const bb_host host = {
    .abi = BB_BACKEND_ABI,
    .layout = BB_HOST_LAYOUT,
    .fail = bb_fail,
    .storage_new = bb_storage_new,
    .storage_unref = bb_storage_unref,
    .allocate = bb_host_allocate,
    .release = bb_host_release,
};

/* Keeps a reason for as long as the context lives; the context's arena does not. */
static void missing(bb_context *ctx, bb_device device, const char *what, const char *why) {
    char *text = ctx->backend_why[device];
    snprintf(text, sizeof ctx->backend_why[device], "%.80s%s%.300s", what, why ? ": " : "", why ? why : "");
    ctx->backend_missing[device] = text;
}

static bool is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* The module's path; false: it would be too long. */
static bool module_path(const char *name, char path[PATH_MAX]) {
    const char *given = getenv("BOBBIN_BACKEND_PATH");
    if (given && given[0])
        return snprintf(path, PATH_MAX, is_folder(given) ? "%s/%s" : "%s", given, name) < PATH_MAX;
    Dl_info self;
    const char *slash =
        dladdr(&host, &self) && self.dli_fname ? strrchr(self.dli_fname, '/') : NULL;
    if (slash && snprintf(path, PATH_MAX, "%.*s/%s", (int)(slash - self.dli_fname), self.dli_fname,
                          name) < PATH_MAX) {
        struct stat info;
        if (stat(path, &info) == 0) return true;
    }
    return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX;
}

bb_status bb_module_load(bb_context *ctx, bb_device device) {
    char path[PATH_MAX];
    const char *name = file_names[device], *why = NULL;
    if (!name) return BB_OK;
    if (!module_path(name, path)) {
        missing(ctx, device, "BOBBIN_BACKEND_PATH is too long", NULL);
        return BB_OK;
    }
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module) {
        missing(ctx, device, "its module could not be loaded", dlerror());
        return BB_OK;
    }
    bb_module_open_fn open;
    void *symbol = dlsym(module, BB_MODULE_OPEN);
    memcpy(&open, &symbol, sizeof open);
    if (!symbol) {
        missing(ctx, device, path, "not a module of bobbin");
        return BB_OK;
    }
    bb_backend *backend = open(&host, ctx, &why);
    if (!backend) {
        if (ctx->status) return ctx->status;
        missing(ctx, device, why ? why : "its module cannot serve here", NULL);
        return BB_OK;
    }
    return bb_attach_backend(ctx, backend);
}
