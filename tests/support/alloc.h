/* Memory that runs out on demand. */
#ifndef BOBBIN_TESTS_ALLOC_H
#define BOBBIN_TESTS_ALLOC_H

#include "tests/support/test.h"

/* An allocator that fails its Nth call, once or from then on, and counts what is not given back. */
typedef struct test_allocator {
    bb_allocator base; /* for bb_options.allocator */
    int64_t calls;     /* so far */
    int64_t fail_at;   /* 1: the first call fails; 0: none does */
    bool for_good;     /* all calls after that one fail too */
    int64_t failures;  /* injected */
    int64_t live;      /* blocks not released */
    int64_t misuses;   /* released with another size than allocated */
} test_allocator;
void test_allocator_init(test_allocator *a);

/* Opens a context and runs fn, over and over; the Nth run has its Nth allocation fail (bb_open's
 * included), until a run needs fewer than N. Checks each time: bb_open gives NULL, or fn leaves
 * BB_ERR_MEMORY behind; fn succeeds in the same context once there is memory again; bb_close leaves
 * no block behind. Twice: fail once, fail from N on. */
void alloc_failure_loop(test *t, void (*fn)(bb_context *ctx));

#endif
