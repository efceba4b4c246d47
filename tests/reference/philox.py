"""The random numbers of rand, randn and dropout, from the definition of Philox4x32-10 (Salmon,
Moraes, Dror, Shaw, SC 2011): element i of an op reads block offset + i/4, in f64 offset + i/2."""

import numpy as np

MASK = (1 << 32) - 1


def block(seed, offset):
    c = [offset & MASK, offset >> 32 & MASK, 0, 0]
    k = [seed & MASK, seed >> 32 & MASK]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k[0], p1 & MASK, p0 >> 32 ^ c[3] ^ k[1], p0 & MASK]
        k = [k[0] + 0x9E3779B9 & MASK, k[1] + 0xBB67AE85 & MASK]
    return c


def uniform(n, seed, offset, wide):
    """n numbers of [0, 1): multiples of 2^-24, in f64 (wide) of 2^-53."""
    numbers = []
    for b in range((n + 1) // 2 if wide else (n + 3) // 4):
        lane = block(seed, offset + b)
        if wide:
            numbers += [((lane[i + 1] << 32 | lane[i]) >> 11) * 2.0**-53 for i in (0, 2)]
        else:
            numbers += [(word >> 8) * 2.0**-24 for word in lane]
    return np.array(numbers[:n], dtype=np.float64)


def normal(n, seed, offset, wide):
    """Box-Muller on pairs of uniform numbers."""
    u = uniform(n + n % 2, seed, offset, wide).reshape(-1, 2)
    radius, angle = np.sqrt(-2 * np.log(1 - u[:, 0])), 2 * np.pi * u[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)[:n]
