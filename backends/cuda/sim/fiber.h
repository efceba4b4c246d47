/* Fibers: stacks to switch between, for the threads of a simulated block. A switch costs a few
 * nanoseconds on x86-64 and two system calls elsewhere (ucontext). AddressSanitizer is told of each
 * switch. */
#ifndef BOBBIN_BACKENDS_CUDA_SIM_FIBER_H
#define BOBBIN_BACKENDS_CUDA_SIM_FIBER_H

#include <stddef.h>

struct bb_fiber;

/* NULL: no memory. entry(user) runs on the fiber at the first bb_fiber_resume after bb_fiber_start.
 */
bb_fiber *bb_fiber_new();
void bb_fiber_free(bb_fiber *fiber);
void bb_fiber_start(bb_fiber *fiber, void (*entry)(void *user), void *user);
/* From the scheduler: runs the fiber until it yields or its entry returns. True: it yielded. */
bool bb_fiber_resume(bb_fiber *fiber);
/* From inside the fiber that runs. */
void bb_fiber_yield();
/* From inside: ends the fiber as if its entry had returned; nothing on its stack is unwound. */
[[noreturn]] void bb_fiber_exit();

#endif
