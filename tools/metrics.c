/* Writes metrics.csv. See tools/metrics.h; tools/plot.c reads it. */
#include "tools/metrics.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char header[] = "step,split,loss,lr,grad_norm,tokens_per_s,elapsed_s\n";

/* Rows of the earlier part of a run, up to its checkpoint; later ones are about to be computed
 * again. */
static bb_status keep_rows(bb_context *ctx, const char *former, int64_t step, const char *path) {
    bb_file file;
    bb_writer *w = NULL;
    if (bb_file_map(ctx, former, &file) == BB_OK) w = bb_writer_open(ctx, path, NULL);
    if (w) bb_writer_add(w, header, sizeof header - 1);
    const char *end = file.data + file.bytes;
    for (const char *row = file.data; w && row < end;) {
        const char *stop = memchr(row, '\n', (size_t)(end - row));
        if (!stop) break; /* cut off in the middle */
        char *after;
        long long at = strtoll(row, &after, 10);
        if (after > row && *after == ',' && at <= step)
            bb_writer_add(w, row, (size_t)(stop + 1 - row));
        row = stop + 1;
    }
    if (w) bb_writer_commit(w);
    bb_file_unmap(&file);
    return bb_error(ctx);
}

bb_status bb_metrics_open(bb_context *ctx, bb_metrics *m, const char *path, const char *former,
                          int64_t step) {
    *m = (bb_metrics){.path = path};
    bb_status status = former ? keep_rows(ctx, former, step, path)
                              : bb_file_write(ctx, path, header, sizeof header - 1);
    if (status != BB_OK) return status;
    m->file = fopen(path, "a");
    return m->file ? BB_OK : bb_fail(ctx, BB_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
}

void bb_metrics_add(bb_metrics *m, const bb_metrics_row *row) {
    fprintf(m->file, "%lld,%s,%.6f,%.6g,", (long long)row->step, row->split, row->loss, row->lr);
    if (row->grad_norm >= 0) fprintf(m->file, "%.6g", row->grad_norm);
    fprintf(m->file, ",%.1f,%.3f\n", row->tokens_per_s, row->elapsed_s);
}

bb_status bb_metrics_flush(bb_context *ctx, bb_metrics *m) {
    if (fflush(m->file) == 0 && !ferror(m->file)) return BB_OK;
    return bb_fail(ctx, BB_ERR_IO, "%s: cannot write: %s", m->path, strerror(errno));
}

bb_status bb_metrics_close(bb_context *ctx, bb_metrics *m) {
    if (!m->file) return bb_error(ctx);
    bool failed = ferror(m->file) != 0;
    failed = fclose(m->file) != 0 || failed;
    m->file = NULL;
    return failed ? bb_fail(ctx, BB_ERR_IO, "%s: cannot write: %s", m->path, strerror(errno))
                  : bb_error(ctx);
}
