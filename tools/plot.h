/* Draws the loss curve of a run as one self-contained SVG file. */
#ifndef BOBBIN_TOOLS_PLOT_H
#define BOBBIN_TOOLS_PLOT_H

#include "io/io.h"

typedef struct bb_plot {
    const char *title;
    const char *metrics; /* metrics.csv: the curve comes from there, so a resumed run shows all of
                            its history */
    const char *output;
    double entropy;   /* of the source in nats per byte, drawn as a line; 0: not known */
    const char *unit; /* what a loss is of: "token"; NULL: "byte" */
} bb_plot;

/* BB_ERR_FORMAT: metrics is not what `bobbin train` writes. Rows without a finite loss are left
 * out. */
bb_status bb_plot_loss(bb_context *ctx, const bb_plot *plot);

#endif
