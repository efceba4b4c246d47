/* TensorBoard's event files: scalars over steps, to watch a run with `tensorboard --logdir FOLDER`.
 */
#ifndef BOBBIN_TOOLS_EVENTS_H
#define BOBBIN_TOOLS_EVENTS_H

#include "bobbin.h"
#include "io/onnx.h" /* the writer of protobuf */

typedef struct bb_events {
    FILE *file;
    char path[4096];
    bb_proto event, summary, value; /* one being made */
} bb_events;

typedef struct bb_event_scalar {
    const char *tag; /* "loss/train" */
    double value;    /* stored as f32 */
} bb_event_scalar;

/* Begins a new file in the folder of the file `beside`, named after the time. TensorBoard reads all
 * event files of a folder; from here on it forgets what earlier ones said. */
bb_status bb_events_open(bb_context *ctx, bb_events *e, const char *beside);
/* wall_time in seconds since 1970. */
void bb_events_add(bb_events *e, int64_t step, double wall_time, const bb_event_scalar *values,
                   int n);
/* An earlier error of bb_events_add shows up in these two. */
bb_status bb_events_flush(bb_context *ctx, bb_events *e);
bb_status bb_events_close(bb_context *ctx, bb_events *e);

/* Seconds since 1970. */
double bb_wall_time(void);
/* CRC-32C (Castagnoli), as in RFC 3720, appendix B.4. */
uint32_t bb_crc32c(const void *data, size_t bytes);

#endif
