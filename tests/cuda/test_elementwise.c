/* Maps, copies, random numbers and optimizer steps on the device against the CPU, at the sizes,
 * offsets and strides where their kernels change: vectors of 16 bytes, rows, single elements,
 * tiles. What is exact on both sides must have the same bits. */
#include "autograd/autograd.h"
#include "core/impl.h"
#include "ops/ops.h"
#include "tests/support/test.h"

enum { MAX_BYTES = 1 << 17, MAX_PART = 5000 };

static const bb_dtype dtypes[] = {BB_F64, BB_F32, BB_F16, BB_BF16, BB_I64, BB_I32, BB_U8};
enum { FLOATS = 4, DTYPES = sizeof dtypes / sizeof dtypes[0] };

typedef struct situation {
    bb_dtype dtype;
    int64_t n, offset, columns;
} situation;

typedef bb_t (*recipe)(bb_context *ctx, const situation *s);

/* The recipe's result on the CPU and on the test's device: within the tolerance, or the same bits
 * for 0. */
static void compare(test *t, recipe make, const situation *s, double tolerance) {
    static unsigned char bytes[2][MAX_BYTES];
    bb_context *ctx[] = {bb_open(NULL), test_open()};
    bb_t y[2];
    for (int i = 0; i < 2; i++) {
        y[i] = make(ctx[i], s);
        CHECK_OK(t, ctx[i]);
        if (tolerance > 0) y[i] = bb_cast(y[i], BB_F64);
        bb_read(y[i], bytes[i], (size_t)bb_count(y[i]) * bb_dtype_bytes(bb_dtype_of(y[i])));
        CHECK_OK(t, ctx[i]);
    }
    const size_t n = (size_t)bb_count(y[0]);
    bool same = bb_count(y[1]) == (int64_t)n;
    if (tolerance > 0)
        for (size_t k = 0; k < n; k++) {
            const double a = ((double *)(void *)bytes[0])[k], b = ((double *)(void *)bytes[1])[k];
            same = same && fabs(a - b) <= tolerance * (1 + fabs(a));
        }
    else
        same = same && memcmp(bytes[0], bytes[1], n * bb_dtype_bytes(bb_dtype_of(y[0]))) == 0;
    CHECK_MSG(t, same, "%s, n %lld, offset %lld, columns %lld: not as on the CPU",
              bb_dtype_name(s->dtype), (long long)s->n, (long long)s->offset,
              (long long)s->columns);
    for (int i = 0; i < 2; i++) bb_close(ctx[i]);
}

/* Numbers of both signs, with a fraction for floats; the same on all devices. */
static bb_t numbers(bb_context *ctx, bb_dtype dtype, int64_t n, double step) {
    bb_t x = bb_arange(ctx, BB_F64, 0, (double)n, 1);
    return bb_cast(bb_mul_scalar(bb_sin(bb_cast(bb_mul_scalar(x, step), BB_F64)), 90), dtype);
}
/* Its own storage starts at a whole address, element `offset` of it does not. */
static bb_t part(bb_context *ctx, const situation *s, double step) {
    static double values[MAX_PART];
    for (int64_t i = 0; i < s->n + s->offset; i++)
        values[i] = floor(90 * sin(step * (double)i)) / 4;
    bb_t x = bb_from_f64(ctx, s->dtype, BB_SHAPE(s->n + s->offset), values);
    return bb_narrow(x, 0, s->offset, s->n);
}

static bb_t unary(bb_context *ctx, const situation *s) { return bb_neg(part(ctx, s, 0.7)); }
static bb_t binary(bb_context *ctx, const situation *s) {
    return bb_add(part(ctx, s, 0.7), part(ctx, s, 0.3));
}
static bb_t with_one(bb_context *ctx, const situation *s) {
    return bb_maximum(bb_narrow(part(ctx, s, 0.7), 0, 0, 1), part(ctx, s, 0.3));
}
static bb_t compared(bb_context *ctx, const situation *s) {
    return bb_lt(part(ctx, s, 0.7), part(ctx, s, 0.3));
}
static bb_t chosen(bb_context *ctx, const situation *s) {
    bb_t x = part(ctx, s, 0.7), y = part(ctx, s, 0.3);
    return bb_where(bb_lt(x, y), x, y);
}
static bb_t to_bf16(bb_context *ctx, const situation *s) {
    return bb_cast(part(ctx, s, 0.7), s->dtype == BB_BF16 ? BB_F32 : BB_BF16);
}

