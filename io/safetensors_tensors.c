/* From an open safetensors file into tensors. The file itself is read by io/safetensors.c. */
#include "core/impl.h"
#include "io/internal.h"

#include <string.h>

static bb_status fail_tensor(const bb_safetensors *file, const char *name, const char *expected,
                             const char *got) {
    char quoted[BB_QUOTE_BYTES];
    return bb_fail(bb_safetensors_context(file), BB_ERR_FORMAT,
                   "%s: tensor %s: expected %s, got %s", bb_safetensors_path(file),
                   bb_quote(name, strlen(name), quoted), expected, got);
}

static bb_status find(const bb_safetensors *file, const char *name, bb_stored *stored) {
    return bb_safetensors_find(file, name, stored)
               ? BB_OK
               : fail_tensor(file, name, "to find it in the file", "no such tensor");
}

/* A header of odd length leaves the data on odd addresses; kernels want whole elements. */
static bb_status write_tensor(bb_tensor *t, const bb_stored *stored) {
    bb_context *ctx = t->ctx;
    if ((uintptr_t)stored->data % bb_dtype_bytes(stored->dtype) == 0)
        return bb_write(t, stored->data, stored->bytes);
    void *aligned = bb_host_allocate(ctx, stored->bytes);
    if (!aligned) return bb_error(ctx);
    memcpy(aligned, stored->data, stored->bytes);
    bb_status status = bb_write(t, aligned, stored->bytes);
    if (status == BB_OK && t->device != BB_CPU) {
        bb_backend *backend = ctx->backend[t->device];
        status = backend->synchronize(backend); /* the copy may still be reading `aligned` */
    }
    bb_host_release(ctx, aligned, stored->bytes);
    return status;
}

bb_tensor *bb_safetensors_load(bb_safetensors *file, const char *name, bb_device device) {
    if (!file) return NULL;
    bb_context *ctx = bb_safetensors_context(file);
    bb_stored stored;
    if (!name) bb_fail(ctx, BB_ERR_ARGUMENT, "bb_safetensors_load: name: expected one, got NULL");
    if (bb_error(ctx) || find(file, name, &stored)) return NULL;
    bb_tensor *t = bb_empty_on(ctx, device, stored.dtype, stored.shape);
    if (!t) return NULL;
    if (write_tensor(t, &stored) == BB_OK) return t;
    bb_drop(t);
    return NULL;
}

static bb_status check_tensor(const bb_safetensors *file, const bb_named *named,
                              bb_stored *stored) {
    bb_status status = find(file, named->name, stored);
    if (status) return status;
    bb_dtype dtype = bb_dtype_of(named->tensor);
    if (stored->dtype != dtype)
        return fail_tensor(file, named->name, bb_dtype_name(dtype), bb_dtype_name(stored->dtype));
    bb_shape shape = bb_shape_of(named->tensor);
    char expected[BB_SHAPE_TEXT], got[BB_SHAPE_TEXT];
    if (!bb_shape_equal(&stored->shape, &shape))
        return fail_tensor(file, named->name, bb_shape_text(&shape, expected),
                           bb_shape_text(&stored->shape, got));
    return BB_OK;
}

bb_status bb_safetensors_restore(bb_safetensors *file, const bb_named *tensors, int64_t count,
                                 bool exact) {
    if (!file) return BB_ERR_ARGUMENT;
    bb_context *ctx = bb_safetensors_context(file);
    bb_stored stored;
    bb_status status = bb_check_named(ctx, "bb_safetensors_restore", tensors, count);
    for (int64_t i = 0; i < count && status == BB_OK; i++)
        status = check_tensor(file, &tensors[i], &stored);
    if (status == BB_OK && exact && bb_safetensors_count(file) != count)
        status = bb_fail(ctx, BB_ERR_FORMAT, "%s: expected %lld tensors, got %lld",
                         bb_safetensors_path(file), (long long)count,
                         (long long)bb_safetensors_count(file));
    for (int64_t i = 0; i < count && status == BB_OK; i++) {
        bb_safetensors_find(file, tensors[i].name, &stored);
        status = write_tensor(tensors[i].tensor, &stored);
    }
    return status;
}
