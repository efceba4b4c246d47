/* The CPU's copy, fill and accumulate, and the conversions under them: every f16 and bf16 bit
 * pattern, roundings of f32 and f64 against an independent one at each ISA level, strides on both
 * sides, transposes around the tile size. */
#include "backends/cpu/copy.h"
#include "backends/cpu/isa.h"
#include "ops/ops.h"
#include "tests/support/checker.h"

/* ---- Conversions */

static double value_of_f16(uint16_t h) {
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double x = exponent == 31 ? (fraction ? NAN : INFINITY)
               : exponent     ? ldexp(1024 + fraction, exponent - 25)
                              : ldexp(fraction, -24);
    return h >> 15 ? -x : x;
}
static double value_of_bf16(uint16_t h) {
    int exponent = h >> 7 & 255, fraction = h & 127;
    double x = exponent == 255 ? (fraction ? NAN : INFINITY)
               : exponent      ? ldexp(128 + fraction, exponent - 134)
                               : ldexp(fraction, -133);
    return h >> 15 ? -x : x;
}
static double value_of(bb_dtype d, uint16_t h) {
    return d == BB_F16 ? value_of_f16(h) : value_of_bf16(h);
}

static bool same(double a, double b) {
    return isnan(a) ? isnan(b) : a == b && signbit(a) == signbit(b);
}

/* A stride of 1 and others; lengths that end within a vector. */
static void test_all_patterns(test *t) {
    enum { N = 65536 };
    static uint16_t bits[N], back[N];
    static float f[N];
    static double d[N];
    for (int i = 0; i < N; i++) bits[i] = (uint16_t)i;
    for (int level = 0; bb_isa_at(level); level++) {
        const bb_isa *isa = bb_isa_at(level);
        if (!isa->usable()) continue;
        const bb_elementwise_loops *loops = isa->loops->elementwise;
        for (bb_dtype dtype = BB_F16; dtype <= BB_BF16; dtype++) {
            int wrong = 0;
            loops->load_f32(dtype, N, bits, 1, f);
            loops->load_f64(dtype, N, bits, 1, d);
            for (int i = 0; i < N; i++)
                wrong += !same((double)f[i], value_of(dtype, bits[i])) ||
                         !same(d[i], value_of(dtype, bits[i]));
            CHECK_MSG(t, wrong == 0, "%s, %s: %d patterns read wrong", isa->name,
                      bb_dtype_name(dtype), wrong);
            loops->store_f32(dtype, N, f, back);
            for (int i = 0; i < N; i++)
                wrong += isnan(value_of(dtype, bits[i])) ? !isnan(value_of(dtype, back[i]))
                                                         : back[i] != bits[i];
            loops->store_f64(dtype, N - 3, d, back);
            for (int i = 0; i < N - 3; i++)
                wrong += isnan(value_of(dtype, bits[i])) ? !isnan(value_of(dtype, back[i]))
                                                         : back[i] != bits[i];
            CHECK_MSG(t, wrong == 0, "%s, %s: %d patterns written wrong", isa->name,
                      bb_dtype_name(dtype), wrong);
            loops->load_f32(dtype, 1001, bits, 65, f);
            for (int i = 0; i < 1001; i++)
                wrong += !same((double)f[i], value_of(dtype, bits[i * 65]));
            CHECK_MSG(t, wrong == 0, "%s, %s: %d patterns read wrong at stride 65", isa->name,
                      bb_dtype_name(dtype), wrong);
        }
    }
}

static void check_rounding(test *t, const bb_isa *isa, int64_t n, const double *x,
                           const float *x32) {
    static uint16_t narrow[4096];
    static float f32[4096];
    const bb_elementwise_loops *loops = isa->loops->elementwise;
    for (bb_dtype dtype = BB_F32; dtype <= BB_BF16; dtype++) {
        loops->store_f64(dtype, n, x, dtype == BB_F32 ? (void *)f32 : (void *)narrow);
        for (int64_t i = 0; i < n; i++) {
            double got = dtype == BB_F32 ? (double)f32[i] : value_of(dtype, narrow[i]);
            CHECK_MSG(t, same(got, round_to(dtype, x[i])), "%s: %a to %s: got %a", isa->name, x[i],
                      bb_dtype_name(dtype), got);
        }
        if (dtype == BB_F32) continue;
        loops->store_f32(dtype, n, x32, narrow);
        for (int64_t i = 0; i < n; i++) {
            double got = value_of(dtype, narrow[i]), expected = round_to(dtype, (double)x32[i]);
            CHECK_MSG(t, same(got, expected), "%s: %a to %s: got %a", isa->name, (double)x32[i],
                      bb_dtype_name(dtype), got);
        }
    }
}

/* Values at, and one f64 ulp beside, the midpoints between neighbours: there a second rounding
 * shows. */
