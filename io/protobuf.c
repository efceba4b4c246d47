/* Protobuf's wire format (https://protobuf.dev/programming-guides/encoding/), as far as ONNX and
 * event files need it: variable-length integers, floats, and messages, bytes and texts with their
 * length. */
#include <string.h>

#include "io/onnx.h"

enum { VARINT = 0, FIXED64 = 1, LENGTH = 2, FIXED32 = 5 };

static unsigned char *room(bb_proto *p, size_t n) {
    size_t need, capacity = p->capacity ? p->capacity : 256;
    if (p->ctx->status) return NULL;
    if (!bb_checked_add(p->n, n, &need) || need > SIZE_MAX / 2) {
        bb_fail(p->ctx, BB_ERR_MEMORY, "protobuf: out of memory: asked for %zu more bytes", n);
        return NULL;
    }
    while (capacity < need) capacity *= 2;
    if (capacity > p->capacity) {
        unsigned char *fresh = bb_host_allocate(p->ctx, capacity);
        if (!fresh) return NULL;
        if (p->n) memcpy(fresh, p->at, p->n);
        bb_host_release(p->ctx, p->at, p->capacity);
        p->at = fresh;
        p->capacity = capacity;
    }
    unsigned char *at = p->at + p->n;
    p->n = need;
    return at;
}

static void varint(bb_proto *p, uint64_t value) {
    unsigned char bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (unsigned char)(value & 0x7F) | (value > 0x7F ? 0x80 : 0);
        value >>= 7;
    } while (value);
    unsigned char *at = room(p, n);
    if (at) memcpy(at, bytes, n);
}

static void tag(bb_proto *p, int field, int type) {
    varint(p, (uint64_t)field << 3 | (unsigned)type);
}

void bb_proto_int(bb_proto *p, int field, int64_t value) {
    tag(p, field, VARINT);
    varint(p, (uint64_t)value);
}

static void fixed(bb_proto *p, size_t bytes, uint64_t bits) {
    unsigned char *at = room(p, bytes);
    for (size_t i = 0; at && i < bytes; i++) at[i] = (unsigned char)(bits >> 8 * i);
}

void bb_proto_float(bb_proto *p, int field, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    tag(p, field, FIXED32);
    fixed(p, sizeof bits, bits);
}

void bb_proto_double(bb_proto *p, int field, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    tag(p, field, FIXED64);
    fixed(p, sizeof bits, bits);
}

void bb_proto_head(bb_proto *p, int field, size_t n) {
    tag(p, field, LENGTH);
    varint(p, n);
}

void bb_proto_append(bb_proto *p, const void *bytes, size_t n) {
    unsigned char *at = n ? room(p, n) : NULL;
    if (at) memcpy(at, bytes, n);
}

void bb_proto_bytes(bb_proto *p, int field, const void *bytes, size_t n) {
    bb_proto_head(p, field, n);
    bb_proto_append(p, bytes, n);
}

void bb_proto_text(bb_proto *p, int field, const char *text) {
    if (text) bb_proto_bytes(p, field, text, strlen(text));
}

void bb_proto_message(bb_proto *p, int field, bb_proto *inner) {
    bb_proto_bytes(p, field, inner->at, inner->n);
    inner->n = 0;
}

void bb_proto_free(bb_proto *p) {
    bb_host_release(p->ctx, p->at, p->capacity);
    p->at = NULL;
    p->n = p->capacity = 0;
}
