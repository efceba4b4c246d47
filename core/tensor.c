/* Tensors: making, viewing, reading and writing. How long they live is lifetime.c. */
#include <math.h>
#include <string.h>

#include "core/impl.h"

void bb_set_strides(bb_tensor *t) {
    int64_t stride = 1, count = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        t->stride[i] = stride;
        count *= t->size[i];
        if (t->size[i] > 1) stride *= t->size[i];
    }
    t->count = count;
    t->contiguous = true;
}

/* Axes of size 1 may have any stride; a tensor without elements is contiguous. */
static bool strides_contiguous(const bb_tensor *t) {
    int64_t expect = 1;
    if (t->count == 0) return true;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->size[i] == 1) continue;
        if (t->stride[i] != expect) return false;
        expect *= t->size[i];
    }
    return true;
}

void bb_tensor_restride(bb_tensor *t) { t->contiguous = strides_contiguous(t); }

void bb_tensor_attach(bb_tensor *t, bb_storage *s, size_t byte_offset) {
    t->storage = s;
    t->device = s->device;
    t->data = (char *)s->data + byte_offset;
    if (t->life == BB_LIFE_CONTEXT) s->lasting = true;
}

bb_tensor *bb_refuse_shape(bb_context *ctx, const bb_shape *shape) {
    char text[BB_SHAPE_TEXT];
    bb_fail(ctx, BB_ERR_ARGUMENT,
            "tensor: shape: expected rank 0 to %d, sizes >= 0 and less than 2^63 bytes, got %s of "
            "rank %d",
            BB_MAX_RANK, bb_shape_text(shape, text), shape->rank);
    return NULL;
}

static bb_tensor *new_with_storage(bb_context *ctx, bb_device device, bb_dtype dtype,
                                   const bb_shape *shape, bb_life life) {
    const char *why;
    size_t bytes;
    if (ctx->status) return NULL;
    if ((unsigned)dtype >= BB_DTYPE_COUNT) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "tensor: dtype: expected one of " BB_DTYPE_CHOICES ", got %d",
                (int)dtype);
        return NULL;
    }
    if (!bb_shape_bytes(shape, dtype, &bytes)) return bb_refuse_shape(ctx, shape);
    if (!bb_device_available(ctx, device, &why)) {
        bb_fail(ctx, BB_ERR_DEVICE, "tensor: device: %s", why);
        return NULL;
    }
    bb_storage *s = bb_storage_new(ctx, device, bytes);
    if (!s) return NULL;
    bb_tensor *t = bb_tensor_header(ctx, dtype, shape, life);
    if (!t) {
        bb_storage_unref(s);
        return NULL;
    }
    bb_tensor_attach(t, s, 0);
    return t;
}

bb_tensor *bb_tensor_new(bb_context *ctx, bb_device device, bb_dtype dtype, const bb_shape *shape) {
    return new_with_storage(ctx, device, dtype, shape, BB_LIFE_STEP);
}
bb_tensor *bb_tensor_context(bb_context *ctx, bb_device device, bb_dtype dtype,
                             const bb_shape *shape) {
    return new_with_storage(ctx, device, dtype, shape, BB_LIFE_CONTEXT);
}

bb_tensor *bb_tensor_view(bb_tensor *base, const bb_shape *shape, const int64_t *stride,
                          int64_t offset) {
    if (!bb_tensor_usable(base)) return NULL;
    bb_tensor *t = bb_tensor_header(base->ctx, (bb_dtype)base->dtype, shape, BB_LIFE_STEP);
    if (!t) return NULL;
    for (int i = 0; i < shape->rank; i++) t->stride[i] = stride[i];
    bb_tensor_restride(t);
    ptrdiff_t at = base->data - (char *)base->storage->data;
    bb_tensor_attach(t, bb_storage_ref(base->storage),
                     (size_t)at + (size_t)offset * bb_dtype_bytes((bb_dtype)base->dtype));
    return t;
}

bb_tensor *bb_detach_header(bb_tensor *t) {
    bb_shape shape = bb_shape_of_tensor(t);
    return bb_tensor_view(t, &shape, t->stride, 0);
}

