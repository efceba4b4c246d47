/* ISA levels: the same loops compiled for several instruction sets, chosen when a context opens. */
#ifndef BOBBIN_BACKENDS_CPU_ISA_H
#define BOBBIN_BACKENDS_CPU_ISA_H

#include "backends/cpu/loops/loops.h"

typedef struct bb_isa {
    const char *name;
    const bb_loops *loops;
    const bb_gemm_kernel *bf16; /* takes the place of the loops' product of bf16; NULL: none */
    bool (*usable)(void);
} bb_isa;

/* The best level this processor can run; `wish` (BOBBIN_ISA, may be NULL) names another if it can
 * run that (bb_cpu_check_wishes tells where it cannot). */
const bb_isa *bb_isa_choose(const char *wish);
const bb_isa *bb_isa_at(int index); /* best first; NULL past the end */

#endif
