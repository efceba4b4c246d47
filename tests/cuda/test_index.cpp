/* Index arithmetic of the kernels (backends/cuda/index.h) against the definition, also for more
 * than 2^31 elements and offsets beyond 2^32, which no test could allocate. */
#include "backends/cuda/index.h"

extern "C" {
#include "tests/support/test.h"
}

static uint64_t state = 1;
static uint64_t draw() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state >> 16;
}

static bb_tensor header(int rank, const int64_t *size, const int64_t *stride) {
    bb_tensor t = {};
    t.rank = (uint8_t)rank;
    t.count = 1;
    for (int a = 0; a < rank; a++) {
        t.size[a] = size[a];
        t.count *= size[a];
        t.stride[a] = stride ? stride[a] : 1;
    }
    for (int a = rank - 2; !stride && a >= 0; a--) t.stride[a] = t.stride[a + 1] * size[a + 1];
    return t;
}

/* Element i of `like` in row-major order, as offset in t, broadcast. */
static int64_t expected(const bb_tensor &like, const bb_tensor &t, int64_t i) {
    int64_t offset = 0;
    for (int a = like.rank - 1; a >= 0; a--) {
        const int own = a - (like.rank - t.rank);
        if (own >= 0 && t.size[own] != 1) offset += i % like.size[a] * t.stride[own];
        i /= like.size[a];
    }
    return offset;
}

static void check_all(test *t, const bb_tensor &y, const bb_tensor &x) {
    const bb_tensor *both[] = {&y, &x};
    const bb_index<2> w = bb_index_make<2>(both);
    const int64_t ends[] = {
        0, 1, (INT64_C(1) << 31) - 1, INT64_C(1) << 31, (INT64_C(1) << 32) + 1, y.count - 1};
    CHECK_INT(t, w.count, y.count);
    CHECK_INT(t, w.small, y.count < INT64_C(1) << 31);
    for (int k = 0; k < 1000; k++) {
        const int64_t i = k < 6 ? ends[k] : (int64_t)(draw() % (uint64_t)y.count);
        int64_t at[2];
        if (i >= y.count) continue;
        w.offsets(i, at);
        CHECK_INT(t, at[0], expected(y, y, i));
        CHECK_INT(t, at[1], expected(y, x, i));
    }
}

static void test_division(test *t) {
    const uint32_t edges[] = {1, 2, 3, 7, 641, 65535, 65536, 65537, 0x7ffffffe, 0x7fffffff};
    for (uint32_t divisor : edges) {
        const bb_divider d = bb_divider_make(divisor);
        for (int64_t n : {INT64_C(0), INT64_C(1), (int64_t)divisor - 1, (int64_t)divisor,
                          (int64_t)divisor + 1, INT64_C(0x7ffffffe), INT64_C(0x7fffffff)})
            if (n >> 31 == 0) CHECK_INT(t, bb_divide((uint32_t)n, d), (uint32_t)n / divisor);
    }
    for (int k = 0; k < 100000; k++) {
        const uint32_t n = (uint32_t)draw() >> 1,
                       divisor = ((uint32_t)draw() >> draw() % 31 >> 1) + 1;
        CHECK_INT(t, bb_divide(n, bb_divider_make(divisor)), n / divisor);
    }
}

static void test_offsets(test *t) {
    const int64_t small[] = {3, 1, 5, 7}, wide[] = {3, 70000, 50000}, row[] = {50000},
                  column[] = {3, 70000, 1}, at_edge[] = {65536, 32768}, below[] = {65535, 32768};
    const int64_t turned[] = {1, 3 * 50000, 3}, gaps[] = {INT64_C(1) << 40, 100003, 2};
    check_all(t, header(4, small, nullptr), header(4, small, nullptr));
    check_all(t, header(3, wide, nullptr), header(3, wide, turned));
    check_all(t, header(3, wide, nullptr), header(3, wide, gaps));
    check_all(t, header(3, wide, nullptr), header(1, row, nullptr));
    check_all(t, header(3, wide, nullptr), header(3, column, nullptr));
    check_all(t, header(2, at_edge, nullptr), header(2, at_edge, gaps + 1));
    check_all(t, header(2, below, nullptr), header(2, below, gaps + 1));
}

/* As few axes as the strides allow; the first tensor's strides give the order. */
static void test_merging(test *t) {
    const int64_t size[] = {4, 6, 8}, bias[] = {8}, turned[] = {1, 4, 24}, one[] = {1, 1, 1};
    const bb_tensor y = header(3, size, nullptr), b = header(1, bias, nullptr);
    const bb_tensor permuted = header(3, size, turned), scalar = header(3, one, nullptr);
    const bb_tensor *same[] = {&y, &y}, *rows[] = {&y, &b}, *both[] = {&permuted, &permuted},
                    *across[] = {&y, &permuted}, *single[] = {&y, &scalar},
                    *nothing[] = {&scalar, &scalar};
    CHECK_INT(t, bb_index_make<2>(same).rank, 1);
    CHECK_INT(t, bb_index_make<2>(rows).rank, 2);
    CHECK_INT(t, bb_index_make<2>(rows).size[1], 24);
    CHECK_INT(t, bb_index_make<2>(both).rank, 1);
    CHECK_INT(t, bb_index_make<2>(across).rank, 3);
    CHECK_INT(t, bb_index_make<2>(single).rank, 1);
    CHECK_INT(t, bb_index_make<2>(single).stride[1][0], 0);
    CHECK_INT(t, bb_index_make<2>(nothing).rank, 1);
    CHECK_INT(t, bb_index_make<2>(nothing).count, 1);
}

static void test_alignment(test *t) {
    const int64_t size[] = {4, 8}, wide[] = {12, 1}, odd[] = {9, 1}, strided[] = {16, 2},
                  column[] = {4, 1};
    const bb_tensor y = header(2, size, nullptr), x = header(2, size, wide);
    const bb_tensor uneven = header(2, size, odd), gaps = header(2, size, strided),
                    spread = header(2, column, nullptr);
    const struct {
        const bb_tensor *x;
        uintptr_t address;
        bool aligned;
    } cases[] = {{&x, 64, true},     {&x, 72, false},    {&uneven, 64, false},
                 {&gaps, 64, false}, {&spread, 4, true}, {&y, 64, true}};
    const int bytes[] = {4, 4};
    for (const auto &c : cases) {
        const bb_tensor *both[] = {&y, c.x};
        const void *data[] = {(const void *)128, (const void *)c.address};
        CHECK_INT(t, bb_index_aligned(bb_index_make<2>(both), 4, data, bytes), c.aligned);
    }
    const bb_tensor *both[] = {&y, &x};
    bb_index<2> w = bb_index_make<2>(both);
    bb_index_widen(&w, 4);
    CHECK_INT(t, w.count, 8);
    for (int64_t i = 0; i < w.count; i++) {
        int64_t at[2];
        w.offsets(i, at);
        CHECK_INT(t, at[0], 4 * i);
        CHECK_INT(t, at[1], expected(y, x, 4 * i));
    }
}

static const test_row rows[] = {{"division", test_division},
                                {"offsets", test_offsets},
                                {"merging", test_merging},
                                {"alignment", test_alignment}};
TEST_MAIN(rows)