void bb_tensor_changed(bb_tensor *t) { t->storage->version++; }

bb_tensor *bb_empty_on(bb_context *ctx, bb_device device, bb_dtype dtype, bb_shape shape) {
    return ctx ? bb_tensor_new(ctx, device, dtype, &shape) : NULL;
}
bb_tensor *bb_empty(bb_context *ctx, bb_dtype dtype, bb_shape shape) {
    return bb_empty_on(ctx, bb_get_device(ctx), dtype, shape);
}

/* What the caller's values of a dtype are: a bool may come as any byte, and becomes 0 or 1. */
static bb_dtype values_of(bb_dtype dtype) { return dtype == BB_BOOL ? BB_U8 : dtype; }

/* A contiguous header over host memory that the caller owns. */
static bb_tensor host_header(bb_context *ctx, bb_dtype dtype, const bb_shape *shape,
                             const void *values) {
    bb_tensor h;
    memset(&h, 0, sizeof h);
    h.ctx = ctx;
    h.dtype = (uint8_t)dtype;
    h.rank = (uint8_t)shape->rank;
    for (int i = 0; i < shape->rank; i++) h.size[i] = shape->size[i];
    bb_set_strides(&h);
    h.data = (char *)(uintptr_t)values;
    h.node = h.capture = -1;
    return h;
}

static bb_tensor *from(bb_context *ctx, bb_dtype dtype, bb_shape shape, const void *values,
                       bb_dtype values_dtype) {
    if (!ctx || ctx->status) return NULL;
    if (!values && !(shape.rank > 0 && bb_shape_count(&shape, &(int64_t){0}))) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "tensor: values: expected a pointer, got NULL");
        return NULL;
    }
    bb_tensor *t = bb_tensor_new(ctx, ctx->device, dtype, &shape);
    if (!t || t->count == 0) return t;
    if (!values) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "tensor: values: expected a pointer, got NULL");
        return NULL;
    }
    bb_tensor h = host_header(ctx, values_dtype, &shape, values);
    return bb_copy_into(&h, t) == BB_OK ? t : NULL;
}

bb_tensor *bb_from(bb_context *ctx, bb_dtype dtype, bb_shape shape, const void *values) {
    return from(ctx, dtype, shape, values, values_of(dtype));
}
bb_tensor *bb_from_f64(bb_context *ctx, bb_dtype dtype, bb_shape shape, const double *values) {
    return from(ctx, dtype, shape, values, BB_F64);
}
bb_tensor *bb_scalar(bb_context *ctx, bb_dtype dtype, double value) {
    return bb_from_f64(ctx, dtype, BB_SCALAR, &value);
}

bb_status bb_copy_into(const bb_tensor *source, bb_tensor *target) {
    bb_context *ctx = target->ctx;
    if (target->count == 0) return BB_OK;
    bb_device device =
        target->device != BB_CPU ? (bb_device)target->device : (bb_device)source->device;
    bb_backend *backend = ctx->backend[device];
    return backend->copy(backend, source, target);
}

/* ---- Accessors ------------------------------------------------------------------------------- */

bb_context *bb_context_of(const bb_tensor *t) { return t ? t->ctx : NULL; }
bb_dtype bb_dtype_of(const bb_tensor *t) { return t ? (bb_dtype)t->dtype : BB_F32; }
bb_device bb_device_of(const bb_tensor *t) { return t ? (bb_device)t->device : BB_CPU; }
bb_shape bb_shape_of(const bb_tensor *t) { return t ? bb_shape_of_tensor(t) : (bb_shape){0, {0}}; }
int bb_rank(const bb_tensor *t) { return t ? t->rank : 0; }
int64_t bb_count(const bb_tensor *t) { return t ? t->count : 0; }
bool bb_is_contiguous(const bb_tensor *t) { return t && t->contiguous; }