static void test_flat(test *t) {
    static const recipe recipes[] = {unary, binary, with_one, compared, chosen, to_bf16};
    for (int d = 0; d < DTYPES; d++) {
        const int64_t width = 16 / (int64_t)bb_dtype_bytes(dtypes[d]);
        const int64_t sizes[] = {1,          width - 1,       width,           width + 1,
                                 33 * width, 256 * width - 1, 256 * width + 1, 2 * width + 1};
        for (int k = 0; k < 8; k++)
            for (int64_t offset = 0; offset < 2; offset++) {
                situation s = {dtypes[d], sizes[k], offset, 0};
                if (s.n < 1) continue;
                for (int r = 0; r < 6; r++) compare(t, recipes[r], &s, 0);
            }
    }
}

/* Every pair of special values, under op number `columns`. */
static bb_t special(bb_context *ctx, const situation *s) {
    static bb_t (*const ops[])(bb_t, bb_t) = {bb_eq, bb_ne, bb_lt,      bb_le,
                                              bb_gt, bb_ge, bb_maximum, bb_minimum};
    const double values[] = {NAN, INFINITY, -INFINITY, 0.0, -0.0, 1};
    bb_t x = bb_from_f64(ctx, s->dtype, BB_SHAPE(6), values);
    bb_t y = ops[s->columns](bb_unsqueeze(x, 1), x);
    return s->columns < 6
               ? y
               : bb_cat((bb_t[]){bb_cast(bb_ne(y, y), BB_F64), bb_cast(bb_gt(y, x), BB_F64)}, 2, 0);
}
static void test_special(test *t) {
    for (int d = 0; d < FLOATS; d++)
        for (int64_t op = 0; op < 8; op++) {
            situation s = {dtypes[d], 0, 0, op};
            compare(t, special, &s, 0);
        }
}

/* (rows, columns) of a wider tensor; a bias of its last axis, a factor of its first. */
static bb_t rows_and_bias(bb_context *ctx, const situation *s) {
    situation all = {s->dtype, 5 * (s->columns + s->offset), 0, 0};
    bb_t x = bb_reshape(part(ctx, &all, 0.7), BB_SHAPE(5, s->columns + s->offset));
    bb_t row = bb_narrow(x, 1, s->offset, s->columns);
    bb_t bias = bb_reshape(bb_narrow(row, 0, 1, 1), BB_SHAPE(s->columns));
    return bb_mul(bb_add(row, bias), bb_narrow(row, 1, 0, 1));
}
static void test_rows(test *t) {
    for (int d = 0; d < DTYPES; d++) {
        const int64_t width = 16 / (int64_t)bb_dtype_bytes(dtypes[d]);
        for (int64_t columns = 2 * width - 1; columns <= 2 * width + 1; columns++)
            for (int64_t offset = 0; offset <= width; offset += width > 1 ? width / 2 : 1) {
                situation s = {dtypes[d], 0, offset, columns};
                compare(t, rows_and_bias, &s, 0);
            }
    }
}

/* ---- Copies: n and columns are the last two sizes, offset picks the order of the axes. */

