/* Counter-based random numbers of the tools: number i of a seed is a pure function of both, so a
 * position in the stream is just a counter and a resumed run continues exactly. (SplitMix64:
 * Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.) */
#ifndef BOBBIN_TOOLS_RANDOM_H
#define BOBBIN_TOOLS_RANDOM_H

#include <stdint.h>

static inline uint64_t bb_random_mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* 64 random bits: number `counter` of the stream `seed`. */
static inline uint64_t bb_random_bits(uint64_t seed, uint64_t counter) {
    return bb_random_mix(bb_random_mix(seed + 0x9e3779b97f4a7c15u) +
                         (counter + 1) * 0x9e3779b97f4a7c15u);
}

/* Maps 64 random bits to [0, limit). The bias is below limit / 2^64 and never seen. */
static inline uint64_t bb_random_below(uint64_t bits, uint64_t limit) { return bits % limit; }

#endif
