/* Parameter sets: named handles first, then one block of values and one of gradients behind them
 * all. Layers add to a set; optimizers (adamw.c, sgd.c) and clip.c run over the blocks.
 *
 * Host memory of this folder has the context's lifetime because it is borrowed from the context:
 * each piece is the storage of a tensor of bytes. So nothing in nn needs a free function. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "nn/internal.h"

enum { ALIGN = 64 };

/* ---- Memory of the context's lifetime ------------------------------------------------------- */

void *bb_nn_allocate(bb_context *ctx, size_t bytes) {
    bb_shape shape = BB_SHAPE((int64_t)(bytes ? bytes : 1));
    bb_tensor *owner = ctx ? bb_tensor_context(ctx, BB_CPU, BB_U8, &shape) : NULL;
    return owner ? memset(owner->data, 0, (size_t)owner->count) : NULL;
}

void bb_nn_release(bb_context *ctx, void *block) {
    for (bb_tensor *t = ctx->context_tensors; t && block; t = t->next)
        if (t->data == block) {
            bb_tensor_free(t);
            return;
        }
}

bb_tensor *bb_nn_zeros(bb_context *ctx, bb_device device, bb_dtype dtype, int64_t count) {
    bb_shape shape = BB_SHAPE(count);
    bb_tensor *t = bb_tensor_context(ctx, device, dtype, &shape);
    if (t && count && ctx->backend[device]->fill(ctx->backend[device], t, 0)) {
        bb_tensor_free(t);
        return NULL;
    }
    return t;
}

bb_dtype bb_nn_state_dtype(const bb_params *params) {
    return params->dtype == BB_F64 ? BB_F64 : BB_F32;
}

bb_status bb_nn_write_number(bb_tensor *t, double value) {
    float narrow = (float)value;
    return bb_dtype_of(t) == BB_F64 ? bb_write(t, &value, sizeof value)
                                    : bb_write(t, &narrow, sizeof narrow);
}

bb_status bb_nn_write_lr(bb_tensor *t, double lr, const char *who) {
    if (t->ctx->status || (lr >= 0 && lr <= FLT_MAX))
        return t->ctx->status ? t->ctx->status : bb_nn_write_number(t, lr);
    return bb_fail(t->ctx, BB_ERR_ARGUMENT, "%s: lr: expected a finite number >= 0, got %g", who,
                   lr);
}

/* ---- Adding --------------------------------------------------------------------------------- */

bb_context *bb_nn_context(const bb_params *params) { return params ? params->ctx : NULL; }

bool bb_nn_given(bb_context *ctx, const void *given, const char *who, const char *argument) {
    if (!given && ctx)
        bb_fail(ctx, BB_ERR_ARGUMENT, "%s: %s: expected one, got NULL", who, argument);
    return given != NULL;
}

bb_params *bb_params_new(bb_context *ctx, bb_device device, bb_dtype dtype) {
    if (!ctx || ctx->status) return NULL;
    if (!bb_dtype_is_float(dtype)) {
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "bb_params_new: dtype: expected f64, f32, f16 or bf16, got %s",
                bb_dtype_name(dtype));
        return NULL;
    }
    const char *why = NULL;
    if ((unsigned)device >= BB_DEVICE_COUNT || !bb_device_available(ctx, device, &why)) {
        bb_fail(ctx, BB_ERR_ARGUMENT, "bb_params_new: device: %s", why ? why : "no such device");
        return NULL;
    }
    bb_params *params = bb_nn_allocate(ctx, sizeof *params);
    if (params) *params = (bb_params){.ctx = ctx, .device = device, .dtype = dtype};
    return params;
}

const char *bb_nn_join(bb_params *params, char out[BB_NAME_BYTES], const char *prefix,
                       const char *leaf) {
    bool alone = !prefix || !*prefix;
    int n = snprintf(out, BB_NAME_BYTES, "%s%s%s", alone ? "" : prefix, alone ? "" : ".", leaf);
    if (n >= BB_NAME_BYTES) {
        if (params)
            bb_fail(params->ctx, BB_ERR_ARGUMENT,
                    "parameter: name: expected fewer than %d bytes, got %d", BB_NAME_BYTES, n);
        out[0] = 0;
    }
    return out;
}

