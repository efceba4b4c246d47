/* The failing allocator and its loop (alloc.h). */
#include "tests/support/alloc.h"

/* The header keeps a block's size, to check it on release, and 64-byte alignment. */
enum { HEADER = 64, MANY_CALLS = 20000 };

static void *allocate(void *user, size_t bytes) {
    test_allocator *a = user;
    a->calls++;
    if (a->fail_at && (a->calls == a->fail_at || (a->for_good && a->calls > a->fail_at))) {
        a->failures++;
        return NULL;
    }
    size_t whole = (bytes + HEADER + 63) / 64 * 64;
    char *block = aligned_alloc(64, whole);
    if (!block) return NULL;
    memset(block, 0xa5, whole); /* nobody may count on zeros */
    memcpy(block, &bytes, sizeof bytes);
    a->live++;
    return block + HEADER;
}

static void release(void *user, void *block, size_t bytes) {
    test_allocator *a = user;
    if (!block) return;
    size_t allocated;
    memcpy(&allocated, (char *)block - HEADER, sizeof allocated);
    if (allocated != bytes) a->misuses++;
    a->live--;
    free((char *)block - HEADER);
}

void test_allocator_init(test_allocator *a) {
    memset(a, 0, sizeof *a);
    a->base = (bb_allocator){allocate, release, a};
}

/* One run; true if allocation n was reached. */
static bool run_once(test *t, void (*fn)(bb_context *ctx), int64_t n, bool for_good) {
    test_allocator a;
    test_allocator_init(&a);
    a.fail_at = n;
    a.for_good = for_good;
    bb_options options = {.allocator = &a.base};
    bb_context *ctx = bb_open(&options);
    if (ctx) {
        CHECK_MSG(t, a.failures == 0, "allocation %lld failed in bb_open, which went on",
                  (long long)n);
        fn(ctx);
        bb_status got = bb_error(ctx), expected = a.failures ? BB_ERR_MEMORY : BB_OK;
        /* One refusal may be made good: the pool is emptied and the system asked again. */
        CHECK_MSG(t, got == expected || (!for_good && got == BB_OK),
                  "allocation %lld: got %s (\"%s\"), expected %s", (long long)n,
                  bb_status_name(got), bb_error_message(ctx), bb_status_name(expected));
        a.fail_at = 0;
        bb_clear_error(ctx);
        bb_end_step(ctx);
        fn(ctx);
        CHECK_MSG(t, bb_error(ctx) == BB_OK, "after the failure of allocation %lld: %s",
                  (long long)n, bb_error_message(ctx));
    } else {
        CHECK_MSG(t, a.failures > 0, "bb_open gave NULL though no allocation failed");
    }
    bb_close(ctx);
    CHECK_MSG(t, a.live == 0, "allocation %lld: %lld blocks leaked", (long long)n,
              (long long)a.live);
    CHECK_MSG(t, a.misuses == 0, "allocation %lld: %lld blocks released with a wrong size",
              (long long)n, (long long)a.misuses);
    return a.failures > 0;
}

void alloc_failure_loop(test *t, void (*fn)(bb_context *ctx)) {
    for (int for_good = 0; for_good < 2; for_good++) {
        int64_t n = 1;
        while (n < MANY_CALLS && t->failures < 5 && run_once(t, fn, n, for_good)) n++;
        CHECK_MSG(t, n > 1 && n < MANY_CALLS, "stopped at allocation %lld", (long long)n);
    }
}
