/* Reading safetensors files: 8 bytes header length N (little-endian), N bytes of JSON, then the
 * tensors' bytes.
 *
 *     {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
 *      "__metadata__": {"key": "text"}}
 *
 * Offsets count from the end of the header; sorted, they must cover the rest of the file without
 * hole or overlap. Everything is checked when the file is opened. Written by
 * io/safetensors_write.c; the manual is io/io.h. */
#include "core/impl.h"
#include "io/internal.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors files are little-endian");

enum { MAX_HEADER = 100000000 }; /* the reference's limit */

/* Small, because a header of 50 bytes a tensor may hold millions. */
typedef struct entry {
    uint64_t begin, end; /* of its bytes in the data */
    const char *name;
    uint32_t dims; /* index of its first size */
    uint8_t dtype, rank;
} entry;

/* Of a metadata text: where in the texts its key and value begin. */
typedef struct place {
    uint32_t key, value;
} place;

struct bb_safetensors {
    bb_context *ctx;
    bb_file file;
    const char *path, *data;
    uint64_t data_bytes;
    size_t block_bytes; /* of this struct and all that follows, one block */
    entry *entries;     /* in the order of the header */
    uint64_t *order;    /* hash of the name << 32 | index, sorted */
    place *metadata;
    int64_t *dims;
    char *text; /* begins with the path */
    /* What is filled. The header is read twice: once to check all of it and to count, with no room
     * at all (the pointers above are NULL), so that a file that is wrong costs no memory; then to
     * store it. */
    int64_t count;
    int metadata_count;
    size_t dims_used, text_used;
};

static const char *const dtype_codes[BB_DTYPE_COUNT] = {"F64", "F32", "F16", "BF16",
                                                        "I64", "I32", "U8",  "BOOL"};
static const char *const other_codes[] = {"I8",      "I16",     "U16",     "U32",
                                          "U64",     "C64",     "F4",      "F6_E2M3",
                                          "F6_E3M2", "F8_E5M2", "F8_E4M3", "F8_E8M0"};

const char *bb_safetensors_dtype(bb_dtype dtype) { return dtype_codes[dtype]; }

/* "FILE: tensor 'NAME': WHAT: expected EXPECTED, got 'VALUE'" */
static bb_status wrong(const bb_safetensors *f, bb_json name, const char *what,
                       const char *expected, bb_json value) {
    char quoted[BB_QUOTE_BYTES], got[BB_QUOTE_BYTES];
    size_t n = (size_t)(name.end - name.at);
    return bb_fail(f->ctx, BB_ERR_FORMAT, "%s: tensor %s: %s: expected %s, got %s", f->path,
                   bb_quote(name.at + 1, n - 2, quoted), what, expected,
                   value.at ? bb_quote(value.at, (size_t)(value.end - value.at), got) : "nothing");
}

/* Unescapes a string into the texts; *at gets where. False: it holds a zero character, which a C
 * string cannot. */
static bool take_text(bb_safetensors *f, bb_json value, size_t *at) {
    uint32_t code = 1;
    for (const char *p = value.at + 1; code && p < value.end - 1;)
        p += bb_json_character(p, value.end - 1, &code);
    size_t room = f->text ? (size_t)(value.end - value.at) : 0;
    *at = f->text_used;
    f->text_used += 1 + bb_json_string(value, f->text ? f->text + *at : NULL, room);
    return code != 0;
}

static bb_status read_dtype(const bb_safetensors *f, bb_json name, bb_json value, entry *e) {
    char quoted[BB_QUOTE_BYTES];
    for (int i = 0; i < BB_DTYPE_COUNT; i++) {
        if (!bb_json_equals(value, dtype_codes[i])) continue;
        e->dtype = (uint8_t)i;
        return BB_OK;
    }
    for (size_t i = 0; i < sizeof other_codes / sizeof other_codes[0]; i++)
        if (bb_json_equals(value, other_codes[i]))
            return bb_fail(f->ctx, BB_ERR_UNSUPPORTED,
                           "%s: tensor %s: unsupported dtype %s, expected F64, F32, F16, BF16, "
                           "I64, I32, U8 or BOOL",
                           f->path, bb_quote(name.at + 1, (size_t)(name.end - name.at) - 2, quoted),
                           other_codes[i]);
    return wrong(f, name, "dtype", "a dtype such as \"F32\"", value);
}