const char *bb_nn_layer_name(bb_params *params, const char *path) {
    if (!params || params->ctx->status || !path || !*path) return NULL;
    const char *dot = strrchr(path, '.'), *begin = dot ? dot + 1 : path;
    if (dot && begin[strspn(begin, "0123456789")] == 0) {
        /* A number alone says nothing: the name of the list comes with it. */
        while (dot > path && dot[-1] != '.') dot--;
        begin = dot;
    }
    size_t bytes = strlen(begin) + 1;
    char *name = bb_nn_allocate(params->ctx, bytes);
    return name ? memcpy(name, begin, bytes) : NULL;
}

void bb_nn_enter(bb_context *ctx, bb_module *here, const char *type, const char *name) {
    if (!ctx) return;
    if (name)
        bb_module_enter(ctx, here, type, name, -1);
    else
        here->outer = ctx->module;
}

static bool grow(bb_params *params) {
    int capacity = params->capacity ? 2 * params->capacity : 16;
    bb_param *row = bb_nn_allocate(params->ctx, (size_t)capacity * sizeof *row);
    if (!row) return false;
    if (params->count) memcpy(row, params->row, (size_t)params->count * sizeof *row);
    bb_nn_release(params->ctx, params->row);
    params->row = row;
    params->capacity = capacity;
    return true;
}

bb_tensor *bb_params_add(bb_params *params, const char *name, bb_shape shape, bb_init init,
                         double std) {
    if (!params || params->ctx->status) return NULL;
    bb_context *ctx = params->ctx;
    size_t length = name ? strlen(name) : 0, bytes;
    char text[BB_SHAPE_TEXT];
    if (length == 0 || length >= BB_NAME_BYTES)
        bb_fail(ctx, BB_ERR_ARGUMENT, "bb_params_add: name: expected 1 to %d bytes, got %zu",
                BB_NAME_BYTES - 1, length);
    else if (params->built)
        bb_fail(ctx, BB_ERR_STATE, "bb_params_add: %s: expected a set that is not built yet", name);
    else if (bb_params_find(params, name))
        bb_fail(ctx, BB_ERR_ARGUMENT, "bb_params_add: name: expected a new one, got %s again",
                name);
    else if ((unsigned)init > BB_INIT_NORMAL)
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "bb_params_add: %s: init: expected BB_INIT_ZEROS, _ONES or _NORMAL, got %d", name,
                (int)init);
    else if (init == BB_INIT_NORMAL && !(std >= 0 && isfinite(std)))
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "bb_params_add: %s: std: expected a finite number >= 0, got %g", name, std);
    else if (!bb_shape_bytes(&shape, params->dtype, &bytes) || bytes > (size_t)1 << 40)
        bb_fail(ctx, BB_ERR_ARGUMENT,
                "bb_params_add: %s: expected a shape of 0 to 2^40 bytes, got %s", name,
                bb_shape_text(&shape, text));
    if (ctx->status || (params->count == params->capacity && !grow(params))) return NULL;
    bb_tensor *t = bb_tensor_header(ctx, params->dtype, &shape, BB_LIFE_CONTEXT);
    if (!t) return NULL;
    bb_param *p = &params->row[params->count++];
    *p = (bb_param){.tensor = t, .init = init, .std = std};
    memcpy(p->name, name, length + 1);
    return t;
}

bb_tensor *bb_nn_add(bb_params *params, const char *prefix, const char *leaf, bb_shape shape,
                     bb_init init, double std) {
    char name[BB_NAME_BYTES];
    return params ? bb_params_add(params, bb_nn_join(params, name, prefix, leaf), shape, init, std)
                  : NULL;
}

/* ---- Building ------------------------------------------------------------------------------- */

static bool decays(const bb_param *p) { return p->tensor->rank >= 2 && p->init == BB_INIT_NORMAL; }

