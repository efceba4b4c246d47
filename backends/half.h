/* f16 and bf16 to f32 and back, rounded to nearest even: overflow gives inf, NaN stays NaN,
 * denormals are exact. For the loops of the CPU and the host simulation of CUDA. */
#ifndef BOBBIN_BACKENDS_HALF_H
#define BOBBIN_BACKENDS_HALF_H

#include <stdint.h>
#include <string.h>

/* Branch-free, so that loops over them vectorize. */

static inline uint32_t bb_bits_of_f32(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float bb_f32_of_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* The exponents of the two formats are aligned by one multiplication by a power of two; a denormal
 * is a number whose last bit stands at 2^-24, which is what subtracting 0.5 leaves. */
static inline float bb_f16_to_f32(uint16_t h) {
    uint32_t w = (uint32_t)h << 16, magnitude = w + w;
    float normal = bb_f32_of_bits((magnitude >> 4) + (0xE0u << 23)) * 0x1p-112f;
    float denormal = bb_f32_of_bits((magnitude >> 17) | (126u << 23)) - 0.5f;
    uint32_t u = magnitude < (1u << 27) ? bb_bits_of_f32(denormal) : bb_bits_of_f32(normal);
    return bb_f32_of_bits((w & 0x80000000u) | u);
}

/* Adding a power of two that is 2^13 times the value's own makes the adder round at the last bit of
 * the half. */
static inline uint16_t bb_f32_to_f16(float x) {
    uint32_t w = bb_bits_of_f32(x), magnitude = w + w;
    float scaled =
        (bb_f32_of_bits(w & 0x7FFFFFFFu) * 0x1p+112f) * 0x1p-110f; /* above the range: inf */
    uint32_t bias = magnitude & 0xFF000000u;
    bias = bias < 0x71000000u ? 0x71000000u : bias;
    uint32_t u = bb_bits_of_f32(bb_f32_of_bits((bias >> 1) + 0x07800000u) + scaled);
    uint32_t half = ((u >> 13) & 0x7C00u) + (u & 0x0FFFu);
    return (uint16_t)((w >> 16 & 0x8000u) | (magnitude > 0xFF000000u ? 0x7E00u : half));
}

static inline float bb_bf16_to_f32(uint16_t h) { return bb_f32_of_bits((uint32_t)h << 16); }

/* x rounded to bf16 and kept as f32: its upper half. */
static inline uint32_t bb_bf16_bits(float x) {
    uint32_t u = bb_bits_of_f32(x), rounded = u + 0x7FFFu + (u >> 16 & 1u);
    return x == x ? rounded : u | 0x400000u;
}
static inline uint16_t bb_f32_to_bf16(float x) { return (uint16_t)(bb_bf16_bits(x) >> 16); }
static inline float bb_f32_via_bf16(float x) {
    return bb_f32_of_bits(bb_bf16_bits(x) & 0xFFFF0000u);
}

#endif