static bb_status read_shape(const bb_safetensors *f, bb_json name, bb_json value, bb_shape *shape) {
    if (bb_json_kind_of(value) != BB_JSON_ARRAY) return wrong(f, name, "shape", "an array", value);
    for (bb_json_walk w = bb_json_begin(value); bb_json_next(&w); shape->rank++) {
        if (shape->rank == BB_MAX_RANK) {
            char quoted[BB_QUOTE_BYTES];
            return bb_fail(f->ctx, BB_ERR_UNSUPPORTED,
                           "%s: tensor %s: shape: expected at most %d axes, got more", f->path,
                           bb_quote(name.at + 1, (size_t)(name.end - name.at) - 2, quoted),
                           BB_MAX_RANK);
        }
        if (!bb_json_int(w.value, 0, INT64_MAX, &shape->size[shape->rank]))
            return wrong(f, name, "shape", "sizes >= 0 below 2^63", w.value);
    }
    return BB_OK;
}

static bb_status read_offsets(const bb_safetensors *f, bb_json name, bb_json value, entry *e) {
    int64_t offset[2] = {0, 0};
    int n = 0;
    for (bb_json_walk w = bb_json_begin(value); bb_json_next(&w); n++)
        if (w.object || n >= 2 || !bb_json_int(w.value, 0, (int64_t)f->data_bytes, &offset[n]))
            return wrong(f, name, "data_offsets", "two offsets within the file's data", value);
    if (n != 2 || offset[0] > offset[1])
        return wrong(f, name, "data_offsets", "[begin, end] with begin <= end", value);
    e->begin = (uint64_t)offset[0];
    e->end = (uint64_t)offset[1];
    return BB_OK;
}

static bb_shape shape_of(const bb_safetensors *f, const entry *e) {
    bb_shape shape = {e->rank, {0}};
    for (int i = 0; i < e->rank; i++) shape.size[i] = f->dims[e->dims + (uint32_t)i];
    return shape;
}

/* Other keys are ignored, as the reference does. */
static bb_status read_entry(bb_safetensors *f, bb_json name, bb_json value, entry *e) {
    bb_json dtype = {NULL, NULL}, shape = {NULL, NULL}, offsets = {NULL, NULL};
    bb_shape sizes = {0, {0}};
    size_t bytes = 0, at = 0;
    if (bb_json_kind_of(value) != BB_JSON_OBJECT)
        return wrong(f, name, "entry", "an object", value);
    for (bb_json_walk w = bb_json_begin(value); bb_json_next(&w);) {
        if (bb_json_equals(w.key, "dtype")) dtype = w.value;
        if (bb_json_equals(w.key, "shape")) shape = w.value;
        if (bb_json_equals(w.key, "data_offsets")) offsets = w.value;
    }
    if (!dtype.at) return wrong(f, name, "dtype", "a string", dtype);
    if (!shape.at) return wrong(f, name, "shape", "an array", shape);
    if (!offsets.at) return wrong(f, name, "data_offsets", "an array", offsets);
    bb_status status = read_dtype(f, name, dtype, e);
    if (status == BB_OK) status = read_shape(f, name, shape, &sizes);
    if (status == BB_OK) status = read_offsets(f, name, offsets, e);
    if (status != BB_OK) return status;
    if (!bb_shape_bytes(&sizes, (bb_dtype)e->dtype, &bytes))
        return wrong(f, name, "shape", "a size in bytes below 2^63", shape);
    if (bytes != e->end - e->begin)
        return wrong(f, name, "data_offsets", "as many bytes as dtype and shape make", offsets);
    if (!take_text(f, name, &at)) return wrong(f, name, "name", "no zero characters", name);
    e->rank = (uint8_t)sizes.rank;
    e->dims = (uint32_t)f->dims_used;
    f->dims_used += (size_t)sizes.rank;
    if (!f->entries) return BB_OK;
    e->name = f->text + at;
    memcpy(f->dims + e->dims, sizes.size, (size_t)sizes.rank * sizeof *sizes.size);
    return BB_OK;
}

static bb_status read_metadata(bb_safetensors *f, bb_json value) {
    char got[BB_QUOTE_BYTES];
    for (bb_json_walk w = bb_json_begin(value); bb_json_next(&w);) {
        size_t key = 0, text = 0;
        bool strings = w.object && bb_json_kind_of(w.value) == BB_JSON_STRING;
        if (!strings || !take_text(f, w.key, &key) || !take_text(f, w.value, &text))
            return bb_fail(f->ctx, BB_ERR_FORMAT,
                           "%s: __metadata__: expected strings without zero characters, got %s",
                           f->path, bb_quote(w.value.at, (size_t)(w.value.end - w.value.at), got));
        if (f->metadata) f->metadata[f->metadata_count] = (place){(uint32_t)key, (uint32_t)text};
        f->metadata_count++;
    }
    if (bb_json_kind_of(value) != BB_JSON_OBJECT)
        return bb_fail(f->ctx, BB_ERR_FORMAT, "%s: __metadata__: expected an object, got %s",
                       f->path, bb_quote(value.at, (size_t)(value.end - value.at), got));
    return BB_OK;
}

