/* Writes event files (tools/events.h). A file is a sequence of records, each a length (u64), its
 * masked CRC (u32), the data and its masked CRC, little-endian; the mask turns the CRC right by 15
 * bits and adds 0xa282ead8. The data is a protobuf message, Event: field 1 is the wall time
 * (double), 2 the step (int64), 3 the file's version (string, in the first event alone), 5 a
 * Summary, 7 a SessionLog. A Summary's field 1, repeated, is a Value: 1 its tag (string), 2 the
 * number (float). A SessionLog's field 1 is its status; 1 means START. */
#include "tools/events.h"

#include <errno.h>
#include <string.h>
#include <time.h>

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

static void put_fixed(unsigned char *to, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) to[i] = (unsigned char)(value >> 8 * i);
}

/* Writes the event that was begun. */
static void write_record(bb_events *e) {
    unsigned char head[12], tail[4];
    bb_proto *m = &e->event;
    if (bb_error(m->ctx)) return;
    put_fixed(head, m->n, 8);
    put_fixed(head + 8, masked_crc(head, 8), 4);
    put_fixed(tail, masked_crc(m->at, m->n), 4);
    fwrite(head, 1, sizeof head, e->file);
    fwrite(m->at, 1, m->n, e->file);
    fwrite(tail, 1, sizeof tail, e->file);
}

static bb_proto *begin_event(bb_events *e, double wall_time, int64_t step) {
    e->event.n = 0;
    bb_proto_double(&e->event, 1, wall_time);
    bb_proto_int(&e->event, 2, step);
    return &e->event;
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
    const char *slash = strrchr(beside, '/');
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    double now = seconds_of(&time);
    int n = snprintf(e->path, sizeof e->path, "%.*sevents.out.tfevents.%010lld.%09ld",
                     slash ? (int)(slash + 1 - beside) : 0, beside, (long long)time.tv_sec,
                     time.tv_nsec);
    e->event = e->summary = e->value = (bb_proto){0};
    e->file = NULL;
    if (n < 0 || (size_t)n >= sizeof e->path)
        return bb_fail(ctx, BB_ERR_IO, "%.200s...: cannot open: %s", beside,
                       strerror(ENAMETOOLONG));
    e->file = fopen(e->path, "wb");
    if (!e->file) return bb_fail(ctx, BB_ERR_IO, "%s: cannot open: %s", e->path, strerror(errno));
    e->event.ctx = e->summary.ctx = e->value.ctx = ctx;
    bb_proto_text(begin_event(e, now, 0), 3, "brain.Event:2");
    write_record(e);
    bb_proto_int(&e->value, 1, 1); /* SessionLog { status: START } */
    bb_proto_message(begin_event(e, now, 1), 7, &e->value);
    write_record(e);
    return bb_error(ctx);
}

void bb_events_add(bb_events *e, int64_t step, double wall_time, const bb_event_scalar *values,
                   int n) {
    bb_proto *event = begin_event(e, wall_time, step);
    for (int i = 0; i < n; i++) {
        bb_proto_text(&e->value, 1, values[i].tag);
        bb_proto_float(&e->value, 2, (float)values[i].value);
        bb_proto_message(&e->summary, 1, &e->value);
    }
    bb_proto_message(event, 5, &e->summary);
    write_record(e);
}

bb_status bb_events_flush(bb_context *ctx, bb_events *e) {
    if (fflush(e->file) == 0 && !ferror(e->file)) return bb_error(ctx);
    return bb_fail(ctx, BB_ERR_IO, "%s: cannot write: %s", e->path, strerror(errno));
}

bb_status bb_events_close(bb_context *ctx, bb_events *e) {
    bb_proto *const parts[] = {&e->event, &e->summary, &e->value};
    for (int i = 0; i < 3; i++)
        if (parts[i]->ctx) bb_proto_free(parts[i]);
    if (!e->file) return bb_error(ctx);
    bool failed = ferror(e->file) != 0;
    failed = fclose(e->file) != 0 || failed;
    e->file = NULL;
    return failed ? bb_fail(ctx, BB_ERR_IO, "%s: cannot write: %s", e->path, strerror(errno))
                  : bb_error(ctx);
}
