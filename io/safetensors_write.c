/* Writing safetensors files, as the reference does: larger elements first, then by name, the header
 * padded with spaces so that the data begins at a multiple of 8. Read by io/safetensors.c; the
 * manual is io/io.h. */
#include "core/impl.h"
#include "io/internal.h"

#include <string.h>

static bool name_less(const void *user, uint64_t a, uint64_t b) {
    const bb_named *tensors = user;
    if (a >> 32 != b >> 32) return a < b;
    return strcmp(tensors[(uint32_t)a].name, tensors[(uint32_t)b].name) < 0;
}

static bool file_less(const void *user, uint64_t a, uint64_t b) {
    const bb_named *tensors = user;
    size_t x = bb_dtype_bytes(bb_dtype_of(tensors[a].tensor)),
           y = bb_dtype_bytes(bb_dtype_of(tensors[b].tensor));
    return x != y ? x > y : strcmp(tensors[a].name, tensors[b].name) < 0;
}

static bb_status check_distinct(bb_context *ctx, const char *call, const bb_named *tensors,
                                int64_t count) {
    size_t bytes = (size_t)count * sizeof(uint64_t);
    uint64_t *order = bb_host_allocate(ctx, bytes);
    if (!order) return bb_error(ctx);
    for (int64_t i = 0; i < count; i++) {
        const char *name = tensors[i].name;
        order[i] = (uint64_t)bb_hash(BB_HASH_START, name, strlen(name)) << 32 | (uint64_t)i;
    }
    bb_heap_sort(order, (size_t)count, name_less, tensors);
    const char *twice = NULL;
    for (int64_t i = 1; i < count && !twice; i++)
        if (!name_less(tensors, order[i - 1], order[i])) twice = tensors[(uint32_t)order[i]].name;
    bb_host_release(ctx, order, bytes);
    return twice ? bb_fail(ctx, BB_ERR_ARGUMENT,
                           "%s: tensors: expected each name once, got '%s' twice", call, twice)
                 : BB_OK;
}

bb_status bb_check_named(bb_context *ctx, const char *call, const bb_named *tensors,
                         int64_t count) {
    if (bb_error(ctx)) return bb_error(ctx);
    if (count < 0 || count > INT32_MAX || (count > 0 && !tensors))
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "%s: tensors: expected a list of tensors, got %lld at %s", call,
                       (long long)count, tensors ? "an address" : "NULL");
    for (int64_t i = 0; i < count; i++) {
        if (!tensors[i].name || !tensors[i].tensor)
            return bb_fail(ctx, BB_ERR_ARGUMENT,
                           "%s: tensors: expected names and tensors, got NULL in row %lld", call,
                           (long long)i);
        if (bb_context_of(tensors[i].tensor) != ctx)
            return bb_fail(ctx, BB_ERR_ARGUMENT, "%s: tensors: '%s' belongs to another context",
                           call, tensors[i].name);
        if (strcmp(tensors[i].name, "__metadata__") == 0)
            return bb_fail(ctx, BB_ERR_ARGUMENT,
                           "%s: tensors: the name '__metadata__' is taken by the format", call);
        if (!bb_tensor_usable(tensors[i].tensor)) return bb_error(ctx);
    }
    return check_distinct(ctx, call, tensors, count);
}

/* The JSON of the header; its keys and texts are checked by the writer. */
static bb_status put_header(bb_json_writer *w, const bb_named *tensors, const uint64_t *order,
                            int64_t count, const bb_text *metadata, int64_t metadata_count) {
    size_t at = 0;
    bb_json_begin_object(w);
    if (metadata_count > 0) {
        bb_json_key(w, "__metadata__");
        bb_json_begin_object(w);
        for (int64_t i = 0; i < metadata_count; i++) {
            bb_json_key(w, metadata[i].key);
            bb_json_put_string(w, metadata[i].value);
        }
        bb_json_end_object(w);
    }
    for (int64_t i = 0; i < count; i++) {
        const bb_named *row = &tensors[order[i]];
        bb_shape shape = bb_shape_of(row->tensor);
        bb_json_key(w, row->name);
        bb_json_begin_object(w);
        bb_json_key(w, "dtype");
        bb_json_put_string(w, bb_safetensors_dtype(bb_dtype_of(row->tensor)));
        bb_json_key(w, "shape");
        bb_json_begin_array(w);
        for (int axis = 0; axis < shape.rank; axis++) bb_json_put_int(w, shape.size[axis]);
        bb_json_end_array(w);
        bb_json_key(w, "data_offsets");
        bb_json_begin_array(w);
        bb_json_put_int(w, (int64_t)at);
        at += (size_t)bb_count(row->tensor) *
              bb_dtype_bytes(bb_dtype_of(row->tensor)); /* in memory: cannot wrap */
        bb_json_put_int(w, (int64_t)at);
        bb_json_end_array(w);
        bb_json_end_object(w);
    }
    bb_json_end_object(w);
    return w->failed ? bb_error(w->ctx) : BB_OK;
}

