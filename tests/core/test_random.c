/* core/random.c: Philox4x32-10 against the known answers of its authors' Random123 (kat_vectors),
 * and replaying. */
#include "core/impl.h"
#include "tests/support/test.h"

/* An independent Philox4x32-10 with all four counter words, after the paper. */
static void philox(uint32_t c[4], uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        uint64_t a = (uint64_t)c[0] * 0xD2511F53u, b = (uint64_t)c[2] * 0xCD9E8D57u;
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k0, (uint32_t)b,
                            (uint32_t)(a >> 32) ^ c[3] ^ k1, (uint32_t)a};
        memcpy(c, next, sizeof next);
    }
}

static void test_known_answers(test *t) {
    static const struct {
        uint32_t counter[4], key[2], answer[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < COUNT(kat); i++) {
        uint32_t c[4];
        memcpy(c, kat[i].counter, sizeof c);
        philox(c, kat[i].key[0], kat[i].key[1]);
        CHECK(t, memcmp(c, kat[i].answer, sizeof c) == 0);
    }
    uint32_t got[4];
    bb_philox(0, 0, got);
    CHECK(t, memcmp(got, kat[0].answer, sizeof got) == 0);
    uint64_t s = 88172645463325252u;
    for (int i = 0; i < 1000; i++) {
        uint64_t word[2];
        for (int j = 0; j < 2; j++) s ^= s << 13, s ^= s >> 7, s ^= s << 17, word[j] = s;
        uint32_t c[4] = {(uint32_t)word[1], (uint32_t)(word[1] >> 32), 0, 0};
        philox(c, (uint32_t)word[0], (uint32_t)(word[0] >> 32));
        bb_philox(word[0], word[1], got);
        CHECK(t, memcmp(got, c, sizeof got) == 0);
    }
}

static void test_replay(test *t) {
    bb_context *ctx = bb_open(&(bb_options){.seed = 42});
    float a[37], b[37], c[37];
    bb_rng start = bb_get_rng(ctx);
    CHECK_INT(t, start.seed, 42);
    CHECK_INT(t, start.offset, 0);
    bb_read(bb_rand(ctx, BB_F32, BB_SHAPE(37)), a, sizeof a);
    CHECK_INT(t, bb_get_rng(ctx).offset, 10); /* blocks of four */
    bb_read(bb_rand(ctx, BB_F32, BB_SHAPE(37)), b, sizeof b);
    CHECK(t, memcmp(a, b, sizeof a) != 0);
    bb_set_rng(ctx, start);
    bb_read(bb_rand(ctx, BB_F32, BB_SHAPE(37)), c, sizeof c);
    CHECK(t, memcmp(a, c, sizeof a) == 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
    ctx = bb_open(&(bb_options){.seed = 43});
    bb_read(bb_rand(ctx, BB_F32, BB_SHAPE(37)), c, sizeof c);
    CHECK(t, memcmp(a, c, sizeof a) != 0);
    CHECK_INT(t, bb_take_random(ctx, 0), bb_take_random(ctx, 0));
    bb_close(ctx);
}

static const test_row rows[] = {{"known answers", test_known_answers}, {"replay", test_replay}};
TEST_MAIN(rows)