/* A parameter's share of the blocks, in elements: whole cache lines. */
static int64_t padded(const bb_params *params, const bb_param *p) {
    int64_t line = ALIGN / (int64_t)bb_dtype_bytes(params->dtype);
    return (p->tensor->count + line - 1) / line * line;
}

static bool allocate_blocks(bb_params *params) {
    bb_context *ctx = params->ctx;
    int64_t total = 0;
    params->decayed = 0;
    for (int i = 0; i < params->count; i++) {
        total += padded(params, &params->row[i]);
        if (decays(&params->row[i])) params->decayed += padded(params, &params->row[i]);
    }
    if (!params->values) params->values = bb_nn_zeros(ctx, params->device, params->dtype, total);
    if (!params->grads) params->grads = bb_nn_zeros(ctx, params->device, params->dtype, total);
    if (!params->grad_scale)
        params->grad_scale = bb_nn_zeros(ctx, params->device, bb_nn_state_dtype(params), 1);
    if (!params->grad_norm)
        params->grad_norm = bb_nn_zeros(ctx, params->device, bb_nn_state_dtype(params), 1);
    for (int i = 0; i < params->count; i++) {
        bb_tensor *t = params->row[i].tensor;
        bb_shape shape = bb_shape_of_tensor(t);
        if (!t->grad) t->grad = bb_tensor_header(ctx, params->dtype, &shape, BB_LIFE_CONTEXT);
        if (!t->grad) return false;
    }
    return params->values && params->grads && params->grad_scale && params->grad_norm;
}

static void attach(bb_tensor *t, bb_tensor *block, int64_t offset) {
    if (!t->storage)
        bb_tensor_attach(t, bb_storage_ref(block->storage),
                         (size_t)offset * bb_dtype_bytes((bb_dtype)t->dtype));
}

static void place(bb_params *params) {
    int64_t offset = 0;
    for (int part = 0; part < 2; part++)
        for (int i = 0; i < params->count; i++) {
            bb_tensor *t = params->row[i].tensor;
            if (decays(&params->row[i]) != (part == 0)) continue;
            attach(t, params->values, offset);
            attach(t->grad, params->grads, offset);
            t->grad->storage->gradient = true;
            t->requires_grad = t->grad_empty = true;
            offset += padded(params, &params->row[i]);
        }
}

/* Drawn in f32 (f64 for f64) on the host and rounded once, so that every device starts the same. */
static bool draw(const bb_param *p) {
    bb_tensor *t = p->tensor;
    bb_context *ctx = t->ctx;
    if (t->count == 0 || p->init == BB_INIT_ZEROS) return true;
    if (p->init == BB_INIT_ONES)
        return ctx->backend[t->device]->fill(ctx->backend[t->device], t, 1) == BB_OK;
    bb_scope scope = bb_scope_begin(ctx);
    bb_tensor *x = bb_randn(ctx, t->dtype == BB_F64 ? BB_F64 : BB_F32, bb_shape_of_tensor(t));
    x = bb_mul_scalar(x, p->std);
    bool ok = x && bb_copy_into(x, t) == BB_OK;
    bb_scope_end(ctx, scope, NULL);
    return ok;
}

/* Each stage keeps what it has done, so building again after a failure goes on from there. */
bb_status bb_params_build(bb_params *params) {
    if (!params) return BB_ERR_ARGUMENT;
    bb_context *ctx = params->ctx;
    if (ctx->status || params->built) return ctx->status;
    if (!allocate_blocks(params)) return ctx->status;
    place(params);
    for (int i = 0; i < params->count; i++)
        if (!draw(&params->row[i])) return ctx->status;
    params->built = true;
    return BB_OK;
}

bb_status bb_nn_reset(bb_params *params, bb_tensor *t) {
    bb_context *ctx = params->ctx;
    for (int i = 0; i < params->count; i++) {
        const bb_param *p = &params->row[i];
        if (p->tensor != t) continue;
        bb_backend *backend = ctx->backend[t->device];
        if (p->init == BB_INIT_ZEROS && t->count && backend->fill(backend, t, 0))
            return ctx->status;
        if (draw(p)) bb_tensor_changed(t);
        return ctx->status;
    }
    return bb_fail(ctx, BB_ERR_ARGUMENT, "reset: parameter: expected one of its set");
}