/* ---- Order */

static bool offset_less(const void *user, uint64_t a, uint64_t b) {
    const entry *x = (const entry *)user + a, *y = (const entry *)user + b;
    return x->begin != y->begin ? x->begin < y->begin : x->end < y->end;
}

static bool name_less(const void *user, uint64_t a, uint64_t b) {
    const entry *entries = user;
    if (a >> 32 != b >> 32) return a < b;
    return strcmp(entries[(uint32_t)a].name, entries[(uint32_t)b].name) < 0;
}

static bb_status check_cover(const bb_safetensors *f) {
    char quoted[BB_QUOTE_BYTES];
    bool sorted = true; /* as most files are */
    for (int64_t i = 0; i < f->count; i++) {
        f->order[i] = (uint64_t)i;
        if (i > 0 && offset_less(f->entries, (uint64_t)i, (uint64_t)i - 1)) sorted = false;
    }
    if (!sorted) bb_heap_sort(f->order, (size_t)f->count, offset_less, f->entries);
    uint64_t at = 0;
    for (int64_t i = 0; i < f->count; i++) {
        const entry *e = &f->entries[f->order[i]];
        if (e->begin != at)
            return bb_fail(f->ctx, BB_ERR_FORMAT,
                           "%s: tensor %s: data_offsets: expected to begin at %llu, got %llu (%s)",
                           f->path, bb_quote(e->name, strlen(e->name), quoted),
                           (unsigned long long)at, (unsigned long long)e->begin,
                           e->begin < at ? "an overlap" : "a hole");
        at = e->end;
    }
    if (at != f->data_bytes)
        return bb_fail(f->ctx, BB_ERR_FORMAT, "%s: expected %llu bytes of data, got %llu", f->path,
                       (unsigned long long)at, (unsigned long long)f->data_bytes);
    return BB_OK;
}

static void sort_names(bb_safetensors *f) {
    for (int64_t i = 0; i < f->count; i++) {
        const char *name = f->entries[i].name;
        f->order[i] = (uint64_t)bb_hash(BB_HASH_START, name, strlen(name)) << 32 | (uint64_t)i;
    }
    bb_heap_sort(f->order, (size_t)f->count, name_less, f->entries);
}

/* ---- Opening */

static bb_status read_entries(bb_safetensors *f, bb_json root) {
    bb_status status = BB_OK;
    for (bb_json_walk w = bb_json_begin(root); status == BB_OK && bb_json_next(&w);) {
        if (bb_json_equals(w.key, "__metadata__")) {
            status = read_metadata(f, w.value);
            continue;
        }
        entry e = {0};
        status = read_entry(f, w.key, w.value, &e);
        if (f->entries) f->entries[f->count] = e;
        f->count++;
    }
    return status;
}

/* A file with room for what `counted` has counted. All of it comes from a header of at most 100 MB,
 * and the path: the sum cannot wrap. */
static bb_safetensors *allocate(const bb_safetensors *counted) {
    size_t tensors = (size_t)counted->count, metadata = (size_t)counted->metadata_count,
           path_bytes = strlen(counted->path) + 1;
    size_t bytes = sizeof(bb_safetensors) + tensors * (sizeof(entry) + sizeof(uint64_t)) +
                   metadata * sizeof(place) + counted->dims_used * sizeof(int64_t) +
                   counted->text_used + path_bytes;
    bb_safetensors *f = bb_host_allocate(counted->ctx, bytes);
    if (!f) return NULL;
    memset(f, 0, bytes);
    f->ctx = counted->ctx;
    f->file = counted->file;
    f->data = counted->data;
    f->data_bytes = counted->data_bytes;
    f->block_bytes = bytes;
    f->entries = (entry *)(void *)(f + 1);
    f->order = (uint64_t *)(void *)(f->entries + tensors);
    f->dims = (int64_t *)(void *)(f->order + tensors);
    f->metadata = (place *)(void *)(f->dims + counted->dims_used);
    f->text = (char *)(f->metadata + metadata);
    memcpy(f->text, counted->path, path_bytes);
    f->path = f->text;
    f->text_used = path_bytes;
    return f;
}

