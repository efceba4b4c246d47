/* Numbers of eight and four bits, and the scales that go with them. ops/quantize.c says how they
 * are used; this is every bit of it, for both backends: cuda/fp8.h compiles this file for the
 * device.
 *
 *     e4m3   1 sign, 4 exponent, 3 mantissa bits; to 448; no inf, one NaN (0x7f) per sign
 *     e5m2   1, 5, 2; to 57344; inf and NaN as in IEEE 754
 *     e2m1   1, 2, 1; to 6; neither inf nor NaN
 *     e8m0   an exponent: 2^(code - 127); 0xff is NaN
 *
 * Encoding rounds to nearest even and saturates: what is beyond the largest finite number, inf
 * included, becomes that, with its sign. -0 stays, subnormals are exact. NaN stays NaN with its
 * sign, in e2m1 it becomes a zero of the other sign. That is what ml_dtypes gives for numbers that
 * were clipped to the largest finite one first (tests/reference/quantize.py holds it to that).
 *
 * Branch-free, so that loops over them vectorize. No step can be contracted or reordered. */
#ifndef BOBBIN_BACKENDS_FP8_H
#define BOBBIN_BACKENDS_FP8_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifndef BB_FP8_INLINE
#define BB_FP8_INLINE static inline
#endif

BB_FP8_INLINE int32_t bb_fp8_bits(float x) {
    int32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
BB_FP8_INLINE float bb_fp8_float(int32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

enum { BB_F32_INFINITY = 0x7F800000, BB_F32_LARGEST = 0x7F7FFFFF };

/* |x| as bits: ordered as the numbers are, with NaN above inf. So an amax is a maximum of integers,
 * which no order of comparing can change. */
BB_FP8_INLINE int32_t bb_magnitude(float x) { return bb_fp8_bits(x) & 0x7FFFFFFF; }

/* ---- Encoding */

/* The code, without sign, of a number x >= 0 that is not beyond the format's largest; only the low
 * byte counts. `least` is the bits of the smallest normal number, `bias` its biased exponent.
 *
 * A power of two is added that makes the adder round at the format's last bit; below `least` that
 * bit stands still. The sum's low bits count units of it, and its exponent says which binade they
 * are of: both together are the code, up to a constant, which rides on the low bits of what was
 * added. The constant is even, so ties stay what they are. */
BB_FP8_INLINE int32_t bb_fp8_round(float x, int32_t least, int mantissa) {
    int32_t exponent = bb_fp8_bits(x) & BB_F32_INFINITY;
    exponent = exponent > least ? exponent : least;
    int32_t constant = -((least >> (23 - mantissa)) + ((23 - mantissa) << mantissa)) & 0xFF;
    /* Unsigned, where it may wrap: a run of finite numbers is tried before it is known to be one.
     */
    uint32_t add = (uint32_t)(((23 - mantissa) << 23) | constant);
    int32_t sum = bb_fp8_bits(x + bb_fp8_float((int32_t)((uint32_t)exponent + add)));
    return (int32_t)((uint32_t)sum + (uint32_t)(sum >> (23 - mantissa)));
}

enum { BB_E4M3_LEAST = 121 << 23 }; /* 2^-6 */

/* x >= 0, not NaN, at most the largest number, to a code without sign. */
BB_FP8_INLINE int32_t bb_e4m3_code(float x) { return bb_fp8_round(x, BB_E4M3_LEAST, 3) & 0x7F; }
BB_FP8_INLINE int32_t bb_e5m2_code(float x) { return bb_fp8_round(x, 113 << 23, 2) & 0x7F; }
BB_FP8_INLINE int32_t bb_e2m1_code(float x) { return bb_fp8_round(x, 127 << 23, 1) & 7; }

/* The bits of |x|, or of the largest number where they are more. */
BB_FP8_INLINE float bb_fp8_clip(int32_t magnitude, int32_t most) {
    return bb_fp8_float(magnitude < most ? magnitude : most);
}

BB_FP8_INLINE uint8_t bb_f32_to_e4m3(float x) {
    int32_t m = bb_magnitude(x), code = bb_e4m3_code(bb_fp8_clip(m, 0x43E00000));
    code = m > BB_F32_INFINITY ? 0x7F : code;
    return (uint8_t)(code | (int32_t)((uint32_t)bb_fp8_bits(x) >> 24 & 0x80u));
}
BB_FP8_INLINE uint8_t bb_f32_to_e5m2(float x) {
    int32_t m = bb_magnitude(x), code = bb_e5m2_code(bb_fp8_clip(m, 0x47600000));
    code = m > BB_F32_INFINITY ? 0x7E : code;
    return (uint8_t)(code | (int32_t)((uint32_t)bb_fp8_bits(x) >> 24 & 0x80u));
}
BB_FP8_INLINE uint8_t bb_f32_to_e2m1(float x) {
    int32_t m = bb_magnitude(x), code = bb_e2m1_code(bb_fp8_clip(m, 0x40C00000));
    int32_t sign = (int32_t)((uint32_t)bb_fp8_bits(x) >> 28 & 8u);
    return (uint8_t)(m > BB_F32_INFINITY ? sign ^ 8 : code | sign);
}

/* ---- Decoding: exact */

BB_FP8_INLINE float bb_e4m3_to_f32(uint8_t code) {
    int32_t m = code & 0x7F, sign = (int32_t)((uint32_t)(code & 0x80) << 24);
    int32_t normal = (m << 20) + (120 << 23), small = bb_fp8_bits((float)m * 0x1p-9f);
    int32_t u = m < 8 ? small : normal;
    u = m == 0x7F ? 0x7FC00000 : u;
    return bb_fp8_float(u | sign);
}
BB_FP8_INLINE float bb_e5m2_to_f32(uint8_t code) {
    int32_t m = code & 0x7F, sign = (int32_t)((uint32_t)(code & 0x80) << 24);
    int32_t normal = (m << 21) + (112 << 23), small = bb_fp8_bits((float)m * 0x1p-16f);
    int32_t u = m < 4 ? small : normal;
    u = m == 0x7C ? BB_F32_INFINITY : u;
    u = m > 0x7C ? 0x7FC00000 : u;
    return bb_fp8_float(u | sign);
}
BB_FP8_INLINE float bb_e2m1_to_f32(uint8_t code) {
    int32_t m = code & 7, sign = (int32_t)((uint32_t)(code & 8) << 28);
    int32_t normal = (m << 22) + (126 << 23), small = bb_fp8_bits((float)m * 0.5f);
    return bb_fp8_float((m < 2 ? small : normal) | sign);
}
BB_FP8_INLINE float bb_e8m0_to_f32(uint8_t code) {
    int32_t u = code == 0 ? 0x00400000 : code << 23;
    return bb_fp8_float(code == 0xFF ? 0x7FC00000 : u);
}

/* ---- Scales. What the recipes have in common: numbers that stay the same over a tensor. */
typedef struct bb_scale_rule {
    float most;        /* largest finite element: 448, 57344 */
    float most_inv;    /* 1 / most, rounded */
    float amax_floor;  /* an amax below it counts as this */
    bool power_of_two; /* scales are cut down to powers of two */
    float whole;       /* nvfp4: S, which brings the tensor's amax to 6 * 448 */
} bb_scale_rule;

/* A block's scale: what is stored (an f32's bits, or a byte), and what its elements are multiplied
 * by: 1 where the scale is NaN, because the sign of a product of two NaN is the processor's affair.
 */
typedef struct bb_block_scale {
    uint32_t stored;
    float multiplier;
} bb_block_scale;

BB_FP8_INLINE float bb_fp8_most(int format) { return format == 0 ? 448.0f : 57344.0f; }

/* a, or the largest number where a overflowed. */
BB_FP8_INLINE float bb_not_infinite(float a) {
    return bb_magnitude(a) == BB_F32_INFINITY ? bb_fp8_float(BB_F32_LARGEST) : a;
}

/* fp8_current and fp8_block. */
BB_FP8_INLINE bb_block_scale bb_scale_f32(const bb_scale_rule *rule, float amax) {
    float a = amax < rule->amax_floor ? rule->amax_floor : amax;
    bool usable = bb_magnitude(a) != 0 && bb_magnitude(a) < BB_F32_INFINITY;
    float scale = usable ? bb_not_infinite(rule->most / a) : 1.0f;
    if (usable && rule->power_of_two) scale = bb_fp8_float(bb_fp8_bits(scale) & BB_F32_INFINITY);
    bb_block_scale s;
    s.stored = (uint32_t)bb_fp8_bits(1.0f / scale);
    s.multiplier = scale;
    return s;
}

/* mxfp8. The exponent of the least power of two that is not below x >= 0: a mantissa rounds up.
 * Subnormals are at most 2^-127 or 2^-126. */
BB_FP8_INLINE int32_t bb_e8m0_above(float x) {
    int32_t u = bb_magnitude(x), exponent = u >> 23, mantissa = u & 0x7FFFFF;
    if (u > BB_F32_INFINITY) return 0xFF;
    if (u == BB_F32_INFINITY) return 0xFE;
    bool up = exponent == 0 ? mantissa > 0x400000 : mantissa > 0 && exponent < 0xFE;
    return exponent + (up ? 1 : 0);
}
/* 2^(127 - code); code 0xff: NaN. */
BB_FP8_INLINE float bb_e8m0_inverse(int32_t code) {
    if (code == 0xFF) return bb_fp8_float(0x7FC00000);
    return bb_fp8_float(code == 0xFE ? 0x00400000 : (254 - code) << 23);
}
BB_FP8_INLINE bb_block_scale bb_scale_e8m0(const bb_scale_rule *rule, float amax) {
    int32_t code = bb_e8m0_above(amax * rule->most_inv);
    bb_block_scale s;
    s.stored = (uint32_t)code;
    s.multiplier = code == 0xFF ? 1.0f : bb_e8m0_inverse(code);
    return s;
}

/* nvfp4: S of the tensor, what its blocks' scales are multiplied by in the end, and a block's. */
BB_FP8_INLINE bool bb_nvfp4_usable(float amax) {
    return bb_magnitude(amax) != 0 && bb_magnitude(amax) < BB_F32_INFINITY;
}
BB_FP8_INLINE float bb_nvfp4_whole(float amax) {
    return bb_nvfp4_usable(amax) ? bb_not_infinite(2688.0f / amax) : 1.0f;
}
BB_FP8_INLINE float bb_nvfp4_whole_inv(float amax) {
    return bb_nvfp4_usable(amax) ? amax / 2688.0f : 1.0f;
}
BB_FP8_INLINE bb_block_scale bb_scale_nvfp4(const bb_scale_rule *rule, float amax) {
    uint8_t code = bb_f32_to_e4m3(amax * rule->whole / 6.0f);
    bb_block_scale s;
    s.stored = code;
    s.multiplier = code == 0      ? 0.0f
                   : code == 0x7F ? 1.0f
                                  : bb_not_infinite(rule->whole / bb_e4m3_to_f32(code));
    return s;
}

/* ---- update_scale_: the scale after a step whose history's maximum is amax. */
BB_FP8_INLINE float bb_delayed_scale(float former, float amax, float most_by_margin) {
    if (bb_magnitude(amax) == 0) return former;
    return bb_not_infinite(most_by_margin / amax);
}

#endif
