/* Memory that runs out on demand. */
#ifndef BOBBIN_TESTS_ALLOC_H
#define BOBBIN_TESTS_ALLOC_H

#include "tests/support/test.h"

/* An allocator that fails its Nth call, once or from then on, and counts what is not given back. */
typedef struct test_allocator {
    bb_allocator base;         /* for bb_options.allocator */
    int64_t calls;             /* so far */
    int64_t fail_at;           /* 1: the first call fails; 0: none does */
    bool for_good;             /* all calls after that one fail too */
    int64_t failures;          /* injected */
    int64_t live;              /* blocks not released */
    struct test_block *blocks; /* those */
    int64_t misuses;           /* released with another size than allocated */
} test_allocator;
void test_allocator_init(test_allocator *a);

/* What is run while memory runs out. */
typedef struct alloc_subject {
    void (*prepare)(bb_context *ctx); /* NULL, or readies a new context; failures start after it.
                                         Without it bb_open's own allocations fail too */
    void (*run)(bb_context *ctx, void *user);
    void *user;
} alloc_subject;

/* Opens a context whose allocation n fails (once, or for good from there on), runs the subject,
 * lifts the failure and runs it again. True while allocation n was reached. `problem` is "", or
 * what was wrong: an error that is not BB_ERR_MEMORY or is missing, a second run that failed, a
 * leak. */
enum { ALLOC_PROBLEM = 512 };
bool alloc_run_failing(const alloc_subject *subject, int64_t n, bool for_good,
                       char problem[ALLOC_PROBLEM]);

/* Opens a context and runs fn, over and over; the Nth run has its Nth allocation fail (bb_open's
 * included), until a run needs fewer than N. Checks each time: bb_open gives NULL, or fn leaves
 * BB_ERR_MEMORY behind; fn succeeds in the same context once there is memory again; bb_close leaves
 * no block behind. Twice: fail once, fail from N on. */
void alloc_failure_loop(test *t, void (*fn)(bb_context *ctx));

#endif
