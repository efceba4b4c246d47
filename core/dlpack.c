/* Tensors to and from other libraries without copies, by DLPack (https://dmlc.github.io/dlpack).
 * The structs below are ours, laid out as those of DLPack 1.x; users have their own dlpack.h. The
 * manual is core/core.h. */
#include <string.h>

#include "core/impl.h"

typedef struct dl_tensor {
    void *data;
    int32_t device_type, device_id;
    int32_t rank;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *stride; /* stride NULL: row-major; in elements */
    uint64_t byte_offset;
} dl_tensor;

typedef struct dl_managed { /* "dltensor" */
    dl_tensor tensor;
    void *manager;
    void (*deleter)(struct dl_managed *self);
} dl_managed;

typedef struct dl_versioned { /* "dltensor_versioned" */
    uint32_t major, minor;
    void *manager;
    void (*deleter)(struct dl_versioned *self);
    uint64_t flags; /* bit 0: read only */
    dl_tensor tensor;
} dl_versioned;

_Static_assert(sizeof(void *) != 8 ||
                   (sizeof(dl_tensor) == 48 && sizeof(dl_managed) == 64 &&
                    offsetof(dl_versioned, tensor) == 32 && offsetof(dl_tensor, shape) == 24),
               "the layout of DLPack");

enum { DL_CPU = 1, DL_CUDA = 2, DL_READ_ONLY = 1, DL_MAJOR = 1 };

static const struct {
    uint8_t code, bits;
} types[BB_DTYPE_COUNT] = {
    [BB_F64] = {2, 64}, [BB_F32] = {2, 32}, [BB_F16] = {2, 16}, [BB_BF16] = {4, 16},
    [BB_I64] = {0, 64}, [BB_I32] = {0, 32}, [BB_U8] = {1, 8},   [BB_BOOL] = {6, 8}};

/* ---- Out */

/* What an exported tensor holds on to; the struct that was handed out is part of it. */
typedef struct export {
    bb_storage *storage;
    int64_t shape[BB_MAX_RANK], stride[BB_MAX_RANK];
    union {
        dl_managed plain;
        dl_versioned versioned;
    };
}
export;

static void end_export(export *e) {
    bb_context *ctx = e->storage->ctx;
    bb_storage_unref(e->storage);
    bb_host_release(ctx, e, sizeof *e);
    if (--ctx->exports == 0 && ctx->closing) bb_context_free(ctx);
}

static void delete_plain(dl_managed *self) { end_export(self->manager); }
static void delete_versioned(dl_versioned *self) { end_export(self->manager); }

void *bb_to_dlpack(bb_tensor *t, bool versioned) {
    if (!t || t->ctx->status || !bb_tensor_usable(t)) return NULL;
    export *e = bb_host_allocate(t->ctx, sizeof *e);
    if (!e) return NULL;
    memset(e, 0, sizeof *e);
    memcpy(e->shape, t->size, (size_t)t->rank * sizeof *e->shape);
    memcpy(e->stride, t->stride, (size_t)t->rank * sizeof *e->stride);
    e->storage = bb_storage_ref(t->storage);
    t->ctx->exports++;
    dl_tensor described = {.data = t->count ? t->data : NULL,
                           .device_type = t->device == BB_CPU ? DL_CPU : DL_CUDA,
                           .rank = t->rank,
                           .code = types[t->dtype].code,
                           .bits = types[t->dtype].bits,
                           .lanes = 1,
                           .shape = e->shape,
                           .stride = e->stride};
    if (versioned) {
        e->versioned = (dl_versioned){
            .major = DL_MAJOR, .manager = e, .deleter = delete_versioned, .tensor = described};
        return &e->versioned;
    }
    e->plain = (dl_managed){.tensor = described, .manager = e, .deleter = delete_plain};
    return &e->plain;
}

/* ---- In */

static void give_back_plain(void *managed) {
    dl_managed *m = managed;
    if (m->deleter) m->deleter(m);
}
static void give_back_versioned(void *managed) {
    dl_versioned *m = managed;
    if (m->deleter) m->deleter(m);
}

static bb_status wrong(bb_context *ctx, const char *what, const char *expected, long long got) {
    return bb_fail(ctx, BB_ERR_UNSUPPORTED, "bb_from_dlpack: %s: expected %s, got %lld", what,
                   expected, got);
}

