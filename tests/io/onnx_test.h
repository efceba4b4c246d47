/* For the tests of ONNX files: a reader of protobuf's wire format, independent of our writer, and
 * the way to tests/onnx/check.py, which runs the files. */
#ifndef BOBBIN_TESTS_IO_ONNX_TEST_H
#define BOBBIN_TESTS_IO_ONNX_TEST_H

#include "tests/io/scratch.h"
#include "tests/support/files.h"

/* ---- The wire format. A message is a span of bytes; `pb_next` steps over its fields. */
typedef struct pb {
    const unsigned char *at, *end;
    int field, type;
    uint64_t number; /* varints; the bits of fixed ones */
    struct pb_span {
        const unsigned char *at;
        size_t n;
    } span; /* texts and messages */
    bool bad;
} pb;

static inline pb pb_open(const void *bytes, size_t n) {
    return (pb){.at = bytes, .end = (const unsigned char *)bytes + n};
}
static inline pb pb_inside(const pb *p) { return pb_open(p->span.at, p->span.n); }

static inline bool pb_varint(pb *p, uint64_t *value) {
    *value = 0;
    for (int shift = 0; shift < 64 && p->at < p->end; shift += 7) {
        unsigned char c = *p->at++;
        *value |= (uint64_t)(c & 0x7F) << shift;
        if (c < 0x80) return true;
    }
    return false;
}

static inline bool pb_next(pb *p) {
    uint64_t tag, n;
    if (p->bad || p->at == p->end) return false;
    p->bad = true; /* until it has been read */
    if (!pb_varint(p, &tag)) return false;
    p->field = (int)(tag >> 3);
    p->type = (int)(tag & 7);
    if (p->type == 0) {
        if (!pb_varint(p, &p->number)) return false;
    } else if (p->type == 2) {
        if (!pb_varint(p, &n) || n > (uint64_t)(p->end - p->at)) return false;
        p->span.at = p->at;
        p->span.n = (size_t)n;
        p->at += n;
    } else if (p->type == 5) {
        if (p->end - p->at < 4) return false;
        p->number = 0;
        for (int i = 0; i < 4; i++) p->number |= (uint64_t)*p->at++ << 8 * i;
    } else {
        return false;
    }
    p->bad = false;
    return true;
}

/* Steps to the next field of this number. */
static inline bool pb_find(pb *p, int field) {
    while (pb_next(p))
        if (p->field == field) return true;
    return false;
}
static inline bool pb_is(const pb *p, const char *text) {
    return p->span.n == strlen(text) && memcmp(p->span.at, text, p->span.n) == 0;
}
static inline int pb_count(pb p, int field) {
    int n = 0;
    while (pb_find(&p, field)) n++;
    return n;
}
/* A text field of a message: the nth of its number. */
static inline bool pb_text_is(pb message, int field, int nth, const char *text) {
    while (pb_find(&message, field))
        if (nth-- == 0) return pb_is(&message, text);
    return false;
}
static inline int64_t pb_number(pb message, int field) {
    return pb_find(&message, field) ? (int64_t)message.number : -1;
}

/* ---- A model file */
typedef struct onnx_file {
    unsigned char *bytes;
    size_t n;
    pb model, graph;
} onnx_file;

static inline onnx_file onnx_read(const char *path) {
    onnx_file f = {.bytes = malloc(1 << 22)};
    long n = get_bytes(path, f.bytes, 1 << 22);
    f.n = n < 0 ? 0 : (size_t)n;
    f.model = pb_open(f.bytes, f.n);
    pb p = f.model;
    if (pb_find(&p, 7)) f.graph = pb_inside(&p);
    return f;
}
static inline void onnx_close(onnx_file *f) { free(f->bytes); }

/* A function of this name; false: none. */
static inline bool onnx_function(const onnx_file *f, const char *name, pb *function) {
    pb p = f->model;
    while (pb_find(&p, 25)) {
        *function = pb_inside(&p);
        if (pb_text_is(*function, 1, 0, name)) return true;
    }
    return false;
}
/* Nodes of this type in a graph (field 1) or function (field 7). */
static inline int onnx_nodes(pb holder, int field, const char *type) {
    int n = 0;
    while (pb_find(&holder, field)) n += pb_text_is(pb_inside(&holder), 4, 0, type);
    return n;
}
/* Attribute `name` of a node. */
static inline bool onnx_attr(pb node, const char *name, pb *attr) {
    while (pb_find(&node, 5)) {
        *attr = pb_inside(&node);
        if (pb_text_is(*attr, 1, 0, name)) return true;
    }
    return false;
}

/* ---- Running. Cases gather in a folder; onnx_run_all hands it to check.py. */

enum { ONNX_MODES = 3, ONNX_NAME = 128 };
static const char *const onnx_modes[ONNX_MODES] = {"composite", "native", "decomposed"};

/* Saves g as STEM_MODE.onnx, which is s->path from then on; `name` becomes STEM_MODE. */
static inline bb_status onnx_save_as(bb_graph *g, scratch *s, const char *stem,
                                     const bb_onnx_options *how, char name[ONNX_NAME]) {
    char file[ONNX_NAME + 8];
    snprintf(name, ONNX_NAME, "%s_%s", stem, onnx_modes[how->mode]);
    snprintf(file, sizeof file, "%s.onnx", name);
    return bb_onnx_save(g, scratch_path(s, file), how);
}

/* What NAME.onnx gives for these inputs. may: a runtime may lack a kernel for it. */
static inline void onnx_expect(const scratch *s, const char *name, int number, const bb_named *in,
                               int n_in, bb_named out, const char *tolerance, bool may) {
    bb_named list[BB_MAX_INPUTS + 1];
    char names[BB_MAX_INPUTS + 1][64], path[700];
    for (int i = 0; i <= n_in; i++) {
        list[i] = i < n_in ? in[i] : out;
        snprintf(names[i], sizeof names[i], "%s.%s", i < n_in ? "in" : "out", list[i].name);
        list[i].name = names[i];
    }
    const bb_text metadata[] = {{"tolerance", tolerance}, {"run", may ? "may" : "must"}};
    snprintf(path, sizeof path, "%s/%s.%d.safetensors", s->folder, name, number);
    bb_safetensors_save(bb_context_of(out.tensor), path, list, n_in + 1, metadata, 2, NULL);
}

static inline void onnx_run_all(test *t, scratch *s) {
    const char *python = getenv("BOBBIN_PYTHON");
    static char out[1 << 15];
    char command[1024];
    if (!python || !*python) {
        test_skip(t, "no Python with onnx and onnxruntime (./test.sh sets one up where it can)");
        return;
    }
    snprintf(command, sizeof command, "'%s' '%s/tests/onnx/check.py' '%s'", python,
             BOBBIN_SOURCE_DIR, s->folder);
    int code = run_command(command, out, sizeof out);
    CHECK_MSG(t, code == 0, "%s", out);
}

#endif
