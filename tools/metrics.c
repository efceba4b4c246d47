/* Writes metrics.csv. See tools/metrics.h; tools/plot.c reads it. */
#include "tools/metrics.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char header[] = "step,split,loss,lr,grad_norm,tokens_per_s,elapsed_s\n";

bool bb_metrics_read_row(const char *line, size_t bytes, bb_metrics_row *row) {
    char text[256], *at = text;
    if (bytes >= sizeof text) return false;
    memcpy(text, line, bytes); /* the line may end where the file does */
    text[bytes] = '\0';
    row->step = strtoll(text, &at, 10);
    bool train = strncmp(at, ",train,", 7) == 0, val = strncmp(at, ",val,", 5) == 0;
    if (at == text || (!train && !val)) return false;
    row->split = train ? "train" : "val";
    at += train ? 6 : 4;
    double *const fields[] = {&row->loss, &row->lr, &row->grad_norm, &row->tokens_per_s,
                              &row->elapsed_s};
    for (int i = 0; i < 5; i++) {
        if (*at++ != ',') return false;
        char *from = at;
        *fields[i] = strtod(from, &at);
        if (at == from && fields[i] != &row->grad_norm) return false;
        if (at == from) row->grad_norm = -1;
    }
    return *at == '\0';
}

static void add_event(bb_metrics *m, const bb_metrics_row *row) {
    double time = m->started + row->elapsed_s;
    if (strcmp(row->split, "val") == 0) {
        bb_events_add(&m->events, row->step, time, &(bb_event_scalar){"loss/val", row->loss}, 1);
        return;
    }
    const bb_event_scalar values[] = {{"loss/train", row->loss},
                                      {"lr", row->lr},
                                      {"tokens_per_s", row->tokens_per_s},
                                      {"grad_norm", row->grad_norm}};
    bb_events_add(&m->events, row->step, time, values, row->grad_norm >= 0 ? 4 : 3);
}

static const char *written_at(const bb_metrics *m) { return m->pending ? m->pending : m->path; }

/* Rows of the earlier part of a run, up to its checkpoint; later ones are about to be computed
 * again. */
static bb_status keep_rows(bb_context *ctx, bb_metrics *m, const char *former, int64_t step) {
    bb_file file;
    bb_writer *w = NULL;
    bb_metrics_row row;
    if (bb_file_map(ctx, former, &file) == BB_OK) w = bb_writer_open(ctx, written_at(m), NULL);
    if (w) bb_writer_add(w, header, sizeof header - 1);
    const char *end = file.data + file.bytes;
    for (const char *line = file.data; w && line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop) break; /* cut off in the middle */
        if (bb_metrics_read_row(line, (size_t)(stop - line), &row) && row.step <= step) {
            bb_writer_add(w, line, (size_t)(stop + 1 - line));
            add_event(m, &row);
        }
        line = stop + 1;
    }
    if (w) bb_writer_commit(w);
    bb_file_unmap(&file);
    return bb_error(ctx);
}

bb_status bb_metrics_open(bb_context *ctx, bb_metrics *m, const char *path, const char *former,
                          int64_t step, double elapsed_s) {
    *m = (bb_metrics){.path = path, .started = bb_wall_time() - elapsed_s};
    if (access(path, F_OK) == 0 && (!former || strcmp(former, path) != 0)) {
        size_t bytes = strlen(path) + sizeof ".new";
        m->pending = malloc(bytes);
        if (!m->pending) return bb_fail(ctx, BB_ERR_MEMORY, "%s: out of memory", path);
        snprintf(m->pending, bytes, "%s.new", path);
    }
    if (bb_events_open(ctx, &m->events, path) != BB_OK) return bb_error(ctx);
    bb_status status = former ? keep_rows(ctx, m, former, step)
                              : bb_file_write(ctx, written_at(m), header, sizeof header - 1);
    if (status != BB_OK) return status;
    m->file = fopen(written_at(m), "a");
    return m->file ? BB_OK
                   : bb_fail(ctx, BB_ERR_IO, "%s: cannot open: %s", written_at(m), strerror(errno));
}

bb_status bb_metrics_settle(bb_context *ctx, bb_metrics *m) {
    if (!m->pending || bb_error(ctx)) return bb_error(ctx);
    if (rename(m->pending, m->path) != 0)
        return bb_fail(ctx, BB_ERR_IO, "%s: cannot replace: %s", m->path, strerror(errno));
    free(m->pending);
    m->pending = NULL;
    return BB_OK;
}

void bb_metrics_add(bb_metrics *m, const bb_metrics_row *row) {
    fprintf(m->file, "%lld,%s,%.6f,%.6g,", (long long)row->step, row->split, row->loss, row->lr);
    if (row->grad_norm >= 0) fprintf(m->file, "%.6g", row->grad_norm);
    fprintf(m->file, ",%.1f,%.3f\n", row->tokens_per_s, row->elapsed_s);
    add_event(m, row);
}

bb_status bb_metrics_flush(bb_context *ctx, bb_metrics *m) {
    if (fflush(m->file) == 0 && !ferror(m->file)) return bb_events_flush(ctx, &m->events);
    return bb_fail(ctx, BB_ERR_IO, "%s: cannot write: %s", m->path, strerror(errno));
}

bb_status bb_metrics_close(bb_context *ctx, bb_metrics *m) {
    bb_events_close(ctx, &m->events);
    if (m->pending) {
        remove(m->pending);
        remove(m->events.path);
        free(m->pending);
        m->pending = NULL;
    }
    if (!m->file) return bb_error(ctx);
    bool failed = ferror(m->file) != 0;
    failed = fclose(m->file) != 0 || failed;
    m->file = NULL;
    return failed ? bb_fail(ctx, BB_ERR_IO, "%s: cannot write: %s", m->path, strerror(errno))
                  : bb_error(ctx);
}
