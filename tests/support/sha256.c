/* SHA-256 (sha256.h). */
#include "tests/support/sha256.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first 32 bits of the fractions of the cube roots of the first 64 primes. */
static const uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t turn(uint32_t x, int by) { return x >> by | x << (32 - by); }

static void add_block(uint32_t state[8], const unsigned char *block) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ a >> 3) + w[i - 7] +
               (turn(b, 17) ^ turn(b, 19) ^ b >> 10);
    }
    memcpy(v, state, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t e = v[4], a = v[0];
        uint32_t choice = (e & v[5]) ^ (~e & v[6]),
                 majority = (a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]);
        uint32_t first =
            v[7] + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + choice + constants[i] + w[i];
        uint32_t second = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + majority;
        memmove(v + 1, v, 7 * sizeof v[0]);
        v[4] += first;
        v[0] = first + second;
    }
    for (int i = 0; i < 8; i++) state[i] += v[i];
}

void sha256_bytes(const void *data, size_t bytes, char text[SHA256_TEXT]) {
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const unsigned char *at = data;
    unsigned char tail[128] = {0};
    size_t left = bytes;
    for (; left >= 64; left -= 64, at += 64) add_block(state, at);
    if (left) memcpy(tail, at, left);
    tail[left] = 0x80;
    size_t length = left < 56 ? 64 : 128;
    for (int i = 0; i < 8; i++)
        tail[length - 1 - (size_t)i] = (unsigned char)((uint64_t)bytes * 8 >> 8 * i);
    for (size_t i = 0; i < length; i += 64) add_block(state, tail + i);
    for (int i = 0; i < 8; i++) snprintf(text + (size_t)8 * (size_t)i, 9, "%08x", state[i]);
}

/* Returns the file's size, or -1 where it cannot be read. */
static int64_t sha256_file(const char *path, char text[SHA256_TEXT]) {
    FILE *file = fopen(path, "rb");
    if (!file) return -1;
    char *data = NULL;
    long size = -1;
    if (fseek(file, 0, SEEK_END) == 0) size = ftell(file);
    rewind(file);
    if (size >= 0) data = malloc((size_t)size + 1);
    bool ok = data && fread(data, 1, (size_t)size, file) == (size_t)size;
    if (ok) sha256_bytes(data, (size_t)size, text);
    free(data);
    fclose(file);
    return ok ? size : -1;
}

int sha256_check_folder(test *t, const char *folder, int64_t *bytes) {
    char path[512], line[256], digest[SHA256_TEXT], expected[SHA256_TEXT], name[160];
    int files = 0;
    *bytes = 0;
    snprintf(path, sizeof path, "%s/SHA256SUMS", folder);
    FILE *sums = fopen(path, "r");
    if (!CHECK_MSG(t, sums != NULL, "%s cannot be read", path)) return 0;
    while (fgets(line, sizeof line, sums)) {
        if (!CHECK(t, sscanf(line, "%64s %159s", expected, name) == 2)) continue;
        snprintf(path, sizeof path, "%s/%s", folder, name);
        int64_t size = sha256_file(path, digest);
        if (!CHECK_MSG(t, size >= 0, "%s cannot be read", path)) continue;
        CHECK_MSG(t, strcmp(digest, expected) == 0, "%s: %s, expected %s", name, digest, expected);
        *bytes += size;
        files++;
    }
    fclose(sums);
    return files;
}
