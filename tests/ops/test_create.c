/* full, arange, rand, randn, dropout: values, where each random number comes from, statistics,
 * replay, errors. */
#include "autograd/autograd.h"
#include "core/impl.h"
#include "ops/ops.h"
#include "tests/support/cases.h"

static const bb_dtype floats[] = {BB_F64, BB_F32, BB_F16, BB_BF16};

static void test_full(test *t) {
    bb_context *ctx = test_open();
    for (bb_dtype d = BB_F64; d < BB_DTYPE_COUNT; d++) {
        double got[6] = {0};
        bb_t x = bb_full(ctx, d, BB_SHAPE(2, 3), 1);
        bb_read_f64(x, got, 6);
        for (int i = 0; i < 6; i++) CHECK(t, got[i] == 1);
        CHECK_INT(t, bb_dtype_of(x), d);
        CHECK(t, bb_item(bb_zeros(ctx, d, BB_SCALAR)) == 0);
        CHECK(t, bb_item(bb_ones(ctx, d, BB_SCALAR)) == 1);
        bb_t like = bb_zeros_like(bb_transpose(x, 0, 1));
        CHECK(t, bb_size(like, 0) == 3 && bb_size(like, 1) == 2 && bb_dtype_of(like) == d &&
                     bb_is_contiguous(like));
        CHECK(t, bb_item(bb_select(bb_select(bb_ones_like(x), 0, 1), 0, 2)) == 1);
    }
    CHECK(t, isnan(bb_item(bb_full(ctx, BB_BF16, BB_SCALAR, NAN))));
    CHECK_INT(t, bb_count(bb_full(ctx, BB_F32, BB_SHAPE(3, 0), 1)), 0);
    /* Large enough for several pieces, and the last element is written too. */
    CHECK(t, bb_item(bb_select(bb_full(ctx, BB_F32, BB_SHAPE(70001), 2.5), 0, 70000)) == 2.5);
    CHECK(t, bb_item(bb_sum_all(bb_zeros(ctx, BB_BF16, BB_SHAPE(70001)))) == 0);
    CHECK_OK(t, ctx);
    CHECK(t, bb_full(ctx, BB_F32, BB_SHAPE(2, -1), 0) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "full: shape: expected sizes >= 0 whose product fits, got (2, -1)");
    CHECK(t, bb_full(ctx, BB_F32, (bb_shape){99, {0}}, 0) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "full: shape: expected 0 to 8 sizes, got 99");
    CHECK(t, bb_full(ctx, (bb_dtype)77, BB_SCALAR, 0) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "full: dtype: expected one of f64|f32|f16|bf16|i64|i32|u8|bool, got number 77");
    CHECK(t, bb_zeros_like(NULL) == NULL);
    bb_close(ctx);
}

static void check_arange(test *t, bb_context *ctx, bb_dtype d, double start, double stop,
                         double step, int64_t count) {
    double got[16] = {0};
    bb_t x = bb_arange(ctx, d, start, stop, step);
    CHECK_INT(t, bb_count(x), count);
    if (bb_count(x) != count) return;
    bb_read_f64(x, got, count);
    for (int64_t i = 0; i < count; i++)
        CHECK_NEAR(t, got[i], start + (double)i * step, d == BB_F32 ? 1e-6 : 0);
}

static void test_arange(test *t) {
    bb_context *ctx = test_open();
    check_arange(t, ctx, BB_I64, 0, 5, 1, 5);
    check_arange(t, ctx, BB_I32, 5, 0, -2, 3);
    check_arange(t, ctx, BB_F64, 0, 1, 0.25, 4);
    check_arange(t, ctx, BB_F32, 0.5, 1.2, 0.1, 7);
    check_arange(t, ctx, BB_F32, 3, 3, 1, 0);
    check_arange(t, ctx, BB_F32, 3, 1, 1, 0);
    check_arange(t, ctx, BB_BF16, 0, 3, 1, 3);
    CHECK(t, bb_item(bb_select(bb_arange(ctx, BB_I64, 0, 100000, 1), 0, 99999)) == 99999);
    CHECK_OK(t, ctx);
    CHECK(t, bb_arange(ctx, BB_F32, 0, 1, 0) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "arange: step: expected a finite number other than 0, got 0");
    CHECK(t, bb_arange(ctx, BB_F32, 0, INFINITY, 1) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "arange: stop: expected a finite number, got inf");
    CHECK(t, bb_arange(ctx, BB_F32, NAN, 1, 1) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "arange: start: expected a finite number, got ");
    CHECK(t, bb_arange(ctx, BB_F32, 0, 1e300, 1) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "arange: stop: expected at most 2^53 steps");
    CHECK(t, bb_arange(ctx, BB_BOOL, 0, 2, 1) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "arange: dtype: expected a number dtype, got bool");
    bb_close(ctx);
}

