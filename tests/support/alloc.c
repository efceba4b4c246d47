/* The failing allocator and its loop (alloc.h). */
#include "tests/support/alloc.h"

#include <stdarg.h>

/* Before each block: its size, to check it on release, and its neighbours in the list of all. 64
 * bytes, to keep the alignment. */
enum { HEADER = 64, MANY_CALLS = 20000 };
struct test_block {
    size_t bytes;
    struct test_block *prev, *next;
};

static void *allocate(void *user, size_t bytes) {
    test_allocator *a = user;
    a->calls++;
    if (a->fail_at && (a->calls == a->fail_at || (a->for_good && a->calls > a->fail_at))) {
        a->failures++;
        return NULL;
    }
    size_t whole = (bytes + HEADER + 63) / 64 * 64;
    struct test_block *block = aligned_alloc(64, whole);
    if (!block) return NULL;
    memset(block, 0xa5, whole); /* nobody may count on zeros */
    *block = (struct test_block){.bytes = bytes, .next = a->blocks};
    if (a->blocks) a->blocks->prev = block;
    a->blocks = block;
    a->live++;
    return (char *)block + HEADER;
}

static void release(void *user, void *block, size_t bytes) {
    test_allocator *a = user;
    if (!block) return;
    struct test_block *head = (struct test_block *)(void *)((char *)block - HEADER);
    if (head->bytes != bytes) a->misuses++;
    *(head->prev ? &head->prev->next : &a->blocks) = head->next;
    if (head->next) head->next->prev = head->prev;
    a->live--;
    free(head);
}

void test_allocator_init(test_allocator *a) {
    memset(a, 0, sizeof *a);
    a->base = (bb_allocator){allocate, release, a};
}

static void say(char problem[ALLOC_PROBLEM], const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void say(char problem[ALLOC_PROBLEM], const char *format, ...) {
    if (problem[0]) return; /* the first is the cause */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(problem, ALLOC_PROBLEM, format, arguments);
    va_end(arguments);
}

bool alloc_run_failing(const alloc_subject *subject, int64_t n, bool for_good,
                       char problem[ALLOC_PROBLEM]) {
    test_allocator a;
    test_allocator_init(&a);
    problem[0] = '\0';
    if (!subject->prepare) a.fail_at = n;
    a.for_good = for_good;
    bb_context *ctx = bb_open(&(bb_options){.allocator = &a.base});
    if (ctx) {
        if (a.failures) say(problem, "it failed in bb_open, which went on");
        if (subject->prepare) {
            subject->prepare(ctx);
            a.fail_at = a.calls + n;
        }
        subject->run(ctx, subject->user);
        bb_status got = bb_error(ctx), expected = a.failures ? BB_ERR_MEMORY : BB_OK;
        /* One refusal may be made good: the pool is emptied and the system asked again. */
        if (got != expected && (for_good || got != BB_OK))
            say(problem, "got %s (\"%.300s\"), expected %s", bb_status_name(got),
                bb_error_message(ctx), bb_status_name(expected));
        a.fail_at = 0;
        bb_clear_error(ctx);
        bb_end_step(ctx);
        subject->run(ctx, subject->user);
        if (bb_error(ctx))
            say(problem, "the context fails afterwards: %.300s", bb_error_message(ctx));
    } else if (!a.failures) {
        say(problem, "bb_open gave NULL though no allocation failed");
    }
    bb_close(ctx);
    if (a.live) say(problem, "%lld blocks leaked", (long long)a.live);
    if (a.misuses) say(problem, "%lld blocks released with a wrong size", (long long)a.misuses);
    while (a.blocks) release(&a, (char *)a.blocks + HEADER, a.blocks->bytes); /* the canary's */
    return a.failures > 0;
}

static void call(bb_context *ctx, void *user) { (*(void (**)(bb_context *))user)(ctx); }

void alloc_failure_loop(test *t, void (*fn)(bb_context *ctx)) {
    alloc_subject subject = {.run = call, .user = &fn};
    for (int for_good = 0; for_good < 2; for_good++) {
        char problem[ALLOC_PROBLEM];
        int64_t n = 1;
        while (n < MANY_CALLS && t->failures < 5) {
            bool reached = alloc_run_failing(&subject, n, for_good, problem);
            CHECK_MSG(t, !problem[0], "allocation %lld%s: %s", (long long)n,
                      for_good ? " and all after it" : "", problem);
            if (!reached) break;
            n++;
        }
        CHECK_MSG(t, n > 1 && n < MANY_CALLS, "stopped at allocation %lld", (long long)n);
    }
}
