/* cast and contiguous as ops: each dtype pair against an independent conversion, gradients, and
 * when they do nothing. Conversions of all bit patterns: tests/backends/test_copy.c. */
#include "autograd/autograd.h"
#include "ops/ops.h"
#include "tests/support/cases.h"
#include "tests/support/checker.h"

/* What x is after a conversion from `from` to `to`. */
static double converted(bb_dtype from, bb_dtype to, double x) {
    static const double least[BB_DTYPE_COUNT] = {[BB_I32] = INT32_MIN},
                        most[BB_DTYPE_COUNT] = {[BB_I32] = INT32_MAX, [BB_U8] = 255};
    if (bb_dtype_is_float(to)) return round_to(to, x);
    if (to == BB_BOOL) return x != 0;
    if (bb_dtype_is_float(from)) {
        if (isnan(x)) return 0;
        double whole = trunc(x);
        if (to == BB_I64) return fmin(fmax(whole, -0x1p+63), 0x1p+63); /* read back as f64 */
        return fmin(fmax(whole, least[to]), most[to]);
    }
    int64_t i = (int64_t)x;
    return to == BB_I64   ? (double)i
           : to == BB_I32 ? (double)(int32_t)(uint32_t)(uint64_t)i
                          : (double)(uint8_t)(uint64_t)i;
}

static void test_all_pairs(test *t) {
    static const double values[] = {
        0,     1,     -1,    0.5,          -2.75,         3.3,  255,  256,  300.7, -5,
        65504, 65520, 70000, 2147483647.0, -2147483649.0, 1e10, 1e-5, 6e-8, 3e-8,  1e-42};
    enum { N = sizeof values / sizeof values[0] };
    bb_context *ctx = test_open();
    for (bb_dtype from = BB_F64; from < BB_DTYPE_COUNT; from++)
        for (bb_dtype to = BB_F64; to < BB_DTYPE_COUNT; to++) {
            double held[N] = {0}, got[N] = {0};
            bb_t x = bb_from_f64(ctx, from, BB_SHAPE(N), values);
            bb_read_f64(x, held, N);
            bb_t y = bb_cast(x, to);
            bb_read_f64(y, got, N);
            CHECK_OK(t, ctx);
            CHECK_INT(t, bb_dtype_of(y), to);
            for (int i = 0; i < N; i++)
                CHECK_MSG(t, got[i] == converted(from, to, held[i]), "%s to %s: %.17g gave %.17g",
                          bb_dtype_name(from), bb_dtype_name(to), held[i], got[i]);
        }
    bb_close(ctx);
}

static void ref_same(const op_case *c, const double *const *in, const bb_shape *shape,
                     double *out) {
    int64_t n = 0;
    (void)c;
    bb_shape_count(shape, &n);
    memcpy(out, in[0], (size_t)n * sizeof *out);
}

static void test_cases(test *t) {
    const op_case cases[] = {
        {.name = "to f64",
         .attrs = &(const bb_cast_attrs){BB_F64},
         .in = {{.shape = {2, {5, 7}}}},
         .n_in = 1},
        {.name = "scalar",
         .attrs = &(const bb_cast_attrs){BB_F64},
         .in = {{.shape = {0, {0}}}},
         .n_in = 1},
        {.name = "nothing",
         .attrs = &(const bb_cast_attrs){BB_F64},
         .in = {{.shape = {2, {0, 2}}}},
         .n_in = 1},
    };
    static const op_case same[] = {
        {.name = "matrix", .in = {{.shape = {2, {5, 7}}}}, .n_in = 1},
        {.name = "tiles",
         .in = {{.shape = {3, {2, 33, 40}}}},
         .n_in = 1,
         .no_second = true,
         .why = "slow"},
        {.name = "scalar", .in = {{.shape = {0, {0}}}}, .n_in = 1},
        {.name = "nothing", .in = {{.shape = {2, {0, 2}}}}, .n_in = 1},
    };
    run_op_cases(t, "cast", cases, 3, ref_same);
    run_op_cases(t, "contiguous", same, 4, ref_same);
}

static void test_nothing_to_do(test *t) {
    bb_context *ctx = test_open();
    bb_t x = bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(2, 3)), true);
    int length = bb_tape_length(ctx);
    CHECK(t, bb_cast(x, BB_F32) == x);
    CHECK(t, bb_contiguous(x) == x);
    CHECK_INT(t, bb_tape_length(ctx), length);
    bb_t turned = bb_contiguous(bb_transpose(x, 0, 1));
    CHECK(t, bb_is_contiguous(turned));
    /* The gradient comes back in x's dtype. */
    bb_backward(bb_sum_all(bb_cast(x, BB_BF16)), NULL);
    CHECK_INT(t, bb_dtype_of(bb_grad(x)), BB_F32);
    CHECK_OK(t, ctx);
    CHECK(t, !bb_requires_grad(bb_cast(x, BB_I64)) || bb_error(ctx) == BB_OK);
    CHECK(t, bb_cast(x, (bb_dtype)99) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT,
                "cast: dtype: expected one of f64|f32|f16|bf16|i64|i32|u8|bool, got number 99");
    CHECK(t, bb_cast(NULL, BB_F32) == NULL);
    CHECK(t, bb_contiguous(NULL) == NULL);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"all_pairs", test_all_pairs},
    {"cases", test_cases},
    {"nothing_to_do", test_nothing_to_do},
};
TEST_MAIN(rows)
