/* The yardstick of `bobbin bench gpu` touches every byte it says it does: each written buffer holds
 * what was read, combined, to its last 16 bytes. */
#include "core/impl.h"
#include "ops/ops.h"
#include "tests/support/test.h"

enum { MOST = 2048 * 4 + 28 };

static void check(test *t, bb_context *ctx, int reads, int writes, int64_t words) {
    static uint32_t value[3][MOST], got[MOST];
    bb_backend *backend = ctx->backend[BB_CUDA];
    bb_tensor *in[3], *out[2];
    const void *from[3];
    void *to[2];
    for (int r = 0; r < reads; r++) {
        for (int64_t i = 0; i < words; i++)
            value[r][i] = (uint32_t)(i * 2654435761u) ^ (uint32_t)r * 77777777u;
        in[r] = bb_from(ctx, BB_I32, BB_SHAPE(words), value[r]);
        from[r] = in[r]->data;
    }
    for (int w = 0; w < writes; w++) {
        out[w] = bb_full(ctx, BB_I32, BB_SHAPE(words + 4), 7);
        to[w] = out[w]->data;
    }
    CHECK_INT(t, backend->bandwidth(backend, from, reads, to, writes, (size_t)words * 4), BB_OK);
    for (int w = 0; w < writes; w++) {
        int64_t wrong = 0;
        bb_read(out[w], got, (size_t)(words + 4) * 4);
        for (int64_t i = 0; i < words; i++) {
            uint32_t expected = value[0][i];
            for (int r = 1; r < reads; r++) expected ^= value[r][i];
            wrong += got[i] != expected;
        }
        for (int64_t i = words; i < words + 4; i++) wrong += got[i] != 7;
        CHECK_MSG(t, wrong == 0, "%dR:%dW, %lld words: %lld wrong", reads, writes, (long long)words,
                  (long long)wrong);
    }
    CHECK_OK(t, ctx);
    bb_end_step(ctx);
}

static void test_bytes(test *t) {
    static const int64_t sizes[] = {4, 1020, 4092, 4096, 4100, MOST - 4};
    bb_context *ctx = test_open();
    for (int i = 0; i < 6; i++)
        for (int reads = 1; reads <= 3; reads++)
            for (int writes = 1; writes <= 2 && writes <= reads; writes++)
                check(t, ctx, reads, writes, sizes[i]);
    bb_close(ctx);
}

static void test_refusal(test *t) {
    bb_context *ctx = test_open();
    bb_backend *backend = ctx->backend[BB_CUDA];
    const void *from[4] = {NULL};
    void *to[4] = {NULL};
    CHECK(t, backend->bandwidth(backend, from, 4, to, 1, 16) == BB_ERR_DEVICE);
    CHECK_ERROR(t, ctx, BB_ERR_DEVICE, "no kernel for so many buffers");
    CHECK(t, backend->bandwidth(backend, from, 1, to, 2, 16) == BB_ERR_DEVICE);
    CHECK_ERROR(t, ctx, BB_ERR_DEVICE, "no kernel for so many buffers");
    bb_close(ctx);
}

static const test_row rows[] = {{"bytes", test_bytes}, {"refusal", test_refusal}};
TEST_MAIN(rows)
