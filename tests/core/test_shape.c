/* core/shape.c: checked sizes, broadcasting, text, dtypes. */
#include "tests/support/test.h"

static void test_checked(test *t) {
    size_t r;
    CHECK(t, bb_checked_add(2, 3, &r) && r == 5);
    CHECK(t, bb_checked_add(SIZE_MAX, 0, &r) && r == SIZE_MAX);
    CHECK(t, !bb_checked_add(SIZE_MAX, 1, &r));
    CHECK(t, !bb_checked_add(SIZE_MAX / 2 + 1, SIZE_MAX / 2 + 1, &r));
    CHECK(t, bb_checked_mul(0, SIZE_MAX, &r) && r == 0);
    CHECK(t, bb_checked_mul(SIZE_MAX, 0, &r) && r == 0);
    CHECK(t, bb_checked_mul(SIZE_MAX / 3, 3, &r) && r == SIZE_MAX / 3 * 3);
    CHECK(t, !bb_checked_mul(SIZE_MAX / 3 + 1, 3, &r));
    CHECK(t, !bb_checked_mul((size_t)1 << 32, (size_t)1 << 32, &r));
}

static void check_count(test *t, bb_shape shape, bool ok, int64_t expected) {
    int64_t n = -1;
    char text[BB_SHAPE_TEXT];
    bb_shape_text(&shape, text);
    CHECK_MSG(t, bb_shape_count(&shape, &n) == ok, "%s: expected %s", text,
              ok ? "a count" : "a refusal");
    if (ok)
        CHECK_MSG(t, n == expected, "%s: got %lld, expected %lld", text, (long long)n,
                  (long long)expected);
}

static void test_count(test *t) {
    int64_t big = (int64_t)1 << 31;
    check_count(t, BB_SCALAR, true, 1);
    check_count(t, BB_SHAPE(0), true, 0);
    check_count(t, BB_SHAPE(2, 3, 4), true, 24);
    check_count(t, BB_SHAPE(1, 1, 1, 1, 1, 1, 1, 2), true, 2);
    check_count(t, BB_SHAPE(INT64_MAX), true, INT64_MAX);
    check_count(t, BB_SHAPE(INT64_MAX, 2), false, 0);
    check_count(t, BB_SHAPE(big, big, 2), false, 0);
    check_count(t, BB_SHAPE(big, big, 4), false, 0);
    check_count(t, BB_SHAPE(-1), false, 0);
    check_count(t, BB_SHAPE(0, -1), false, 0);
    /* A zero must not hide an overflow: strides are products of the others. */
    check_count(t, BB_SHAPE(0, INT64_MAX, INT64_MAX), false, 0);
    check_count(t, (bb_shape){-1, {0}}, false, 0);
    check_count(t, (bb_shape){BB_MAX_RANK + 1, {1, 1, 1, 1, 1, 1, 1, 1}}, false, 0);
}

static void test_bytes(test *t) {
    size_t bytes;
    CHECK(t, bb_shape_bytes(&BB_SHAPE(3, 5), BB_F32, &bytes) && bytes == 60);
    CHECK(t, bb_shape_bytes(&BB_SHAPE(3, 5), BB_F64, &bytes) && bytes == 120);
    CHECK(t, bb_shape_bytes(&BB_SCALAR, BB_BF16, &bytes) && bytes == 2);
    CHECK(t, bb_shape_bytes(&BB_SHAPE(0, 7), BB_F64, &bytes) && bytes == 0);
    CHECK(t, bb_shape_bytes(&BB_SHAPE(INT64_MAX), BB_U8, &bytes) && bytes == (size_t)INT64_MAX);
    CHECK(t, !bb_shape_bytes(&BB_SHAPE(INT64_MAX), BB_F16, &bytes));
    CHECK(t, !bb_shape_bytes(&BB_SHAPE(INT64_MAX / 4 + 1), BB_F32, &bytes));
}

static void check_broadcast(test *t, bb_shape a, bb_shape b, bool ok, bb_shape expected) {
    bb_shape both[2] = {a, b}, out = {0, {0}};
    char text[3][BB_SHAPE_TEXT];
    for (int swap = 0; swap < 2; swap++) {
        bool got = bb_shape_broadcast(&both[swap], &both[1 - swap], &out);
        CHECK_MSG(t, got == ok && (!ok || bb_shape_equal(&out, &expected)), "%s with %s: got %s",
                  bb_shape_text(&a, text[0]), bb_shape_text(&b, text[1]),
                  got ? bb_shape_text(&out, text[2]) : "refused");
    }
}