/* Element i of rand and randn, straight from the rule in ops/create.c. */
static double expected_uniform(bb_dtype d, bb_rng rng, int64_t i) {
    uint32_t lane[4];
    if (d == BB_F64) {
        bb_philox(rng.seed, rng.offset + (uint64_t)i / 2, lane);
        const uint64_t bits = (uint64_t)lane[i % 2 * 2 + 1] << 32 | lane[i % 2 * 2];
        return ldexp((double)(bits >> 11), -53);
    }
    bb_philox(rng.seed, rng.offset + (uint64_t)i / 4, lane);
    return ldexp((double)(lane[i % 4] >> 8), -24);
}
static double expected_normal(bb_dtype d, bb_rng rng, int64_t i) {
    double u0 = expected_uniform(d, rng, i & ~INT64_C(1)), u1 = expected_uniform(d, rng, i | 1);
    double r = sqrt(-2 * log(1 - u0)), angle = 2 * acos(-1) * u1;
    return i % 2 ? r * sin(angle) : r * cos(angle);
}

static void test_where_numbers_come_from(test *t) {
    enum { N = 9001 }; /* two pieces, the last block incomplete */
    static double uniform[N], normal[N];
    bb_context *ctx = test_open();
    for (int k = 0; k < 4; k++) {
        bb_dtype d = floats[k];
        const double tolerance = d == BB_F64   ? 1e-14
                                 : d == BB_F32 ? 3e-6
                                 : d == BB_F16 ? 3e-3
                                               : 2e-2;
        bb_rng first = {UINT64_C(0xFEDCBA9876543210), 12345 + 100 * (uint64_t)k};
        bb_set_rng(ctx, first);
        bb_read_f64(bb_rand(ctx, d, BB_SHAPE(N)), uniform, N);
        bb_rng second = bb_get_rng(ctx);
        CHECK_INT(t, second.offset, first.offset + (d == BB_F64 ? (2 * N + 3) / 4 : (N + 3) / 4));
        bb_read_f64(bb_randn(ctx, d, BB_SHAPE(N)), normal, N);
        for (int64_t i = 0; i < N; i++) {
            CHECK_NEAR(t, uniform[i], expected_uniform(d, first, i), d <= BB_F32 ? 0 : tolerance);
            CHECK_NEAR(t, normal[i], expected_normal(d, second, i),
                       tolerance * fmax(1, fabs(normal[i])));
            CHECK(t, uniform[i] >= 0 && uniform[i] < 1);
        }
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_statistics(test *t) {
    enum { N = 40000 };
    static double x[N];
    bb_context *ctx = test_open();
    for (int k = 0; k < 8; k++) {
        bool normal = k >= 4;
        double sum = 0, squares = 0, mean = normal ? 0 : 0.5, variance = normal ? 1 : 1.0 / 12;
        bb_read_f64(normal ? bb_randn(ctx, floats[k % 4], BB_SHAPE(200, 200))
                           : bb_rand(ctx, floats[k % 4], BB_SHAPE(200, 200)),
                    x, N);
        for (int i = 0; i < N; i++) {
            sum += x[i];
            squares += (x[i] - mean) * (x[i] - mean);
            CHECK(t, normal ? isfinite(x[i]) : x[i] >= 0 && x[i] < 1);
        }
        /* Five standard errors. */
        CHECK_NEAR(t, sum / N, mean,
                   5 * sqrt(variance / N) + (floats[k % 4] == BB_BF16 ? 2e-3 : 0));
        CHECK_NEAR(t, squares / N, variance, variance * 0.05);
    }
    CHECK_OK(t, ctx);
    CHECK(t, bb_rand(ctx, BB_I64, BB_SHAPE(2)) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "rand: dtype: expected a float dtype, got i64");
    bb_close(ctx);
}

static void test_replay_and_threads(test *t) {
    enum { N = 50000 };
    static float one[N], two[N];
    for (int threads = 1; threads <= 2; threads++) {
        bb_context *ctx = bb_open(&(bb_options){.seed = 7, .threads = threads});
        bb_read(bb_dropout(bb_randn(ctx, BB_F32, BB_SHAPE(N)), 0.3), threads == 1 ? one : two,
                sizeof one);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
    CHECK(t, memcmp(one, two, sizeof one) == 0);
    /* Consecutive calls take different numbers; the seed matters. */
    bb_context *ctx = bb_open(&(bb_options){.seed = 8});
    double first = bb_item(bb_randn(ctx, BB_F32, BB_SCALAR));
    CHECK(t, first != bb_item(bb_randn(ctx, BB_F32, BB_SCALAR)));
    bb_close(ctx);
    ctx = bb_open(&(bb_options){.seed = 9});
    CHECK(t, first != bb_item(bb_randn(ctx, BB_F32, BB_SCALAR)));
    bb_close(ctx);
}

static const uint64_t dropout_seed = 1234;

static void ref_dropout(const op_case *c, const double *const *in, const bb_shape *shape,
                        double *out) {
    const bb_dropout_attrs *a = c->attrs;
    int64_t n = 0;
    bb_shape_count(shape, &n);
    for (int64_t i = 0; i < n; i++) {
        double u = expected_uniform(BB_F32, (bb_rng){(uint64_t)a->seed, (uint64_t)a->offset}, i);
        out[i] = u < a->p ? 0 : in[0][i] / (1 - a->p);
    }
}

static void test_dropout_cases(test *t) {
    const bb_dropout_attrs half = {0.5, (int64_t)dropout_seed, 5},
                           some = {0.125, (int64_t)dropout_seed, 9};
    const bb_dropout_attrs none = {0, (int64_t)dropout_seed, 1};
    const op_case cases[] = {
        {.name = "half", .attrs = &half, .in = {{.shape = {2, {5, 7}}}}, .n_in = 1},
        {.name = "some",
         .attrs = &some,
         .in = {{.shape = {2, {3, 173}}}},
         .n_in = 1,
         .no_second = true,
         .why = "slow"},
        {.name = "none", .attrs = &none, .in = {{.shape = {1, {9}}}}, .n_in = 1},
        {.name = "scalar", .attrs = &some, .in = {{.shape = {0, {0}}}}, .n_in = 1},
        {.name = "nothing", .attrs = &some, .in = {{.shape = {1, {0}}}}, .n_in = 1},
    };
    run_op_cases(t, "dropout", cases, COUNT(cases), ref_dropout);
}

static void test_dropout(test *t) {
    enum { N = 20000 };
    static float y[N], g[N];
    bb_context *ctx = test_open();
    bb_t x = bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(N)), true),
         out = bb_dropout(x, 0.25);
    bb_backward(bb_sum_all(out), NULL);
    bb_read(out, y, sizeof y);
    bb_read(bb_grad(x), g, sizeof g);
    CHECK_OK(t, ctx);
    int dropped = 0;
    for (int i = 0; i < N; i++) {
        CHECK(t, y[i] == 0 || fabsf(y[i] - 4.0f / 3) < 1e-6f);
        CHECK(t, y[i] == g[i]); /* the mask of backward is that of forward */
        dropped += y[i] == 0;
    }
    CHECK_NEAR(t, dropped / (double)N, 0.25, 0.02);
    bb_read(bb_dropout(x, 1), y, sizeof y);
    for (int i = 0; i < N; i++) CHECK(t, y[i] == 0);
    CHECK_OK(t, ctx);
    CHECK(t, bb_dropout(x, 1.5) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "dropout: p: expected 0 to 1, got 1.5");
    CHECK(t, bb_dropout(x, NAN) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "dropout: p: expected 0 to 1");
    CHECK(t, bb_dropout(NULL, 0.5) == NULL);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"full", test_full},
    {"arange", test_arange},
    {"where_numbers_come_from", test_where_numbers_come_from},
    {"statistics", test_statistics},
    {"replay_and_threads", test_replay_and_threads},
    {"dropout_cases", test_dropout_cases},
    {"dropout", test_dropout},
};
TEST_MAIN(rows)