/* Finds the header in the file. */
static bb_status find_header(bb_context *ctx, const char *path, const bb_file *file, bb_json *root,
                             size_t *data) {
    if (!bb_file_has(file, 0, 8))
        return bb_fail(ctx, BB_ERR_FORMAT,
                       "%s: expected a safetensors file of at least 8 bytes, got %zu", path,
                       file->bytes);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | (unsigned char)file->data[i];
    if (n > MAX_HEADER)
        return bb_fail(ctx, BB_ERR_FORMAT, "%s: header: expected at most %d bytes, got %llu", path,
                       MAX_HEADER, (unsigned long long)n);
    if (!bb_file_has(file, 8, (size_t)n))
        return bb_fail(ctx, BB_ERR_FORMAT,
                       "%s: header: expected %llu bytes, got %zu before the end of the file", path,
                       (unsigned long long)n, file->bytes - 8);
    if (n == 0 || file->data[8] != '{')
        return bb_fail(ctx, BB_ERR_FORMAT, "%s: header: expected to begin with '{', got %s", path,
                       n ? "another character" : "no header");
    *data = 8 + (size_t)n;
    return bb_json_parse(ctx, path, file->data + 8, (size_t)n, root);
}

bb_safetensors *bb_safetensors_open(bb_context *ctx, const char *path) {
    bb_safetensors counted = {.ctx = ctx, .path = path}, *f = NULL;
    bb_json root;
    size_t data = 0;
    if (bb_file_map(ctx, path, &counted.file) != BB_OK) return NULL;
    if (find_header(ctx, path, &counted.file, &root, &data) == BB_OK) {
        counted.data = counted.file.data + data;
        counted.data_bytes = counted.file.bytes - data;
        if (read_entries(&counted, root) == BB_OK) f = allocate(&counted);
    }
    if (!f) {
        bb_file_unmap(&counted.file);
        return NULL;
    }
    if (read_entries(f, root) == BB_OK && check_cover(f) == BB_OK) {
        sort_names(f);
        return f;
    }
    bb_safetensors_close(f);
    return NULL;
}

void bb_safetensors_close(bb_safetensors *file) {
    if (!file) return;
    bb_file_unmap(&file->file);
    bb_host_release(file->ctx, file, file->block_bytes);
}

/* ---- What is in it */

const char *bb_safetensors_path(const bb_safetensors *file) { return file ? file->path : NULL; }
int64_t bb_safetensors_count(const bb_safetensors *file) { return file ? file->count : 0; }
int bb_safetensors_metadata_count(const bb_safetensors *file) {
    return file ? file->metadata_count : 0;
}
bb_context *bb_safetensors_context(const bb_safetensors *file) { return file->ctx; }

bb_text bb_safetensors_metadata_at(const bb_safetensors *file, int index) {
    if (index < 0 || index >= bb_safetensors_metadata_count(file)) return (bb_text){0};
    const place *p = &file->metadata[index];
    return (bb_text){file->text + p->key, file->text + p->value};
}

const char *bb_safetensors_metadata(const bb_safetensors *file, const char *key) {
    for (int i = 0; key && i < bb_safetensors_metadata_count(file); i++)
        if (strcmp(file->text + file->metadata[i].key, key) == 0)
            return file->text + file->metadata[i].value;
    return NULL;
}

bb_stored bb_safetensors_at(const bb_safetensors *file, int64_t index) {
    if (index < 0 || index >= bb_safetensors_count(file)) return (bb_stored){0};
    const entry *e = &file->entries[index];
    return (bb_stored){e->name, (bb_dtype)e->dtype, shape_of(file, e), file->data + e->begin,
                       (size_t)(e->end - e->begin)};
}

bool bb_safetensors_find(const bb_safetensors *file, const char *name, bb_stored *stored) {
    if (!file || !name) return false;
    uint64_t hash = bb_hash(BB_HASH_START, name, strlen(name));
    int64_t low = 0, high = file->count; /* the first that is not less than (hash, name) */
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        uint64_t at = file->order[middle];
        bool less =
            at >> 32 != hash ? at >> 32 < hash : strcmp(file->entries[(uint32_t)at].name, name) < 0;
        if (less)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == file->count || strcmp(file->entries[(uint32_t)file->order[low]].name, name) != 0)
        return false;
    *stored = bb_safetensors_at(file, (int64_t)(uint32_t)file->order[low]);
    return true;
}
