/* Help for loops whose data comes from memory. Stores that go around the caches, for outputs too
 * large to stay in one: an ordinary store first reads the line that it then overwrites, a third of
 * the traffic of a norm. Only worth it for a result that nobody reads soon. */
#ifndef BOBBIN_BACKENDS_CPU_LOOPS_STREAM_H
#define BOBBIN_BACKENDS_CPU_LOOPS_STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

/* Copies `bytes` from x, which lies in a cache, to y. Whole lines of y stream, what is left is
 * copied. */
static inline void stream_bytes(void *y, const void *x, size_t bytes) {
    size_t i = 0;
#if defined(__SSE2__)
    char *to = y;
    const char *from = x;
    size_t lines = (uintptr_t)y % 64 == 0 ? bytes & ~(size_t)63 : 0;
    for (; i < lines; i += 64) {
#if defined(__AVX512F__)
        _mm512_stream_si512((void *)(to + i), _mm512_loadu_si512((const void *)(from + i)));
#else
        for (size_t k = 0; k < 64; k += 16)
            _mm_stream_si128((void *)(to + i + k), _mm_loadu_si128((const void *)(from + i + k)));
#endif
    }
#endif
    memcpy((char *)y + i, (const char *)x + i, bytes - i);
}

/* Asks for `bytes` from x on, which will be read soon. x need not be readable. */
static inline void stream_ahead(const void *x, size_t bytes) {
#if defined(__GNUC__)
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)x + i);
#else
    (void)x, (void)bytes;
#endif
}

/* Streamed stores are visible to other threads only after this. */
static inline void stream_end(void) {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

#endif