static void test_single_rounding(test *t) {
    enum { N = 4096 };
    static double x[N];
    static float x32[N];
    for (int level = 0; bb_isa_at(level); level++) {
        if (!bb_isa_at(level)->usable()) continue;
        for (bb_dtype dtype = BB_F16; dtype <= BB_BF16; dtype++) {
            uint32_t h = 11;
            for (int i = 0; i < N; i++) {
                h = h * 1664525u + 1013904223u;
                uint16_t bits = (uint16_t)(h >> 16);
                double a = value_of(dtype, bits), b = value_of(dtype, (uint16_t)(bits + 1));
                double middle = isfinite(a) && isfinite(b) ? (a + b) / 2 : a;
                x[i] = i % 3 == 0 ? middle : nextafter(middle, i % 3 == 1 ? INFINITY : -INFINITY);
                x32[i] = (float)middle;
                if (i % 3) x32[i] = nextafterf(x32[i], i % 3 == 1 ? INFINITY : -INFINITY);
            }
            x[0] = 65519.999999, x[1] = 65520, x[2] = -1e300, x[3] = 1e-300, x[4] = 3.4e38,
            x[5] = 0x1.fffffffp127;
            check_rounding(t, bb_isa_at(level), N, x, x32);
        }
    }
}

/* Integers beyond 2^53 to bf16 and f32 round once too; floats beyond the integers saturate. */
static void test_integers_and_floats(test *t) {
    static const int64_t big[] = {INT64_MAX,
                                  INT64_MIN,
                                  (INT64_C(0x101) << 50) + 1,
                                  (INT64_C(0x103) << 50) - 1,
                                  -(INT64_C(0x101) << 50) - 1,
                                  (INT64_C(0x1000001) << 30) + 1};
    enum { N = sizeof big / sizeof big[0] };
    static const double far[] = {1e30, -1e30, INFINITY, -INFINITY, NAN, 9.3e18, 300.5, -0.9};
    static const int64_t i64[] = {INT64_MAX, INT64_MIN, INT64_MAX, INT64_MIN, 0, INT64_MAX, 300, 0};
    static const int32_t i32[] = {INT32_MAX, INT32_MIN, INT32_MAX, INT32_MIN, 0, INT32_MAX, 300, 0};
    static const uint8_t u8[] = {255, 0, 255, 0, 0, 255, 255, 0}, flag[] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (int level = 0; bb_isa_at(level); level++) {
        if (!bb_isa_at(level)->usable()) continue;
        const bb_elementwise_loops *loops = bb_isa_at(level)->loops->elementwise;
        uint16_t narrow[N];
        float wide[N], far32[8];
        loops->store_i64(BB_BF16, N, big, narrow);
        loops->store_i64(BB_F32, N, big, wide);
        for (int i = 0; i < N; i++) {
            /* In long double, which holds an int64_t, the nearest of the two neighbours. */
            int exponent;
            long double exact = (long double)big[i],
                        quantum = (frexpl(exact, &exponent), ldexpl(1, exponent - 8));
            CHECK(t,
                  (long double)value_of_bf16(narrow[i]) == nearbyintl(exact / quantum) * quantum);
            quantum = ldexpl(1, exponent - 24);
            CHECK(t, (long double)wide[i] == nearbyintl(exact / quantum) * quantum);
        }
        int64_t got64[8];
        int32_t got32[8];
        uint8_t got8[8];
        for (int i = 0; i < 8; i++) far32[i] = (float)far[i];
        loops->store_f64(BB_I64, 8, far, got64);
        CHECK(t, memcmp(got64, i64, sizeof i64) == 0);
        loops->store_f32(BB_I64, 8, far32, got64);
        CHECK(t, memcmp(got64, i64, sizeof i64) == 0);
        loops->load_i64(BB_F64, 8, far, 1, got64);
        CHECK(t, memcmp(got64, i64, sizeof i64) == 0);
        loops->store_f64(BB_I32, 8, far, got32);
        CHECK(t, memcmp(got32, i32, sizeof i32) == 0);
        loops->store_f32(BB_I32, 8, far32, got32);
        CHECK(t, memcmp(got32, i32, sizeof i32) == 0);
        loops->store_f64(BB_U8, 8, far, got8);
        CHECK(t, memcmp(got8, u8, sizeof u8) == 0);
        loops->store_f64(BB_BOOL, 8, far, got8);
        CHECK(t, memcmp(got8, flag, sizeof flag) == 0);
    }
}

/* ---- Tensors */

static double element(int64_t i) { return (double)(i % 113) - 50; }

/* Copies, then accumulates, from every layout of (a, b, c) to every layout; looks at each element
 * and around them. */