/* ---- Looking -------------------------------------------------------------------------------- */

int bb_params_count(const bb_params *params) { return params ? params->count : 0; }
int64_t bb_params_elements(const bb_params *params) {
    int64_t n = 0;
    for (int i = 0; i < bb_params_count(params); i++) n += params->row[i].tensor->count;
    return n;
}
bb_tensor *bb_params_at(const bb_params *params, int index) {
    return index >= 0 && index < bb_params_count(params) ? params->row[index].tensor : NULL;
}
const char *bb_params_name(const bb_params *params, int index) {
    return index >= 0 && index < bb_params_count(params) ? params->row[index].name : NULL;
}
bb_tensor *bb_params_find(const bb_params *params, const char *name) {
    for (int i = 0; name && i < bb_params_count(params); i++)
        if (strcmp(params->row[i].name, name) == 0) return params->row[i].tensor;
    return NULL;
}
bb_tensor *bb_params_values(const bb_params *params) {
    return params && params->built ? params->values : NULL;
}
bb_tensor *bb_params_grads(const bb_params *params) {
    return params && params->built ? params->grads : NULL;
}
int64_t bb_params_decayed(const bb_params *params) {
    return params && params->built ? params->decayed : 0;
}

const bb_named *bb_params_list(const bb_params *params, int *count) {
    if (count) *count = 0;
    if (!params || params->ctx->status) return NULL;
    bb_context *ctx = params->ctx;
    bb_named *list =
        bb_arena_allocate(ctx, &ctx->arena, ((size_t)params->count + 1) * sizeof *list);
    if (!list) return NULL;
    for (int i = 0; i < params->count; i++)
        list[i] = (bb_named){params->row[i].name, params->row[i].tensor};
    if (count) *count = params->count;
    return list;
}

/* ---- Gradients ------------------------------------------------------------------------------ */

/* A gradient that was dropped (bb_drop) has its place in the block again, and holds nothing. */
static void replace_dropped(bb_params *params) {
    for (int i = 0; i < params->count && params->built; i++) {
        bb_tensor *t = params->row[i].tensor;
        if (t->grad->storage || !t->storage || !params->grads->storage) continue;
        size_t offset = (size_t)(t->data - params->values->data);
        bb_tensor_revive(t->grad, bb_storage_ref(params->grads->storage), offset);
        t->grad_empty = true;
    }
}

void bb_params_zero_grad(bb_params *params) {
    for (int i = 0; i < bb_params_count(params); i++) params->row[i].tensor->grad_empty = true;
    if (!params) return;
    params->clipped = false;
    replace_dropped(params);
}

bb_status bb_params_settle(bb_params *params, const char *who) {
    bb_context *ctx = params->ctx;
    int written = 0;
    if (ctx->status) return ctx->status;
    replace_dropped(params);
    for (int i = 0; i < params->count; i++) written += bb_grad(params->row[i].tensor) != NULL;
    if (written == 0 || !params->built)
        return bb_fail(ctx, BB_ERR_STATE, "%s: gradients: expected a bb_backward before, got none",
                       who);
    bb_backend *backend = ctx->backend[params->device];
    for (int i = 0; i < params->count && written < params->count; i++) {
        bb_tensor *t = params->row[i].tensor;
        if (!bb_tensor_usable(t->grad)) return ctx->status; /* its parameter was dropped too */
        if (t->grad_empty && t->count && backend->fill(backend, t->grad, 0)) return ctx->status;
    }
    return BB_OK;
}

bb_tensor *bb_params_span(bb_params *params, bb_tensor *block, int part) {
    int64_t begin = part == 0 ? 0 : params->decayed,
            end = part == 0 ? params->decayed : block->count;
    bb_shape shape = BB_SHAPE(end - begin);
    return end > begin ? bb_tensor_view(block, &shape, (const int64_t[]){1}, begin) : NULL;
}
