/* Processors without named levels: the baseline is what the compiler targets. */
#include "backends/cpu/isa.h"

static bool always(void) { return true; }
static const bb_isa level = {"baseline", &bb_loops_baseline, NULL, always};

const bb_isa *bb_isa_at(int index) { return index == 0 ? &level : NULL; }
const bb_isa *bb_isa_choose(const char *wish) {
    (void)wish;
    return &level;
}
