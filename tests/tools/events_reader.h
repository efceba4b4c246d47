/* Reads TensorBoard's event files in tests, from the format's description alone. */
#ifndef BOBBIN_TESTS_TOOLS_EVENTS_READER_H
#define BOBBIN_TESTS_TOOLS_EVENTS_READER_H

#include <dirent.h>

#include "tests/tools/program.h"
#include "tools/events.h"

typedef struct read_value {
    int64_t step;
    double time;
    char tag[64];
    float value;
} read_value;

typedef struct read_events {
    int versions, starts, count; /* a start drops all values before it, as TensorBoard does */
    read_value value[400];
} read_events;

static inline uint64_t read_fixed(const unsigned char *p, int bytes) {
    uint64_t value = 0;
    for (int i = bytes; i-- > 0;) value = value << 8 | p[i];
    return value;
}

static inline uint64_t read_varint(const unsigned char **p) {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
        unsigned char c = *(*p)++;
        value |= (uint64_t)(c & 127) << shift;
        if (c < 128 || shift > 56) return value;
    }
}

/* One field of a message: its number; *value for numbers, *value bytes at *data for the rest. */
static inline int read_field(const unsigned char **p, uint64_t *value, const unsigned char **data) {
    uint64_t key = read_varint(p);
    int type = (int)(key & 7), fixed = type == 1 ? 8 : type == 5 ? 4 : 0;
    *value = fixed ? read_fixed(*p, fixed) : read_varint(p);
    *data = *p;
    *p += fixed ? (size_t)fixed : type == 2 ? (size_t)*value : 0;
    return (int)(key >> 3);
}

static inline void read_value_message(const unsigned char *p, const unsigned char *end,
                                      read_value *v) {
    while (p < end) {
        uint64_t value;
        const unsigned char *data;
        int field = read_field(&p, &value, &data);
        uint32_t bits = (uint32_t)value;
        if (field == 1) snprintf(v->tag, sizeof v->tag, "%.*s", (int)value, (const char *)data);
        if (field == 2) memcpy(&v->value, &bits, sizeof bits);
    }
}

static inline void read_event(const unsigned char *p, const unsigned char *end, read_events *e) {
    read_value v = {0};
    while (p < end) {
        uint64_t value;
        const unsigned char *data;
        int field = read_field(&p, &value, &data);
        if (field == 1) memcpy(&v.time, &value, sizeof value);
        if (field == 2) v.step = (int64_t)value;
        if (field == 3) e->versions += value == 13 && memcmp(data, "brain.Event:2", 13) == 0;
        if (field == 7) e->count = 0, e->starts++;
        for (const unsigned char *s = data; field == 5 && s < data + value;) {
            uint64_t bytes;
            const unsigned char *message;
            if (read_field(&s, &bytes, &message) == 1 && e->count < 400) {
                read_value_message(message, message + bytes, &v);
                e->value[e->count++] = v;
            }
        }
    }
}

static inline uint64_t masked(const unsigned char *p, size_t bytes) {
    uint32_t crc = bb_crc32c(p, bytes);
    return (uint32_t)((crc >> 15 | crc << 17) + 0xa282ead8u);
}

/* All records of one file, appended to e. False: a length or checksum is wrong. */
static inline bool read_event_file(const scratch_folder *f, const char *name, read_events *e) {
    size_t bytes = 0, at = 0;
    unsigned char *file = (unsigned char *)scratch_read(f, name, &bytes);
    bool ok = file != NULL;
    while (ok && at < bytes) {
        uint64_t n = bytes - at >= 16 ? read_fixed(file + at, 8) : UINT64_MAX;
        ok = n <= bytes - at - 16 && masked(file + at, 8) == read_fixed(file + at + 8, 4) &&
             masked(file + at + 12, n) == read_fixed(file + at + 12 + n, 4);
        if (ok) read_event(file + at + 12, file + at + 12 + n, e);
        at += 16 + n;
    }
    free(file);
    return ok;
}

static inline int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* All event files of a folder below f, in the order of their names. How many; -1: one is wrong. */
static inline int read_event_folder(const scratch_folder *f, const char *folder, read_events *e) {
    char path[512];
    struct dirent **entry = NULL;
    int found = 0;
    memset(e, 0, sizeof *e);
    snprintf(path, sizeof path, "%s/%s", f->path, folder);
    int n = scandir(path, &entry, NULL, by_name);
    for (int i = 0; i < n; i++) {
        if (found >= 0 && strstr(entry[i]->d_name, "tfevents")) {
            char name[200];
            snprintf(name, sizeof name, "%.50s/%.140s", folder, entry[i]->d_name);
            found = read_event_file(f, name, e) ? found + 1 : -1;
        }
        free(entry[i]);
    }
    free(entry);
    return found;
}

/* The value of a tag at a step; NAN: none. */
static inline double event_value(const read_events *e, const char *tag, int64_t step) {
    for (int i = 0; i < e->count; i++)
        if (e->value[i].step == step && strcmp(e->value[i].tag, tag) == 0)
            return (double)e->value[i].value;
    return NAN;
}

#endif
