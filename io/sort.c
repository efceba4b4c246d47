/* Heapsort of small integers that stand for something else. Files from strangers are sorted with
 * it: its worst case is its usual case, and it needs no memory. */
#include "io/internal.h"

static void sink(uint64_t *items, size_t root, size_t n, bb_less_fn less, const void *user) {
    uint64_t item = items[root];
    for (size_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && less(user, items[child], items[child + 1])) child++;
        if (!less(user, item, items[child])) break;
        items[root] = items[child];
    }
    items[root] = item;
}

void bb_heap_sort(uint64_t *items, size_t n, bb_less_fn less, const void *user) {
    for (size_t i = n / 2; i-- > 0;) sink(items, i, n, less, user);
    for (size_t last = n; last-- > 1;) {
        uint64_t largest = items[0];
        items[0] = items[last];
        items[last] = largest;
        sink(items, 0, last, less, user);
    }
}