static int axis_of(const bb_tensor *t, int axis) {
    if (!t || axis < -t->rank || axis >= t->rank) return -1;
    return axis < 0 ? axis + t->rank : axis;
}
int64_t bb_size(const bb_tensor *t, int axis) {
    int a = axis_of(t, axis);
    return a < 0 ? -1 : t->size[a];
}
int64_t bb_stride(const bb_tensor *t, int axis) {
    int a = axis_of(t, axis);
    return a < 0 ? -1 : t->stride[a];
}
void *bb_data(const bb_tensor *t) {
    return t && t->storage && t->device == BB_CPU && t->count ? t->data : NULL;
}

/* ---- Reading and writing --------------------------------------------------------------------- */

static bb_status transfer_check(bb_tensor *t, const char *call, const void *values, size_t bytes,
                                size_t expected) {
    if (t->ctx->status) return t->ctx->status;
    if (!bb_tensor_usable(t)) return t->ctx->status;
    if (bb_refuse_in_capture(t->ctx, call, "values cannot go to or come from the host"))
        return t->ctx->status;
    if (bytes != expected)
        return bb_fail(t->ctx, BB_ERR_ARGUMENT, "%s: bytes: expected %zu, got %zu", call, expected,
                       bytes);
    if (!values && expected)
        return bb_fail(t->ctx, BB_ERR_ARGUMENT, "%s: values: expected a pointer, got NULL", call);
    return BB_OK;
}

static bb_status read_as(bb_tensor *t, bb_dtype dtype, void *values) {
    bb_shape shape = bb_shape_of_tensor(t);
    bb_tensor h = host_header(t->ctx, dtype, &shape, values);
    if (bb_tell_watch(t->ctx, "bb_read", t)) return t->ctx->status;
    bb_status status = bb_copy_into(t, &h);
    if (status == BB_OK && t->device != BB_CPU) {
        bb_backend *backend = t->ctx->backend[t->device];
        status = backend->synchronize(backend);
    }
    return status;
}

bb_status bb_read(bb_tensor *t, void *values, size_t bytes) {
    if (!t) return BB_ERR_ARGUMENT;
    bb_status status = transfer_check(t, "bb_read", values, bytes,
                                      (size_t)t->count * bb_dtype_bytes((bb_dtype)t->dtype));
    return status ? status : read_as(t, (bb_dtype)t->dtype, values);
}

bb_status bb_read_f64(bb_tensor *t, double *values, int64_t count) {
    if (!t) return BB_ERR_ARGUMENT;
    if (count != t->count)
        return t->ctx->status
                   ? t->ctx->status
                   : bb_fail(t->ctx, BB_ERR_ARGUMENT, "bb_read_f64: count: expected %lld, got %lld",
                             (long long)t->count, (long long)count);
    size_t bytes;
    if (!bb_checked_mul((size_t)count, sizeof *values, &bytes)) /* of expanded bytes */
        return bb_fail(t->ctx, BB_ERR_ARGUMENT,
                       "bb_read_f64: count: expected less than 2^61, got %lld", (long long)count);
    bb_status status = transfer_check(t, "bb_read_f64", values, bytes, bytes);
    return status ? status : read_as(t, BB_F64, values);
}

bb_status bb_write(bb_tensor *t, const void *values, size_t bytes) {
    if (!t) return BB_ERR_ARGUMENT;
    bb_status status = transfer_check(t, "bb_write", values, bytes,
                                      (size_t)t->count * bb_dtype_bytes((bb_dtype)t->dtype));
    if (status) return status;
    bb_shape shape = bb_shape_of_tensor(t);
    bb_tensor h = host_header(t->ctx, values_of((bb_dtype)t->dtype), &shape, values);
    status = bb_copy_into(&h, t);
    bb_tensor_changed(t);
    return status;
}

/* The address behind t's last byte. */
static uintptr_t end_of(const bb_tensor *t) {
    int64_t last = 0;
    for (int i = 0; i < t->rank; i++) last += (t->size[i] - 1) * t->stride[i];
    return (uintptr_t)t->data + ((size_t)last + 1) * bb_dtype_bytes((bb_dtype)t->dtype);
}

/* Whether the two may share bytes: storages of two imports (dlpack.c) can lie on the same ones. */
static bool overlap(const bb_tensor *a, const bb_tensor *b) {
    return a->count && b->count && a->device == b->device && (uintptr_t)a->data < end_of(b) &&
           (uintptr_t)b->data < end_of(a);
}

