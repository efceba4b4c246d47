/* Heapsort, of small integers that stand for something else or of whole items. Files from strangers
 * are sorted with it: its worst case is its usual case, and it needs no memory, where the qsort of
 * a C library may take as much as the items once more. */
#include "io/internal.h"

#include <string.h>

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

static void swap(char *a, char *b, size_t bytes) {
    char held[BB_SORT_MOST];
    memcpy(held, a, bytes);
    memcpy(a, b, bytes);
    memcpy(b, held, bytes);
}

static void sink_item(char *items, size_t root, size_t n, size_t bytes, bb_compare_fn compare) {
    for (size_t child; (child = 2 * root + 1) < n; root = child) {
        char *at = items + child * bytes;
        if (child + 1 < n && compare(at, at + bytes) < 0) child++, at += bytes;
        if (compare(items + root * bytes, at) >= 0) break;
        swap(items + root * bytes, at, bytes);
    }
}

void bb_heap_sort_items(void *items, size_t n, size_t bytes, bb_compare_fn compare) {
    for (size_t i = n / 2; i-- > 0;) sink_item(items, i, n, bytes, compare);
    for (size_t last = n; last-- > 1;) {
        swap(items, (char *)items + last * bytes, bytes);
        sink_item(items, 0, last, bytes, compare);
    }
}
