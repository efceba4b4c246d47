/* One tensor in NumPy's .npy format: "\x93NUMPY", two version bytes, the header's length
 * (little-endian, 2 bytes in version 1, 4 in versions 2 and 3), the header, the elements.
 *     {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
 * is the header: a Python dict, padded with spaces and a newline to a multiple of 64 in all.
 * bfloat16 has no name in NumPy; it is stored as ml_dtypes stores it, as '<V2'. The manual is
 * io/io.h. */
#include "core/impl.h"
#include "io/internal.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "elements are copied as they are");

static const char magic[] = "\x93NUMPY";
enum { MAGIC = 6, ALIGNMENT = 64, GROWTH = 21 };

/* Byte order and type; the first is what we write. */
static const struct {
    const char *name;
    bb_dtype dtype;
} codes[] = {{"<f8", BB_F64},  {"<f4", BB_F32}, {"<f2", BB_F16},  {"<V2", BB_BF16},
             {"|V2", BB_BF16}, {"<i8", BB_I64}, {"<i4", BB_I32},  {"|u1", BB_U8},
             {"<u1", BB_U8},   {"u1", BB_U8},   {"|b1", BB_BOOL}, {"<b1", BB_BOOL},
             {"b1", BB_BOOL},  {"?", BB_BOOL}};
enum { CODES = sizeof codes / sizeof codes[0] };

/* ---- The header, a few words of Python */

typedef struct header {
    bb_context *ctx;
    const char *path, *at, *end;
    bool has_dtype, has_order, has_shape;
    bb_dtype dtype;
    bool fortran;
    bb_shape shape;
} header;

static bb_status wrong(const header *h, bb_status status, const char *what, const char *expected) {
    char quoted[BB_QUOTE_BYTES];
    size_t left = (size_t)(h->end - h->at), shown = left < 24 ? left : 24;
    return bb_fail(h->ctx, status, "%s: header: %s: expected %s, got %s", h->path, what, expected,
                   left ? bb_quote(h->at, shown, quoted) : "its end");
}

static void skip_space(header *h) {
    while (h->at < h->end && bb_json_is_space(*h->at)) h->at++;
}

/* Past spaces, and then past c if it is there. */
static bool skip(header *h, char c) {
    skip_space(h);
    if (h->at == h->end || *h->at != c) return false;
    h->at++;
    return true;
}

static bool skip_word(header *h, const char *word) {
    size_t n = strlen(word);
    skip_space(h);
    if ((size_t)(h->end - h->at) < n || memcmp(h->at, word, n) != 0) return false;
    h->at += n;
    return true;
}

/* A string in either quotes, without escapes. False: there is none, and h->at has not moved. */
static bool take_string(header *h, const char **text, size_t *bytes) {
    const char *start = h->at;
    if (!skip(h, '\'') && !skip(h, '"')) return false;
    *text = h->at;
    const char *stop = memchr(h->at, h->at[-1], (size_t)(h->end - h->at));
    if (!stop || memchr(*text, '\\', (size_t)(stop - *text))) {
        h->at = start;
        return false;
    }
    *bytes = (size_t)(stop - *text);
    h->at = stop + 1;
    return true;
}

static bb_status read_type(header *h) {
    const char *text = NULL, *before = h->at;
    size_t n = 0;
    if (!take_string(h, &text, &n))
        return wrong(h, BB_ERR_UNSUPPORTED, "descr", "one type for all elements, such as '<f4'");
    for (int i = 0; i < CODES; i++) {
        if (strlen(codes[i].name) != n || memcmp(codes[i].name, text, n) != 0) continue;
        h->dtype = codes[i].dtype;
        return BB_OK;
    }
    h->at = before;
    if (n && text[0] == '>')
        return wrong(h, BB_ERR_UNSUPPORTED, "descr", "little-endian elements ('<')");
    if (memchr(text, 'O', n))
        return wrong(h, BB_ERR_UNSUPPORTED, "descr", "numbers, never Python objects");
    return wrong(h, BB_ERR_UNSUPPORTED, "descr", "<f8, <f4, <f2, <V2 (bf16), <i8, <i4, |u1 or |b1");
}

static bb_status read_order(header *h) {
    h->fortran = skip_word(h, "True");
    return h->fortran || skip_word(h, "False")
               ? BB_OK
               : wrong(h, BB_ERR_FORMAT, "fortran_order", "True or False");
}

static bb_status read_size(header *h) {
    int64_t n = 0;
    skip_space(h);
    if (h->at == h->end || !bb_json_is_digit(*h->at))
        return wrong(h, BB_ERR_FORMAT, "shape", "a size >= 0");
    for (; h->at < h->end && bb_json_is_digit(*h->at); h->at++) {
        if (n > (INT64_MAX - 9) / 10) return wrong(h, BB_ERR_FORMAT, "shape", "a size below 2^63");
        n = n * 10 + (*h->at - '0');
    }
    if (h->at < h->end && *h->at == 'L') h->at++; /* a long of Python 2 */
    if (h->shape.rank == BB_MAX_RANK)
        return wrong(h, BB_ERR_UNSUPPORTED, "shape", "at most 8 axes");
    h->shape.size[h->shape.rank++] = n;
    return BB_OK;
}

