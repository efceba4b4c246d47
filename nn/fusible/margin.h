/* Options that the norms of this folder share. */
#ifndef BOBBIN_NN_FUSIBLE_MARGIN_H
#define BOBBIN_NN_FUSIBLE_MARGIN_H

#include "nn/fusible.h"

/* By stage: forward, backward, inference. */
typedef struct bb_margins {
    int stage[3];
} bb_margins;

bb_status bb_margins_read(bb_context *ctx, const char *who, const bb_fusible_norm_options *options,
                          bb_margins *margins);
bb_status bb_norm_eps(bb_context *ctx, const char *who, const bb_fusible_norm_options *options,
                      double *eps);
/* The context's margin, or the stage's where that is larger, while its kernels start; begin returns
 * what end puts back. */
int bb_margin_begin(bb_context *ctx, const bb_margins *margins, int stage);
void bb_margin_end(bb_context *ctx, int before);

#endif
