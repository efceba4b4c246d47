/* Checked size arithmetic (the one place for it), shapes, and dtypes. */
#include <stdio.h>
#include <string.h>

#include "core/impl.h"

bool bb_checked_add(size_t a, size_t b, size_t *sum) {
    *sum = a + b;
    return *sum >= a;
}

bool bb_checked_mul(size_t a, size_t b, size_t *product) {
    *product = a * b;
    return a == 0 || *product / a == b;
}

static bool rank_valid(const bb_shape *shape) {
    return shape->rank >= 0 && shape->rank <= BB_MAX_RANK;
}

bool bb_shape_count(const bb_shape *shape, int64_t *count) {
    *count = 0;
    if (!rank_valid(shape)) return false;
    size_t n = 1;
    bool empty = false;
    for (int i = 0; i < shape->rank; i++) {
        if (shape->size[i] < 0) return false;
        if (shape->size[i] == 0) empty = true;
    }
    /* Non-zero sizes are multiplied even when another size is 0: strides are made of them. */
    for (int i = 0; i < shape->rank; i++)
        if (shape->size[i] > 0 && !bb_checked_mul(n, (size_t)shape->size[i], &n)) return false;
    if (n > (size_t)INT64_MAX) return false;
    *count = empty ? 0 : (int64_t)n;
    return true;
}

bool bb_shape_bytes(const bb_shape *shape, bb_dtype dtype, size_t *bytes) {
    int64_t count;
    *bytes = 0;
    if (!bb_shape_count(shape, &count)) return false;
    return bb_checked_mul((size_t)count, bb_dtype_bytes(dtype), bytes) &&
           *bytes <= (size_t)INT64_MAX;
}

bool bb_shape_equal(const bb_shape *a, const bb_shape *b) {
    if (a->rank != b->rank || !rank_valid(a)) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->size[i] != b->size[i]) return false;
    return true;
}

bool bb_shape_broadcast(const bb_shape *a, const bb_shape *b, bb_shape *out) {
    bb_shape r = {a->rank > b->rank ? a->rank : b->rank, {0}};
    if (!rank_valid(a) || !rank_valid(b)) return false;
    for (int i = 0; i < r.rank; i++) {
        int ia = i - (r.rank - a->rank), ib = i - (r.rank - b->rank);
        int64_t sa = ia < 0 ? 1 : a->size[ia], sb = ib < 0 ? 1 : b->size[ib];
        if (sa != sb && sa != 1 && sb != 1) return false;
        r.size[i] = sa == 1 ? sb : sa;
    }
    *out = r;
    return true;
}

const char *bb_shape_text(const bb_shape *shape, char text[BB_SHAPE_TEXT]) {
    size_t at = 0;
    text[at++] = '(';
    int rank = shape->rank < 0 ? 0 : shape->rank > BB_MAX_RANK ? BB_MAX_RANK : shape->rank;
    for (int i = 0; i < rank; i++)
        at += (size_t)snprintf(text + at, BB_SHAPE_TEXT - at, i ? ", %lld" : "%lld",
                               (long long)shape->size[i]);
    if (rank == 1 && at + 2 < BB_SHAPE_TEXT) text[at++] = ',';
    text[at++] = ')';
    text[at] = 0;
    return text;
}

static const struct {
    const char *name;
    uint8_t bytes;
    bool is_float;
} dtypes[BB_DTYPE_COUNT] = {
    [BB_F64] = {"f64", 8, true},   [BB_F32] = {"f32", 4, true},    [BB_F16] = {"f16", 2, true},
    [BB_BF16] = {"bf16", 2, true}, [BB_I64] = {"i64", 8, false},   [BB_I32] = {"i32", 4, false},
    [BB_U8] = {"u8", 1, false},    [BB_BOOL] = {"bool", 1, false},
};

static bool dtype_valid(bb_dtype dtype) { return (unsigned)dtype < BB_DTYPE_COUNT; }
const char *bb_dtype_name(bb_dtype dtype) {
    return dtype_valid(dtype) ? dtypes[dtype].name : "unknown";
}
size_t bb_dtype_bytes(bb_dtype dtype) { return dtype_valid(dtype) ? dtypes[dtype].bytes : 0; }
bool bb_dtype_is_float(bb_dtype dtype) { return dtype_valid(dtype) && dtypes[dtype].is_float; }
bool bb_dtype_find(const char *name, bb_dtype *dtype) {
    for (int i = 0; i < BB_DTYPE_COUNT; i++)
        if (name && strcmp(name, dtypes[i].name) == 0) {
            *dtype = (bb_dtype)i;
            return true;
        }
    return false;
}
