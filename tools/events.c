/* Writes event files (tools/events.h). A file is a sequence of records
 *     length u64 | masked CRC of the length u32 | data | masked CRC of the data u32
 * little-endian, where the mask turns the CRC right by 15 bits and adds 0xa282ead8. The data is a
 * protobuf message:
 *     Event { 1: double wall_time  2: int64 step  3: string file_version  5: Summary  7: SessionLog
 * } Summary { 1: repeated Value { 1: string tag  2: float simple_value } } SessionLog { 1: status,
 * where 1 is START } */
#include "tools/events.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* ---- Protobuf, as much as is needed. Messages are small: an event stays below 512 bytes. */

enum { MESSAGE = 512, VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

typedef struct message {
    size_t bytes;
    unsigned char data[MESSAGE];
} message;

static void put_varint(message *m, uint64_t value) {
    for (; value > 127; value >>= 7) m->data[m->bytes++] = (unsigned char)(value | 128);
    m->data[m->bytes++] = (unsigned char)value;
}

static void put_key(message *m, int field, int type) {
    put_varint(m, (uint64_t)field << 3 | (uint64_t)type);
}

/* Little-endian, as all the rest. */
static void put_fixed(unsigned char *to, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) to[i] = (unsigned char)(value >> 8 * i);
}

static void put_double(message *m, int field, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(m, field, FIXED64);
    put_fixed(m->data + m->bytes, bits, 8);
    m->bytes += 8;
}

static void put_float(message *m, int field, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(m, field, FIXED32);
    put_fixed(m->data + m->bytes, bits, 4);
    m->bytes += 4;
}

static void put_bytes(message *m, int field, const void *data, size_t bytes) {
    put_key(m, field, BYTES);
    put_varint(m, bytes);
    memcpy(m->data + m->bytes, data, bytes);
    m->bytes += bytes;
}

/* ---- Records */

uint32_t bb_crc32c(const void *data, size_t bytes) {
    uint32_t crc = 0xffffffffu;
    for (const unsigned char *p = data; bytes-- > 0; p++) {
        crc ^= *p;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

static uint32_t masked_crc(const void *data, size_t bytes) {
    uint32_t crc = bb_crc32c(data, bytes);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void write_record(bb_events *e, const message *m) {
    unsigned char head[12], tail[4];
    put_fixed(head, m->bytes, 8);
    put_fixed(head + 8, masked_crc(head, 8), 4);
    put_fixed(tail, masked_crc(m->data, m->bytes), 4);
    fwrite(head, 1, sizeof head, e->file);
    fwrite(m->data, 1, m->bytes, e->file);
    fwrite(tail, 1, sizeof tail, e->file);
}

static message begin_event(double wall_time, int64_t step) {
    message m = {.bytes = 0};
    put_double(&m, 1, wall_time);
    put_key(&m, 2, VARINT);
    put_varint(&m, (uint64_t)step);
    return m;
}

/* ---- Files */

static double seconds_of(const struct timespec *time) {
    return (double)time->tv_sec + 1e-9 * (double)time->tv_nsec;
}

double bb_wall_time(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return seconds_of(&now);
}

bb_status bb_events_open(bb_context *ctx, bb_events *e, const char *beside) {
    static const char version[] = "brain.Event:2";
    const char *slash = strrchr(beside, '/');
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    double now = seconds_of(&time);
    int n = snprintf(e->path, sizeof e->path, "%.*sevents.out.tfevents.%010lld.%09ld",
                     slash ? (int)(slash + 1 - beside) : 0, beside, (long long)time.tv_sec,
                     time.tv_nsec);
    e->file = NULL;
    if (n < 0 || (size_t)n >= sizeof e->path)
        return bb_fail(ctx, BB_ERR_IO, "%.200s...: cannot open: %s", beside,
                       strerror(ENAMETOOLONG));
    e->file = fopen(e->path, "wb");
    if (!e->file) return bb_fail(ctx, BB_ERR_IO, "%s: cannot open: %s", e->path, strerror(errno));
    message m = begin_event(now, 0), start = begin_event(now, 1);
    put_bytes(&m, 3, version, sizeof version - 1);
    write_record(e, &m);
    put_bytes(&start, 7, "\x08\x01", 2); /* SessionLog { status: START } */
    write_record(e, &start);
    return BB_OK;
}

void bb_events_add(bb_events *e, int64_t step, double wall_time, const bb_event_scalar *values,
                   int n) {
    message m = begin_event(wall_time, step), summary = {.bytes = 0};
    for (int i = 0; i < n && i < BB_EVENT_SCALARS; i++) {
        message value = {.bytes = 0};
        put_bytes(&value, 1, values[i].tag, strnlen(values[i].tag, 63));
        put_float(&value, 2, (float)values[i].value);
        put_bytes(&summary, 1, value.data, value.bytes);
    }
    put_bytes(&m, 5, summary.data, summary.bytes);
    write_record(e, &m);
}

bb_status bb_events_flush(bb_context *ctx, bb_events *e) {
    if (fflush(e->file) == 0 && !ferror(e->file)) return BB_OK;
    return bb_fail(ctx, BB_ERR_IO, "%s: cannot write: %s", e->path, strerror(errno));
}

bb_status bb_events_close(bb_context *ctx, bb_events *e) {
    if (!e->file) return bb_error(ctx);
    bool failed = ferror(e->file) != 0;
    failed = fclose(e->file) != 0 || failed;
    e->file = NULL;
    return failed ? bb_fail(ctx, BB_ERR_IO, "%s: cannot write: %s", e->path, strerror(errno))
                  : bb_error(ctx);
}
