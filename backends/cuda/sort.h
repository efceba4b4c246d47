/* Sorting by key on the device (sort.cu): so that what is added at one place stands side by side,
 * in the order in which it came, and can be added without atomics. */
#ifndef BOBBIN_BACKENDS_CUDA_SORT_H
#define BOBBIN_BACKENDS_CUDA_SORT_H

#include "backends/cuda/cuda.h"

/* n entries in a scratch block of bb_sort_bytes(n): two copies of each list and the counts. */
struct bb_sort {
    int64_t n;
    uint64_t *key[2];
    int64_t *value[2];
    int64_t *counts;
    int current; /* which of the two holds the entries */
};
size_t bb_sort_bytes(int64_t n);
bb_sort bb_sort_in(void *scratch, int64_t n);

/* Sorts by key, all below limit; equal keys stay in order. Three launches for each 8 bits of limit
 * - 1. */
bb_status bb_cuda_sort(bb_cuda *cuda, bb_sort *sort, uint64_t limit);

#endif
