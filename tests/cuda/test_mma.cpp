/* mma.h: what each lane holds of A, B and D, against plain products of matrices, and the loads that
 * put matrices into fragments. The simulation and the tensor cores follow one layout; the kernels'
 * own tests show that it is the real device's. */
#include "backends/cuda/mma.h"

extern "C" {
#include "tests/support/test.h"
}

namespace {

/* Distinct in each place, and exact in bf16; products and sums are exact in f32. */
float value_a(int row, int k) { return (float)((row * 5 + k * 3) % 17 - 8); }
float value_b(int k, int column) { return (float)((k * 7 + column * 11) % 13 - 6); }
float value_d(int row, int column) { return (float)(row * 8 + column); }

float product(int row, int column) {
    float sum = value_d(row, column);
    for (int k = 0; k < 16; k++) sum += value_a(row, k) * value_b(k, column);
    return sum;
}

template <typename K> void run(test *t, K kernel) {
    const char *fault = bb_sim_run(1, BB_WARP, 0, bb_sim_kernel_of(kernel));
    CHECK_MSG(t, !fault, "%s", fault);
}

/* Fragments filled as the header says; pairs by hand. */
template <typename T> void check_product(test *t) {
    static float got[16][8];
    run(t, [] {
        const int g = bb_sim_lane() / 4, k = bb_sim_lane() % 4 * 2;
        uint32_t a[4], b[2];
        float d[4];
        for (int i = 0; i < 4; i++) {
            const int row = g + i % 2 * 8, from = k + i / 2 * 8;
            a[i] = bb_join<T>(value_a(row, from), value_a(row, from + 1));
            d[i] = value_d(g + i / 2 * 8, k + i % 2);
        }
        for (int i = 0; i < 2; i++)
            b[i] = bb_join<T>(value_b(k + 8 * i, g), value_b(k + 8 * i + 1, g));
        bb_mma<T>(d, a, b);
        for (int i = 0; i < 4; i++) got[g + i / 2 * 8][k + i % 2] = d[i];
    });
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 8; c++) CHECK_NEAR(t, got[r][c], product(r, c), 0);
}
void test_product(test *t) {
    check_product<bb_half>(t);
    check_product<bb_bfloat>(t);
}

/* From shared memory: A by rows, B once by columns (as keys lie) and once by rows (as values do).
 */
template <bool TURNED> void check_loads(test *t) {
    static float got[16][8];
    run(t, [] {
        BB_SHARED(bb_bfloat, left, 16 * 24);
        BB_SHARED(bb_bfloat, right, 16 * 24);
        const int lane = bb_sim_lane();
        for (int i = lane; i < 256; i += BB_WARP) {
            const int y = i / 16, x = i % 16;
            left[y * 24 + x] = narrow<bb_bfloat>(value_a(y, x));
            right[y * 24 + x] = narrow<bb_bfloat>(TURNED ? value_b(y, x) : value_b(x, y));
        }
        __syncwarp();
        uint32_t a[4], b[4];
        float d[2][4];
        bb_load_matrices<false>(a, left + lane % 16 * 24 + lane / 16 * 8);
        if (TURNED)
            bb_load_matrices<true>(b, right + lane % 16 * 24 + lane / 16 * 8);
        else
            bb_load_matrices<false>(b, right + (lane / 16 * 8 + lane % 8) * 24 + lane / 8 % 2 * 8);
        for (int i = 0; i < 8; i++)
            d[i / 4][i % 4] = value_d(lane / 4 + i % 4 / 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2);
        bb_mma<bb_bfloat>(d[0], a, b);
        bb_mma<bb_bfloat>(d[1], a, b + 2);
        for (int i = 0; i < 4; i++) got[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = d[1][i];
    });
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 8; c++) CHECK_NEAR(t, got[r][c], product(r, c + 8), 0);
}
void test_loads(test *t) {
    check_loads<false>(t);
    check_loads<true>(t);
}

/* Two results side by side are the next left operand. */
void test_chain(test *t) {
    static float got[16][8];
    run(t, [] {
        const int g = bb_sim_lane() / 4, k = bb_sim_lane() % 4 * 2;
        float left[2][4], d[4] = {0, 0, 0, 0};
        uint32_t a[4], b[2];
        for (int i = 0; i < 8; i++)
            left[i / 4][i % 4] = value_a(g + i % 4 / 2 * 8, i / 4 * 8 + k + i % 2);
        for (int i = 0; i < 2; i++)
            b[i] = bb_join<bb_half>(value_b(k + 8 * i, g), value_b(k + 8 * i + 1, g));
        bb_mma_a_of<bb_half>(a, left[0], left[1]);
        bb_mma<bb_half>(d, a, b);
        for (int i = 0; i < 4; i++) got[g + i / 2 * 8][k + i % 2] = d[i];
    });
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 8; c++) CHECK_NEAR(t, got[r][c], product(r, c) - value_d(r, c), 0);
}

void test_misaligned(test *t) {
    const char *fault = bb_sim_run(1, BB_WARP, 0, bb_sim_kernel_of([] {
                                       BB_SHARED(bb_half, rows, 8 * 8 + 8);
                                       uint32_t r[4];
                                       bb_load_matrices<false>(r, rows + 1);
                                   }));
    CHECK_MSG(t, fault && strstr(fault, "misaligned access"), "%s", fault ? fault : "no fault");
}

const test_row rows[] = {
    {"product", test_product},
    {"loads", test_loads},
    {"chain", test_chain},
    {"misaligned", test_misaligned},
};

} // namespace
TEST_MAIN(rows)