static bb_t turned(bb_context *ctx, const situation *s) {
    static const int64_t orders[3][3] = {{0, 2, 1}, {2, 1, 0}, {1, 2, 0}};
    const int64_t *o = orders[s->offset];
    situation all = {s->dtype, 2 * s->n * s->columns, 0, 0};
    bb_t x = bb_reshape(part(ctx, &all, 0.7), BB_SHAPE(2, s->n, s->columns));
    return bb_contiguous(bb_permute(x, BB_INTS(o[0], o[1], o[2])));
}
/* A target of any strides: copied into, then added to. */
static bb_t into_turned(bb_context *ctx, const situation *s) {
    situation all = {s->dtype, 2 * s->n * s->columns, 0, 0};
    bb_t x = bb_reshape(part(ctx, &all, 0.7), BB_SHAPE(2, s->n, s->columns));
    bb_t y = bb_zeros(ctx, s->dtype, BB_SHAPE(s->columns, 2, s->n)), view;
    view = bb_permute(y, BB_INTS(1, 2, 0));
    if (!view) return NULL;
    bb_backend *backend = ctx->backend[view->device];
    bb_copy_into(x, view);
    backend->add(backend, x, view);
    return y;
}
static void test_turned(test *t) {
    static const int64_t sizes[] = {7, 8, 31, 32, 33};
    for (int d = 0; d < DTYPES; d++)
        for (int i = 0; i < 5; i++)
            for (int64_t order = 0; order < 3; order++) {
                situation s = {dtypes[d], sizes[i], order, sizes[(i + order) % 5]};
                compare(t, turned, &s, 0);
                if (order == 0) compare(t, into_turned, &s, 0);
            }
}

/* Long inputs across the output's rows are straightened first. */
static bb_t across(bb_context *ctx, const situation *s) {
    bb_t x = bb_reshape(numbers(ctx, s->dtype, s->n * s->columns, 0.7), BB_SHAPE(s->columns, s->n));
    return bb_sub(bb_transpose(x, 0, 1), bb_reshape(x, BB_SHAPE(s->n, s->columns)));
}
static void test_across(test *t) {
    const situation s[] = {{BB_F32, 63, 0, 65}, {BB_F32, 64, 0, 64}, {BB_BF16, 600, 0, 8}};
    for (int i = 0; i < 3; i++) compare(t, across, &s[i], 1e-6);
}

/* ---- Random numbers */

static bb_t uniform(bb_context *ctx, const situation *s) {
    return bb_rand(ctx, s->dtype, BB_SHAPE(s->n));
}
static bb_t normal(bb_context *ctx, const situation *s) {
    return bb_randn(ctx, s->dtype, BB_SHAPE(s->n));
}
static bb_t dropped(bb_context *ctx, const situation *s) {
    bb_set_rng(ctx, (bb_rng){7, UINT64_C(0xfffffffffffffffe)}); /* the counter wraps */
    return bb_dropout(part(ctx, s, 0.7), 0.3);
}
static bb_t ramp(bb_context *ctx, const situation *s) {
    return bb_arange(ctx, s->dtype, 0.1, 0.1 + 0.3 * (double)s->n, 0.3);
}
static void test_random(test *t) {
    static const int64_t sizes[] = {1, 2, 3, 4, 5, 63, 1023, 1024, 1025};
    for (int d = 0; d < FLOATS; d++)
        for (int i = 0; i < 9; i++) {
            situation s = {dtypes[d], sizes[i], 0, 0};
            compare(t, uniform, &s, 0);
            compare(t, normal, &s, dtypes[d] == BB_BF16 ? 1e-2 : dtypes[d] == BB_F16 ? 1e-3 : 2e-6);
            compare(t, ramp, &s, 0);
            compare(t, dropped, &s, 0);
            s.offset = 1;
            compare(t, dropped, &s, 0);
        }
}

/* ---- Fused backward and optimizer steps */