bb_status bb_assign(bb_tensor *target, bb_tensor *source) {
    bb_context *ctx = bb_context_of(target ? target : source);
    if (!ctx) return BB_ERR_ARGUMENT;
    if (ctx->status) return ctx->status;
    if (!target || !source)
        return bb_fail(ctx, BB_ERR_ARGUMENT, "bb_assign: %s: expected a tensor, got NULL",
                       target ? "source" : "target");
    if (source->ctx != ctx)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "bb_assign: source: expected a tensor of this context, got one of another");
    if (!bb_tensor_usable(target) || !bb_tensor_usable(source)) return ctx->status;
    bb_shape want = bb_shape_of_tensor(target), got = bb_shape_of_tensor(source);
    char a[BB_SHAPE_TEXT], b[BB_SHAPE_TEXT];
    if (!bb_shape_equal(&want, &got))
        return bb_fail(ctx, BB_ERR_ARGUMENT, "bb_assign: source: expected shape %s, got %s",
                       bb_shape_text(&want, a), bb_shape_text(&got, b));
    if (source->device != target->device &&
        bb_refuse_in_capture(ctx, "bb_assign", "values cannot go to or come from the host"))
        return ctx->status;
    for (int r = 0; r < ctx->recorder_count; r++)
        if (!ctx->recorder[r]->gradients_only)
            return bb_fail(ctx, BB_ERR_STATE,
                           "bb_assign: a graph is being recorded: expected ops, which it can run "
                           "again");
    if (bb_tell_watch(ctx, "bb_assign", source)) return ctx->status;
    bb_tensor *from = source;
    if (overlap(source, target)) {
        from = bb_tensor_new(ctx, (bb_device)source->device, (bb_dtype)source->dtype, &got);
        if (!from || bb_copy_into(source, from)) return ctx->status;
    }
    bb_status status = bb_copy_into(from, target);
    if (from != source) bb_drop(from);
    bb_tensor_changed(target);
    return status ? ctx->status : BB_OK;
}

double bb_item(bb_tensor *t) {
    double value = NAN;
    if (!t || t->ctx->status) return value;
    if (t->count != 1) {
        char text[BB_SHAPE_TEXT];
        bb_shape shape = bb_shape_of_tensor(t);
        bb_fail(t->ctx, BB_ERR_ARGUMENT, "bb_item: tensor: expected one element, got shape %s",
                bb_shape_text(&shape, text));
        return value;
    }
    return bb_read_f64(t, &value, 1) == BB_OK ? value : NAN;
}

/* ---- Gradient flags -------------------------------------------------------------------------- */

bb_tensor *bb_set_requires_grad(bb_tensor *t, bool on) {
    if (!t || t->ctx->status) return NULL;
    if (t->life == BB_LIFE_DROPPED || t->life == BB_LIFE_DEAD) {
        bb_tensor_usable(t);
        return NULL;
    }
    if (t->node >= 0) {
        bb_fail(t->ctx, BB_ERR_STATE,
                "bb_set_requires_grad: tensor: expected a leaf, got the result of an op (use "
                "bb_detach)");
        return NULL;
    }
    if (on && !bb_dtype_is_float((bb_dtype)t->dtype)) {
        bb_fail(t->ctx, BB_ERR_ARGUMENT,
                "bb_set_requires_grad: tensor: expected a floating dtype, got %s",
                bb_dtype_name((bb_dtype)t->dtype));
        return NULL;
    }
    t->requires_grad = on;
    return t;
}
bool bb_requires_grad(const bb_tensor *t) { return t && t->requires_grad; }
bb_tensor *bb_grad(bb_tensor *t) {
    return t && t->grad && t->grad->storage && !t->grad_empty ? t->grad : NULL;
}
bool bb_grad_enabled(const bb_context *ctx) { return ctx && ctx->grad_enabled; }
bool bb_set_grad_enabled(bb_context *ctx, bool on) {
    if (!ctx) return false;
    bool before = ctx->grad_enabled;
    ctx->grad_enabled = on;
    return before;
}
