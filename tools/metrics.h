/* metrics.csv of a training run: one row a step, one more for each validation. The same numbers go
 * to a TensorBoard event file beside it (tools/events.h). */
#ifndef BOBBIN_TOOLS_METRICS_H
#define BOBBIN_TOOLS_METRICS_H

#include "bobbin.h"
#include "tools/events.h"

typedef struct bb_metrics {
    FILE *file;
    const char *path;
    char *pending; /* where it is written until bb_metrics_settle; NULL: at `path` */
    bb_events events;
    double started; /* wall time when elapsed_s was 0, earlier sittings seen as one with this */
} bb_metrics;

typedef struct bb_metrics_row {
    int64_t step;
    const char *split;                                   /* "train" or "val" */
    double loss, lr, grad_norm, tokens_per_s, elapsed_s; /* grad_norm < 0: none, an empty field */
} bb_metrics_row;

/* Begins the file `path`, which must outlive m. A resumed run keeps the rows of `former` (NULL:
 * none) up to `step`; the two may be the same file. elapsed_s: of training so far. The file of
 * another run stays as it is until bb_metrics_settle. */
bb_status bb_metrics_open(bb_context *ctx, bb_metrics *m, const char *path, const char *former,
                          int64_t step, double elapsed_s);
void bb_metrics_add(bb_metrics *m, const bb_metrics_row *row);
/* Everything added so far is in the file from here on; the error of an earlier bb_metrics_add shows
 * up here. */
bb_status bb_metrics_flush(bb_context *ctx, bb_metrics *m);
/* This run has saved a checkpoint: its file takes the place of another run's. */
bb_status bb_metrics_settle(bb_context *ctx, bb_metrics *m);
/* Without bb_metrics_settle another run's file is left, and nothing of this run. */
bb_status bb_metrics_close(bb_context *ctx, bb_metrics *m);

/* Reads one line of the file, without its end; split points to a constant. False: it is no row. */
bool bb_metrics_read_row(const char *line, size_t bytes, bb_metrics_row *row);

#endif