/* Both gradients of swiglu, of halves of rows. */
static bb_t gate_gradients(bb_context *ctx, const situation *s) {
    situation all = {s->dtype, 4 * 2 * s->columns, 0, 0};
    bb_t x = bb_mul_scalar(bb_reshape(part(ctx, &all, 0.7), BB_SHAPE(4, 2 * s->columns)), 0.1);
    x = bb_set_requires_grad(bb_detach(x), true);
    bb_t y = bb_swiglu(bb_narrow(x, 1, 0, s->columns), bb_narrow(x, 1, s->columns, s->columns));
    bb_backward(bb_sum_all(bb_square(y)), NULL);
    return bb_grad(x);
}
static bb_t rotated(bb_context *ctx, const situation *s) {
    situation all = {s->dtype, 2 * 3 * 4 * s->columns, 0, 0};
    const bb_rope_attrs a = {
        .base = 100, .scale = 1, .dims = s->n, .offset = 3, .interleaved = s->offset};
    bb_t x = bb_reshape(part(ctx, &all, 0.7), BB_SHAPE(2, 3, 4, s->columns));
    return bb_rope(bb_permute(bb_mul_scalar(x, 0.1), BB_INTS(0, 2, 1, 3)), &a);
}
static bb_t stepped(bb_context *ctx, const situation *s) {
    const bb_dtype state = s->dtype == BB_F64 ? BB_F64 : BB_F32;
    situation wide = {state, s->n, s->offset, 0};
    bb_t p = bb_contiguous(part(ctx, s, 0.7)), g = part(ctx, s, 0.3), scale = NULL;
    bb_t m = bb_mul_scalar(part(ctx, &wide, 0.2), 0.1), v = bb_square(part(ctx, &wide, 0.1));
    bb_t lr = bb_scalar(ctx, BB_F32, 0.01), step = bb_scalar(ctx, BB_F32, 1 + (double)s->columns);
    if (s->columns % 2) scale = bb_scalar(ctx, BB_F32, 0.25);
    bb_adamw_(p, g, m, v, lr, step, scale, NULL);
    bb_t all[] = {bb_cast(p, state), m, v};
    return bb_cat(all, 3, 0);
}
static bb_t descended(bb_context *ctx, const situation *s) {
    const bb_dtype state = s->dtype == BB_F64 ? BB_F64 : BB_F32;
    situation wide = {state, s->n, s->offset, 0};
    const bb_sgd_attrs a = {
        .momentum = s->columns ? 0.9 : 0, .weight_decay = 0.1, .nesterov = s->columns > 1};
    bb_t p = bb_contiguous(part(ctx, s, 0.7)), g = part(ctx, s, 0.3),
         velocity = bb_mul_scalar(part(ctx, &wide, 0.2), 1);
    bb_sgd_(p, g, velocity, bb_scalar(ctx, BB_F32, 0.01), NULL, &a);
    bb_t all[] = {bb_cast(p, state), velocity};
    return bb_cat(all, 2, 0);
}
static double tolerance_of(bb_dtype dtype) {
    return dtype == BB_F64 ? 1e-12 : dtype == BB_F32 ? 2e-6 : dtype == BB_F16 ? 2e-3 : 1.6e-2;
}
static void test_fused(test *t) {
    for (int d = 0; d < FLOATS; d++) {
        const double tolerance = tolerance_of(dtypes[d]);
        for (int64_t columns = 7; columns <= 9; columns++) {
            situation s = {dtypes[d], 0, 0, columns};
            compare(t, gate_gradients, &s, tolerance);
        }
        for (int64_t width = 6; width <= 18; width += 2)
            for (int64_t dims = 0; dims <= width; dims += 4)
                for (int64_t interleaved = 0; interleaved < 2; interleaved++) {
                    situation s = {dtypes[d], dims, interleaved, width};
                    compare(t, rotated, &s, tolerance);
                }
    }
}
static void test_steps(test *t) {
    static const int64_t sizes[] = {1, 3, 4, 5, 1023, 1024, 1025};
    for (int d = 0; d < FLOATS; d++)
        for (int i = 0; i < 7; i++)
            for (int64_t k = 0; k < 3; k++)
                for (int64_t offset = 0; offset < 2; offset++) {
                    situation s = {dtypes[d], sizes[i], offset, k};
                    compare(t, stepped, &s, tolerance_of(dtypes[d]));
                    compare(t, descended, &s, tolerance_of(dtypes[d]));
                }
}

static const test_row rows[] = {{"flat", test_flat},     {"special", test_special},
                                {"rows", test_rows},     {"turned", test_turned},
                                {"across", test_across}, {"random", test_random},
                                {"fused", test_fused},   {"steps", test_steps}};
TEST_MAIN(rows)
