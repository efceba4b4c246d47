/* Reductions, running sums and argmax on a device: sizes at the thresholds of
 * backends/cuda/reduce.cu and scan.cu, rows that are not aligned, and the same bytes whatever the
 * number of multiprocessors (BOBBIN_SIM_SMS; a real device has the number it has). */
#include "ops/ops.h"
#include "tests/cuda/values.h"

/* Sums and maxima of rows or columns of a matrix against plain loops. */
static void check_matrix(test *t, bb_context *ctx, bb_dtype dtype, int64_t rows, int64_t columns,
                         int axis, int64_t gap) {
    bb_t x = some_tensor(ctx, dtype, BB_SHAPE(rows, columns), gap, 7);
    bb_t sum = bb_sum(x, BB_INTS(axis), false), max = bb_amax(x, BB_INTS(axis), false),
         min = bb_amin(x, BB_INTS(axis), false);
    const int64_t n = axis ? columns : rows, outputs = axis ? rows : columns;
    double *v = values_of(x), *sums = values_of(sum), *most = values_of(max),
           *least = values_of(min);
    int wrong = 0;
    for (int64_t o = 0; o < outputs; o++) {
        double s = 0, high = -INFINITY, low = INFINITY;
        for (int64_t i = 0; i < n; i++) {
            const double e = axis ? v[o * columns + i] : v[i * columns + o];
            s += e;
            high = fmax(high, e);
            low = fmin(low, e);
        }
        const double unit = dtype == BB_BF16 ? 1.0 / 128 : dtype == BB_F32 ? 1e-6 : 1e-14;
        wrong += !(fabs(sums[o] - s) <= unit * (fabs(s) + sqrt((double)n)));
        wrong += most[o] != high || least[o] != low;
    }
    CHECK_OK(t, ctx);
    CHECK_MSG(t, wrong == 0, "%s (%lld, %lld) axis %d gap %lld: %d of %lld wrong",
              bb_dtype_name(dtype), (long long)rows, (long long)columns, axis, (long long)gap,
              wrong, (long long)outputs);
    free(v);
    free(sums);
    free(most);
    free(least);
    bb_end_step(ctx);
}

static void test_rows(test *t) {
    /* Lanes of 8 elements, a block beyond 2048, chunks beyond 32768. */
    static const int64_t n[] = {7,    8,    9,    16,   17,    255,   256,  257,
                                2047, 2048, 2049, 2056, 32768, 32769, 32776};
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(n); i++) {
        check_matrix(t, ctx, BB_F32, 3, n[i], 1, 0);
        check_matrix(t, ctx, BB_BF16, 2, n[i], 1, 0);
        check_matrix(t, ctx, BB_BF16, 2, n[i], 1, 1);
        check_matrix(t, ctx, BB_BF16, 2, n[i], 1, -1);
    }
    check_matrix(t, ctx, BB_F64, 3, 2056, 1, 0);
    check_matrix(t, ctx, BB_F32, 1, 65536, 1, 4);
    bb_close(ctx);
}

static void test_columns(test *t) {
    /* Four rows a thread, widths of a warp of packs and one more, chunks beyond 512 rows. */
    static const int64_t sizes[][2] = {{3, 32},    {4, 32},   {5, 33},   {31, 31},  {33, 128},
                                       {33, 132},  {9, 256},  {9, 264},  {17, 257}, {512, 128},
                                       {513, 128}, {545, 32}, {4100, 8}, {700, 3},  {16400, 2}};
    bb_context *ctx = test_open();
    for (int i = 0; i < COUNT(sizes); i++) {
        check_matrix(t, ctx, BB_F32, sizes[i][0], sizes[i][1], 0, 0);
        check_matrix(t, ctx, BB_BF16, sizes[i][0], sizes[i][1], 0, 0);
        check_matrix(t, ctx, BB_BF16, sizes[i][0], sizes[i][1], 0, 1);
        check_matrix(t, ctx, BB_BF16, sizes[i][0], sizes[i][1], 0, -1);
    }
    check_matrix(t, ctx, BB_F64, 520, 64, 0, 0);
    bb_close(ctx);
}

