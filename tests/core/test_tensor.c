/* core/tensor.c: making, viewing, reading and writing tensors. */
#include "core/impl.h"
#include "tests/support/test.h"

static void test_make(test *t) {
    bb_context *ctx = test_open();
    float values[6] = {1, 2, 3, 4, 5, 6}, back[6] = {0};
    bb_tensor *x = bb_from(ctx, BB_F32, BB_SHAPE(2, 3), values);
    CHECK(t, bb_context_of(x) == ctx);
    CHECK_INT(t, bb_dtype_of(x), BB_F32);
    CHECK_INT(t, bb_device_of(x), BB_CPU);
    CHECK_INT(t, bb_rank(x), 2);
    CHECK_INT(t, bb_count(x), 6);
    CHECK_INT(t, bb_size(x, 0), 2);
    CHECK_INT(t, bb_size(x, -1), 3);
    CHECK_INT(t, bb_size(x, 2), -1);
    CHECK_INT(t, bb_size(x, -3), -1);
    CHECK_INT(t, bb_stride(x, 0), 3);
    CHECK_INT(t, bb_stride(x, 1), 1);
    CHECK(t, bb_is_contiguous(x));
    CHECK(t, bb_data(x) != NULL && (uintptr_t)bb_data(x) % 64 == 0);
    values[0] = 99; /* copied, not borrowed */
    CHECK_INT(t, bb_read(x, back, sizeof back), BB_OK);
    CHECK_NEAR(t, back[0], 1, 0);
    CHECK_NEAR(t, back[5], 6, 0);
    bb_tensor *nan = bb_empty(ctx, BB_F32, BB_SHAPE(3));
    CHECK(t, isnan(((float *)bb_data(nan))[2]));
    CHECK_NEAR(t, bb_item(bb_scalar(ctx, BB_F16, 1.5)), 1.5, 0);
    CHECK_INT(t, bb_rank(bb_scalar(ctx, BB_I64, 7)), 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_empty(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *none = bb_empty(ctx, BB_F32, BB_SHAPE(3, 0, 2));
    CHECK_INT(t, bb_count(none), 0);
    CHECK(t, bb_data(none) == NULL);
    CHECK_INT(t, bb_read(none, NULL, 0), BB_OK);
    CHECK_INT(t, bb_write(none, NULL, 0), BB_OK);
    CHECK(t, bb_from(ctx, BB_F32, BB_SHAPE(0), NULL) != NULL);
    CHECK_OK(t, ctx);
    CHECK(t, isnan(bb_item(none)));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected one element, got shape (3, 0, 2)");
    bb_close(ctx);
}

static void test_null(test *t) {
    float value;
    CHECK(t, bb_context_of(NULL) == NULL);
    CHECK(t, bb_data(NULL) == NULL);
    CHECK_INT(t, bb_count(NULL), 0);
    CHECK_INT(t, bb_rank(NULL), 0);
    CHECK_INT(t, bb_size(NULL, 0), -1);
    CHECK_INT(t, bb_stride(NULL, 0), -1);
    CHECK(t, !bb_is_contiguous(NULL) && !bb_requires_grad(NULL) && !bb_grad(NULL));
    CHECK(t, isnan(bb_item(NULL)));
    CHECK_INT(t, bb_read(NULL, &value, 4), BB_ERR_ARGUMENT);
    CHECK_INT(t, bb_write(NULL, &value, 4), BB_ERR_ARGUMENT);
    CHECK(t, bb_keep(NULL) == NULL && bb_set_requires_grad(NULL, true) == NULL);
    CHECK(t, bb_empty(NULL, BB_F32, BB_SHAPE(1)) == NULL);
    CHECK(t, bb_from(NULL, BB_F32, BB_SHAPE(1), &value) == NULL);
    bb_drop(NULL);
    bb_end_step(NULL);
    bb_close(NULL);
}

static void test_bad_arguments(test *t) {
    bb_context *ctx = test_open();
    float value = 0, two[2];
    CHECK(t, !bb_empty(ctx, (bb_dtype)42, BB_SHAPE(1)));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "dtype: expected one of f64|f32");
    CHECK(t, !bb_empty(ctx, BB_F32, BB_SHAPE(-2, 3)));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "(-2, 3)");
    CHECK(t, !bb_empty(ctx, BB_F32, BB_SHAPE(INT64_MAX, 4)));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "less than 2^63 bytes");
    CHECK(t, !bb_empty(ctx, BB_F32, ((bb_shape){9, {1}})));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "rank 9");
    CHECK(t, !bb_empty(ctx, BB_F32, BB_SHAPE((int64_t)1 << 50)));
    CHECK_ERROR(t, ctx, BB_ERR_MEMORY, "out of memory");
    CHECK(t, !bb_empty_on(ctx, BB_DEVICE_COUNT, BB_F32, BB_SHAPE(1)));
    CHECK_ERROR(t, ctx, BB_ERR_DEVICE, "no such device");
    CHECK(t, !bb_from(ctx, BB_F32, BB_SHAPE(2), NULL));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "values: expected a pointer, got NULL");
    CHECK(t, !bb_from(ctx, BB_F32, BB_SCALAR, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "values: expected a pointer, got NULL");
    bb_tensor *x = bb_from(ctx, BB_F32, BB_SHAPE(1), &value);
    CHECK_INT(t, bb_read(x, two, 8), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_read: bytes: expected 4, got 8");
    CHECK_INT(t, bb_write(x, two, 8), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_write: bytes: expected 4, got 8");
    CHECK_INT(t, bb_read(x, NULL, 4), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "values: expected a pointer, got NULL");
    CHECK_INT(t, bb_read_f64(x, (double[2]){0}, 2), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "count: expected 1, got 2");
    bb_close(ctx);
}

/* Views read the right elements whatever their strides, and writing through one changes the base.
 */
static void test_views(test *t) {
    bb_context *ctx = test_open();
    double values[24], got[24];
    for (int i = 0; i < 24; i++) values[i] = i;
    bb_tensor *x = bb_from_f64(ctx, BB_F32, BB_SHAPE(2, 3, 4), values);

    bb_tensor *p = bb_permute(x, BB_INTS(2, 0, 1));
    CHECK(t, !bb_is_contiguous(p));
    CHECK_INT(t, bb_stride(p, 0), 1);
    CHECK_INT(t, bb_read_f64(p, got, 24), BB_OK);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++)
            for (int k = 0; k < 3; k++)
                CHECK_NEAR(t, got[(i * 2 + j) * 3 + k], (j * 3 + k) * 4 + i, 0);

    bb_tensor *s = bb_slice(x, 2, 1, 4, 2);
    CHECK_INT(t, bb_count(s), 12);
    CHECK_INT(t, bb_read_f64(s, got, 12), BB_OK);
    for (int i = 0; i < 6; i++) {
        CHECK_NEAR(t, got[2 * i], 4 * i + 1, 0);
        CHECK_NEAR(t, got[2 * i + 1], 4 * i + 3, 0);
    }
    float ones[12];
    for (int i = 0; i < 12; i++) ones[i] = -1;
    CHECK_INT(t, bb_write(s, ones, sizeof ones), BB_OK);
    CHECK_INT(t, bb_read_f64(x, got, 24), BB_OK);
    for (int i = 0; i < 24; i++) CHECK_NEAR(t, got[i], i % 2 ? -1 : i, 0);

    bb_tensor *e = bb_expand(bb_select(x, 0, 1), BB_SHAPE(2, 3, 4));
    CHECK_INT(t, bb_stride(e, 0), 0);
    CHECK(t, !bb_is_contiguous(e));
    CHECK_INT(t, bb_read_f64(e, got, 24), BB_OK);
    for (int i = 0; i < 12; i++) CHECK_NEAR(t, got[i], got[i + 12], 0);
    /* An axis of size 1 may have any stride. */
    CHECK(t, bb_is_contiguous(bb_transpose(bb_reshape(x, BB_SHAPE(1, 24)), 0, 1)));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* bb_from_f64 rounds once, to nearest even; every dtype converts both ways. */
static void test_conversion(test *t) {
    bb_context *ctx = test_open();
    double tie = 1 + 0x1p-11,
           above = 1 + 0x1p-11 + 0x1p-40; /* in f32 the latter is the former: two roundings show */
    CHECK_NEAR(t, bb_item(bb_scalar(ctx, BB_F16, tie)), 1, 0);
    CHECK_NEAR(t, bb_item(bb_scalar(ctx, BB_F16, above)), 1 + 0x1p-10, 0);
    CHECK_NEAR(t, bb_item(bb_scalar(ctx, BB_F16, 1 + 3 * 0x1p-11)), 1 + 0x1p-9, 0);
    CHECK_NEAR(t, bb_item(bb_scalar(ctx, BB_BF16, 1 + 0x1p-8)), 1, 0);
    CHECK_NEAR(t, bb_item(bb_scalar(ctx, BB_BF16, 1 + 0x1p-8 + 0x1p-40)), 1 + 0x1p-7, 0);
    CHECK_NEAR(t, bb_item(bb_scalar(ctx, BB_F32, 0.1)), (double)0.1f, 0);
    CHECK(t, isinf(bb_item(bb_scalar(ctx, BB_F16, 65520))));
    CHECK_NEAR(t, bb_item(bb_scalar(ctx, BB_F16, 65519)), 65504, 0);
    CHECK_NEAR(t, bb_item(bb_scalar(ctx, BB_F16, 0x1p-24)), 0x1p-24, 0);
    CHECK_NEAR(t, bb_item(bb_scalar(ctx, BB_F16, 0x1p-25)), 0, 0);
    CHECK(t, isnan(bb_item(bb_scalar(ctx, BB_BF16, NAN))));
    CHECK(t, isnan(bb_item(bb_scalar(ctx, BB_F16, NAN))));
    CHECK_NEAR(t, bb_item(bb_scalar(ctx, BB_I64, 123456789012345.0)), 123456789012345.0, 0);
    CHECK_NEAR(t, bb_item(bb_scalar(ctx, BB_I32, -7)), -7, 0);
    CHECK_NEAR(t, bb_item(bb_scalar(ctx, BB_U8, 200)), 200, 0);
    CHECK_NEAR(t, bb_item(bb_scalar(ctx, BB_BOOL, 3)), 1, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Nothing has 2^63 bytes, not even where it has fewer elements in memory. */
static void test_expanded(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *one = bb_ones(ctx, BB_F64, BB_SHAPE(1)), *byte = bb_ones(ctx, BB_U8, BB_SHAPE(1));
    double got[2] = {7, 7};
    bb_tensor *x = bb_expand(one, BB_SHAPE(((int64_t)1 << 60) - 1));
    CHECK_INT(t, bb_count(x), ((int64_t)1 << 60) - 1);
    CHECK(t, !bb_expand(one, BB_SHAPE((int64_t)1 << 60)));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "less than 2^63 bytes, got (1152921504606846976,)");
    CHECK(t, !bb_expand(one, BB_SHAPE((int64_t)1 << 61))); /* times 8 it would be 0 */
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "less than 2^63 bytes");
    CHECK_INT(t, bb_read(x, got, 0), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_read: bytes: expected 9223372036854775800, got 0");
    x = bb_expand(byte, BB_SHAPE((int64_t)1 << 61)); /* as f64 it would */
    CHECK_INT(t, bb_read_f64(x, got, (int64_t)1 << 61), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_read_f64: count: expected less than 2^61");
    CHECK_NEAR(t, got[0], 7, 0);
    bb_close(ctx);
}

/* Where target and source share elements, the source counts as it was before. */
static void test_assign_overlap(test *t) {
    bb_context *ctx = test_open();
    double values[16], got[16];
    for (int i = 0; i < 16; i++) values[i] = i;
    bb_tensor *x = bb_from_f64(ctx, BB_F32, BB_SHAPE(4, 4), values);
    int64_t live = bb_memory_stats(ctx).live_tensors;
    CHECK_INT(t, bb_assign(x, bb_transpose(x, 0, 1)), BB_OK);
    CHECK_INT(t, bb_memory_stats(ctx).live_tensors, live + 1); /* the view */
    CHECK_INT(t, bb_read_f64(x, got, 16), BB_OK);
    for (int i = 0; i < 16; i++) CHECK_NEAR(t, got[i], i % 4 * 4 + i / 4, 0);
    x = bb_from_f64(ctx, BB_F32, BB_SHAPE(16), values);
    CHECK_INT(t, bb_assign(bb_slice(x, 0, 1, 16, 1), bb_slice(x, 0, 0, 15, 1)), BB_OK);
    CHECK_INT(t, bb_read_f64(x, got, 16), BB_OK);
    for (int i = 0; i < 16; i++) CHECK_NEAR(t, got[i], i ? i - 1 : 0, 0);
    CHECK_INT(t, bb_assign(x, x), BB_OK);
    CHECK_INT(t, bb_read_f64(x, got, 16), BB_OK);
    CHECK_NEAR(t, got[15], 14, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* A source of another context is this context's error, whatever state it is in. */
static void test_assign_contexts(test *t) {
    bb_context *ctx = test_open(), *other = test_open();
    bb_tensor *dead = bb_scalar(other, BB_F32, 1), *x = bb_scalar(ctx, BB_F32, 2);
    bb_end_step(other);
    CHECK_INT(t, bb_assign(x, dead), BB_ERR_ARGUMENT);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "bb_assign: source: expected a tensor of this context");
    CHECK_OK(t, other);
    bb_close(other);
    bb_close(ctx);
}

/* A bool's byte is 0 or 1, whatever the caller's was. */
static void test_bools(test *t) {
    bb_context *ctx = test_open();
    const uint8_t bytes[4] = {2, 0, 255, 1};
    uint8_t got[4];
    bb_tensor *x = bb_from(ctx, BB_BOOL, BB_SHAPE(4), bytes);
    CHECK_NEAR(t, bb_item(bb_sum_all(x)), 3, 0);
    CHECK_INT(t, bb_read(x, got, 4), BB_OK);
    CHECK(t, memcmp(got, (uint8_t[]){1, 0, 1, 1}, 4) == 0);
    bb_tensor *y = bb_zeros(ctx, BB_BOOL, BB_SHAPE(2, 2));
    CHECK_INT(t, bb_write(bb_transpose(y, 0, 1), bytes, 4), BB_OK);
    CHECK_INT(t, bb_read(y, got, 4), BB_OK);
    CHECK(t, memcmp(got, (uint8_t[]){1, 1, 0, 1}, 4) == 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_grad_flag(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_scalar(ctx, BB_F32, 2), *i = bb_scalar(ctx, BB_I64, 2);
    CHECK(t, bb_set_requires_grad(x, true) == x && bb_requires_grad(x));
    bb_tensor *y = bb_mul(x, x);
    CHECK(t, bb_requires_grad(y));
    CHECK(t, bb_set_requires_grad(x, false) == x && !bb_requires_grad(x));
    CHECK(t, !bb_set_requires_grad(i, true));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected a floating dtype, got i64");
    CHECK(t, !bb_set_requires_grad(y, false));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "expected a leaf");
    bb_tensor *gone = bb_scalar(ctx, BB_F32, 2);
    bb_drop(gone);
    CHECK(t, !bb_set_requires_grad(gone, true));
    CHECK_ERROR(t, ctx, BB_ERR_STATE, "has been dropped");
    CHECK(t, bb_grad_enabled(ctx) && bb_set_grad_enabled(ctx, false) && !bb_grad_enabled(ctx));
    bb_close(ctx);
}

static const test_row rows[] = {
    {"make", test_make},
    {"empty", test_empty},
    {"null", test_null},
    {"bad arguments", test_bad_arguments},
    {"views", test_views},
    {"conversion", test_conversion},
    {"expanded", test_expanded},
    {"assign overlap", test_assign_overlap},
    {"assign contexts", test_assign_contexts},
    {"bools", test_bools},
    {"gradient flag", test_grad_flag},
};
TEST_MAIN(rows)