static bool find_type(const dl_tensor *d, bb_dtype *dtype) {
    for (int i = 0; i < BB_DTYPE_COUNT; i++) {
        *dtype = (bb_dtype)i;
        if (d->lanes == 1 && types[i].code == d->code && types[i].bits == d->bits) return true;
    }
    return false;
}

/* Checks the description and fills shape, strides and extent (the bytes from the first element to
 * the end of the last). */
static bb_status describe(bb_context *ctx, const dl_tensor *d, bb_dtype *dtype, bb_tensor *like,
                          size_t *extent) {
    bb_shape shape = {d->rank, {0}};
    size_t last = 0, step = 0, bytes = 0;
    char text[BB_SHAPE_TEXT];
    if (d->device_type != DL_CPU) return wrong(ctx, "device", "the CPU (1)", d->device_type);
    if (!find_type(d, dtype))
        return wrong(ctx, "dtype", "one of " BB_DTYPE_CHOICES,
                     d->code * 1000000LL + d->bits * 1000LL + d->lanes);
    if (d->rank < 0 || d->rank > BB_MAX_RANK) return wrong(ctx, "rank", "0 to 8", d->rank);
    for (int i = 0; i < d->rank; i++) shape.size[i] = d->shape[i];
    if (!bb_shape_bytes(&shape, *dtype, &bytes))
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "bb_from_dlpack: shape: expected sizes >= 0 and less than 2^63 bytes, got "
                       "%s of %s",
                       bb_shape_text(&shape, text), bb_dtype_name(*dtype));
    memset(like, 0, sizeof *like);
    like->rank = (uint8_t)d->rank;
    memcpy(like->size, shape.size, sizeof like->size);
    bb_set_strides(like);
    for (int i = 0; d->stride && i < d->rank; i++) {
        like->stride[i] = d->stride[i];
        if (shape.size[i] < 2) continue; /* never taken */
        if (d->stride[i] < 0) return wrong(ctx, "stride", "none below 0", d->stride[i]);
        if (!bb_checked_mul((size_t)shape.size[i] - 1, (size_t)d->stride[i], &step) ||
            !bb_checked_add(last, step, &last))
            return wrong(ctx, "stride", "a tensor below 2^63 bytes", d->stride[i]);
    }
    for (int i = 0; i < d->rank; i++)
        if (shape.size[i] < 2 && like->stride[i] < 0) like->stride[i] = 0;
    size_t element = bb_dtype_bytes(*dtype);
    uintptr_t address = (uintptr_t)d->data + d->byte_offset;
    if (like->count && (!d->data || address % element))
        return wrong(ctx, "data", "an address that is a multiple of the element's size",
                     (long long)address);
    if (!bb_checked_add(last, 1, &step) || !bb_checked_mul(step, element, extent) ||
        *extent > SIZE_MAX / 2)
        return wrong(ctx, "stride", "a tensor below 2^63 bytes", (long long)last);
    return BB_OK;
}

bb_tensor *bb_from_dlpack(bb_context *ctx, void *managed, bool versioned) {
    if (!ctx || ctx->status) return NULL;
    if (!managed) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "bb_from_dlpack: managed: expected a tensor, got NULL");
        return NULL;
    }
    const dl_versioned *v = managed;
    if (versioned && v->major != DL_MAJOR) {
        wrong(ctx, "version", "DLPack 1", v->major);
        return NULL;
    }
    if (versioned && v->flags & DL_READ_ONLY) {
        wrong(ctx, "flags", "memory that may be written (bb_from copies)", (long long)v->flags);
        return NULL;
    }
    const dl_tensor *d = versioned ? &v->tensor : &((const dl_managed *)managed)->tensor;
    bb_tensor like;
    bb_dtype dtype = BB_F32;
    size_t extent = 0;
    if (describe(ctx, d, &dtype, &like, &extent) != BB_OK) return NULL;
    bb_shape shape = bb_shape_of_tensor(&like);
    bb_tensor *t = bb_tensor_header(ctx, dtype, &shape, BB_LIFE_STEP);
    if (!t) return NULL;
    void *data = like.count ? (char *)d->data + d->byte_offset : NULL;
    bb_storage *s = bb_storage_foreign(ctx, data, extent,
                                       versioned ? give_back_versioned : give_back_plain, managed);
    if (!s) {
        bb_drop(t);
        return NULL;
    }
    bb_tensor_attach(t, s, 0);
    memcpy(t->stride, like.stride, sizeof t->stride);
    bb_tensor_restride(t);
    return t;
}
