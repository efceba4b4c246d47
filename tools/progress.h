/* Shows a long run to a person: on a terminal a bar with step, loss, rate and time left, redrawn in
 * place; otherwise a plain line every so many steps. Writes to stderr; stdout stays free for
 * results. */
#ifndef BOBBIN_TOOLS_PROGRESS_H
#define BOBBIN_TOOLS_PROGRESS_H

#include "core/core.h"

typedef struct bb_progress {
    FILE *file;
    bool terminal, color;
    int64_t first, total,
        every; /* steps done before this run, steps in all, steps between two plain lines */
    double begin, drawn; /* seconds */
} bb_progress;

double bb_seconds(void); /* a steady clock */

void bb_progress_begin(bb_progress *p, FILE *file, int64_t first, int64_t total, int64_t every);
void bb_progress_step(bb_progress *p, int64_t step, double loss, double tokens_per_s);
void bb_progress_note(bb_progress *p, const char *format, ...)
    BB_PRINTF(2, 3); /* a line that stays */
void bb_progress_end(bb_progress *p);

#endif