/* (), (3,), (2, 3): one size needs its comma, as (3) is a number. */
static bb_status read_shape(header *h) {
    if (!skip(h, '(')) return wrong(h, BB_ERR_FORMAT, "shape", "a tuple, such as (2, 3)");
    for (bool comma = true; !skip(h, ')'); comma = skip(h, ',')) {
        bb_status status = comma ? read_size(h) : wrong(h, BB_ERR_FORMAT, "shape", "',' or ')'");
        if (status != BB_OK) return status;
        if (h->shape.rank == 1 && skip(h, ')')) return wrong(h, BB_ERR_FORMAT, "shape", "(N,)");
    }
    return BB_OK;
}

static bb_status read_item(header *h) {
    static const struct {
        const char *name;
        size_t seen; /* which flag of the header */
        bb_status (*read)(header *h);
    } keys[] = {{"descr", offsetof(header, has_dtype), read_type},
                {"fortran_order", offsetof(header, has_order), read_order},
                {"shape", offsetof(header, has_shape), read_shape}};
    const char *text = NULL, *before = h->at;
    size_t n = 0;
    if (!take_string(h, &text, &n)) return wrong(h, BB_ERR_FORMAT, "dict", "a key in quotes");
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        bool *seen = (bool *)(void *)((char *)h + keys[i].seen);
        if (strlen(keys[i].name) != n || memcmp(keys[i].name, text, n) != 0) continue;
        if (*seen) break;
        *seen = true;
        return skip(h, ':') ? keys[i].read(h) : wrong(h, BB_ERR_FORMAT, keys[i].name, "':'");
    }
    h->at = before;
    return wrong(h, BB_ERR_FORMAT, "dict", "descr, fortran_order and shape, each once");
}

static bb_status read_dict(header *h) {
    if (!skip(h, '{')) return wrong(h, BB_ERR_FORMAT, "dict", "'{'");
    for (bool comma = true; !skip(h, '}'); comma = skip(h, ',')) {
        bb_status status = comma ? read_item(h) : wrong(h, BB_ERR_FORMAT, "dict", "',' or '}'");
        if (status != BB_OK) return status;
    }
    skip_space(h);
    if (h->at != h->end) return wrong(h, BB_ERR_FORMAT, "dict", "nothing after it");
    if (h->has_dtype && h->has_order && h->has_shape) return BB_OK;
    return wrong(h, BB_ERR_FORMAT, "dict", "descr, fortran_order and shape");
}

/* ---- Reading */

/* Finds the header and the elements in the file, and checks that they agree. */
static bb_status read_header(const bb_file *file, header *h, const char **data) {
    const unsigned char *p = (const unsigned char *)file->data;
    if (!bb_file_has(file, 0, MAGIC + 2) || memcmp(p, magic, MAGIC) != 0)
        return bb_fail(h->ctx, BB_ERR_FORMAT, "%s: expected a .npy file, got another beginning",
                       h->path);
    int major = p[MAGIC], minor = p[MAGIC + 1];
    if (major < 1 || major > 3 || minor != 0)
        return bb_fail(h->ctx, BB_ERR_UNSUPPORTED,
                       "%s: version: expected 1.0, 2.0 or 3.0, got %d.%d", h->path, major, minor);
    size_t width = major == 1 ? 2 : 4, start = MAGIC + 2 + width, length = 0, bytes = 0;
    if (!bb_file_has(file, MAGIC + 2, width))
        return bb_fail(h->ctx, BB_ERR_FORMAT, "%s: header: expected its length, got the end",
                       h->path);
    for (size_t i = width; i-- > 0;) length = length << 8 | p[MAGIC + 2 + i];
    if (!bb_file_has(file, start, length))
        return bb_fail(h->ctx, BB_ERR_FORMAT,
                       "%s: header: expected %zu bytes, got %zu before the end of the file",
                       h->path, length, file->bytes - start);
    h->at = file->data + start;
    h->end = h->at + length;
    *data = h->end;
    if (read_dict(h) != BB_OK) return bb_error(h->ctx);
    char text[BB_SHAPE_TEXT];
    bool fits = bb_shape_bytes(&h->shape, h->dtype, &bytes);
    if (fits && bytes == file->bytes - start - length) return BB_OK;
    return bb_fail(h->ctx, BB_ERR_FORMAT, "%s: expected %s of %s%s, got %zu bytes of data", h->path,
                   bb_shape_text(&h->shape, text), bb_dtype_name(h->dtype),
                   fits ? "" : " (more than there can be)", file->bytes - start - length);
}