static void check_layouts(test *t, bb_context *ctx, bb_dtype from, bb_dtype to, int64_t a,
                          int64_t b, int64_t c) {
    bb_backend *cpu = ctx->backend[BB_CPU];
    const int64_t n = a * b * c;
    double *value = malloc((size_t)(n + 1) * sizeof *value),
           *got = malloc((size_t)(n + 1) * sizeof *got);
    for (int64_t i = 0; value && i < n; i++) value[i] = element(i);
    for (int source = 0; value && got && source < 4; source++)
        for (int target = 0; target < 3; target++) {
            bb_t x = bb_from_f64(ctx, from, BB_SHAPE(a, b, c), value), y, whole;
            if (source == 1) x = bb_transpose(bb_contiguous(bb_transpose(x, 1, 2)), 1, 2);
            if (source == 2) x = bb_transpose(bb_contiguous(bb_transpose(x, 0, 2)), 0, 2);
            if (source == 3) x = bb_slice(bb_cat((bb_tensor *[]){x, x}, 2, 2), 2, 0, c, 1);
            whole = bb_full(ctx, to, BB_SHAPE(a, b + 1, 2 * c), 1);
            y = target == 0   ? bb_full(ctx, to, BB_SHAPE(a, b, c), 1)
                : target == 1 ? bb_transpose(bb_full(ctx, to, BB_SHAPE(a, c, b), 1), 1, 2)
                              : bb_slice(bb_narrow(whole, 1, 1, b), 2, 0, 2 * c, 2);
            CHECK(t, bb_cpu_copy(cpu, x, y) == BB_OK);
            bb_read_f64(y, got, n);
            int wrong = 0;
            for (int64_t i = 0; i < n; i++) wrong += got[i] != element(i);
            if (from == to) {
                CHECK(t, bb_cpu_accumulate(cpu, x, y) == BB_OK);
                bb_read_f64(y, got, n);
                for (int64_t i = 0; i < n; i++) wrong += got[i] != 2 * element(i);
            }
            CHECK_MSG(t, wrong == 0, "(%d, %d, %d) %s layout %d to %s layout %d: %d wrong", (int)a,
                      (int)b, (int)c, bb_dtype_name(from), source, bb_dtype_name(to), target,
                      wrong);
            if (target == 2) { /* what lies between is untouched */
                CHECK(t, bb_cpu_fill(cpu, y, 3) == BB_OK);
                bb_t sum = bb_sum_all(bb_cast(whole, BB_F64));
                CHECK(t,
                      n == 0 || bb_item(sum) == (double)(a * (b + 1) * 2 * c - n) + 3 * (double)n);
            }
        }
    CHECK_OK(t, ctx);
    free(value);
    free(got);
    bb_end_step(ctx);
}

static void test_layouts(test *t) {
    static const int64_t sizes[][3] = {{1, 1, 1},   {2, 3, 5},     {1, 31, 33},
                                       {2, 32, 32}, {1, 65, 31},   {3, 7, 9},
                                       {1, 8, 513}, {1, 257, 131}, {0, 4, 4}};
    static const bb_dtype pairs[][2] = {{BB_F32, BB_F32}, {BB_F64, BB_F64},  {BB_BF16, BB_BF16},
                                        {BB_F16, BB_F32}, {BB_F32, BB_BF16}, {BB_I64, BB_I64},
                                        {BB_F32, BB_I32}, {BB_I32, BB_F64}};
    bb_context *ctx = test_open();
    for (int s = 0; s < COUNT(sizes); s++)
        for (int p = 0; p < COUNT(pairs); p++)
            check_layouts(t, ctx, pairs[p][0], pairs[p][1], sizes[s][0], sizes[s][1], sizes[s][2]);
    bb_close(ctx);
}

/* Accumulation in bf16 rounds the sum, not the parts. */
static void test_accumulate_rounds_once(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_full(ctx, BB_BF16, BB_SHAPE(3), 1.0078125),
         y = bb_full(ctx, BB_BF16, BB_SHAPE(3), 256);
    CHECK(t, bb_cpu_accumulate(ctx->backend[BB_CPU], x, y) == BB_OK);
    CHECK(t, bb_item(bb_select(y, 0, 1)) == round_to(BB_BF16, 257.0078125));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Pieces are the same for any number of threads. */
static void test_threads(test *t) {
    enum { N = 40 };
    static float one[3 * N * 1000], two[3 * N * 1000];
    for (int threads = 1; threads <= 2; threads++) {
        bb_context *ctx = bb_open(&(bb_options){.seed = 5, .threads = threads});
        bb_t x = bb_randn(ctx, BB_F16, BB_SHAPE(3, 1000, N));
        bb_read(bb_cast(bb_transpose(x, 1, 2), BB_F32), threads == 1 ? one : two, sizeof one);
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
    CHECK(t, memcmp(one, two, sizeof one) == 0);
}

static const test_row rows[] = {
    {"all_patterns", test_all_patterns},
    {"single_rounding", test_single_rounding},
    {"integers_and_floats", test_integers_and_floats},
    {"layouts", test_layouts},
    {"accumulate_rounds_once", test_accumulate_rounds_once},
    {"threads", test_threads},
};
TEST_MAIN(rows)
