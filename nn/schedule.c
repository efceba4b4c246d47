/* Learning rates: linear warm-up, then half a cosine down. */
#include <math.h>

#include "nn/nn.h"

double bb_schedule_lr(const bb_schedule *s, int64_t step) {
    if (!s) return NAN; /* which an optimizer refuses */
    if (step < 0) step = 0;
    if (step < s->warmup) return s->lr_max * (double)(step + 1) / (double)s->warmup;
    if (s->total <= 0) return s->lr_max;
    int64_t last = s->total - 1;
    if (step >= last || last <= s->warmup) return s->lr_min;
    double done = (double)(step - s->warmup) / (double)(last - s->warmup);
    return s->lr_min + 0.5 * (s->lr_max - s->lr_min) * (1 + cos(3.14159265358979323846 * done));
}
