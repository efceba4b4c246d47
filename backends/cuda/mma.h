/* Tensor cores: D += A B for one warp, A (16, 16), B (16, 8), D (16, 8); A and B of f16 or bf16, D
 * and all sums f32. On sm_80 and up one mma.sync.m16n8k16; on sm_75 f16 is two m16n8k8, and there
 * is no bf16 (callers do not launch it). The simulation multiplies what the lanes hand in.
 *
 * Who holds what, with g = lane / 4 and t = lane % 4; a register holds two neighbours, the lower
 * index in its lower half:
 *
 *     A  a[0] (row g, k 2t..)       a[1] (row g + 8, k 2t..)
 *        a[2] (row g, k 2t + 8..)   a[3] (row g + 8, k 2t + 8..)
 *     B  b[0] (k 2t.., column g)    b[1] (k 2t + 8.., column g)
 *     D  d[0], d[1] (row g, columns 2t, 2t + 1)   d[2], d[3] (row g + 8, the same)
 *
 * So two D tiles that lie side by side, rounded, are an A: bb_mma_a_of. */
#ifndef BOBBIN_BACKENDS_CUDA_MMA_H
#define BOBBIN_BACKENDS_CUDA_MMA_H

#include "backends/cuda/types.h"

/* The A of two neighbouring D tiles, columns 0..7 and 8..15. */
template <typename T>
static __device__ inline void bb_mma_a_of(uint32_t a[4], const float left[4],
                                          const float right[4]) {
    a[0] = bb_join<T>(left[0], left[1]);
    a[1] = bb_join<T>(left[2], left[3]);
    a[2] = bb_join<T>(right[0], right[1]);
    a[3] = bb_join<T>(right[2], right[3]);
}

#if defined(BOBBIN_CUDA_SIM)

/* Element k of row `index` of A, or of column `index` of B, out of what the lanes gave. */
struct bb_sim_fragments {
    uint32_t a[4], b[2];
};
template <typename T>
static inline void bb_sim_mma_vector(const unsigned char *slots, bool of_a, int index,
                                     float v[16]) {
    for (int k = 0; k < 16; k++) {
        bb_sim_fragments f;
        memcpy(&f, slots + (index % 8 * 4 + k % 8 / 2) * BB_SIM_SLOT_BYTES, sizeof f);
        const uint32_t pair = of_a ? f.a[index / 8 + k / 8 * 2] : f.b[k / 8];
        v[k] = widen(T{(uint16_t)(pair >> k % 2 * 16)});
    }
}
template <typename T>
static inline void bb_mma(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    const int g = bb_sim_lane() / 4, t = bb_sim_lane() % 4;
    const bb_sim_fragments mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const unsigned char *slots = bb_sim_exchange(BB_SIM_MMA, BB_ALL_LANES, &mine, sizeof mine);
    float row[2][16], column[2][16];
    for (int i = 0; i < 2; i++) {
        bb_sim_mma_vector<T>(slots, true, g + 8 * i, row[i]);
        bb_sim_mma_vector<T>(slots, false, 2 * t + i, column[i]);
    }
    for (int e = 0; e < 4; e++)
        for (int k = 0; k < 16; k++) d[e] += row[e / 2][k] * column[e % 2][k];
}

#else

template <typename T>
static __device__ inline void bb_mma(float d[4], const uint32_t a[4], const uint32_t b[2]);

template <>
__device__ inline void bb_mma<bb_half>(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    for (int half = 0; half < 2; half++)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#endif
}

template <>
__device__ inline void bb_mma<bb_bfloat>(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    (void)d, (void)a, (void)b;
    __trap();
#endif
}

#endif

/* Four 8 x 8 matrices of 16-bit elements from shared memory: lane i names row i % 8 of matrix i / 8
 * (16 bytes, 16-byte aligned), and r[j] gets of matrix j the elements (g, 2t..); TURNED: (2t.., g).
 * One conflict-free pass a matrix where its rows lie in different 16-byte columns of the banks. */
template <bool TURNED, typename T>
static __device__ inline void bb_load_matrices(uint32_t r[4], const T *row) {
#if defined(BOBBIN_CUDA_SIM)
    const int g = bb_sim_lane() / 4, t = bb_sim_lane() % 4;
    bb_sim_aligned(row, 16);
    const unsigned char *slots = bb_sim_exchange(BB_SIM_MMA, BB_ALL_LANES, &row, sizeof row);
    for (int j = 0; j < 4; j++) {
        uint32_t pair = 0;
        for (int i = 0; i < 2; i++) {
            const T *from;
            const int y = TURNED ? 2 * t + i : g, x = TURNED ? g : 2 * t + i;
            memcpy(&from, slots + (8 * j + y) * BB_SIM_SLOT_BYTES, sizeof from);
            pair |= (uint32_t)from[x].bits << 16 * i;
        }
        r[j] = pair;
    }
#else
    const unsigned at = (unsigned)__cvta_generic_to_shared(row);
    if (TURNED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
#endif
}

#endif