/* Row-major elements from column-major ones. */
static void turn(const bb_shape *shape, size_t element, const char *from, char *to) {
    int64_t index[BB_MAX_RANK] = {0}, count = 0;
    size_t stride[BB_MAX_RANK], step = element, at = 0; /* in bytes, of `from` */
    for (int a = 0; a < shape->rank; a++) {
        stride[a] = step;
        step *= (size_t)shape->size[a];
    }
    bb_shape_count(shape, &count);
    for (int64_t i = 0; i < count; i++) {
        memcpy(to + (size_t)i * element, from + at, element);
        for (int a = shape->rank - 1; a >= 0; a--) {
            at += stride[a];
            if (++index[a] < shape->size[a]) break;
            at -= stride[a] * (size_t)shape->size[a];
            index[a] = 0;
        }
    }
}

/* The same tensor elsewhere. */
static bb_tensor *move(bb_tensor *t, bb_device device) {
    bb_context *ctx = t->ctx;
    if (device == BB_CPU) return t;
    bb_tensor *moved = bb_empty_on(ctx, device, (bb_dtype)t->dtype, bb_shape_of_tensor(t));
    if (moved && bb_copy_into(t, moved) == BB_OK && ctx->backend[device]->synchronize)
        ctx->backend[device]->synchronize(ctx->backend[device]); /* it may still be reading t */
    bb_drop(t);
    return bb_error(ctx) ? NULL : moved;
}

static bb_tensor *make_tensor(const header *h, const char *data, bb_device device) {
    bb_tensor *t = bb_empty_on(h->ctx, BB_CPU, h->dtype, h->shape);
    if (!t || t->count == 0) return t ? move(t, device) : NULL;
    size_t element = bb_dtype_bytes(h->dtype), bytes = (size_t)t->count * element;
    if (h->fortran)
        turn(&h->shape, element, data, t->data);
    else
        memcpy(t->data, data, bytes);
    for (size_t i = 0; h->dtype == BB_BOOL && i < bytes; i++) t->data[i] = t->data[i] != 0;
    return move(t, device);
}

bb_tensor *bb_npy_load(bb_context *ctx, const char *path, bb_device device) {
    header h = {.ctx = ctx, .path = path};
    bb_file file;
    const char *data = NULL;
    if (bb_file_map(ctx, path, &file) != BB_OK) return NULL;
    bb_tensor *t = read_header(&file, &h, &data) == BB_OK ? make_tensor(&h, data, device) : NULL;
    bb_file_unmap(&file);
    return t;
}

/* ---- Writing */

/* The whole beginning of a file, as numpy.save writes it: padded with room for the first size to
 * grow to 21 digits, then to the alignment. Returns its length. */
static size_t put_header(const bb_tensor *t, char text[3 * ALIGNMENT + 256]) {
    bb_shape shape = bb_shape_of_tensor(t);
    const char *code = "";
    for (int i = CODES - 1; i >= 0; i--)
        if (codes[i].dtype == (bb_dtype)t->dtype) code = codes[i].name;
    size_t start = MAGIC + 4, n = start, room = 3 * ALIGNMENT + 256;
    n += (size_t)snprintf(text + n, room - n, "{'descr': '%s', 'fortran_order': False, 'shape': (",
                          code);
    for (int a = 0; a < shape.rank; a++)
        n += (size_t)snprintf(text + n, room - n, a ? ", %lld" : "%lld", (long long)shape.size[a]);
    n += (size_t)snprintf(text + n, room - n, shape.rank == 1 ? ",), }" : "), }");
    if (shape.rank) {
        int digits = snprintf(NULL, 0, "%lld", (long long)shape.size[0]);
        for (; digits < GROWTH; digits++) text[n++] = ' ';
    }
    while ((n + 1) % ALIGNMENT) text[n++] = ' ';
    text[n++] = '\n';
    memcpy(text, magic, MAGIC);
    text[MAGIC] = 1;
    text[MAGIC + 1] = 0;
    text[MAGIC + 2] = (char)((n - start) & 0xFF);
    text[MAGIC + 3] = (char)((n - start) >> 8);
    return n;
}

bb_status bb_npy_save(bb_context *ctx, const char *path, bb_tensor *t, const bb_file_calls *calls) {
    char text[3 * ALIGNMENT + 256];
    if (bb_error(ctx)) return bb_error(ctx);
    if (!t) return bb_fail(ctx, BB_ERR_ARGUMENT, "bb_npy_save: t: expected a tensor, got NULL");
    if (t->ctx != ctx)
        return bb_fail(ctx, BB_ERR_ARGUMENT,
                       "bb_npy_save: t: expected a tensor of this context, got one of another");
    if (!bb_tensor_usable(t)) return bb_error(ctx);
    bb_writer *w = bb_writer_open(ctx, path, calls);
    if (!w) return bb_error(ctx);
    bb_writer_add(w, text, put_header(t, text));
    bb_status status = bb_writer_put_tensor(w, t);
    if (status == BB_OK) return bb_writer_commit(w);
    bb_writer_abandon(w);
    return status;
}