static void test_broadcast(test *t) {
    check_broadcast(t, BB_SCALAR, BB_SCALAR, true, BB_SCALAR);
    check_broadcast(t, BB_SCALAR, BB_SHAPE(2, 3), true, BB_SHAPE(2, 3));
    check_broadcast(t, BB_SHAPE(3), BB_SHAPE(2, 1), true, BB_SHAPE(2, 3));
    check_broadcast(t, BB_SHAPE(8, 1, 6, 1), BB_SHAPE(7, 1, 5), true, BB_SHAPE(8, 7, 6, 5));
    check_broadcast(t, BB_SHAPE(0), BB_SHAPE(1), true, BB_SHAPE(0));
    check_broadcast(t, BB_SHAPE(0, 3), BB_SHAPE(3), true, BB_SHAPE(0, 3));
    check_broadcast(t, BB_SHAPE(0), BB_SHAPE(2), false, BB_SCALAR);
    check_broadcast(t, BB_SHAPE(2), BB_SHAPE(3), false, BB_SCALAR);
    check_broadcast(t, BB_SHAPE(2, 3), BB_SHAPE(2), false, BB_SCALAR);
    bb_shape out;
    for (int rank = -1; rank <= BB_MAX_RANK + 1; rank += BB_MAX_RANK + 2) { /* no such shapes */
        bb_shape bad = {rank, {1, 1, 1, 1, 1, 1, 1, 1}};
        CHECK(t, !bb_shape_broadcast(&bad, &BB_SHAPE(1), &out));
        CHECK(t, !bb_shape_broadcast(&BB_SHAPE(1), &bad, &out));
        CHECK(t, !bb_shape_equal(&bad, &bad));
    }
    CHECK(t, !bb_shape_equal(&BB_SHAPE(2, 1), &BB_SHAPE(2)));
    CHECK(t, !bb_shape_equal(&BB_SHAPE(2, 3), &BB_SHAPE(3, 2)));
    CHECK(t, bb_shape_equal(&BB_SHAPE(2, 3), &BB_SHAPE(2, 3)));
}

static void test_text(test *t) {
    char text[BB_SHAPE_TEXT];
    CHECK_TEXT(t, bb_shape_text(&BB_SCALAR, text), "()");
    CHECK_TEXT(t, bb_shape_text(&BB_SHAPE(7), text), "(7,)");
    CHECK_TEXT(t, bb_shape_text(&BB_SHAPE(2, 3), text), "(2, 3)");
    /* The longest text there is fits. */
    bb_shape longest = {BB_MAX_RANK, {0}};
    for (int i = 0; i < BB_MAX_RANK; i++) longest.size[i] = INT64_MIN;
    bb_shape_text(&longest, text);
    CHECK_INT(t, strlen(text), 8 * 20 + 7 * 2 + 2);
}

static void test_dtypes(test *t) {
    static const struct {
        const char *name;
        size_t bytes;
        bool is_float;
    } expected[BB_DTYPE_COUNT] = {{"f64", 8, true},  {"f32", 4, true},  {"f16", 2, true},
                                  {"bf16", 2, true}, {"i64", 8, false}, {"i32", 4, false},
                                  {"u8", 1, false},  {"bool", 1, false}};
    char choices[128] = "";
    for (int i = 0; i < BB_DTYPE_COUNT; i++) {
        bb_dtype found = BB_DTYPE_COUNT;
        CHECK_TEXT(t, bb_dtype_name((bb_dtype)i), expected[i].name);
        CHECK_INT(t, bb_dtype_bytes((bb_dtype)i), expected[i].bytes);
        CHECK_INT(t, bb_dtype_is_float((bb_dtype)i), expected[i].is_float);
        CHECK(t, bb_dtype_find(expected[i].name, &found) && (int)found == i);
        strcat(strcat(choices, i ? "|" : ""), expected[i].name);
    }
    CHECK_TEXT(t, choices, BB_DTYPE_CHOICES);
    bb_dtype none;
    CHECK(t, !bb_dtype_find("f8", &none));
    CHECK(t, !bb_dtype_find("", &none));
    CHECK(t, !bb_dtype_find(NULL, &none));
    CHECK_TEXT(t, bb_dtype_name(BB_DTYPE_COUNT), "unknown");
    CHECK_INT(t, bb_dtype_bytes((bb_dtype)-1), 0);
}

static const test_row rows[] = {
    {"checked arithmetic", test_checked}, {"count", test_count}, {"bytes", test_bytes},
    {"broadcast", test_broadcast},        {"text", test_text},   {"dtypes", test_dtypes},
};
TEST_MAIN(rows)