/* Contiguous values on the host go straight to the file; others through a copy. */
bb_status bb_writer_put_tensor(bb_writer *w, bb_tensor *t) {
    size_t bytes = (size_t)t->count * bb_dtype_bytes((bb_dtype)t->dtype);
    if (bytes == 0) return BB_OK;
    if (t->contiguous && t->device == BB_CPU) return bb_writer_add(w, t->data, bytes);
    void *values = bb_host_allocate(t->ctx, bytes);
    if (!values) return bb_error(t->ctx);
    bb_status status = bb_read(t, values, bytes);
    if (status == BB_OK) status = bb_writer_add(w, values, bytes);
    bb_host_release(t->ctx, values, bytes);
    return status;
}

static bb_status put_file(bb_writer *w, const bb_json_writer *header, const bb_named *tensors,
                          const uint64_t *order, int64_t count) {
    unsigned char length[8];
    size_t padding = (8 - header->bytes % 8) % 8, n = header->bytes + padding;
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)(n >> 8 * i);
    bb_writer_add(w, length, 8);
    bb_writer_add(w, header->text, header->bytes);
    bb_status status = bb_writer_add(w, "       ", padding);
    for (int64_t i = 0; i < count && status == BB_OK; i++)
        status = bb_writer_put_tensor(w, tensors[order[i]].tensor);
    return status;
}

/* Metadata are few: a square of comparisons. */
static bb_status check_metadata(bb_context *ctx, const bb_text *metadata, int64_t count) {
    if (count < 0 || (count > 0 && !metadata))
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "bb_safetensors_save: metadata: expected a list of texts, got %lld at %s",
                       (long long)count, metadata ? "an address" : "NULL");
    for (int64_t i = 0; i < count; i++) {
        if (!metadata[i].key || !metadata[i].value)
            return bb_fail(ctx, BB_ERR_ARGUMENT,
                           "bb_safetensors_save: metadata: expected texts, got NULL in row %lld",
                           (long long)i);
        for (int64_t j = 0; j < i; j++)
            if (strcmp(metadata[i].key, metadata[j].key) == 0)
                return bb_fail(
                    ctx, BB_ERR_ARGUMENT,
                    "bb_safetensors_save: metadata: expected each key once, got '%s' twice",
                    metadata[i].key);
    }
    return BB_OK;
}

bb_status bb_safetensors_save(bb_context *ctx, const char *path, const bb_named *tensors,
                              int64_t count, const bb_text *metadata, int64_t metadata_count,
                              const bb_file_calls *calls) {
    bb_status status = bb_check_named(ctx, "bb_safetensors_save", tensors, count);
    if (status == BB_OK) status = check_metadata(ctx, metadata, metadata_count);
    if (status != BB_OK) return status;
    size_t bytes = (size_t)count * sizeof(uint64_t);
    uint64_t *order = bb_host_allocate(ctx, bytes);
    if (!order) return bb_error(ctx);
    for (int64_t i = 0; i < count; i++) order[i] = (uint64_t)i;
    bb_heap_sort(order, (size_t)count, file_less, tensors);

    bb_json_writer header;
    bb_json_open(&header, ctx, 0);
    status = put_header(&header, tensors, order, count, metadata, metadata_count);
    if (status == BB_OK && header.bytes > 100000000 - 8)
        status =
            bb_fail(ctx, BB_ERR_UNSUPPORTED,
                    "%s: header: expected at most 100000000 bytes, got %zu", path, header.bytes);
    bb_writer *w = status == BB_OK ? bb_writer_open(ctx, path, calls) : NULL;
    if (w) {
        status = put_file(w, &header, tensors, order, count);
        if (status == BB_OK)
            status = bb_writer_commit(w);
        else
            bb_writer_abandon(w);
    } else {
        status = bb_error(ctx);
    }
    bb_json_close(&header);
    bb_host_release(ctx, order, bytes);
    return status;
}
