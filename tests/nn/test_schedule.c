/* Learning rates at the corners and in the middle. */
#include "tests/nn/nn_test.h"

static void values(test *t) {
    bb_schedule s = {.lr_max = 1, .lr_min = 0.1, .warmup = 4, .total = 15};
    const double warm[] = {0.25, 0.5, 0.75, 1};
    for (int i = 0; i < 4; i++) CHECK_NEAR(t, bb_schedule_lr(&s, i), warm[i], 1e-15);
    CHECK_NEAR(t, bb_schedule_lr(&s, 4), 1, 1e-15);    /* the top of the cosine */
    CHECK_NEAR(t, bb_schedule_lr(&s, 9), 0.55, 1e-15); /* half way */
    CHECK_NEAR(t, bb_schedule_lr(&s, 5), 0.1 + 0.45 * (1 + cos(acos(-1) / 10)), 1e-15);
    CHECK_NEAR(t, bb_schedule_lr(&s, 14), 0.1, 1e-15); /* the last step */
    CHECK_NEAR(t, bb_schedule_lr(&s, 15), 0.1, 0);
    CHECK_NEAR(t, bb_schedule_lr(&s, 1000000), 0.1, 0);
    for (int i = 5; i < 15; i++) CHECK(t, bb_schedule_lr(&s, i) < bb_schedule_lr(&s, i - 1));
}

static void constant(test *t) {
    bb_schedule flat = {.lr_max = 0.3}, warm = {.lr_max = 0.3, .warmup = 2};
    CHECK_NEAR(t, bb_schedule_lr(&flat, 0), 0.3, 0);
    CHECK_NEAR(t, bb_schedule_lr(&flat, 123456), 0.3, 0);
    CHECK_NEAR(t, bb_schedule_lr(&warm, 0), 0.15, 1e-16);
    CHECK_NEAR(t, bb_schedule_lr(&warm, 2), 0.3, 0);
}

/* Fewer steps than the warm-up, or one: no division by zero, nothing above lr_max. */
static void corners(test *t) {
    for (int64_t warmup = 0; warmup < 4; warmup++)
        for (int64_t total = 1; total < 5; total++) {
            bb_schedule s = {.lr_max = 1, .lr_min = 0.5, .warmup = warmup, .total = total};
            for (int64_t step = 0; step < 8; step++) {
                double lr = bb_schedule_lr(&s, step);
                CHECK_MSG(t, lr > 0 && lr <= 1, "warmup %lld total %lld step %lld: %g",
                          (long long)warmup, (long long)total, (long long)step, lr);
            }
        }
}

static const test_row rows[] = {{"values", values}, {"constant", constant}, {"corners", corners}};
TEST_MAIN(rows)