/* Several axes of both kinds, dense and not, and chunks of several outputs with strides in y. */
static void test_axes(test *t) {
    enum { LONG = 4200 };
    bb_context *ctx = test_open();
    bb_t x = some_tensor(ctx, BB_F32, BB_SHAPE(5, 3, LONG, 4), 0, 3);
    double *v = values_of(x);
    for (unsigned mask = 1; mask < 16; mask++) {
        bb_ints axes = {0, {0}};
        double expected[5 * 3 * 4] = {0};
        if (!(mask & 4)) continue; /* the long axis always goes */
        for (int a = 0; a < 4; a++)
            if (mask >> a & 1) axes.v[axes.n++] = a;
        for (int64_t i = 0; i < 15 * LONG * 4; i++) {
            const int64_t at[] = {i / (LONG * 12), i / (LONG * 4) % 3, 0, i % 4};
            static const int64_t size[] = {5, 3, 1, 4};
            int64_t o = 0;
            for (int a = 0; a < 4; a++)
                if (!(mask >> a & 1)) o = o * size[a] + at[a];
            expected[o] += v[i];
        }
        bb_t sum = bb_sum(x, axes, false);
        double *got = values_of(sum);
        for (int64_t o = 0; o < bb_count(sum); o++)
            CHECK_MSG(t, fabs(got[o] - expected[o]) < 1e-3, "mask %u, %lld: got %g, expected %g",
                      mask, (long long)o, got[o], expected[o]);
        free(got);
    }
    CHECK_OK(t, ctx);
    free(v);
    bb_close(ctx);
}

static void test_lines(test *t) {
    static const int64_t n[] = {63, 64, 65, 1023, 1024, 1025, 2048, 2049, 3100};
    bb_context *ctx = test_open();
    for (int k = 0; k < COUNT(n); k++)
        for (int axis = 0; axis < 2; axis++) {
            bb_t x = some_tensor(ctx, BB_F32, axis ? BB_SHAPE(2, n[k]) : BB_SHAPE(n[k], 2), 0, 11);
            double *v = values_of(x), *sums = values_of(bb_cumsum(x, axis)),
                   *best = values_of(bb_argmax(x, axis, false));
            int wrong = 0;
            for (int64_t line = 0; line < 2; line++) {
                double s = 0;
                int64_t at = 0;
                for (int64_t i = 0; i < n[k]; i++) {
                    const int64_t here = axis ? line * n[k] + i : i * 2 + line,
                                  top = axis ? line * n[k] + at : at * 2 + line;
                    s += v[here];
                    wrong += !(fabs(sums[here] - s) <= 1e-6 * (1 + fabs(s)));
                    if (v[here] > v[top]) at = i;
                }
                wrong += best[line] != (double)at;
            }
            CHECK_MSG(t, wrong == 0, "%lld along axis %d: %d wrong", (long long)n[k], axis, wrong);
            free(v);
            free(sums);
            free(best);
            bb_end_step(ctx);
        }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* The first of equals, the first NaN, across lanes and warps. */
static void test_argmax_ties(test *t) {
    enum { N = 2100 };
    bb_context *ctx = test_open();
    double v[N] = {0};
    v[2049] = v[1300] = v[333] = 5;
    CHECK_NEAR(t, bb_item(bb_argmax(bb_from_f64(ctx, BB_F32, BB_SHAPE(N), v), 0, false)), 333, 0);
    v[1999] = v[1500] = NAN;
    CHECK_NEAR(t, bb_item(bb_argmax(bb_from_f64(ctx, BB_F32, BB_SHAPE(N), v), 0, false)), 1500, 0);
    CHECK(t, isnan(bb_item(bb_amax(bb_from_f64(ctx, BB_F32, BB_SHAPE(N), v), BB_INTS(0), false))));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static uint64_t hash_of(bb_t x) {
    double *v = values_of(x);
    uint64_t h = 1469598103934665603u;
    const unsigned char *bytes = (const unsigned char *)v;
    for (int64_t i = 0; i < bb_count(x) * 8; i++) h = (h ^ bytes[i]) * 1099511628211u;
    free(v);
    return h;
}

static void test_same_bytes(test *t) {
    static const char *const sms[] = {"1", "4", "13"};
    uint64_t first[8] = {0};
    for (int k = 0; k < COUNT(sms); k++) {
        setenv("BOBBIN_SIM_SMS", sms[k], 1);
        bb_context *ctx = test_open();
        bb_t x = some_tensor(ctx, BB_F32, BB_SHAPE(70, 1000), 0, 5);
        const bb_t results[] = {bb_sum_all(x),
                                bb_mean(x, BB_INTS(0), false),
                                bb_sum(x, BB_INTS(1), false),
                                bb_sum_squares(x),
                                bb_cumsum(x, 1),
                                bb_cumsum(x, 0)};
        for (int i = 0; i < COUNT(results); i++) {
            const uint64_t h = hash_of(results[i]);
            if (k == 0) first[i] = h;
            CHECK_MSG(t, h == first[i], "result %d differs with %s multiprocessors", i, sms[k]);
        }
        CHECK_OK(t, ctx);
        bb_close(ctx);
    }
    unsetenv("BOBBIN_SIM_SMS");
}

static const test_row rows[] = {
    {"rows", test_rows},   {"columns", test_columns},         {"axes", test_axes},
    {"lines", test_lines}, {"argmax_ties", test_argmax_ties}, {"same_bytes", test_same_bytes},
};
TEST_MAIN(rows)
